"""What similarity and coupling did in a run: rows for a table, and a line wherever a setting did nothing."""

from collections.abc import Collection, Mapping
from typing import Any

from securepfl.errors import ConfigError
from securepfl.learning.sparse.support import most_coordinates
from securepfl.protocol.channels import LEAST_NEIGHBOURS
from securepfl.report.outcome import SiteOutcome
from securepfl.settings.federation import Federation, ModelSettings
from securepfl.settings.tables import CouplingSettings, changed_keys

COUPLING_HEADINGS = ("hospital", "neighbours at the end", "rounds coupled, of those possible")


def coupling_rows(result: dict[str, Any]) -> list[list[str]]:
    """To whom each hospital is coupled, and for how long it was; no row where no round could couple anybody."""
    due = result["coupling_rounds"]
    sites = result["sites"] if due else {}
    return [
        [name, ", ".join(site["neighbours"]) or "none", f"{site['coupled_rounds']} of {due}"]
        for name, site in sites.items()
    ]


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
    if similarity.every and not any(map(federation.similarity_due, range(1, federation.rounds + 1))):
        notes.append(_never_compared(federation))
    if federation.coupling_rounds == (federation.rounds,) and federation.trajectory.of == "local":
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


def never_coupled(federation: Federation, sites: Mapping[str, SiteOutcome]) -> list[str]:
    """Who was coupled in no round though rounds and hospitals would do, why, and what to do: one line, or none.

    Each hospital's reason comes from its own signal and its own row of similarities.
    """
    alone = {name: _why(federation, site) for name, site in sites.items() if not site.coupled_rounds}
    if not alone or not federation.coupling_rounds or len(federation.roster) <= LEAST_NEIGHBOURS:
        return []
    some = f"{', '.join(alone)} {'was' if len(alone) == 1 else 'were'} never coupled"
    reasons: dict[str, list[str]] = {}
    for name, (reason, _) in alone.items():
        reasons.setdefault(reason, []).append(name)
    why = "; ".join(f"{', '.join(names)} {reason}" for reason, names in sorted(reasons.items()))
    mends = " and ".join(sorted({mend for _, mend in alone.values() if mend}))
    return [
        f"coupling is on, but {some if len(alone) < len(sites) else 'no hospital was ever coupled'}. At the last "
        f"comparison: {why}. To go without, set [coupling] {federation.coupling.switch} = 0"
        + (f"; else {mends}" if mends else "")
    ]


def _why(federation: Federation, site: SiteOutcome) -> tuple[str, str]:
    """Why a hospital was not coupled, and what may change that, if anything."""
    gate = federation.similarity.gate
    clearer = "raise [privacy] epsilon, add rows or hospitals, or lower [similarity] gate (more noise passes it)"
    if site.signal is None:
        return "absent", "declare budgets that last for all rounds"
    if site.signal < gate:
        return f"below the gate of {gate:g}", clearer
    if len(site.similarity) < LEAST_NEIGHBOURS:
        return f"with fewer than {LEAST_NEIGHBOURS} others above the gate", clearer
    if site.neighbours:
        return f"with fewer than {LEAST_NEIGHBOURS} neighbours that chose it too, or sent theirs", ""
    return _unlike(federation.coupling, site.similarity.values())


def _unlike(coupling: CouplingSettings, cosines: Collection[float]) -> tuple[str, str]:
    """Why who could compare itself with enough others chose nobody: its graph takes too few, or its pull is 0."""
    few, least = f"with fewer than {LEAST_NEIGHBOURS} others at a cosine", coupling.threshold
    if coupling.graph == "threshold" and sum(cosine >= least for cosine in cosines) < LEAST_NEIGHBOURS:
        return f"{few} of at least {least:g}", "lower [coupling] threshold"
    if coupling.graph == "knn" and sum(cosine > 0 for cosine in cosines) < LEAST_NEIGHBOURS:
        return f"{few} above 0", ""
    return "too unlike the others", ""
