"""`securepfl init`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from securepfl.cli.command import Command
from securepfl.cli.options import PATH
from securepfl.cli.output import give, say, shown
from securepfl.errors import ConfigError

if TYPE_CHECKING:
    from securepfl.runtime.scaffold.wanted import Kind

_KINDS: Final = ("table", "images", "segmentation")
_MASKS: Final = "segmentation"
_HOSPITALS: Final = "north, south, east, west"
_OUTCOME: Final = "disease"


@click.command(
    cls=Command,
    examples=(
        "securepfl init heart --kind table --hospital north --hospital south --hospital west --outcome death",
        "securepfl init lungs --kind images --hospital A --hospital B --hospital C --outcome pneumonia --json",
        "securepfl init vessels --kind segmentation --hospital A --hospital B --hospital C",
    ),
)
@click.argument("folder", metavar="DIR", type=PATH)
@click.option("--kind", type=click.Choice(_KINDS), help="What each hospital holds; segmentation: images with masks.")
@click.option(
    "--hospital", "hospitals", multiple=True, metavar="NAME", help="A hospital; give the option once for each."
)
@click.option("--outcome", metavar="COLUMN", help="The column that says yes or no. Not where masks are learned.")
@click.option("--name", help="The federation's name. [default: DIR's]")
def init(folder: Path, kind: str | None, hospitals: Sequence[str], outcome: str | None, name: str | None) -> None:
    """Lay out a new federation in DIR: settings, scripts, a page for the partners, made-up patients to try it on.

    It runs at once: `cd DIR`, then `securepfl run --seed 1`. What no option says is asked at the terminal: three
    questions, or two where masks say what is learned. Nothing is ever overwritten.
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
    following = [f"cd {shlex.quote(str(folder))}", "securepfl run --seed 1"]
    found = {"folder": str(folder), "kind": kind, "hospitals": wanted.hospitals, "next": following}
    give(
        found, lambda: say("\n".join([_written(folder, wanted.hospitals), *(f"  {line}" for line in following), _THEN]))
    )


_THEN: Final = "README.md goes on from there: your own data, and the real thing"


def _written(folder: Path, hospitals: Sequence[str]) -> str:
    return f"wrote {folder}: settings, scripts, README.md, and made-up patients of {len(hospitals)} hospitals; next:"


def _asked(kind: str | None, hospitals: Sequence[str], outcome: str | None) -> tuple[str, Sequence[str], str]:
    """What was given, and by question what was not. Raises ConfigError where there is no terminal to ask at."""
    asked = [("--kind", kind), ("--hospital", hospitals)]
    asked += [] if kind == _MASKS else [("--outcome", outcome)]
    lacking = [option for option, given in asked if not given]
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
    if not outcome and kind != _MASKS:
        question = "Which column says yes or no: what is predicted?"
        outcome = click.prompt(shown(question), default=_OUTCOME, err=True)
    return kind, hospitals, outcome or ""
