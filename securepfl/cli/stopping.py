"""Ctrl-C and SIGTERM: what is under way is cleared up, and a line says what became of it."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGINT: Final = 130


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP. As for Ctrl-C, folders that are not whole go; `code` is what a shell expects."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.code = 128 + number


class Stopped(BaseException):
    """Stopped by Ctrl-C or a signal: the line to print, and the exit code."""

    def __init__(self, line: str, code: int) -> None:
        super().__init__(line)
        self.code = code


def on_termination() -> None:
    """Have SIGTERM and SIGHUP raise Terminated, where nobody has asked for anything else (nohup has)."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(number)


def exit_code(stop: BaseException | None) -> int:
    """128 and the signal's number; Ctrl-C's for what is no Terminated."""
    return stop.code if isinstance(stop, Terminated) else _SIGINT


@contextmanager
def stoppable(remains: str) -> Iterator[None]:
    """What `remains` when the block is stopped, for the line that is printed then. Raises Stopped."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Stopped(f"interrupted; {remains}", exit_code(stop)) from None
