"""Encrypted sums as a hospital sees them: tag, encrypt, and after the sum decrypt, check, unpack.

The coordinator's half is summation.py, which knows no SEAL.
"""

import hmac
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto import seal
from securepfl.crypto.packing import pack, unpack
from securepfl.crypto.parameters import SEED_BYTES, Layout, ParameterSet, top_level
from securepfl.crypto.summation import Aggregate, Scheme, Wire, read_answer
from securepfl.crypto.tags import expected_tag
from securepfl.crypto.words import Words
from securepfl.errors import AggregateError

__all__ = [
    "Aggregate",
    "PlainCipher",
    "Scheme",
    "SealCipher",
    "SumCipher",
    "Wire",
    "check_and_unpack",
    "prepare",
]

_REFUSED = "the aggregate failed its check, so nothing was applied"


def prepare(
    levels: NDArray[np.uint64], layout: Layout, client_index: int, tag_key: bytes, context: bytes
) -> NDArray[np.uint64]:
    """Packed levels, shape (values,) in, followed by this contribution's tag: shape (layout.slots,).

    `context` must name the federation, round, attempt and purpose; two different messages of one client must
    never share it. Raises ValueError for a wrong shape, levels off the grid or an index outside the roster.
    """
    if not 0 <= client_index < layout.clients:
        raise ValueError(f"client_index must be in [0, {layout.clients}), not {client_index}")
    values = pack(levels, layout)
    return np.concatenate([values, expected_tag(values, layout, {client_index: 1}, tag_key, context)])


def check_and_unpack(
    slot_sum: NDArray[np.uint64],
    layout: Layout,
    expected_weights: Mapping[int, int],
    tag_key: bytes,
    context: bytes,
) -> NDArray[np.uint64]:
    """Sums of levels, shape (values,), of exactly the clients in `expected_weights` (index: weight).

    Raises AggregateError, always the same, where anything else is in the sum or anything in it was altered.
    """
    values, tag = slot_sum[: layout.value_slots], slot_sum[layout.value_slots :]
    weights = dict(expected_weights)
    levels_sum = unpack(values, layout)
    expected = expected_tag(values, layout, weights, tag_key, context)
    genuine = hmac.compare_digest(expected.tobytes(), tag.astype(np.uint64).tobytes())
    within = int(levels_sum.max()) <= sum(weights.values()) * top_level(layout.bits)
    if not (genuine and within):
        raise AggregateError(_REFUSED)
    return levels_sum


class SumCipher(Protocol):
    """What a hospital does with its slots; the federation chooses which."""

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution from slots, shape (layout.slots,)."""
        ...

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """Sums of slots modulo the plain modulus, shape (layout.slots,), from an answer."""
        ...


def _check_slots(slots: Words, layout: Layout) -> None:
    if slots.shape != (layout.slots,):
        raise ValueError(f"slots must have shape ({layout.slots},), not {slots.shape}")
    if int(slots.max()) >= layout.parameters.plain_modulus:
        raise ValueError(f"slots must be below {layout.parameters.plain_modulus}, found {int(slots.max())}")


class PlainCipher:
    """`--plaintext`: slots travel packed at the bit length of the plain modulus, readable by the
    coordinator.
    """

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution, not encrypted. Raises ValueError for slots that do not fit the layout."""
        _check_slots(slots, layout)
        return Wire(layout, "none").pack(slots)

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """The sums of slots. Raises MessageError for bytes that do not fit the layout."""
        return read_answer(answer, Wire(layout, "none"), b"")[2]


class SealCipher:
    """BFV under the hospitals' common secret key for one parameter set (from `seal.generate_secret_key`)."""

    def __init__(self, he_key: bytes, parameters: ParameterSet) -> None:
        self._secret = seal.SecretContext(parameters, he_key)

    def _wire(self, layout: Layout) -> Wire:
        if layout.parameters != self._secret.parameters:
            raise ValueError(f"layout is for {layout.parameters.name!r}, key for {self._secret.parameters.name!r}")
        return Wire(layout, "bfv")

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution: version stamp, a seed for each ciphertext, the first polynomials' words packed.

        Raises ValueError for slots that do not fit the layout, or a layout of another parameter set.
        """
        wire = self._wire(layout)
        _check_slots(slots, layout)
        padded = np.zeros(wire.words, dtype=np.uint64)
        padded[: slots.size] = slots
        encrypted = [self._secret.encrypt_slots(row) for row in padded.reshape(layout.ciphertexts, -1)]
        words = np.concatenate([first[0] for _, first in encrypted])
        return seal.stamp() + b"".join(seed for seed, _ in encrypted) + wire.pack(words)

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """The sums of slots.

        Raises MessageError for bytes that do not fit the layout or come from another SEAL, ValueError for a
        layout of another parameter set.
        """
        weights, seeds, words = read_answer(answer, self._wire(layout), seal.stamp())
        rows = words.reshape(layout.ciphertexts, 1, -1)
        cuts = [slice(SEED_BYTES * index, SEED_BYTES * (index + 1)) for index in range(layout.ciphertexts)]
        slots = [
            self._secret.decrypt_sum(row, [own[cut] for own in seeds], weights)
            for row, cut in zip(rows, cuts, strict=True)
        ]
        return np.concatenate(slots)[: layout.slots]
