"""What passes between a hospital and the hub over HTTPS, and how large each part may be.

| request | what |
|---|---|
| POST /v1/NAME/exchange | where the hospital stands, with its replies; answered with what it is told next (long poll) |
| GET /v1/NAME/bodies/DIGEST | a piece of what it is told, from `?from=` on; or how much of a reply came: `?sent` |
| PUT /v1/NAME/bodies/DIGEST | a piece of a reply, from `?from=` on, of `?size=` bytes in all |
| POST /v1/NAME/alive | where a hospital stands that works on what it was told: a sign of life each SIGN seconds |
| GET /healthz | whether the hub serves |

What fits into one piece travels within the exchange; the rest of it by digest, in pieces. Messages are signed and
sealed: here nothing of them is looked into. Names, types and paths may change only with PROTOCOL.
"""

from collections.abc import Sequence
from typing import Final, TypeVar
from urllib.parse import quote

import msgspec

from securepfl.errors import MessageError

PROTOCOL: Final = "1"
"""Of the outer coat; every request states it in HEADER."""
HEADER: Final = "securepfl-protocol"

PIECE: Final = 8 * 2**20
"""Bytes of a piece, and of all that travels within one exchange."""
MOST_EXCHANGE: Final = PIECE + 2**16
SIGN: Final = 30.0
"""Seconds between two signs of life of a hospital that trains, and so doesn't ask."""
AWAY: Final = 3 * SIGN
"""Seconds without a request after which a hospital is gone, for the hub."""
MOST_ITEMS: Final = 64
DIGEST_BYTES: Final = 32
TOKEN_BYTES: Final = 16


class Item(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One message: `kind` 0 for a reply, whose header says it. `data` is empty where it travels apart, by `digest`."""

    kind: int
    size: int
    digest: bytes
    data: bytes

    @property
    def apart(self) -> bool:
        """Whether its bytes travel in pieces."""
        return bool(self.digest)

    def __repr__(self) -> str:
        return f"Item(kind={self.kind}, size={self.size})"


class Standing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a hospital stands: the rounds that it has applied, and its `replies` to what it was `told` (a token of the
    hub's; empty for nothing). `visit` is drawn anew by each process.
    """

    visit: bytes
    at: int
    told: bytes
    replies: list[Item]


class Told(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a hospital is told: `items` in order. `over`: nothing more will come."""

    token: bytes
    items: list[Item]
    over: bool


_Exchanged = TypeVar("_Exchanged", Standing, Told)
_ENCODER: Final = msgspec.msgpack.Encoder()


def encode(value: Standing | Told) -> bytes:
    """As it travels."""
    return _ENCODER.encode(value)


def read_standing(data: bytes, most_bytes: int) -> Standing:
    """Raises MessageError for what no hospital sends; messages may have `most_bytes`."""
    standing = _decoded(data, Standing)
    if len(standing.visit) != TOKEN_BYTES or len(standing.told) not in (0, TOKEN_BYTES) or standing.at < 0:
        raise MessageError("malformed exchange; install the same securepfl everywhere")
    _check(standing.replies, most_bytes)
    return standing


def read_told(data: bytes, most_bytes: int) -> Told:
    """Raises MessageError for what no hub sends; messages may have `most_bytes`."""
    told = _decoded(data, Told)
    _check(told.items, most_bytes)
    return told


def items_of(messages: Sequence[tuple[int, bytes, bytes]]) -> list[Item]:
    """Messages (kind, digest, bytes) as items. Those with a digest travel apart."""
    return [Item(kind, len(data), digest, b"" if digest else data) for kind, digest, data in messages]


def apart(sizes: Sequence[int]) -> list[bool]:
    """Which messages travel apart: those that no longer fit into the piece that the exchange may have.

    >>> apart([100, PIECE, 200])
    [False, True, False]
    """
    left, flags = PIECE, []
    for size in sizes:
        flags.append(size > left)
        left -= 0 if flags[-1] else size
    return flags


def path_of(name: str, *rest: str) -> str:
    """A hospital's path."""
    return "/".join(("/v1", quote(name, safe=""), *rest))


def _decoded(data: bytes, kind: type[_Exchanged]) -> _Exchanged:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise MessageError("malformed exchange; install the same securepfl everywhere") from None


def _check(items: Sequence[Item], most_bytes: int) -> None:
    if len(items) > MOST_ITEMS:
        raise MessageError(f"{len(items)} messages in one exchange, at most {MOST_ITEMS} belong there")
    for item in items:
        if len(item.digest) not in (0, DIGEST_BYTES) or (not item.apart and len(item.data) != item.size):
            raise MessageError("malformed exchange; install the same securepfl everywhere")
        if not 0 <= item.size <= most_bytes:
            raise MessageError(f"a message of {item.size} bytes, at most {most_bytes} can be; check the settings")
