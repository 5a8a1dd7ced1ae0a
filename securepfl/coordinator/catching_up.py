"""What brings a hospital that is behind to the last round that is over: the answers it missed, or the shared state.

The shared state is a snapshot that another hospital made and sealed for hospitals: the coordinator keeps it and cannot
read it. Whoever is behind takes it on the signed statements of the others alone.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

import msgspec

from securepfl.coordinator.store import Kept, KeptKind, Store
from securepfl.errors import LateError, MessageError
from securepfl.protocol.messages import Rejoin, Statement

What = TypeVar("What", bound=msgspec.Struct)


class KeptSnapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The shared state after `round`, as `sender` sealed it."""

    round: int
    sender: str
    snapshot: bytes = b""


class Attested(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What hospitals stated about `round`, by name."""

    round: int
    statements: dict[str, Statement]


@dataclass
class Snapshots:
    """The last snapshot that a coordinator holds, in `store`, for hospitals whose messages are bound to `base`.

    `least` is how many other hospitals must have stated one state. `held` tells of what lies there, without its bytes;
    None where nothing does, or nobody could take it. `asked` is who was asked for one, by round; `doubted` whose
    snapshot somebody could not take.
    """

    store: Store
    base: bytes
    least: int
    held: KeptSnapshot | None = None
    attested: Attested | None = None
    asked: dict[str, int] = field(default_factory=dict)
    doubted: set[tuple[str, int]] = field(default_factory=set)

    @classmethod
    def opened(cls, store: Store, base: bytes, least: int) -> Self:
        """What lies in the store. Raises StorageError."""
        found = cls(store, base, least)
        snapshot, attested = found._kept("snapshot", KeptSnapshot), found._kept("attested", Attested)
        found.held = None if snapshot is None else msgspec.structs.replace(snapshot, snapshot=b"")
        found.attested = attested
        return found

    def take(self, sender: str, number: int, snapshot: bytes, closed: int) -> None:
        """The state after round `number` from a hospital that was asked for it. Raises LateError, MessageError."""
        if number < closed or (self.held is not None and self.held.round >= number):
            raise LateError(f"{sender}: its snapshot of round {number} came late; not used")
        if number > closed or self.asked.get(sender) != number or not snapshot:
            raise MessageError(f"{sender}: a snapshot of round {number} that nobody asked for; refused")
        kept = KeptSnapshot(round=number, sender=sender, snapshot=snapshot)
        self._keep("snapshot", kept)
        self.held = msgspec.structs.replace(kept, snapshot=b"")

    def attest(self, statements: Mapping[str, Statement]) -> None:
        """Before statements of the next round come: keep those about the snapshot's."""
        if self.held is None:
            return
        stated = self.stated(statements)
        if stated and (self.attested is None or self.attested.statements != stated):
            self.attested = Attested(round=self.held.round, statements=stated)
            self._keep("attested", self.attested)

    def stated(self, statements: Mapping[str, Statement]) -> dict[str, Statement]:
        """What is known to be stated about the snapshot's round, of earlier and of these latest `statements`."""
        if self.held is None:
            return {}
        known = {} if self.attested is None or self.attested.round != self.held.round else self.attested.statements
        return known | {name: its for name, its in statements.items() if its.round == self.held.round}

    def round_for(self, name: str, at: int, statements: Mapping[str, Statement]) -> int:
        """The round of the snapshot that hospital `name`, which has applied `at` rounds, could take; 0 for none."""
        if self.held is None or self.held.round <= at or (self.held.sender, self.held.round) in self.doubted:
            return 0
        others = [its.state for other, its in self.stated(statements).items() if other != name]
        most = max(Counter(others).values(), default=0)
        return self.held.round if most >= self.least and 2 * most > len(others) else 0

    def rejoin(self, name: str, statements: Mapping[str, Statement]) -> Rejoin:
        """What hospital `name` takes it from. Raises StorageError."""
        kept = self._kept("snapshot", KeptSnapshot)
        others = {other: its for other, its in self.stated(statements).items() if other != name}
        return Rejoin(snapshot=b"" if kept is None else kept.snapshot, statements=others)

    def doubt(self) -> str:
        """Somebody could not take the snapshot: another one's is wanted. Whose it was; empty where none is held."""
        if self.held is None:
            return ""
        sender, number = self.held.sender, self.held.round
        self.doubted.add((sender, number))
        self.held = None
        return sender

    def may_ask(self, name: str, closed: int) -> bool:
        """Whether hospital `name`, which holds the state after `closed` rounds, is to be asked for it."""
        return self.wanted(closed) and (name, closed) not in self.doubted

    def wanted(self, closed: int) -> bool:
        """Whether there is none of the last round that is over."""
        return closed > 0 and (self.held is None or self.held.round < closed)

    def _keep(self, kind: KeptKind, what: msgspec.Struct) -> None:
        self.store.keep(Kept(kind=kind, base=self.base, number=0, sender="", data=msgspec.msgpack.encode(what)))

    def _kept(self, kind: KeptKind, form: type[What]) -> What | None:
        found = [kept.data for kept in self.store.kept(kind) if kept.base == self.base]
        return msgspec.msgpack.decode(found[-1], type=form) if found else None
