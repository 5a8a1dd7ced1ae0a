"""Which round carries what: the same at every hospital and at the coordinator."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """When similarity, coupling and averages take place in a run of `rounds`.

    `every`: hospitals are compared every so many rounds, 0 is never. `coupled`: whether personal parameters are drawn
    to those of similar hospitals.

    >>> [round_ for round_ in range(1, 7) if Schedule(rounds=6, every=2, coupled=True).similarity_due(round_)]
    [2, 4]
    """

    rounds: int
    every: int
    coupled: bool

    def similarity_due(self, round_: int) -> bool:
        """Whether sketches travel in `round_`: every few rounds; not in the first, in which no hospital knows others'
        nonces yet, nor in the last, after which no round could use them.
        """
        return self.every > 0 and round_ % self.every == 0 and 1 < round_ < self.rounds

    def coupling_due(self, round_: int) -> bool:
        """Whether personal components travel in `round_` for neighbourhood sums: once similarities are known."""
        return self.coupled and max(self.every, 2) < round_ <= self.rounds

    def average_due(self, round_: int) -> bool:
        """Whether the average of all personal components is formed in `round_`, for the shared model: in the last, or,
        where these are coupled, in the one before, so that the last ends with the neighbourhood's.
        """
        return round_ == (self.rounds - 1 if self.coupling_due(self.rounds) else self.rounds)

    def personal_due(self, round_: int) -> bool:
        """Whether personal components travel in `round_`, for neighbourhood sums or for the average over all."""
        return self.coupling_due(round_) or self.average_due(round_)

    @property
    def coupling_rounds(self) -> tuple[int, ...]:
        """The rounds in which hospitals can be drawn to neighbours. Empty where no round compares them first."""
        rounds = range(1, self.rounds + 1)
        return tuple(round_ for round_ in rounds if self.coupling_due(round_) and not self.average_due(round_))
