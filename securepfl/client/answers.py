"""What a hospital does with an answer: check its form, then decrypt it, with one failure for whatever is wrong inside.

Nothing is decrypted before the form of everything was checked, and everything that fails afterwards fails alike:
a coordinator must not learn from a hospital's behaviour what its bytes decrypted to.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from securepfl.client.round import Round
from securepfl.client.state import ClientState
from securepfl.crypto.similarity.scheme import Similarity
from securepfl.errors import AggregateError, MessageError
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.protocol.channels import SumChannel, Vector
from securepfl.protocol.groups import group_of
from securepfl.protocol.messages import Answer, Part
from securepfl.settings.federation import Federation

Found = TypeVar("Found")

REFUSED = "the answer failed its check and nothing was applied; the receipt says so, and all hospitals settle it"
NOT_OPENED = (
    "a sum failed its check, and under shared noise nothing may be opened to find out why: this run has ended, start a "
    "new one"
)


@dataclass(frozen=True)
class Opened:
    """What an answer holds in clear.

    `step`: the weighted mean update [support size], None where no sum was formed; of released metrics the sum of
    digits [values]. `neighbourhood` and
    `consensus`: mean personal components less their common start [p]. `weights`: the integer weights of those in the
    neighbourhood's. `row`: similarities by other hospital.
    """

    step: NDArray[np.float64] | None
    neighbourhood: NDArray[np.float64] | None
    weights: dict[str, int]
    consensus: NDArray[np.float64] | None
    row: dict[str, Similarity]


def check_answer(body: Answer, round_: int, name: str, federation: Federation, state: ClientState) -> None:
    """Refuse an answer that does not fit the round or what this hospital asked for. Raises MessageError.

    One vector may be in one sum only that a hospital sees: an average over all and a neighbourhood's sum of the
    same round could be subtracted, so one round gives the first and all others the second.
    """
    survivors = body.survivors
    agreed = () if state.pending is None or state.pending.refused or state.pending.attempt else state.pending.agreed
    average = federation.schedule.average_due(round_)
    asked = set(state.neighbours) if name in survivors and not average else set()
    wrong = (
        survivors != tuple(sorted(set(survivors) & set(federation.roster))),
        body.aggregate is not None and len(survivors) < federation.least_in_sum,
        body.aggregate is None and len(survivors) >= federation.least_in_sum and not federation.masked,
        body.aggregate is not None and agreed not in ((), survivors),
        body.aggregate is None and bool(body.products or body.neighbourhood or body.consensus),
        body.consensus is not None and not (average and federation.shape is not None and federation.shape.personal),
        (body.neighbourhood is not None) != bool(body.neighbours),
        bool(body.neighbours) and len(body.neighbours) < LEAST_NEIGHBOURS,
        body.neighbours != tuple(sorted(asked & set(body.neighbours) & set(survivors))),
        bool(body.products) and not (name in survivors and federation.schedule.similarity_due(round_)),
        bool(body.products)
        and not set(body.products) <= set(survivors) & group_of(federation, name, round_).places.keys(),
    )
    if any(wrong):
        raise MessageError(f"{name}: the answer to round {round_} does not fit what was asked; nothing was applied")


@dataclass(frozen=True)
class Opener:
    """What opens a checked answer. `similarity` opens the row of similarities, `asked` are the weights of the
    neighbours that this hospital asked for, `averaged` those whose personal components are in the average over all.
    """

    round_: Round
    channels: Mapping[str, SumChannel]
    similarity: Callable[[Mapping[str, bytes]], dict[str, Similarity]]
    asked: Mapping[str, int]
    averaged: Collection[str]

    def open(self, body: Answer) -> tuple[Opened, tuple[Part, ...]]:
        """What it holds, and the parts that failed their check, whatever was wrong with them: these are None or empty
        in what it holds.
        """
        failed: list[Part] = []
        step = self._tried(failed, "update", lambda: self._step(body))
        consensus = self._tried(failed, "personal", lambda: self._consensus(body))
        weights = {name: self.asked[name] for name in body.neighbours}
        neighbourhood = self._tried(failed, "personal", lambda: self._neighbourhood(body, weights))
        row = self._tried(failed, "sketch", lambda: self.similarity(body.products))
        return Opened(step, neighbourhood, weights, consensus, row or {}), tuple(dict.fromkeys(failed))

    @staticmethod
    def _tried(failed: list[Part], part: Part, opened: Callable[[], Found]) -> Found | None:
        try:
            return opened()
        except (AggregateError, MessageError, ValueError):
            failed.append(part)
            return None

    def _step(self, body: Answer) -> Vector | None:
        if body.aggregate is None:
            return None
        weights, bound = dict.fromkeys(body.survivors, 1), self.round_.bound(body.survivors)
        context = self.round_.contexts["update"]
        if self.round_.evaluates:
            return self.channels["update"].integers(body.aggregate, weights, context, bound=bound).astype(np.float64)
        return self.channels["update"].mean(body.aggregate, weights, context, bound.values, bound=bound)

    def _consensus(self, body: Answer) -> Vector | None:
        weights = {name: 1 for name in body.survivors if name in self.averaged}
        if body.consensus is None:
            return None
        if len(weights) < self.round_.session.federation.least_in_sum:
            raise AggregateError("an average over too few hospitals")
        return self._personal(body.consensus, weights)

    def _neighbourhood(self, body: Answer, weights: Mapping[str, int]) -> Vector | None:
        return None if body.neighbourhood is None else self._personal(body.neighbourhood, weights)

    def _personal(self, answer: bytes, weights: Mapping[str, int]) -> Vector:
        channel = self.channels["personal"]
        return channel.mean(answer, weights, self.round_.contexts["personal"], channel.layout.values)
