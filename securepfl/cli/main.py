"""The command line. Progress goes to stderr, results to stdout; 0 done, 2 the user can mend it, 1 our defect.

To add a command: write cli/NAME.py with a click command NAME whose module imports nothing slow at its top, and add
NAME to COMMANDS below. What all commands share is in command.py.
"""

import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from typing import Final

import click

from securepfl.cli.command import Group
from securepfl.cli.output import Voice, give_nothing, guarded, notes_in_lines, say
from securepfl.cli.stopping import Stopped, exit_code, on_termination
from securepfl.errors import SecurePFLError

COMMANDS: Final = (
    "agent",
    "audit",
    "bench",
    "data",
    "doctor",
    "evidence",
    "init",
    "join",
    "keys",
    "machines",
    "plan",
    "report",
    "route",
    "run",
    "serve",
    "start",
    "status",
    "suggest",
)


class LazyGroup(Group):
    """COMMANDS as a group: `securepfl.cli.NAME` is imported when the command, or the list of all, is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, as --help lists them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of this name; None where there is none."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = getattr(import_module(f"securepfl.cli.{cmd_name}"), cmd_name)
        return command


def _tell_version(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        say(f"securepfl, version {version('securepfl')}")
        context.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "SECUREPFL"},
    examples=("securepfl run", "securepfl run federation.toml --data rows.csv", "securepfl COMMAND --help"),
    epilog="Most options can be given by the environment: SECUREPFL_RUN_ROUNDS=5 is --rounds 5 of `securepfl run`.",
)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    allow_from_autoenv=False,  # SECUREPFL_VERSION is a likely name for what an image holds
    callback=_tell_version,
    help="Show the version and exit.",
)
def cli() -> None:
    """Personalised federated learning for hospitals: encrypted sums, private training, budgets that hold."""


def main() -> None:
    """Entry point: maps errors to exit codes."""
    on_termination()
    with guarded() as lost:
        code = _code()
        if (failure := lost()) is not None:
            reason = f"cannot be written ({failure.strerror}); all else is done, make room or print elsewhere"
            say(f"securepfl: standard output {reason}", err=True)
            code = code or 2
    sys.exit(code)


def _code() -> int:
    """The exit code of the command that was asked for; what went wrong is printed."""
    voice = Voice()
    try:
        with notes_in_lines():
            return int(cli.main(standalone_mode=False, obj=voice) or 0)
    except SystemExit as stop:
        return int(stop.code or 0)
    except (Exception, Stopped) as error:  # noqa: BLE001 - the last line of defence
        line, code = _told(error, voice)
        say(line, err=True)
        give_nothing(line.removeprefix("securepfl: "), voice)
        return code


def _told(error: BaseException, voice: Voice) -> tuple[str, int]:
    """The line to print and the exit code; what nobody foresaw is a defect of ours, said so below its traceback."""
    match error:
        case click.exceptions.NoArgsIsHelpError():
            line, code = error.format_message(), error.exit_code
        case click.ClickException():
            voice.json = voice.json or "--json" in sys.argv[1:]  # what is no option is found before any is heard
            line, code = f"securepfl: {error.format_message()} (see --help)", error.exit_code
        case click.Abort():
            line, code = "securepfl: interrupted", exit_code(error.__cause__)
        case Stopped():
            line, code = f"securepfl: {error}", error.code
        case SecurePFLError():
            if voice.verbose:
                traceback.print_exception(error)
            line, code = f"securepfl: {error}", 2
        case _:
            traceback.print_exception(error)
            line, code = "securepfl: this is a defect in securepfl, please report the lines above", 1
    return line, code
