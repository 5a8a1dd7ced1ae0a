"""A coordinator's folder: from it a killed coordinator goes on with the same round.

    lock                         one process at a time
    round-NUMBER.journal         the last round: its records in order (storage/journal.py)
    answers-NUMBER.journal       of an earlier round, the answers that somebody missed, without their content
    content-NUMBER-DIGEST        what answers to a round have in common, sealed once
    evidence-NUMBER-DIGEST       a message that contradicted the one taken before
    evaluation-00000-DIGEST      a hospital's evaluation keys
    snapshot-, attested-         the last snapshot of the shared state, sealed for hospitals; what they stated about it

Messages lie there sealed, as they came or as they go: who reads the folder opens none. No key is stored.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec

from securepfl.coordinator.store import (
    SCHEMA,
    Answered,
    AnyRecord,
    Ground,
    Kept,
    Sent,
    Settling,
    Stated,
    Taken,
    missed,
)
from securepfl.crypto.messages.content import Buffer, Content, seal_content
from securepfl.errors import StorageError
from securepfl.storage.folder import lock_folder, read_behind, replacing, storage_error
from securepfl.storage.journal import Journal

_NUMBERED: Final = re.compile(r"(round|answers)-([0-9]{5,10})\.journal")
_CONTENT: Final = re.compile(r"content-([0-9]{5,10})-[0-9a-f]{64}")
_LONG: Final = 1 << 16
_EMPTY: Final = msgspec.msgpack.encode(b"")


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
        self._unsent: dict[str, int] = {}
        self._owed: dict[int, dict[str, int]] = {}
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
        self._messages, self._sent, self._unsent = {}, {}, {}
        self._note(journal)
        if earlier is not None:
            earlier.close()
            if earlier.path != journal.path:
                self._drop(earlier.path)
        self._drop_contents()

    def append(self, *records: AnyRecord) -> None:
        """As Store says."""
        journal, sync = self._last(), not all(isinstance(record, Taken | Stated | Sent) for record in records)
        for place, record in zip(journal.append(*map(_pieces, records), sync=sync), records, strict=True):
            self._place(place, record)

    def message(self, sender: str, kind: int) -> bytes | None:
        """As Store says."""
        place = self._messages.get((sender, kind))
        return None if place is None else self._at(place, Taken).message

    def share(self, pieces: Sequence[Buffer]) -> Content:
        """As Store says."""
        number, made = self._number, list[Content]()
        with replacing(self.folder / "content", lambda: self._content(number, made[0].digest)) as file:
            made.append(seal_content(pieces, file.write))
        return made[0]

    def answered(self, number: int) -> Collection[str]:
        """As Store says."""
        return self._sent.keys() if number == self._number else self._owed.get(number, {}).keys()

    def answer(self, number: int, receiver: str) -> bytes:
        """As Store says."""
        sent = self._sent_to(number, receiver)
        return read_behind(sent.message, self._content(number, sent.content)) if sent.content else sent.message

    def _sent_to(self, number: int, receiver: str) -> Sent:
        if number == self._number:
            found: Sent = self._at(self._sent[receiver], Sent)
            return found
        path = self._answers(number)
        with closing(Journal.open(path)) as journal:
            older: Sent = _decoded(journal.read(self._owed[number][receiver]), Sent, path)
            return older

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
                self._owed[number] = _places(journal)
        for number in rounds[:-1]:
            self._drop(self._round(number))
        self._drop_contents()

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
            self._unsent[record.receiver] = place
        elif isinstance(record, Answered | Settling):
            self._sent.update(self._unsent)
            self._unsent = {}

    def _keep_owed(self, ground: Ground) -> None:
        """Before the last round's journal goes, move the answers that somebody missed; drop what nobody needs."""
        last, same = self.ground, self.ground is not None and self.ground.base == ground.base
        for number, places in list(self._owed.items()):
            self._owe(number, places if same else {}, ground)
        if last is not None and same:
            self._owe(last.closed + 1, self._sent, ground)

    def _owe(self, number: int, places: dict[str, int], ground: Ground) -> None:
        """Of a round's answers keep those that are still missing there."""
        left, path = missed(places, number, ground), self._answers(number)
        if left and left.keys() != self._owed.get(number, {}).keys():
            kept = [_encoded(self._sent_to(number, name)) for name in left]
            with closing(Journal.create(path, *kept)) as journal:
                self._owed[number] = _places(journal)
        elif not left and self._owed.pop(number, None) is not None:
            self._drop(path)

    def _drop_contents(self) -> None:
        """Those of rounds of which no answer is kept."""
        for path in self.folder.glob("content-*"):
            match = _CONTENT.fullmatch(path.name)
            if match and int(match[1]) not in {*self._owed, self._number}:
                self._drop(path)

    @property
    def _number(self) -> int:
        """The last round's; 0 before any."""
        return 0 if self.ground is None else self.ground.closed + 1

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

    def _content(self, number: int, digest: bytes) -> Path:
        return self.folder / f"content-{number:05}-{digest.hex()}"


def _records(journal: Journal) -> Iterator[tuple[int, AnyRecord]]:
    for place, data in journal.records():
        record = _decoded(data, AnyRecord, journal.path)
        if isinstance(record, Ground) and record.schema != SCHEMA:
            raise StorageError(f"{journal.path}: schema {record.schema}, but this securepfl reads {SCHEMA}; upgrade it")
        yield place, record


def _places(journal: Journal) -> dict[str, int]:
    """Where the answers in a journal lie, by receiver."""
    return {record.receiver: place for place, record in _records(journal) if isinstance(record, Sent)}


def _pieces(record: AnyRecord) -> bytes | list[bytes]:
    """The bytes of a record; a long message as it lies, behind its length (bin 32), where its field comes last."""
    if not isinstance(record, Taken) or len(record.message) < _LONG:
        return _encoded(record)
    head = _encoded(msgspec.structs.replace(record, message=b""))
    return [head[: -len(_EMPTY)] + b"\xc6" + len(record.message).to_bytes(4, "big"), record.message]


def _encoded(record: AnyRecord) -> bytes:
    return msgspec.msgpack.encode(record)


def _decoded(data: bytes, kind: Any, path: Path) -> Any:
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except msgspec.MsgspecError:
        raise StorageError(f"{path}: not what this securepfl wrote; restore its folder from a copy") from None
