"""Which ledger is charged for a data set: the one that knows its records, else the one of its name, else a new one.

Records of a few numbers may equal another patient's by chance. How often they would is told by the data set itself: by
the share of its records that have a twin in it (Good and Turing's estimate of how much of a population a sample has
seen). Where no more is known than that, content decides nothing, and a declared name does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from securepfl.errors import LedgerError
from securepfl.privacy.ledger.fingerprints import HINTS

__all__ = ["Claim", "Seen", "decide"]

_MOSTLY_ALONE: Final = 0.01
"""Where at most this share of records has a twin, no two people are alike by chance."""
_ABOVE_CHANCE: Final = 2.0
_NAMED: Final = 3
"""Of how many data sets a note gives the names."""


@dataclass(frozen=True)
class Seen:
    """What a data set of the registry knows of the records at hand.

    known: by kind, the share of the records at hand that it knows. twins: by kind, the smaller share of records with a
    twin, of both. rows_known: False where its own records are not known, so that nothing can be said.

    >>> Seen("survey", {"features": 0.4}, {"features": 0.3}).same  # no more than chance would have it
    False
    """

    id: str
    known: Mapping[str, float]
    twins: Mapping[str, float]
    rows_known: bool = True

    @property
    def alike(self) -> bool:
        """Whether any record is known, be it by chance."""
        return any(kind not in HINTS for kind in self.known)

    @property
    def same(self) -> bool:
        """Whether more records are known than chance would have it."""
        return any(self._above_chance(kind) for kind in self.known if kind not in HINTS)

    @property
    def share(self) -> float:
        """The largest share that is known of any kind of identity."""
        return max((share for kind, share in self.known.items() if kind not in HINTS), default=0.0)

    def _above_chance(self, kind: str) -> bool:
        chance = self.twins.get(kind, 0.0)
        return chance <= _MOSTLY_ALONE or self.known[kind] > _ABOVE_CHANCE * chance


@dataclass(frozen=True)
class Claim:
    """The data set whose ledger is charged, whether it is new, and what the hospital must know of that choice.

    >>> decide("north", None, [Seen("biopsies", {"features": 1.0}, {"features": 0.0})])
    Claim(id='biopsies', new=False, notes=())
    """

    id: str
    new: bool
    notes: tuple[str, ...] = ()


def decide(site: str, declared: str | None, seen: Sequence[Seen]) -> Claim:
    """The claim of records that are declared as `declared` (None: under no name).

    | records | declared | charged |
    |---|---|---|
    | some known to one data set | anything | that one |
    | some known to two | anything | none: LedgerError names both |
    | as many as chance has it known, or none | a name | the data set of that name, new or not |
    | as many as chance has it known to one | nothing | that one, to be safe |
    | as many as chance has it known to several | nothing | none: LedgerError asks for the name |
    | none known | nothing | a new one, whose name is made up |

    Beside a data set whose own records are not known, only such a one can be named: LedgerError.

    >>> decide("north", "stroke", [Seen("biopsies", {"features": 0.4}, {"features": 0.0})]).id
    'biopsies'
    >>> decide("north", None, [])
    Claim(id='north', new=True, notes=())
    """
    _check_rows_known(site, declared, seen)
    same = [one for one in seen if one.same]
    if len(same) > 1:
        raise _two_ledgers(site, same)
    if same:
        return Claim(same[0].id, False, _renamed(same[0], declared))
    alike = [one for one in seen if one.alike]
    if declared is not None:
        notes = (*(_by_chance(one) for one in alike if one.id != declared), *_hints(seen, alike, declared))
        new = all(one.id != declared for one in seen)
        return Claim(declared, new, notes or (_begun_beside(seen) if new else ()))
    if len(alike) > 1:
        names = ", ".join(one.id for one in alike)
        raise LedgerError(
            f"{site}: these records have so few different values that they could be any of the data sets {names}; "
            "declare which they are: [data] id, or data_set="
        )
    if alike:
        return Claim(alike[0].id, False, (_taken_for(alike[0]),))
    made_up = _free(site, {one.id for one in seen})
    return Claim(made_up, True, _hints(seen, alike, made_up) or _begun_beside(seen))


def _check_rows_known(site: str, declared: str | None, seen: Sequence[Seen]) -> None:
    unknown = [one.id for one in seen if not one.rows_known]
    if unknown and declared not in unknown:
        raise LedgerError(
            f"{site}: which records the ledger of data set {unknown[0]} counts is not known; these may be among them: "
            f'restore its .rows file from a copy, or open its own records once under [data] id = "{unknown[0]}"'
        )


def _two_ledgers(site: str, same: Sequence[Seen]) -> LedgerError:
    told = " and ".join(f"{one.id} ({one.share:.0%} of them)" for one in same)
    return LedgerError(
        f"{site}: these records are known to the ledgers of {len(same)} data sets, {told}, and neither could tell what "
        "they will have spent; leave out the records that all but one of them know, and start again"
    )


def _renamed(one: Seen, declared: str | None) -> tuple[str, ...]:
    if declared in (None, one.id):
        return ()
    return (
        f"{one.share:.0%} of the records are those of data set {one.id}, so its ledger is charged and not one of "
        f"{declared}: what a patient loses adds up, whatever the data are called"
        + (f"; without the records that it knows, {declared} gets a ledger of its own" if one.share < 1 else ""),
    )


def _by_chance(one: Seen) -> str:
    return (
        f"{one.share:.0%} of the records equal some of data set {one.id}, no more than chance would have it in data of "
        f'so few different values; if they are the same patients, declare [data] id = "{one.id}"'
    )


def _taken_for(one: Seen) -> str:
    return (
        f"{one.share:.0%} of the records equal some of data set {one.id}, so its ledger is charged; in data of so few "
        "different values that may be chance: if they are other patients, declare another [data] id, or data_set="
    )


def _hints(seen: Sequence[Seen], alike: Sequence[Seen], chosen: str) -> tuple[str, ...]:
    """For data sets that have patients of the same ids, and no record of them."""
    return tuple(
        f"{max(one.known.values()):.0%} of the patients' ids stand in data set {one.id} too, which has none of these "
        f'records; if they are the same people, declare [data] id = "{one.id}"'
        for one in seen
        if one.known and one not in alike and one.id != chosen
    )


def _begun_beside(seen: Sequence[Seen]) -> tuple[str, ...]:
    """For a new ledger that is not the first: numbers that were computed anew are not known again."""
    if not seen:
        return ()
    names = ", ".join(one.id for one in seen[:_NAMED])
    if len(seen) > _NAMED:
        names += f" and {len(seen) - _NAMED} more (`securepfl audit ledgers` lists all)"
    return (
        f"a new ledger begins, as no record is known to those of {names}; numbers that were computed anew (scaled, "
        "resized, other columns) are not known again: if these are patients of one of those, declare its [data] id",
    )


def _free(site: str, taken: set[str]) -> str:
    """A name that no data set has: the site's, and numbered after the first."""
    number = 1
    while (name := site if number == 1 else f"{site}-{number}") in taken:
        number += 1
    return name
