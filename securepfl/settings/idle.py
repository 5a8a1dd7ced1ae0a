"""What of the settings can do nothing in a run: a line each, known before it starts."""

from securepfl.errors import ConfigError
from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.learning.sparse.support import most_coordinates
from securepfl.settings.federation import Federation
from securepfl.settings.tables import ModelSettings, changed_keys


def idle_settings(federation: Federation) -> list[str]:
    """What of a bound federation's settings can do nothing, with its rounds and hospitals.

    No errors: the same settings serve runs with more of either, and who turns a table off may keep the rest of it.
    Raises ConfigError for settings that are not bound to hospitals and a model.

    >>> from torch import nn
    >>> from securepfl import Federation, idle_settings
    >>> tables = {"model": {"kind": "own", "personal": ["bias"]}, "rounds": 3, "similarity": {"every": 8}}
    >>> bound = Federation.from_mapping(tables).bound(["alder", "birch", "cedar"], lambda: nn.Linear(3, 1), units=60)
    >>> print(idle_settings(bound)[0].split(",")[0])
    [similarity] every = 8: none of 3 round(s) compares hospitals
    """
    if federation.shape is None:
        raise ConfigError(f"{federation.name}: not bound to hospitals and a model; call Federation.bound first")
    notes = (
        _idle_tables(federation) + _idle_model(federation.model) + _idle_sparsity(federation, federation.shape.shared)
    )
    if federation.similarity.every and not _compares(federation):
        notes.append(_never_compared(federation))
    if federation.schedule.coupling_rounds == (federation.rounds,) and federation.trajectory.of == "local":
        notes.append(
            "hospitals are drawn to neighbours in the last round alone, which reaches no personal model under "
            f'[trajectory] of = "local"; set of = "mixture", or {_mend(federation)}'
        )
    return notes + _idle_neighbours(federation) + same_experts(federation, bool(federation.shape.personal))


def _compares(federation: Federation) -> bool:
    """Whether any round compares hospitals."""
    return any(map(federation.schedule.similarity_due, range(1, federation.rounds + 1)))


def _idle_tables(federation: Federation) -> list[str]:
    """The keys of a table that its own switch leaves off."""
    tables = {
        ("similarity", "every"): () if federation.similarity.every else changed_keys(federation.similarity),
        ("coupling", "strength"): () if federation.coupled else changed_keys(federation.coupling),
    }
    return [
        f"[{table}] {switch} = 0 leaves it off, so {', '.join(keys)} had no effect; set {switch} above 0 to use it"
        for (table, switch), keys in tables.items()
        if keys
    ]


def _idle_neighbours(federation: Federation) -> list[str]:
    """Where there are too few others to be coupled to."""
    neighbours, others = federation.coupling.neighbours, len(federation.roster) - 1
    if not federation.coupled:
        return []
    if others < LEAST_NEIGHBOURS:
        return [
            f"coupling is on, but no hospital was coupled: it takes {LEAST_NEIGHBOURS} others, and each has {others}; "
            f"add hospitals, or {without_coupling(federation)}"
        ]
    if neighbours > others:
        return [
            f"[coupling] neighbours = {neighbours}: each hospital has {others} others, so all that could be compared "
            f"were taken; set at most {others}"
        ]
    return []


def same_experts(federation: Federation, personal: bool) -> list[str]:
    """A note where all hospitals release one and the same model, for want of anything in which theirs could differ."""
    release = federation.release
    apart = personal or release.finetuning or federation.trajectory.of == "local"
    if not release.experts or apart or any(site.prevalence is not None for site in federation.sites.values()):
        return []
    return [
        "[release] experts: nothing is personal, so all hospitals' experts are one and the same model, and route has "
        'nothing to choose among; set [release] finetuning, [model] personal, or [trajectory] of = "local"'
    ]


def without_coupling(federation: Federation) -> str:
    """How to go without coupling, where it is on."""
    return "remove [lasso]" if federation.lasso is not None else "set [coupling] strength = 0"


def _idle_model(model: ModelSettings) -> list[str]:
    if model.kind != "logistic" or "hidden" not in changed_keys(model):
        return []
    return ['[model] hidden had no effect, as kind = "logistic" has no hidden layer; remove it, or set kind = "mlp"']


def _idle_sparsity(federation: Federation, shared: int) -> list[str]:
    sparsity = federation.sparsity
    keys = [key for key in ("density", "block") if key in changed_keys(sparsity)]
    if not keys or most_coordinates(shared, sparsity.density, sparsity.block) < shared:
        return []
    return [
        f"[sparsity] density = {sparsity.density:g} in blocks of {sparsity.block} sends all {shared:,} shared "
        f"parameters, so {', '.join(keys)} had no effect; set a smaller density or block"
    ]


def _never_compared(federation: Federation) -> str:
    every, rounds = federation.similarity.every, federation.rounds
    alone = ", so no hospital is coupled" if federation.coupled else ""
    return (
        f"[similarity] every = {every}: none of {rounds} round(s) compares hospitals, as the first and the last never "
        f"do{alone}; {_mend(federation)}"
    )


def _mend(federation: Federation) -> str:
    """The rounds that a comparison every so often needs, or how often it must come. Coupling needs three rounds after
    one where personal models are averages of local ones: one to couple in, one that trains on from there, and the
    round of the average over all.
    """
    every, rounds = federation.similarity.every, federation.rounds
    after = 3 if federation.coupled and federation.trajectory.of == "local" else 1
    smaller = f", or set [similarity] every to at most {rounds - after}" if rounds - after >= 2 else ""
    return f"run at least {max(every, 2) + after} rounds{smaller}"
