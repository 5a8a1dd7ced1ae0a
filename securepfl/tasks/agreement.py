"""How good masks are likely to be, without labels: how well two predictions agree, and the Dice that a model expects.

All take probabilities [n, height, width] and the fields of view [n, height, width] in which they count (None: all of
it), as tensors or arrays, and give one number an image, float64 [n], on the probabilities' device. Gradients pass.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

Images = Tensor | NDArray[Any]
_TURNS = 50


def soft_dice(first: Images, second: Images, field: Images | None = None) -> Tensor:
    """2 sum(p q) / sum(p^2 + q^2): 1 where two predictions are the same, 0 where they have nothing in common, or where
    neither says anything (Milletari et al. 2016, arXiv 1606.04797: with squares below, unlike in a loss, two equal
    predictions agree fully however unsure they are).

    >>> chances = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]]])
    >>> soft_dice(chances, torch.tensor([[[0.5, 0.5]], [[0.0, 1.0]]])).tolist()
    [1.0, 0.0]
    """
    one, other = _scored(first, field), _scored(second, field)
    return _quotient(2 * _sum(one * other), _sum(one.square()) + _sum(other.square()))


def hard_dice(first: Images, second: Images, field: Images | None = None, threshold: float = 0.5) -> Tensor:
    """Dice of the two masks from `threshold` up; 0 where both are empty, which is no agreement on anything.

    >>> hard_dice(torch.tensor([[[0.9, 0.6, 0.1]]]), torch.tensor([[[0.9, 0.4, 0.2]]])).tolist()
    [0.6666666666666666]
    """
    one, other = ((_scored(of, field) >= threshold) for of in (first, second))
    return _quotient(2 * _sum(one & other), _sum(one) + _sum(other))


def expected_dice(chances: Images, field: Images | None = None) -> Tensor:
    """The best Dice, over all thresholds, of a mask against a truth that is as the probabilities say.

    With the k likeliest pixels taken it is 2 (their sum) / (k + the sum of all), expectation over expectation, which an
    image's many pixels make exact. The best takes those above half of it (Lipton et al. 2014, arXiv 1402.1892); found
    by Dinkelbach's method (1967), which takes a few passes where sorting would take many. 0 for an empty prediction.

    >>> expected_dice(torch.tensor([[[1.0, 1.0, 0.0]], [[0.9, 0.5, 0.1]]])).round(decimals=3).tolist()
    [1.0, 0.8]
    """
    flat = _scored(chances, field)
    total = _sum(flat)
    best = torch.zeros_like(total)
    with torch.no_grad():
        for _ in range(_TURNS):
            before, best = best, _taken(flat, total, best)
            if bool((best <= before).all()):
                break
    return _taken(flat, total, best)


def best_threshold(chances: Images, field: Images | None = None) -> Tensor:
    """The threshold that `expected_dice` takes: half of it.

    >>> best_threshold(torch.tensor([[[0.9, 0.5, 0.1]]])).round(decimals=3).tolist()
    [0.4]
    """
    return expected_dice(chances, field) / 2


def _taken(flat: Tensor, total: Tensor, dice: Tensor) -> Tensor:
    """The expected Dice of the pixels above half of `dice`."""
    taken = flat > (dice / 2).to(flat.dtype)[:, None]
    return _quotient(2 * _sum(flat * taken), _sum(taken) + total)


def _scored(chances: Images, field: Images | None) -> Tensor:
    """[n, pixels], 0 outside the field."""
    flat = _flat(chances)
    return flat if field is None else flat * (_flat(field).to(flat.device) != 0)


def _flat(images: Images) -> Tensor:
    return torch.as_tensor(images).flatten(1)


def _sum(values: Tensor) -> Tensor:
    return values.sum(dim=1, dtype=torch.float64)


def _quotient(above: Tensor, below: Tensor) -> Tensor:
    """0 where there is nothing to divide by."""
    return above / torch.where(below > 0, below, 1.0)
