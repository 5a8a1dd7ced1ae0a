"""The command line. Progress goes to stderr, results to stdout; 0 done, 2 the user can mend it, 1 our defect.

To add a command: write cli/NAME.py with a click command NAME whose module imports nothing slow at its top, and add
NAME to COMMANDS below.
"""

import sys
import traceback
from importlib import import_module
from importlib.metadata import version
from typing import Final

import click

from securepfl.errors import SecurePFLError

COMMANDS: Final = ("audit", "bench", "data", "keys", "route", "run", "suggest")


class LazyGroup(click.Group):
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


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("securepfl"), prog_name="securepfl")
def cli() -> None:
    """Personalised federated learning for hospitals: encrypted sums, private training, budgets that hold."""


def main() -> None:
    """Entry point: maps errors to exit codes."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("securepfl: interrupted; the run's folder is gone, what it spent stays in the ledgers", err=True)
        sys.exit(130)
    except click.ClickException as error:
        click.echo(f"securepfl: {error.format_message()} (see --help)", err=True)
        sys.exit(error.exit_code)
    except SecurePFLError as error:
        click.echo(f"securepfl: {error}", err=True)
        sys.exit(2)
    except Exception:  # noqa: BLE001 - the last line of defence: a defect of ours, said so
        traceback.print_exc()
        click.echo("securepfl: this is a defect in securepfl, please report the lines above", err=True)
        sys.exit(1)
