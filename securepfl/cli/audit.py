"""`securepfl audit budget` and `audit verify`: what a ledger says was spent, and whether it can be believed."""

import json
import re
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.errors import ConfigError, LedgerError, StorageError
from securepfl.privacy.accounting.accounting import Composition
from securepfl.privacy.accounting.events import AnyRelease, Release, Selection, SharedRelease
from securepfl.privacy.ledger.ledger import LedgerSummary, against_heads, verify_ledger
from securepfl.privacy.ledger.lines import RoundSpend

_HASH = re.compile("[0-9a-f]{64}")
_ROUNDS_SHOWN = 40


def trusted_keys(keys: Sequence[str]) -> frozenset[bytes] | None:
    """The public keys given in hex, or None: any key that the ledger names. Raises ConfigError for what is no key."""
    if not keys:
        return None
    wrong = next((key for key in keys if not _HASH.fullmatch(key.lower())), None)
    if wrong is not None:
        raise ConfigError(
            f"--key {wrong!r}: give 64 hexadecimal digits, as the hospital's `securepfl keys show` prints"
        )
    return frozenset(bytes.fromhex(key) for key in keys)


def read_heads(path: Path, site: str) -> tuple[str, ...]:
    """The hashes that the coordinator saw of `site`'s ledger, from a JSON file {SITE: hash or list of hashes}.

    Raises ConfigError for a file of another form, or without that site.
    """
    try:
        heads = msgspec.convert(json.loads(path.read_bytes(), object_pairs_hook=_once), dict[str, str | list[str]])
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; name the heads.json of a run") from None
    except (ValueError, msgspec.MsgspecError) as error:
        raise ConfigError(
            f"{path}: not JSON of the form {{SITE: hash}} ({error}); name the heads.json of a run"
        ) from None
    if site not in heads:
        raise ConfigError(f"{path}: no head of {site!r}; it holds those of {', '.join(sorted(heads)) or 'nobody'}")
    held = heads[site]
    found = [held] if isinstance(held, str) else held
    if not found or not all(_HASH.fullmatch(head) for head in found):
        raise ConfigError(f"{path}: a head of {site!r} is not 64 hexadecimal digits; name the heads.json of a run")
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
    lines = [
        f"{summary.lines} lines of {summary.site} hold: form, order, hash chain, signatures, each epsilon recomputed",
        f"spent epsilon {summary.epsilon:.6g} of {summary.budget.epsilon:g} at delta {summary.budget.delta:g}, "
        f"per {summary.unit or 'unit'}, zero-out (replace-one: {summary.epsilon_replace_one:.6g})",
        f"head {summary.head}",
    ]
    signed = ", ".join(key.hex() for key in summary.public_keys)
    if keys is None:
        lines.append(f"signed by {signed}: compare with the hospital's `securepfl keys show`, or give --key for each")
    if heads is None:
        lines.append("lines cut off at the end would not show: give --heads with what the coordinator saw last")
    else:
        lines.append(
            f"the coordinator saw line {summary.seen}; that no line after it, nor after the last of {summary.lines}, "
            "was cut off rests on the hospital: give the heads of the latest run"
        )
    return lines + _caveats(summary)


def _caveats(summary: LedgerSummary) -> list[str]:
    """What these figures rest on."""
    lines = []
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


def budget_of(ledger: Path, keys: Collection[bytes] | None) -> dict[str, Any]:
    """What a ledger's data set has spent, as JSON-able values. Raises LedgerError where the ledger does not verify."""
    summary = verified(ledger, None, keys)
    return {
        "ledger": str(ledger),
        "site": summary.site,
        "data_set": summary.data_set,
        "simulation": summary.simulation,
        "seeded": summary.seeded,
        "unit": summary.unit or "unit",
        "adjacency": "zero-out",
        "delta": summary.budget.delta,
        "budget": summary.budget.epsilon,
        "spent": summary.epsilon,
        "left": max(0.0, summary.budget.epsilon - summary.epsilon),
        "spent_replace_one": summary.epsilon_replace_one,
        "unsettled": summary.unsettled,
        "head": summary.head,
        "caveats": _caveats(summary),
        "public_keys": [key.hex() for key in summary.public_keys],
        "rounds": _rounds(summary),
    }


def _rounds(summary: LedgerSummary) -> list[dict[str, Any]]:
    """Each round's spend, all at the last session's delta, also those of sessions with another."""
    rounds, delta = [_round(spend) for spend in summary.rounds], summary.budget.delta
    if any(session.budget.delta != delta for session in summary.sessions):
        composition = Composition()
        for entry, spend in zip(rounds, summary.rounds, strict=True):
            composition.add(spend.release)
            entry["epsilon"] = composition.epsilon(delta)
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


def print_budget(console: Console, budget: dict[str, Any]) -> None:
    """The budget as a table and a bar, one row a round, the latest last."""
    title = Text(f"{budget['site']}: privacy budget of data set {budget['data_set']}", style="bold")
    facts = Table.grid(padding=(0, 2))
    for name, value in (
        ("spent", f"epsilon {budget['spent']:.4f} (replace-one {budget['spent_replace_one']:.4f})"),
        ("left", f"epsilon {budget['left']:.4f} of {budget['budget']:g}"),
        ("for", f"one {budget['unit']}, zero-out, at delta {budget['delta']:g}"),
        ("interrupted", f"{budget['unsettled']} rounds, counted in full"),
    ):
        facts.add_row(name, value)
    bar = Table.grid()  # a bar alone would not end its line
    bar.add_row(ProgressBar(total=budget["budget"], completed=min(budget["spent"], budget["budget"]), width=40))
    console.print(Group(title, facts, bar, _rounds_table(budget["rounds"])))
    hidden = len(budget["rounds"]) - _ROUNDS_SHOWN
    if hidden > 0:
        console.print(Text(f"{hidden} earlier rounds not shown; --json lists all"))
    for caveat in budget["caveats"]:
        console.print(Text(caveat), soft_wrap=True)


def _rounds_table(rounds: Sequence[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("time", "run", "round", "released", "", "epsilon after"):
        table.add_column(heading, justify="right" if heading in ("round", "epsilon after") else "left")
    for entry in rounds[-_ROUNDS_SHOWN:]:
        table.add_row(
            entry["time"],
            entry["run"][:8],
            str(entry["round"]),
            entry["released"],
            "" if entry["settled"] else Text("interrupted", style="yellow"),
            f"{entry['epsilon']:.4f}",
        )
    return table


def plot_budget(budget: dict[str, Any], path: Path) -> None:
    """Epsilon after each round, run by run, against the budget. The ending of `path` chooses the format.

    Raises ConfigError without matplotlib, or for an ending that it does not know, StorageError where it cannot write.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError("--plot needs matplotlib: python -m pip install matplotlib") from None
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    spent = [0.0, *(entry["epsilon"] for entry in budget["rounds"])]
    axes.step(range(len(spent)), spent, where="post", label="spent", color="#1f5fa8", linewidth=2)
    axes.axhline(budget["budget"], label="budget", color="#b03a2e", linestyle="--")
    runs = [entry["run"] for entry in budget["rounds"]]
    for place, (before, after) in enumerate(pairwise(runs), start=1):
        if before != after:
            axes.axvline(place, color="#999999", linewidth=0.8, linestyle=":")
    unsettled = [place for place, entry in enumerate(budget["rounds"], start=1) if not entry["settled"]]
    if unsettled:
        values = [spent[place] for place in unsettled]
        axes.plot(unsettled, values, "o", color="#d68910", label="interrupted, counted in full")
    axes.set(
        xlabel="rounds, over all runs (dotted: a new run)",
        ylabel=f"epsilon per {budget['unit']} at delta {budget['delta']:g}",
        title=f"{budget['site']}: spent {budget['spent']:.3g} of {budget['budget']:g}",
        ylim=(0, None),
    )
    axes.legend(loc="lower right")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror or error}; choose a folder that can be written") from None
    except ValueError as error:
        raise ConfigError(f"--plot {path}: {error}") from None


def dumps(value: dict[str, Any]) -> str:
    """`value` as JSON for --json; an infinite epsilon is null."""
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
