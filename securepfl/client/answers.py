"""What a hospital does with an answer: check its form, then decrypt it, with one failure for whatever is wrong inside.

Nothing is decrypted before the form of everything was checked, and everything that fails afterwards fails alike:
a coordinator must not learn from a hospital's behaviour what its bytes decrypted to.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from securepfl.client.round import Round
from securepfl.client.state import ClientState
from securepfl.crypto.similarity.scheme import Similarity
from securepfl.errors import AggregateError, MessageError
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.protocol.channels import SumChannel
from securepfl.protocol.messages import Answer
from securepfl.settings.federation import Federation

REFUSED = "the answer failed its check and nothing was applied; this hospital cannot go on in this run, start a new one"


@dataclass(frozen=True)
class Opened:
    """What an answer holds in clear.

    `step`: the weighted mean update [support size], None where no sum was formed. `neighbourhood` and
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
    agreed = () if state.pending is None else state.pending.agreed
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
        not set(body.products) <= set(survivors),
    )
    if any(wrong):
        raise MessageError(f"{name}: the answer to round {round_} does not fit what was asked; nothing was applied")


def open_answer(
    round_: Round,
    body: Answer,
    channels: Mapping[str, SumChannel],
    similarity: Callable[[Mapping[str, bytes]], dict[str, Similarity]],
    asked: Mapping[str, int],
) -> Opened:
    """Decrypt a checked answer. `similarity` opens the row of similarities, `asked` are the weights of the
    neighbours that this one asked for. Raises AggregateError, always the same.
    """
    weights, survivors = {name: asked[name] for name in body.neighbours}, dict.fromkeys(body.survivors, 1)
    try:
        step = consensus = neighbourhood = None
        if body.aggregate is not None:
            bound = round_.bound(body.survivors)
            step = channels["update"].mean(
                body.aggregate, survivors, round_.contexts["update"], bound.values, bound=bound
            )
        if body.consensus is not None:
            channel = channels["personal"]
            consensus = channel.mean(body.consensus, survivors, round_.contexts["personal"], channel.layout.values)
        if body.neighbourhood is not None:
            channel = channels["personal"]
            neighbourhood = channel.mean(
                body.neighbourhood, weights, round_.contexts["personal"], channel.layout.values
            )
        row = similarity(body.products)
    except (AggregateError, MessageError, ValueError):
        raise AggregateError(REFUSED) from None
    return Opened(step, neighbourhood, weights, consensus, row)
