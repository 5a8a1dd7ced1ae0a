"""The forecast against what was measured with the rule's settings (docs/planning.md), and its shape."""

from dataclasses import replace

import pytest

from securepfl.learning.declared.facts import Facts, Share
from securepfl.learning.declared.forecast import forecast
from securepfl.privacy.accounting.gaussian import mu_of


def _facts(units: int, hospitals: int, prevalence: float, row: float, epsilon: float) -> Facts:
    each = (Share(round(units / hospitals), 1 / hospitals),) * hospitals
    outputs = max(prevalence, 1 - prevalence), prevalence * (1 - prevalence)
    return Facts(each, mu_of(epsilon, 1e-5), *outputs, row)


@pytest.mark.parametrize(
    ("facts", "without", "measured"),
    [
        (_facts(486, 4, 0.508, 8.75, 1.0), 0.862, 0.859),  # heart disease
        (_facts(352, 4, 0.33, 6.6, 0.5), 0.834, 0.765),  # pima, for fitting
        (_facts(276, 4, 0.38, 14.4, 0.25), 0.795, 0.677),  # pbc, held out
        (_facts(452, 4, 0.43, 7.0, 0.25), 0.697, 0.608),  # gbsg, held out
        (_facts(2658, 10, 0.14, 5.5, 0.5), 0.724, 0.683),  # nwtco, held out
        (_facts(1075, 4, 0.19, 12.4, 1.0), 0.827, 0.826),  # nhefs, held out
    ],
)
def test_the_range_holds_what_was_measured(facts, without, measured):
    found = forecast(facts, without)
    assert found.low <= measured <= found.high
    assert abs(found.middle - measured) < 0.05


def test_more_privacy_and_fewer_units_cost_and_none_costs_nothing():
    curve = [forecast(_facts(400, 4, 0.4, 9.0, epsilon)).middle for epsilon in (0.25, 0.5, 1, 2, 4, 8)]
    assert curve == sorted(curve)
    small, large = (forecast(_facts(units, 4, 0.4, 9.0, 1.0)).middle for units in (200, 800))
    assert small < large < 0.85
    assert forecast(_facts(400, 4, 0.4, 9.0, 1e4)).middle == pytest.approx(0.85, abs=0.001)


def test_shared_noise_is_expected_to_help():
    own = _facts(600, 20, 0.4, 9.0, 0.5)
    assert forecast(replace(own, absent=1)).low > forecast(own).middle


@pytest.mark.parametrize("auroc", [0.5, 1.0, 0.2])
def test_an_assumption_that_says_nothing_is_refused(auroc):
    with pytest.raises(ValueError, match="AUROC"):
        forecast(_facts(400, 4, 0.4, 9.0, 1.0), auroc)
