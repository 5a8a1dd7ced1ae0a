"""`securepfl audit`: budget, ledgers and verify; attack and withdraw have files of their own."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from securepfl.cli.attack import attack
from securepfl.cli.command import Group
from securepfl.cli.options import EXISTING, PATH
from securepfl.cli.output import give, give_lines, give_nothing, say, tell
from securepfl.cli.withdraw import withdraw
from securepfl.errors import ConfigError, LedgerError

_KEY_FORM = re.compile("[0-9a-f]{64}")

_LEDGER = click.argument("ledger", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_KEY = click.option(
    "--key",
    "keys",
    multiple=True,
    metavar="HEX",
    help="A public key that may have signed, as the hospital's `securepfl keys show` prints it. [default: any]",
)


@click.group(cls=Group, examples=("securepfl audit budget run/ledger/north.snapshot.jsonl",))
def audit() -> None:
    """What was spent, whether the ledger can be believed, and whether an attack confirms it."""


audit.add_command(attack)
audit.add_command(withdraw)


@audit.command(
    examples=(
        "securepfl audit budget run/ledger/north.snapshot.jsonl",
        "securepfl audit budget run/ledger/north.snapshot.jsonl --plot budget.svg",
    )
)
@_LEDGER
@_KEY
@click.option("--plot", type=PATH, help="Draw epsilon over rounds to this file (.png, .svg or .pdf).")
def budget(ledger: Path, keys: tuple[str, ...], plot: Path | None) -> None:
    """What LEDGER's data set has spent and has left, per round and per unit."""
    from securepfl.cli.consoles import tables
    from securepfl.report.budget import plot_budget, print_budget
    from securepfl.report.ledger import budget_of

    found = budget_of(ledger, trusted_keys(keys))
    if plot is not None:
        plot_budget(found, plot)
    give(found, lambda: print_budget(tables(), found))
    if plot is not None:
        tell(f"wrote {plot}")


@audit.command(examples=("securepfl audit ledgers", "securepfl audit ledgers --site north --json"))
@click.option("--ledgers", type=PATH, help="Folder of the hospitals' registries of ledgers. [default: as for `run`]")
@click.option("--site", help="The hospital whose ledgers are listed. [default: all]")
def ledgers(ledgers: Path | None, site: str | None) -> None:
    """Where ledgers lie: each hospital's data sets, what kind of runs they count, and how much is spent."""
    from securepfl.cli.consoles import tables
    from securepfl.report.registry import ledgers_of, print_ledgers
    from securepfl.storage.registry import ledgers_place

    place = ledgers or ledgers_place()
    found = ledgers_of(place, site)
    none = f"no ledgers in {place}" + ("" if site is None else f" of {site}")
    give(found, lambda: print_ledgers(tables(), found) if found else say(none))


@audit.command(examples=("securepfl audit verify run/ledger/north.snapshot.jsonl --heads run/heads.json",))
@_LEDGER
@_KEY
@click.option("--heads", type=EXISTING, help="What others saw: heads.json of a run, or a hospital's statements.json.")
def verify(ledger: Path, keys: tuple[str, ...], heads: Path | None) -> None:
    """Recompute all that LEDGER claims. Exit 1 with the first line that is wrong."""
    from securepfl.report.ledger import snapshot_note, verdict, verified

    trusted = trusted_keys(keys)
    try:
        summary = verified(ledger, heads, trusted)
    except LedgerError as error:
        say(f"securepfl: {error}", err=True)
        give_nothing(str(error))
        sys.exit(1)
    give_lines([*verdict(summary, heads, trusted), *snapshot_note(ledger)])


def trusted_keys(keys: Sequence[str]) -> frozenset[bytes] | None:
    """The public keys given in hex, or None: any key that the ledger names. Raises ConfigError for what is no key."""
    if not keys:
        return None
    wrong = next((key for key in keys if not _KEY_FORM.fullmatch(key.lower())), None)
    if wrong is not None:
        raise ConfigError(
            f"--key {wrong!r}: give 64 hexadecimal digits, as the hospital's `securepfl keys show` prints"
        )
    return frozenset(bytes.fromhex(key) for key in keys)
