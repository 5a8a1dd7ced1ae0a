"""`securepfl audit attack`."""

import sys
from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, check_pair, device
from securepfl.cli.output import give, tell


@click.command(
    cls=Command,
    examples=(
        "securepfl audit attack",
        "securepfl audit attack federation.toml --data rows.csv --site north --json",
    ),
)
@click.argument("config", type=EXISTING, required=False)
@click.option("--data", type=PATH, help="The hospital's table, or a folder with one file a site, as for `run`.")
@click.option("--site", help="The hospital to rehearse. [default: the first]")
@click.option(
    "--canaries", type=click.IntRange(min=10), default=1000, show_default=True, help="Made-up records in one rehearsal."
)
@click.option(
    "--runs", type=click.IntRange(min=3), default=40, show_default=True, help="Whole runs of one canary each."
)
@device
def attack(config: Path | None, data: Path | None, site: str | None, canaries: int, runs: int, device: str) -> None:
    """Attack a rehearsal of one hospital's training and compare what leaks with what the accounting claims.

    The rehearsal never leaves this machine and spends nothing. Exit 1 where the build is less private than its claim.
    Without CONFIG: a hospital of the demo.
    """
    from securepfl.cli.consoles import counting, tables
    from securepfl.report.attack import print_attack
    from securepfl.runtime.planning import configured
    from securepfl.runtime.rehearsing import rehearsal_of, report_of

    check_pair(config, data)
    rehearsal = rehearsal_of(configured(config), data, site, device)
    tell(f"rehearsing {rehearsal.site}: {canaries} canaries, then {runs} whole runs")
    with counting("rehearsals") as told:
        found = report_of(rehearsal, rehearsal.attack(canaries, runs, told))
    give(found, lambda: print_attack(tables(), found))
    if found["accused"]:
        sys.exit(1)
