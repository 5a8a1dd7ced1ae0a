"""The threshold, moved part of the way to where predictions would have a declared share.

Experts carry their own hospitals' share into a new one. A declared prior says what the share is there; how far to trust
it against the model is the recipe's `prior_weight`. Logits move, so that the threshold stays at 0.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.special import logit

from securepfl.tasks.task import Task

LEAST_ROWS: Final = 10
"""Fewer rows than this show no share of classes: nothing moves."""
_MOST: Final = 1 << 21
"""Pixels looked at for a quantile."""
_HALVINGS: Final = 80
_TURNS: Final = 500


def shift_to(outputs: Tensor, fields: Tensor | None, task: Task, prior: tuple[float, ...], weight: float) -> Tensor:
    """What to take from `outputs` [n, ...]: a number, or one for each label or class; 0 without a prior.

    Of masks, `weight` times the logit that the share `prior` of all pixels in `fields` [n, H, W] lies above; of
    classes, `weight` times what gives predicted probabilities the mean `prior`.
    """
    if not prior or weight == 0.0 or (fields is None and len(outputs) < LEAST_ROWS):
        return torch.zeros((), device=outputs.device)
    if fields is not None:
        return weight * _quantile(outputs.reshape(fields.shape)[fields], 1.0 - prior[0]).to(outputs)
    flat = outputs.double().reshape(len(outputs), -1)
    wanted = torch.tensor(prior, dtype=torch.float64, device=outputs.device)
    moved = _of_classes(flat, wanted) if task.name == "multiclass" else _of_labels(flat, wanted)
    return weight * (moved[0] if len(prior) == 1 else moved).to(outputs)


def _quantile(values: Tensor, at: float) -> Tensor:
    if not len(values):
        return torch.zeros(())
    few = values[:: -(-len(values) // _MOST)]
    return torch.as_tensor(np.quantile(few.cpu().numpy(), at))


def _of_labels(logits: Tensor, wanted: Tensor) -> Tensor:
    """The shifts [k] with mean sigmoid(logits - shift) = wanted, by halving an interval that must hold them."""
    low, high = logits.min(dim=0).values - logit(wanted), logits.max(dim=0).values - logit(wanted)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = (logits - middle).sigmoid().mean(dim=0) > wanted
        low, high = torch.where(above, middle, low), torch.where(above, high, middle)
    found: Tensor = (low + high) / 2
    return found


def _of_classes(logits: Tensor, wanted: Tensor) -> Tensor:
    """The shifts [k], of mean 0, with mean softmax(logits - shift) = wanted."""
    shift = torch.zeros_like(wanted)
    for _ in range(_TURNS):
        shares = (logits - shift).softmax(dim=1).mean(dim=0).clamp(min=1e-12)
        step = (shares / wanted).log()
        shift = shift + step
        if step.abs().max() < 1e-9:
            break
    return shift - shift.mean()
