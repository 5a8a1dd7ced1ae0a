"""With whom a hospital is compared in a round: with all, or with a group of at most 64 that rotates.

All sides compute the groups from the roster's size and the round, so sketches are multiplied within a group only, and a
hospital takes no others' answers. Up to 64 hospitals are one group. More of them form an even number of blocks, runs of
the roster's order of at most 32, and a group is two blocks: in each round in which hospitals are compared, blocks are
paired as in a tournament, in which each meets each other once. So (n hospitals, g = ceil(n / 64) groups):

| what | why |
|---|---|
| a group's sketches are multiplied with each other: n x 63 products at most, not n^2 | groups are blocks' pairs |
| every pair is in one group within 2 g - 1 comparisons, from any on | the tournament of 2 g blocks |
| two of one block are in one group each time | blocks stay as they are |

A group is to its members what a small roster would be: they have places in it, and pads, tags and checks are bound to
it. All groups have the form of the largest possible one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from securepfl.settings.federation import Federation

MOST: Final = 64
"""Hospitals in a group, an even number."""


@dataclass(frozen=True)
class Group:
    """The `number`-th group of a round, from 0: its `members` in the roster's order. `alone`: it is all of the roster.

    >>> group = Group(1, ("elm", "fir"), alone=False)
    >>> group.places["fir"], group.context(b"round 3")
    (1, b'round 3/group/1')
    """

    number: int
    members: tuple[str, ...]
    alone: bool

    @cached_property
    def places(self) -> Mapping[str, int]:
        """The members' places, from 0."""
        return {name: place for place, name in enumerate(self.members)}

    def context(self, of_round: bytes) -> bytes:
        """What the group's pads and checks are bound to, given what the round's are."""
        return of_round if self.alone else of_round + f"/group/{self.number}".encode()


def groups_of(federation: Federation, round_: int) -> tuple[Group, ...]:
    """The groups of a round in which hospitals are compared. Each hospital is in one."""
    return federation.once(_Rotation.of).at(round_ // max(1, federation.similarity.every))


def group_of(federation: Federation, name: str, round_: int) -> Group:
    """The group of hospital `name` in a round in which hospitals are compared.

    >>> from securepfl.settings.tables import SiteSettings
    >>> federation = Federation(sites={f"h{number:03}": SiteSettings() for number in range(100)})
    >>> len(group_of(federation, "h000", 2).members), len(group_of(federation, "h000", 3).members)
    (50, 50)
    """
    return next(group for group in groups_of(federation, round_) if name in group.places)


def rotates(federation: Federation) -> bool:
    """Whether there is more than one group, so that a row of similarities holds a part of the roster."""
    return _blocks(len(federation.roster), None) > 1


def largest_group(hospitals: int, most: int | None = None) -> int:
    """Places that every group of so many hospitals has: a few may be empty.

    >>> [largest_group(hospitals) for hospitals in (4, 64, 65, 100, 1000)]
    [4, 64, 34, 50, 64]
    """
    count = _blocks(hospitals, most)
    return hospitals if count == 1 else 2 * -(-hospitals // count)


def comparisons_until_all_met(hospitals: int, most: int | None = None) -> int:
    """Within how many comparisons every pair of so many hospitals is in one group, if it takes part in all of them.

    >>> [comparisons_until_all_met(hospitals) for hospitals in (4, 64, 65, 128, 1000, 10000)]
    [1, 1, 3, 3, 31, 313]
    """
    return max(1, _blocks(hospitals, most) - 1)


def partition(hospitals: int, turn: int, most: int | None = None) -> tuple[tuple[int, ...], ...]:
    """The groups of the `turn`-th comparison, as sorted places in the roster. `most` (default: MOST) is even.

    >>> partition(6, 0, most=4), partition(6, 1, most=4)
    (((0, 4, 5), (1, 2, 3)), ((1, 2, 4, 5), (0, 3)))
    """
    count = _blocks(hospitals, most)
    if count == 1:
        return (tuple(range(hospitals)),)
    blocks = [tuple(range(hospitals * b // count, hospitals * (b + 1) // count)) for b in range(count)]
    # The circle method: the last block stands still, the others walk around it.
    walking = count - 1
    pairs = [(turn % walking, walking)]
    pairs += [((turn + step) % walking, (turn - step) % walking) for step in range(1, count // 2)]
    return tuple(tuple(sorted(blocks[one] + blocks[two])) for one, two in pairs)


def _blocks(hospitals: int, most: int | None) -> int:
    most = MOST if most is None else most
    return 1 if hospitals <= most else 2 * -(-hospitals // most)


@dataclass(frozen=True)
class _Rotation:
    """A roster's groups: those of the turn asked for last are kept."""

    roster: tuple[str, ...]
    made: dict[int, tuple[Group, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, federation: Federation) -> "_Rotation":
        return cls(tuple(federation.roster))

    def at(self, turn: int) -> tuple[Group, ...]:
        turn %= comparisons_until_all_met(len(self.roster))
        found = self.made.get(turn)
        if found is None:
            parts = partition(len(self.roster), turn)
            found = tuple(
                Group(number, tuple(self.roster[place] for place in places), alone=len(parts) == 1)
                for number, places in enumerate(parts)
            )
            self.made.clear()
            self.made[turn] = found
        return found
