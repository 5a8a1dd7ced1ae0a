"""What a run showed: no claim beyond its interval, and why training together or personalising did not pay."""

from dataclasses import replace

import numpy as np
import pytest
from parties import federation_of

from securepfl.report.gain import Gain
from securepfl.report.outcome import Communication, Outcome, SiteOutcome, TrainingUnits
from securepfl.report.result import result_of
from securepfl.report.verdict import verdict_of
from securepfl.tasks.binary import BINARY
from securepfl.tasks.own import OwnLoss
from securepfl.tasks.regression import Regression
from securepfl.tasks.resampling import Scored
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.task import Metric

NAMES = ("alder", "birch", "cedar", "damson")
DRAWS = np.linspace(-1, 1, 101)


def scored(value, spread=0.0, task=BINARY):
    """Every metric is `value`, in resamples within `spread` of it; NaN for None."""
    drawn = np.full(102, np.nan) if value is None else value + np.concatenate([[0.0], spread * DRAWS])
    return Scored({metric.name: drawn for metric in task.metrics})


def site(personalised=0.8, shared=0.7, local=0.6, majority=0.5, spread=0.02, test=50, task=BINARY, **changes):
    values = {
        "train": 10,
        "units": TrainingUnits(declared=12, used=9, cut=0, padded=2, unusable=1, largest=4),
        "test": test,
        "test_units": test,
        "patients_named": True,
        "point": (),
        "scores": {
            "personalised": scored(personalised, spread, task),
            "shared": scored(shared, 0.0, task),
            "local": scored(local, 0.0, task),
            "majority": scored(majority, 0.0, task),
        },
        "epsilon": 1.0,
        "epsilon_replace_one": 2.0,
        "budget": 1.0,
        "clipped_fraction": None,
        "sat_out": (),
        "similarity": dict.fromkeys(NAMES[1:], 0.2),
        "signal": 9.0,
        "neighbours": (),
        "coupled_rounds": 1,
        "notes": (),
    }
    return SiteOutcome(**(values | changes))


def outcome_of(*sites, task=BINARY):
    communication = Communication(3, 1, 1, 1, 1, 0, {})
    named = dict(zip(NAMES, sites, strict=True))
    return Outcome(named, {}, communication, {"total": 1.0}, None, {}, task)


def verdict(*sites, task=BINARY, **tables):
    settings = {"rounds": 5, "similarity": {"every": 1}, "coupling": {"strength": 0.5}} | tables
    return verdict_of(federation_of(NAMES, **settings), outcome_of(*sites, task=task))


def test_what_paid_is_said_with_its_gain_and_interval():
    together, personal, majority = verdict(*[site()] * 4)
    assert together.line == (
        "Training together paid: balanced accuracy 0.800 against 0.600 trained alone at the same epsilon, +0.200 (95 % "
        "interval +0.181 to +0.219), better at 4 of 4 hospitals."
    )
    assert personal.line.startswith("Personalising paid: balanced accuracy 0.800 against 0.700 of the shared model")
    assert majority.line.startswith("Better than the majority class on 200 test patients: balanced accuracy 0.800")
    assert [finding.holds for finding in (together, personal, majority)] == [True] * 3
    assert together.gain.value == pytest.approx(0.2)


def test_an_interval_that_holds_0_carries_no_claim():
    together, personal, majority = verdict(*[site(local=0.79, shared=0.81, majority=0.79)] * 4)
    assert [finding.holds for finding in (together, personal, majority)] == [None] * 3
    assert together.line.startswith("Whether training together paid can't be told on 200 test patients:")
    assert personal.line.startswith("Whether personalising paid can't be told on 200 test patients:")
    assert "-0.010 (95 % interval -0.029 to +0.009), better at 0 of 4 hospitals" in personal.line
    assert majority.line.startswith("Can't be told from the majority class on 200 test patients:")
    said = (together.line + personal.line).replace("Whether training together paid can't", "").lower()
    assert "did not pay" not in said


def test_what_did_not_pay_is_said_so_and_an_answer_that_never_differs_is_no_better():
    together, personal, _ = verdict(*[site(local=0.9, shared=0.9)] * 4)
    assert (together.holds, personal.holds) == (False, False)
    assert (
        together.line.startswith("Training together did not pay:")
        and "already beat the majority class" in together.line
    )
    (*_, same) = verdict(*[site(personalised=0.5, spread=0.0)] * 4)
    assert same.holds is False and same.line.startswith("No better than the majority class")


def test_hospitals_count_as_many_as_their_test_patients_and_each_is_judged_at_home():
    """One tiny hospital, which lost much, moves the mean over hospitals, and next to nothing here."""
    sites = [site(test=98), site(test=98), site(test=98), site(personalised=0.0, test=6, spread=0.6)]
    together, _, majority = verdict(*sites)
    assert together.holds is True and together.gain.value == pytest.approx(0.2 * 0.98 - 0.6 * 0.02)
    assert "better at 3 of 4 hospitals" in together.line
    assert majority.line.endswith("; can't be told at damson (6 patients).")
    worse = site(personalised=0.3)
    (*_, majority) = verdict(site(), site(), worse, worse)
    assert "; worse at cedar (50 patients), damson (50 patients)." in majority.line


def test_long_lists_of_hospitals_are_cut():
    (*_, majority) = verdict(*[site(personalised=0.3)] * 4)
    assert "worse at alder (50 patients), birch (50 patients), cedar (50 patients) and 1 more." in majority.line


def test_a_metric_of_which_less_is_better_gains_by_less():
    pressure = Regression(120, 20, unit="mmHg")
    sites = [site(personalised=8, local=10, shared=8, majority=15, spread=0.5, task=pressure)] * 4
    together, personal, majority = verdict(*sites, task=pressure)
    assert together.holds is True and together.gain.value == pytest.approx(2)
    assert "mean absolute error, mmHg 8.000 against 10.000" in together.line and "+2.000" in together.line
    assert personal.holds is None and majority.line.startswith("Better than the training mean")


def test_where_there_is_no_figure_nothing_is_claimed():
    together, personal, _ = verdict(*[site(shared=None)] * 4)
    assert personal.holds is None and "there is no shared model, as the last round formed no sum" in personal.line
    assert together.holds is True
    lacking = verdict(*[site(personalised=None, local=None, shared=None, majority=None)] * 4)
    assert all(finding.holds is None and finding.gain.value is None for finding in lacking)
    assert "these test rows have no balanced accuracy" in lacking[0].line
    assert verdict(*[site(task=OwnLoss())] * 4, task=OwnLoss()) == []


def test_why_personalising_did_not_pay_is_what_the_run_recorded():
    same = {"shared": 0.8}
    assert verdict(*[site(**same)] * 4)[1].line.endswith("hospitals.")
    noisy = verdict(site(**same, signal=1.0), *[site(**same)] * 3)[1].line
    assert "Noise hides what is a hospital's own at alder" in noisy
    alike = verdict(*[site(**same, similarity={"birch": 0.9}, coupled_rounds=0)] * 4)[1].line
    assert "Hospitals are alike (mean similarity +0.90), so one model fits them; no hospital was coupled" in alike
    alone = verdict(*[site(**same, signal=None, similarity={})] * 4, similarity={}, coupling={})[1].line
    assert "Hospitals were not compared, so why isn't known" in alone
    absent = verdict(site(**same, sat_out=(3,)), *[site(**same)] * 3)[1].line
    assert "Alder sat out rounds" in absent


def test_where_nothing_is_personal_personalising_is_not_judged():
    one = {"model": {"kind": "own", "personal": []}, "similarity": {}, "coupling": {}}
    same = verdict(*[site(shared=0.8, spread=0.0)] * 4, **one)[1]
    assert same.holds is None and same.line == (
        "Nothing is personal: no parameter is ([model] personal = []), so every hospital has the shared model "
        "(balanced accuracy 0.800)."
    )
    levels = {"sites": {name: {"prevalence": 0.9 if name == "birch" else 0.5} for name in NAMES}}
    moved = verdict(*[site(shared=0.8, spread=0.0)] * 4, **levels, **one)[1].line
    assert moved.endswith(
        "(balanced accuracy 0.800), moved towards its own declared prevalence at alder, birch, cedar and 1 more."
    )
    level = verdict(*[site(shared=0.7)] * 4, **levels, **one)[1]
    assert level.line.startswith("Nothing is personal but each hospital's level: no parameter is")
    own = verdict(*[site(shared=0.7)] * 4, trajectory={"of": "local"}, **one)[1]
    assert own.holds is True and own.line.startswith(
        "Nothing is personal but each hospital's average over rounds: no parameter is ([model] personal = []); with "
        "its own, balanced accuracy 0.800 against 0.700 of the shared model as it is, +0.100"
    )
    by_pattern = verdict(*[site(shared=0.7)] * 4, trajectory={"alpha": {"*": 0.1}}, **one)[1]
    assert by_pattern.line.startswith("Nothing is personal but each hospital's average over rounds: ")
    lacking = verdict(*[site(personalised=None, shared=None)] * 4, **one)[1].line
    assert lacking.endswith("; these test rows have no balanced accuracy.")
    assert not any("ersonalising" in finding.line for finding in (same, own))


def test_why_training_together_did_not_pay_is_what_the_run_recorded():
    poor = verdict(*[site(personalised=0.5, local=0.5)] * 4)[0].line
    same = verdict(*[site(personalised=0.5, local=0.5, spread=0.0)] * 4)[0].line
    assert "Every patient gets the same answer" in same and "[data] prevalence or threshold" in same
    assert "Neither is shown to beat the majority class: at epsilon 4 the noise leaves little" in poor
    apart = verdict(*[site(local=0.8, similarity={"birch": -0.4})] * 4)[0].line
    assert "Hospitals pull apart: their mean similarity is -0.40" in apart


def test_a_gain_without_interval_says_so():
    metric = Metric("auroc", "AUROC")
    one = Scored({"auroc": np.array([0.9])})
    gain = Gain.of(metric, one, Scored({"auroc": np.array([0.7])}))
    assert gain.holds is None and gain.in_words == "+0.200 (no interval: too few test rows, or too few of a class)"
    assert Gain(0.5, (0.1, None)).in_words == "+0.500 (95 % interval +0.100 to no bound)"
    assert Gain(0.5, (None, 0.7)).holds is None and Gain(0.5, (0.1, None)).holds is True


def test_result_json_has_the_verdict_the_means_and_of_how_many_hospitals_they_are():
    sites = [site(), site(), site(), replace(site(), scores=dict.fromkeys(site().scores, scored(None)))]
    whole = replace(outcome_of(*sites), pooled=site().scores)
    result = result_of(federation_of(NAMES), whole)
    assert [finding["about"] for finding in result["verdict"]] == ["together", "personal", "majority"]
    assert result["counted"]["personalised"]["auroc"] == 3 and result["mean"]["personalised"]["auroc"] == pytest.approx(
        0.8
    )
    assert result["within"]["local"]["accuracy"] == pytest.approx(0.6) and result["pooled"]["shared"]["brier"] == 0.7
    low, high = result["intervals"]["mean"]["personalised"]["auroc"]
    assert (low, high) == pytest.approx((0.7808, 0.8192)) and result["intervals"]["over"] == "test patients"
    assert result["sites"]["alder"]["intervals"]["shared"]["auroc"] == (0.7, 0.7)


def test_segmentation_is_judged_by_dice_against_empty_masks():
    task = Segmentation()
    together, _, majority = verdict(*[site(majority=0.0, task=task)] * 4, task=task)
    assert "Dice 0.800 against 0.600 trained alone" in together.line and together.metric == "dice"
    assert majority.line.startswith("Better than the empty mask on 200 test patients: Dice 0.800 against 0.000")
    nothing = verdict(*[site(personalised=0.0, local=0.0, majority=0.0, spread=0.0, task=task)] * 4, task=task)
    assert "No mask meets its structure at the operating point; declare [data] prevalence" in nothing[0].line
    assert nothing[2].line.startswith("No better than the empty mask")
    poor = verdict(*[site(personalised=0.01, local=0.0, majority=0.0, task=task)] * 4, task=task)[0].line
    assert "Neither is shown to beat the empty mask: at epsilon 4" in poor
