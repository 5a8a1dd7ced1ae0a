"""What noisy counts tell: intervals that hold the truth as often as they say, and no figure where noise drowns it."""

import numpy as np
import pytest
from scipy.special import expit, logit, ndtr, ndtri

from securepfl.learning.released.expected import binormal_cells, expected_figures
from securepfl.learning.released.figures import Figure, figures_of
from securepfl.learning.released.histogram import Histogram

POINT = 0.3
HISTOGRAM = Histogram.around([POINT], [(POINT, POINT)])
SHARES = ("auroc", "sensitivity", "specificity", "prevalence")


def world(auroc, prevalence, patients, rng):
    """Honest binormal scores and labels, and the true figures of such patients."""
    apart = np.sqrt(2) * ndtri(auroc)
    truth = rng.random(patients) < prevalence
    odds = np.where(truth, 1, -1) * apart**2 / 2 + apart * rng.standard_normal(patients) + logit(prevalence)
    away = logit(prevalence) - logit(POINT)
    told = {
        "auroc": auroc,
        "sensitivity": ndtr((apart**2 / 2 + away) / apart),
        "specificity": ndtr((apart**2 / 2 - away) / apart),
        "prevalence": prevalence,
        "observed_over_expected": 1.0,
    }
    return expit(odds), truth, told


def found_in(chances, truth, deviation, rng):
    decided = (chances >= POINT)[:, None]
    released = HISTOGRAM.released(HISTOGRAM.of_records(chances[:, None], decided, truth[:, None]).sum(axis=0))
    noisy = released + deviation * rng.standard_normal(HISTOGRAM.size)
    return figures_of(HISTOGRAM, noisy, deviation=deviation, spread=1.0, names=("x",)).outcomes["x"]


def test_without_noise_they_are_the_metrics_themselves():
    chances, truth, told = world(0.8, 0.3, 20000, np.random.default_rng(0))
    found = found_in(chances, truth, 1e-6, np.random.default_rng(1))
    for name in SHARES:
        assert getattr(found, name).value == pytest.approx(told[name], abs=0.02)
    assert found.observed_over_expected.value == pytest.approx(truth.sum() / chances.sum(), abs=0.02)
    assert found.sensitivity.value == pytest.approx(((chances >= POINT) & truth).sum() / truth.sum(), abs=1e-4)
    assert len(found.calibration) >= 5
    for group in found.calibration:
        assert group.low <= group.told < group.high and group.seen.low <= group.told + 0.03
        assert group.seen.value == pytest.approx(group.told, abs=0.05)


@pytest.mark.parametrize(("patients", "deviation", "auroc"), [(500, 2.7, 0.8), (3000, 12.0, 0.7)])
def test_intervals_hold_the_truth_as_often_as_they_say(patients, deviation, auroc):
    """Over 60 worlds; with 60 the share that is held has a deviation of .028."""
    rng, held = np.random.default_rng(patients), {}
    for _ in range(60):
        chances, truth, told = world(auroc, 0.25, patients, rng)
        found = found_in(chances, truth, deviation, rng)
        for name, value in told.items():
            figure = getattr(found, name)
            assert figure is not None, name
            held.setdefault(name, []).append(figure.low <= value <= figure.high)
    shares = {name: np.mean(each) for name, each in held.items()}
    assert min(shares.values()) >= 0.86 and 0.90 <= np.mean(list(shares.values())) < 0.99, shares


def test_how_many_there_are_is_as_unsure_as_drawing_them_makes_it():
    """Three draws of 3,000 at a rate of .05: the noise alone is a fifth of what drawing adds."""
    rng, held = np.random.default_rng(3), []
    for _ in range(40):
        chances, truth, _ = world(0.8, 0.3, 3000, rng)
        each = HISTOGRAM.of_records(chances[:, None], (chances >= POINT)[:, None], truth[:, None])
        cells = np.tensordot(rng.binomial(3, 0.05, 3000) / 0.15, each, axes=1)
        noisy = HISTOGRAM.released(cells) + 5 * rng.standard_normal(HISTOGRAM.size)
        units = figures_of(HISTOGRAM, noisy, deviation=5.0, spread=1 + 0.95 / 0.15, names=("x",)).units
        held.append(units.low <= 3000 <= units.high)
    assert np.mean(held) > 0.85


def test_where_noise_drowns_them_there_is_no_figure():
    cells = binormal_cells(HISTOGRAM, auroc=0.85, prevalence=0.3, patients=50)
    rng = np.random.default_rng(5)
    for _ in range(10):
        noisy = HISTOGRAM.released(cells) + 60 * rng.standard_normal(HISTOGRAM.size)
        found = figures_of(HISTOGRAM, noisy, deviation=60, spread=1.0, names=("x",)).outcomes["x"]
        assert [getattr(found, name) for name in SHARES] == [None] * 4 and found.calibration == ()


def test_nobody_held_out_gives_no_figure_and_no_error():
    nobody = np.zeros(HISTOGRAM.size)
    found = figures_of(HISTOGRAM, nobody, deviation=1.0, spread=1.0, names=("x",))
    assert found.outcomes["x"].auroc is None and found.units.value == 0


def test_noise_and_drawing_widen_the_expected_interval():
    def width(deviation, spread=1.0):
        options = {"auroc": 0.8, "prevalence": 0.3, "patients": 1000}
        figure = expected_figures(HISTOGRAM, deviation=deviation, spread=spread, **options).sensitivity
        assert isinstance(figure, Figure)
        return figure.high - figure.low

    assert width(0.1) < width(6.0) < width(12.0) and width(0.1) < 0.75 * width(0.1, spread=3.0)
