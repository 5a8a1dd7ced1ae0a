"""How sharp experts are on rows of nobody, so that none is believed for being sharp.

A model trained on few patients, or for longer, has larger weights and is surer of everything. Its outputs' spread on
standard normal rows, which is how declared ranges scale a table, tells that apart from what it sees in a hospital.
"""

from typing import Final

import torch
from torch import Tensor

from securepfl.outside.criteria import choices_of
from securepfl.tasks.models import public_stream
from securepfl.tasks.task import Task

_ROWS: Final = 512
_LIMITS: Final = (1e-2, 1e2)


def public_rows(like: Tensor) -> Tensor | None:
    """Standard normal rows [512, d] of the kind of `like` [n, d], the same for everybody; None of images.

    Noise is no image, and what a network says of it tells nothing of its sharpness on one.
    """
    if like.ndim != 2:
        return None
    drawn = public_stream("reference", like.shape[1]).gaussian(_ROWS * like.shape[1])
    return torch.from_numpy(drawn).reshape(_ROWS, like.shape[1]).to(like)


def sharpness(outputs: Tensor, task: Task) -> float:
    """The standard deviation of logits, each choice's taken about its mean over classes."""
    choices = choices_of(task, outputs)
    return float((choices - choices.mean(dim=-1, keepdim=True)).std(dim=0).square().mean().sqrt())


def scale_to(sharp: float, other: float) -> float:
    """What logits of sharpness `sharp` are multiplied by to have `other`'s; within a hundredth and a hundred."""
    return min(max(other / max(sharp, 1e-12), _LIMITS[0]), _LIMITS[1])
