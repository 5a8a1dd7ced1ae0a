"""What docs/threat-model.md says of one dishonest hospital, measured again where that is quick."""

import pytest
from influence import influence


@pytest.mark.parametrize(("hospitals", "declared", "grid", "legal"), [(4, False, 2.3, 2.3), (16, True, 0.79, 15.6)])
def test_the_figures_of_the_threat_model_hold(hospitals, declared, grid, legal):
    found = influence(hospitals, 10_000, declared)
    assert (found.grid, found.legal) == pytest.approx((grid, legal), rel=0.03)
