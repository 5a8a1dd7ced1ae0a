"""The scaling benchmark's tables, slopes and model sizes."""

import numpy as np
import pytest
from scaling import Case, Round, costs, hidden_for, preface, slope, steps

from securepfl.tasks.models import build_model


def case(hospitals):
    """Every figure linear in the roster, but for the rows of similarities."""
    n = hospitals
    plain = Round(0.1, 0.1, 0.01 * n, 1000, 1000, 2000 * n)
    return Case(n, 10_000, Round(0.1, 0.1 + 0.01 * n, 0.01 * n, 1000, 1000 + 10 * n, 2000 * n + 10 * n * n), plain, "x")


@pytest.mark.parametrize("parameters", [67, 10_000, 1_000_000])
def test_a_model_has_about_the_parameters_asked_for(parameters):
    model = build_model("mlp", 64, hidden_for(parameters))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(parameters, rel=0.01)


def test_too_few_parameters_are_refused():
    with pytest.raises(ValueError, match="must be at least 67, not 66"):
        hidden_for(66)


def test_a_slope_is_the_power():
    sizes = np.array([4, 8, 200])
    assert slope(sizes, 3.0 * sizes**1.7) == pytest.approx(1.7)
    with pytest.raises(ValueError, match="at least two sizes"):
        slope([4], [1.0])


def test_tables_show_both_kinds_of_round_and_what_similarity_adds():
    cases = [case(n) for n in (4, 8, 16)]
    table = {row[0]: row[1:] for row in costs(cases, "hospitals", [4, 8, 16])}
    assert table["8"][1] == "0.18 / 0.1" and table["16"][5] == "34.6 kB / 32 kB"
    assert table["x smallest, at 4 x the size"][2] == "4 / 4" and table["slope, all"][2] == "1.00 / 1.00"
    assert steps(cases)[-1] == ["8 to 16", "2.00", "2.55", "2.08", "2.56", "2.56 kB"]
    assert "0 B + 10 B x n, and 0 + 10.00 x n ms" in preface(cases).replace("-0", "0")
