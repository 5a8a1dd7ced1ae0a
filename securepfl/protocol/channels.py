"""How vectors of floats travel as encrypted integer sums: the hospital's side, and what both sides know of it.

quantise -> pack and tag -> mask -> encrypt, and back: decrypt -> check -> unpack -> sum.
"""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.keys.identity import SIGNATURE_BYTES
from securepfl.crypto.keys.keys import FederationKey
from securepfl.crypto.masks.graph import Masking, default_degree
from securepfl.crypto.masks.masking import Masked
from securepfl.crypto.similarity.precision import COARSE, FINE
from securepfl.crypto.similarity.scheme import Shape, similarity_scheme
from securepfl.crypto.sums.contribution import check_and_unpack, prepare
from securepfl.crypto.sums.packing import dequantise, dequantise_sum, quantise
from securepfl.crypto.sums.parameters import MAX_BITS, Layout, choose_layout, top_level
from securepfl.crypto.sums.scheme import SumCipher
from securepfl.errors import ConfigError
from securepfl.learning.sparse.support import most_coordinates
from securepfl.protocol.bounds import SumBound
from securepfl.protocol.groups import largest_group
from securepfl.randomness import RandomStream
from securepfl.settings.evaluation import Evaluation
from securepfl.settings.federation import Federation, SumKind
from securepfl.settings.fixed import SKETCH_DIMENSIONS

Vector = NDArray[np.float64]

_NAMES_BYTES = 2560
"""Allowed for each hospital's name (at most 255 bytes, up to six times) and the fields around it."""
_STATEMENT_BYTES = 512
"""Allowed for each hospital's statement, and for a line about it."""

_SNAPSHOT_VALUE_BYTES = 12
"""A shared parameter and the last sum's value of it, in single and double precision."""


def run_digest(base: bytes, run: bytes) -> bytes:
    """What a run's tags, masks, pads and ledger lines are bound to: settings and key (`base`, 32 bytes, from
    Federation.session_digest) and the run's identifier. 32 bytes.

    >>> len(run_digest(bytes(32), bytes(16)))
    32
    """
    return hashlib.sha256(b"securepfl run 1" + base + run).digest()


def round_context(session: bytes, kind: str, round_: int, attempt: int = 0) -> bytes:
    """What tags, masks and pads are bound to, by hospitals and coordinator alike: the run (`session`, from
    run_digest), the round, the attempt and the kind of sum.
    """
    return session + f"{kind}/{round_}/{attempt}".encode()


def mask_context(session: bytes, round_: int, attempt: int, salt: bytes) -> bytes:
    """What a round's masks are bound to: as the sum of updates, and to the round's salt, so that masks never come
    twice, also where hospitals go back to an older state under the same keys.
    """
    return round_context(session, "update", round_, attempt) + b"/" + salt


Masker = Callable[[NDArray[np.uint64], int], Masked]
"""(slots, plain modulus) -> the slots masked under the round's context."""


@dataclass(frozen=True)
class Layouts:
    """The shapes of a federation's sums and masks: known to every party, the coordinator included.

    `masking` is None where updates are not masked.
    """

    update: Layout
    personal: Layout | None
    masking: Masking | None

    @classmethod
    def of(cls, federation: Federation) -> "Layouts":
        """From a bound federation. Raises ConfigError where no parameter set fits the roster and bits, or too few
        hospitals mask.
        """
        if federation.shape is None:
            raise ConfigError("the federation is not bound to hospitals and a model: call Federation.bound first")
        sparsity, bits, clients = federation.sparsity, federation.encryption.bits, len(federation.roster)
        sent = most_coordinates(federation.shape.shared, sparsity.density, sparsity.block)
        personal = federation.shape.personal
        if federation.release.metrics:
            sent = max(sent, federation.once(Evaluation.of).values)
        return cls(
            update=choose_layout(sent, MAX_BITS if federation.shares_noise else bits, clients),
            personal=choose_layout(personal, bits, clients, federation.most_edge_weight) if personal else None,
            masking=masking_of(federation),
        )

    def most_bytes(self, federation: Federation) -> int:
        """A bound on the body of any message, checked before one is opened.

        It adds up the parts of all messages: sums up and down, similarity up and down, shares and signatures.
        """
        clients = len(federation.roster)
        wires = [federation.scheme_of("update").wire(self.update)]
        if self.personal is not None:
            # An answer may hold two sums of them.
            wires += [federation.scheme_of("personal").wire(self.personal)] * 2
        sums = sum(wire.contribution_bytes + wire.answer_bytes(clients) for wire in wires)
        row = _comparison_bytes(federation) if federation.similarity.every > 0 else 0
        masks = 0 if self.masking is None else clients * (self.masking.most_bytes + SIGNATURE_BYTES)
        return sums + row + masks + (_NAMES_BYTES + _STATEMENT_BYTES) * (clients + 1)

    def most_snapshot_bytes(self, federation: Federation) -> int:
        """A bound on the body of a message that holds the shared state, with what hospitals stated about it."""
        shared = 0 if federation.shape is None else federation.shape.shared
        people = (_NAMES_BYTES + _STATEMENT_BYTES) * (len(federation.roster) + 1)
        return shared * _SNAPSHOT_VALUE_BYTES + people


def comparison_shape(federation: Federation) -> Shape:
    """How the hospitals of a group are compared: the network lasso needs distances of personal parameters as they
    are.
    """
    precision = FINE if federation.compares == "personal" else COARSE
    return Shape(largest_group(len(federation.roster)), SKETCH_DIMENSIONS, precision)


def _comparison_bytes(federation: Federation) -> int:
    """Evaluation keys and a sketch up, a row down."""
    way, shape = similarity_scheme(federation.scheme.similarity), comparison_shape(federation)
    return way.evaluation_bytes + way.upload_bytes(shape) + shape.clients * way.answer_bytes(shape)


def masking_of(federation: Federation) -> Masking | None:
    """How updates are masked, or None where they are not. Raises ConfigError where too few hospitals mask."""
    if not federation.masked:
        return None
    clients, shared = len(federation.roster), federation.shared_noise
    degree = default_degree(clients)
    if shared is not None:
        # A hospital whose mask partners are all colluding or missing would be hidden by nobody.
        degree = min(clients - 1, max(degree, shared.absent + 1))
    try:
        return Masking(clients, degree)
    except ValueError as error:
        raise ConfigError(f"[encryption] masking = 'pairwise': {error}") from None


@dataclass(frozen=True)
class Encoded:
    """What one vector became: the bytes to send, the values they stand for, how many were clipped, and the masks that
    its slots carry.
    """

    data: bytes
    sent: Vector
    clipped: int
    masked: Masked | None


@dataclass(frozen=True)
class SumChannel:
    """One kind of sum as a hospital sees it.

    `limit` bounds each value. `tag_key` never leaves hospitals. `clients` are indexes in the roster, `shares` the
    factors by which hospitals scaled what they sent. `normaliser` divides a sum in place of the shares, where it is
    over units and not over hospitals.
    """

    layout: Layout
    limit: float
    cipher: SumCipher
    tag_key: bytes
    clients: Mapping[str, int]
    shares: Mapping[str, float]
    normaliser: int | None = None

    def __repr__(self) -> str:
        return f"SumChannel(layout={self.layout!r}, limit={self.limit})"

    @classmethod
    def open(cls, federation: Federation, key: FederationKey) -> "dict[str, SumChannel]":
        """The channels of a federation by kind: "update", and "personal" where something is personal.

        Raises ConfigError where the key is for an encrypted federation and this one is not, or the reverse.
        """
        layouts, settings = federation.once(Layouts.of), federation.encryption
        clients = {name: index for index, name in enumerate(federation.roster)}
        weighted = {name: federation.weight_share(name) for name in clients}
        kinds: dict[SumKind, tuple[Layout | None, float, dict[str, float]]] = {
            "update": (layouts.update, settings.limit, weighted),
            "personal": (layouts.personal, settings.personal_limit, dict.fromkeys(clients, 1.0)),
        }
        channels: dict[str, SumChannel] = {}
        for kind, (layout, limit, shares) in kinds.items():
            if layout is not None:
                cipher = federation.scheme_of(kind).cipher(key.he_key, layout)
                channels[kind] = cls(layout, limit, cipher, key.tag_key, clients, shares)
        if federation.shares_noise:
            channels["update"] = channels["update"]._of_integers(federation)
        return channels

    def _of_integers(self, federation: Federation) -> "SumChannel":
        """The channel of sums of gradients on the integer grid: one grid step stands for what it moves a parameter."""
        noise = None if federation.shape is None else federation.shape.noise
        if noise is None:
            raise ConfigError("the federation is not bound to hospitals and a model: call Federation.bound first")
        step = federation.privacy.clip * federation.training.learning_rate / noise.grid
        limit = top_level(self.layout.bits) // 2 * step
        return replace(self, limit=limit, normaliser=federation.all_units)

    def encode(
        self,
        values: Vector,
        client: str,
        context: bytes,
        stream: RandomStream,
        masker: Masker | None = None,
    ) -> Encoded:
        """Encrypt `values` [at most layout.values], already scaled by the share; the rest of the layout is zero.

        With a masker, the encrypted slots are masked.
        """
        padded = np.zeros(self.layout.values)
        padded[: values.size] = values
        quantised = quantise(padded, self.layout.bits, self.limit, stream)
        data, masked = self._encrypted(quantised.levels, client, context, masker)
        sent = dequantise(quantised.levels, self.layout.bits, self.limit)[: values.size]
        return Encoded(data, sent, quantised.clipped, masked)

    def encode_integers(self, values: NDArray[np.int64], client: str, context: bytes, masker: Masker | None) -> Encoded:
        """Encrypt grid steps [at most layout.values] as they are, each at most half the top level in size. Nothing is
        kept to be sent later.
        """
        padded = np.zeros(self.layout.values, dtype=np.int64)
        padded[: values.size] = values
        levels = (padded + top_level(self.layout.bits) // 2).astype(np.uint64)
        data, masked = self._encrypted(levels, client, context, masker)
        return Encoded(data, np.zeros(values.size), 0, masked)

    def _encrypted(
        self, levels: NDArray[np.uint64], client: str, context: bytes, masker: Masker | None
    ) -> tuple[bytes, Masked | None]:
        slots = prepare(levels, self.layout, self.clients[client], self.tag_key, context)
        masked = None if masker is None else masker(slots, self.layout.parameters.plain_modulus)
        return self.cipher.encrypt(slots if masked is None else masked.slots, self.layout), masked

    def mean(
        self,
        answer: bytes,
        weights: Mapping[str, int],
        context: bytes,
        count: int,
        *,
        bound: SumBound | None = None,
    ) -> Vector:
        """The mean of the sum's first `count` values over the hospitals in `weights`, each times its weight there and
        its declared share; with a normaliser, the sum over it. A sum beyond `bound` is refused; None is the grid's.

        Raises AggregateError where the sum is not exactly that one or beyond its bound, MessageError where its bytes
        don't fit.
        """
        levels = self._levels(answer, weights, context, bound)
        total = dequantise_sum(levels, sum(weights.values()), self.layout.bits, self.limit)[:count]
        return total / (self.normaliser or math.fsum(self.shares[name] * weight for name, weight in weights.items()))

    def integers(
        self, answer: bytes, weights: Mapping[str, int], context: bytes, *, bound: SumBound
    ) -> NDArray[np.int64]:
        """The sum of what encode_integers sent, its first `bound.values` values. Raises as mean."""
        levels = self._levels(answer, weights, context, bound)[: bound.values].astype(np.int64)
        found: NDArray[np.int64] = levels - sum(weights.values()) * (top_level(self.layout.bits) // 2)
        return found

    def _levels(
        self, answer: bytes, weights: Mapping[str, int], context: bytes, bound: SumBound | None
    ) -> NDArray[np.uint64]:
        slots = self.cipher.decrypt(answer, self.layout)
        expected = {self.clients[name]: weight for name, weight in weights.items()}
        levels = check_and_unpack(slots, self.layout, expected, self.tag_key, context)
        if bound is not None:
            bound.check(levels, sum(weights.values()), top_level(self.layout.bits))
        return levels
