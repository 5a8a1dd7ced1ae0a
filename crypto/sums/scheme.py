"""How vectors of integers are summed under encryption: what every scheme answers, and the schemes by name.

A scheme is one file in schemes/, called as in `[encryption] scheme`, with a `SCHEME` in it. Nothing else lists it: the
settings, both parties, the ceremony and the benchmark ask here. Packing, tags and masks (contribution.py, ../masks) lie
outside a scheme: it sees slots, integers modulo the layout's plain modulus, and its sums are exact.
"""

import pkgutil
from functools import cache
from importlib import import_module
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums import schemes
from securepfl.crypto.sums.parameters import Layout


class SumCipher(Protocol):
    """What a hospital does with its slots."""

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution from slots, shape (layout.slots,)."""
        ...

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """Sums of slots modulo the plain modulus, shape (layout.slots,), from an answer.

        Raises MessageError for bytes that do not fit. What was altered on the way decrypts to another sum, which its
        tag refuses.
        """
        ...


class RunningSum(Protocol):
    """What the coordinator adds with: it holds no key, and parses nothing that it did not check or rebuild."""

    @property
    def contributions(self) -> int:
        """How many have been added."""
        ...

    def check(self, contribution: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and adds nothing."""
        ...

    def add(self, contribution: bytes, weight: int = 1) -> None:
        """Add `weight` times. Raises MessageError for bytes that do not fit, ValueError past the layout's limits."""
        ...

    def answer(self, mask: NDArray[np.uint64] | None = None) -> bytes:
        """What hospitals decrypt: the sum, less the sum of all masks, shape (layout.slots,), if there are any."""
        ...


class Form(Protocol):
    """Lengths, which are checked before anything is parsed."""

    @property
    def contribution_bytes(self) -> int:
        """Exact length of every contribution."""
        ...

    def answer_bytes(self, contributions: int) -> int:
        """Exact length of an answer with that many contributions in it."""
        ...


class Scheme(Protocol):
    """One way to sum: its bytes, a hospital's half and the coordinator's. Making or importing it loads no SEAL.

    All that are encrypted use the same key, so one may carry sums for another (`unmasked`).
    """

    @property
    def encrypted(self) -> bool:
        """Whether hospitals need the ring's secret key (ring.py), and the coordinator can't read sums."""
        ...

    @property
    def unmasked(self) -> str:
        """The scheme that carries this one's sums of slots without masks: itself, where it may."""
        ...

    @property
    def needs_masks(self) -> str:
        """Why slots must be masked, for an error's line; empty where they need not be."""
        ...

    @property
    def similarity(self) -> str:
        """Which file of crypto/similarity compares hospitals under this scheme."""
        ...

    def wire(self, layout: Layout) -> Form:
        """The form of contributions and answers."""
        ...

    def check_key(self, ring_key: bytes) -> None:
        """Raises ConfigError for a key where the scheme has no use for one, or none where it needs one."""
        ...

    def cipher(self, ring_key: bytes, layout: Layout) -> SumCipher:
        """A hospital's half. `ring_key` is empty where the scheme is not encrypted. Raises as `check_key` does."""
        ...

    def total(self, layout: Layout) -> RunningSum:
        """The coordinator's half: an empty sum."""
        ...


@cache
def scheme_names() -> tuple[str, ...]:
    """The names that `[encryption] scheme` may have, sorted.

    >>> "none" in scheme_names()
    True
    """
    return tuple(sorted(module.name for module in pkgutil.iter_modules(schemes.__path__)))


def find_scheme(name: str) -> Scheme:
    """The scheme of this name. Raises ValueError, naming the known ones, for another.

    >>> from securepfl.crypto.sums.parameters import choose_layout
    >>> plain, layout = find_scheme("none"), choose_layout(values=4, bits=6, clients=3)
    >>> cipher, total = plain.cipher(b"", layout), plain.total(layout)
    >>> for slots in (np.arange(layout.slots, dtype=np.uint64), np.ones(layout.slots, dtype=np.uint64)):
    ...     total.add(cipher.encrypt(slots, layout))
    >>> bool((cipher.decrypt(total.answer(), layout) == np.arange(layout.slots) + 1).all())
    True
    >>> find_scheme("rot13")
    Traceback (most recent call last):
    ValueError: scheme must be one of lean, none, tenseal, not 'rot13'
    """
    if name not in scheme_names():
        raise ValueError(f"scheme must be one of {', '.join(scheme_names())}, not {name!r}")
    found: Scheme = import_module(f"{schemes.__name__}.{name}").SCHEME
    return found
