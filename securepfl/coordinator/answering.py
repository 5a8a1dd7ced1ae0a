"""What each hospital is answered at the end of a round: the sum, its own row of similarities, its own neighbourhood."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from securepfl.coordinator.round import OpenRound
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS, symmetric_core
from securepfl.protocol.messages import Answer


@dataclass(frozen=True)
class Answering:
    """A round that takes no more messages."""

    round_: OpenRound

    def answer(self, name: str) -> Answer:
        """The answer for hospital `name`. Where no sum could be formed, nothing else leaves either."""
        round_, total = self.round_, self._total
        formed = total is not None
        neighbours = self._neighbourhoods.get(name, ()) if formed else ()
        weights = {other: round_.neighbours[name][other] for other in neighbours}
        return Answer(
            survivors=tuple(sorted(round_.survivors)),
            aggregate=total,
            products=self._row(name) if formed else {},
            neighbourhood=self._personal_sum(weights) if neighbours else None,
            neighbours=neighbours,
            consensus=self._consensus if formed else None,
        )

    @cached_property
    def _total(self) -> bytes | None:
        return self.round_.sum_for_all()

    def _row(self, name: str) -> dict[str, bytes]:
        """The receiver's own row of similarities, still encrypted."""
        if self.round_.similarity is None:
            return {}
        roster = self.round_.rules.federation.roster
        return {roster[other]: data for other, data in self.round_.similarity.row(roster.index(name)).items()}

    @cached_property
    def _neighbourhoods(self) -> dict[str, tuple[str, ...]]:
        """By hospital, those of the neighbours it asked for that are present, sorted; at least 3 of them. The network
        lasso has edges that act at both ends.

        None in the round of the average over all: that, less these sums, could show a single hospital.
        """
        federation = self.round_.rules.federation
        if federation.schedule.average_due(self.round_.number):
            return {}
        present = {
            name: tuple(sorted(other for other in asked if other in self.round_.personal))
            for name, asked in self.round_.neighbours.items()
        }
        if federation.lasso is not None:
            return symmetric_core(present, LEAST_NEIGHBOURS)
        return {name: names for name, names in present.items() if len(names) >= LEAST_NEIGHBOURS}

    @cached_property
    def _consensus(self) -> bytes | None:
        """Where it is due, the sum of all survivors' personal components."""
        round_ = self.round_
        due = round_.rules.federation.schedule.average_due(round_.number)
        if not due or set(round_.personal) != set(round_.survivors):
            return None
        return self._personal_sum(dict.fromkeys(round_.survivors, 1))

    def _personal_sum(self, weights: Mapping[str, int]) -> bytes:
        total = self.round_.rules.sum_of("personal")
        for name, weight in weights.items():
            total.add(self.round_.personal[name], weight)
        return total.answer()
