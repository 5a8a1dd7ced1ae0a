"""Whether a hospital is real or one of a simulation, and what its state and its ledger hold of that."""

from dataclasses import dataclass
from typing import Literal

from securepfl.errors import ConfigError
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


def check_protected(federation: Federation, name: str, simulation: Simulation | None) -> None:
    """Raises ConfigError where a real hospital would train without protection."""
    if simulation is None and not federation.privacy.protects:
        raise ConfigError(
            f'{name}: [privacy] protection = "none" is for simulations alone (`securepfl run`); a hospital trains '
            'under privacy: set protection = "dp" and epsilon'
        )


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
        keep_budget=not privacy.protects,
        facts=Facts(units, privacy.unit, privacy.clip if privacy.protects else None, federation.digest.hex()),
    )
