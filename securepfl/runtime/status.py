"""DIR/status.json: where a run stands, for `securepfl status` and for whatever watches a hospital's machines."""

import fcntl
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from securepfl.errors import StorageError
from securepfl.report.status import AnyStanding
from securepfl.storage.keys import read_bounded
from securepfl.storage.unfinished import UNFINISHED, command_for, is_unfinished

STATUS: Final = "status.json"
MOST_BYTES: Final = 2**26
RESULT: Final = "result.json"
LOCK: Final = "lock"
_APART: Final = 0.5
"""Seconds between two writings that nothing urgent asks for."""


def now_text() -> str:
    """The time as status and log have it: ISO 8601, UTC.

    >>> now_text()[-6:]
    '+00:00'
    """
    return datetime.now(UTC).isoformat(timespec="milliseconds")


class StatusFile:
    """Replaces DIR/status.json in one step. One that can't be written, to a full disk say, is skipped: no run ends for
    its status.
    """

    def __init__(self, folder: Path) -> None:
        self._path, self._next, self._late = folder / STATUS, 0.0, False

    @property
    def due(self) -> bool:
        """Whether a change waits to be written, and may be."""
        return self._late and time.monotonic() >= self._next

    def put(self, standing: AnyStanding, *, at_once: bool = False) -> None:
        """Write `standing`, at most twice a second unless `at_once`."""
        if not at_once and time.monotonic() < self._next:
            self._late = True
            return
        self._next, self._late = time.monotonic() + _APART, False
        temporary = self._path.with_name(f".{STATUS}.partial")
        with suppress(OSError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
                file.write(msgspec.json.format(msgspec.json.encode(standing), indent=1) + b"\n")
            temporary.replace(self._path)


def read_status(folder: Path) -> AnyStanding:
    """Where the run in `folder` stands, its state as it is now. Opens no key, and holds nobody up.

    Raises StorageError where no hub or hospital has run there, or the file is damaged.
    """
    path = folder / STATUS
    runs = held(folder)  # first: a process that ends meanwhile has then written how
    try:
        standing: AnyStanding = msgspec.json.decode(read_bounded(path, MOST_BYTES), type=AnyStanding)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise StorageError(f"{path}: not a file that securepfl wrote whole; its process writes it anew") from None
    killed = standing.state == "running" and not runs and not held(folder)  # nor began meanwhile
    return msgspec.structs.replace(standing, state="killed") if killed else standing


def folder_of(folder: Path) -> Path:
    """Where the run's files lie: `folder`, or its run/ where `folder` is a party's own. Raises StorageError."""
    for found in (folder, folder / "run"):
        try:
            if is_unfinished(found) or any((found / name).is_file() for name in (STATUS, RESULT)):
                return found
        except OSError as error:
            raise StorageError(f"{found}: cannot be entered ({error.strerror}); ask as the user who runs it") from None
    raise StorageError(f"{folder}: holds no run; name the --out of `securepfl serve`, `join`, `agent` or `run`")


def unfinished(folder: Path) -> dict[str, Any] | None:
    """Where `securepfl run` stands whose last round isn't over; None where no such run is in `folder`.

    `state` is "running" or "stopped", by whatever ended it, and `round` the one it is in, 0 before the first.
    """
    if not is_unfinished(folder):
        return None
    begun = [int(path.stem.removeprefix("round-")) for path in folder.glob("coordinator/round-*.journal")]
    state = "running" if held(folder / UNFINISHED) else "stopped"
    return {"role": "run", "state": state, "round": max(begun, default=0), "command": command_for(folder)}


def simulated(folder: Path) -> dict[str, Any]:
    """result.json of a folder of `securepfl run`. Raises StorageError where it is damaged."""
    path = folder / RESULT
    try:
        result = msgspec.json.decode(read_bounded(path, MOST_BYTES), type=dict[str, Any])
        return result | {"sites": {name: dict(site["privacy"]) for name, site in result["sites"].items()}}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, KeyError, AttributeError, TypeError, ValueError):
        raise StorageError(f"{path}: not a file that securepfl wrote whole; restore it from a copy") from None


def held(folder: Path) -> bool:
    """Whether a process runs in `folder` now."""
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
