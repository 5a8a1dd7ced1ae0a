"""`securepfl bench`."""

import click

from securepfl.cli.command import Command
from securepfl.cli.output import give


@click.command(
    cls=Command,
    examples=(
        "securepfl bench --size 1000 --hospitals 3",
        "securepfl bench --density 0.25 --json",
    ),
)
@click.option("--size", type=click.IntRange(min=1), default=100_000, show_default=True, help="Values in an update.")
@click.option("--hospitals", type=click.IntRange(min=2), default=16, show_default=True)
@click.option("--bits", type=click.IntRange(4, 16), default=8, show_default=True, help="Bits of a quantised value.")
@click.option("--density", type=float, default=1.0, show_default=True, help="Share of the values that is sent.")
def bench(size: int, hospitals: int, bits: int, density: float) -> None:
    """Measure encrypted sums and similarity beside CKKS, additive pads and plaintext, in one run."""
    from securepfl.bench.case import Case
    from securepfl.bench.measure import print_tables, run_case
    from securepfl.cli.consoles import tables

    result = run_case(size, hospitals, bits, density)
    give(result, lambda: print_tables(tables(150), Case(size, hospitals, bits, density), result))
