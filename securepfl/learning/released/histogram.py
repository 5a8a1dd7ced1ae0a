"""How scores, decisions and outcomes are counted where only noisy counts may leave.

A record of label y, whose score falls into bin b and was decided as d, is one in cell (d, b) of label y. What is
released is not the cells but sums of them at four widths: by decision, by quarter, eighth and sixteenth of the scores.
With the same noise on all of them the wide sums are as exact as one cell, where a sum of eight noisy cells would have
2.8 times its noise (Hay, Rastogi, Miklau and Suciu 2010, VLDB; weights are ours). Each cell is in one sum of each
width, and the widths' squared weights sum to 1: so a record moves the released vector by exactly 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Span = tuple[float, float]
"""The lowest and the highest threshold of any hospital."""

_OFFSETS: Final = (0.15, 0.35, 0.6, 0.95, 1.5, 2.3, 3.5)
"""Inner edges above the operating point, in log-odds; below it the same. Most models' scores lie near it."""
BINS: Final = 2 * len(_OFFSETS) + 2
_WEIGHTS: Final = (0.4, 0.2, 0.2, 0.2)
"""Squares of the weights of the four widths, the widest first: found on binormal scores of AUROC .65 and .8. Like all
numbers here the same at all hospitals: whoever changes one raises SCHEMA in protocol/messages.py.
"""
_OPEN: Final = 0.7
"""How far beyond the last edge, in log-odds, a typical score of the open outer bins lies."""


@dataclass(frozen=True)
class Histogram:
    """The cells of each outcome (one of a binary task, one a label or class of others).

    `edges` [outcomes][BINS - 1] are probabilities, `pairs` the cells (decision, bin) that can hold anybody.

    >>> histogram = Histogram.around([0.3], [(0.3, 0.3)])
    >>> histogram.cells, histogram.rows, histogram.size
    (16, 30, 60)
    >>> bool(np.allclose(np.linalg.norm(histogram.strategy, axis=0), 1))
    True
    """

    edges: tuple[tuple[float, ...], ...]
    pairs: tuple[tuple[int, int], ...]

    @classmethod
    def around(cls, centres: Sequence[float], spans: Sequence[Span] | None) -> Self:
        """Around each outcome's operating point, in (0, 1). `spans`: between which thresholds hospitals decide on each
        outcome; None where decisions are no thresholds, as the most probable class is none.
        """
        edges = tuple(_edges(centre) for centre in centres)
        places = [(decided, bin_) for decided in (0, 1) for bin_ in range(BINS)]
        spans = spans or [(0.0, 1.0)] * len(edges)
        pairs = tuple(place for place in places if any(map(_reaches, [place] * len(edges), edges, spans)))
        return cls(edges, pairs)

    @property
    def outcomes(self) -> int:
        """How many yes-or-no questions are counted."""
        return len(self.edges)

    @property
    def cells(self) -> int:
        """Of one label of one outcome."""
        return len(self.pairs)

    @property
    def rows(self) -> int:
        """Sums of cells that are released of one label of one outcome."""
        return len(self.strategy)

    @property
    def size(self) -> int:
        """Numbers that are released."""
        return 2 * self.outcomes * self.rows

    @property
    def bound(self) -> float:
        """The norm of a record's cells over all outcomes: one in each."""
        return float(np.sqrt(self.outcomes))

    @cached_property
    def strategy(self) -> Floats:
        """The weighted sums, [rows, cells]; columns have norm 1."""
        keys = [[(level, d, b // width) for d, b in self.pairs] for level, width in enumerate((BINS, 4, 2, 1))]
        rows = sorted({key for level in keys for key in level})
        matrix: Floats = np.zeros((len(rows), self.cells))
        for weight, level in zip(_WEIGHTS, keys, strict=True):
            for cell, key in enumerate(level):
                matrix[rows.index(key), cell] = np.sqrt(weight)
        return matrix

    @cached_property
    def covariance(self) -> Floats:
        """Of cells that `estimated` gives, for noise of deviation 1 on each number, [cells, cells]."""
        found: Floats = np.linalg.inv(self.strategy.T @ self.strategy).astype(np.float64)
        return found

    def of_records(self, chances: Floats, decided: NDArray[np.bool_], truth: NDArray[np.bool_]) -> Floats:
        """Each record's cells, [n, outcomes, 2, cells], from probabilities, decisions and labels [n, outcomes].

        >>> histogram = Histogram.around([0.5], [(0.5, 0.5)])
        >>> int(histogram.of_records(np.array([[0.9]]), np.array([[True]]), np.array([[True]])).sum())
        1
        """
        return self.of_units(chances, decided, truth, np.ones(len(chances)), np.arange(len(chances)), len(chances))

    def of_units(
        self,
        chances: Floats,
        decided: NDArray[np.bool_],
        truth: NDArray[np.bool_],
        weights: Floats,
        owner: NDArray[np.int64],
        units: int,
    ) -> Floats:
        """Sums of the records' cells by the unit that owns each, [units, outcomes, 2, cells], each record times its
        weight [n]. `owner` [n] numbers units from 0.
        """
        table = np.full((2, BINS), -1)
        for cell, (decision, bin_) in enumerate(self.pairs):
            table[decision, bin_] = cell
        columns = zip(self.edges, chances.T, strict=True)
        bins = [np.searchsorted(edges, column, side="right") for edges, column in columns]
        cells = table[decided.astype(int), np.stack(bins, axis=1)]
        record, outcome = np.nonzero(cells >= 0)
        counted = np.zeros((units, self.outcomes, 2, self.cells))
        places = owner[record], outcome, truth[record, outcome].astype(int), cells[record, outcome]
        np.add.at(counted, places, weights[record])
        return counted

    def released(self, cells: Floats) -> Floats:
        """What is released of cells [..., outcomes, 2, cells], [..., size]: linear, and no longer than they are."""
        flat = cells @ self.strategy.T
        return flat.reshape(*flat.shape[:-3], self.size)

    def estimated(self, released: Floats) -> Floats:
        """Cells [outcomes, 2, cells] from the noisy numbers [size]: least squares, unbiased; some are negative.

        >>> histogram = Histogram.around([0.5], [(0.5, 0.5)])
        >>> cells = np.arange(32.0).reshape(1, 2, 16)
        >>> bool(np.allclose(histogram.estimated(histogram.released(cells)), cells))
        True
        """
        each = released.reshape(self.outcomes, 2, self.rows)
        found: Floats = each @ self.strategy @ self.covariance
        return found

    @property
    def bins(self) -> NDArray[np.int64]:
        """The bin of each cell, [cells]."""
        return np.array([bin_ for _, bin_ in self.pairs])

    @property
    def decisions(self) -> NDArray[np.int64]:
        """The decision of each cell, [cells]."""
        return np.array([decided for decided, _ in self.pairs])

    def ends(self, outcome: int) -> Floats:
        """All edges of an outcome's bins, 0 and 1 included."""
        return np.array([0.0, *self.edges[outcome], 1.0])

    def middles(self, outcome: int) -> Floats:
        """A typical score of each of an outcome's bins: the middle in log-odds."""
        odds = _logit(np.array(self.edges[outcome]))
        ends = np.array([odds[0] - 2 * _OPEN, *odds, odds[-1] + 2 * _OPEN])
        found: Floats = _expit((ends[1:] + ends[:-1]) / 2)
        return found


def _logit(chance: Floats | float) -> Floats:
    found: Floats = np.log(chance) - np.log1p(-np.asarray(chance))
    return found


def _expit(odds: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-odds))
    return found


def _edges(centre: float) -> tuple[float, ...]:
    """The operating point itself is an edge, exactly: who is on which side is what was decided."""
    odds, offsets = float(_logit(centre)), np.array(_OFFSETS)
    below, above = _expit(odds - offsets[::-1]), _expit(odds + offsets)
    return (*map(float, below), centre, *map(float, above))


def _reaches(place: tuple[int, int], edges: tuple[float, ...], span: Span) -> bool:
    decided, bin_ = place
    ends = (0.0, *edges, 1.0)
    return span[0] < ends[bin_ + 1] if decided else span[1] > ends[bin_]
