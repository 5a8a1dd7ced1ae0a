"""A hospital killed at random moments, at length: what tests/rounds/test_kill.py does, with more kills.

    python benchmarks/kill.py [--kills 200]

Half of the kills fall in runs without masks, half in masked ones. Any broken promise ends it with an AssertionError.
"""

import sys
import tempfile
from pathlib import Path

import click

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "rounds"))

from test_kill import trial


@click.command()
@click.option("--kills", default=200, show_default=True)
def main(kills: int) -> None:
    """Run both and print where the kills fell, what was sent again, what was spent."""
    for masked in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            click.echo(trial(Path(folder), masked, kills // 2))


if __name__ == "__main__":
    main()
