"""A simulation's folder from its first round to its last: what it needs to go on lies in `unfinished`, until it ends.

    DIR/unfinished/asked.json    what was asked for, and digests of the settings and rows it began with
    DIR/unfinished/keys          all parties' keys, mode 600, marked as a simulation's
    DIR/unfinished/counts        what was counted so far
    DIR/unfinished/lock          one process at a time

DIR appears whole with the first three, before anything is spent, and stays whatever happens then. Once the run has
ended and all is written, `unfinished` goes, the keys with it.
"""

import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

import msgspec

from securepfl.errors import StorageError
from securepfl.storage.folder import lock_folder, new_folder, storage_error, sync_folder, write_bytes

UNFINISHED: Final = "unfinished"
_ENDED: Final = ".unfinished.ended"
_ASKED: Final = "asked.json"
_KEYS: Final = "keys"
_MOST_BYTES: Final = 2**28
_NAMED: Final = 3
"""Unfinished runs that a message names."""


class Asked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run was asked for, as absolute paths where they are paths, and what it began with.

    `settings` are those of the bound federation, budgets too; `rows` the SHA-256 of each hospital's. `version` is
    securepfl's. It is the file asked.json: its names and meaning may not change under one schema.
    """

    schema: int = 1
    simulation: bool = True
    version: str
    config: str | None
    data: str | None
    rounds: int | None
    epsilon: float | None
    plaintext: bool
    ledgers: str | None
    seed: int | None
    device: str
    settings: dict[str, object]
    rows: dict[str, str]


@dataclass(frozen=True)
class RunFolder:
    """The folder `path` of a run that has not ended, with this process as its only user."""

    path: Path
    asked: Asked
    _lock: IO[bytes]

    @classmethod
    @contextmanager
    def begin(cls, path: Path, asked: Asked, keys: bytes) -> Iterator[Self]:
        """A new one. It is gone again where the block raises before `spending` was called; from there on it stays.
        Raises StorageError where something lies at `path`.
        """
        if is_unfinished(path):
            raise StorageError(
                f"{path}: holds a run that was stopped: go on with `{command_for(path)}`, or name another folder "
                "with --out"
            )
        with new_folder(path) as partial:
            encoded = msgspec.json.format(msgspec.json.encode(asked), indent=2)
            write_bytes(partial / UNFINISHED / _ASKED, encoded + b"\n")
            write_bytes(partial / UNFINISHED / _KEYS, keys)
        lock = lock_folder(path / UNFINISHED)
        made = cls(path, asked, lock)
        try:
            yield made
        except BaseException:
            if is_unfinished(path) and not made.may_have_spent:
                shutil.rmtree(path, ignore_errors=True)
            raise
        finally:
            lock.close()

    @classmethod
    @contextmanager
    def reopen(cls, path: Path) -> Iterator[Self]:
        """One whose process ended. Raises StorageError where there is none, it is in use, or damaged."""
        _check_unfinished(path)
        lock = lock_folder(path / UNFINISHED)
        try:
            yield cls(path, read_asked(path), lock)
        finally:
            lock.close()

    @property
    def keys(self) -> bytes:
        """All parties' keys. Raises StorageError where the file is not there, or open to others."""
        path = self.path / UNFINISHED / _KEYS
        data = _read(path)
        if path.stat().st_mode & 0o077:
            raise StorageError(f"{path}: others may read it; run: chmod 600 {shlex.quote(str(path))}")
        return data

    @property
    def counts(self) -> Path:
        """The file of what was counted."""
        return self.path / UNFINISHED / "counts"

    @property
    def may_have_spent(self) -> bool:
        """Whether `spending` was called, by this process or an earlier one."""
        return (self.path / UNFINISHED / "spending").exists()

    def spending(self) -> None:
        """From here on budget is spent, and the folder stays. Raises StorageError."""
        if not self.may_have_spent:
            write_bytes(self.path / UNFINISHED / "spending", b"")

    def end(self) -> None:
        """All is written: what was needed to go on goes, in one step. Raises StorageError."""
        try:
            shutil.rmtree(self.path / _ENDED, ignore_errors=True)
            (self.path / UNFINISHED).replace(self.path / _ENDED)
            sync_folder(self.path)
            shutil.rmtree(self.path / _ENDED)
        except OSError as error:
            raise storage_error(self.path, error) from None


def is_unfinished(path: Path) -> bool:
    """Whether a run lies at `path` that has not ended."""
    return (path / UNFINISHED / _ASKED).exists()


def command_for(path: Path) -> str:
    """The command that goes on with the run at `path`."""
    return f"securepfl run --resume {shlex.quote(str(path))}"


def read_asked(path: Path) -> Asked:
    """What the run at `path` was asked for. Raises StorageError where there is none that has not ended, or what lies
    there is damaged.
    """
    _check_unfinished(path)
    file = path / UNFINISHED / _ASKED
    try:
        asked = msgspec.json.decode(_read(file), type=Asked)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise StorageError(f"{file}: not a file that securepfl wrote whole; restore it from a copy") from None
    if asked.schema != 1:
        raise StorageError(f"{file}: schema {asked.schema}, but this securepfl reads 1; upgrade it")
    return asked


def the_one_waiting(place: Path) -> Path:
    """The run directly below `place` that was stopped, where there is just one; else `place` itself, which read_asked
    refuses with the names of those that wait.
    """
    found = _waiting(place)
    return found.pop() if len(found) == 1 else place


def _waiting(place: Path) -> set[Path]:
    return {inner.parent.parent for inner in place.glob(f"*/{UNFINISHED}/{_ASKED}")}


def _check_unfinished(path: Path) -> None:
    """Raises StorageError that says what to do where no run at `path` waits to be gone on with."""
    if is_unfinished(path):
        return
    if (path / "result.json").exists():
        with suppress(OSError):
            shutil.rmtree(path / _ENDED)  # a kill may have left it
        raise StorageError(
            f"{path}: this run has ended, and nothing is left to do; {path / 'result.json'} has its result"
        )
    found = sorted({*_waiting(path), *_waiting(Path("runs"))})
    there = f"{path}: no run that was stopped lies there" if path.exists() else f"{path}: no such folder"
    if found:
        more = " ..." if len(found) > _NAMED else ""
        raise StorageError(f"{there}; these wait to go on: {', '.join(map(str, found[:_NAMED]))}{more}")
    raise StorageError(f"{there}; name the folder that the stopped run named, or begin one with `securepfl run`")


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _MOST_BYTES:
                raise StorageError(f"{path}: longer than {_MOST_BYTES} bytes; restore it from a copy")
            return file.read()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); restore it from a copy") from None
