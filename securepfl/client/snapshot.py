"""The shared state of a run for hospitals that come late, encrypted under a key that only hospitals hold.

Whoever took part makes it; the coordinator may keep it. A newcomer takes it only where the keyed digest that others
sent with their contributions agrees with it. After a key rotation an enrolled hospital makes it anew.
"""

import hmac
import secrets
import struct
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final, Self

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from numpy.typing import NDArray

from securepfl.client.round import Session
from securepfl.client.state import ClientState
from securepfl.crypto.messages.envelope import RUN_BYTES
from securepfl.errors import MessageError
from securepfl.protocol.messages import Statement
from securepfl.protocol.statements import check_statement
from securepfl.randomness import derive_key

_MAGIC: Final = b"SPSN"
_HEAD: Final = struct.Struct(f">4sBIIB32s{RUN_BYTES}s")
_VERSION: Final = 2
_NONCE_BYTES: Final = 12
_TAG_BYTES: Final = 16


@dataclass(frozen=True)
class Snapshot:
    """The shared parameters, float32 [d], after `round`, and the last aggregate, float64 [d], or None before one.

    It persists at the coordinator and travels: the sealed form (header, nonce, AES-256-GCM) and what `digest` covers
    may never change under one version, or a late hospital could not join a run that is under way.
    """

    round: int
    shared: NDArray[np.float32]
    aggregate: NDArray[np.float64] | None

    @classmethod
    def of(cls, state: ClientState) -> Self:
        """The part of a hospital's state that all of them hold alike."""
        return cls(state.round, state.shared, state.aggregate)

    def _to_bytes(self) -> bytes:
        rest = b"" if self.aggregate is None else self.aggregate.astype("<f8").tobytes()
        return self.shared.astype("<f4").tobytes() + rest

    def digest(self, key: bytes, session: bytes) -> str:
        """A keyed digest: equal for equal states, and telling the coordinator nothing else. Hexadecimal."""
        message = session + self.round.to_bytes(4, "big") + self._to_bytes()
        return hmac.new(derive_key(key, "snapshot digest"), message, sha256).hexdigest()

    def seal(self, key: bytes, session: bytes, run: bytes) -> bytes:
        """Encrypt under the federation's snapshot key, bound to `session` (run_digest) of the run `run`."""
        numbers = (self.round, self.shared.size, self.aggregate is not None)
        head, nonce = _HEAD.pack(_MAGIC, _VERSION, *numbers, session, run), secrets.token_bytes(_NONCE_BYTES)
        return head + nonce + AESGCM(derive_key(key, "snapshot")).encrypt(nonce, self._to_bytes(), head)

    @classmethod
    def open(cls, data: bytes, key: bytes, session: bytes, size: int) -> Self:
        """What `seal` made, for `size` shared parameters. Raises MessageError for anything else."""
        _, _, number, count, summed, bound, _ = _read_head(data)
        if bound != session:
            raise MessageError(
                "snapshot of other settings or another key epoch; ask an enrolled hospital for a new one"
            )
        body = size * (12 if summed else 4)
        if count != size or len(data) != _HEAD.size + _NONCE_BYTES + body + _TAG_BYTES:
            raise MessageError(f"snapshot of {len(data)} bytes does not fit a model of {size} parameters; ask again")
        head, nonce, rest = data[: _HEAD.size], data[_HEAD.size :][:_NONCE_BYTES], data[_HEAD.size + _NONCE_BYTES :]
        try:
            opened = AESGCM(derive_key(key, "snapshot")).decrypt(nonce, rest, head)
        except InvalidTag:
            raise MessageError("snapshot was altered or made under another key; ask for it again") from None
        shared = np.frombuffer(opened, "<f4", size).astype(np.float32)
        aggregate = np.frombuffer(opened, "<f8", size, 4 * size).astype(np.float64) if summed else None
        return cls(number, shared, aggregate)

    @staticmethod
    def run_of(data: bytes) -> bytes:
        """The identifier of the run that a snapshot is of. Raises MessageError where it is none."""
        run: bytes = _read_head(data)[-1]
        return run

    @classmethod
    def agreed(cls, data: bytes, session: Session, size: int, digests: Collection[str]) -> Self:
        """What a newcomer opens, if it is the state that the other hospitals hold, whose digests are given, and as many
        as form a sum with it are known. Raises MessageError otherwise.
        """
        key = session.key.snapshot_key
        opened = cls.open(data, key, session.digest, size)
        opened.check_agreement(digests, session.federation.minimum - 1, key, session.digest)
        return opened

    @classmethod
    def attested(
        cls, data: bytes, session: Session, number: int, size: int, statements: Mapping[str, Statement]
    ) -> Self:
        """What a hospital that is behind opens, if it is the state after round `number` on the signed word of others:
        of as many as form a sum with it, and of most of those whose `statements` are shown. Raises MessageError
        otherwise.
        """
        name, people, key = session.name, session.keyring.hospitals, session.key.snapshot_key
        others = {other: its for other, its in statements.items() if other != name}
        for other, its in others.items():
            if other not in session.federation.roster or other not in people or its.round != number:
                raise MessageError(
                    f"{name}: a statement of {other!r} that says nothing of round {number}; nothing taken"
                )
            check_statement(people[other], session.digest, its)
        opened = cls.open(data, key, session.digest, size)
        own = opened.digest(key, session.digest).encode()
        agreeing = sum(hmac.compare_digest(own, its.state.encode()) for its in others.values())
        if opened.round != number or agreeing < session.federation.minimum - 1 or 2 * agreeing <= len(others):
            raise MessageError(
                f"{name}: the snapshot of round {number} is what {agreeing} of {len(others)} others stated, not most "
                "or too few; nothing was taken; ask another hospital for its snapshot"
            )
        return opened

    def check_agreement(self, digests: Collection[str], least: int, key: bytes, session: bytes) -> None:
        """Raises MessageError unless at least `least` hospitals sent a digest, and each of them is this state's."""
        own = self.digest(key, session)
        if len(digests) < least:
            raise MessageError(
                f"the state of {len(digests)} other hospitals is known, of {least} it must be: let them contribute to "
                "the next round first, then join before it is closed"
            )
        if not all(hmac.compare_digest(own.encode(), digest.encode()) for digest in digests):
            raise MessageError(
                f"snapshot of round {self.round}: not the state that the other hospitals hold; nothing was taken; ask "
                "another hospital for its snapshot"
            )


def _read_head(data: bytes) -> tuple[Any, ...]:
    if len(data) < _HEAD.size:
        raise MessageError("snapshot is truncated; ask for it again")
    fields = _HEAD.unpack_from(data)
    if fields[:2] != (_MAGIC, _VERSION):
        raise MessageError("not a snapshot that this securepfl reads; ask for it again")
    return fields
