"""What passes through an agent's socket: one request and one reply a connection, lengths before contents.

| | request | reply |
|---|---|---|
| head | "SPAQ", version, count of messages | "SPAR", version, outcome, at, finished, count of replies, bytes of text |
| then | each message's length | each reply's length |
| then | the messages | text, replies |

Numbers are unsigned and big-endian. Heads and lengths are checked before a byte of content is read.
"""

import enum
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from securepfl.errors import MessageError

_REQUEST: Final = struct.Struct(">4sBI")
_REPLY: Final = struct.Struct(">4sBBIBII")
_LENGTH: Final = struct.Struct(">Q")
_VERSION: Final = 1
_ASKS: Final = b"SPAQ"
_REPLIES: Final = b"SPAR"
MOST_MESSAGES: Final = 256
"""In one request: the answers of as many rounds as a hub keeps, and what is asked now."""
MOST_TEXT: Final = 2000


class Readable(Protocol):
    """What frames are read from: a socket's file."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes, fewer at the end alone."""


class Outcome(enum.IntEnum):
    """What became of a request. The numbers travel."""

    DONE = 1
    FAILED = 2
    """Some messages were taken; one failed, and the agent's log says why."""
    REFUSED = 3
    """Nothing was done."""


@dataclass(frozen=True)
class Reply:
    """`at` is the last round that the hospital has applied; `finished`: nothing more is to come. `text` is for the
    asker's log.
    """

    outcome: Outcome
    at: int = 0
    finished: bool = False
    text: str = ""
    replies: tuple[bytes, ...] = ()


def request_parts(messages: Sequence[bytes]) -> list[bytes]:
    """A request, in pieces to be sent one after the other: nothing long is copied. Raises MessageError for more
    messages than one may have.
    """
    if len(messages) > MOST_MESSAGES:
        raise MessageError(f"{len(messages)} messages at once, at most {MOST_MESSAGES} are taken; send fewer")
    head = _REQUEST.pack(_ASKS, _VERSION, len(messages))
    return [head, *(_LENGTH.pack(len(message)) for message in messages), *messages]


def read_request(file: Readable, most_bytes: int) -> tuple[bytes, ...]:
    """The messages of a request, of at most `most_bytes` together. Raises MessageError before reading what is longer,
    is cut off, or is no request.
    """
    magic, version, count = _REQUEST.unpack(_whole(file, _REQUEST.size))
    _check(magic, _ASKS, version)
    return _contents(file, count, most_bytes)


def reply_parts(reply: Reply) -> list[bytes]:
    """A reply, in pieces to be sent one after the other."""
    text = reply.text.encode(errors="replace")[:MOST_TEXT]
    head = _REPLY.pack(_REPLIES, _VERSION, reply.outcome, reply.at, reply.finished, len(reply.replies), len(text))
    return [head, *(_LENGTH.pack(len(message)) for message in reply.replies), text, *reply.replies]


def read_reply(file: Readable, most_bytes: int) -> Reply:
    """A reply whose messages have at most `most_bytes` together. Raises MessageError as read_request."""
    magic, version, outcome, at, finished, count, text = _REPLY.unpack(_whole(file, _REPLY.size))
    _check(magic, _REPLIES, version)
    if outcome not in set(Outcome) or text > MOST_TEXT or finished > 1:
        raise MessageError("the agent's reply is of no known form; install the same securepfl on both sides")
    lengths = _lengths(file, count, most_bytes)
    said = _whole(file, text).decode(errors="replace")
    return Reply(Outcome(outcome), at, bool(finished), said, tuple(_whole(file, length) for length in lengths))


def _check(magic: bytes, wanted: bytes, version: int) -> None:
    if magic != wanted:
        raise MessageError("what came through the agent's socket is none of securepfl's; check who is connected")
    if version != _VERSION:
        raise MessageError(
            f"version {version} at the other end of the agent's socket, not {_VERSION}; install the same"
        )


def _contents(file: Readable, count: int, most_bytes: int) -> tuple[bytes, ...]:
    return tuple(_whole(file, length) for length in _lengths(file, count, most_bytes))


def _lengths(file: Readable, count: int, most_bytes: int) -> list[int]:
    if count > MOST_MESSAGES:
        raise MessageError(f"{count} messages at once, at most {MOST_MESSAGES} are taken; send fewer")
    lengths = [_LENGTH.unpack(_whole(file, _LENGTH.size))[0] for _ in range(count)]
    if sum(lengths) > most_bytes:
        raise MessageError(f"{sum(lengths)} bytes at once, at most {most_bytes} belong there; nothing was read")
    return lengths


def _whole(file: Readable, size: int) -> bytes:
    data = file.read(size) if size else b""
    if data is None or len(data) < size:
        raise MessageError("the other end of the agent's socket went away in the middle; ask again")
    return data
