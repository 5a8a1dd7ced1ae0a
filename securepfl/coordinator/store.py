"""What a coordinator keeps of its run: in memory, or in a folder from which it goes on after a kill.

A round is a list of records, in the order in which they changed it. Whoever takes them again in that order stands where
the coordinator stood; sealed messages are kept as they came, so only the coordinator's identity opens them.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, Literal, Protocol, TypeVar

import msgspec

from securepfl.coordinator.sealing import Contents
from securepfl.crypto.messages.content import Buffer, Content
from securepfl.protocol.messages import Statement

SCHEMA: Final = 3

KEPT_ROUNDS: Final = 16
"""For how many rounds the answers that somebody missed are kept. An answer at the usual density is a tenth of a model
or less, and the shared state that is given in their place about three models (parameters, and the last sum in double
precision): so up to here answers are the cheaper way, and they lose nothing of the hospital's own. It bounds the folder
too: a hospital that never comes back costs sixteen answers, whatever the number of rounds.
"""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="record"):
    """Base of what is kept. A field of another name or meaning needs another SCHEMA."""


class Ground(Record, frozen=True, kw_only=True, tag="ground"):
    """Where a journal begins: whose it is, and all that counts of earlier rounds, of which `closed` were closed.

    `run` is the run's identifier, `settings` the digest of the federation's settings without its hospitals, `base`
    what messages are bound to, `coordinator` its fingerprint; the rest is as in Coordinator.
    """

    schema: int = SCHEMA
    run: bytes
    settings: bytes
    base: bytes
    coordinator: str
    closed: int
    heads: dict[str, str]
    statements: dict[str, Statement]
    nonces: dict[str, bytes]
    parts: dict[str, int]
    named: tuple["Named", ...] = ()
    excluded: dict[str, str] = {}


class Named(Record, frozen=True, kw_only=True, tag="named"):
    """A hospital did `what` in round `number`; `excluded`: it is not invited any more."""

    number: int
    hospital: str
    what: str
    excluded: bool = False


class Readmitted(Record, frozen=True, kw_only=True, tag="readmitted"):
    """A hospital is invited again."""

    hospital: str


class Settling(Record, frozen=True, kw_only=True, tag="settling"):
    """The dispute about the round's answers went on to its next step."""


class Begun(Record, frozen=True, kw_only=True, tag="begun"):
    """The round after those closed is open, under this salt."""

    salt: bytes


class Taken(Record, frozen=True, kw_only=True, tag="taken"):
    """A hospital's sealed message that was taken, whole."""

    sender: str
    kind: int
    message: bytes


class Stepped(Record, frozen=True, kw_only=True, tag="stepped"):
    """The round went on to its next step, of the kind of message that it then asks for."""

    kind: int


class Sent(Record, frozen=True, kw_only=True, tag="sent"):
    """A hospital's sealed answer, before it is sent: hospitals take one answer a round, and know it by its bytes.

    `message` is without its content, which others receive too; `content` is the digest of that. It counts once Answered
    or Settling follows: further answers replace earlier ones all together.
    """

    receiver: str
    message: bytes
    content: bytes


class Answered(Record, frozen=True, kw_only=True, tag="answered"):
    """The round was closed, all its answers are there. `heads` and `parts` are then as in Coordinator."""

    heads: dict[str, str]
    parts: dict[str, int]


class Stated(Record, frozen=True, kw_only=True, tag="stated"):
    """What a hospital's receipt stated."""

    sender: str
    statement: Statement


AnyValue = TypeVar("AnyValue")
AnyRecord = Ground | Begun | Taken | Stepped | Sent | Answered | Stated | Named | Readmitted | Settling


KeptKind = Literal["evidence", "case", "evaluation", "snapshot", "attested"]


class Kept(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What outlives its round: a message as evidence against its sender, the verdicts about it (a Case), a hospital's
    evaluation keys, which serve one `base`, or the last snapshot with what was stated about it (catching_up.py).
    """

    schema: int = SCHEMA
    kind: KeptKind
    base: bytes
    number: int
    sender: str
    data: bytes


class Store(Protocol):
    """Where a coordinator keeps its run. All raise StorageError where that fails."""

    ground: Ground | None
    """Where the last round began; None where nothing is kept yet."""

    def records(self) -> Iterator[AnyRecord]:
        """Those of the last round, in order."""

    def begin(self, ground: Ground, *records: AnyRecord) -> None:
        """A round begins with these records. Of the last KEPT_ROUNDS only answers are kept, and of those only what
        their receivers have not stated to have applied; none where `ground` has another base.
        """

    def append(self, *records: AnyRecord) -> None:
        """Add records to the last round. When this returns a kill loses none of them; a power cut may lose those of
        hospitals, Taken and Stated, until another kind follows: then nothing has left, and hospitals send the same
        again.
        """

    def share(self, pieces: Sequence[Buffer]) -> Content:
        """Seal what answers to the last round have in common, the joined `pieces`, and keep it as long as one of them.
        When this returns a power cut doesn't lose it.
        """

    def message(self, sender: str, kind: int) -> bytes | None:
        """The sealed message of that kind that was taken from a hospital in the last round."""

    def answered(self, number: int) -> Collection[str]:
        """Whose sealed answers to a round are kept."""

    def answer(self, number: int, receiver: str) -> bytes:
        """One of them whole, of a hospital's the one made last. Raises KeyError where it is gone."""

    def keep(self, kept: Kept) -> None:
        """Keep something for good, in place of what was kept of its kind, round and sender."""

    def kept(self, kind: str) -> list[Kept]:
        """All that was kept of a kind."""

    def close(self) -> None:
        """Give back what it holds."""


class MemoryStore:
    """Nothing on disk: a coordinator that is killed has lost its run. Holds the last round's messages whole."""

    def __init__(self) -> None:
        self._messages: dict[tuple[str, int], bytes] = {}
        self._answers: dict[int, dict[str, Sent]] = {}
        self._unsent: dict[str, Sent] = {}
        self._contents = Contents()
        self._kept: dict[str, Kept] = {}
        self.ground: Ground | None = None

    def records(self) -> Iterator[AnyRecord]:
        """None: there is nothing from before."""
        return iter(())

    def begin(self, ground: Ground, *records: AnyRecord) -> None:
        """As Store says."""
        kept = self._answers if self.ground is not None and ground.base == self.ground.base else {}
        left = {number: missed(sealed, number, ground) for number, sealed in kept.items()}
        self._answers = {number: sealed for number, sealed in left.items() if sealed}
        self._contents.only({sent.content for sealed in self._answers.values() for sent in sealed.values()})
        self._messages, self._unsent, self.ground = {}, {}, ground
        self.append(*records)

    def append(self, *records: AnyRecord) -> None:
        """As Store says."""
        for record in records:
            if isinstance(record, Taken):
                self._messages[record.sender, record.kind] = record.message
            elif isinstance(record, Sent):
                self._unsent[record.receiver] = record
            elif isinstance(record, Answered | Settling) and self.ground is not None:
                self._answers.setdefault(self.ground.closed + 1, {}).update(self._unsent)
                self._unsent = {}

    def share(self, pieces: Sequence[Buffer]) -> Content:
        """As Store says."""
        return self._contents.share(pieces)

    def message(self, sender: str, kind: int) -> bytes | None:
        """As Store says."""
        return self._messages.get((sender, kind))

    def answered(self, number: int) -> Collection[str]:
        """As Store says."""
        return self._answers.get(number, {}).keys()

    def answer(self, number: int, receiver: str) -> bytes:
        """As Store says."""
        sent = self._answers[number][receiver]
        return sent.message + self._contents[sent.content]

    def keep(self, kept: Kept) -> None:
        """The coordinator holds it already, but for a snapshot."""
        if kept.kind in ("snapshot", "attested"):
            self._kept[kept.kind] = kept

    def kept(self, kind: str) -> list[Kept]:
        """The last snapshot: else there is nothing from before."""
        return [kept for kept in self._kept.values() if kept.kind == kind]

    def close(self) -> None:
        """Nothing is held."""


def missed(names: Mapping[str, AnyValue], number: int, ground: Ground) -> dict[str, AnyValue]:
    """Of a round's answers by receiver, those that it has not stated to have applied; none of a round long ago."""
    if number <= ground.closed - KEPT_ROUNDS:
        return {}
    applied = {name: statement.round for name, statement in ground.statements.items()}
    return {name: value for name, value in names.items() if applied.get(name, 0) < number}
