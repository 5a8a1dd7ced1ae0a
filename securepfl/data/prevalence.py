"""How common each outcome is, as declared from public knowledge: a number in (0, 1), or a share of each class."""

import math
from collections.abc import Mapping

Prevalence = float | Mapping[str, float]

_RAREST = 1e-9
"""Eight people on Earth. The log-odds of far smaller shares are infinite."""


def require_shares(prevalence: Prevalence | None) -> None:
    """Raise ValueError for a share outside (0, 1), or so near an end that it is none.

    >>> require_shares(0.3)
    >>> require_shares({"mild": 0.7, "severe": 1.3})
    Traceback (most recent call last):
    ValueError: prevalence of severe = 1.3: must be between 0 and 1 (write 0.3 for 30 %)
    """
    shares = prevalence if isinstance(prevalence, Mapping) else {} if prevalence is None else {"": prevalence}
    for name, share in shares.items():
        of = f" of {name}" if name else ""
        if not (math.isfinite(share) and 0 < share < 1):
            raise ValueError(f"prevalence{of} = {share}: must be between 0 and 1 (write 0.3 for 30 %)")
        if not _RAREST <= share <= 1 - _RAREST:
            raise ValueError(f"prevalence{of} = {share}: is nearer to 0 or 1 than {_RAREST:g}; leave it out")


def in_order(prevalence: Prevalence, task: str, names: tuple[str, ...]) -> tuple[float, ...]:
    """The shares in the order of `names`, the classes or labels of `task`; one of a binary task, and of masks.

    Classes' shares are divided by their sum, which must be 1 but for rounding. Raises ValueError, saying what to
    declare.

    >>> in_order({"severe": 0.25, "mild": 0.75}, "multiclass", ("mild", "severe"))
    (0.75, 0.25)
    """
    if task == "regression":
        raise ValueError("prevalence has no place in a regression; declare the number's centre in [data] label_range")
    if task in ("binary", "segmentation"):
        if isinstance(prevalence, Mapping):
            whose = "label 1" if task == "binary" else "the field of view that is of the structure"
            raise ValueError(f"prevalence of a {task} task is one number, the share of {whose}")
        return (prevalence,)
    if not isinstance(prevalence, Mapping) or set(prevalence) != set(names):
        shares = ", ".join(f'"{name}" = ...' for name in names)
        raise ValueError(f"prevalence of a {task} task: declare {{ {shares} }}")
    ordered = tuple(float(prevalence[name]) for name in names)
    if task == "multilabel":
        return ordered
    total = math.fsum(ordered)
    if abs(total - 1) > 0.02:
        raise ValueError(f"prevalence: the classes' shares sum to {total:.3g}, not 1; correct them")
    return tuple(share / total for share in ordered)
