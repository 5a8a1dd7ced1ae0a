"""What label checks of several tasks share."""

from collections.abc import Callable

import torch
from torch import Tensor

from securepfl.tasks.task import Illegal


def first_bad(labels: Tensor, bad: Tensor, problem: Callable[[str], str]) -> Illegal | None:
    """The first label [n, ...] with an entry in `bad` (bool, alike); `problem` says what is wrong with its value."""
    rows = bad.reshape(len(bad), -1)
    wrong = rows.any(dim=1)
    if not bool(wrong.any()):
        return None
    place = int(wrong.to(torch.uint8).argmax())
    values = labels[place].reshape(-1)
    return Illegal(place, problem(f"{values[int(rows[place].to(torch.uint8).argmax())].item():g}"))


def not_whole(labels: Tensor) -> Tensor:
    """Which entries are no whole number, bool as `labels`: NaN and infinity are none."""
    if not labels.is_floating_point():
        return torch.zeros_like(labels, dtype=torch.bool)
    return ~torch.isfinite(labels) | (labels != labels.floor())


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for people.

    >>> shape_text(()), shape_text((3,))
    ('one number', '[3]')
    """
    return str(list(shape)) if shape else "one number"
