"""How a hospital compares itself with others: sketches out, its own row of similarities back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from securepfl.client.compared import Compared
from securepfl.crypto.keys.keys import FederationKey
from securepfl.crypto.similarity.similarity import PadSimilarity, PlainSimilarity, Similarity, SimilarityCipher
from securepfl.errors import MessageError
from securepfl.randomness import derive_key
from securepfl.settings.federation import Federation

Nonces = Mapping[str, bytes]


@dataclass(frozen=True)
class Comparison:
    """Hospital `name`'s side of a comparison. `cipher` is None where nobody is compared."""

    federation: Federation
    name: str
    cipher: SimilarityCipher | None
    sketch_key: bytes

    def __repr__(self) -> str:
        return f"Comparison({self.name!r}, {self.federation.similarity})"

    @classmethod
    def of(cls, federation: Federation, name: str, key: FederationKey) -> "Comparison":
        """With the cipher that the federation's settings ask for."""
        clients, settings = len(federation.roster), federation.similarity
        cipher: SimilarityCipher | None = None
        if settings.every and federation.scheme.encrypted:
            cipher = PadSimilarity(key.similarity_key, clients, settings.dimensions)
        elif settings.every:
            cipher = PlainSimilarity(clients, settings.dimensions)
        return cls(federation, name, cipher, key.support_key)

    def upload(self, compared: Compared, round_: int, context: bytes, nonces: Nonces, own: bytes) -> bytes | None:
        """The encrypted sketch, in the rounds in which one is due.

        Pads come from nonces: a hospital to which the invitation gives another nonce than the one it sent last, `own`,
        sends no sketch, so no two sketches ever share pads.
        """
        due = self.federation.schedule.similarity_due(round_) and bool(own) and nonces.get(self.name) == own
        if self.cipher is None or not due:
            return None
        values, index = self._sketch(compared, round_), self.federation.roster.index(self.name)
        return self.cipher.encrypt(values, compared.norm, index, context, self._by_index(nonces))

    def opener(
        self, compared: Compared, round_: int, context: bytes, nonces: Nonces
    ) -> Callable[[str, bytes], Similarity]:
        """What opens this hospital's row, one other hospital at a time, given what it uploaded.

        The sketch is made anew only where there is an answer to open.
        """
        cipher, roster = self.cipher, self.federation.roster
        if cipher is None:
            return _nobody
        indexed, own = self._by_index(nonces), cache(lambda: self._sketch(compared, round_))

        def opened(other: str, answer: bytes) -> Similarity:
            mine, theirs = roster.index(self.name), roster.index(other)
            return compared.opened(cipher.decrypt(answer, own(), mine, theirs, context, indexed))

        return opened

    def _sketch(self, compared: Compared, round_: int) -> NDArray[np.int64]:
        key = derive_key(self.sketch_key, "sketch", round_)
        return compared.sketch(self.federation.similarity.dimensions, key)

    def _by_index(self, nonces: Nonces) -> dict[int, bytes]:
        return {index: nonces[name] for index, name in enumerate(self.federation.roster) if name in nonces}


def _nobody(other: str, answer: bytes) -> Similarity:
    raise MessageError(f"a similarity to {other} in a federation that compares nobody; refused")
