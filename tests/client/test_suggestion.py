"""Which part should be personal, asked on a hospital's own data: the answer, its cost, and what is never told."""

import copy
import dataclasses
import json
import math
import os
import re
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from parties import MODEL, close_all, federation_of, parties, rows_of
from scipy.stats import norm
from torch.utils.data import Dataset, TensorDataset

from securepfl import Federation, Identity, Simulation, group_records, suggest_partition
from securepfl.cli.main import cli
from securepfl.client import suggestion as module
from securepfl.client.candidates import candidates_for
from securepfl.client.records import TrainingSet
from securepfl.client.training import dp_settings
from securepfl.client.trial import Trial
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import BudgetError, ConfigError, DataError, LedgerError, ModelError
from securepfl.learning.personal.adapters import with_adapters
from securepfl.privacy.accounting.accounting import Release, epsilon
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.randomness import RandomStream
from securepfl.report.ledger import budget_of, verdict, verified
from securepfl.tasks.binary import bce
from securepfl.tasks.models import build_model

FEATURES = 6
BUILD = partial(build_model, "mlp", FEATURES)
IDENTITY = Identity.generate("north")
SEED = 5


def rows(shift, count, seed=7):
    """Rows of a hospital whose log-odds are the others' plus 2, theirs with half of the signs turned, or theirs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, FEATURES, generator=generator)
    turned = torch.tensor([1.0, 1, 1, -1, -1, -1]) if shift == "weights" else torch.ones(FEATURES)
    logits = 0.7 * x @ turned + (2.0 if shift == "intercept" else 0.0)
    return TensorDataset(x, torch.bernoulli(torch.sigmoid(logits), generator=generator))


def shared_model():
    """A model fitted to the other hospitals' rows."""
    x, y = rows("none", 4000, seed=99).tensors
    model = BUILD()
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        optimiser.zero_grad()
        bce(model(x), y).mean().backward()
        optimiser.step()
    return model


START = shared_model()


def settings(budget=1000.0, **tables):
    return Federation.from_mapping({"privacy": {"budget": budget}} | tables)


def ask(path, training, federation=None, *, seed=None, **options):
    federation = (federation or settings()).with_units(("north",), len(training))
    key = None if seed is None else bytes([seed]) * 32
    given = {"epsilon": 1.0, "start": START, "device": "cpu", "simulation": Simulation(key)} | options
    return suggest_partition(federation, "north", BUILD, training, IDENTITY, ledgers=path, **given)


def ledger_in(path, kind="simulated"):
    return path / "north" / f"north.{kind}.jsonl"


def verified_by_owner(path):
    return verify_ledger(ledger_in(path), LedgerSigner(IDENTITY, trusting=False).verify)


def terms_of(budget):
    return Terms("north", "north", Budget(budget, 1e-5), simulation=True, seeded=False, raise_budget=True)


FAST = settings(training={"learning_rate": 2.0})


# 25 candidates on average leave one of two out once in 250,000; the noise is seeded.
@pytest.mark.parametrize(
    ("shift", "choice", "personal"),
    [
        ("none", "none", ()),
        ("intercept", "intercept", ("head.bias",)),
        ("weights", "head", ("head.weight", "head.bias")),
    ],
)
def test_with_much_epsilon_the_smallest_part_that_captures_the_shift_wins(tmp_path, shift, choice, personal):
    found = ask(tmp_path, rows(shift, 600), FAST, epsilon=100.0, mean=25.0, steps=5, seed=SEED)
    assert (found.choice, found.personal) == (choice, personal)
    federation = settings(model={"personal": list(found.personal)})
    assert (
        federation.bound(("a", "b", "c"), BUILD, units=40).shape.personal
        == {"none": 0, "intercept": 1, "head": 9}[choice]
    )


def test_adapters_are_a_candidate_where_the_settings_have_them_and_other_parts_go_without(tmp_path):
    federation = settings(model={"adapters": 2}, training={"learning_rate": 2.0})
    parts = candidates_for(federation, BUILD, START, torch.device("cpu"))
    assert [part.choice for part in parts] == ["intercept", "head", "adapters"]
    given = candidates_for(federation, BUILD, with_adapters(shared_model(), 2), torch.device("cpu"))
    assert [part.names for part in given] == [part.names for part in parts]
    assert parts[0].personal == ("head.bias",) and all(".adapter." in name for name in parts[2].personal)
    found = ask(tmp_path, rows("intercept", 300), federation, epsilon=100.0, mean=30.0, steps=5, seed=SEED)
    assert found.choice == "intercept" and "without adapters" in found.sentence


def test_a_trial_moves_the_candidate_alone_and_never_the_start(monkeypatch):
    trial = a_trial(TrainingSet.of(rows("weights", 60), "north"))
    parts = candidates_for(settings(), BUILD, START, torch.device("cpu"))
    trained, copied = [], copy.deepcopy
    monkeypatch.setattr(copy, "deepcopy", lambda model: trained.append(copied(model)) or trained[-1])
    for part in parts:
        trial.score(part, RandomStream(bytes(32)), RandomStream(bytes(32)))
    for part, model in zip(parts, trained, strict=True):
        moved = {n for n, p in model.named_parameters() if not torch.equal(p, START.get_parameter(n))}
        assert moved == set(part.names)
        assert all(torch.equal(p, START.get_parameter(n)) for n, p in part.model.named_parameters())


def a_trial(records, steps=4, noise=6.0, clip=0.5):
    one = Release(noise_multiplier=noise, sample_rate=1.0, steps=steps, unit=records.unit)
    return Trial.of(settings(), records, records.found, one, clip, bce, torch.device("cpu"))


def test_each_unit_trains_or_scores_wherever_the_values_lie_and_both_cost_the_same():
    trial = a_trial(TrainingSet.of(rows("none", 61), "north"), steps=4, noise=6.0)
    assert sorted([*trial.trained, *trial.scored]) == list(range(61))
    assert (len(trial.trained), len(trial.scored)) == (30, 31)
    other = a_trial(TrainingSet.of(rows("weights", 61), "north"))
    assert other.scored == trial.scored and other.trained == trial.trained
    training = Release(noise_multiplier=trial.settings.noise_multiplier, sample_rate=1.0, steps=4)
    scoring = Release(noise_multiplier=trial.score_noise, sample_rate=1.0, steps=1)
    assert epsilon([scoring], 1e-5) == pytest.approx(epsilon([training], 1e-5))


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_no_unit_adds_more_than_the_clip_to_a_score_whatever_it_holds(unit):
    """Units whose losses are huge, infinite and not a number; a patient has 5 records and 5 votes are one."""
    x, y = rows("none", 40).tensors
    x[3], x[8], x[13] = 1e30, float("inf"), float("nan")
    patients = [number // 5 for number in range(40)]
    data = group_records(x, y, patients) if unit == "patient" else TensorDataset(x, y)
    trial = a_trial(TrainingSet.of(data, "north", unit))
    trial = dataclasses.replace(trial, scored=list(range(len(data))))
    worse = BUILD()
    with torch.no_grad():
        worse.head.bias += 50.0
    gains = torch.cat(list(trial.all_gains(START, worse)))
    assert gains.shape == (len(data),) and torch.isfinite(gains).all()
    assert gains.abs().max() == trial.gain_clip


def test_the_noise_on_a_score_is_the_clip_times_the_noise_that_is_charged(monkeypatch):
    trial = a_trial(TrainingSet.of(rows("none", 60), "north"))
    monkeypatch.setattr("securepfl.client.trial.train_private", lambda *args, **named: None)
    part, sampling = candidates_for(settings(), BUILD, START, torch.device("cpu"))[0], RandomStream(bytes(32))
    noise = RandomStream(bytes(range(32)))
    scores = torch.tensor([trial.score(part, noise, sampling) for _ in range(200)])
    # An untrained candidate gains 0: what is left is noise. The stream is fixed, and 25 % are five deviations.
    assert scores.std().item() == pytest.approx(6.0 / 2 * 0.5 / 30, rel=0.25) and trial.resolution == 6.0 / 2 * 0.5 / 30


@pytest.mark.parametrize("asked", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_the_ledger_holds_what_an_independent_accountant_makes_of_it_and_no_more_than_asked(tmp_path, asked, unit):
    records = rows("intercept", 60)
    data = group_records(*records.tensors, list(range(30)) * 2) if unit == "patient" else records
    federation = settings(privacy={"budget": asked, "unit": unit})
    found = ask(tmp_path, data, federation, epsilon=asked)
    summary = verified_by_owner(tmp_path)
    assert summary.releases == (found.release,) and summary.unit == unit and summary.unsettled == 0
    assert summary.epsilon == found.epsilon <= asked
    assert found.epsilon > 0.99 * asked
    exact = theorem_6(found.release, 1e-5)
    assert 0.75 * found.epsilon < exact <= found.epsilon


def theorem_6(selection, delta):
    """Papernot and Steinke 2021, Theorem 6 by hand, with the Gaussian's exact delta where dp_accounting bounds it by
    RDP: the order's divergence + mean x delta' + log(mean) / (order - 1), where each candidate is
    (log(1 + 1 / (order - 1)), delta')-DP. Converted by Proposition 12 of Canonne, Kamath and Steinke 2020.
    """
    (one,) = selection.candidate
    mu, orders = math.sqrt(one.steps) / one.noise_multiplier, 1 + np.geomspace(0.2, 3000, 4000)
    small = np.log1p(1 / (orders - 1))
    chance = norm.cdf(mu / 2 - small / mu) - np.exp(small) * norm.cdf(-mu / 2 - small / mu)
    divergence = orders * mu**2 / 2 + selection.mean * chance + math.log(selection.mean) / (orders - 1)
    return (divergence + np.log1p(-1 / orders) - np.log(delta * orders) / (orders - 1)).min()


def test_asking_again_costs_again_and_rounds_are_composed_with_it(tmp_path):
    first = ask(tmp_path, rows("none", 40), epsilon=0.5)
    second = ask(tmp_path, rows("none", 40), epsilon=0.5)
    summary = verified_by_owner(tmp_path)
    assert [entry.round for entry in summary.rounds] == [0, 0] and summary.epsilon > 1.2 * first.epsilon
    assert f"{summary.epsilon:.4g}" in second.sentence and "asking again costs again" in second.sentence


class Untouchable(Dataset):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        raise AssertionError(f"record {index} was read")


def test_without_budget_no_model_sees_a_record(tmp_path, monkeypatch):
    """Records are read, so that their ledger is found, and nothing else is done with them."""
    monkeypatch.setattr(torch.nn.Linear, "forward", lambda *_: pytest.fail("a model saw records"))
    with pytest.raises(BudgetError, match=r"north: a selection would bring the spend to epsilon 0\.9.*budget"):
        ask(tmp_path, rows("none", 40), settings(budget=0.9))


def spoiled(count=40):
    x, y = rows("none", count).tensors
    return TensorDataset(x * math.nan, y)


@pytest.mark.parametrize("new", [True, False], ids=["new", "known"])
@pytest.mark.parametrize(
    ("training", "federation", "error", "words"),
    [
        (rows("none", 40), settings(budget=0.9), BudgetError, "north: a selection would bring"),
        (TensorDataset(rows("none", 40).tensors[0][:, :3], torch.ones(40)), None, ModelError, "north: model and loss"),
        (spoiled(), None, DataError, r"north: record 0 .* holds NaN"),
    ],
    ids=["budget", "model", "data"],
)
def test_what_is_refused_leaves_the_ledger_as_it_was(tmp_path, new, training, federation, error, words):
    path = ledger_in(tmp_path)
    if not new:
        ask(tmp_path, rows("none", 40), epsilon=0.5)
    before = None if new else path.read_bytes()
    with pytest.raises(error, match=words):
        ask(tmp_path, training, federation)
    assert (path.read_bytes() if path.exists() else None) == before


def test_units_that_do_not_go_together_leave_the_ledger_as_it_was(tmp_path):
    ask(tmp_path, rows("none", 40), epsilon=0.5)
    before = ledger_in(tmp_path).read_bytes()
    patients = group_records(*rows("none", 40).tensors, list(range(40)))
    with pytest.raises(LedgerError, match="counts by record"):
        ask(tmp_path, patients, settings(privacy={"budget": 1000.0, "unit": "patient"}))
    assert ledger_in(tmp_path).read_bytes() == before


def test_beside_an_open_client_its_ledger_is_named_and_left_alone_until_it_is_closed(tmp_path):
    federation = federation_of(privacy={"budget": 100.0})
    _, clients = parties(federation, tmp_path)
    client, data = clients["alder"], rows_of("alder")
    path = client.ledger.path

    def asked():
        given = {"epsilon": 0.5, "device": "cpu", "simulation": Simulation(), "ledgers": tmp_path / "ledgers"}
        return suggest_partition(federation, "alder", MODEL, data, client.session.keyring.identity, **given)

    before = path.read_bytes()
    with pytest.raises(LedgerError) as caught:
        asked()
    assert str(caught.value).startswith(f"{path}: another process has this ledger open, or a Client")
    assert "close it and try again" in str(caught.value) and "\n" not in str(caught.value)
    assert path.read_bytes() == before
    close_all(clients)
    assert asked().epsilon <= 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"federation": {}}, "federation must be a securepfl.Federation, not dict"),
        ({"build_model": BUILD()}, "build_model must be the function that makes the model"),
        ({"start": START.state_dict()}, "start must be a model, as client.shared_model(), not OrderedDict"),
    ],
    ids=["federation", "build_model", "start"],
)
def test_what_looks_alike_is_refused_in_one_line(tmp_path, changes, words):
    given = {"federation": settings(), "build_model": BUILD, "start": START, "ledgers": tmp_path}
    with pytest.raises(ConfigError) as caught:
        suggest_partition(name="north", training=rows("none", 40), identity=IDENTITY, epsilon=0.5, **given | changes)
    assert words in str(caught.value) and not ledger_in(tmp_path).exists()


def test_labels_that_the_default_loss_does_not_know_are_refused_before_anything_is_charged(tmp_path):
    x, y = rows("none", 40).tensors
    with pytest.raises(DataError, match=r"north: record 0 .*label is 2: binary labels are 0 and 1; map them"):
        ask(tmp_path, TensorDataset(x, 2 * torch.ones_like(y)))
    assert not ledger_in(tmp_path).exists()


def test_a_charge_that_a_run_no_longer_fits_beside_says_so(tmp_path):
    tight = settings(1.0).changed("privacy", epsilon=1.0)
    told = ask(tmp_path, rows("none", 40), tight, epsilon=0.5).sentence
    declared = float(re.search(r"beside it comes to [\d.]+: declare \[sites\.north\] budget = ([\d.]+)\.$", told)[1])
    run = dp_settings(tight, 40, 1).release("record", tight.rounds)
    with Ledger.open(ledger_in(tmp_path), terms_of(declared), LedgerSigner(IDENTITY, trusting=True)) as ledger:
        assert ledger.budget.epsilon == declared and not ledger.would_exceed(run)
    with Ledger.open(ledger_in(tmp_path), terms_of(declared - 0.002), LedgerSigner(IDENTITY, trusting=True)) as less:
        assert less.would_exceed(run)
    assert "beside it" not in ask(tmp_path / "wide", rows("none", 40), epsilon=0.5).sentence


def test_the_budget_that_it_tells_of_is_the_ledgers_own(tmp_path):
    ask(tmp_path, rows("none", 40), settings(9.0), epsilon=0.5)
    undeclared = Federation.from_mapping({"privacy": {"epsilon": 1.0}})
    assert "beside it" not in ask(tmp_path, rows("none", 40), undeclared, epsilon=0.5).sentence
    larger = Federation.from_mapping({"privacy": {"epsilon": 8.5}})
    told = ask(tmp_path, rows("none", 40), larger, epsilon=0.5).sentence
    assert " of 9, and a whole run under these settings beside it comes to 1" in told


def test_a_sentence_names_the_candidates_and_says_where_noise_alone_answers(tmp_path):
    told = ask(tmp_path, rows("none", 40), epsilon=0.05).sentence
    assert "Candidates were intercept, head, drawn at random" in told
    assert "The noise is as large as a gain can be (0.5), so this answer tells nothing." in told
    assert "tells nothing" not in ask(tmp_path / "clear", rows("none", 600), epsilon=5.0).sentence


@pytest.mark.parametrize("place", ["identity", "ledgers", "simulation"])
def test_another_kind_of_argument_is_refused_in_one_line(tmp_path, place):
    federation = federation_of()
    _, clients = parties(federation, tmp_path)
    client = clients["alder"]
    right = {"identity": client.session.keyring.identity, "ledgers": tmp_path / "new", "simulation": Simulation()}
    wrong = {"identity": client.session.keyring, "ledgers": client.ledger, "simulation": bytes(32)}[place]
    with pytest.raises(ConfigError, match=f"alder: {place} must be .* not .*{type(wrong).__name__}") as caught:
        suggest_partition(federation, "alder", MODEL, Untouchable(), epsilon=0.5, **right | {place: wrong})
    assert "\n" not in str(caught.value) and not (tmp_path / "new").exists()
    close_all(clients)


@pytest.mark.parametrize("where", ["settle", "train", "count"])
def test_a_crash_leaves_it_charged_in_full(tmp_path, monkeypatch, where):
    def crash(*args, **named):
        raise KeyboardInterrupt

    at = {"settle": (Ledger, "settle"), "train": (Trial, "score"), "count": (module, "candidate_count")}[where]
    monkeypatch.setattr(*at, crash)
    with pytest.raises(KeyboardInterrupt):
        ask(tmp_path, rows("none", 40), mean=60.0)
    summary = verified_by_owner(tmp_path)
    assert summary.unsettled == (where == "settle")
    assert 0.99 < summary.epsilon <= 1 and len(summary.releases) == 1


def test_the_count_is_drawn_once_after_it_was_charged_and_settled(tmp_path, monkeypatch):
    seen = []

    def count(selection):
        seen.append([json.loads(line)["kind"] for line in ledger_in(tmp_path).read_text().splitlines()])
        return 0

    monkeypatch.setattr(module, "candidate_count", count)
    found = ask(tmp_path, rows("intercept", 40))
    # No line comes after the trials: the time between two lines would tell how many there were.
    assert seen == [["declared-session", "reservation", "settlement"]] and verified_by_owner(tmp_path).lines == 3
    assert (found.choice, found.personal) == ("none", ())


def test_neither_scores_nor_their_number_are_told(tmp_path, monkeypatch):
    """Two runs with other counts and scores, and the same answer, leave the same words but for names and times."""
    told = []
    for number, score in ((3, 0.555555), (17, 0.777777)):
        folder = tmp_path / str(number)
        monkeypatch.setattr(module, "candidate_count", lambda _, number=number: number)
        monkeypatch.setattr(Trial, "score", lambda *_, score=score: score)
        monkeypatch.setattr(module, "candidates_for", lambda *_: PARTS[:1])
        found = ask(folder, rows("intercept", 40))
        lines = [json.loads(line) for line in ledger_in(folder).read_text().splitlines()]
        for line in lines:
            for changing in ("time", "run", "id", "signature", "previous"):
                line.pop(changing, None)
        told.append((repr(found), lines))
    assert told[0] == told[1] and found.choice == "intercept"
    assert {field.name for field in dataclasses.fields(found)} == {
        *("choice", "personal", "epsilon", "delta", "resolution", "release", "sentence")
    }


PARTS = candidates_for(settings(), BUILD, START, torch.device("cpu"))


def test_audit_says_repeat_and_select(tmp_path):
    found = ask(tmp_path, rows("none", 40))
    ledger = ledger_in(tmp_path)
    (entry,) = budget_of(ledger, None)["rounds"]
    assert entry["released"].startswith(
        "1 x repeat-and-select: the best of 5 candidates on average, each 10 x Gaussian"
    )
    assert entry["release"] == msgspec.to_builtins(found.release)
    assert any(
        "1 selection(s) charged as repeat-and-select" in line
        for line in verdict(verified(ledger, None, None), None, None)
    )
    assert "charged as repeat-and-select" in found.sentence and "epsilon 0.99" in found.sentence


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"epsilon": 1e-3}, ConfigError, "epsilon is 0.001: no noise brings a selection so low"),
        ({"epsilon": -1.0}, ConfigError, "epsilon is -1.0"),
        ({"steps": 0}, ConfigError, "steps is 0"),
        ({"mean": 0.5}, ValueError, "mean must be finite and at least 1, not 0.5"),
        ({"gain_clip": float("nan")}, ValueError, "gain_clip must be positive and finite, not nan"),
        ({"start": build_model("mlp", 3)}, ModelError, 'start: parameter "body.weight" is .* give'),
        ({"training": rows("none", 1)}, ConfigError, r"\[sites.north\] units = 1: one half trains"),
    ],
    ids=["low", "negative", "steps", "mean", "clip", "start", "one"],
)
def test_what_cannot_be_met_is_refused_before_the_ledger_is_opened(tmp_path, changes, error, words):
    with pytest.raises(error, match=words):
        ask(tmp_path, **({"training": rows("none", 40)} | changes))
    assert not ledger_in(tmp_path).exists()


def test_units_must_be_declared(tmp_path):
    with pytest.raises(ConfigError, match=r"\[sites.north\] units: must be declared"):
        suggest_partition(settings(), "north", BUILD, rows("none", 40), IDENTITY, ledgers=tmp_path, epsilon=1.0)


@pytest.mark.parametrize("found", [40, 61, 90])
def test_the_answers_noise_is_that_of_the_declared_units_however_many_there_are(found):
    records = TrainingSet.of(rows("none", found), "north")
    one = Release(noise_multiplier=6.0, sample_rate=1.0, steps=4, unit="record")
    trial = Trial.of(settings(), records, 60, one, 0.5, bce, torch.device("cpu"))
    assert trial.sizes == (30, 30) and trial.resolution == 6.0 / 2 * 0.5 / 30
    assert sorted([*trial.trained, *trial.scored]) == list(range(found))


def test_another_hospitals_identity_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="south: the identity is north's"):
        suggest_partition(settings(), "south", BUILD, rows("none", 9), IDENTITY, ledgers=tmp_path, epsilon=1.0)


CONFIG = """
name = "small"
rounds = 2
[model]
kind = "mlp"
hidden = 2
[privacy]
epsilon = 2.0
budget = {budget}
[release]
experts = true
[sites]
"ash" = {{ units = 26 }}
"elm" = {{ units = 26 }}
"yew" = {{ units = 26 }}
[data]
label = "ill"
site = "hospital"
[data.ranges]
age = {{ centre = 50, spread = 15, limit = 3 }}
"""


def test_the_command_starts_from_a_run_and_charges_the_same_ledger(tmp_path):
    config, data, out = tmp_path / "small.toml", tmp_path / "rows.csv", tmp_path / "run"
    config.write_text(CONFIG.format(budget=4))
    places = enumerate(("ash", "elm", "yew"))
    table = [f"{site},{20 + place + number},{number % 2}" for place, site in places for number in range(40)]
    data.write_text("\n".join(["hospital,age,ill", *table]))
    run = CliRunner().invoke(cli, ["run", str(config), "--data", str(data), "--out", str(out), "--plaintext"])
    assert run.exit_code == 0, run.exception
    command = ["suggest", str(config), "--data", str(data), "--site", "elm", "--run", str(out), "--epsilon", "0.5"]
    result = CliRunner().invoke(cli, [*command, "--json"])
    assert result.exit_code == 0, result.exception
    found = json.loads(result.stdout)["result"]
    assert found["choice"] in ("none", "intercept", "head") and found["epsilon"] <= 0.5
    ledger = Path(os.environ["SECUREPFL_LEDGERS"], "elm", "elm.simulated.jsonl")
    summary = verified(ledger, None, None)
    assert [entry.round for entry in summary.rounds] == [1, 2, 0] and 2 < summary.epsilon < 4
    config.write_text(CONFIG.format(budget=2.1))
    assert isinstance(CliRunner().invoke(cli, command).exception, BudgetError)
    assert isinstance(CliRunner().invoke(cli, [*command[:-5], "oak", *command[-4:]]).exception, ConfigError)
