"""What a run leaves of the hospitals' budgets, said before its first round and after its last."""

from collections.abc import Mapping
from typing import Final

from securepfl.client.client import Client

_NOTHING: Final = 0.01
"""Of a budget: less is called nothing, since it buys no run that learns anything."""


def uses_up(clients: Mapping[str, Client]) -> list[str]:
    """Of hospitals whose budgets the rounds that are left use up: a line for each budget, before anything is spent."""
    said = {
        name: f"this run brings epsilon to {client.spent_after_run:.3f} of {_budget(client):g}"
        for name, client in clients.items()
        if _used_up(client, client.spent_after_run)
    }
    return _unprotected(clients) + _lines(clients, said)


def used_up(clients: Mapping[str, Client]) -> list[str]:
    """Of hospitals whose budgets are used up: the same after a run."""
    said = {
        name: f"epsilon {client.ledger.spent():.3f} of {_budget(client):g} is spent"
        for name, client in clients.items()
        if _used_up(client, client.ledger.spent())
    }
    return _unprotected(clients) + _lines(clients, said)


def _used_up(client: Client, spent: float) -> bool:
    if client.ledger.is_unprotected:
        return False
    return client.federation.privacy.protects and _budget(client) - spent < _NOTHING * _budget(client)


def _unprotected(clients: Mapping[str, Client]) -> list[str]:
    """Of hospitals that sit a private run out, whatever their budget."""
    names = [name for name, its in clients.items() if its.ledger.is_unprotected and its.federation.privacy.protects]
    if not names:
        return []
    why = 'these records trained without protection in an earlier run ([privacy] protection = "none")'
    return [f"{', '.join(names)}: {why}: no epsilon holds for them, and no round of a private run can be spent on them"]


def _budget(client: Client) -> float:
    return client.ledger.budget.epsilon


def _lines(clients: Mapping[str, Client], said: Mapping[str, str]) -> list[str]:
    about: dict[str, list[str]] = {}
    for name, line in said.items():
        about.setdefault(line, []).append(name)
    unit = next(iter(clients.values())).federation.privacy.unit if clients else ""
    return [
        f"{', '.join(names)}: {line}: nothing is left for another run on these {unit}s (a larger [privacy] budget "
        "would make room; that is each hospital's decision)"
        for line, names in about.items()
    ]
