"""`securepfl report`."""

from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import PATH
from securepfl.cli.output import give, tell


@click.command(cls=Command, examples=("securepfl report run", "securepfl report run --out page.html"))
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=PATH)
@click.option(
    "--out", type=PATH, help="The file to write. [default: report.html in RUN; of several, in the current folder]"
)
def report(runs: tuple[Path, ...], out: Path | None) -> None:
    """Make the page of RUN anew, or one page of several side by side.

    RUN is the folder of a run that has ended (`securepfl run`), of a hospital's own (`securepfl join`), or what
    `securepfl route --out` wrote. The page holds what its folders hold: of a hospital's own run, private figures.
    """
    from securepfl.report.pages.page import PAGE, read_page
    from securepfl.report.pages.writing import write_page

    out = out or (runs[0] / PAGE if len(runs) == 1 else Path(PAGE))
    page = read_page(runs)
    write_page(page, out)
    give(page.to_mapping() | {"out": str(out)}, lambda: None)
    tell(f"wrote {out}")
