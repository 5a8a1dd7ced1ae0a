"""Encrypted sums as a hospital sees them: tag, encrypt, and after the sum decrypt, check, unpack.

The coordinator's half is summation.py, which knows no SEAL.
"""

import hmac
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.packing import pack, unpack
from securepfl.crypto.sums.parameters import Layout, ParameterSet, top_level
from securepfl.crypto.sums.summation import Aggregate, Scheme, Wire, read_answer
from securepfl.crypto.sums.tags import expected_tag
from securepfl.crypto.sums.uniform import uniform_chunks
from securepfl.crypto.sums.words import Words, add, scale
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

_REFUSED = "the sum failed its check: a contribution was altered, dropped or doubled on the way; nothing was applied"


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
    """BFV under the hospitals' common secret key (from `seal.generate_secret_key`) and one parameter set."""

    def __init__(self, he_key: bytes, parameters: ParameterSet) -> None:
        self._secret = seal.SecretContext(parameters, he_key)

    def _wire(self, layout: Layout) -> Wire:
        if layout.parameters != self._secret.parameters:
            raise ValueError(f"layout is for {layout.parameters.name!r}, cipher for {self._secret.parameters.name!r}")
        return Wire(layout, "bfv")

    def encrypt(self, slots: NDArray[np.uint64], layout: Layout) -> bytes:
        """One contribution: version stamp, the seed, the first polynomials' words packed.

        Raises ValueError for slots that do not fit the layout, or a layout of another parameter set.
        """
        wire = self._wire(layout)
        _check_slots(slots, layout)
        seed, words = self._secret.encrypt(slots)
        return seal.stamp() + seed + wire.pack(words)

    def decrypt(self, answer: bytes, layout: Layout) -> NDArray[np.uint64]:
        """The sums of slots.

        Raises MessageError for bytes that do not fit the layout or come from another SEAL, ValueError for a
        layout of another parameter set.
        """
        wire = self._wire(layout)
        weights, seeds, words = read_answer(answer, wire, seal.stamp())
        # Dropped bits come back as their middle: once for each summand, once for the answer.
        middle = (1 << wire.dropped_bits >> 1) * (sum(weights) + 1) % wire.modulus
        first = add(words, np.uint64(middle), wire.modulus)
        return self._secret.decrypt(first, _uniform_sum(seeds, weights, layout))


def _uniform_sum(seeds: Sequence[bytes], weights: Sequence[int], layout: Layout) -> NDArray[np.uint64]:
    """The weighted sum of the uniform halves that seeds stand for, shape (ciphertexts, degree)."""
    parameters = layout.parameters
    shape, prime = (layout.ciphertexts, parameters.poly_modulus_degree), parameters.coeff_modulus
    total = np.zeros(shape[0] * shape[1], dtype=np.uint64)
    # So many words below the prime, and what is there already, fit in 64 bits: the rest is reduced once for all.
    room = 2**64 // prime - 1
    for start in range(0, len(seeds), room):
        for seed, weight in zip(seeds[start : start + room], weights[start : start + room], strict=True):
            at = 0
            for chunk in uniform_chunks(seed, total.size, prime):
                total[at : at + chunk.size] += scale(chunk, weight, prime)
                at += chunk.size
        total %= np.uint64(prime)
    return total.reshape(shape)
