"""What similarity and coupling did in a run: rows for a table, and a line for who was never coupled."""

from collections.abc import Mapping
from typing import Any

from securepfl.learning.personal.graph import LEAST_NEIGHBOURS
from securepfl.report.outcome import SiteOutcome
from securepfl.settings.federation import Federation
from securepfl.settings.fixed import GATE
from securepfl.settings.idle import without_coupling

COUPLING_HEADINGS = ("hospital", "neighbours at the end", "rounds coupled, of those possible")


def coupling_rows(result: dict[str, Any]) -> list[list[str]]:
    """To whom each hospital is coupled, and for how long it was; no row where no round could couple anybody."""
    due = result["coupling_rounds"]
    sites = result["sites"] if due else {}
    return [
        [name, ", ".join(site["neighbours"]) or "none", f"{site['coupled_rounds']} of {due}"]
        for name, site in sites.items()
    ]


def never_coupled(federation: Federation, sites: Mapping[str, SiteOutcome]) -> list[str]:
    """Who was coupled in no round though rounds and hospitals would do, why, and what to do: one line, or none.

    Each hospital's reason comes from its own signal and its own row of similarities.
    """
    alone = {name: _why(federation, site) for name, site in sites.items() if not site.coupled_rounds}
    if not alone or not federation.schedule.coupling_rounds or len(federation.roster) <= LEAST_NEIGHBOURS:
        return []
    some = f"{', '.join(alone)} {'was' if len(alone) == 1 else 'were'} never coupled"
    reasons: dict[str, list[str]] = {}
    for name, (reason, _) in alone.items():
        reasons.setdefault(reason, []).append(name)
    why = "; ".join(f"{', '.join(names)} {reason}" for reason, names in sorted(reasons.items()))
    mends = " and ".join(sorted({mend for _, mend in alone.values() if mend}))
    return [
        f"coupling is on, but {some if len(alone) < len(sites) else 'no hospital was ever coupled'}. At the last "
        f"comparison: {why}. To go without, {without_coupling(federation)}" + (f"; else {mends}" if mends else "")
    ]


def _why(federation: Federation, site: SiteOutcome) -> tuple[str, str]:
    """Why a hospital was not coupled, and what may change that, if anything."""
    clearer = "raise [privacy] epsilon, or add rows or hospitals"
    if site.signal is None:
        return "absent", "declare budgets that last for all rounds"
    if site.signal < GATE:
        return f"below the gate of {GATE:g}", clearer
    if len(site.similarity) < LEAST_NEIGHBOURS:
        return f"with fewer than {LEAST_NEIGHBOURS} others above the gate", clearer
    if site.neighbours:
        return f"with fewer than {LEAST_NEIGHBOURS} neighbours that chose it too, or sent theirs", ""
    if sum(cosine > 0 for cosine in site.similarity.values()) < LEAST_NEIGHBOURS:
        return f"with fewer than {LEAST_NEIGHBOURS} others at a cosine above 0", ""
    return "too unlike the others", ""
