"""The demo's data: simulated patients at simulated hospitals. No row is a person, and no hospital exists.

Patients are drawn from a normal distribution for each class: the means and covariances of ten nuclear features in
scikit-learn's 569 biopsies (UCI Breast Cancer Wisconsin Diagnostic; Wolberg, Street and Mangasarian), with the classes
moved together, since the real ones are so easy to tell apart that no method could show anything. Scanners are made up
too: some report some features mirrored, larger as smaller. It is the starkest calibration that one model cannot fit.
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
OUTSIDE = "simulated-outside"
"""A hospital that takes no part in training; its scanner is of family B."""

CLOSENESS = 0.7
"""Of the real distance between the classes' means, what is left."""

RANGES = MappingProxyType(
    {
        "radius": (14.0, 4.0),
        "texture": (19.0, 4.0),
        "perimeter": (92.0, 25.0),
        "area": (650.0, 350.0),
        "smoothness": (0.1, 0.015),
        "compactness": (0.1, 0.05),
        "concavity": (0.09, 0.08),
        "concave points": (0.05, 0.04),
        "symmetry": (0.18, 0.03),
        "fractal dimension": (0.063, 0.007),
    }
)
"""Declared centre and spread of each feature (its mean over a biopsy's nuclei): round figures from what is published
about the real data; a hospital would take them from its instrument's literature.
"""

_MIRRORED = MappingProxyType(
    {
        "A": frozenset[str](),
        "B": frozenset({"radius", "perimeter", "concavity", "concave points"}),
        "unusual": frozenset(RANGES) - {"concavity", "concave points"},
    }
)
"""The features that a family of scanners reports mirrored about their declared centre."""

HOSPITALS = MappingProxyType(
    {f"simulated-a{number}": "A" for number in range(1, 5)}
    | {f"simulated-b{number}": "B" for number in range(1, 5)}
    | {"simulated-unusual": "unusual"}
)
"""Each hospital that takes part, and its scanner's family. It has 120 patients, of whom 79 train and 41 test."""

_PATIENTS, _OUTSIDE_PATIENTS = (44, 76), (60, 90)
"""Malignant and benign."""


def simulated_hospitals(seed: int = 0) -> tuple[DataSpec, dict[str, Table]]:
    """The declaration and each simulated hospital's table of 120 rows and 10 features.

    Malignant is 1. The same `seed` draws the same patients everywhere; another one draws anew.
    """
    spec = declaration()
    tables = {name: table_from_columns(name, _columns(name, seed), spec, name) for name in HOSPITALS}
    return spec, tables


def outside_hospital(seed: int = 0) -> Table:
    """The 150 rows of a hospital of scanner family B that took no part, with the truth that it does not know."""
    return table_from_columns(OUTSIDE, _columns(OUTSIDE, seed), declaration(), OUTSIDE)


def declaration() -> DataSpec:
    """What the simulated hospitals declare of their data."""
    ranges = {f"mean {name}": Range(centre=centre, spread=spread) for name, (centre, spread) in RANGES.items()}
    return DataSpec(label=LABEL, ranges=ranges, missing="drop-rows", split=Split(method="stratified"))


def _columns(hospital: str, seed: int) -> dict[str, NDArray[Any]]:
    """A hospital's patients as its scanner reports them, malignant first."""
    stream = RandomStream(derive_key(b"securepfl simulated patients", seed, hospital))
    counts = _OUTSIDE_PATIENTS if hospital == OUTSIDE else _PATIENTS
    mirrored = _MIRRORED[HOSPITALS.get(hospital, "B")]
    scaled = np.concatenate(
        [
            mean + stream.gaussian(count * len(RANGES)).reshape(count, -1) @ np.linalg.cholesky(covariance).T
            for count, (mean, covariance) in zip(counts, _classes(), strict=True)
        ]
    )
    columns: dict[str, NDArray[Any]] = {
        f"mean {name}": centre + spread * (-1 if name in mirrored else 1) * values
        for (name, (centre, spread)), values in zip(RANGES.items(), scaled.T, strict=True)
    }
    return columns | {LABEL: np.repeat([1, 0], counts)}


def _classes() -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Mean [10] and covariance [10, 10] of malignant and benign, in declared spreads from the declared centres."""
    cohort = load_breast_cancer()
    names = [str(name) for name in cohort.feature_names]
    values = np.asarray(cohort.data, dtype=np.float64)[:, [names.index(f"mean {name}") for name in RANGES]]
    centres, spreads = np.array(list(RANGES.values())).T
    scaled = [(values[cohort.target == kind] - centres) / spreads for kind in (0, 1)]
    means = [rows.mean(axis=0) for rows in scaled]
    middle = (means[0] + means[1]) / 2
    return [(middle + CLOSENESS * (mean - middle), np.cov(rows.T)) for mean, rows in zip(means, scaled, strict=True)]
