"""The mean of a neighbourhood's personal parameters, as a hospital was last answered it: kept for a release.

A hospital that is coupled learns a sum over at least three others, and no new value of any one is ever formed here. But
two sums of one round that differ in one hospital show that hospital: so of all neighbourhoods those alone are released
that have no hospital in common, and leave out nobody or at least three.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import numpy as np

from securepfl.client.answers import Opened
from securepfl.client.state import Floats
from securepfl.errors import StorageError
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.settings.federation import Federation
from securepfl.storage.folder import read_arrays, write_arrays

FILE: Final = "neighbourhood.safetensors"


@dataclass(frozen=True)
class Neighbourhood:
    """The mean personal parameters [p] of the hospitals `together`, sorted, in `round` of the federation's run."""

    mean: Floats
    together: tuple[str, ...]
    round: int

    @classmethod
    def of(cls, opened: Opened, start: Floats, federation: Federation, round_: int) -> Self | None:
        """What an answer told, where it is to be released one day; None otherwise.

        Under the network lasso weights differ, and a mean may be all but one hospital's: it stays.
        """
        if opened.neighbourhood is None or not federation.release.experts or federation.lasso is not None:
            return None
        mean = (start + opened.neighbourhood).astype(np.float32)
        return cls(mean, tuple(sorted(opened.weights)), round_)

    def save(self, folder: Path, session: bytes) -> None:
        """In a hospital's own `folder`, for the run that `session` is the digest of. Raises StorageError."""
        meta = {"session": session.hex(), "together": list(self.together), "round": self.round}
        write_arrays(folder / FILE, {"mean": self.mean}, meta)

    @classmethod
    def load(cls, folder: Path, session: bytes) -> Self | None:
        """The last one of this run; None where there is none. Raises StorageError where it is damaged."""
        path = folder / FILE
        if not path.exists():
            return None
        arrays, meta = read_arrays(path)
        try:
            if meta["session"] != session.hex():
                return None
            return cls(arrays["mean"].astype(np.float32), tuple(meta["together"]), int(meta["round"]))
        except (KeyError, TypeError, ValueError):
            raise StorageError(f"{path}: not a file that securepfl wrote whole; restore it from a copy") from None


def releasable(found: Mapping[str, Neighbourhood | None], roster: tuple[str, ...]) -> list[str]:
    """Whose neighbourhoods may be released together, of those `found` by hospital, in the roster's order.

    All are of the last round of any, have no hospital in common, and leave out none of the roster or at least three.

    >>> one = Neighbourhood(np.zeros(1, np.float32), ("b", "c", "d"), 4)
    >>> other = Neighbourhood(np.zeros(1, np.float32), ("a", "c", "d"), 4)
    >>> releasable({"a": one, "b": other}, ("a", "b", "c", "d", "e", "f"))
    ['a']
    >>> releasable({"a": one}, ("a", "b", "c", "d"))
    []
    """
    there = {name: its for name in roster if (its := found.get(name)) is not None}
    last = max((its.round for its in there.values()), default=0)
    chosen, taken = list[str](), set[str]()
    for name, its in there.items():
        if its.round == last and len(its.together) >= LEAST_NEIGHBOURS and not taken & set(its.together):
            chosen.append(name)
            taken |= set(its.together)
    while chosen and 0 < len(set(roster) - taken) < LEAST_NEIGHBOURS:
        taken -= set(there[chosen.pop()].together)
    return chosen
