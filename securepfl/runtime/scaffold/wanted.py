"""What a new federation is to be: its name, its hospitals, what they hold and what is learned."""

from dataclasses import dataclass
from typing import Literal, get_args

from securepfl.errors import ConfigError
from securepfl.runtime.scaffold.patients import COLUMNS
from securepfl.settings.roster import check_roster
from securepfl.spelling import alike, composed
from securepfl.storage.ceremony_folder import check_name

Kind = Literal["table", "images", "segmentation"]
KINDS: tuple[str, ...] = get_args(Kind)
FEWEST = 3
"""Hospitals that a sum needs, so that no two can read off another's update."""
COORDINATOR = "coordinator"


@dataclass(frozen=True)
class Wanted:
    """The federation `name` of `hospitals`, in the order in which they were named; `outcome` is the label's column, and
    "" where masks say what is learned.

    Raises ConfigError for names that can't be files, look alike, or are too few.
    """

    name: str
    kind: Kind
    hospitals: tuple[str, ...]
    outcome: str

    def __post_init__(self) -> None:
        if len(self.hospitals) < FEWEST:
            raise ConfigError(
                f"{len(self.hospitals)} hospital(s): a sum needs {FEWEST}, as of two each could read off the other's "
                "update; name more (four let one be away)"
            )
        check_roster(list(self.hospitals), FEWEST)
        for name in self.hospitals:
            check_name(name)
        if pair := alike((*self.hospitals, COORDINATOR)):
            raise ConfigError(f"hospital name {pair[0]!r}: is the coordinator's; rename the hospital")
        if self.kind == "segmentation":
            if self.outcome:
                raise ConfigError(f"outcome {self.outcome!r}: masks say what is learned, and no column; leave it out")
            return
        taken = COLUMNS if self.kind == "table" else ("file", "patient")
        if not self.outcome or not self.outcome.isprintable() or self.outcome in taken:
            raise ConfigError(
                f"outcome {self.outcome!r}: is to be the name of a column of its own, beside {', '.join(taken)}; "
                "choose another"
            )


def names_in(text: str) -> tuple[str, ...]:
    """Names in a line, separated by commas.

    >>> names_in("north, Klinikum Süd,, ")
    ('north', 'Klinikum Süd')
    """
    return tuple(name for part in text.split(",") if (name := composed(part)))
