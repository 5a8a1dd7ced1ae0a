"""Ctrl-C and SIGTERM: what is under way is cleared up, and a line says what became of it."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGINT: Final = 130
_USUAL: Final = {
    signal.SIGTERM: signal.SIG_DFL,
    signal.SIGHUP: signal.SIG_DFL,
    signal.SIGINT: signal.default_int_handler,
}
"""The signals that stop a command, and what Python does about each unless told otherwise."""


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


class _Handler:
    """Raises, and keeps what was `received`: a library that calls back into Python may turn what is raised there into
    an error of its own (opening a sealed message does). With `at_once` the second signal ends the process there and
    then: what it serves survives that.
    """

    at_once = False

    def __init__(self) -> None:
        self.received: int | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.at_once and _received() is not None:
            os._exit(128 + number)
        self.received = number
        raise _raised_by(number)


class Stop:
    """Whether somebody wants the command to stop."""

    @property
    def asked(self) -> bool:
        """Whether a signal came."""
        return _received() is not None

    def check(self) -> None:
        """Raise what a signal raised, where that was caught on its way. Raises KeyboardInterrupt."""
        check_stopped()


def on_termination() -> None:
    """Have SIGTERM and SIGHUP raise Terminated, where nobody has asked for anything else (nohup has); Ctrl-C raises
    KeyboardInterrupt as ever.
    """
    for number, usual in _USUAL.items():
        if signal.getsignal(number) is usual:
            signal.signal(number, _Handler())


def _raised_by(number: int) -> KeyboardInterrupt:
    """What a signal raises."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)


def _received() -> int | None:
    """The signal that came to a handler of ours."""
    handlers = [signal.getsignal(number) for number in _USUAL]
    return next((its.received for its in handlers if isinstance(its, _Handler) and its.received is not None), None)


def check_stopped() -> None:
    """Raises KeyboardInterrupt where a signal came, also where a library has swallowed what its handler raised."""
    if (number := _received()) is not None:
        raise _raised_by(number)


def exit_code(stop: BaseException | None) -> int:
    """128 and the signal's number; Ctrl-C's for what is no Terminated."""
    return stop.code if isinstance(stop, Terminated) else _SIGINT


@contextmanager
def serving(remains: str) -> Iterator[Stop]:
    """Around a command that serves until it is stopped, and survives a kill: the first signal lets it give its folders
    back, the second ends it at once. Raises Stopped with what `remains`.
    """
    handlers = [its for its in map(signal.getsignal, _USUAL) if isinstance(its, _Handler)]
    for handler in handlers:
        handler.at_once = True
    try:
        with stoppable(remains):
            yield Stop()
    finally:
        for handler in handlers:
            handler.at_once = False


@contextmanager
def stoppable(remains: str) -> Iterator[None]:
    """What `remains` when the block is stopped, for the line that is printed then. Raises Stopped."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Stopped(f"interrupted; {remains}", exit_code(stop)) from None
    except Exception:
        if (number := _received()) is None:
            raise
        raise Stopped(f"interrupted; {remains}", 128 + number) from None
