"""`securepfl data`."""

from pathlib import Path

import click

from securepfl.cli.command import Group
from securepfl.cli.options import EXISTING
from securepfl.cli.output import give, say


@click.group(cls=Group, examples=("securepfl data ranges rows.csv --site north",))
def data() -> None:
    """Help with declaring data."""


@data.command(examples=("securepfl data ranges rows.csv --site north",))
@click.argument("path", type=EXISTING)
@click.option("--site", required=True, help="The hospital whose columns or images to describe.")
@click.option(
    "--header/--no-header",
    default=None,
    help="Whether the first line holds names and no patient. [default: if it plainly does; else columns are numbered]",
)
def ranges(path: Path, site: str, header: bool | None) -> None:
    """List a hospital's columns, or kinds of images, and print a [data] table to fill in from public knowledge."""
    from securepfl.data.images.describing import describe_images, holds_images
    from securepfl.data.ranges import describe_columns

    describe = describe_images if holds_images(path, site) else describe_columns
    text = describe(path, site, header=header)
    give({"text": text}, lambda: say(text))
