"""Who could learn what of a hospital, as the settings of one run have it: the table of docs/threat-model.md, decided.

It is about a coordinator that is honest but curious, and rounds that nobody breaks; the page has the rest. A run's page
and its evidence show this table, and tests/rounds/test_who_learns_what.py holds real rounds against it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from securepfl.settings.federation import Federation

PARTIES: Final = ("coordinator", "another hospital", "coordinator with one hospital", "whoever gets what was released")
MORE: Final = (
    "The coordinator also sees who takes part in each round, when, and how many bytes. Dishonest parties can do more: "
    "docs/threat-model.md of securepfl lists what, with a test for each claim."
)


@dataclass(frozen=True)
class Row:
    """One thing, and in the order of PARTIES what each party could learn of it."""

    thing: str
    cells: tuple[str, str, str, str]


def who_learns(federation: Federation, *, seeded: bool = False) -> tuple[Row, ...]:
    """The table for a bound federation; `seeded` where its noise was drawn from a known seed. "DP release": its loss is
    what a hospital's ledger counts.

    >>> from securepfl.settings.tables import SiteSettings
    >>> sites = dict.fromkeys(("north", "south", "west"), SiteSettings(units=40))
    >>> plain = Federation(sites=sites).changed("encryption", scheme="none")
    >>> dict(zip(PARTIES, who_learns(plain)[1].cells, strict=True))["coordinator"]
    'yes, a DP release: nothing is encrypted'
    >>> who_learns(plain, seeded=True)[1].cells[0]
    'yes, unprotected, as its noise can be made again: nothing is encrypted'
    """
    release = _release(federation, seeded=seeded)
    return tuple(row(federation, release) for row in _ROWS)


def words_of(federation: Federation, *, seeded: bool = False) -> str:
    """What the table's words mean in this run."""
    if not federation.privacy.protects:
        return "Nothing was clipped or noised: what a party reads tells it of patients without any limit."
    if seeded:
        return "The noise was drawn from a known seed, and hides nothing from who knows it."
    return "A DP release is something whose loss the hospital's ledger counts."


def _release(federation: Federation, *, seeded: bool) -> str:
    """What one thing that left a hospital is, to who reads it."""
    if not federation.privacy.protects:
        return "unprotected"
    return "unprotected, as its noise can be made again" if seeded else "a DP release"


def _records(federation: Federation, release: str) -> Row:
    return Row("records of patients", ("no", "no", "no", "no"))


def _update(federation: Federation, release: str) -> Row:
    one = "with a fraction of the noise that epsilon counts on" if federation.shares_noise else release
    compared = federation.masked and federation.similarity.every > 0
    together = f"yes, {one}"
    if federation.masked:
        together = f"its sketch shows it, {release}" if compared else "no: masks hide it among honest hospitals"
    coordinator = "no"
    if not federation.scheme.encrypted and not federation.masked:
        coordinator = f"yes, {one}: nothing is encrypted"
    opened = "no" if federation.shares_noise else f"no; in a round that failed and was opened, {one}"
    return Row("one hospital's shared update", (coordinator, opened, together, "no"))


def _sum(federation: Federation, release: str) -> Row:
    coordinator = "no" if federation.scheme.encrypted else f"yes, {release}: nothing is encrypted"
    together = f"yes, {release}"
    if federation.shares_noise and release == "a DP release":
        together += ", also less that hospital's own noise"
    return Row("sum of updates", (coordinator, f"yes, {release}", together, "no"))


def _personal(federation: Federation, release: str) -> Row:
    thing, outside = "personal parameters", "no"
    if federation.shape is not None and not federation.shape.personal:
        return Row(thing, ("there are none",) * 4)
    if _releases_experts(federation, release):
        outside = f"as part of a released model, {release}"
    if not federation.coupled:
        return Row(thing, ("no: they stay at the hospital",) * 3 + (outside,))
    coordinator = "no" if federation.scheme.encrypted else f"yes, each {release}: nothing is encrypted"
    among = (
        f"one neighbour's exactly, {release}"
        if federation.lasso is not None
        else f"sums over at least 3 others; in the long run each, {release}"
    )
    return Row(thing, (coordinator, among, f"yes, each {release}", outside))


def _similarity(federation: Federation, release: str) -> Row:
    thing = "how alike hospitals are"
    if not federation.similarity.every:
        return Row(thing, ("nothing is compared",) * 4)
    coordinator = "nothing but who asks for which neighbours" if federation.coupled else "no"
    if federation.lasso is not None:
        coordinator += ", and distances between them"
    if not federation.scheme.encrypted:
        coordinator = f"all pairs, each {release}: nothing is encrypted"
    both = f"all pairs and the sketches, each {release}"
    return Row(thing, (coordinator, "its own row, with norms", both, "no"))


def _counts(federation: Federation, release: str) -> Row:
    return Row("how many patients there really are", ("no: what `units` declares is public",) * 4)


def _metrics(federation: Federation, release: str) -> Row:
    thing = "released metrics"
    if not federation.release.metrics:
        return Row(thing, ("none is released",) * 4)
    noisy, each = f"the noisy sum, {release}", f"each hospital's noisy counts, each {release}"
    coordinator = "no" if federation.scheme.encrypted else f"{noisy}: nothing is encrypted"
    if not federation.scheme.encrypted and not federation.masked:
        coordinator = f"{each}: nothing is encrypted"
    outside = "the noisy sum, once it is published" if release == "a DP release" else "no: they may not leave"
    return Row(thing, (coordinator, noisy, noisy if federation.masked else each, outside))


def _experts(federation: Federation, release: str) -> Row:
    if not _releases_experts(federation, release):
        return Row("released models", ("none is released",) * 4)
    told = f"yes, each {release}"
    if release == "a DP release":
        told += " with a line in its ledger"
    return Row("released models", ("no", "no", "no", told))


def _releases_experts(federation: Federation, release: str) -> bool:
    """A seeded run of a private federation releases none."""
    return federation.release.experts and (release == "a DP release" or not federation.privacy.protects)


_ROWS: Final[tuple[Callable[[Federation, str], Row], ...]] = (
    _records,
    _update,
    _sum,
    _personal,
    _similarity,
    _counts,
    _metrics,
    _experts,
)
