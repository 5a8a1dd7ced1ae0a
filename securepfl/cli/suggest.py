"""`securepfl suggest`."""

from pathlib import Path

import click

from securepfl.cli.options import EXISTING, PATH, device


@click.command()
@click.argument("config", type=EXISTING)
@click.option("--data", type=EXISTING, required=True, help="The hospital's table, or a folder with one file a site.")
@click.option("--site", required=True, help="The hospital that asks.")
@click.option(
    "--run", "run_folder", type=EXISTING, required=True, help="A run whose released shared model is the start."
)
@click.option("--epsilon", type=float, required=True, help="The most that the answer may cost.")
@click.option("--ledger", type=PATH, help="The hospital's budget ledger. [default: DATA.ledgers/SITE.jsonl]")
@device
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON in place of the sentence.")
def suggest(
    config: Path,
    data: Path,
    site: str,
    run_folder: Path,
    epsilon: float,
    ledger: Path | None,
    device: str,
    as_json: bool,
) -> None:
    """Which parameters SITE should keep personal, tried on its own rows: charged as repeat-and-select, every time.

    The default, [model] personal = "auto", is a public rule and costs nothing.
    """
    from securepfl.cli.output import print_json
    from securepfl.runtime.suggesting import suggest as ask

    found = ask(config, data, site, run_folder, epsilon, ledger, device)
    if as_json:
        print_json(found)
    else:
        click.echo(found["sentence"])
