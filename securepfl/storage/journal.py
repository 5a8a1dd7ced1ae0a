"""A file that only grows: records, each whole or not there.

Layout: 8 bytes of magic, then a frame a record: its length and the length's complement, 4 bytes each, the record, and
16 bytes of BLAKE2b over it. The first frame is 8 bytes: how long the file was when it appeared. A process killed while
it wrote leaves a torn last frame after those: nobody was told of it, so it is cut off. Whatever else does not fit was
damaged later, and is refused.
"""

import hashlib
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, Self

from securepfl.errors import StorageError
from securepfl.storage.folder import storage_error, write_bytes

_MAGIC: Final = b"SPFLJ\0\0\2"
_LENGTH: Final = struct.Struct(">II")
_CREATED: Final = struct.Struct(">Q")
_CHECK_BYTES: Final = 16
_HEAD: Final = len(_MAGIC) + _LENGTH.size + _CREATED.size + _CHECK_BYTES
_CHUNK: Final = 1 << 20
_MOST: Final = 2**32 - 1


class Journal:
    """The journal in the file `path`, opened: `create` makes a new one, `open` goes on with one.

    A failed write leaves it as it was on disk before, and no other is taken: what the caller holds may be ahead of the
    file, so it must start again from there.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     journal = Journal.create(Path(folder) / "journal", b"first")
    ...     places = journal.append(b"second", b"third")
    ...     journal.close()
    ...     journal = Journal.open(Path(folder) / "journal")
    ...     [record for _, record in journal.records()], journal.read(places[1])
    ([b'first', b'second', b'third'], b'third')
    """

    def __init__(self, path: Path, descriptor: int, size: int) -> None:
        self.path, self._descriptor, self._size = path, descriptor, size
        self._failed = False

    @classmethod
    def create(cls, path: Path, *records: bytes) -> Self:
        """A new journal that appears whole, with these records, in place of an earlier one. Raises StorageError."""
        frames = b"".join(_joined(record) for record in records)
        data = _MAGIC + _joined(_CREATED.pack(_HEAD + len(frames))) + frames
        write_bytes(path, data)
        return cls(path, _opened(path), len(data))

    @classmethod
    def open(cls, path: Path) -> Self:
        """Go on with an existing one; a torn tail is cut off. Raises StorageError where it is damaged or missing."""
        journal = cls(path, _opened(path), 0)
        try:
            journal._size = os.fstat(journal._descriptor).st_size
            journal._cut_torn_tail()
            os.fsync(journal._descriptor)  # a killed writer may have gone before it could
        except OSError as error:
            journal.close()
            raise storage_error(path, error) from None
        except BaseException:
            journal.close()
            raise
        return journal

    def records(self) -> Iterator[tuple[int, bytes]]:
        """(place, record) in order, read one at a time."""
        place = _HEAD
        while place < self._size:
            record = self.read(place)
            yield place, record
            place += _LENGTH.size + len(record) + _CHECK_BYTES

    def read(self, place: int) -> bytes:
        """The record at a place that `append` or `records` gave. Raises StorageError where it was damaged since."""
        length, complement = _LENGTH.unpack(self._bytes(place, _LENGTH.size))
        frame = self._bytes(place + _LENGTH.size, length + _CHECK_BYTES) if length + complement == _MOST else b""
        if len(frame) < _CHECK_BYTES or _check(memoryview(frame)[:length]) != frame[length:]:
            raise self._damaged()
        return frame[:length]

    def append(self, *records: bytes | Sequence[bytes], sync: bool = True) -> list[int]:
        """Add records, whole or in pieces of which none is copied: their places. A kill loses none of them when this
        returns; with `sync` a power cut doesn't either, nor any that came before. Raises StorageError; then no more are
        taken.
        """
        if self._failed:
            raise StorageError(f"{self.path}: an earlier write failed; make room and start again from what lies there")
        places, end, pieces = [], self._size, list[bytes]()
        for record in records:
            places.append(end)
            framed = _frame(record)
            end += sum(map(len, framed))
            pieces += framed
        self._failed = True  # until all of it is done, whatever ends it
        try:
            _write(self._descriptor, pieces, self._size)
            if sync:
                os.fsync(self._descriptor)
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise storage_error(self.path, error) from None
        self._size, self._failed = end, False
        return places

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)

    def _bytes(self, place: int, length: int) -> bytes:
        parts, end = [], min(place + length, self._size)
        while place < end and (part := os.pread(self._descriptor, end - place, place)):
            parts.append(part)
            place += len(part)
        return b"".join(parts)

    def _cut_torn_tail(self) -> None:
        head = self._bytes(0, _HEAD)
        created = head[len(_MAGIC) + _LENGTH.size :][: _CREATED.size]
        if head != _MAGIC + _joined(created):
            raise self._damaged()
        place, (appeared,) = _HEAD, _CREATED.unpack(created)
        while place < max(self._size, appeared):
            length = self._whole(place)
            if length is None:
                if place < appeared:  # no kill tears what appeared whole
                    raise self._damaged()
                os.ftruncate(self._descriptor, place)
                self._size = place
                return
            place += length

    def _whole(self, place: int) -> int | None:
        """The length of the frame at `place`, None where it is torn. Raises StorageError where it is damaged.

        A write that was cut short leaves fewer bytes than the frame announces; one that lost power can also leave zeros
        at its end.
        """
        head = self._bytes(place, _LENGTH.size)
        if len(head) < _LENGTH.size:
            return None
        length, complement = _LENGTH.unpack(head)
        if length + complement != _MOST:
            if not self._zeros(place):
                raise self._damaged()
            return None
        total = _LENGTH.size + int(length) + _CHECK_BYTES
        if place + total > self._size:
            return None
        frame = self._bytes(place + _LENGTH.size, length + _CHECK_BYTES)
        if _check(memoryview(frame)[:length]) == frame[length:]:
            return total
        if place + total == self._size and not any(frame[length:]):
            return None
        raise self._damaged()

    def _zeros(self, place: int) -> bool:
        """Whether nothing but zeros follows; a piece at a time, as it may be long."""
        return not any(self._bytes(at, _CHUNK).strip(b"\0") for at in range(place, self._size, _CHUNK))

    def _damaged(self) -> StorageError:
        return StorageError(f"{self.path}: damaged, not as securepfl wrote it; restore its folder from a copy")


def _frame(record: bytes | Sequence[bytes]) -> list[bytes]:
    """The pieces of a record's frame."""
    pieces = [record] if isinstance(record, bytes) else list(record)
    length = sum(map(len, pieces))
    return [_LENGTH.pack(length, _MOST - length), *pieces, _check(*pieces)]


def _joined(record: bytes) -> bytes:
    return b"".join(_frame(record))


def _check(*pieces: bytes | memoryview) -> bytes:
    found = hashlib.blake2b(digest_size=_CHECK_BYTES)
    for piece in pieces:
        found.update(piece)
    return found.digest()


def _opened(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); restore its folder from a copy") from None


def _write(descriptor: int, pieces: Sequence[bytes], place: int) -> None:
    """All pieces, one behind the other; small ones go together."""
    for data in _lumps(pieces):
        view = memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, place)
            view, place = view[written:], place + written


def _lumps(pieces: Sequence[bytes]) -> Iterator[bytes]:
    small: list[bytes] = []
    for piece in pieces:
        if len(piece) < _CHUNK:
            small.append(piece)
            continue
        yield b"".join(small)
        yield piece
        small = []
    yield b"".join(small)
