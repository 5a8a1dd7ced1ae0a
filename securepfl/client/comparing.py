"""How a hospital compares itself with others: what is compared, less its known noise; sketches out, rows back."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from securepfl.client.round import Round
from securepfl.client.state import ClientState, Doubles, Floats, Pending
from securepfl.crypto.keys.keys import FederationKey
from securepfl.crypto.similarity.norms import travelled_norm
from securepfl.crypto.similarity.scheme import Shape, Similarity, SimilarityCipher, similarity_scheme
from securepfl.crypto.similarity.sketches import sketch
from securepfl.errors import MessageError
from securepfl.learning.personal.signal import KnownNoise, Signal, largest_excess
from securepfl.protocol.channels import comparison_shape
from securepfl.protocol.groups import Group, group_of
from securepfl.randomness import derive_key
from securepfl.settings.federation import Federation

Nonces = Mapping[str, bytes]


@dataclass(frozen=True)
class Compared:
    """What a hospital compares: `vector` [m], and the known noise in it, which nobody else can take off.

    It travels scaled so that products give the cosine between signals; where the signal does not pass the gate, as
    zero. Others learn debiased cosines and norms; the noise in them follows from the declared units.
    """

    vector: NDArray[np.float64]
    noise: KnownNoise
    gate: float

    @cached_property
    def signal(self) -> Signal:
        """How much of it is signal."""
        return Signal.of(self.vector, self.noise)

    @property
    def visible(self) -> bool:
        """Whether there is signal enough to compare."""
        return self.signal.norm > 0 and self.signal.ratio >= self.gate

    @property
    def norm(self) -> float:
        """The signal's norm as all hospitals read it, 0 where it is not visible."""
        return travelled_norm(self.signal.norm if self.visible else 0.0)

    def sketch(self, shape: Shape, key: bytes, rounding: bytes) -> NDArray[np.int64]:
        """The sketch [shape.dimensions], its norm in proportion to the vector's over the signal's. `key` is the
        hospitals', `rounding` another for each.
        """
        if not self.visible:
            return np.zeros(shape.dimensions, dtype=np.int64)
        scale = min(1.0, float(np.linalg.norm(self.vector)) / self.signal.norm / self.most_excess)
        return sketch(self.vector, shape.dimensions, key, scale, shape.precision, rounding)

    def opened(self, answer: Similarity) -> Similarity:
        """What an answer about another hospital says of the signals."""
        return Similarity(max(-1.0, min(1.0, answer.cosine * self.most_excess**2)), answer.norm)

    @property
    def most_excess(self) -> float:
        """The scale that all hospitals share."""
        return largest_excess(self.vector.size, self.gate)


def compared_of(state: ClientState, gate: float) -> Compared:
    """What `state` holds for comparison."""
    return Compared(state.compared, noise_of(state), gate)


def noise_of(state: ClientState) -> KnownNoise:
    """The known noise in what `state` holds for comparison."""
    return KnownNoise(state.noise_energy, state.noise_peak)


def set_noise(state: ClientState, noise: KnownNoise) -> None:
    """Keep `noise` as what is known."""
    state.noise_energy, state.noise_peak = noise.energy, noise.peak


def follow(
    federation: Federation, state: ClientState, gradient: Doubles, personal: Floats, *, moved: int, variance: float
) -> None:
    """Keep account of what is compared and of the noise in it, when training has moved the shared parameters by
    `gradient` [d], `moved` of them, and the state's personal ones to `personal` [p], with noise of `variance` each.
    """
    noise, before = noise_of(state), state.personal
    if federation.compares == "updates":
        state.compared[: gradient.size] += gradient
        state.compared[gradient.size :] += before - personal
        set_noise(state, noise.plus(moved + before.size, variance))


@dataclass(frozen=True)
class Comparison:
    """Hospital `name`'s side of a comparison. `cipher` is None where nobody is compared."""

    federation: Federation
    name: str
    shape: Shape
    cipher: SimilarityCipher | None
    sketch_key: bytes

    def __repr__(self) -> str:
        return f"Comparison({self.name!r}, {self.federation.similarity})"

    @classmethod
    def of(cls, federation: Federation, name: str, key: FederationKey) -> "Comparison":
        """With the cipher that the federation's settings ask for."""
        way, shape = similarity_scheme(federation.scheme.similarity), comparison_shape(federation)
        compares = federation.similarity.every > 0
        cipher = way.cipher(key.similarity_key, key.similarity_he_key, shape) if compares else None
        return cls(federation, name, shape, cipher, key.support_key)

    def evaluation(self, *, held: bool) -> bytes | None:
        """Public keys for the coordinator to multiply with, until it holds those of this hospital."""
        return None if self.cipher is None or held else self.cipher.evaluation_keys()

    def upload(self, round_: Round, compared: Compared, nonces: Nonces, own: bytes) -> bytes | None:
        """The encrypted sketch, in the rounds in which one is due.

        Pads come from nonces: a hospital to which the invitation gives another nonce than the one it sent last, `own`,
        sends no sketch, so no two sketches ever share pads.
        """
        due = self.federation.schedule.similarity_due(round_.number) and bool(own) and nonces.get(self.name) == own
        if self.cipher is None or not due:
            return None
        values, group = self._sketch(compared, round_.number), self._group(round_)
        place, context = group.places[self.name], group.context(round_.contexts["similarity"])
        return self.cipher.encrypt(values, compared.norm, place, context, _by_place(group, nonces))

    def open_row(
        self, round_: Round, compared: Compared, pending: Pending, row: Mapping[str, bytes]
    ) -> dict[str, Similarity]:
        """What this hospital's row says of each other hospital, given what it uploaded, of which the sketch is made
        anew. Raises MessageError for what does not fit, or speaks of a hospital outside this one's group,
        AggregateError where anything was altered.
        """
        if not row:
            return {}
        if self.cipher is None:
            raise MessageError("similarities in a federation that compares nobody; refused")
        group, own = self._group(round_), self._sketch(compared, round_.number)
        if not row.keys() <= group.places.keys():
            raise MessageError("similarities to hospitals outside the round's group; refused")
        nonces = _by_place(group, {other: bytes.fromhex(nonce) for other, nonce in pending.nonces.items()})
        answers = {group.places[other]: answer for other, answer in row.items()}
        place, context = group.places[self.name], group.context(round_.contexts["similarity"])
        opened = self.cipher.open_row(answers, own, place, context, nonces)
        return {group.members[other]: compared.opened(found) for other, found in opened.items()}

    def sound(
        self, round_: Round, sender: str, sketch: bytes, evaluation: bytes | None, nonces: Mapping[str, str]
    ) -> bool:
        """Whether another hospital's sketch in the round, and its evaluation keys, are by the rules. `nonces` are those
        of the invitation (hexadecimal); a hospital that was told none, or is in another group, cannot tell, and lets
        them pass.
        """
        if self.cipher is None:
            return False
        group = self._group(round_)
        known = _by_place(group, {name: bytes.fromhex(nonce) for name, nonce in nonces.items()})
        place = group.places.get(sender)
        if place is None or place not in known:
            return True
        keys_hold, context = evaluation is None or self.cipher.check_keys(evaluation), round_.contexts["similarity"]
        return keys_hold and self.cipher.check_upload(sketch, place, group.context(context), known)

    def meets(self, round_: Round, other: str) -> bool:
        """Whether the round multiplies this hospital's sketch with that of hospital `other`."""
        return other in self._group(round_).places

    def _sketch(self, compared: Compared, round_: int) -> NDArray[np.int64]:
        key = derive_key(self.sketch_key, "sketch", round_)
        return compared.sketch(self.shape, key, derive_key(key, "sketch rounding", self.name))

    def _group(self, round_: Round) -> Group:
        return group_of(self.federation, self.name, round_.number)


def _by_place(group: Group, nonces: Nonces) -> dict[int, bytes]:
    return {place: nonces[name] for name, place in group.places.items() if name in nonces}
