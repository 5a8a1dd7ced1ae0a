"""Personalised federated learning for hospitals: encrypted sums, private training, budgets that hold."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securepfl.client.client import Client
    from securepfl.client.rotation import move_to
    from securepfl.client.run_kind import Simulation
    from securepfl.client.suggestion import Suggestion, suggest_partition
    from securepfl.coordinator.coordinator import Coordinator
    from securepfl.crypto.keys.keys import FederationKey, Identity, Keyring, PublicIdentity
    from securepfl.learning.personal.adapters import with_adapters
    from securepfl.outside.pipeline import route
    from securepfl.outside.recipe import Recipe
    from securepfl.outside.routing import RoutedModel
    from securepfl.privacy.training.units import PatientDataset, group_records
    from securepfl.privacy.training.validation import replace_unsupported
    from securepfl.runtime.embedded import write_result
    from securepfl.runtime.local import local_parties, simulate
    from securepfl.settings.federation import Federation
    from securepfl.settings.idle import idle_settings
    from securepfl.storage.keys import load_coordinator, load_keyring

__all__ = [
    "Client",
    "Coordinator",
    "Federation",
    "FederationKey",
    "Identity",
    "Keyring",
    "PatientDataset",
    "PublicIdentity",
    "Recipe",
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
    "route",
    "simulate",
    "suggest_partition",
    "with_adapters",
    "write_result",
]

_HOMES = {
    "Client": "securepfl.client.client",
    "Coordinator": "securepfl.coordinator.coordinator",
    "Federation": "securepfl.settings.federation",
    "FederationKey": "securepfl.crypto.keys.keys",
    "Identity": "securepfl.crypto.keys.keys",
    "Keyring": "securepfl.crypto.keys.keys",
    "PatientDataset": "securepfl.privacy.training.units",
    "PublicIdentity": "securepfl.crypto.keys.keys",
    "Recipe": "securepfl.outside.recipe",
    "RoutedModel": "securepfl.outside.routing",
    "Simulation": "securepfl.client.run_kind",
    "Suggestion": "securepfl.client.suggestion",
    "group_records": "securepfl.privacy.training.units",
    "idle_settings": "securepfl.settings.idle",
    "load_coordinator": "securepfl.storage.keys",
    "load_keyring": "securepfl.storage.keys",
    "local_parties": "securepfl.runtime.local",
    "move_to": "securepfl.client.rotation",
    "replace_unsupported": "securepfl.privacy.training.validation",
    "route": "securepfl.outside.pipeline",
    "simulate": "securepfl.runtime.local",
    "suggest_partition": "securepfl.client.suggestion",
    "with_adapters": "securepfl.learning.personal.adapters",
    "write_result": "securepfl.runtime.embedded",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used: torch and Opacus take seconds, `securepfl --help` should not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'securepfl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """Also the names that are not imported yet, for completion."""
    return sorted({*globals(), *__all__})
