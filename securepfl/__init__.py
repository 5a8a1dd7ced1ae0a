"""Personalised federated learning for hospitals: encrypted sums, private training, budgets that hold."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securepfl.client import Client
    from securepfl.coordinator import Coordinator
    from securepfl.crypto.keys.keys import FederationKey, Identity, Keyring, PublicIdentity
    from securepfl.federation import Federation
    from securepfl.learning.personal.adapters import with_adapters
    from securepfl.outside.routing import RoutedModel
    from securepfl.privacy.training.units import PatientDataset, group_records
    from securepfl.privacy.training.validation import replace_unsupported
    from securepfl.report.effect import idle_settings
    from securepfl.rotation import move_to
    from securepfl.runtime.local import local_parties, simulate
    from securepfl.simulation import Simulation
    from securepfl.storage.keys import load_coordinator, load_keyring
    from securepfl.suggestion import Suggestion, suggest_partition

__all__ = [
    "Client",
    "Coordinator",
    "Federation",
    "FederationKey",
    "Identity",
    "Keyring",
    "PatientDataset",
    "PublicIdentity",
    "RoutedModel",
    "Simulation",
    "Suggestion",
    "group_records",
    "idle_settings",
    "load_coordinator",
    "load_keyring",
    "local_parties",
    "move_to",
    "replace_unsupported",
    "simulate",
    "suggest_partition",
    "with_adapters",
]

_HOMES = {
    "Client": "securepfl.client",
    "Coordinator": "securepfl.coordinator",
    "Federation": "securepfl.federation",
    "FederationKey": "securepfl.crypto.keys.keys",
    "Identity": "securepfl.crypto.keys.keys",
    "Keyring": "securepfl.crypto.keys.keys",
    "PatientDataset": "securepfl.privacy.training.units",
    "PublicIdentity": "securepfl.crypto.keys.keys",
    "RoutedModel": "securepfl.outside.routing",
    "Simulation": "securepfl.simulation",
    "Suggestion": "securepfl.suggestion",
    "group_records": "securepfl.privacy.training.units",
    "idle_settings": "securepfl.report.effect",
    "load_coordinator": "securepfl.storage.keys",
    "load_keyring": "securepfl.storage.keys",
    "local_parties": "securepfl.runtime.local",
    "move_to": "securepfl.rotation",
    "replace_unsupported": "securepfl.privacy.training.validation",
    "simulate": "securepfl.runtime.local",
    "suggest_partition": "securepfl.suggestion",
    "with_adapters": "securepfl.learning.personal.adapters",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: torch and Opacus take seconds, `securepfl --help` should not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'securepfl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Also the names that are not imported yet, for completion."""
    return sorted({*globals(), *__all__})
