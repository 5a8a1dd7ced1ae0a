"""The hospitals' ledgers of a run, verified anew whenever a page is made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securepfl.errors import ConfigError, LedgerError, SecurePFLError, first_line
from securepfl.privacy.ledger.summary import LedgerSummary
from securepfl.report.epsilon import epsilon_text
from securepfl.report.ledger import SNAPSHOT, verdict, verified
from securepfl.report.pages.blocks import Block, Fold, Section, Table, Terms, Text
from securepfl.report.pages.reading import Run, state_folder

HEADS: Final = "heads.json"
_MOST_TOLD: Final = 40
_ROUNDING: Final = 1e-6
_STATEMENTS: Final = "statements.json"


@dataclass(frozen=True)
class Checked:
    """One hospital's ledger: its summary, or what is `wrong` with it; `lines`: what it shows, and what it can't."""

    site: str
    summary: LedgerSummary | None = None
    wrong: str = ""
    lines: tuple[str, ...] = ()


def checked_ledgers(run: Run) -> dict[str, Checked]:
    """By hospital, of those whose ledger lies where this run says."""
    heads = state_folder(run.folder) / _STATEMENTS if run.alone else run.folder / HEADS
    return {site: _checked(site, path, heads if heads.is_file() else None) for site, path in _places(run)}


def _places(run: Run) -> Iterator[tuple[str, Path]]:
    if run.alone:
        path = run.result.ledger.get("path", "")
        if run.result.site is not None and path.endswith(".jsonl") and Path(path).is_file():
            yield run.result.site, Path(path)
        return
    folder = run.folder / "ledger"
    for site in run.result.sites:
        if Path(site).name != site:
            continue
        snapshot, own = folder / f"{site}{SNAPSHOT}", sorted((folder / site).glob("*.jsonl"))
        if snapshot.is_file() or len(own) == 1:
            yield site, snapshot if snapshot.is_file() else own[0]


def _checked(site: str, path: Path, heads: Path | None) -> Checked:
    try:
        try:
            summary = verified(path, heads, None)
        except ConfigError:  # nobody has seen this one yet
            heads, summary = None, verified(path, None, None)
    except LedgerError as error:
        return Checked(site, wrong=first_line(error))
    except SecurePFLError as error:
        return Checked(site, wrong=f"could not be read: {first_line(error)}")
    if summary.site != site:
        return Checked(site, wrong=f"it is the ledger of {summary.site}")
    return Checked(site, summary, lines=tuple(verdict(summary, heads, None)))


def contradictions(run: Run, found: Mapping[str, Checked]) -> list[str]:
    """Where a ledger that holds counts more than the run's file says, or that its noise was seeded: a line each. The
    file is signed by nobody.
    """
    lines = []
    for name, one in found.items():
        if one.summary is None:
            continue
        said, counted = run.result.sites[name].privacy.epsilon, one.summary.epsilon
        if said is not None and run.protected and counted > said * (1 + _ROUNDING):
            lines.append(
                f"{name}: result.json says epsilon {said:.3f}, and the signed ledger {epsilon_text(counted)}: the file "
                "was changed, or more was spent since; quote the ledger"
            )
        if one.summary.seeded and not run.seeded:
            lines.append(f"{name}: result.json says nothing of a seed, and the signed ledger that the noise was seeded")
    return lines


def ledgers_section(run: Run, found: dict[str, Checked], key: str) -> Section:
    """What the ledgers show; said where there are none."""
    blocks: list[Block] = []
    if not found:
        blocks.append(Text("No ledger lies where this run says, so nothing here rests on one."))
        return Section(f"{key}ledgers", "Ledgers", tuple(blocks))
    wrong = [one.site for one in found.values() if one.summary is None]
    count = f"{len(found) - len(wrong)} of {len(run.result.sites)} ledgers hold"
    blocks.append(
        Text(
            f"{count}: each line's form, order, hash chain and signature was checked, and each epsilon recomputed, "
            "when this page was made. Who signed was not checked: compare each key with what its hospital's `securepfl "
            "keys show` prints."
        )
    )
    rows = tuple(_row(one) for one in found.values())
    headings = ("hospital", "ledger", "lines", "seen by others up to line", "runs", "signed by")
    blocks.append(Table("Ledgers, verified", headings, rows, name="ledgers.csv", words=True, key=f"{key}ledger-table"))
    first = [one for one in found.values() if one.lines][:_MOST_TOLD]
    told = tuple((one.site, one.lines) for one in first)
    some = "each ledger shows" if len(first) == len(found) else f"the first {len(first)} ledgers show"
    if told:
        blocks.append(Fold(f"What {some}, and what can't be shown", (Terms(told),)))
    return Section(f"{key}ledgers", "Ledgers", tuple(blocks))


def _row(one: Checked) -> tuple[str, ...]:
    if one.summary is None:
        return one.site, f"does not hold: {one.wrong}", "-", "-", "-", "-"
    summary, runs = one.summary, len({spend.run for spend in one.summary.rounds}) or "-"
    keys = ", ".join(f"{key.hex()[:16]}…" for key in summary.public_keys)
    return one.site, "holds", str(summary.lines), str(summary.seen) if summary.seen else "not known", str(runs), keys
