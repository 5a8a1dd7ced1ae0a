"""How exact released metrics can be expected to be, before anything was counted.

Scores are taken to be binormal and honest: log-odds around the declared prevalence, as far apart as the assumed AUROC.
"""

import numpy as np
from scipy.special import logit, ndtr, ndtri

from securepfl.learning.released.figures import OutcomeFigures, figures_of
from securepfl.learning.released.histogram import BINS, Floats, Histogram


def binormal_cells(histogram: Histogram, *, auroc: float, prevalence: float, patients: float) -> Floats:
    """Expected counts [1, 2, cells] of a histogram of one outcome whose decisions follow from scores.

    >>> histogram = Histogram.around([0.3], [(0.3, 0.3)])
    >>> cells = binormal_cells(histogram, auroc=0.8, prevalence=0.3, patients=100.0)
    >>> round(float(cells.sum())), round(float(cells[0, 1].sum()))
    (100, 30)
    """
    apart, middle = float(np.sqrt(2) * ndtri(auroc)), float(logit(prevalence))
    edges = logit(np.array(histogram.edges[0])) - middle
    counts = np.empty((2, BINS))
    for label, (shift, share) in enumerate(((-1, 1 - prevalence), (1, prevalence))):
        below = np.array([0.0, *ndtr((edges - shift * apart**2 / 2) / apart), 1.0])
        counts[label] = patients * share * np.diff(below)
    cells = np.zeros((1, 2, histogram.cells))
    yes = BINS // 2  # the first bin that is decided as a yes
    for cell, (decided, bin_) in enumerate(histogram.pairs):
        if decided == (bin_ >= yes):
            cells[0, :, cell] = counts[:, bin_]
    return cells


def expected_figures(
    histogram: Histogram, *, auroc: float, prevalence: float, patients: float, deviation: float, spread: float
) -> OutcomeFigures:
    """What would be released of so many held-out patients if noise and sample came out at their means."""
    one = Histogram(histogram.edges[:1], histogram.pairs)
    cells = binormal_cells(one, auroc=auroc, prevalence=prevalence, patients=patients)
    found = figures_of(one, one.released(cells), deviation=deviation, spread=spread, names=("outcome",))
    return found.outcomes["outcome"]
