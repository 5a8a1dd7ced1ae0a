"""The studies of segmentation, each on a few small simulated images and two steps: files, budgets, intervals, pages."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from segmentation import cells, inside, outside, pages
from segmentation.intervals import Scores, estimates, joined
from segmentation.recipes import contestants
from segmentation.remembering import Remembering
from segmentation.simulated import write_sites
from segmentation.sites import read_study
from segmentation.training import (
    NORMS,
    Schedule,
    ditto,
    federated,
    finetuned,
    hospitals,
    local,
    matches,
)

from securepfl.errors import ConfigError
from securepfl.outside.routed import routed
from securepfl.tasks.networks import build_network

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
SCHEDULE = Schedule(rounds=2, steps=2, batch=2, patch=16)
QUICK = ["--seeds", "1", "--rounds", "1", "--steps", "2", "--batch", "1", "--patch", "16"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sites") / "lungs"
    write_sites("lungs", folder, patients=2, side=32)
    return folder


def run(main, *arguments):
    result = CliRunner().invoke(main, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def members_of(data, seed=0):
    study = read_study(data, None, None)
    trained = {site: study.split(seed)[site][0] for site in ("east", "north")}
    return hospitals(study.model(), trained, study.task, seed, "cpu")


def test_simulated_sites_lie_as_real_ones_do_and_repeat(data, tmp_path):
    write_sites("lungs", tmp_path / "again", patients=2, side=32)
    first, again = (read_study(folder, None, None) for folder in (data, tmp_path / "again"))
    assert list(first.tables) == ["east", "far", "north", "south"]
    for site, table in first.tables.items():
        assert np.array_equal(table.features, again.tables[site].features)
        assert sorted({path.name for path in (data / site).iterdir()}) == ["fov", "images", "masks"]
    train, test = first.split(0)["far"]
    assert set(train.patients).isdisjoint(test.patients)


@pytest.mark.parametrize("patients", [12, 6])
def test_choices_never_see_a_test_patient(tmp_path, patients):
    write_sites("lungs", tmp_path, patients=patients, side=16)
    study = read_study(tmp_path, None, None)
    assert all(np.array_equal(study.split(0)[s][1].ids, study.split(1)[s][1].ids) for s in study.tables)
    for seed in range(3):
        for site, (_, test) in study.split(seed).items():
            train, chosen = study.split(seed, choosing=True)[site]
            parts = [set(part.patients) for part in (train, chosen, test)]
            assert all(parts)
            assert not set.union(
                *(a & b for a, b in ((parts[0], parts[1]), (parts[0], parts[2]), (parts[1], parts[2])))
            )


def test_one_training_patient_is_not_split_again(data):
    with pytest.raises(ConfigError, match="one training patient alone cannot be split again"):
        read_study(data, None, None).split(0, choosing=True)


def test_every_way_spends_the_same_gradients(data, monkeypatch):
    spent = {}
    step = torch.optim.Adam.step

    def counted(optimiser, *arguments):
        spent[id(optimiser)] = spent.get(id(optimiser), 0) + 1
        return step(optimiser, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", counted)
    totals = []
    for train in (local, lambda m, s: list(federated(m, s)), ditto):
        spent.clear()
        members = members_of(data)
        train(members, SCHEDULE)
        totals.append(sum(spent.values()) / len(members))
    assert totals == [SCHEDULE.budget] * 3
    assert SCHEDULE.lasting(2).budget + 2 == SCHEDULE.budget


def test_what_is_private_stays_and_the_rest_is_the_mean(data):
    members = members_of(data)
    *_, trained = federated(members, SCHEDULE, NORMS)
    for name, value in members[0].state().items():
        others = [member.state()[name] for member in members]
        if matches(name, NORMS):
            assert torch.equal(value, trained[0][name])
        else:
            assert all(torch.equal(value, other) for other in others)
    norm = next(name for name in trained[0] if matches(name, NORMS))
    assert not torch.equal(members[0].state()[norm], members[1].state()[norm])


def test_dittos_pull_holds_a_model_near_the_shared_one(data):
    apart = {}
    for pull in (0.0, 1000.0):
        members = members_of(data)
        own = ditto(members, SCHEDULE, pull)
        shared = dict(members[0].model.named_parameters())
        apart[pull] = sum(float((own[0][name] - value).square().sum()) for name, value in shared.items())
    assert apart[1000.0] < 0.9 * apart[0.0]


def test_a_fine_tuning_starts_from_what_a_hospital_has(data):
    members = members_of(data)
    before = members[0].state()
    finetuned(members, SCHEDULE, steps=0)
    assert all(torch.equal(value, before[name]) for name, value in members[0].state().items())
    finetuned(members, SCHEDULE, steps=1)
    assert any(not torch.equal(value, before[name]) for name, value in members[0].state().items())


def test_a_model_that_remembers_answers_as_the_model_does():
    model = build_network("unet", 1, 4)
    kept, images = Remembering(model), torch.randn(2, 1, 16, 16)
    assert torch.equal(kept(images), model(images))
    assert torch.equal(kept(images), model(images))
    assert kept.answered == 1
    kept.load_state_dict({name: value + 1 for name, value in kept.state_dict().items()})
    assert kept.answered == 0


def test_images_of_one_patient_come_and_go_together():
    rng = np.random.default_rng(0)
    patients = np.repeat([f"p{at}" for at in range(10)], 4)
    values = rng.normal(size=10)[np.repeat(np.arange(10), 4)]
    sites, seeds = np.full(40, "a"), np.zeros(40, np.int64)
    together = estimates(Scores(values, sites, patients, seeds))["pooled"]
    apart = estimates(Scores(values, sites, np.arange(40).astype(str), seeds))["pooled"]
    assert together.mean == pytest.approx(values.mean())
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_a_difference_needs_the_same_images():
    def scored(patient):
        return joined([{"seed": 0, "sites": {"a": {"patients": [patient], "dice": [0.5]}}}], "dice")

    assert scored("p").minus(scored("p")).values.tolist() == [0.0]
    with pytest.raises(ValueError, match="same images"):
        scored("p").minus(scored("q"))


def test_inside_writes_each_way_once_and_its_page(data, tmp_path):
    arguments = [data, "--out", tmp_path, *QUICK, "--only", "fedavg", "--only", "local"]
    assert "FedAvg" in run(inside.main, *arguments)
    folder = tmp_path / "lungs" / "inside"
    assert set(cells.read(folder)) == {*inside.RUNS["fedavg"][1], "local"}
    assert run(inside.main, *arguments) == ""
    refused = CliRunner().invoke(inside.main, [*map(str, arguments), "--rate", "0.5"])
    assert refused.exit_code == 2 and "other settings" in refused.output
    page = tmp_path / "page.md"
    page.write_text("before\n" + "\n".join(pages.markers("lungs", "inside")) + "\nafter")
    run(pages.main, tmp_path / "lungs", "--write", page, "--note", "Simulated.")
    text = page.read_text()
    assert text.startswith("before") and text.endswith("after")
    assert "Simulated." in text and "| trajectory, by layer |" in text


def test_slow_ways_and_trained_gates_answer_too(data):
    study = read_study(data, None, None)
    models = {name: Remembering(study.model()) for name in ("shared", "north.finetuned", "east.trajectory")}
    ways = contestants("all")
    assert set(contestants()) < set(ways)
    for way in set(ways) - set(contestants()):
        panel = outside._panel(study, models, ways[way].experts)
        found = routed(outside._plain(panel), study.tables["far"], ways[way].recipe, 0.2)
        assert np.isfinite(found.logits.numpy()).all(), way


def test_outside_leaves_a_site_out_and_routes_it_anew_without_training(data, tmp_path):
    arguments = [data, "--out", tmp_path, *QUICK, "--first", "1", "--only", "far"]
    run(outside.main, *arguments)
    folder = tmp_path / "lungs" / "outside"
    models, scores = folder / "far-s1.safetensors", folder / "far-s1.json"
    made, cell = models.stat().st_mtime_ns, json.loads(scores.read_text())
    assert set(cell["headroom"]["experts"]) == {
        "shared",
        *(f"{s}.finetuned" for s in ("east", "north", "south")),
    }
    assert all(len(way["dice"]) == 3 for way in cell["ways"].values())
    assert run(outside.main, *arguments) == ""
    run(outside.main, *arguments, "--again")
    assert models.stat().st_mtime_ns == made
    again = json.loads(scores.read_text())
    assert again["ways"]["routed"] == cell["ways"]["routed"]
    printed = run(pages.main, tmp_path / "lungs", "--test")
    assert "| routed |" in printed and "| threshold: whole |" in printed
