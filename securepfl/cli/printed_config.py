"""`--print-config`, of the commands that take a CONFIG: all settings as they take effect."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from securepfl.cli.output import give, say_data

if TYPE_CHECKING:
    from securepfl.settings.federation import Federation

_HELP = "Print all settings as they take effect, as TOML that says where each is from, and do nothing else."

print_config = click.option("--print-config", is_flag=True, help=_HELP)


def print_settings(federation: "Federation", declared: Mapping[str, Any], options: Mapping[str, object]) -> None:
    """Print what takes effect of what was `declared` under the command line's options, those that are given, by the
    keys whose place they took.
    """
    from securepfl.settings.effective import effective_toml

    given = {place: _option(place) for place, value in options.items() if value not in (None, False)}
    text = effective_toml(federation, declared, given)
    give({"toml": text}, lambda: say_data(text))


def _option(place: str) -> str:
    return "--plaintext" if place == "encryption.scheme" else f"--{place.rpartition('.')[2]}"


def _print_and_end(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if not asked or context.resilient_parsing:
        return
    from securepfl.settings.federation import Federation
    from securepfl.settings.reading import read_toml

    config = context.params["config"]
    print_settings(Federation.read(config), read_toml(config), {})
    context.exit()


print_config_at_once = click.option(
    "--print-config", is_flag=True, expose_value=False, callback=_print_and_end, help=_HELP
)
"""Of a command whose other options must be given: before these are missed. Its CONFIG is read first (is_eager)."""
