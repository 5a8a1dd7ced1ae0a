"""`securepfl plan`."""

from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING
from securepfl.cli.output import give
from securepfl.cli.printed_config import print_config, print_settings
from securepfl.learning.declared.forecast import ASSUMED_AUROC


@click.command(
    cls=Command,
    examples=(
        "securepfl plan federation.toml",
        "securepfl plan federation.toml --epsilon 4 --auroc 0.9",
    ),
)
@click.argument("config", type=EXISTING)
@click.option("--epsilon", type=float, help="In place of the file's.")
@click.option(
    "--auroc",
    type=float,
    default=ASSUMED_AUROC,
    show_default=True,
    help="What the model would reach without privacy, from the literature: the forecast starts from it.",
)
@print_config
def plan(config: Path, epsilon: float | None, auroc: float, print_config: bool) -> None:
    """What a run of CONFIG will do, what its epsilon can be expected to buy, and what it spends.

    From what CONFIG declares: no row is read, and nothing is spent.
    """
    import msgspec

    from securepfl.cli.consoles import tables
    from securepfl.errors import ConfigError
    from securepfl.report.plan import print_plan
    from securepfl.settings.federation import Federation
    from securepfl.settings.plan import plan_of
    from securepfl.settings.reading import read_toml

    federation = Federation.read(config)
    if epsilon is not None:
        federation = federation.changed("privacy", epsilon=epsilon)
    try:
        if print_config:
            print_settings(federation, read_toml(config), {"privacy.epsilon": epsilon})
            return
        found = plan_of(federation, auroc)
    except ConfigError as error:
        raise ConfigError(f"{config}: {error}") from None
    give(msgspec.to_builtins(found), lambda: print_plan(tables(), found))
