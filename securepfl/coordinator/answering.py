"""What each hospital is answered at the end of a round: the sum, its own row of similarities, its own neighbourhood."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from securepfl.coordinator.round import OpenRound
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS, symmetric_core
from securepfl.protocol.messages import Answer, Part

Members = tuple[tuple[str, int], ...]
"""Hospitals with their weights in a sum, sorted."""


@dataclass(frozen=True)
class Answering:
    """A round that takes no more messages.

    `broken`: whose parts are left out, by part; who has a broken update is in nothing. `total` gives the sum of the
    updates of some survivors; None where none can be formed. `formed` keeps sums by part and members: one that was
    answered once is the same bytes in a later attempt.
    """

    round_: OpenRound
    broken: Mapping[Part, frozenset[str]] = field(default_factory=dict)
    total: Callable[[Collection[str]], bytes | None] | None = None
    formed: dict[tuple[Part, Members], bytes | None] = field(default_factory=dict, repr=False)

    def answer(self, name: str, without: Collection[Part] = ()) -> Answer:
        """The answer for hospital `name`, `without` the parts that it can't have. Where no sum could be formed, nothing
        else leaves either.
        """
        formed, personal = self._total is not None, "personal" not in without
        neighbours = self._neighbourhoods.get(name, ()) if formed and personal else ()
        weights = {other: self.round_.neighbours[name][other] for other in neighbours}
        return Answer(
            survivors=self.survivors,
            aggregate=self._total,
            products=self._row(name) if formed and "sketch" not in without else {},
            neighbourhood=self._personal_sum(weights) if neighbours else None,
            neighbours=neighbours,
            consensus=self._consensus if formed and personal else None,
        )

    def form(self) -> None:
        """Form the sum now: then it is known whose masks kept it from that (OpenRound.unmasking)."""
        _ = self._total

    @property
    def survivors(self) -> tuple[str, ...]:
        """The hospitals whose updates are in the sum."""
        return self._without("update", self.round_.survivors)

    def _without(self, part: Part, names: Collection[str]) -> tuple[str, ...]:
        left_out = self.broken.get(part, frozenset())
        return tuple(sorted(name for name in names if name not in left_out))

    @cached_property
    def _total(self) -> bytes | None:
        members: Members = tuple((name, 1) for name in self.survivors)
        if ("update", members) not in self.formed:
            self.formed["update", members] = (
                self.round_.sum_for_all() if self.total is None else self.total(self.survivors)
            )
        return self.formed["update", members]

    def _row(self, name: str) -> dict[str, bytes]:
        """The receiver's own row of similarities, still encrypted."""
        if self.round_.similarity is None:
            return {}
        federation = self.round_.rules.federation
        row = self.round_.similarity.row(federation.places[name])
        return {federation.roster[other]: data for other, data in row.items()}

    @property
    def _personal(self) -> frozenset[str]:
        """Those whose personal components may be in a sum."""
        sent = [name for name in self.survivors if name in self.round_.personal]
        return frozenset(self._without("personal", sent))

    @cached_property
    def _neighbourhoods(self) -> dict[str, tuple[str, ...]]:
        """By hospital, those of the neighbours it asked for that are present, sorted; at least 3 of them. The network
        lasso has edges that act at both ends.

        None in the round of the average over all: that, less these sums, could show a single hospital.
        """
        federation, there = self.round_.rules.federation, self._personal
        if federation.schedule.average_due(self.round_.number):
            return {}
        present = {
            name: tuple(sorted(other for other in asked if other in there))
            for name, asked in self.round_.neighbours.items()
            if name in self.survivors
        }
        if federation.lasso is not None:
            return symmetric_core(present, LEAST_NEIGHBOURS)
        return {name: names for name, names in present.items() if len(names) >= LEAST_NEIGHBOURS}

    @cached_property
    def _consensus(self) -> bytes | None:
        """Where it is due, the sum of all survivors' personal components."""
        federation, there = self.round_.rules.federation, self._personal
        due = federation.schedule.average_due(self.round_.number)
        everybody = self._without("personal", self.survivors)
        if not due or there != set(everybody) or len(there) < federation.least_in_sum:
            return None
        return self._personal_sum(dict.fromkeys(everybody, 1))

    def _personal_sum(self, weights: Mapping[str, int]) -> bytes | None:
        members = tuple(sorted(weights.items()))
        if ("personal", members) not in self.formed:
            total = self.round_.rules.sum_of("personal")
            for name, weight in members:
                total.add(self.round_.personal[name], weight)
            self.formed["personal", members] = total.answer()
        return self.formed["personal", members]
