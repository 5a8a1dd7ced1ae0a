"""`securepfl suggest`."""

from datetime import UTC, datetime
from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, ByHand, device
from securepfl.cli.output import give, say, tell


@click.command(
    cls=Command, examples=("securepfl suggest federation.toml --data rows.csv --site north --run run --epsilon 0.5",)
)
@click.argument("config", type=EXISTING)
@click.option("--data", type=EXISTING, required=True, help="The hospital's table, or a folder with one file a site.")
@click.option("--site", required=True, help="The hospital that asks.")
@click.option(
    "--run", "run_folder", type=EXISTING, required=True, help="A run whose released shared model is the start."
)
@click.option("--epsilon", cls=ByHand, type=float, required=True, help="The most that the answer may cost.")
@click.option("--ledgers", type=PATH, help="Folder of the hospitals' registries of ledgers, as for `run`.")
@device
def suggest(
    config: Path,
    data: Path,
    site: str,
    run_folder: Path,
    epsilon: float,
    ledgers: Path | None,
    device: str,
) -> None:
    """Which parameters SITE should keep personal, tried on its own rows: charged as repeat-and-select, every time.

    The default, [model] personal = "auto", is a public rule and costs nothing.
    """
    from securepfl.runtime.suggesting import suggest as ask
    from securepfl.storage.folder import write_json
    from securepfl.storage.registry import ledgers_place

    place = ledgers or ledgers_place()
    # Of when it was asked: when the answer came would tell, beside the ledger's line, how many candidates there were.
    kept = place / site / f"suggestion-{datetime.now(UTC):%Y%m%d-%H%M%S}.json"
    found = ask(config, data, site, run_folder, epsilon, place, device)
    try:
        write_json(kept, found)
    finally:  # it is paid for: printed whether or not it could be written
        give(found, lambda: say(found["sentence"]))
    tell(f"wrote {kept}")
