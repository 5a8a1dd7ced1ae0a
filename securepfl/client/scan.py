"""What a hospital is told of its own units before anything is spent: exact and private, so for its own eyes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from securepfl.privacy.accounting.events import Unit

Reason = Literal["illegal label", "unreadable", "refused", "not finite"]

_IN_WORDS: Final[Mapping[Reason, str]] = {
    "illegal label": "for a label that the task does not know",
    "unreadable": "not to be read",
    "refused": "as model or loss fail",
    "not finite": "for NaN, infinity or numbers too large",
}


@dataclass(frozen=True)
class Unusable:
    """Units that count as zero for one reason: how many, and what is wrong with the first few, a line each."""

    reason: Reason
    units: int
    first: tuple[str, ...]

    @property
    def in_words(self) -> str:
        """The reason for people."""
        return _IN_WORDS[self.reason]


@dataclass(frozen=True)
class Scan:
    """A hospital's units as one pass over all of them found them. Raises ValueError for numbers that do not add up.

    declared: those that the hospital counts as, `[sites.NAME] units`. found: those in the data set. used: those that
    train. cut: found and usable, but beyond the declared number. padded: zeros in the place of units that are declared
    and were not found. unusable: found, and counted as zero. largest: the most records of one unit.

    >>> scan = Scan("patient", declared=40, found=38, used=37, cut=0, largest=3, unusable=(
    ...     Unusable("unreadable", 1, ("patient 5 (from 0) cannot be read (no file)",)),
    ... ))
    >>> scan.padded, scan.notes[0]
    (2, '1 of 38 patients counts as zero, not to be read: patient 5 (from 0) cannot be read (no file)')
    """

    unit: Unit
    declared: int
    found: int
    used: int
    cut: int
    largest: int
    unusable: tuple[Unusable, ...] = ()

    def __post_init__(self) -> None:
        if self.used + self.cut + sum(one.units for one in self.unusable) != self.found or self.used > self.declared:
            raise ValueError(f"{self}: used, cut and unusable units must be those found, and none used undeclared")

    @property
    def padded(self) -> int:
        """Declared units that were not found."""
        return max(0, self.declared - self.found)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the hospital should know, a line each; nothing where all units are as declared."""
        if not self.padded:
            return self.warnings
        return (
            *self.warnings,
            f"{self.declared} {self.unit}s are declared and {self.found} were found: zeros stand for the rest, and the "
            f"noise is that of {self.declared}",
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of the notes that tell of units that are there and do not train."""
        unit = self.unit
        told = [
            f"{one.units} of {self.found} {unit}s count{'s' if one.units == 1 else ''} as zero, {one.in_words}: "
            f"{'; '.join(one.first)}{'; ...' if len(one.first) < one.units else ''}"
            for one in self.unusable
        ]
        if self.cut:
            told.append(
                f"{self.declared} {unit}s are declared and {self.found} were found: {self.cut} "
                f"{'does' if self.cut == 1 else 'do'} not train, chosen by a public hash of what they hold; declare "
                "them before the next federation"
            )
        return tuple(told)
