"""The declared prevalence of a federation, over all hospitals and at one, and what a model starts from."""

import math
from typing import TYPE_CHECKING

from securepfl.data.prevalence import Prevalence, in_order
from securepfl.errors import ConfigError
from securepfl.tasks.names import DEFAULT_TASK

if TYPE_CHECKING:
    from securepfl.settings.federation import Federation


def prevalence_of(federation: "Federation", site: str | None) -> tuple[float, ...] | None:
    """What `Federation.prevalence_of` promises. Raises ConfigError where a declaration doesn't fit the task."""
    common = None if federation.data is None else federation.data.get("prevalence")
    if site is not None:
        own = federation.sites[site].prevalence
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


def start_of(federation: "Federation", site: str | None = None) -> tuple[float, ...] | None:
    """The output layer's start bias: log-odds of the declared prevalence, or the logarithms of classes' shares."""
    shares = prevalence_of(federation, site)
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
