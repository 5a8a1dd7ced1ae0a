"""Long messages on disk, on their way: by digest, piece after piece, so that a broken transfer goes on where it was."""

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securepfl.errors import MessageError, StorageError
from securepfl.storage.folder import storage_error

_NAME: Final = re.compile(r"[0-9a-f]{64}")
_BLOCK: Final = 1 << 20
_MOST_FILES: Final = 64
"""Bodies at once: as many as one exchange may name. A file costs the disk something however short it is."""


@dataclass(frozen=True)
class Spool:
    """The bodies of one sender: files in `folder`, of `quota` bytes together at most.

    Nothing is synced: what a power cut takes is sent again. Raises StorageError where the disk refuses.
    """

    folder: Path
    quota: int

    def held(self, digest: bytes) -> int:
        """How many bytes of a body lie here."""
        try:
            return self._path(digest).stat().st_size
        except OSError:
            return 0

    def make_room(self, digest: bytes, size: int) -> None:
        """For a body of `size` bytes: others go, the oldest first, where they would not fit beside it.

        Before each piece: a body may be said to be longer than its first piece told. Raises MessageError where it
        alone would not fit.
        """
        if size > self.quota:
            raise MessageError(f"a body of {size} bytes, at most {self.quota} can be; check the settings")
        own = self._path(digest)
        others = sorted((file for file in self._files() if file[0] != own), key=lambda file: file[1])
        left, count = sum(length for _, _, length in others), len(others)
        for path, _, length in others:
            if left + size <= self.quota and count < _MOST_FILES:
                return
            path.unlink(missing_ok=True)
            left, count = left - length, count - 1

    def add(self, digest: bytes, at: int, data: bytes) -> None:
        """Put `data` at the place `at`, which must be no further than what lies here."""
        path = self._path(digest)
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(descriptor, view, at)
                    view, at = view[written:], at + written
            finally:
                os.close(descriptor)
        except OSError as error:
            raise storage_error(path, error) from None

    def take(self, digest: bytes, size: int) -> bytes:
        """A whole body; it stays until `drop`. Raises MessageError where it is not whole, or not what was announced:
        then it is gone, to be sent anew.
        """
        path = self._path(digest)
        try:
            data = path.read_bytes() if path.stat().st_size == size else None
        except FileNotFoundError:
            data = None
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); make the folder readable") from None
        if data is None:
            raise MessageError("a body that did not come whole; send it again")
        if hashlib.sha256(data).digest() != digest:
            self.drop(digest)
            raise MessageError("a body that is not what was announced; send it again")
        return data

    def drop(self, digest: bytes) -> None:
        """Nobody needs this body any more."""
        with suppress(OSError):
            self._path(digest).unlink()

    def clear(self) -> None:
        """Nobody needs any."""
        for path, _, _ in self._files():
            with suppress(OSError):
                path.unlink()
        with suppress(OSError):
            self.folder.rmdir()

    def _files(self) -> Iterator[tuple[Path, int, int]]:
        """(path, when it was written, length)."""
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with suppress(OSError):
                    if _NAME.fullmatch(path.name):
                        status = path.stat()
                        yield path, status.st_mtime_ns, status.st_size

    def _path(self, digest: bytes) -> Path:
        return self.folder / digest.hex()
