"""A coordinator killed at every step and at random moments, at length: what tests/coordinator/test_durable.py does with
more kills.

    python benchmarks/kill_coordinator.py [--kills 100]

Half of the kills fall in a run without masks, half in a masked one. Any broken promise ends it with an AssertionError.
"""

import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from mortal_coordinator import table, trial


@click.command()
@click.option("--kills", default=100, show_default=True)
def main(kills: int) -> None:
    """Run both and print where the kills fell."""
    for masked in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            click.echo(table(trial(Path(folder), masked, kills // 2)))


if __name__ == "__main__":
    main()
