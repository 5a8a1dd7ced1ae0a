"""Each hospital's more frequent class: a constant logit, that of the prevalence among its training labels.

The prevalence is kept half a record away from 0 and 1. The least that a method must beat; it is not private.
"""

import math

import torch
from torch import Tensor, nn

from methods.task import Fitted, Hyper, Settings, Task
from methods.training import Grid

GRID: Grid = {}


class Constant(nn.Module):
    """[B, ...] -> the same logit [B]."""

    def __init__(self, logit: float) -> None:
        super().__init__()
        self.logit = logit

    def forward(self, x: Tensor) -> Tensor:
        return torch.full((len(x),), self.logit, dtype=torch.float32, device=x.device)


def fit(task: Task, settings: Settings, hyper: Hyper, seed: int) -> Fitted:
    models = {name: Constant(log_odds(site.train_y)).eval() for name, site in task.sites.items()}
    return Fitted(models, 0, 0, {"private": False})


def log_odds(y: Tensor) -> float:
    """Of the ones among labels [n]."""
    edge = 0.5 / len(y)
    prevalence = min(max(float(y.double().mean()), edge), 1 - edge)
    return math.log(prevalence / (1 - prevalence))
