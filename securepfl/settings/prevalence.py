"""The declared prevalence of a federation, over all hospitals and at one, and what a model starts from."""

import math
from typing import TYPE_CHECKING

from securepfl.data.prevalence import Prevalence, in_order
from securepfl.errors import ConfigError
from securepfl.tasks.names import DEFAULT_TASK, TASK_NAMES

if TYPE_CHECKING:
    from securepfl.settings.federation import Federation


def prevalence_of(federation: "Federation", site: str | None) -> tuple[float, ...] | None:
    """What `Federation.prevalence_of` promises. Raises ConfigError where a declaration doesn't fit the task."""
    common = None if federation.data is None else federation.data.get("prevalence")
    if site is not None:
        own = federation.declared_of(site).prevalence
        return _shares(federation, common, "data") if own is None else _shares(federation, own, f"sites.{site}")
    if common is not None:
        return _shares(federation, common, "data")
    declared = {name: prevalence_of(federation, name) for name in federation.sites}
    known = {name: shares for name, shares in declared.items() if shares is not None}
    if not known:
        return None
    units = {name: federation.units_of(name) for name in known}
    total = sum(units.values())
    means = zip(*([share * units[name] / total for share in shares] for name, shares in known.items()), strict=True)
    return tuple(map(math.fsum, means))


TAKEN_OVER = 0.5
"""How far a hospital's start goes from the common one to its own prevalence. Hospitals with more ill patients have in
part patients who look more ill, which the features tell. On heart disease .5 had the balanced accuracy of 1 and .002
more AUROC, and cost nothing on eight other tables (docs/planning.md).
"""


def start_of(federation: "Federation", site: str | None = None, *, alone: bool = False) -> tuple[float, ...] | None:
    """The output layer's start bias: that of all hospitals, or at `site`, halfway to its own prevalence; all the way
    where it trains `alone`. Log-odds, or the logarithms of classes' shares; None where no prevalence is declared.
    """
    if federation.model.task not in (None, *TASK_NAMES):
        return None  # a plug-in's
    if federation.model.task == "segmentation":
        return None  # of a pixel nobody knows the odds: what it shows decides, and Dice is best near even ones
    common, own = (_start(federation, prevalence_of(federation, each)) for each in (None, site))
    if site is None or common is None or own is None or alone:
        return common if site is None else own
    return tuple(start + TAKEN_OVER * (there - start) for start, there in zip(common, own, strict=True))


def started_share_of(federation: "Federation", site: str | None = None, *, alone: bool = False) -> tuple[float, ...]:
    """The probabilities that `start_of` stands for: of label 1, of each label or of each class. Empty without one."""
    start = start_of(federation, site, alone=alone) or ()
    if federation.model.task != "multiclass":
        return tuple(1 / (1 + math.exp(-value)) for value in start)
    odds = [math.exp(value) for value in start]
    return tuple(value / math.fsum(odds) for value in odds)


def _start(federation: "Federation", shares: tuple[float, ...] | None) -> tuple[float, ...] | None:
    if shares is None:
        return None
    if federation.model.task == "multiclass":
        centre = math.fsum(map(math.log, shares)) / len(shares)
        return tuple(math.log(share) - centre for share in shares)
    return tuple(math.log(share / (1 - share)) for share in shares)


def _shares(federation: "Federation", declared: Prevalence | None, table: str) -> tuple[float, ...] | None:
    if declared is None:
        return None
    options = federation.label_options
    names = tuple(options.get("classes") or options.get("labels") or ())
    try:
        return in_order(declared, federation.model.task or DEFAULT_TASK, names)
    except ValueError as error:
        raise ConfigError(f"[{table}] {error}") from None
