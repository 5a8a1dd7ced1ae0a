"""The coordinator's half of a round's comparison: a table for each group, with places in it for roster indexes."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self

from securepfl.crypto.similarity.scheme import SimilarityScheme, SimilarityTable
from securepfl.protocol.channels import comparison_shape
from securepfl.protocol.groups import groups_of
from securepfl.settings.federation import Federation


@dataclass(frozen=True, eq=False)
class _Held(Mapping[int, bytes]):
    """The evaluation keys of a group's `members` (roster indexes) by place: a view of `held`, which may grow."""

    held: Mapping[int, bytes]
    members: tuple[int, ...]

    def __getitem__(self, place: int) -> bytes:
        return self.held[self.members[place]]

    def __iter__(self) -> Iterator[int]:
        return (place for place, index in enumerate(self.members) if index in self.held)

    def __len__(self) -> int:
        return sum(index in self.held for index in self.members)


@dataclass(frozen=True)
class GroupTables:
    """A round's tables, one a group: sketches are multiplied within a group only. Hospitals are roster indexes here.

    `groups` are the members of each, `tables` in the same order, `seats` say where each hospital sits: (group, place).
    """

    groups: tuple[tuple[int, ...], ...]
    tables: tuple[SimilarityTable, ...]
    seats: Mapping[int, tuple[int, int]]

    @classmethod
    def of(cls, way: SimilarityScheme, federation: Federation, round_: int, keys: Mapping[int, bytes]) -> Self:
        """Empty tables. `keys` are the evaluation keys that are held, by roster index; others may be added later."""
        places, shape = federation.places, comparison_shape(federation)
        groups = tuple(tuple(places[name] for name in group.members) for group in groups_of(federation, round_))
        seats = {index: (at, place) for at, members in enumerate(groups) for place, index in enumerate(members)}
        return cls(groups, tuple(way.table(shape, _Held(keys, members)) for members in groups), seats)

    def check(self, client: int, upload: bytes) -> None:
        """Raises MessageError for what `add` would refuse, and keeps nothing."""
        group, place = self.seats[client]
        self.tables[group].check(place, upload)

    def add(self, client: int, upload: bytes) -> None:
        """Take a hospital's upload. Raises MessageError for bytes that do not fit, ValueError for a second one."""
        group, place = self.seats[client]
        self.tables[group].add(place, upload)

    def leave_out(self, client: int) -> None:
        """Speak of a hospital in no row from now on, nor to it."""
        group, place = self.seats[client]
        self.tables[group].leave_out(place)

    def row(self, client: int) -> dict[int, bytes]:
        """The answers to one hospital by the other's index, of its group alone."""
        group, place = self.seats[client]
        members = self.groups[group]
        return {members[other]: answer for other, answer in self.tables[group].row(place).items()}
