"""securepfl's default, untuned: what `securepfl plan` says of a file that declares its hospitals and columns.

Clip, learning rate, rounds and limit by the rule of docs/planning.md, weights by units, nothing trained personally,
outputs that start from declared prevalences, and the threshold that goes with them. It tries nothing and sees no
validation rows. Without a declaration of the columns (`Task.declared`) it is the SDK's default for a model of one's
own: clip 1, learning rate 1, 10 rounds.
"""

from dataclasses import replace

import torch

from methods.sdk import declared, spent, trained
from methods.task import Fitted, Hyper, Settings, Site, Task
from methods.training import Grid
from securepfl.settings.federation import Federation

GRID: Grid = {}
_TELLS = 20
"""A prevalence is declared to a twentieth, and never as 0 or 1: people know no more."""


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    federation = federation_of(task, settings)
    thresholds = {name: federation.operating_point_of(name)[0] for name in task.sites}
    return replace(trained(task, federation, seed), thresholds=thresholds)


def federation_of(task: Task, settings: Settings) -> Federation:
    """The federation as its file would declare it, bound to the task's hospitals and model."""
    sites = {name: its | {"prevalence": prevalence(task.sites[name])} for name, its in declared(task).items()}
    tables = {
        "model": {"kind": "own"},
        **task.declared,
        "sites": sites,
        "privacy": spent(settings),
        "encryption": {"scheme": "none", "bits": 16},
    }
    return Federation.from_mapping(tables).bound(task.sites, task.build_model)


def prevalence(site: Site) -> float:
    """What a hospital declares as its share of label 1. Read off the training rows here, without privacy."""
    share = float(site.train_y.to(torch.float64).mean())
    return min(max(round(share * _TELLS), 1), _TELLS - 1) / _TELLS
