"""`securepfl audit withdraw`."""

from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, ByHand, own_ledgers, passphrase_file
from securepfl.cli.output import give, say


@click.command(
    cls=Command,
    examples=("securepfl audit withdraw federation.toml --data withdrawn.csv --site north --folder north",),
)
@click.argument("config", type=EXISTING)
@click.option(
    "--data", type=EXISTING, required=True, help="Rows of those who withdraw and of nobody else, as CONFIG declares."
)
@click.option("--site", required=True, help="The hospital whose patients they are.")
@click.option("--folder", type=PATH, help="Its own folder, whose keys sign. Not needed where only simulations ran.")
@passphrase_file
@own_ledgers
@click.option("--yes", cls=ByHand, is_flag=True, help="Don't ask whether it is meant.")
def withdraw(
    config: Path,
    data: Path,
    site: str,
    folder: Path | None,
    passphrase_file: Path | None,
    ledgers: Path | None,
    yes: bool,
) -> None:
    """Write that patients withdrew their consent into each ledger that counts their records.

    From then on those records train no more: a run whose data still hold them is refused. The line names nobody. It
    can't be taken back, and what was released before can't either.
    """
    from securepfl.cli.asking import ask_passphrase, confirm_for_good
    from securepfl.report.ledger import withdrawal_line
    from securepfl.runtime.withdrawing import withdraw as write
    from securepfl.storage.keys import load_holdings
    from securepfl.storage.registry import ledgers_place

    if not yes:
        confirm_for_good(f"Everybody in {data} withdraws, for good?")
    identity = None if folder is None else load_holdings(folder, ask_passphrase(passphrase_file, folder)).identity
    done = write(config, data, site, ledgers or ledgers_place(), identity)
    lines = [
        f"{one.ledger}: {withdrawal_line(one.last, one.summary.unit or 'unit')}\nhead {one.summary.head}"
        for one in done
    ]
    found = [
        {
            "ledger": str(one.ledger),
            "line": one.last.line,
            "units": one.last.units,
            "releases_before": one.last.rounds,
            "models_before": one.last.released,
            "head": one.summary.head,
        }
        for one in done
    ]
    give({"withdrawn": found}, lambda: say("\n".join(lines)))
