"""`securepfl route` as a user calls it: rows by their own names, and each mistake in one line, with nothing written."""

import csv
import json
import sys

import numpy as np
import pytest
import torch
from torch import nn

from securepfl.cli.main import main
from securepfl.crypto.keys.card import IdentityCard
from securepfl.crypto.keys.identity import Identity
from securepfl.data.schema import DataSpec
from securepfl.outside.experts import write_expert
from securepfl.outside.priors import signed_prior, write_priors
from securepfl.settings.binding import blank_model
from securepfl.settings.tables import ModelSettings
from securepfl.tasks.models import build_model

SPEC = DataSpec.from_mapping({"label": "ill", "ranges": {name: {"centre": 0, "spread": 1} for name in ("age", "bmi")}})
SETTINGS = ModelSettings(kind="logistic")
PEOPLE = {name: Identity.generate(name) for name in ("north", "south")}


def record(site, expert="personal", **changes):
    return {
        "expert": expert, "site": site, "federation": "ab" * 32, "settings": "cd" * 32, "rounds": 3,
        "epsilon": 1.0, "delta": 1e-5, "unit": "record", "noise": "local", "simulation": True,
    } | changes  # fmt: skip


def release(run, site, expert="personal", settings=SETTINGS, **changes):
    torch.manual_seed(len(site if expert != "shared" else expert) + ord(site[0]))
    model = blank_model(lambda: build_model(settings.kind, len(SPEC.feature_names), settings.hidden), settings)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    name = expert if expert == "shared" else site
    path = run / "experts" / f"{name}.safetensors"
    write_expert(path, model, record(site, expert, **changes), settings, SPEC, PEOPLE[site])
    return path


@pytest.fixture
def run(tmp_path):
    """A run's folder with three experts, and rows of another hospital beside it."""
    folder = tmp_path / "run"
    release(folder, "north")
    release(folder, "south")
    release(folder, "south", "shared")
    generator = np.random.default_rng(0)
    rows = [f"n{number},{a:.2f},{b:.2f}" for number, (a, b) in enumerate(generator.normal(size=(20, 2)))]
    (tmp_path / "new.csv").write_text("\n".join(["name,age,bmi", *rows]) + "\n")
    return folder


@pytest.fixture
def called(monkeypatch, capsys, tmp_path):
    """Runs the command in this process: (exit code, stdout, stderr)."""

    def call(run, *options, data="new.csv"):
        arguments = ["route", run, "--data", tmp_path / data, *options]
        monkeypatch.setattr(sys, "argv", ["securepfl", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, *capsys.readouterr()

    return call


def refused(found, *words):
    """One line that says `words`, and exit code 2."""
    code, out, err = found
    assert code == 2 and out == "" and len(err.splitlines()) == 1, err
    assert all(word in err for word in words), err


def test_rows_come_back_under_their_own_names_and_no_name_is_printed(run, called, tmp_path):
    code, out, err = called(run, "--id", "name", "--out", tmp_path / "out")
    assert code == 0 and out == ""
    rows = list(csv.DictReader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    assert [row["id"] for row in rows] == [f"n{number}" for number in range(20)]
    assert "signatures hold: 3 of 3, by a simulation's own keys" in err and "n1" not in err.replace("north", "")


def test_a_csv_file_gets_the_predictions_alone_as_stdout_does(run, called, tmp_path):
    code, out, _ = called(run, "--id", "name")
    assert code == 0 and out.startswith("row,id,probability,prediction,certainty\n1,n0,")
    assert called(run, "--id", "name", "--out", tmp_path / "p.csv")[0] == 0
    assert (tmp_path / "p.csv").read_text() == out


def test_a_column_that_is_none_of_the_experts_is_refused_unless_it_is_the_name(run, called):
    refused(called(run), "column `name`", "remove it, or name it with --id")
    refused(called(run, "--id", "nmae"), "has no column `nmae`")


def test_a_recipe_is_a_file_or_the_papers(run, called, tmp_path):
    (tmp_path / "r.json").write_text(json.dumps({"criterion": "entropy", "guard": False}))
    code, _, err = called(run, "--id", "name", "--recipe", tmp_path / "r.json")
    assert code == 0 and "no guard" in err
    code, _, err = called(run, "--id", "name", "--recipe", "layers")
    assert code == 0 and "mean weights in layer linear: " in err


@pytest.mark.parametrize("prior", ["0", "1", "-0.1", "1.5", "nan", "inf"])
def test_a_prior_that_is_no_share_is_refused(run, called, prior):
    refused(called(run, "--id", "name", "--prior", prior), "--prior", "between 0 and 1")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ('{"criterion": "hope"}', "none of"),
        ('{"hope": 1}', "'hope' is no part of a recipe"),
        ("[1]", "not a recipe"),
        ("{", "not JSON"),
        ('{"views": ["same", "mirrored"], "criterion": "margin"}', "rows of a table have no views"),
        ('{"criterion": "expected_dice"}', "is of masks"),
    ],
)
def test_a_recipe_that_means_nothing_here_is_refused(run, called, tmp_path, recipe, words):
    (tmp_path / "r.json").write_text(recipe)
    refused(called(run, "--id", "name", "--recipe", tmp_path / "r.json", "--out", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


def test_a_recipe_that_is_not_there_is_refused(run, called):
    refused(called(run, "--id", "name", "--recipe", "no.json"), "--recipe no.json", "name a JSON file, or layers")


def test_experts_that_may_not_be_mixed_are_refused(run, called):
    path = release(run, "north", noise="shared")
    refused(called(run, "--id", "name"), "north.safetensors", "shared noise")
    release(run, "north", federation="ef" * 32)
    refused(called(run, "--id", "name"), "another run")
    release(run, "north", settings=ModelSettings(kind="mlp"))
    refused(called(run, "--id", "name"), "another network")
    release(run, "north")
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    refused(called(run, "--id", "name"), "north.safetensors", "signature does not hold", "ask its hospital")


def test_a_run_without_experts_and_a_folder_that_is_no_run(run, called, tmp_path):
    for path in (run / "experts").iterdir():
        path.unlink()
    refused(called(run, "--id", "name"), "holds no released expert", "[release] experts = true")
    (tmp_path / "empty").mkdir()
    refused(called(tmp_path / "empty", "--id", "name"), "is no run's folder")


def test_identities_pin_who_may_have_signed(run, called, tmp_path):
    cards = tmp_path / "cards"
    cards.mkdir()
    refused(called(run, "--id", "name", "--identities", cards), "holds no NAME.identity")
    for name, person in PEOPLE.items():
        (cards / f"{name}.identity").write_text(IdentityCard.make(person, coordinator=False).to_text())
    assert called(run, "--id", "name", "--identities", cards)[0] == 0
    (cards / "south.identity").unlink()
    refused(called(run, "--id", "name", "--identities", cards), "none of the given identities", "by phone")


def test_an_answer_is_not_written_among_the_data(run, called, tmp_path):
    (tmp_path / "hospital" / "images").mkdir(parents=True)
    out = tmp_path / "hospital" / "images" / "out"
    refused(called(run, "--out", out, data="hospital"), "lies in the folder of the data", "--out")


def test_nothing_is_written_over(run, called, tmp_path):
    for name in ("out", "p.csv"):
        (tmp_path / name).write_text("mine")
        refused(called(run, "--id", "name", "--out", tmp_path / name), "exists; name another")
        assert (tmp_path / name).read_text() == "mine"


def prior(site, share, **changes):
    told = {"task": "binary", "shares": [share], "deviation": 0.01, "units": 50}
    return record(site, "prior", **told) | changes


def test_a_released_prior_moves_the_threshold_and_a_declared_one_goes_before(run, called):
    signed = [signed_prior(prior(name, share), PEOPLE[name]) for name, share in (("north", 0.2), ("south", 0.3))]
    write_priors(run / "experts" / "priors.json", signed)
    code, _, err = called(run, "--id", "name")
    assert code == 0 and "prior 0.25, released by 2 hospitals, with noise of 0.0071 in the mean" in err
    assert "prior 0.6, declared with --prior" in called(run, "--id", "name", "--prior", "0.6")[2]


def test_a_prior_that_is_mostly_noise_moves_nothing(run, called):
    write_priors(run / "experts" / "priors.json", [signed_prior(prior("north", 0.05, deviation=0.2), PEOPLE["north"])])
    code, _, err = called(run, "--id", "name")
    assert code == 0 and "prior" not in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda entry: entry["record"].update(shares=[0.9]), "a prior was changed"),
        (lambda entry: entry.update(signature="00"), "a prior was changed"),
        (lambda entry: entry.pop("record"), "not a file of priors"),
    ],
)
def test_a_prior_that_was_changed_is_refused(run, called, change, words):
    entry = signed_prior(prior("north", 0.2), PEOPLE["north"])
    change(entry)
    write_priors(run / "experts" / "priors.json", [entry])
    refused(called(run, "--id", "name"), "priors.json", words)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"federation": "ef" * 32}, "another run"),
        ({"site": "south"}, "signed by 'north'"),
        ({"shares": [1.5]}, "not a file of priors"),
        ({"shares": [0.2, 0.3]}, "2 shares of north, and the task has 1"),
        ({"units": 0}, "not a file of priors"),
        ({"deviation": -1.0}, "not a file of priors"),
    ],
)
def test_a_prior_that_does_not_fit_is_refused(run, called, changes, words):
    entry = signed_prior(prior("north", 0.2) | changes, PEOPLE["north"])
    write_priors(run / "experts" / "priors.json", [entry])
    refused(called(run, "--id", "name"), "priors.json", words)
