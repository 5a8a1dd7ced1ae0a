"""`securepfl run`."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, ByHand, device, found_here
from securepfl.cli.output import give, say, tell, voice_of
from securepfl.cli.printed_config import print_config, print_settings
from securepfl.cli.stopping import Stopped, check_stopped, stoppable
from securepfl.errors import SecurePFLError

_RUNS: Final = Path("runs")


@click.command(
    cls=Command,
    examples=(
        "securepfl run",
        "securepfl run federation.toml --data rows.csv --seed 1",
        "securepfl run federation.toml --data rows.csv --track tensorboard:curves",
        "securepfl run --resume runs/federation-20261129-120000",
    ),
)
@click.argument("config", type=EXISTING, required=False)
@click.option(
    "--data",
    type=PATH,
    help="One CSV or Parquet file with a site column, a folder with one file a site, or one with a folder of images a "
    "site.",
)
@click.option("--rounds", type=click.IntRange(min=1), help="Rounds, in place of the configuration's.")
@click.option("--epsilon", cls=ByHand, type=float, help="Epsilon of the whole run, in place of the configuration's.")
@click.option(
    "--plaintext",
    cls=ByHand,
    is_flag=True,
    help="No encryption: same sums, and the coordinator can read updates.",
)
@click.option("--out", type=PATH, help="Folder of the run. [default: runs/NAME-TIME]")
@click.option(
    "--ledgers",
    type=PATH,
    help="Where the hospitals' ledgers lie. [default: $SECUREPFL_LEDGERS, else ~/.local/state/securepfl/ledgers]",
)
@click.option(
    "--seed",
    cls=ByHand,
    type=click.IntRange(min=0),
    help="Repeatable noise: for simulation only, protects nobody.",
)
@device
@click.option(
    "--resume",
    type=PATH,
    is_flag=False,
    flag_value=str(_RUNS),
    metavar="[DIR]",
    help="Go on with the run in DIR, which was stopped, as it began. [default: the one in runs that waits]",
)
@print_config
@click.option(
    "--track",
    multiple=True,
    metavar="NAME[:PLACE]",
    help="Send curves to a tracker: tensorboard:FOLDER, mlflow:URI, or a plug-in's; what is private stays out. May be "
    "given again.",
)
@click.option(
    "--track-private",
    cls=ByHand,
    is_flag=True,
    help="Send the hospitals' test metrics too: exact functions of patients, not covered by epsilon.",
)
@click.pass_context
def run(
    context: click.Context,
    /,
    out: Path | None,
    resume: Path | None,
    print_config: bool,
    track: tuple[str, ...],
    track_private: bool,
    **options: Any,
) -> None:
    """Train a federation, all parties in this process (a simulation).

    Without CONFIG: ./federation.toml on ./data, as `securepfl init` lays them out; where there is no such file, nine
    simulated hospitals with simulated patients. --data is by default the folder `data` beside CONFIG. A run that was
    stopped, killed or failed keeps its folder, and `securepfl run --resume DIR` goes on there.
    """
    from securepfl.cli.consoles import progress, tables
    from securepfl.report.console import closing_output
    from securepfl.report.progress import live_display, silent
    from securepfl.runtime.execution import execute
    from securepfl.runtime.planning import declared_in
    from securepfl.runtime.resuming import Wanted
    from securepfl.runtime.tracking import private_values, tracked, tracking
    from securepfl.storage.unfinished import read_asked, the_one_waiting

    if track_private and not track:
        raise click.UsageError("--track-private sends metrics to trackers, and none is named: add --track NAME:PLACE")
    if resume is None:
        options["config"], options["data"] = found_here(options["config"], options["data"])
        wanted = Wanted(**options)
    else:
        _check_alone(context)
        resume = the_one_waiting(resume) if resume == _RUNS else resume
        wanted = Wanted.of(read_asked(resume))
    if print_config:
        given = {"rounds": wanted.rounds, "privacy.epsilon": wanted.epsilon, "encryption.scheme": wanted.plaintext}
        print_settings(wanted.federation(), declared_in(wanted.config), given)
        return
    plan, voice = wanted.plan(), voice_of()
    out = resume or out or _RUNS / f"{_plain(plan.federation.name)}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    display = silent if voice.quiet else partial(live_display, progress(), verbose=voice.verbose)
    with _telling_how_to_go_on(out, resume is not None), tracking(track, out.name, tell) as trackers:
        result = execute(
            plan,
            out,
            seed=wanted.seed,
            device=wanted.device,
            display=tracked(display, trackers),
            asked=wanted.asked_for(plan),
            resume=resume is not None,
            check=check_stopped,
        )
        if track_private:
            for tracker in trackers:
                tracker.log(private_values(result), result["federation"]["rounds"])
    give(result, lambda: closing_output(tables(), result))
    tell(f"wrote {out}")


def _check_alone(context: click.Context) -> None:
    """Raises UsageError where --resume comes with what would be another run."""
    for name in context.params.keys() - {"resume", "print_config", "track", "track_private"}:
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            named = "CONFIG" if name == "config" else f"--{name}"
            mend = ", and name its folder: --resume DIR" if name == "out" else ""
            raise click.UsageError(f"--resume goes on with a run as it began: leave out {named}{mend}")


@contextmanager
def _telling_how_to_go_on(out: Path, resume: bool) -> Iterator[None]:
    """Whatever ends the run in `out` before its end, the last line names the command that goes on with it."""
    from securepfl.storage.unfinished import command_for, is_unfinished

    another = is_unfinished(out) and not resume
    try:
        with stoppable(""):
            yield
    except Stopped as stop:
        remains = (
            f"go on with `{command_for(out)}`" if is_unfinished(out) else "nothing was spent, and no folder is left"
        )
        raise Stopped(f"interrupted; {remains}", stop.code) from None
    except SecurePFLError as error:
        if not is_unfinished(out) or another or command_for(out) in str(error):
            raise
        raise type(error)(f"{error}; then go on with `{command_for(out)}`") from None
    except Exception:
        if is_unfinished(out):
            say(f"securepfl: once the error below is mended, go on with `{command_for(out)}`", err=True)
        raise


def _plain(name: str) -> str:
    """A name that a shell takes as it stands."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name).strip("-.") or "run"
