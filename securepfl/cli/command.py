"""What all commands have in common: how much they say, whether for people or for machines, and what their help shows.

A command is made by `@click.command(cls=Command, examples=(...))`, a group by `@click.group(cls=Group, ...)`.
Both get -v, -q and --json; a command gives what it found by `give` (output.py).
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Final

import click
from click.core import ParameterSource

from securepfl.cli.output import folded, give_nothing, tell, voice_of

_INDENT: Final = "  "
_ROOMY: Final = 64
"""Columns from which on options and what they do stand side by side."""
_SHORT: Final = 10
"""Columns of names that leave room beside them on any screen."""
_WHOLE: Final = 1000
"""Letters of a command's line in a list: it is wrapped, and not cut off."""


def _heard(name: str) -> Any:
    def hear(context: click.Context, _: click.Parameter, value: bool) -> None:
        voice = voice_of(context)
        setattr(voice, name, value)
        voice.command = context.command_path.removeprefix(context.find_root().command_path).strip()

    return hear


def voice_options() -> list[click.Parameter]:
    """-v, -q and --json: read first, so that what is wrong with the rest is told as they ask."""
    return [
        click.Option(["-v", "--verbose"], is_flag=True, is_eager=True, expose_value=False, callback=_heard("verbose"),
                     help="Say more on stderr: a line each round, and where an error arose."),
        click.Option(["-q", "--quiet"], is_flag=True, is_eager=True, expose_value=False, callback=_heard("quiet"),
                     help="Say nothing on stderr but errors."),
        click.Option(["--json"], is_flag=True, is_eager=True, expose_value=False, callback=_heard("json"),
                     help="Print one JSON object on stdout, and nothing else there."),
    ]  # fmt: skip


class Help(click.HelpFormatter):
    """Breaks no word, and puts what an option does below it where the screen is narrow."""

    def write_dl(self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2) -> None:
        """See click."""
        rows = tuple(rows)
        widest = max((len(term) for term, _ in rows), default=0)
        beside = self.width >= _ROOMY or widest <= _SHORT
        indent = " " * (self.current_indent + (min(widest, col_max) + col_spacing if beside else 4))
        for term, text in rows:
            lines = folded(f"{indent}{' '.join(text.split())}", self.width, indent).split("\n") if text else [""]
            first = f"{'':>{self.current_indent}}{term}"
            if len(first) + col_spacing <= len(indent):
                first, lines = first.ljust(len(indent)) + lines[0].strip(), lines[1:]
            self.write("\n".join([first.rstrip(), *filter(None, lines)]) + "\n")


class _Context(click.Context):
    formatter_class = Help


class _WithExamples(click.Command):
    """Prints `examples` below its options, broken so that a shell takes them as they stand."""

    context_class = _Context

    def __init__(self, *args: Any, examples: Sequence[str] = (), **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.examples = tuple(examples)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The examples, then the epilog."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(broken(example, formatter.width))
        super().format_epilog(ctx, formatter)


class Command(_WithExamples):
    """A command with -v, -q and --json. With --json it prints one object, also where it found nothing to tell."""

    def __init__(self, *args: Any, **attrs: Any) -> None:
        super().__init__(*args, **attrs)
        self.params.extend(voice_options())

    def invoke(self, ctx: click.Context) -> Any:
        """See click. Raises UsageError for -v with -q."""
        voice = voice_of(ctx)
        if voice.verbose and voice.quiet:
            raise click.UsageError("-v and -q contradict each other: leave one out", ctx)
        if given := _variables(ctx):
            tell(f"note: as the environment says: {', '.join(given)}")
        value = super().invoke(ctx)
        give_nothing()
        return value


def _variables(context: click.Context) -> list[str]:
    """The variables that gave an option: what somebody exported long ago would else decide unseen."""
    return [
        f"{context.auto_envvar_prefix}_{name.upper()}"
        for name in context.params
        if context.get_parameter_source(name) is ParameterSource.ENVIRONMENT
    ]


class Group(_WithExamples, click.Group):
    """A group whose commands are `Command`s."""

    command_class = Command
    group_class = type

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Each with the whole of its first sentence."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl([(name, its.get_short_help_str(_WHOLE)) for name, its in found if its is not None])


def broken(example: str, width: int) -> str:
    r"""A command in lines of at most `width` columns where words allow, with the backslashes that a shell needs. An
    option and its value stay together.

    >>> print(broken("securepfl run federation.toml --data rows.csv", 34), end="")
      securepfl run federation.toml \
          --data rows.csv
    """
    lines, line = [], ""
    for part in re.findall(r"--\S+ [^-\s]\S*|\S+", example):
        longer = f"{line} {part}" if line else f"{_INDENT}{part}"
        if line and len(longer) > width - 2:
            lines.append(f"{line} \\")
            longer = f"{3 * _INDENT}{part}"
        line = longer
    return "\n".join([*lines, line]) + "\n"
