"""Worlds of tables: a constructed separable shift; heart disease and biopsies with each hospital left out."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final

import numpy as np
from methods.data_tables import breast_cancer, heart_disease
from methods.task import Site
from methods.task import Task as Deal
from segmentation.training import Schedule

from routing.world import World, table
from securepfl.data.table import Table
from securepfl.tasks.binary import BINARY
from securepfl.tasks.models import build_model

FAMILIES: Final = 4
ROWS: Final = 200
_SCHEDULE: Final = Schedule(rounds=10, steps=10, batch=32, rate=1e-2)
_APART: Final = 4.0
"""How far a family's own two columns tell the classes apart, in standard deviations of their noise."""
_OPPOSED: Final = 0.5
"""How far the next family's do, the other way, in parts of that."""


def constructed(seed: int) -> Mapping[str, World]:
    """Four hospitals whose outcome shows in columns of their own, and half as clearly, reversed, in their neighbour's.

    Hospital k's outcome moves columns 2k, 2k + 1 up and 2k + 2, 2k + 3 down: what is a sign of illness at one scanner
    is one of health at the next. The unseen hospital is of the family of one of them, which the seed picks.
    """
    rng = np.random.default_rng([17, seed])
    names = [f"family-{number}" for number in range(FAMILIES)]
    members = {name: _family(name, number, ROWS, rng) for number, name in enumerate(names)}
    mine = int(rng.integers(FAMILIES))
    unseen = _family("unseen", mine, ROWS, rng)
    right = np.array([names[mine]] * ROWS)
    build = partial(build_model, "logistic", 2 * FAMILIES)
    return {"unseen": World(BINARY, build, members, unseen, _SCHEDULE, right)}


def _family(site: str, number: int, rows: int, rng: np.random.Generator) -> Table:
    labels = rng.integers(0, 2, rows)
    sign = (2.0 * labels - 1.0)[:, None]
    features = rng.standard_normal((rows, 2 * FAMILIES))
    own, next_own = ((2 * ((number + ahead) % FAMILIES) + np.arange(2)) for ahead in (0, 1))
    features[:, own] += _APART / 2 * sign
    features[:, next_own] -= _OPPOSED * _APART / 2 * sign
    return table(site, features.astype(np.float32), labels.astype(np.float32))


def left_out(deal: Deal, seed: int) -> dict[str, World]:
    """Each hospital of a deal left out: it is tested on all of its rows, the others train on theirs."""
    whole = {name: _whole(name, site) for name, site in deal.sites.items()}
    return {
        name: World(
            BINARY, deal.build_model, {other: rows for other, rows in whole.items() if other != name}, unseen, _SCHEDULE
        )
        for name, unseen in whole.items()
    }


def hearts(data: Path, seed: int) -> Mapping[str, World]:
    """Four real hospitals (Janosi et al.), each left out; seeds differ in minibatches alone."""
    return left_out(heart_disease(data, seed), seed)


def biopsies(seed: int) -> Mapping[str, World]:
    """Real biopsies at four simulated hospitals, each with its own calibration; dealt anew by each seed."""
    return left_out(breast_cancer(seed), seed)


def _whole(name: str, site: Site) -> Table:
    x = np.concatenate([site.train_x.numpy(), site.test_x.numpy()])
    return table(name, x, np.concatenate([site.train_y.numpy(), site.test_y.numpy()]))
