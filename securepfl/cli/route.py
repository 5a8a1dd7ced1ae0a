"""`securepfl route`."""

import csv
from functools import partial
from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH
from securepfl.cli.output import give, say_data, tell
from securepfl.errors import ConfigError


@click.command(
    cls=Command,
    examples=(
        "securepfl route run --data unseen.csv --id patient",
        "securepfl route run --data unseen.csv --id patient --out answer",
    ),
)
@click.argument("run_folder", metavar="RUN", type=EXISTING)
@click.option(
    "--data",
    type=PATH,
    required=True,
    help="The unseen hospital's rows (CSV or Parquet) or folder of images; no label or mask needed.",
)
@click.option(
    "--out",
    type=PATH,
    help="A new folder: predictions or masks, certainty, gates, pictures, card; of a table, NAME.csv for predictions "
    "alone. [default: stdout, of a table]",
)
@click.option("--prior", type=float, help="Share of label 1, or of the field that the structure covers; in (0, 1).")
@click.option("--recipe", help="How experts are chosen and mixed: a JSON file, or layers. [default: the task's own]")
@click.option("--id", "id_column", metavar="COLUMN", help="The column of a table that holds the rows' own names.")
@click.option(
    "--identities",
    type=EXISTING,
    help="A folder of hospitals' identity files: experts that others signed are refused. [default: any that signs]",
)
def route(
    run_folder: Path,
    data: Path,
    out: Path | None,
    prior: float | None,
    recipe: str | None,
    id_column: str | None,
    identities: Path | None,
) -> None:
    """Choose among RUN's released experts by an unseen hospital's unlabelled rows or images, and predict them."""
    from securepfl.outside.predictions import predictions_csv
    from securepfl.outside.unseen import Asked, route_unseen, summary, trusted_identities
    from securepfl.outside.writing import check_out, write_answer, write_table
    from securepfl.report.pages.writing import write_own_page

    alone = check_out(out, data)
    trusted = None if identities is None else trusted_identities(identities)
    answered = route_unseen(Asked(run_folder, data, prior, recipe, id_column, trusted))
    if out is None and answered.images:
        raise ConfigError("--out: answers to images are files; name a new folder")
    if alone and out is not None:
        write_table(answered, out)
    elif out is not None:
        write_answer(answered, out, partial(write_own_page, name=out.name))
    told = {"summary": summary(answered)}
    if out is None:
        text = predictions_csv(answered)
        give(told | {"predictions": list(csv.DictReader(text.splitlines()))}, lambda: say_data(text))
    else:
        give(told | {"out": str(out)}, lambda: None)
    for line in told["summary"]:
        tell(line)
    if out is not None:
        tell(f"wrote {out}")
