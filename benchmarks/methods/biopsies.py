"""scikit-learn's breast-cancer biopsies, dealt out to four simulated hospitals.

The 569 fine-needle biopsies (UCI Breast Cancer Wisconsin Diagnostic; Wolberg, Street and Mangasarian) are
real; the hospitals are not. They differ in size, in the share of malignant biopsies and in how their
simulated scanners are calibrated.
"""

from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer

from securepfl.data.columns import Range
from securepfl.data.declared_split import Split
from securepfl.data.schema import DataSpec
from securepfl.data.tables import Table, table_from_columns
from securepfl.randomness import RandomStream, derive_key

LABEL = "malignant"

HOSPITALS = MappingProxyType(
    {
        "simulated-north": (73, 172),
        "simulated-east": (73, 88),
        "simulated-south": (40, 75),
        "simulated-west": (26, 22),
    }
)
"""Malignant and benign biopsies of each hospital: all 212 and 357. Two thirds (161, 106, 75, 31) train."""

RANGES = MappingProxyType(
    {
        "radius": ((14.0, 4.0), (0.4, 0.3), (16.0, 5.0)),
        "texture": ((19.0, 4.0), (1.2, 0.5), (26.0, 6.0)),
        "perimeter": ((92.0, 25.0), (3.0, 2.0), (107.0, 33.0)),
        "area": ((650.0, 350.0), (40.0, 40.0), (880.0, 550.0)),
        "smoothness": ((0.1, 0.015), (0.007, 0.003), (0.13, 0.025)),
        "compactness": ((0.1, 0.05), (0.025, 0.02), (0.25, 0.15)),
        "concavity": ((0.09, 0.08), (0.03, 0.03), (0.27, 0.2)),
        "concave points": ((0.05, 0.04), (0.012, 0.006), (0.11, 0.065)),
        "symmetry": ((0.18, 0.03), (0.02, 0.008), (0.29, 0.06)),
        "fractal dimension": ((0.063, 0.007), (0.004, 0.0025), (0.084, 0.018)),
    }
)
"""Declared centre and spread of each nuclear feature's mean, standard error and worst (largest) value.

Round figures from what is published about this public data set; a hospital would take them from its
instrument's literature.
"""

_Columns = dict[str, NDArray[Any]]
_LENGTH_POWER = MappingProxyType({"radius": 1, "perimeter": 1, "area": 2})


def simulated_hospitals(seed: int = 0) -> tuple[DataSpec, dict[str, Table]]:
    """The declaration and each simulated hospital's table: 245, 161, 115 and 48 rows, 30 features.

    Malignant is 1. The same `seed` deals and calibrates alike on every machine; another one deals anew.
    """
    spec = _declaration()
    cohort = load_breast_cancer()
    names = [str(name) for name in cohort.feature_names]
    benign = np.asarray(cohort.target, dtype=np.int64)
    tables = {}
    for hospital, index in _dealt(benign, seed).items():
        columns: _Columns = dict(zip(names, np.asarray(cohort.data, dtype=np.float64)[index].T, strict=True))
        columns = _calibrated(columns, hospital, seed)
        columns[LABEL] = 1 - benign[index]
        tables[hospital] = table_from_columns(hospital, columns, spec, hospital)
    return spec, tables


def _declaration() -> DataSpec:
    ranges = {
        column: Range(centre=centre, spread=spread)
        for feature, statistics in RANGES.items()
        for column, (centre, spread) in zip(_columns(feature), statistics, strict=True)
    }
    return DataSpec(label=LABEL, ranges=ranges, missing="drop-rows", split=Split(method="stratified"))


def _columns(feature: str) -> tuple[str, str, str]:
    return f"mean {feature}", f"{feature} error", f"worst {feature}"


def _stream(seed: int, *labels: str) -> RandomStream:
    return RandomStream(derive_key(b"securepfl simulated hospitals", seed, *labels))


def _dealt(benign: NDArray[np.int64], seed: int) -> dict[str, NDArray[np.int64]]:
    """Each hospital's rows of the cohort: every biopsy goes to exactly one."""
    order = _stream(seed, "deal").permutation(len(benign))
    decks = [order[benign[order] == kind] for kind in (0, 1)]
    ends = np.cumsum(list(HOSPITALS.values()), axis=0)
    return {
        hospital: np.concatenate([deck[end - size : end] for deck, end, size in zip(decks, stop, sizes, strict=True)])
        for (hospital, sizes), stop in zip(HOSPITALS.items(), ends, strict=True)
    }


def _calibrated(columns: _Columns, hospital: str, seed: int) -> _Columns:
    """The columns as the hospital's own scanner would have measured them.

    A wrong pixel size scales lengths by 0.9 to 1.1, areas by its square; every other feature has its own
    gain of 0.9 to 1.1 and an offset of up to 0.3 declared spreads, which a standard error doesn't show.
    """
    draws = _stream(seed, "calibration", hospital).uniform(1 + 2 * len(RANGES))
    pixel, gains, offsets = 0.9 + 0.2 * draws[0], 0.9 + 0.2 * draws[1::2], 0.6 * draws[2::2] - 0.3
    measured: _Columns = {}
    for (feature, statistics), gain, offset in zip(RANGES.items(), gains, offsets, strict=True):
        power = _LENGTH_POWER.get(feature, 0)
        factor = pixel**power if power else gain
        for column, (_, spread) in zip(_columns(feature), statistics, strict=True):
            shifted = not power and not column.endswith(" error")
            measured[column] = columns[column] * factor + (offset * spread if shifted else 0.0)
    return measured
