"""From scores to gates."""

from typing import Literal

from torch import Tensor


def gates_of(scores: Tensor, temperature: float, scope: Literal["site", "sample", "both"]) -> Tensor:
    """softmax(scores / temperature) of scores [n, C], by sample, of their mean over the site, or of the mean of both:
    [n, C], rows sum to 1.

    >>> import torch
    >>> gates_of(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), 1.0, "site").tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    """
    exact = scores.double()
    if scope != "sample":
        mean = exact.mean(dim=0, keepdim=True).expand(len(exact), -1)
        exact = mean if scope == "site" else (exact + mean) / 2
    return (exact / temperature).softmax(dim=1)
