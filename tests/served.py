"""Processes of securepfl that serve: started, waited for, killed, and never left behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from forked import python


def until(there: Callable[[], object], seconds: float = 60.0, what: str = "it"):
    """What `there` gives once that is true. Raises AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not (found := there()):
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        time.sleep(0.02)
    return found


@dataclass
class Served:
    """`securepfl` with these words, in its own process; `user` runs it as another user."""

    words: tuple[object, ...]
    user: int | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        program = python() if self.user is None else (sys.executable,)
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | self.environment
        self.process = subprocess.Popen(
            [*program, "-m", "securepfl", *map(str, self.words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.user,
            env=environment,
        )

    def ready(self, path: Path) -> "Served":
        """Once something lies at `path`. Raises AssertionError with what it printed where it ended before."""
        until(lambda: path.exists() or self.process.poll() is not None, what=str(path))
        assert self.process.poll() is None, self.end()
        return self

    def kill(self, number: int = signal.SIGKILL) -> "Served":
        self.process.send_signal(number)
        return self

    def end(self, seconds: float = 60.0) -> tuple[int, str, str]:
        """Its exit code, and what it printed, once it has ended."""
        try:
            out, err = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, out, err

    def __enter__(self) -> "Served":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        with contextlib.suppress(ValueError):
            self.process.communicate(timeout=20)
