"""What an unseen hospital's rows are told: the engine's answer with the rows, the experts and the prior behind it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath
from typing import Final

import numpy as np

from securepfl.data.table import Table
from securepfl.outside.experts import Experts
from securepfl.outside.routed import Routed
from securepfl.tasks.registry import answering_for
from securepfl.tasks.resampling import Scored, resample_count, resampled, score_resampled
from securepfl.tasks.task import Predictions, Task

_RESERVED: Final = set('\\:*?"<>|')


@dataclass(frozen=True, eq=False)
class Answered:
    """The rows of `table` through `experts`. `prior`: what the threshold moved to, () for nothing, and `prior_from`,
    whose word that is. `notes`: what a reader must know.
    """

    table: Table
    experts: Experts
    routed: Routed
    prior: tuple[float, ...] = ()
    prior_from: str = ""
    notes: tuple[str, ...] = ()

    @property
    def task(self) -> Task:
        """What the experts are for."""
        return self.experts.task

    @property
    def segments(self) -> bool:
        """Whether predictions are masks."""
        return self.task.name == "segmentation"

    @property
    def images(self) -> bool:
        """Whether rows are images."""
        return self.table.features.ndim == 4

    @cached_property
    def predictions(self) -> Predictions:
        """The routed model's, as `task.predict` gives them."""
        return self.task.predict(self.routed.logits)

    @cached_property
    def shared(self) -> Predictions:
        """The shared model's, with the same views and prior."""
        return self.task.predict(self.routed.shared)

    @property
    def names(self) -> list[str]:
        """The rows' own names where they have some, else their numbers in their file."""
        ids = self.table.rows if self.table.ids is None else self.table.ids
        return [str(name) for name in ids]

    @cached_property
    def places(self) -> list[PurePosixPath]:
        """Where what belongs to a row is written, without the ending: its name where that is a path inside of a folder
        that no other row has, else its number.
        """
        return safe_places(self.names, "image" if self.images else "row")

    def scores(self, with_intervals: bool = True) -> dict[str, Scored]:
        """Both models' metrics, and their difference, on the same resamples of patients; of nothing without truth."""
        labels = self.table.labels
        if labels is None:
            return {}
        units = self.table.rows if self.table.patients is None else self.table.patients.astype(str)
        drawn = len(np.unique(units)) - 1
        weights = resampled("routed", units, resample_count(len(labels)) if with_intervals else 0)
        point = self.experts.point
        with answering_for(self.task):
            found = {
                name: score_resampled(self.task, said, self.task.decide(said, point), labels, weights).of_units(drawn)
                for name, said in (("routed", self.predictions), ("shared", self.shared))
            }
        return found | {"gain": found["routed"].minus(found["shared"])}


def safe_places(names: Sequence[str], kind: str) -> list[PurePosixPath]:
    """Paths inside of a folder for `names`, in their order: no two alike, none that leads out of it.

    >>> [str(place) for place in safe_places(["a/b", "../c", "A/B"], "image")]
    ['a/b', 'image-2', 'image-3']
    """
    taken, found = set[str](), list[PurePosixPath]()
    for number, name in enumerate(names, start=1):
        place = PurePosixPath(name)
        plain = (
            name == str(place) != "."
            and not place.is_absolute()
            and all(_is_plain(part) for part in place.parts)
            and name.casefold() not in taken
        )
        place = place if plain else PurePosixPath(f"{kind}-{number}")
        while str(place).casefold() in taken:
            place = place.with_name(place.name + "-again")
        taken.add(str(place).casefold())
        found.append(place)
    return found


def _is_plain(part: str) -> bool:
    return (
        part not in ("", ".", "..") and part.isprintable() and not set(part) & _RESERVED and len(part.encode()) <= 200
    )
