"""The ledgers of a place, as `securepfl audit ledgers` lists them."""

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.errors import StorageError
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.report.epsilon import epsilon_text, finite
from securepfl.storage.registry import LISTING, DataSet, Registry


def ledgers_of(place: Path, site: str | None) -> list[dict[str, Any]]:
    """Each data set's ledger in the registries at `place`, of `site` or of all hospitals, by name, as JSON-able values.

    Raises LedgerError where a registry or ledger does not hold, StorageError where `place` cannot be read.
    """
    try:
        sites = sorted(path.parent.name for path in place.glob(f"*/{LISTING}")) if site is None else [site]
    except OSError as error:
        raise StorageError(f"{place}: cannot be read ({error.strerror}); mend its rights") from None
    registries = [Registry(place, name) for name in sites]
    return [_described(registry, one) for registry in registries for one in registry.data_sets()]


def _described(registry: Registry, one: DataSet) -> dict[str, Any]:
    path, _ = registry.ledger_at(one.id, one.kind)
    summary = verify_ledger(path, ledger_verifier(None))
    return {
        "site": registry.site,
        "data_set": one.id,
        "kind": one.kind,
        "spent": finite(summary.epsilon),
        "budget": summary.budget.epsilon,
        "delta": summary.budget.delta,
        "unit": summary.unit or "unit",
        "lines": summary.lines,
        "ledger": str(path.absolute()),
    }


def print_ledgers(console: Console, found: list[dict[str, Any]]) -> None:
    """A line a ledger, and below it where it lies: a path may be as long as it likes."""
    table = Table(box=box.SIMPLE_HEAD)
    for title in ("hospital", "data set", "runs", "epsilon spent", "of", "at delta", "per"):
        table.add_column(title)
    for one in found:
        spent, budget = epsilon_text(one["spent"], ".4g"), f"{one['budget']:g}"
        table.add_row(one["site"], one["data_set"], one["kind"], spent, budget, f"{one['delta']:g}", one["unit"])
    console.print(table)
    for one in found:
        console.print(one["ledger"], soft_wrap=True)
