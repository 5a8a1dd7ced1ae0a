"""Released metrics as result.json and the terminal have them."""

import json
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from securepfl.learning.released.expected import binormal_cells
from securepfl.learning.released.figures import figures_of
from securepfl.learning.released.histogram import Histogram
from securepfl.privacy.accounting.events import Release
from securepfl.report.released import released_result, released_rows, released_table
from securepfl.settings.federation import Federation

HISTOGRAM = Histogram.around([0.3], [(0.3, 0.3)])
FEDERATION = Federation.from_mapping({"release": {"metrics": True}, "rounds": 8})
COST = Release(noise_multiplier=9.0, sample_rate=1.0, steps=2)


def result(patients, deviation, *, seeded=False):
    cells = binormal_cells(HISTOGRAM, auroc=0.8, prevalence=0.3, patients=patients)
    noise = deviation * np.random.default_rng(0).standard_normal(HISTOGRAM.size)
    options = {"deviation": deviation, "spread": 1.0, "names": ("outcome",)}
    figures = figures_of(HISTOGRAM, HISTOGRAM.released(cells) + noise, **options)
    return released_result(FEDERATION, figures, ("north", "south", "west"), COST, seeded=seeded)


def printed(released):
    console = Console(width=100, record=True, file=StringIO())
    console.print(released_table(released))
    return console.export_text()


def test_figures_their_error_and_their_cost_stand_together():
    released = json.loads(json.dumps(result(2000, 3.0)))
    rows = {figure: (value, interval) for _, figure, value, interval in released_rows(released)}
    assert float(rows["AUROC"][0]) == pytest.approx(0.8, abs=0.03) and " to " in rows["AUROC"][1]
    assert any(figure.startswith("told ") for figure in rows)
    text = " ".join(printed(released).split())
    assert "2 of 10 noisy steps, epsilon" in text and "at 3 hospitals" in text and released["may_leave"]


def test_what_noise_drowns_is_no_figure():
    released = result(40, 40.0)
    assert released["outcomes"]["outcome"]["auroc"] is None
    assert printed(released).count("no figure") >= 3


def test_seeded_figures_may_not_leave_and_a_round_without_a_sum_says_so():
    assert "these figures may not leave" in " ".join(printed(result(2000, 3.0, seeded=True)).split())
    nothing = released_result(FEDERATION, None, (), COST, seeded=False)
    assert not nothing["may_leave"] and "No figure: too few hospitals" in " ".join(printed(nothing).split())
    assert released_result(Federation(), None, (), None, seeded=False) is None
