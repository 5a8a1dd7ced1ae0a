"""One call at a time, in the process that opened the client: two at once would draw two rounds' noise for one."""

import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from securepfl.errors import StorageError

P = ParamSpec("P")
R = TypeVar("R")


class Turn:
    """Who may act on a hospital's folder now. A thread that asks while another acts waits for it; a process that was
    forked from the one that opened the folder is refused, since both would hold the same locks.
    """

    def __init__(self) -> None:
        self._process, self._lock = os.getpid(), threading.RLock()

    def take(self, name: str) -> AbstractContextManager[bool]:
        """The lock to act under, for hospital `name`. Raises StorageError in another process."""
        if os.getpid() != self._process:
            raise StorageError(
                f"{name}: this client was opened by another process, of which this one is a copy; make the Client in "
                "the process that uses it, or start that one anew (spawn)"
            )
        return self._lock


class TakesTurns(Protocol):
    """What has turns to take."""

    name: str
    turn: Turn


Its = TypeVar("Its", bound=TakesTurns)


def one_at_a_time(method: Callable[Concatenate[Its, P], R]) -> Callable[Concatenate[Its, P], R]:
    """`method`, which no other thread and no forked process runs meanwhile."""

    @wraps(method)
    def alone(self: Its, /, *arguments: P.args, **options: P.kwargs) -> R:
        with self.turn.take(self.name):
            return method(self, *arguments, **options)

    return alone
