"""What a hospital can read of its own state, for its own eyes."""

from collections.abc import Mapping
from pathlib import Path

from securepfl.client.agreeing import evidence_in
from securepfl.client.state import ClientState


class Readings:
    """A client's state, read only: everything comes as a copy."""

    _state: ClientState
    folder: Path

    @property
    def state(self) -> ClientState:
        """A copy of all that this hospital carries from round to round. Private: for the hospital's own eyes."""
        return self._state.copied()

    @property
    def round(self) -> int:
        """The last round whose answer was applied; 0 at the start."""
        return self._state.round

    @property
    def similarity(self) -> Mapping[str, float]:
        """This hospital's own row: cosine similarity of what is compared, less its noise, by other hospital.

        Empty before one, without those whose signal doesn't pass the gate, and where this hospital's own doesn't.
        """
        return dict(self._state.similarity)

    @property
    def distances(self) -> Mapping[str, float]:
        """The same row as Euclidean distances."""
        return dict(self._state.distances)

    @property
    def signal(self) -> float | None:
        """How far what this hospital compared last stood out of its noise (compare it with [similarity] gate), or None
        before the first comparison.
        """
        return self._state.signal

    @property
    def neighbours(self) -> Mapping[str, int]:
        """The hospitals to which this one is coupled now, with their integer weights."""
        return dict(self._state.neighbours)

    @property
    def clipped_values(self) -> int:
        """How many values of this hospital were outside the grid's limits so far."""
        return self._state.clipped

    @property
    def shortened_fractions(self) -> tuple[float, ...]:
        """For each round that it trained in, the fraction of its units that the clip shortened, where that was counted.
        Exact and private.
        """
        return tuple(self._state.shortened)

    @property
    def coupled_rounds(self) -> int:
        """In how many rounds it was drawn to neighbours."""
        return self._state.coupled

    @property
    def sat_out(self) -> tuple[int, ...]:
        """The rounds in which this hospital declined."""
        return tuple(self._state.sat_out)

    @property
    def evidence(self) -> tuple[Path, ...]:
        """Files with two signed statements each that contradict each other (protocol.contradictions), sorted: of
        hospitals that hold another shared state than this one, or that stated two things about one round.
        """
        return evidence_in(self.folder)

    @property
    def named(self) -> Mapping[str, str]:
        """What the coordinator last said of each hospital that did something wrong, a line each: its word, to be
        checked with its operator.
        """
        return dict(self._state.named)

    @property
    def ended(self) -> str:
        """Why this run is over for this hospital before its last round; empty while it goes on."""
        return self._state.ended
