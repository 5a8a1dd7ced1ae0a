"""Audits of the real training path: correct builds pass, planted bugs are caught. Keys are fixed, so results are."""

import copy
import itertools
import math
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from scipy.stats import binom
from torch import nn
from torch.utils.data import IterableDataset, TensorDataset

from securepfl.errors import DataError
from securepfl.privacy.accounting.accounting import Release, epsilon
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.accounting.gaussian import mu_of
from securepfl.privacy.audit.between import rounds_verdict
from securepfl.privacy.audit.contributions import contributions_verdict
from securepfl.privacy.audit.gaussian import runs_verdict, shift_between_runs, trade_off_verdict
from securepfl.privacy.audit.mechanism import mechanism_verdict
from securepfl.privacy.audit.rehearsal import (
    audit,
    many_runs,
    observe_contributions,
    observe_noise,
    observe_rounds,
    observe_units,
    rehearse,
    values_to_watch,
)
from securepfl.privacy.audit.report import AuditReport
from securepfl.privacy.audit.subject import Training
from securepfl.privacy.audit.verdicts import FALSE_ALARM
from securepfl.privacy.training import clipping, dpsgd, passes
from securepfl.privacy.training.dpsgd import DPSettings
from securepfl.privacy.training.units import group_records
from securepfl.randomness import RandomStream, derive_key

DELTA = 1e-5
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


def fixed_keys():
    """A new key for each stream, as from the OS, but the same ones in each run of a test."""
    numbers = itertools.count()
    return lambda: derive_key(bytes(32), "audit", next(numbers))


def per_record_loss(output, y):
    return nn.functional.binary_cross_entropy_with_logits(output.squeeze(1), y, reduction="none")


def network(width=60, dtype=torch.float32):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 1)).to(dtype)


def records(count=20, dtype=torch.float32):
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(5), dtype=dtype)
    return TensorDataset(x, (x.sum(1) > 0).to(dtype))


def training(*, claim=4.0, rate=1.0, steps=1, width=60, dtype=torch.float32, learning_rate=0.3, **changes):
    """Trains for epsilon `claim` at DELTA."""
    settings = DPSettings(
        noise_multiplier=noise_multiplier_for(claim, DELTA, rate, steps),
        clip=0.7,
        sample_rate=rate,
        steps=steps,
        learning_rate=learning_rate,
    )
    defaults = {"dataset": records(dtype=dtype), "units": 20, "fresh": fixed_keys()}
    return Training(network(width, dtype), loss=per_record_loss, settings=settings, **(defaults | changes))


def accusers(report):
    return {verdict.test for verdict in report.verdicts if verdict.accused}


# --- Correct builds -----------------------------------------------------------------------------------------------


def test_correct_builds_are_accused_at_most_once_in_a_hundred():
    count, subject = 24, training(width=30, dataset=records(6), units=6)
    alarms = sum(audit(subject, epsilon=4.0, delta=DELTA, canaries=100, runs=3).accused for _ in range(count))
    assert alarms <= int(binom.isf(1e-4, count, FALSE_ALARM))


def patients(sizes=(1, 2, 30, 5, 4, 8, 10)):
    dataset = records(sum(sizes))
    return group_records(*dataset.tensors, np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 5},
        {"rate": 0.3, "steps": 10},
        {"mode": "ghost"},
        {"mode": "functorch"},
        {"unit": "patient", "dataset": patients(), "units": 7},
        {"width": 1},
        {"dtype": torch.float64},
        {"learning_rate": 1e-9},
        {"masks": {"0.weight": torch.zeros(60, 6)}},
        {"collate": torch.utils.data.default_collate},
        pytest.param({"device": "cuda"}, marks=CUDA.marks),
    ],
    ids=["steps", "Poisson", "ghost", "functorch", "patients", "narrow", "double", "slow", "masks", "collate", "cuda"],
)
def test_whatever_the_training_its_correct_build_passes(changes):
    subject = training(**changes)
    settings = subject.settings
    released = Release(
        noise_multiplier=settings.noise_multiplier, sample_rate=settings.sample_rate, steps=2 * settings.steps
    )
    spent = epsilon([released], DELTA)
    report = audit(subject, epsilon=spent, delta=DELTA, canaries=60, runs=6, rounds=2)
    assert not report.accused, report.sentence
    assert report.claimed_epsilon == spent
    if settings.sample_rate == 1:
        assert report.rehearsed_epsilon == pytest.approx(spent, rel=1e-6)
    assert report.lower_bound <= report.rehearsed_epsilon
    assert msgspec.json.decode(msgspec.json.encode(report), type=AuditReport) == report


def test_the_model_and_the_data_are_left_alone():
    subject = training()
    before = copy.deepcopy(subject.model.state_dict())
    modes = [module.training for module in subject.model.modules()]
    audit(subject, epsilon=4.0, delta=DELTA, canaries=20, runs=3)
    assert all(torch.equal(before[name], value) for name, value in subject.model.state_dict().items())
    assert [module.training for module in subject.model.modules()] == modes
    assert len(subject.dataset) == 20


# --- What is observed ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["per-sample", "ghost", "functorch"])
def test_scores_are_those_of_the_claimed_gaussian(mode):
    seen = rehearse(training(steps=4, mode=mode), canaries=2000, rounds=3)
    mu = math.sqrt(12) / training(steps=4).settings.noise_multiplier
    assert 0.45 < seen.included.mean() < 0.55
    assert len(seen.scores) == 2000
    noise = np.concatenate([seen.scores - mu * seen.included, seen.silent])
    assert abs(noise.mean()) < 5 / math.sqrt(noise.size)
    assert (noise**2).mean() == pytest.approx(1, abs=5 * math.sqrt(2 / noise.size))
    assert seen.scores[seen.included].mean() - seen.scores[~seen.included].mean() == pytest.approx(
        mu, abs=10 / math.sqrt(2000)
    )


def test_a_model_with_fewer_parameters_than_canaries_is_rehearsed_several_times():
    seen = rehearse(training(width=1), canaries=25)  # 9 parameters: 4 canaries at once
    assert len(seen.scores) == len(seen.included) == 25
    assert len(seen.silent) == 6 * 2 + 4
    one = Training(
        nn.Linear(1, 1, bias=False),
        TensorDataset(torch.ones(3, 1), torch.ones(3)),
        per_record_loss,
        training().settings,
        units=3,
    )
    assert len(rehearse(one, canaries=3).silent) == 0


def test_many_runs_have_one_canary_each():
    seen = many_runs(training(claim=200.0), runs=12)
    assert len(seen.scores) == 12
    mu = mu_of(200.0, DELTA)
    np.testing.assert_allclose(seen.scores, mu * seen.included, atol=5)


def test_contributions_are_one_clip_at_the_declared_rate():
    full = observe_contributions(training())
    np.testing.assert_allclose(full, 1.0, atol=0.01)
    drawn = observe_contributions(training(rate=0.25, steps=10))
    assert drawn.shape == (50, 240)  # 4,000 draws' worth
    assert set(np.round(drawn, 1).ravel()) == {0.0, 1.0}
    assert (drawn > 0.5).mean() == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / drawn.size))


@pytest.mark.parametrize("mode", ["per-sample", "ghost", "functorch"])
def test_single_units_add_one_clip(mode):
    np.testing.assert_allclose(observe_units(training(mode=mode)), 1.0, atol=1e-2)
    patient = training(unit="patient", dataset=patients(), units=7, mode=mode)
    np.testing.assert_allclose(observe_units(patient), 1.0, atol=1e-2)


def test_noise_is_read_as_standard_normal_with_the_first_of_each_parameter():
    subject = training()
    noise, totals, layers = observe_noise(subject)
    assert noise.shape == (96, 481)
    assert totals.shape == (2, 481)
    assert observe_noise(training(width=1))[1].shape == (16, 9)
    firsts = [*range(16), *range(360, 376), *range(420, 436), 480]
    assert list(values_to_watch(subject)[:49]) == firsts
    assert list(layers[:49]) == 16 * [0] + 16 * [1] + 16 * [2] + [3]
    assert np.bincount(layers).tolist() == [360, 60, 60, 1]


def test_whole_rounds_are_read_in_the_order_of_the_parameters():
    noise, layers = observe_rounds(training(steps=3))
    assert noise.shape == (8, 481) and layers == [360, 60, 60, 1]
    assert abs(noise.std() - 1) < 5 / math.sqrt(2 * noise.size)
    masked, some = observe_rounds(training(masks={"0.weight": torch.zeros(60, 6)}))
    assert masked.shape == (8, 121) and some == [60, 60, 1]


@pytest.mark.parametrize("mode", ["per-sample", "ghost", "functorch"])
def test_no_reading_of_a_correct_build_comes_near_what_accuses(mode):
    for subject in (training(mode=mode, rate=0.1, steps=3), training(mode=mode, width=300, dtype=torch.float32)):
        assert observe_contributions(subject).max() < 1.006
        assert observe_units(subject).max() < 1.002


@pytest.mark.parametrize(("rate", "width"), [(0.1, 60), (0.01, 250), (0.5, 1)])
def test_the_draws_wanted_are_made_where_there_is_room(rate, width):
    seen = observe_contributions(training(rate=rate, steps=2, width=width))
    wanted = min(4000 * (1 - rate), 400 * ((8 * width + 1) // 2) * rate)
    assert seen.size * rate >= 0.99 * wanted


def test_canaries_among_patients_are_copies_of_the_smallest():
    assert training(unit="patient", dataset=patients(), units=7).smallest() == 0
    assert training(unit="patient", dataset=patients((5, 3, 1, 9)), units=4).smallest() == 2


# --- What is told -------------------------------------------------------------------------------------------------


def no_clip(monkeypatch):
    whole = clipping.clip_factors

    def factors(norms, clip):
        _, refused = whole(norms, clip)
        return torch.ones_like(norms).masked_fill(refused, 0), refused

    monkeypatch.setattr(clipping, "clip_factors", factors)


def wild(dataset):
    """As many records of quite another kind: some huge, one broken."""
    x, y = dataset.tensors
    x = -1e4 * x.flip(0) ** 3
    x[3, 2] = math.nan
    return TensorDataset(x, 1 - y)


@pytest.mark.parametrize("plant", [lambda monkeypatch: None, no_clip], ids=["correct", "no clip"])
@pytest.mark.parametrize("rate", [1.0, 0.2])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_the_report_is_the_same_whatever_the_private_data(monkeypatch, plant, rate, unit):
    plant(monkeypatch)
    reports = []
    for dataset, sizes in ((records(60), (1, 2, 30, 5, 4, 8, 10)), (wild(records(60)), (20, 1, 9, 9, 9, 9, 3))):
        mine = dataset if unit == "record" else group_records(*dataset.tensors, np.repeat(np.arange(7), sizes))
        subject = training(rate=rate, steps=2, unit=unit, dataset=mine, units=len(mine))
        reports.append(audit(subject, epsilon=4.0, delta=DELTA, canaries=40, runs=4))
    assert msgspec.json.encode(reports[0]) == msgspec.json.encode(reports[1])
    assert accusers(reports[0]) == ({"contributions"} if plant is no_clip else set())
    if plant is no_clip:
        assert f"a {unit} of the data set added more than 1.01 clips" in reports[0].sentence


# --- Planted bugs -------------------------------------------------------------------------------------------------


def half_noise(monkeypatch):
    whole = RandomStream.gaussian
    monkeypatch.setattr(RandomStream, "gaussian", lambda self, count: whole(self, count) / 2)


@pytest.mark.parametrize(("claim", "canaries"), [(4.0, 100), (2.0, 300), (1.0, 1000)])
def test_half_the_noise_is_seen_by_the_noise_and_by_the_canaries(monkeypatch, claim, canaries):
    half_noise(monkeypatch)
    report = audit(training(claim=claim, width=150), epsilon=claim, delta=DELTA, canaries=canaries, runs=5)
    assert report.accused
    assert {"mechanism", "canaries"} <= accusers(report)
    assert report.lower_bound > claim
    assert report.sentence.startswith("This build is less private")


def test_half_the_noise_is_seen_over_many_runs_of_a_tiny_model(monkeypatch):
    half_noise(monkeypatch)
    mu = mu_of(4.0, DELTA)
    runs = many_runs(training(width=1), runs=200)
    assert runs_verdict(runs, mu).accused
    assert shift_between_runs(runs).estimate == pytest.approx(2 * mu, abs=0.5)


@pytest.mark.parametrize("mode", ["per-sample", "ghost"])
def test_clipping_left_out_is_seen_by_loud_canaries(monkeypatch, mode):
    def unclipped(total, gradients, clip):
        norms = gradients.norms()
        gradients.add(torch.ones_like(norms), None, total)
        return norms > clip, torch.zeros_like(norms, dtype=torch.bool)

    monkeypatch.setattr(passes, "clip_into", unclipped)
    report = audit(training(mode=mode), epsilon=4.0, delta=DELTA, canaries=50, runs=3)
    assert accusers(report) == {"contributions"}
    assert "clipping is left out" in report.sentence


def test_clipping_left_out_of_a_shortcut_that_canaries_do_not_take_is_seen_by_single_units(monkeypatch):
    add = clipping.Ghost.add_outer

    def unclipped(self, layer, call, factors, refused, total):
        add(self, layer, call, torch.ones_like(factors), refused, total)

    monkeypatch.setattr(clipping.Ghost, "add_outer", unclipped)
    report = audit(training(mode="ghost"), epsilon=4.0, delta=DELTA, canaries=50, runs=3)
    assert accusers(report) == {"contributions"}


def test_a_clip_of_records_in_place_of_patients_is_seen_by_single_units(monkeypatch):
    """Each record of a patient comes as a patient of its own."""
    whole = dpsgd.use_batches

    def split(dataset, drawn, *arguments):
        x, y = dataset[drawn[0]]
        yield from whole([(row[None], label[None]) for row, label in zip(x, y, strict=True)], range(len(y)), *arguments)

    monkeypatch.setattr(dpsgd, "use_batches", split)
    influences = observe_units(training(unit="patient", dataset=patients(), units=7))
    assert contributions_verdict(np.ones((3, 3)), influences, 1.0).accused


def test_a_record_counted_twice_is_seen(monkeypatch):
    draw = dpsgd.draw
    monkeypatch.setattr(dpsgd, "draw", lambda *arguments: 2 * draw(*arguments))
    report = audit(training(), epsilon=4.0, delta=DELTA, canaries=200, runs=5)
    assert {"canaries", "contributions"} <= accusers(report)
    assert report.lower_bound > 4.0


def test_a_layer_without_noise_is_seen(monkeypatch):
    add = dpsgd.add_noise

    def all_but_the_last(total, entries, settings, noise):
        held = total[-1].clone()
        add(total, entries, settings, noise)
        total[-1] = held

    monkeypatch.setattr(dpsgd, "add_noise", all_but_the_last)
    assert "a value's spread" in mechanism_verdict(*observe_noise(training(width=200))).finding


def test_half_the_noise_of_one_layer_is_seen(monkeypatch):
    """Also where that layer is the smallest there is: a single bias."""
    add = dpsgd.add_noise
    for layer in (slice(360, 420), slice(480, 481)):

        def less_in_it(total, entries, settings, noise, layer=layer):
            before = total.clone()
            add(total, entries, settings, noise)
            total[layer] = before[layer] + (total[layer] - before[layer]) / 2

        monkeypatch.setattr(dpsgd, "add_noise", less_in_it)
        verdict = mechanism_verdict(*observe_noise(training()))
        assert verdict.accused and "spread is too small" in verdict.finding


def test_one_key_for_all_rounds_is_seen():
    kept = training(fresh=lambda: bytes(32))
    assert mechanism_verdict(*observe_noise(kept)).accused
    assert rounds_verdict(*observe_rounds(kept)).accused


def test_noise_that_starts_again_with_each_parameter_is_seen_also_where_rounds_differ(monkeypatch):
    add = dpsgd.add_noise

    def again(total, entries, settings, noise):
        key = noise.bytes(32)
        for part in (slice(0, 360), slice(360, 420), slice(420, 481)):
            add(total[part], entries, settings, RandomStream(key))

    monkeypatch.setattr(dpsgd, "add_noise", again)
    verdict = rounds_verdict(*observe_rounds(training()))
    assert verdict.accused
    assert "in each round draw the same noise" in verdict.finding


def test_one_draw_of_noise_for_all_steps_of_a_round_is_seen(monkeypatch):
    whole = RandomStream.gaussian

    def first(self, count):
        if "first" not in vars(self):
            self.first = whole(self, count)
        return self.first

    monkeypatch.setattr(RandomStream, "gaussian", first)
    verdict = mechanism_verdict(*observe_noise(training()))
    assert verdict.accused
    assert "depend on one another" in verdict.finding


def test_too_little_noise_in_steps_that_have_data_is_seen_by_the_noise_around_the_canaries(monkeypatch):
    """Empty steps have it all, and canaries stand out by a quarter more than claimed only."""
    add = dpsgd.add_noise

    def less_with_data(total, entries, settings, noise):
        factor = 0.8 if bool((total != 0).any()) else 1.0
        add(total, entries, replace(settings, noise_multiplier=factor * settings.noise_multiplier), noise)

    monkeypatch.setattr(dpsgd, "add_noise", less_with_data)
    subject = training(claim=1.0, steps=2, width=250)
    assert not mechanism_verdict(*observe_noise(subject)).accused
    for _ in range(3):
        verdict = trade_off_verdict(rehearse(subject, canaries=400), mu_of(1.0, DELTA))
        assert verdict.accused
        assert "the noise around them has 0." in verdict.finding


@pytest.mark.parametrize("mode", ["per-sample", "ghost", "functorch"])
def test_a_clip_two_percent_too_wide_is_seen_by_canaries_and_by_units(monkeypatch, mode):
    whole = clipping.clip_factors
    monkeypatch.setattr(clipping, "clip_factors", lambda norms, clip: whole(norms, 1.02 * clip))
    contributions, units = observe_contributions(training(mode=mode)), observe_units(training(mode=mode))
    assert contributions_verdict(contributions, np.ones(1), 1.0).accused
    assert contributions_verdict(np.ones((2, 2)), units, 1.0).accused


@pytest.mark.parametrize(("rate", "factor"), [(0.1, 1.12), (0.01, 1.12), (0.001, 2.0)])
def test_a_rate_that_is_a_little_too_high_is_seen(monkeypatch, rate, factor):
    draw = dpsgd.draw
    monkeypatch.setattr(dpsgd, "draw", lambda available, rate, sampling: draw(available, factor * rate, sampling))
    contributions = observe_contributions(training(rate=rate, steps=2, width=250, dataset=records(500), units=500))
    verdict = contributions_verdict(contributions, np.ones(1), rate)
    assert verdict.accused
    assert "drawn more often than declared" in verdict.finding


@pytest.mark.parametrize(
    "draw",
    [
        lambda available, rate, sampling: list(range(available)),
        lambda available, rate, sampling: list(sampling.permutation(available)[: round(rate * available)]),
    ],
    ids=["everything", "a fixed size"],
)
def test_draws_that_are_not_poisson_are_seen(monkeypatch, draw):
    monkeypatch.setattr(dpsgd, "draw", draw)
    subject = training(rate=0.1, steps=5, dataset=records(500), units=500)
    contributions = observe_contributions(subject)
    assert contributions_verdict(contributions, np.ones(1), 0.1).accused


def test_an_accounting_that_claims_too_little_is_seen():
    """The noise is that of epsilon 8, the ledger says 2."""
    report = audit(training(claim=8.0, width=150), epsilon=2.0, delta=DELTA, canaries=300, runs=3)
    assert accusers(report) == {"canaries"}
    assert report.lower_bound > 2.0


# --- Refusals -----------------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        yield from records()


def test_what_cannot_be_audited_is_refused():
    for name, value in (
        ("canaries", 0),
        ("runs", 2),
        ("rounds", 0),
        ("epsilon", 0.0),
        ("epsilon", math.inf),
        ("delta", 0.0),
    ):
        with pytest.raises(ValueError, match=name):
            audit(training(), **({"epsilon": 4.0, "delta": DELTA} | {name: value}))
    with pytest.raises(DataError, match="hand in"):
        rehearse(training(dataset=Stream()), canaries=3)
    with pytest.raises(DataError, match="hand in"):
        rehearse(training(dataset=TensorDataset(torch.empty(0, 6), torch.empty(0))), canaries=3)
