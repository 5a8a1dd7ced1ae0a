"""`securepfl init`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from securepfl.cli.options import PATH
from securepfl.cli.output import say, shown
from securepfl.errors import ConfigError

if TYPE_CHECKING:
    from securepfl.runtime.scaffold.wanted import Kind

_KINDS: Final = ("table", "images")
_HOSPITALS: Final = "north, south, east, west"
_OUTCOME: Final = "disease"


@click.command()
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--kind", type=click.Choice(_KINDS), help="What each hospital holds.")
@click.option(
    "--hospital", "hospitals", multiple=True, metavar="NAME", help="A hospital; give the option once for each."
)
@click.option("--outcome", metavar="COLUMN", help="The column that says yes or no: what is predicted.")
@click.option("--name", help="The federation's name. [default: DIR's]")
def init(folder: Path, kind: str | None, hospitals: Sequence[str], outcome: str | None, name: str | None) -> None:
    """Lay out a new federation in DIR: settings, scripts, a page for the partners, made-up patients to try it on.

    It runs at once: `cd DIR && securepfl run --seed 1`. What is not given is asked for, at a terminal.

    \b
    securepfl init cardiology
    securepfl init cardiology --kind table --hospital north --hospital south --hospital west --outcome death
    """
    if folder.exists() or folder.is_symlink():  # before anybody is asked
        raise ConfigError(f"{folder}: is there already, and nothing of it was touched; name a folder that isn't")
    kind, hospitals, outcome = _asked(kind, hospitals, outcome)

    from securepfl.runtime.scaffold.wanted import Wanted
    from securepfl.runtime.scaffold.writing import write_scaffold
    from securepfl.spelling import composed

    named = composed(name if name is not None else folder.absolute().name)
    wanted = Wanted(named, cast("Kind", kind), tuple(map(composed, hospitals)), composed(outcome))
    write_scaffold(wanted, folder)
    say(f"wrote {folder}: federation.toml, README.md, scripts, and made-up patients of {len(hospitals)} hospitals")
    say(f"next:\n  cd {shlex.quote(str(folder))}\n  securepfl run --seed 1")
    say("README.md goes on from there: your own data, and the real thing")


def _asked(kind: str | None, hospitals: Sequence[str], outcome: str | None) -> tuple[str, Sequence[str], str]:
    """What was given, and by question what was not. Raises ConfigError where there is no terminal to ask at."""
    lacking = [
        option for option, given in (("--kind", kind), ("--hospital", hospitals), ("--outcome", outcome)) if not given
    ]
    if lacking and not sys.stdin.isatty():
        raise ConfigError(
            f"no terminal to ask at: give {' and '.join(lacking)}, as in --kind table --hospital north "
            "--hospital south --hospital west --outcome disease"
        )
    from securepfl.runtime.scaffold.wanted import names_in

    if not kind:
        question = "What does each hospital hold?"
        kind = click.prompt(shown(question), type=click.Choice(_KINDS), default=_KINDS[0], err=True)
    if not hospitals:
        question = "Which hospitals, separated by commas? At least three"
        hospitals = click.prompt(shown(question), default=_HOSPITALS, value_proc=names_in, err=True)
    if not outcome:
        question = "Which column says yes or no: what is predicted?"
        outcome = click.prompt(shown(question), default=_OUTCOME, err=True)
    return kind, hospitals, outcome
