"""Hospitals whose losses are known parabolas, so that what a method does can be written down."""

from collections.abc import Sequence

import torch
from methods.oracle import Oracle
from methods.task import Fitted, Settings, Site, Task
from torch import Tensor, nn

START = torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64)


class TwoParts(nn.Module):
    """[B, 3] -> [B], linear: two coordinates in `body.weight`, then one in `head.weight`. Starts at START."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(2, 1, bias=False, dtype=torch.float64)
        self.head = nn.Linear(1, 1, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.body.weight.copy_(START[None, :2])
            self.head.weight.copy_(START[None, 2:])

    def forward(self, x: Tensor) -> Tensor:
        return (self.body(x[:, :2]) + self.head(x[:, 2:])).squeeze(1)


def squared(output: Tensor, y: Tensor) -> Tensor:
    return (output - y).square() / 2


def task_of(curvatures: Tensor, centres: Tensor) -> Task:
    """Hospital i has the loss sum_k a_ik (w_k - b_ik)^2 / 2, with a and b of shape [N, 3], and three rows."""
    sites = {}
    for i, (a, b) in enumerate(zip(curvatures, centres, strict=True)):
        root = (3 * a).sqrt()
        sites[f"h{i}"] = Site(torch.diag(root), root * b, torch.diag(root), root * b)
    return Task("quadratics", sites, TwoParts, head=("head.*",))


def oracle_of(curvatures: Tensor, centres: Tensor, steps: int) -> Oracle:
    return Oracle(task_of(curvatures, centres), Settings(float("inf"), 1e-5, steps), 0, loss=squared)


def weights_of(fitted: Fitted) -> Tensor:
    """[N, D], the hospitals' models."""
    return torch.stack(
        [torch.cat([p.detach().flatten() for p in model.parameters()]) for model in fitted.models.values()]
    )


def doubles(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


CURVATURES = doubles([[1.0, 0.5, 0.2], [0.3, 1.2, 0.9], [0.6, 0.4, 1.5]])
CENTRES = doubles([[1.0, 2.0, -1.0], [-2.0, 0.5, 3.0], [0.0, -1.0, 1.0]])
OPTIMUM = (CURVATURES * CENTRES).sum(0) / CURVATURES.sum(0)
