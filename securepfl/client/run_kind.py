"""Whether a hospital is real or one of a simulation, and what its state and its ledger hold of that."""

from dataclasses import dataclass
from typing import Literal

from securepfl.privacy.ledger.ledger import Budget, Facts, Terms
from securepfl.settings.federation import Federation

RunKind = Literal["real", "simulated", "seeded"]


@dataclass(frozen=True)
class Simulation:
    """Marks a client as one of a simulation. `noise_key` (32 bytes) fixes its noise: repeatable, so not private.

    >>> Simulation(noise_key=bytes(32))
    Simulation(seeded=True)
    """

    noise_key: bytes | None = None

    def __repr__(self) -> str:
        return f"Simulation(seeded={self.noise_key is not None})"


def kind_of(simulation: Simulation | None) -> RunKind:
    """A state never changes between kinds of run: what was trained under a seed stays unreleasable."""
    if simulation is None:
        return "real"
    return "simulated" if simulation.noise_key is None else "seeded"


def ledger_terms(federation: Federation, site: str, data_set: str, kind: RunKind, units: int) -> Terms:
    """What the ledger of `site`, which counts as `units`, is opened with."""
    privacy = federation.privacy
    return Terms(
        site=site,
        data_set=data_set,
        budget=Budget(federation.budget_of(site), privacy.delta),
        simulation=kind != "real",
        seeded=kind == "seeded",
        raise_budget=federation.budget_is_explicit(site),
        facts=Facts(units, privacy.unit, privacy.clip, federation.digest.hex()),
    )
