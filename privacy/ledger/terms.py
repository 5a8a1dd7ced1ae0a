"""Whose ledger it is, on which data, in which kind of run and under which budget; and whether an old one fits that."""

from dataclasses import dataclass
from pathlib import Path

from securepfl.errors import BudgetError, LedgerError
from securepfl.privacy.ledger.lines import Budget, Facts, Session

__all__ = ["Facts", "Terms"]


@dataclass(frozen=True)
class Terms:
    """What a hospital opens its ledger with.

    data_set: name or fingerprint of the data the ledger belongs to. simulation, seeded: the kind of run; seeded noise
    is repeatable, so nothing that it protects is private. raise_budget: somebody decided on this budget; otherwise an
    existing ledger keeps its own epsilon. keep_budget: the run spends none, so that an existing ledger keeps all of it.
    facts: what the session's releases rest on; None where no run is declared.

    All but raise_budget and keep_budget stand in each session line, and an old ledger is held against them: their
    meanings may never change.

    >>> terms = Terms("north", "biopsies", Budget(4.0, 1e-5), simulation=False, seeded=False)
    >>> terms.taken_up(Path("north.jsonl"), None)  # nothing was decided before
    Budget(epsilon=4.0, delta=1e-05)
    """

    site: str
    data_set: str
    budget: Budget
    simulation: bool
    seeded: bool
    raise_budget: bool = False
    keep_budget: bool = False
    facts: Facts | None = None

    def taken_up(self, path: Path, last: Session | None) -> Budget:
        """The budget that holds from here on in the ledger at `path`, whose last session is `last`.

        A budget that any run may move bounds nothing, so only a decision moves it. Raises LedgerError for a ledger
        of another site, data set or kind of run, and BudgetError for a looser budget that nobody decided on.
        """
        if last is None:
            return self.budget
        self._check_owner(path, last)
        before, ours = last.budget, self.budget
        if self.keep_budget:
            return before
        if self.raise_budget:
            return ours
        if ours.epsilon > before.epsilon or ours.delta > before.delta:
            raise BudgetError(
                f"{path}: its budget is epsilon {before.epsilon:g} at delta {before.delta:g}, and this run would "
                f"loosen it to epsilon {ours.epsilon:g} at delta {ours.delta:g}; if that is meant, declare `budget` in "
                f"[privacy] or [sites.{last.site}]"
            )
        return Budget(before.epsilon, ours.delta)

    def _check_owner(self, path: Path, last: Session) -> None:
        for name, theirs, ours in (("site", last.site, self.site), ("data set", last.data_set, self.data_set)):
            if theirs != ours:
                raise LedgerError(f"{path}: belongs to {name} {theirs!r}, not {ours!r}; give that {name}'s own ledger")
        if (last.simulation, last.seeded) != (self.simulation, self.seeded):
            theirs, ours = _kind(last.simulation, last.seeded), _kind(self.simulation, self.seeded)
            raise LedgerError(f"{path}: holds {theirs}, and this run is one of {ours}; keep a ledger for each")


def _kind(simulation: bool, seeded: bool) -> str:
    return ("seeded " if seeded else "") + ("simulations" if simulation else "real runs")
