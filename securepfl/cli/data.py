"""`securepfl data`."""

from pathlib import Path

import click

from securepfl.cli.options import EXISTING
from securepfl.cli.output import say


@click.group()
def data() -> None:
    """Help with declaring data."""


@data.command()
@click.argument("path", type=EXISTING)
@click.option("--site", required=True, help="The hospital whose columns to list.")
@click.option("--no-header", is_flag=True, help="The file has no header line; columns are numbered.")
def ranges(path: Path, site: str, no_header: bool) -> None:
    """List a hospital's columns and print a [data] table to fill in from public knowledge."""
    from securepfl.data.ranges import describe_columns

    say(describe_columns(path, site, header=not no_header))
