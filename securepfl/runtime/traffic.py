"""What a simulation counts beside what its parties keep: bytes, failures, seconds. On disk, for a run to be resumed.

The file is a journal (storage/journal.py). It begins with all that was counted before; a line for each message, each
failure and each round's seconds follows. Lines are written before what they count takes effect at the coordinator, and
are synced before the coordinator goes on, so nothing that it knows of is missing there.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import msgspec

from securepfl.crypto.messages.envelope import Header
from securepfl.errors import MessageError, StorageError
from securepfl.storage.journal import Journal

_SCHEMA: Final = 1
_LONG: Final = 1 << 20
"""Bytes of the journal from which it is begun anew at the next round."""


class Failure(msgspec.Struct, frozen=True, array_like=True, tag="failed"):
    """A hospital that failed in a round, and why, in a line without anything of its data."""

    round: int
    hospital: str
    reason: str


class _Carried(msgspec.Struct, frozen=True, array_like=True, tag="carried"):
    """A message's way ("upload" or "download"), hospital, kind, round, attempt, and its bytes."""

    way: str
    hospital: str
    kind: int
    round: int
    attempt: int
    size: int

    @property
    def key(self) -> tuple[str, str, int, int, int]:
        return self.way, self.hospital, self.kind, self.round, self.attempt


class _Seconds(msgspec.Struct, frozen=True, array_like=True, tag="seconds"):
    spent: dict[str, float]


class _Parts(msgspec.Struct, frozen=True, array_like=True, tag="parts"):
    """Bytes by purpose, as far as they were told."""

    parts: dict[str, int]


class _Before(msgspec.Struct, frozen=True, array_like=True, tag="before"):
    """All that was counted before the journal was begun, and the messages of the last rounds among it."""

    schema: int
    upload: dict[str, int]
    download: dict[str, int]
    carried: list[_Carried]
    failures: list[Failure]
    seconds: dict[str, float]
    parts: dict[str, int] = {}


_Line = _Before | _Carried | Failure | _Seconds | _Parts
_DECODER: Final = msgspec.msgpack.Decoder(_Line)


@dataclass
class Traffic:
    """Bytes that each hospital sent and received so far, whole messages: one that had to be sent again counts once.

    `failures` are hospitals' failures, `before` the seconds that earlier processes of the same run took, by step.
    `parts` are bytes by purpose, where they are told here: a coordinator keeps its own.
    """

    upload: dict[str, int] = field(default_factory=dict)
    download: dict[str, int] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    before: dict[str, float] = field(default_factory=dict)
    parts: dict[str, int] = field(default_factory=dict)
    _seen: dict[tuple[str, str, int, int, int], _Carried] = field(default_factory=dict, repr=False)
    _journal: Journal | None = field(default=None, repr=False)
    _written: int = field(default=0, repr=False)

    @classmethod
    def of(cls, names: Iterable[str]) -> Self:
        """Nothing yet, of hospitals of these `names`; in memory."""
        nothing = dict.fromkeys(names, 0)
        return cls(dict(nothing), dict(nothing))

    @classmethod
    def kept(cls, path: Path, names: Iterable[str]) -> Self:
        """What the journal at `path` counted, which goes on there; nothing yet where there is none. Raises StorageError
        where it is damaged, or of other hospitals.
        """
        counted = cls.of(names)
        roster = set(counted.upload)
        if path.exists():
            journal = Journal.open(path)
            try:
                for _, record in journal.records():
                    counted._take(_DECODER.decode(record))
            except (msgspec.MsgspecError, KeyError):
                raise StorageError(f"{path}: not what this securepfl wrote; restore its folder from a copy") from None
            finally:
                journal.close()
            if {*counted.upload, *counted.download} != roster:
                raise StorageError(f"{path}: counts other hospitals; restore its folder from a copy")
        counted._begin(path)
        return counted

    def count(self, way: str, hospital: str, message: bytes) -> None:
        """A message to ("download") or from ("upload") a hospital."""
        try:
            header = Header.from_bytes(message)
        except MessageError:  # the coordinator will say so; it came all the same
            header = None
        kind, number, attempt = (0, 0, 0) if header is None else (header.kind, header.round, header.attempt)
        line = _Carried(way, hospital, int(kind), number, attempt, len(message))
        if line.key not in self._seen:
            self._write(line)

    def add(self, parts: Mapping[str, int]) -> None:
        """So many bytes more for each purpose."""
        if any(parts.values()):
            self._write(
                _Parts({name: self.parts.get(name, 0) + parts.get(name, 0) for name in {**self.parts, **parts}})
            )

    def fail(self, failure: Failure) -> None:
        """A hospital's failure."""
        self._write(failure)

    def over(self, number: int, seconds: dict[str, float]) -> None:
        """Round `number` is over, and all processes of the run took so many seconds until now."""
        self._seen = {key: line for key, line in self._seen.items() if line.round >= number}
        if self._journal is not None:
            self._write(_Seconds(seconds), taken=False)
            if self._written > _LONG:
                path = self._journal.path
                self._journal.close()
                self._begin(path, seconds)

    def sync(self) -> None:
        """All of it is on disk when this returns. Raises StorageError."""
        if self._journal is not None:
            self._journal.append()

    def close(self) -> None:
        """Give the file back."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _write(self, line: _Line, *, taken: bool = True) -> None:
        if self._journal is not None:
            data = msgspec.msgpack.encode(line)
            self._journal.append(data, sync=False)
            self._written += len(data)
        if taken:
            self._take(line)

    def _take(self, line: _Line) -> None:
        match line:
            case _Carried():
                counted = self.upload if line.way == "upload" else self.download
                if line.key not in self._seen:
                    counted[line.hospital] += line.size
                    self._seen[line.key] = line
            case _Parts():
                self.parts = dict(line.parts)
            case Failure():
                self.failures.append(line)
            case _Seconds():
                self.before = dict(line.spent)
            case _Before():
                if line.schema != _SCHEMA:
                    raise KeyError(line.schema)
                self.upload, self.download = dict(line.upload), dict(line.download)
                self.failures, self.before, self.parts = list(line.failures), dict(line.seconds), dict(line.parts)
                self._seen = {carried.key: carried for carried in line.carried}

    def _begin(self, path: Path, seconds: dict[str, float] | None = None) -> None:
        spent = self.before if seconds is None else seconds
        carried = list(self._seen.values())
        before = _Before(_SCHEMA, self.upload, self.download, carried, self.failures, spent, self.parts)
        self._journal, self._written = Journal.create(path, msgspec.msgpack.encode(before)), 0


def failed_notes(failures: Iterable[Failure]) -> list[str]:
    """A line for each hospital and reason: in how many rounds it failed.

    >>> failed_notes([Failure(2, "north", "OSError: No space left on device"), Failure(3, "south", "ValueError")])
    ['north: failed in round 2 (OSError: ...', 'south: failed in round 3 (ValueError); left out of ...']
    """
    rounds: dict[tuple[str, str], list[int]] = {}
    for its in failures:
        found = rounds.setdefault((its.hospital, its.reason), [])
        if its.round not in found:
            found.append(its.round)
    return [
        f"{name}: failed in round{'s' * (len(found) > 1)} {', '.join(map(str, found))} ({reason}); left out of the "
        "step each time, and asked again in the next round"
        for (name, reason), found in rounds.items()
    ]
