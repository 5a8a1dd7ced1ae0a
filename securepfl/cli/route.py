"""`securepfl route`."""

from pathlib import Path

import click

from securepfl.cli.options import EXISTING, PATH
from securepfl.cli.output import say, say_data


@click.command()
@click.argument("run_folder", metavar="RUN", type=EXISTING)
@click.option(
    "--data", type=PATH, required=True, help="CSV or Parquet with the unseen hospital's rows; no label needed."
)
@click.option("--out", type=PATH, help="CSV file of predictions. [default: stdout]")
@click.option("--passes", type=click.IntRange(min=0), default=10, show_default=True, help="Passes over the rows.")
def route(run_folder: Path, data: Path, out: Path | None, passes: int) -> None:
    """Fit RUN's released experts to an unseen hospital's unlabelled rows, and predict them."""
    from securepfl.outside.unseen import predictions_csv, route_rows, write_predictions

    routed = route_rows(run_folder / "experts", data, passes)
    if out is None:
        say_data(predictions_csv(routed))
    else:
        write_predictions(routed, out)
    for line in routed.summary():
        say(line, err=True)
    if out is not None:
        say(f"wrote {out}", err=True)
