"""What label checks of several tasks share."""

from collections.abc import Callable

import torch
from torch import Tensor

from securepfl.tasks.task import Illegal, Shape


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


def other_shape(label: Shape, output: Shape | None) -> Illegal:
    """A record's label has another shape than the model's output (None: unknown), where both are to be one number.

    >>> other_shape((1,), ()).problem
    "label is [1], and the model's output one number; reshape one of them, as by labels[:, 0]"
    """
    wanted = () if output is None else output
    mends = {((), (1,)): ", as by nn.Flatten(0) at the model's end", ((1,), ()): ", as by labels[:, 0]"}
    return Illegal(
        0,
        f"label is {shape_text(label)}, and the model's output {shape_text(wanted)}; "
        f"reshape one of them{mends.get((label, wanted), '')}",
    )


def shape_text(shape: tuple[int, ...]) -> str:
    """A shape for people.

    >>> shape_text(()), shape_text((3,))
    ('one number', '[3]')
    """
    return str(list(shape)) if shape else "one number"
