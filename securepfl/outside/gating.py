"""From scores to gates."""

from typing import Literal

import torch
from torch import Tensor


def gates_of(scores: Tensor, temperature: float, scope: Literal["site", "sample"]) -> Tensor:
    """softmax(scores / temperature) of scores [n, C], by sample or of their mean over the site: [n, C], rows sum to 1.

    >>> gates_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 1.0, "site").tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    exact = scores.double()
    if scope == "site":
        exact = exact.mean(dim=0, keepdim=True).expand(len(exact), -1)
    return (exact / temperature).softmax(dim=1)


def with_zooms(experts: Tensor, zooms: Tensor) -> Tensor:
    """Gates [n, E + Z - 1] over candidates_of: of experts [n, E], and of zooms [n, Z], no zoom first."""
    return torch.cat([experts * zooms[:, :1], zooms[:, 1:]], dim=1)
