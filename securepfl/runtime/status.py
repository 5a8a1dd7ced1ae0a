"""DIR/status.json: where a run stands, for `securepfl status` and for whatever watches a hospital's machines."""

import fcntl
import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from securepfl.errors import StorageError
from securepfl.storage.folder import lock_folder

STATUS: Final = "status.json"
SCHEMA: Final = 1
LOCK: Final = "lock"
_APART: Final = 0.5
"""Seconds between two writings that nothing urgent asks for."""
_TRIES: Final = 5


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

    def put(self, status: Mapping[str, Any], *, at_once: bool = False) -> None:
        """Write `status`, at most twice a second unless `at_once`."""
        if not at_once and time.monotonic() < self._next:
            self._late = True
            return
        self._next, self._late = time.monotonic() + _APART, False
        temporary = self._path.with_name(f".{STATUS}.partial")
        with suppress(OSError, ValueError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
            with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
                json.dump({"schema": SCHEMA, "updated": now_text(), **status}, file, indent=1, allow_nan=False)
            temporary.replace(self._path)


def hold(folder: Path) -> IO[bytes]:
    """Make this process the only one that runs in `folder`, until the returned file is closed. Raises StorageError."""
    for _ in range(_TRIES - 1):
        with suppress(StorageError):
            return lock_folder(folder)
        time.sleep(0.02)  # who asks whether it is held holds it for a moment
    return lock_folder(folder)


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
