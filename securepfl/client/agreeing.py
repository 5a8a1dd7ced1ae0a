"""Whether hospitals hold the same shared state: what each has stated, compared before anything is contributed.

Every invitation carries what the hospital's companions (protocol/companions.py) stated, signed, about the last answer
that they applied: all hospitals, or 16 that rotate. A coordinator that gave hospitals different sums, each valid, is
caught here one round later.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import msgspec

from securepfl.client.round import Session
from securepfl.errors import MessageError, StorageError
from securepfl.protocol.companions import companions_of
from securepfl.protocol.contradictions import Contradiction, same_state
from securepfl.protocol.messages import Statement
from securepfl.protocol.statements import check_statement, make_statement
from securepfl.storage.folder import write_bytes

SCHEMA: Final = 1
RECORD: Final = "statements.json"
EVIDENCE: Final = "evidence"


class Record(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What a hospital keeps of statements: the latest of each hospital in the run of `session` (hexadecimal), its own
    included, and all ledger heads that each stated, in order, over all runs from this folder.

    `securepfl audit verify LEDGER --heads` takes the file. Its names and meaning may not change under one SCHEMA.
    """

    schema: int = SCHEMA
    session: str = ""
    statements: dict[str, Statement] = {}
    heads: dict[str, list[str]] = {}

    @classmethod
    def load(cls, path: Path, session: bytes) -> "Record":
        """The record in the run of `session`; empty where there is none. Raises StorageError where it is damaged."""
        try:
            record = msgspec.json.decode(path.read_bytes(), type=cls)
        except FileNotFoundError:
            return cls(session=session.hex())
        except OSError as error:
            raise StorageError(f"{path}: cannot be read ({error.strerror}); mend its rights") from None
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise StorageError(f"{path}: not a file that securepfl wrote whole; restore it from a copy") from None
        if record.schema != SCHEMA:
            raise StorageError(f"{path}: schema {record.schema}, but this securepfl reads {SCHEMA}; upgrade it")
        if record.session != session.hex():
            record.session, record.statements = session.hex(), {}
        return record

    def keep(self, name: str, statement: Statement) -> None:
        """Take in what `name` stated, where it is later than what is known."""
        known = self.statements.get(name)
        if known is None or known.round < statement.round:
            self.statements[name] = statement
            if statement.head not in self.heads.setdefault(name, []):
                self.heads[name].append(statement.head)

    def save(self, path: Path, *, lasting: bool = True) -> None:
        """On disk when this returns; `lasting`: see write_bytes. Raises StorageError."""
        write_bytes(path, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n", lasting=lasting)


@dataclass(frozen=True)
class Agreeing:
    """A hospital's side of the comparison, in its `folder`, in the run of `session`."""

    folder: Path
    session: Session

    @cached_property
    def _record(self) -> Record:
        return Record.load(self.folder / RECORD, self.session.digest)

    def own(self, round_: int, state: str, head: str) -> Statement:
        """What this hospital states about `round_`: once, and the same again. It is on disk before it is returned."""
        known = self._record.statements.get(self.session.name)
        if known is not None and known.round == round_:
            return known
        made = make_statement(self.session.keyring.identity, self.session.digest, round_, state, head)
        self._record.keep(self.session.name, made)
        self._record.save(self.folder / RECORD)
        return made

    def check(self, round_: int, state: str, head: str, stated: Mapping[str, Statement]) -> None:
        """Compare what is `stated`, by name, with the digest `state` that this hospital holds after `round_`.

        | what is stated | what happens |
        |---|---|
        | by more than half of those that state `round_`, this one included: the same state | it goes on |
        | by some others: another state | evidence against each is kept, and it goes on |
        | by half or more: another state | evidence is kept; MessageError |
        | by somebody: two things about one round | evidence is kept; it does not count |
        | by somebody: about an earlier round | it does not count |
        | in this hospital's name: what it did not state | MessageError |
        | forged, of another run, of a later round, by nobody of the roster or of this round | MessageError |

        `head` is that of this hospital's ledger. Raises StorageError where a file can't be written.
        """
        self._check_signed(round_, stated)
        others = {name: its for name, its in stated.items() if name != self.session.name}
        said_twice = self._said_twice(others)
        self._remember(others)
        current = {name: its for name, its in others.items() if its.round == round_ and name not in said_twice}
        differing = sorted(name for name, its in current.items() if not same_state(its.state, state))
        for name in differing:
            mine = (self.session.name, self.own(round_, state, head))
            self._accuse(Contradiction.between(self.session.digest, mine, (name, current[name])))
        if 2 * len(differing) >= len(current) + 1:
            raise MessageError(
                f"{self.session.name}: after round {round_} {', '.join(differing)} hold another state, and most do not "
                "hold this one; nothing was sent or spent; settle with them which sum is right, by the signed "
                f"statements in {self.folder / EVIDENCE}, then start a new run"
            )

    def _check_signed(self, round_: int, stated: Mapping[str, Statement]) -> None:
        """Raises MessageError unless each statement is of its hospital, in this run, about no later round, and that in
        this hospital's name the one that it made.
        """
        name, people = self.session.name, self.session.keyring.hospitals
        expected = {name} | companions_of(self.session.federation, name, round_ + 1)
        for other, its in stated.items():
            if other not in self.session.federation.roster or other not in people:
                raise MessageError(f"{name}: a statement of {other!r}, who is not in the roster; nothing was sent")
            if other not in expected:
                raise MessageError(
                    f"{name}: a statement of {other}, with whom it does not compare before round {round_ + 1}; nothing "
                    "was sent"
                )
            if its != self._record.statements.get(other):  # what is kept was checked when it came
                check_statement(people[other], self.session.digest, its)
            if its.round > round_:
                raise MessageError(f"{name}: {other} states round {its.round}, before its end; nothing was sent")
        own = stated.get(name)
        if own is not None and own.round == round_ and own != self._record.statements.get(name):
            raise MessageError(
                f"{name}: the invitation holds a statement about round {round_} that this hospital did not make here; "
                "see that nobody else has its keys, and that its folder is no copy; nothing was sent"
            )

    def _said_twice(self, others: Mapping[str, Statement]) -> set[str]:
        """Who has stated two things about one round, with evidence kept."""
        known = self._record.statements
        found = {name for name, its in others.items() if name in known and known[name].round == its.round}
        found = {name for name in found if known[name] != others[name]}
        for name in found:
            self._accuse(Contradiction.between(self.session.digest, (name, known[name]), (name, others[name])))
        return found

    def _remember(self, others: Mapping[str, Statement]) -> None:
        """On disk, before anything else is done; it lasts once evidence, the round's draft or its refusal does."""
        for name, its in others.items():
            self._record.keep(name, its)
        if others:
            self._record.save(self.folder / RECORD, lasting=False)

    def _accuse(self, found: Contradiction) -> None:
        """Keep evidence, once."""
        other, number = found.other.name, found.other.statement.round
        about = "said-twice" if found.one.name == other else "another-state"
        path = self.folder / EVIDENCE / f"round-{number}-{other}-{about}.json"
        if not path.exists():
            write_bytes(path, found.to_json())


def evidence_in(folder: Path) -> tuple[Path, ...]:
    """The evidence that a hospital keeps there, each file a Contradiction, sorted by name."""
    return tuple(sorted((folder / EVIDENCE).glob("*.json")))
