"""A coordinator's folder: from it a killed coordinator goes on with the same round.

    lock                         one process at a time
    round-NUMBER.journal         the last round: its records in order (storage/journal.py)
    answers-NUMBER.journal       of an earlier round, the answers that somebody missed
    evidence-NUMBER-DIGEST       a message that contradicted the one taken before
    evaluation-00000-DIGEST      a hospital's evaluation keys

Messages lie there sealed, as they came or as they go: who reads the folder opens none. No key is stored.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from securepfl.coordinator.store import SCHEMA, AnyRecord, Ground, Kept, Sent, Stated, Taken, missed
from securepfl.errors import StorageError
from securepfl.storage.folder import lock_folder, storage_error
from securepfl.storage.journal import Journal

_NUMBERED: Final = re.compile(r"(round|answers)-([0-9]{5,10})\.journal")


class FolderStore:
    """The store in `folder`, which is made where it is missing. Memory holds places in files, and no message.

    Raises StorageError where the folder is in use, damaged or can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = lock_folder(folder)
        self._journal: Journal | None = None
        self.ground: Ground | None = None
        self._messages: dict[tuple[str, int], int] = {}
        self._sent: dict[str, int] = {}
        self._owed: dict[int, dict[str, None]] = {}
        try:
            self._open()
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise storage_error(folder, error) from None
            raise

    def records(self) -> Iterator[AnyRecord]:
        """As Store says."""
        if self._journal is not None:
            for _, record in _records(self._journal):
                yield record

    def begin(self, ground: Ground, *records: AnyRecord) -> None:
        """As Store says."""
        self._keep_owed(ground)
        journal = Journal.create(self._round(ground.closed + 1), *map(_encoded, (ground, *records)))
        earlier, self._journal, self.ground = self._journal, journal, ground
        self._messages, self._sent = {}, {}
        self._note(journal)
        if earlier is not None:
            earlier.close()
            if earlier.path != journal.path:
                self._drop(earlier.path)

    def append(self, *records: AnyRecord) -> None:
        """As Store says."""
        journal, sync = self._last(), not all(isinstance(record, Taken | Stated) for record in records)
        for place, record in zip(journal.append(*map(_encoded, records), sync=sync), records, strict=True):
            self._place(place, record)

    def message(self, sender: str, kind: int) -> bytes | None:
        """As Store says."""
        place = self._messages.get((sender, kind))
        return None if place is None else self._at(place, Taken).message

    def answers(self, number: int) -> dict[str, bytes]:
        """As Store says."""
        if self.ground is not None and number == self.ground.closed + 1:
            return {name: self._at(place, Sent).message for name, place in self._sent.items()}
        if number not in self._owed:
            return {}
        with closing(Journal.open(self._answers(number))) as journal:
            return {record.receiver: record.message for _, record in _records(journal) if isinstance(record, Sent)}

    def keep(self, kept: Kept) -> None:
        """As Store says."""
        who = hashlib.sha256(kept.sender.encode()).hexdigest()[:16]
        Journal.create(self.folder / f"{kept.kind}-{kept.number:05}-{who}", msgspec.msgpack.encode(kept)).close()

    def kept(self, kind: str) -> list[Kept]:
        """As Store says."""
        found: list[Kept] = []
        for path in sorted(self.folder.glob(f"{kind}-*")):
            with closing(Journal.open(path)) as journal:
                found += [_decoded(data, Kept, path) for _, data in journal.records()]
        return found

    def close(self) -> None:
        """As Store says."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None
        self._lock.close()

    def _open(self) -> None:
        """Find the last round. A kill while the next one began may have left the one before, too."""
        self.folder.chmod(0o700)
        found: dict[str, list[int]] = {"round": [], "answers": []}
        for path in self.folder.iterdir():
            if path.name.endswith(".partial"):
                path.unlink()
            elif match := _NUMBERED.fullmatch(path.name):
                found[match[1]].append(int(match[2]))
        rounds = sorted(found["round"])
        if rounds:
            self._journal = Journal.open(self._round(rounds[-1]))
            self._note(self._journal)
            if self.ground is None:
                raise StorageError(f"{self._journal.path}: not of a coordinator; restore its folder from a copy")
        for number in found["answers"]:
            with closing(Journal.open(self._answers(number))) as journal:
                self._owed[number] = {
                    record.receiver: None for _, record in _records(journal) if isinstance(record, Sent)
                }
        for number in rounds[:-1]:
            self._drop(self._round(number))

    def _note(self, journal: Journal) -> None:
        """Remember where a journal's messages lie."""
        for place, record in _records(journal):
            if isinstance(record, Ground):
                self.ground = record
            self._place(place, record)

    def _place(self, place: int, record: AnyRecord) -> None:
        if isinstance(record, Taken):
            self._messages[record.sender, record.kind] = place
        elif isinstance(record, Sent):
            self._sent[record.receiver] = place

    def _keep_owed(self, ground: Ground) -> None:
        """Before the last round's journal goes, move the answers that somebody missed; drop what nobody needs."""
        last, same = self.ground, self.ground is not None and self.ground.base == ground.base
        for number, names in list(self._owed.items()):
            self._owe(number, names if same else {}, ground)
        if last is not None and same:
            self._owe(last.closed + 1, dict.fromkeys(self._sent), ground)

    def _owe(self, number: int, names: dict[str, None], ground: Ground) -> None:
        """Of a round's answers keep those to `names` that are still missing there."""
        left, path = missed(names, number, ground), self._answers(number)
        if left and left != self._owed.get(number):
            messages = self.answers(number)
            kept = [_encoded(Sent(receiver=name, message=messages[name])) for name in left]
            Journal.create(path, *kept).close()
            self._owed[number] = left
        elif not left and self._owed.pop(number, None) is not None:
            self._drop(path)

    def _last(self) -> Journal:
        if self._journal is None:
            raise ValueError("no round was begun in this store")
        return self._journal

    def _at(self, place: int, kind: Any) -> Any:
        journal = self._last()
        return _decoded(journal.read(place), kind, journal.path)

    def _drop(self, path: Path) -> None:
        """A power cut may bring it back: then it is dropped again."""
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(path, error) from None

    def _round(self, number: int) -> Path:
        return self.folder / f"round-{number:05}.journal"

    def _answers(self, number: int) -> Path:
        return self.folder / f"answers-{number:05}.journal"


def _records(journal: Journal) -> Iterator[tuple[int, AnyRecord]]:
    for place, data in journal.records():
        record = _decoded(data, AnyRecord, journal.path)
        if isinstance(record, Ground) and record.schema != SCHEMA:
            raise StorageError(f"{journal.path}: schema {record.schema}, but this securepfl reads {SCHEMA}; upgrade it")
        yield place, record


def _encoded(record: AnyRecord) -> bytes:
    return msgspec.msgpack.encode(record)


def _decoded(data: bytes, kind: Any, path: Path) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError:
        raise StorageError(f"{path}: not what this securepfl wrote; restore its folder from a copy") from None
