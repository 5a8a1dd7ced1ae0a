"""A party's folder: safetensors and JSON, written to a temporary name, synced and renamed. No pickle."""

import fcntl
import io
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_safetensors
from safetensors.numpy import save as save_safetensors

from securepfl.errors import StorageError

Arrays = Mapping[str, NDArray[Any]]

_TRIES: Final = 5
_APART: Final = 0.02
"""Seconds between two tries for a lock."""
_PART: Final = 1 << 20
"""Bytes of a file read at once."""
_LEFT: Final = ".securepfl-unfinished"
"""Stands in a folder until all else does."""


def write_bytes(path: Path, data: bytes, *, lasting: bool = True) -> None:
    """Replace `path` by `data` in one step, on disk (fsync) when this returns; readable by the owner only.

    Where it is not `lasting`, a power cut may bring the earlier file back, whole, until the next lasting write in that
    folder: for what is written again before anything rests on it. Raises StorageError where the file cannot be written;
    an earlier file then still stands whole.
    """
    with replacing(path, lasting=lasting) as file:
        file.write(data)


@contextmanager
def replacing(path: Path, named: Callable[[], Path] | None = None, *, lasting: bool = True) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` in one step, on disk, when the block ends, and not where it raises;
    readable by the owner only. `named` gives another name in that folder, once all is written. `lasting`: see
    write_bytes. Raises StorageError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path if named is None else named())
        if lasting:
            sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise storage_error(path, error) from None


def read_behind(beginning: bytes, path: Path) -> bytes:
    """`beginning` and the bytes of the file behind it, held once. Raises StorageError where that can't be read."""
    try:
        with path.open("rb", buffering=0) as file:
            whole = io.BytesIO(bytes(len(beginning) + os.fstat(file.fileno()).st_size))  # so that it never grows
            whole.write(beginning)
            while part := file.read(_PART):
                whole.write(part)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); restore its folder from a copy") from None
    return whole.getvalue()


def sync_folder(folder: Path) -> None:
    """Make a rename or a new file in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StorageError:
    """The one-line error for an operating system's refusal to write `path`."""
    return StorageError(f"{path}: cannot be written ({error.strerror}); make room or choose another folder")


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON; NaN is refused. See write_bytes."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_arrays(path: Path, arrays: Arrays, meta: object = None, *, lasting: bool = True) -> None:
    """Write arrays and JSON-able `meta` as one safetensors file. See write_bytes."""
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    data = save_safetensors(contiguous, metadata={"meta": json.dumps(meta, allow_nan=False)})
    write_bytes(path, data, lasting=lasting)


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], Any]:
    """Read what write_arrays wrote: (arrays, meta). Raises StorageError where it is missing or damaged."""
    try:
        data = path.read_bytes()
        arrays = load_safetensors(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        return arrays, json.loads(header["__metadata__"]["meta"])
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); name an existing run") from None
    except (SafetensorError, ValueError, KeyError):
        raise StorageError(f"{path}: not a file that securepfl wrote whole; restore it from a copy") from None


def lock_folder(folder: Path) -> IO[bytes]:
    """Make this process the folder's only user until the returned file is closed. Raises StorageError.

    It tries for a moment: whoever asks whether the folder is in use (`securepfl status`) holds it that long.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = (folder / "lock").open("ab")  # empties nothing that it may be a link to
    except OSError as error:
        raise storage_error(folder, error) from None
    for left in reversed(range(_TRIES)):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError:
            time.sleep(_APART if left else 0)
    file.close()
    raise StorageError(f"{folder}: in use by another process; stop it, or name another folder")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder that appears under `path` whole when the block ends, and not at all when it raises.

    Raises StorageError where `path` already exists with something in it, or cannot be written; where only its name
    cannot be given any more, what the block wrote stays, and the error says where. A kill leaves what there is so far,
    beside `path`, with a file that says so: see remove_left.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise StorageError(f"{path}: already holds a run or other files; name another folder with --out")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial, lock = _partial_of(path)
    except OSError as error:
        raise storage_error(path, error) from None
    try:
        try:
            yield partial
        except BaseException as error:
            shutil.rmtree(partial, ignore_errors=True)
            if isinstance(error, OSError):
                raise storage_error(path, error) from None
            raise
        try:
            (partial / _LEFT).unlink()
            partial.replace(path)
            sync_folder(path.parent)
        except OSError as error:
            where = f"what belongs there lies in {partial}"
            raise StorageError(f"{path}: cannot be made ({error.strerror}); {where}") from None
    finally:
        os.close(lock)


def remove_left(path: Path) -> None:
    """Remove what `new_folder(path)` left beside `path` in processes that were killed; what only lacks its name stays.

    A process that lives holds its folder locked. Only real folders of this user go, of the name that new_folder gives
    and with the file that it marks them by, as a name alone can be anybody's; where a file system knows no locks, none
    does.
    """
    named = re.compile(re.escape(_partial_prefix(path)) + "[a-z0-9_]{8}")
    for entry in path.parent.glob(".*.partial-*") if path.parent.is_dir() else ():
        if named.fullmatch(entry.name):
            _remove_unless_in_use(entry)


def _remove_unless_in_use(folder: Path) -> None:
    with suppress(OSError):  # another user's, a link, no folder, not marked, gone by now, or locked
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.stat(_LEFT, dir_fd=descriptor, follow_symlinks=False)
            if os.fstat(descriptor).st_uid == os.geteuid():
                _empty(descriptor)
                folder.rmdir()
        finally:
            os.close(descriptor)


def _empty(descriptor: int) -> None:
    """Remove all that an open folder holds, whatever stands under its name by now, and its mark last."""
    with os.scandir(descriptor) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name == _LEFT):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.name, dir_fd=descriptor)
            else:
                os.unlink(entry.name, dir_fd=descriptor)


def _partial_prefix(path: Path) -> str:
    return f".{path.name}.partial-"


def _partial_of(path: Path) -> tuple[Path, int]:
    """A new folder beside `path`, marked once it is locked, and the descriptor that locks it."""
    partial = Path(tempfile.mkdtemp(prefix=_partial_prefix(path), dir=path.parent))
    descriptor = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    with suppress(OSError):  # a file system without locks: then nothing is removed there either
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    (partial / _LEFT).touch(mode=0o600)
    return partial, descriptor
