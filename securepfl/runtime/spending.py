"""What a run leaves of the hospitals' budgets, said before its first round and after its last; and what a run that they
don't carry is refused with.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from securepfl.client.client import Client
from securepfl.errors import BudgetError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.accounting.gaussian import mu_of
from securepfl.settings.federation import Federation

_NOTHING: Final = 0.01
"""Of a budget: less is called nothing, since it buys no run that learns anything."""
_HALVINGS: Final = 20


def check_budgets(federation: Federation, clients: Mapping[str, Client]) -> None:
    """Where too few can pay for the last round, it would form no sum: say so before anything is spent.

    Raises BudgetError, with what works from here.
    """
    able = [name for name, client in clients.items() if client.affords_run]
    if len(able) >= federation.least_in_sum:
        return
    if any(client.ledger.is_unprotected for client in clients.values()):
        named = ", ".join(name for name, client in clients.items() if client.ledger.is_unprotected)
        raise BudgetError(
            f'{named}: these records trained without protection ([privacy] protection = "none") in an earlier run, so '
            "no epsilon bounds what is known of them, and no private run can spend on them; take other records, or a "
            "seeded run (--seed), whose ledger is thrown away"
        )
    short = {name: client for name, client in clients.items() if not client.affords_run}
    raise BudgetError(
        f"{len(able)} of {len(clients)} hospitals have budget left for all {federation.rounds} rounds"
        f"{' and the released metrics' if federation.release.metrics else ''}, and a sum needs "
        f"{federation.least_in_sum}, so the last rounds would form none; {_what_takes_it(short)}. What works: "
        f"{'; '.join(_remedies(federation, short))}"
    )


def _what_takes_it(short: Mapping[str, Client]) -> str:
    """Earlier runs, or this one by itself."""
    if any(client.ledger.releases() for client in short.values()):
        return (
            "the ledgers hold what earlier runs spent on the same records, whatever they were called "
            "(`securepfl audit ledgers` lists them)"
        )
    name, client = next(iter(short.items()))
    return f"this run alone takes epsilon {client.spent_after_run:.3g} at {name}, whose budget is {_budget(client):.3g}"


def _remedies(federation: Federation, short: Mapping[str, Client]) -> Iterator[str]:
    """What makes a run of this federation start; fewer rounds don't, as noise is chosen for the whole run's epsilon."""
    yield "--seed 1, a rehearsal that spends nothing (without --ledgers)"
    room = min(_room(client, federation.privacy.delta) for client in short.values())
    if room > 0:
        yield f"--epsilon {room:g}, for which there is room"
    needed = max(_least_budget(client) for client in short.values())
    if math.isfinite(needed):
        yield (f"a budget of {needed:g} ([privacy] budget, or [sites.NAME] budget), which is each hospital's decision")
    yield "other records"
    if any(client.ledger.releases() for client in short.values()):
        yield "for made-up records alone --ledgers NEW_FOLDER, which begins new ledgers"


def _least_budget(client: Client) -> float:
    release = client.release_left
    return _budget(client) if release is None else client.ledger.least_budget_for(release)


def _room(client: Client, delta: float) -> float:
    """The largest epsilon, of two digits, of a full-batch run like this that the budget carries; 0 where that is
    nothing, or isn't known.
    """
    release = client.release_left
    if not isinstance(release, Release) or release.sample_rate < 1:
        return 0.0

    def fits(epsilon: float) -> bool:
        noise = math.sqrt(release.steps) / mu_of(epsilon, delta)
        return client.ledger.spent_with(msgspec.structs.replace(release, noise_multiplier=noise)) <= _budget(client)

    low, high = _NOTHING * _budget(client), client.federation.privacy.epsilon
    if low >= high or not fits(low):
        return 0.0
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if fits(middle) else (low, middle)
    return _two_digits(low)


def _two_digits(value: float) -> float:
    """Rounded down.

    >>> _two_digits(0.2489), _two_digits(3.19)
    (0.24, 3.1)
    """
    scale = 10.0 ** (1 - math.floor(math.log10(value)))
    return math.floor(value * scale) / scale


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
