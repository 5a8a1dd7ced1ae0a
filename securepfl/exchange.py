"""How vectors of floats travel as encrypted integer sums: the hospital's side, and what both sides know of it.

quantise -> pack -> participant and tag slots -> encrypt, and back: decrypt -> check -> unpack -> sum.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.aggregation import SumCipher, check_and_unpack, prepare
from securepfl.crypto.keys import FederationKey
from securepfl.crypto.packing import dequantise_sum, quantise
from securepfl.crypto.parameters import SIMILARITY, Layout, ParameterSet, choose_layout
from securepfl.crypto.similarity import SealSimilarity
from securepfl.crypto.summation import Wire
from securepfl.federation import Federation
from securepfl.learning.sparsity import most_coordinates
from securepfl.randomness import RandomStream

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Layouts:
    """The shapes of a federation's sums: known to every party, the coordinator included."""

    update: Layout
    personal: Layout | None

    @classmethod
    def of(cls, federation: Federation) -> "Layouts":
        """From a bound federation. Raises ConfigError where no parameter set fits the roster and bits."""
        if federation.shape is None:
            raise ValueError("federation is not bound to a model: call Federation.bound first")
        sparsity, bits, clients = federation.sparsity, federation.encryption.bits, len(federation.roster)
        sent = most_coordinates(federation.shape.shared, sparsity.density, sparsity.block)
        personal = federation.shape.personal
        return cls(
            update=choose_layout(sent, bits, clients),
            personal=choose_layout(personal, bits, clients) if personal else None,
        )

    def parameter_sets(self, federation: Federation) -> set[ParameterSet]:
        """The sets that the federation key needs secrets for; none under `--plaintext`."""
        if not federation.encrypted:
            return set()
        sums = {layout.parameters for layout in (self.update, self.personal) if layout is not None}
        return sums | ({SIMILARITY} if federation.similarity.every else set())

    def most_bytes(self, federation: Federation) -> int:
        """A bound on the body of any message, checked before one is opened.

        An answer is the largest: one sum of updates, two of personal components, and a row of similarities.
        """
        clients, scheme = len(federation.roster), federation.encryption.scheme
        layouts = [self.update] + [self.personal] * 2 if self.personal is not None else [self.update]
        sums = sum(Wire(layout, scheme).answer_bytes(clients) for layout in layouts)
        similarity = (clients + 1) * SIMILARITY_BYTES if federation.similarity.every else 0
        return sums + similarity + NAMES_BYTES * (clients + 1)


SIMILARITY_BYTES = max(SealSimilarity.UPLOAD_BYTES, SealSimilarity.ANSWER_BYTES)
NAMES_BYTES = 2048
"""Allowed for each hospital's name (at most 255 bytes, up to four times) and the fields around it."""


@dataclass(frozen=True)
class Encoded:
    """What one vector became: the bytes to send, the values they stand for, how many were clipped."""

    data: bytes
    sent: Vector
    clipped: int


@dataclass(frozen=True)
class SumChannel:
    """One kind of sum as a hospital sees it. `limit` bounds each value; `tag_key` never leaves hospitals."""

    layout: Layout
    limit: float
    cipher: SumCipher
    tag_key: bytes
    clients: Mapping[str, int]

    def __repr__(self) -> str:
        return f"SumChannel(layout={self.layout!r}, limit={self.limit})"

    @classmethod
    def open(cls, federation: Federation, key: FederationKey) -> "dict[str, SumChannel]":
        """The channels of a federation by kind: "update", and "personal" where something is personal."""
        layouts, settings = Layouts.of(federation), federation.encryption
        clients = {name: index for index, name in enumerate(federation.roster)}
        kinds = {
            "update": (layouts.update, settings.limit),
            "personal": (layouts.personal, settings.personal_limit),
        }
        return {
            kind: cls(layout, limit, key.sum_cipher(layout), key.tag_key, clients)
            for kind, (layout, limit) in kinds.items()
            if layout is not None
        }

    def encode(self, values: Vector, client: str, context: bytes, stream: RandomStream) -> Encoded:
        """Encrypt `values` [at most layout.values]; the rest of the layout is zero."""
        padded = np.zeros(self.layout.values)
        padded[: values.size] = values
        quantised = quantise(padded, self.layout.bits, self.limit, stream)
        slots = prepare(quantised.levels, self.layout, self.clients[client], self.tag_key, context)
        sent = dequantise_sum(quantised.levels, 1, self.layout.bits, self.limit)[: values.size]
        return Encoded(self.cipher.encrypt(slots, self.layout), sent, quantised.clipped)

    def decode(self, answer: bytes, weights: Mapping[str, int], context: bytes, count: int) -> Vector:
        """The weighted sum's first `count` values. Raises AggregateError where the sum is not exactly `weights`'."""
        slots = self.cipher.decrypt(answer, self.layout)
        expected = {self.clients[name]: weight for name, weight in weights.items()}
        levels = check_and_unpack(slots, self.layout, expected, self.tag_key, context)
        return dequantise_sum(levels, sum(weights.values()), self.layout.bits, self.limit)[:count]
