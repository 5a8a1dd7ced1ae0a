"""What docs/threat-model.md says of one dishonest hospital, measured again where that is quick."""

import pytest
from influence import influence


@pytest.mark.parametrize(("hospitals", "grid", "legal"), [(4, 0.09, 4.4), (16, 0.37, 17.7)])
def test_the_figures_of_the_threat_model_hold(hospitals, grid, legal):
    found = influence(hospitals, 10_000)
    assert (found.grid, found.legal) == pytest.approx((grid, legal), rel=0.03)
