"""Whether the parts of a result.json fit each other, so that no page asks again: somebody else may have edited it."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from securepfl.report.outcome import MODELS
from securepfl.report.released import released_note, released_rows

if TYPE_CHECKING:
    from securepfl.report.pages.reading import Curve, Result

_UNITS = {"declared", "used", "cut", "padded", "largest"}


def fits(result: "Result", raw: Mapping[str, Any]) -> bool:
    """Whether it can be shown. `raw` is the file as it stands."""
    try:
        return all(_parts(result, raw))
    except (LookupError, TypeError, ValueError, AttributeError):
        return False


def _parts(result: "Result", raw: Mapping[str, Any]) -> Iterable[bool]:
    titles, sites = set(result.metrics.titles), result.sites.values()
    yield result.site is None or list(result.sites) == [result.site]
    yield {*result.metrics.shown, *([result.metrics.decides] if titles else [])} <= titles
    for table in _tables(result):
        yield set(MODELS) <= set(table) and all(titles <= set(table[model]) for model in MODELS)
    yield all(set(site.units) >= _UNITS for site in sites)
    yield all(
        _is_possible(curve) for curves in (result.curves, *(s.curves for s in sites)) for curve in curves.values()
    )
    yield all({*curves} <= {*MODELS} for curves in (result.curves, *(site.curves for site in sites)))
    yield all(0 <= site.privacy.delta < 1 and (site.privacy.epsilon or 0) >= 0 for site in sites)
    yield all("clipped_fraction" in site for site in raw["sites"].values())
    yield _has_settings(result.federation)
    if result.mean:
        yield all(int(raw["counted"]["personalised"][metric]) >= 0 for metric in result.metrics.shown)
    if result.released is not None:
        list(released_rows(result.released))
        yield bool(released_note(result.released))


def _tables(result: "Result") -> Iterable[Mapping[str, Mapping[str, Any]]]:
    for site in result.sites.values():
        yield from (site.metrics, site.intervals)
    if result.mean:
        yield from (result.mean, result.within)
    if result.within:
        yield from (result.within, result.intervals.within)
    if result.pooled:
        yield from (result.pooled, result.intervals.pooled)


def _is_possible(curve: "Curve") -> bool:
    """Whether there may be rows of which these are the counts and shares."""
    no = curve.rows - curve.yes
    counts = 0 <= curve.true_yes <= curve.yes and 0 <= curve.false_yes <= no and (not curve.roc or (curve.yes and no))
    shares = [*(share for point in curve.roc for share in point)]
    shares += [share for g in curve.calibration for share in (g.predicted, g.observed, g.low, g.high)]
    return bool(counts) and all(0 <= share <= 1 for share in shares)


def _has_settings(federation: Mapping[str, Any]) -> bool:
    """Whether what pages read of the settings has the form that they have."""
    tables = [federation["privacy"], *(federation.get(name) or {} for name in ("sites", "shape", "data"))]
    sites = (federation.get("sites") or {}).values()
    shared = (federation.get("shape") or {}).get("shared", 0)
    return all(isinstance(held, Mapping) for held in (*tables, *sites)) and isinstance(shared, int)
