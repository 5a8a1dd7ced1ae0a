"""From scores to gates."""

from typing import Literal

from torch import Tensor


def gates_of(scores: Tensor, temperature: float, scope: Literal["site", "sample"]) -> Tensor:
    """softmax(scores / temperature) of scores [n, C], by sample or of their mean over the site: [n, C], rows sum to 1.

    >>> import torch
    >>> gates_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 1.0, "site").tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    exact = scores.double()
    if scope == "site":
        exact = exact.mean(dim=0, keepdim=True).expand(len(exact), -1)
    return (exact / temperature).softmax(dim=1)
