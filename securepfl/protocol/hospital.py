"""A hospital's side of an exchange: it takes what it is told, in order, and replies."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol


class Hospital(Protocol):
    """What an engine needs of a client."""

    @property
    def round(self) -> int:
        """The last round that it has applied."""

    def handle(self, message: bytes) -> bytes:
        """The reply to any message of the coordinator's; empty where there is none."""


@dataclass(frozen=True)
class Exchanged:
    """What came of an exchange: `at` is the last round that the hospital has applied now, `replies` go back. `failed`
    is what ended the exchange early, for the hospital's own eyes; None where nothing did.
    """

    at: int
    replies: tuple[bytes, ...]
    failed: Exception | None = None


def exchange(hospital: Hospital, messages: Iterable[bytes]) -> Exchanged:
    """Take messages in order. Whatever one of them raises ends the exchange, and never its caller: what was replied
    before still goes back.
    """
    replies: list[bytes] = []
    try:
        for message in messages:
            replies.append(hospital.handle(message))
    except Exception as failed:  # noqa: BLE001 - a model of one's own may raise anything; the engine tells its operator
        return Exchanged(hospital.round, tuple(filter(None, replies)), failed)
    return Exchanged(hospital.round, tuple(filter(None, replies)))
