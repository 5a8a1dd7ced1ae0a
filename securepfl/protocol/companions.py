"""Whose statements a hospital compares with its own before a round: all, or a bounded number that rotates.

Both sides compute them from the roster's size and the round, so an invitation carries no others and a hospital takes no
others. Up to 17 hospitals compare all. More of them stand in a ring, in the roster's order, and each is compared with
those at a few distances, in both directions: distance 1 in every round, and seven others that rotate, scattered by a
public draw. So (n hospitals; docs/threat-model.md says what follows from it):

| what | why |
|---|---|
| comparing is mutual, at most 16 each, at least 15 | distances count both ways; half the ring's is one hospital |
| in every round, all are connected, directly or through others | distance 1 |
| every pair meets within ceil((n // 2 - 1) / 7) rounds | the other distances rotate |
"""

import hashlib
from typing import Final

from securepfl.randomness import RandomStream
from securepfl.settings.federation import Federation

MOST: Final = 16
"""Others with whom a hospital compares in a round."""

_ROTATING: Final = MOST // 2 - 1


def companions_of(federation: Federation, name: str, round_: int) -> frozenset[str]:
    """The others whose statements hospital `name` is told in the invitation to `round_`.

    >>> from securepfl.settings.tables import SiteSettings
    >>> federation = Federation(sites={f"h{number:02}": SiteSettings() for number in range(40)})
    >>> len(companions_of(federation, "h00", 2)), "h01" in companions_of(federation, "h00", 2)
    (16, True)
    """
    roster, place = federation.roster, federation.places[name]
    steps = federation.once(_distances).at(round_)
    return frozenset(roster[(place + way) % len(roster)] for step in steps for way in (step, -step))


class _Distances:
    """How far apart in a ring of `hospitals` those are who compare."""

    def __init__(self, hospitals: int) -> None:
        self._everybody = hospitals - 1 <= MOST
        self._all = list(range(1, hospitals // 2 + 1))
        if not self._everybody:
            # Scattered, so that no run of names in the roster has most of its companions within itself.
            key = hashlib.sha256(b"securepfl companions 1" + hospitals.to_bytes(4, "big")).digest()
            order = RandomStream(key).permutation(len(self._all) - 1)
            self._all[1:] = [self._all[1 + place] for place in order.tolist()]

    def at(self, round_: int) -> list[int]:
        if self._everybody:
            return self._all
        first, *rest = self._all
        start = _ROTATING * (round_ - 1)
        return [first] + [rest[(start + turn) % len(rest)] for turn in range(min(_ROTATING, len(rest)))]


def _distances(federation: Federation) -> _Distances:
    return _Distances(len(federation.roster))


def rounds_until_all_met(hospitals: int) -> int:
    """Within how many rounds every pair of so many hospitals compares.

    >>> [rounds_until_all_met(hospitals) for hospitals in (4, 17, 18, 100, 1000)]
    [1, 1, 2, 7, 72]
    """
    return 1 if hospitals - 1 <= MOST else -(-(hospitals // 2 - 1) // _ROTATING)
