"""Who could learn what of a hospital, as the settings of one run have it: the table of docs/threat-model.md, decided.

It is about a coordinator that is honest but curious, and rounds that nobody breaks; the page has the rest.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from securepfl.settings.federation import Federation

PARTIES: Final = ("coordinator", "another hospital", "coordinator with one hospital", "whoever gets what was released")


@dataclass(frozen=True)
class Row:
    """One thing, and in the order of PARTIES what each party could learn of it."""

    thing: str
    cells: tuple[str, str, str, str]


def who_learns(federation: Federation) -> tuple[Row, ...]:
    """The table for a bound federation. "DP release": its loss is what a hospital's ledger counts.

    >>> from securepfl.settings.tables import SiteSettings
    >>> sites = dict.fromkeys(("north", "south", "west"), SiteSettings(units=40))
    >>> table = who_learns(Federation(sites=sites).changed("encryption", scheme="none"))
    >>> dict(zip(PARTIES, table[1].cells, strict=True))["coordinator"]
    'yes, a DP release: nothing is encrypted'
    """
    return tuple(row(federation) for row in _ROWS)


def _records(federation: Federation) -> Row:
    return Row("records of patients", ("no", "no", "no", "no"))


def _update(federation: Federation) -> Row:
    clear, release = not federation.scheme.encrypted, _release(federation)
    compared = federation.masked and federation.similarity.every > 0
    together = f"yes, {release}"
    if federation.masked:
        together = "its sketch shows it, a DP release" if compared else "no: masks hide it among honest hospitals"
    coordinator = "no"
    if clear and not federation.masked:
        coordinator = f"yes, {release}: nothing is encrypted"
    opened = "no" if federation.shares_noise else f"no; in a round that failed and was opened, {release}"
    return Row("one hospital's shared update", (coordinator, opened, together, "no"))


def _sum(federation: Federation) -> Row:
    coordinator = "no" if federation.scheme.encrypted else "yes, a DP release: nothing is encrypted"
    return Row("sum of updates", (coordinator, "yes, a DP release", "yes, a DP release", "no"))


def _personal(federation: Federation) -> Row:
    thing = "personal parameters"
    if federation.shape is not None and not federation.shape.personal:
        return Row(thing, ("there are none",) * 4)
    if not federation.coupled:
        return Row(thing, ("no: they stay at the hospital",) * 3 + (_released(federation),))
    coordinator = "no" if federation.scheme.encrypted else "yes, DP releases: nothing is encrypted"
    among = (
        "one neighbour's exactly, a DP release"
        if federation.lasso is not None
        else "sums over at least 3 others; in the long run each, a DP release"
    )
    return Row(thing, (coordinator, among, "yes, DP releases", _released(federation)))


def _similarity(federation: Federation) -> Row:
    thing = "how alike hospitals are"
    if not federation.similarity.every:
        return Row(thing, ("nothing is compared",) * 4)
    coordinator = "who asks for which neighbours"
    if federation.lasso is not None:
        coordinator += ", and distances between them"
    if not federation.scheme.encrypted:
        coordinator = "all pairs, DP releases: nothing is encrypted"
    return Row(thing, (coordinator, "its own row, with norms", "all pairs and the sketches, DP releases", "no"))


def _counts(federation: Federation) -> Row:
    return Row("how many patients there really are", ("no: what `units` declares is public",) * 4)


def _metrics(federation: Federation) -> Row:
    thing = "released metrics"
    if not federation.release.metrics:
        return Row(thing, ("none is released",) * 4)
    together = "the noisy sum" if federation.masked else "each hospital's noisy counts, DP releases"
    coordinator = "no" if federation.scheme.encrypted else "the noisy sum: nothing is encrypted"
    if not federation.scheme.encrypted and not federation.masked:
        coordinator = "each hospital's noisy counts, DP releases: nothing is encrypted"
    return Row(thing, (coordinator, "the noisy sum, a DP release", together, "the noisy sum, once it is published"))


def _experts(federation: Federation) -> Row:
    if not federation.release.experts:
        return Row("released models", ("none is released",) * 4)
    return Row("released models", ("no", "no", "no", "yes, each a DP release with a line in its ledger"))


_ROWS: Final[tuple[Callable[[Federation], Row], ...]] = (
    _records,
    _update,
    _sum,
    _personal,
    _similarity,
    _counts,
    _metrics,
    _experts,
)


def _release(federation: Federation) -> str:
    """What one hospital's own update is, to who reads it."""
    if federation.shares_noise:
        return "with a fraction of the noise that epsilon counts on"
    return "a DP release"


def _released(federation: Federation) -> str:
    return "as part of a released model, a DP release" if federation.release.experts else "no"
