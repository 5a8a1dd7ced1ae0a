"""One hostile hospital of eight for twenty rounds, each another trick: what tests/rounds/test_hostile_hospital.py runs.

    python benchmarks/hostile_hospital.py [--scheme tenseal|lean|none] [--masked]

Prints a table: the trick of each round, what the coordinator named the hospital for, and whether all honest hospitals
then held, bit for bit, what they hold in the run in which only what was at fault is missing.
"""

import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from hostile import BAD
from hostile_run import compared, plan, tables_of


@click.command()
@click.option("--scheme", default="tenseal", show_default=True, type=click.Choice(["tenseal", "lean", "none"]))
@click.option("--masked", is_flag=True, help="mask updates pairwise")
def main(scheme: str, masked: bool) -> None:
    """Run both and print the table."""
    tables = tables_of(scheme, masked)
    with tempfile.TemporaryDirectory() as folder:
        hub, same, budgets = compared(Path(folder), tables)
    click.echo("| round | trick | named for | the others as without it |\n|---|---|---|---|")
    for (number, trick), equal in zip(plan(masked).items(), same, strict=True):
        named = hub.named.get((number, BAD), "not named").partition(": ")[2]
        click.echo(f"| {number} | {trick.name} | {named} | {'bit for bit' if equal else 'NO'} |")
    click.echo(f"\nbudgets spent as without it: {'yes' if budgets else 'NO'}; scheme {scheme}{', masked' * masked}")


if __name__ == "__main__":
    main()
