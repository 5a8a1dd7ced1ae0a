"""What a verified ledger says was spent, what that rests on, and what it cannot show."""

import json
import re
from collections.abc import Collection
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.errors import ConfigError, LedgerError, StorageError
from securepfl.privacy.accounting.accounting import Composition
from securepfl.privacy.accounting.events import AnyRelease, Release, Selection, SharedRelease
from securepfl.privacy.ledger.history import Withdrawn
from securepfl.privacy.ledger.summary import LedgerSummary, RoundSpend, against_heads, verify_ledger
from securepfl.report.epsilon import NO_PRIVACY, finite

SNAPSHOT: Final = ".snapshot.jsonl"
"""How the copy of a ledger in a run's folder is called, behind the hospital's name."""
README: Final = "README.txt"

_HASH = re.compile("[0-9a-f]{64}")
_NAME = "name the heads.json of a run, or the statements.json of a hospital"


def read_heads(path: Path, site: str) -> tuple[str, ...]:
    """The hashes that others saw of `site`'s ledger, from a JSON file {SITE: hash or list of hashes}: a run's, or a
    hospital's statements.json, which has that mapping under "heads".

    Raises ConfigError for a file of another form, or without that site.
    """
    try:
        held = json.loads(path.read_bytes(), object_pairs_hook=_once)
        # A record of statements has a number under "schema", where a site would have a hash.
        record = isinstance(held, dict) and isinstance(held.get("schema"), int)
        heads = msgspec.convert(held.get("heads") if record else held, dict[str, str | list[str]])
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; {_NAME}") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise ConfigError(f"{path}: not JSON of the form {{SITE: hash}} ({error}); {_NAME}") from None
    if site not in heads:
        raise ConfigError(f"{path}: no head of {site!r}; it holds those of {', '.join(sorted(heads)) or 'nobody'}")
    stated = heads[site]
    found = [stated] if isinstance(stated, str) else stated
    if not found or not all(_HASH.fullmatch(head) for head in found):
        raise ConfigError(f"{path}: a head of {site!r} is not 64 hexadecimal digits; {_NAME}")
    return tuple(found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's object, refused where a name comes twice: the second would hide the first."""
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a site comes twice")
    return dict(pairs)


def verified(ledger: Path, heads: Path | None, keys: Collection[bytes] | None) -> LedgerSummary:
    """The ledger's summary once every line was recomputed. Raises LedgerError with the first line that is wrong."""
    summary = verify_ledger(ledger, ledger_verifier(None))
    if heads is not None:
        summary = against_heads(ledger, summary, read_heads(heads, summary.site))
    _check_keys(ledger, summary, keys)
    return summary


def _check_keys(ledger: Path, summary: LedgerSummary, keys: Collection[bytes] | None) -> None:
    strange = [key.hex() for key in summary.public_keys if keys is not None and key not in keys]
    if strange:
        raise LedgerError(
            f"{ledger}: its lines hold, but were signed by {', '.join(strange)}, which is no --key given; if those are "
            "the hospital's (keys change when its identity does), give --key for each"
        )


def verdict(summary: LedgerSummary, heads: Path | None, keys: Collection[bytes] | None) -> list[str]:
    """What a verified ledger shows, and what it cannot."""
    signed = ", ".join(key.hex() for key in summary.public_keys)
    unknown = (
        f"THE SIGNER IS NOT VERIFIED: no --key was given, and anybody could have signed as {summary.site}. Keys in it: "
        f"{signed}; compare with the hospital's `securepfl keys show`, or give --key for each"
    )
    lines = [] if keys is not None else [unknown]
    lines += [
        f"{summary.lines} lines of {summary.site} hold: form, order, hash chain, signatures, each epsilon recomputed",
        *_spent(summary),
        *_declared(summary),
        f"head {summary.head}",
    ]
    if heads is None:
        lines.append("lines cut off at the end would not show: give --heads with what others saw last")
    else:
        lines.append(
            f"others confirm the lines up to {summary.seen} of {summary.lines}: none up to there is missing; later "
            "lines could have been removed, and only the hospital can vouch for them; heads of a later run confirm more"
        )
    return lines + caveats(summary)


def _spent(summary: LedgerSummary) -> list[str]:
    if summary.unprotected is not None:
        return [f"{NO_PRIVACY}: {_unprotected(summary.unprotected)}"]
    unit = summary.unit or "unit"
    return [
        f"spent epsilon {summary.epsilon:.6g} of {summary.budget.epsilon:g} at delta {summary.budget.delta:g}: "
        f"{zero_out(unit)}",
        f"epsilon {summary.epsilon_replace_one:.6g}: {replace_one(unit)}",
    ]


def _unprotected(time: str) -> str:
    return f'the records trained without protection on {time} ([privacy] protection = "none"), and no epsilon holds'


def zero_out(unit: str) -> str:
    """What an epsilon under this adjacency limits."""
    return f"the limit on what all releases tell of whether one {unit} was in the data (zero-out)"


def replace_one(unit: str) -> str:
    """What an epsilon under this adjacency limits."""
    return f"the limit on what they tell of which of two {unit}s was in the data (replace-one)"


def _declared(summary: LedgerSummary) -> list[str]:
    """What the last session says that its releases rest on."""
    facts = summary.sessions[-1].facts
    if facts is None:
        return []
    units = (
        f"{facts.units} {facts.unit}s declared" if facts.units is not None else f"{facts.unit}s, number not declared"
    )
    clip = "" if facts.clip is None else f", clip {facts.clip:g}"
    return [f"last session: {units}{clip}, settings {facts.settings}"]


def snapshot_note(ledger: Path) -> list[str]:
    """For the copy of a ledger that a run's folder holds: that it is one. Nothing for a ledger.

    >>> snapshot_note(Path("runs/one/ledger/north.snapshot.jsonl"))[0][:27]
    'a snapshot: what was spent '
    >>> snapshot_note(Path("ledgers/north/north.jsonl"))
    []
    """
    if not ledger.name.endswith(SNAPSHOT):
        return []
    return [
        f"a snapshot: what was spent since stands in the live ledger alone; {README} beside it says where that lies"
    ]


def caveats(summary: LedgerSummary) -> list[str]:
    """What these figures rest on."""
    lines = [] if summary.unprotected is None else [f"{NO_PRIVACY}: {_unprotected(summary.unprotected)}"]
    if summary.mixed:
        epsilon, delta = summary.holds
        lines.append(
            "releases of several kinds, of which the later may have been chosen after a look at the earlier: summed by "
            "Renyi divergence at one order that the budget fixes, so this reads high early on; what holds is the "
            f"largest budget, epsilon {epsilon:g}, at delta {delta:g}"
        )
    shared = [release for release in summary.releases if isinstance(release, SharedRelease)]
    if shared:
        least = min(release.shares for release in shared)
        lines.append(
            f"shared noise: this epsilon holds while {least} hospitals add their share and keep it; an RDP bound"
        )
    selections = sum(release.steps for release in summary.releases if isinstance(release, Selection))
    if selections:
        lines.append(
            f"{selections} selection(s) charged as repeat-and-select: with them epsilon is an RDP bound, and it holds "
            "while nobody is told how many candidates were tried"
        )
    if summary.settled_below:
        lines.append(
            f"{summary.settled_below} round(s) were settled for less than they reserved, which rests on the hospital's "
            f"word: epsilon as reserved is {summary.epsilon_reserved:.6g}"
        )
    for one in summary.withdrawals:
        lines.append(withdrawal_line(one, summary.unit or "unit"))
    for before, after in pairwise(summary.sessions):
        if before.budget != after.budget:
            old, new = before.budget, after.budget
            lines.append(
                f"{after.time}: the budget went from epsilon {old.epsilon:g} at delta {old.delta:g} to {new.epsilon:g} "
                f"at {new.delta:g}"
            )
    for session in summary.sessions:
        if session.recovered is not None:
            lines.append(
                f"{session.time}: {session.recovered.count} bytes of an unfinished line were dropped: a crash, or "
                "somebody cut it, and then what it reserved is missing"
            )
    if summary.simulation:
        kind = ", seeded: its noise protects nobody" if summary.seeded else "; every run signs with a new key"
        lines.append("a simulation's ledger" + kind)
    return lines


def withdrawal_line(one: Withdrawn, unit: str) -> str:
    """What a withdrawal of consent touches, and what follows.

    >>> one = Withdrawn(line=9, time="2026-01-31T09:00:00Z", units=1, commitment="ab" * 32, rounds=3, released=1)
    >>> withdrawal_line(one, "patient")[:80]
    'line 9, 2026-01-31T09:00:00Z: 1 patient withdrew consent; up to 3 releases and 1'
    """
    several = "" if one.units == 1 else "s"
    return (
        f"line {one.line}, {one.time}: {one.units} {unit}{several} withdrew consent; up to {one.rounds} releases and "
        f"{one.released} models or numbers that left before may rest on their data. Those can't be taken back, and the "
        "spend stays as it was; the data train no more"
    )


def budget_of(ledger: Path, keys: Collection[bytes] | None) -> dict[str, Any]:
    """What a ledger's data set has spent, as JSON-able values. Raises LedgerError where the ledger does not verify."""
    summary = verified(ledger, None, keys)
    unit = summary.unit or "unit"
    return {
        "ledger": str(ledger),
        "site": summary.site,
        "data_set": summary.data_set,
        "simulation": summary.simulation,
        "seeded": summary.seeded,
        "unit": unit,
        "adjacency": "zero-out",
        "means": {"zero-out": zero_out(unit), "replace-one": replace_one(unit)},
        "delta": summary.budget.delta,
        "budget": summary.budget.epsilon,
        "spent": finite(summary.epsilon),
        "left": max(0.0, summary.budget.epsilon - summary.epsilon),
        "spent_replace_one": finite(summary.epsilon_replace_one),
        "unprotected": summary.unprotected,
        "unsettled": summary.unsettled,
        "head": summary.head,
        "caveats": [*caveats(summary), *snapshot_note(ledger)],
        "public_keys": [key.hex() for key in summary.public_keys],
        "rounds": rounds_of(summary),
    }


def rounds_of(summary: LedgerSummary) -> list[dict[str, Any]]:
    """Each round's spend, all at the last session's delta, also those of sessions with another."""
    rounds, delta = [_round(spend) for spend in summary.rounds], summary.budget.delta
    if any(session.budget.delta != delta for session in summary.sessions):
        composition = Composition()
        for entry, spend in zip(rounds, summary.rounds, strict=True):
            composition.add(spend.release)
            entry["epsilon"] = composition.adaptive_epsilon(summary.budget.epsilon, delta)
    return rounds


def _round(spend: RoundSpend) -> dict[str, Any]:
    return {
        "run": spend.run,
        "federation": spend.federation,
        "round": spend.round,
        "attempt": spend.attempt,
        "time": spend.time,
        "settled": spend.settled,
        "release": msgspec.to_builtins(spend.release),
        "released": _described(spend.release),
        "epsilon": spend.epsilon,
    }


def _described(release: AnyRelease) -> str:
    match release:
        case Release():
            batch = "full batch" if release.sample_rate == 1 else f"rate {release.sample_rate:g}"
            return f"{release.steps} x Gaussian, noise multiplier {release.noise_multiplier:.4g}, {batch}"
        case SharedRelease():
            scale = f"scale {release.scale} of sensitivity {release.sensitivity:.4g}"
            return f"{release.steps} x shared discrete Gaussian, {release.shares} shares of {scale} (RDP bound)"
        case Selection():
            each = " and ".join(_described(one) for one in release.candidate)
            return (
                f"{release.steps} x repeat-and-select: the best of {release.mean:g} candidates on average, each {each} "
                "(RDP bound)"
            )
