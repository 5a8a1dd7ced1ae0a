"""Tables outside: routing for a hospital that took no part, beside its baselines, on shifts whose kind is known.

    python benchmarks/outside_tables.py [--seeds 20] [--first 0] [--data ../shared/data/heart_disease --config FILE]

Experts are logistic models without privacy, so that what is measured is routing alone. `turned`: hospitals measure the
same in turned coordinates, the unseen one as the first of them (simulated). `scanners`: rows of scikit-learn's breast
cancer data dealt to five hospitals, each feature scaled and shifted by hospital (the shift is simulated). `referral`:
the same rows, hospitals by a feature's size, so that prevalence differs. `prevalence`: simulated hospitals of 30 to 200
patients, of whom .3 to .9 are ill. With --data each site of a declared folder is left out in turn, the others' rows
drawn with replacement for each seed. Balanced accuracy against the shared model, mean and 95 % interval over seeds.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as Printed
from scipy import stats
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn

from securepfl.data.table import Table
from securepfl.data.tables import load_sites
from securepfl.outside.baselines import BASELINES
from securepfl.outside.candidates import SHARED, Panel
from securepfl.outside.recipe import CLASSES
from securepfl.outside.routed import routed
from securepfl.settings.federation import Federation
from securepfl.tasks.binary import BINARY
from securepfl.tasks.models import build_model

Rows = tuple[NDArray[np.float32], NDArray[np.int64]]
World = tuple[dict[str, Rows], Rows]
"""The hospitals that took part, and the one that didn't."""


def turned(seed: int) -> World:
    """The first expert is the right one."""
    rng = np.random.default_rng(seed)
    turns = [np.linalg.qr(rng.normal(size=(8, 8)))[0] for _ in range(4)]

    def drawn(turn: NDArray[np.float64]) -> Rows:
        labels = rng.integers(0, 2, 120)
        plain = rng.normal(size=(120, 8))
        plain[:, 0] += 2.0 * (2 * labels - 1)
        flipped = np.where(rng.random(120) < 0.05, 1 - labels, labels)
        return (plain @ turn).astype(np.float32), flipped

    return {f"hospital {k}": drawn(turn) for k, turn in enumerate(turns)}, drawn(turns[0])


def scanners(seed: int) -> World:
    """Gains and offsets by hospital and feature."""
    features, labels = _cancer()
    rng = np.random.default_rng(seed)
    ward = rng.permutation(len(labels)) % 5
    gains, offsets = np.exp(0.5 * rng.normal(size=(5, 30))), 0.7 * rng.normal(size=(5, 30))
    return _leaving(((features * gains[ward] + offsets[ward]).astype(np.float32), labels), ward, seed % 5)


def referral(seed: int) -> World:
    """Fifths by a feature with some noise."""
    features, labels = _cancer()
    rng = np.random.default_rng(seed)
    size = features[:, rng.integers(30)] + 0.5 * rng.normal(size=len(labels))
    return _leaving((features.astype(np.float32), labels), size.argsort().argsort() * 5 // len(labels), seed % 5)


def prevalence(seed: int) -> World:
    """Ten weak signs, whose weights differ a little between hospitals, and how many are ill a lot."""
    rng, signs = np.random.default_rng(seed), np.array([0.8, 0.6, 0.5, 0.4, 0.3, 0.2, 0.5, 0.3, 0.2, 0.1])
    sites = {}
    for k, (count, level) in enumerate(((200, -0.6), (170, -0.3), (30, 3.0), (85, 1.4))):
        plain = rng.normal(size=(count, 10)) * np.exp(0.2 * rng.normal(size=10)) + 0.4 * rng.normal(size=10)
        chance = 1 / (1 + np.exp(-(plain @ (signs + 0.3 * rng.normal(size=10)) + level)))
        sites[f"hospital {k}"] = plain.astype(np.float32), (rng.random(count) < chance).astype(np.int64)
    unseen = sites.pop(f"hospital {seed % 4}")
    return sites, unseen


WORLDS: Mapping[str, Callable[[int], World]] = {
    each.__name__: each for each in (turned, scanners, referral, prevalence)
}


def declared(tables: Mapping[str, Table], left_out: str) -> Callable[[int], World]:
    """A folder's sites but one, each with rows drawn anew."""

    def world(seed: int) -> World:
        rng, sites = np.random.default_rng(seed), {}
        for name, table in tables.items():
            if name != left_out:
                chosen = rng.integers(0, len(table), len(table))
                sites[name] = table.features[chosen], np.asarray(table.labels)[chosen].astype(np.int64)
        unseen = tables[left_out]
        return sites, (unseen.features, np.asarray(unseen.labels).astype(np.int64))

    return world


def measured(world: World) -> dict[str, float]:
    """Balanced accuracy of each way on the unseen hospital, and what routing's gates were."""
    sites, (features, labels) = world
    models = {SHARED: _fitted((np.concatenate([x for x, _ in sites.values()]), _joined(sites)))}
    models |= {name: _fitted(rows) for name, rows in sites.items() if len(np.unique(rows[1])) > 1}
    panel = Panel(models, BINARY)
    table = Table(site="unseen", features=features, labels=labels, patients=None, rows=np.arange(len(labels)))
    found = routed(panel, table, CLASSES)
    worth = {name: _worth(baseline(panel, table, CLASSES, None), labels) for name, baseline in BASELINES.items()}
    gate = float(found.gates[0, 1])
    return {"routed": _worth(found.logits, labels), **worth, "first": gate, "fell back": float(found.fell_back)}


def table_of(name: str, cells: list[dict[str, float]]) -> Printed:
    """Rows are ways; gains are over the shared model. An unseen hospital of one class has no balanced accuracy."""
    cells = [cell for cell in cells if np.isfinite(cell["global"])]
    gate, back = (np.mean([cell[key] for cell in cells]) for key in ("first", "fell back"))
    title = f"{name}: {len(cells)} seeds, mean gate of the first expert {gate:.2f}, fell back in {back:.2f}"
    printed = Printed("way", "balanced accuracy", "over the shared model", "worst", title=title, title_justify="left")
    for way in ("routed", *BASELINES):
        values = np.array([cell[way] for cell in cells])
        gains = values - np.array([cell["global"] for cell in cells])
        half = stats.t.ppf(0.975, max(1, len(gains) - 1)) * gains.std(ddof=min(1, len(gains) - 1)) / len(gains) ** 0.5
        printed.add_row(way, f"{values.mean():.3f}", f"{gains.mean():+.4f} +- {half:.4f}", f"{gains.min():+.3f}")
    return printed


def _worth(logits: Tensor, labels: NDArray[np.int64]) -> float:
    found = BINARY.evaluate(BINARY.predict(logits), labels)["balanced_accuracy"]
    return float("nan") if found is None else found


def _fitted(rows: Rows) -> nn.Module:
    features, labels = rows
    found = LogisticRegression(max_iter=500).fit(features, labels)
    model: Any = build_model("logistic", features=features.shape[1])
    with torch.no_grad():
        model.linear.weight.copy_(torch.tensor(found.coef_))
        model.linear.bias.copy_(torch.tensor(found.intercept_))
    return model  # type: ignore[no-any-return]


def _joined(sites: Mapping[str, Rows]) -> NDArray[np.int64]:
    return np.concatenate([labels for _, labels in sites.values()])


def _cancer() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    data = load_breast_cancer()
    return (data.data - data.data.mean(axis=0)) / data.data.std(axis=0), 1 - data.target


def _leaving(rows: Rows, ward: NDArray[np.int64], out: int) -> World:
    features, labels = rows
    sites = {f"hospital {k}": (features[ward == k], labels[ward == k]) for k in range(5) if k != out}
    return sites, (features[ward == out], labels[ward == out])


def _worlds(data: Path | None, config: Path | None) -> Iterator[tuple[str, Callable[[int], World]]]:
    if data is None or config is None:
        yield from WORLDS.items()
        return
    spec: Any = Federation.read(config).data_spec
    tables = load_sites(data, spec)
    yield from ((f"without {name}", declared(tables, name)) for name in tables)


@click.command()
@click.option("--seeds", default=20, show_default=True)
@click.option("--first", default=0, show_default=True, help="The first seed: criteria were compared on 0 to 29.")
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="A declared folder, in place of the made.")
@click.option("--config", type=click.Path(exists=True, path_type=Path), help="Its settings.")
def main(seeds: int, first: int, data: Path | None, config: Path | None) -> None:
    """Measure and print a table a world."""
    console = Console(width=110)
    for name, world in _worlds(data, config):
        console.print(table_of(name, [measured(world(seed)) for seed in range(first, first + seeds)]))


if __name__ == "__main__":
    main()
