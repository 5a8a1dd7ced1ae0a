"""Units that cannot be used: each counts as zero, and those beside it count as ever.

A record must not decide whether a hospital answers. So what one does to the pipeline (a file that cannot be read, a
label that the loss refuses, an image of another shape, more than fits into memory) ends with it: what fails for many
units together is tried again in halves, down to single ones.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, TypeVar

import torch

from securepfl.errors import ModelError, first_line

Reason = Literal["skipped", "unreadable", "refused", "memory", "not finite"]
Unit = TypeVar("Unit")
Joined = TypeVar("Joined")
Made = TypeVar("Made")

# What torch's allocator of the CPU says: it raises no class of its own.
_NO_MEMORY = ("not enough memory", "can't allocate memory")


class Unusable:
    """How many units counted as zero, by reason. Exact functions of private records: they stay in the hospital.

    Reasons: skipped, as the caller said; unreadable, when fetched or made a batch; refused by model or loss; memory,
    too large for it; not finite, a gradient with a NaN or an infinity.

    >>> unusable = Unusable()
    >>> list(unusable.in_halves([1, 0, 4, 2], list, lambda units: [8 // unit for unit in units]))
    [[8], [2, 4]]
    >>> unusable.counts()
    {'refused': 1}
    """

    def __init__(self) -> None:
        self._counts: Counter[Reason] = Counter()
        self.model_error: str | None = None

    def add(self, reason: Reason, units: int) -> None:
        if units:
            self._counts[reason] += units

    def note(self, error: Exception, reason: Reason) -> None:
        """One unit that failed by itself."""
        if isinstance(error, ModelError) and self.model_error is None:
            self.model_error = first_line(error)
        self.add("memory" if _is_memory(error) else reason, 1)

    def counts(self) -> Mapping[Reason, int]:
        return dict(self._counts)

    def in_halves(
        self, units: Sequence[Unit], join: Callable[[Sequence[Unit]], Joined], use: Callable[[Joined], Made]
    ) -> Iterator[Made]:
        """What `use` makes of joined `units`, in as few parts as it takes, in order. One that fails alone is counted.

        Parts are joined anew: in a joined whole, one unit may have changed the type of all.
        """
        waiting = [units]
        while waiting:
            part = waiting.pop()
            reason: Reason = "unreadable"
            try:
                joined = join(part)
                reason = "refused"
                made = use(joined)
            except Exception as error:  # noqa: BLE001 - whatever data set, model and loss raise
                if len(part) == 1:
                    self.note(error, reason)
                else:
                    half = len(part) // 2
                    waiting += [part[half:], part[:half]]
                continue
            finally:
                joined = None  # type: ignore[assignment] # not kept while parts of it, or the next, are tried
            yield made


def _is_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _NO_MEMORY)
