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
    """
    if federation.shape is None:
        raise ConfigError(f"{federation.name}: not bound to hospitals and a model; call Federation.bound first")
    coupling, similarity, others = federation.coupling, federation.similarity, len(federation.roster) - 1
    notes = [
        f"[{table}] {switch} = 0 leaves it off, so {', '.join(keys)} had no effect; set {switch} above 0 to use it"
        for table, switch, keys in (
            ("similarity", "every", () if similarity.every else changed_keys(similarity)),
            ("coupling", coupling.switch, () if coupling.on else changed_keys(coupling)),
        )
        if keys
    ]
    notes += _idle_model(federation.model) + _idle_sparsity(federation, federation.shape.shared)
    notes += [
        f'[coupling] {key} had no effect under graph = "{coupling.graph}"; remove it, or set graph = "{graph}"'
        for key, graph in (("neighbours", "knn"), ("threshold", "threshold"))
        if coupling.on and coupling.graph != graph and key in changed_keys(coupling)
    ]
    if similarity.every and not any(map(federation.schedule.similarity_due, range(1, federation.rounds + 1))):
        notes.append(_never_compared(federation))
    if federation.schedule.coupling_rounds == (federation.rounds,) and federation.trajectory.of == "local":
        notes.append(
            "hospitals are drawn to neighbours in the last round alone, which reaches no personal model under "
            f'[trajectory] of = "local"; set of = "mixture", or {_mend(federation)}'
        )
    if coupling.on and others < LEAST_NEIGHBOURS:
        notes.append(
            f"coupling is on, but no hospital was coupled: it takes {LEAST_NEIGHBOURS} others, and each has {others}; "
            f"add hospitals, or set [coupling] {coupling.switch} = 0"
        )
    elif coupling.on and coupling.graph == "knn" and coupling.neighbours > others:
        notes.append(
            f"[coupling] neighbours = {coupling.neighbours}: each hospital has {others} others, so all that could be "
            f"compared were taken; set at most {others}"
        )
    return notes


def _idle_model(model: ModelSettings) -> list[str]:
    if model.kind != "logistic" or "hidden" not in changed_keys(model):
        return []
    return ['[model] hidden had no effect, as kind = "logistic" has no hidden layer; remove it, or set kind = "mlp"']


def _idle_sparsity(federation: Federation, shared: int) -> list[str]:
    sparsity = federation.sparsity
    keys = [key for key in ("density", "block", "exploration") if key in changed_keys(sparsity)]
    if not keys or most_coordinates(shared, sparsity.density, sparsity.block) < shared:
        return []
    return [
        f"[sparsity] density = {sparsity.density:g} in blocks of {sparsity.block} sends all {shared:,} shared "
        f"parameters, so {', '.join(keys)} had no effect; set a smaller density or block"
    ]


def _never_compared(federation: Federation) -> str:
    every, rounds = federation.similarity.every, federation.rounds
    alone = ", so no hospital is coupled" if federation.coupling.on else ""
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
    after = 3 if federation.coupling.on and federation.trajectory.of == "local" else 1
    smaller = f", or set [similarity] every to at most {rounds - after}" if rounds - after >= 2 else ""
    return f"run at least {max(every, 2) + after} rounds{smaller}"
