"""Models that leave a hospital for use outside, each with its audit record."""

import math
from typing import Any

from torch import nn

from securepfl.client.round import Session
from securepfl.client.run_kind import Simulation, kind_of
from securepfl.errors import ConfigError
from securepfl.privacy.ledger.ledger import Ledger
from securepfl.settings.federation import Federation


def check_release(session: Session, simulation: Simulation | None, model: nn.Module | None) -> nn.Module:
    """The model, if it may leave. Raises ConfigError where the federation does not release experts, the run is seeded
    and claims privacy (its noise hides nothing), or there is no model.
    """
    if not session.federation.release.experts:
        raise ConfigError("experts are not released in this federation: set [release] experts = true")
    if kind_of(simulation) == "seeded" and session.federation.privacy.protects:
        raise ConfigError("a seeded simulation releases no expert: run without --seed")
    if model is None:
        raise ConfigError("there is no shared model to release: the last round formed no sum")
    return model


def _noise_of(federation: Federation) -> str:
    if not federation.privacy.protects:
        return "none"
    return "shared" if federation.shares_noise else "local"


def recorded(session: Session, ledger: Ledger, expert: str, rounds: int, simulated: bool, **of: Any) -> dict[str, Any]:
    """The audit record of a release after `rounds` rounds, once it stands in the ledger: `of` says more of what it is.

    `noise` says whose noise makes the model private: this hospital's own ("local"), or all hospitals' together
    ("shared"); "none" where nothing does. `epsilon` is None then, and where the records trained without protection in
    another run: none holds for them, whatever this one adds.
    Raises LedgerError.
    """
    federation, spent = session.federation, ledger.spent()
    record = {
        "expert": expert,
        **of,
        "federation": session.digest.hex(),
        "settings": federation.digest.hex(),
        "rounds": min(rounds, federation.rounds),
        "protection": federation.privacy.protection,
        "epsilon": spent if federation.privacy.protects and math.isfinite(spent) else None,
        "delta": federation.privacy.delta,
        "unit": federation.privacy.unit,
        "noise": _noise_of(federation),
        "simulation": simulated,
    }
    ledger.record("expert-release", record)
    return {"site": session.name, "ledger_head": ledger.head, **record}
