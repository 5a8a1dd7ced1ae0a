"""A file that only grows, and has one writer at a time."""

import contextlib
import fcntl
import os
from io import FileIO
from pathlib import Path

from securepfl.errors import LedgerError, StorageError

__all__ = ["GrowingFile", "read", "read_unheld"]


class GrowingFile:
    """An open file, locked until it is closed.

    | guaranteed | unless |
    |---|---|
    | what `append` wrote is on disk when it returns | the disk lies about fsync |
    | an append that raises leaves the file as it was | the disk refuses to shorten it: a torn end, which `open` drops |
    | no other process, and no other part of this one, writes meanwhile | it ignores flock |
    | a crash leaves whole appends and at most one torn end | |

    >>> from pathlib import Path; from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     file, data = GrowingFile.open(Path(folder, "lines"))
    ...     file.append(b"one")
    ...     file.close()
    ...     (data, read(Path(folder, "lines")))
    (b'', b'one')
    """

    def __init__(self, path: Path, file: FileIO, size: int) -> None:
        self.path, self._file, self._size, self._process = path, file, size, os.getpid()

    @classmethod
    def open(cls, path: Path) -> tuple["GrowingFile", bytes]:
        """The file at `path`, created with its folders if need be, for this user alone; and its bytes.

        Raises LedgerError where somebody has it open, StorageError where it cannot be read or written.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600), "r+")
        except OSError as error:
            raise storage_error(path, error) from error
        try:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
            _sync_folder(path.parent)
            data = file.readall()
        except BlockingIOError:
            file.close()
            raise LedgerError(
                f"{path}: another process has this ledger open, or a Client of this process; close it and try again"
            ) from None
        except OSError as error:
            file.close()
            raise storage_error(path, error) from error
        return cls(path, file, len(data)), data

    def cut(self, size: int) -> None:
        """What follows the first `size` bytes is no longer part of it: the next append takes its place."""
        self._size = min(size, self._size)

    def append(self, data: bytes) -> None:
        """Ends the file with `data`, on disk when it returns. Raises StorageError; the file is then as it was. So it
        does in a process forked from the one that opened it: both hold the one lock, and the chain would break.
        """
        if os.getpid() != self._process:
            raise StorageError(f"{self.path}: opened by another process, of which this is a copy; open it here anew")
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise storage_error(self.path, error) from error
        self._size += len(data)

    def close(self) -> None:
        """Lets others open it. This one cannot be written any more."""
        self._file.close()


def read(path: Path) -> bytes:
    """The bytes at `path`, whoever has it open. Raises StorageError where they cannot be read.

    >>> read(Path("no-such-folder", "north.jsonl"))
    Traceback (most recent call last):
    securepfl.errors.StorageError: no-such-folder/north.jsonl: No such file or directory; ...
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(path, error) from error


def read_unheld(path: Path) -> bytes:
    """The bytes at `path`, which nobody has open; none where there is no file, and none is made. Raises as `open`.

    >>> read_unheld(Path("no-such-folder", "north.jsonl"))
    b''
    """
    try:
        if not path.exists():
            return b""
    except OSError as error:
        raise storage_error(path, error) from error
    file, data = GrowingFile.open(path)
    file.close()
    return data


def storage_error(path: Path, error: OSError) -> StorageError:
    """`error`, met at `path`, in our words."""
    return StorageError(f"{path}: {error.strerror or error}; make room or choose a folder that can be written")


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name survive a crash: fsync of the file alone does not."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
