"""`securepfl run`."""

import re
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from securepfl.cli.options import EXISTING, PATH, check_pair, device
from securepfl.cli.output import say, say_json
from securepfl.cli.stopping import stoppable


@click.command()
@click.argument("config", type=EXISTING, required=False)
@click.option("--data", type=PATH, help="One CSV or Parquet file with a site column, or a folder with one file a site.")
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds, in place of the configuration's.")
@click.option("--epsilon", type=float, help="Epsilon of the whole run, in place of the configuration's.")
@click.option("--plaintext", is_flag=True, help="No encryption: same sums, and the coordinator can read updates.")
@click.option("--out", type=PATH, help="Folder of the run. [default: runs/NAME-TIME]")
@click.option(
    "--ledgers",
    type=PATH,
    help="Where the hospitals' ledgers lie. [default: $SECUREPFL_LEDGERS, else ~/.local/state/securepfl/ledgers]",
)
@click.option("--seed", type=click.IntRange(min=0), help="Repeatable noise: for simulation only, protects nobody.")
@device
@click.option("--json", "as_json", is_flag=True, help="Print result.json on stdout in place of the tables.")
def run(
    config: Path | None,
    data: Path | None,
    rounds: int | None,
    epsilon: float | None,
    plaintext: bool,
    out: Path | None,
    ledgers: Path | None,
    seed: int | None,
    device: str,
    as_json: bool,
) -> None:
    """Train a federation, all parties in this process (a simulation).

    Without CONFIG: nine simulated hospitals with simulated patients, and settings made for them.
    """
    from securepfl.cli.consoles import progress, tables
    from securepfl.report.console import closing_output, live_display
    from securepfl.runtime.execution import execute
    from securepfl.runtime.planning import configured, plan_demo, plan_tables

    check_pair(config, data)
    federation = configured(config, rounds=rounds, epsilon=epsilon, plaintext=plaintext)
    if data is None:
        plan = plan_demo(federation, seed, ledgers)
    else:
        plan = plan_tables(federation, data, seed, ledgers, config)
    out = out or Path("runs") / f"{_plain(federation.name)}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    with stoppable("the run's folder is gone, what it spent stays in the ledgers"):
        result = execute(plan, out, seed=seed, device=device, display=partial(live_display, progress()))
    if as_json:
        say_json(result)
    else:
        closing_output(tables(), result)
    say(f"wrote {out}", err=True)


def _plain(name: str) -> str:
    """A name that a shell takes as it stands."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "run"
