"""Options and arguments that several commands take."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click

from securepfl.errors import ConfigError

EXISTING: Final = click.Path(exists=True, path_type=Path)
PATH: Final = click.Path(path_type=Path)


class ByHand(click.Option):
    """An option that takes protection away or spends of a budget: from the command line alone. A variable that somebody
    exported long ago decides neither; left unheeded, one would believe that it holds, so it is refused.
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """See click. Raises UsageError where a variable names the option."""
        if super().resolve_envvar_value(ctx) is None:
            return None
        variable = f"{ctx.auto_envvar_prefix}_{(self.name or '').upper()}"
        raise click.UsageError(
            f"{variable}: {max(self.opts, key=len)} takes protection away, or spends of a budget, so the environment "
            "can't give it; unset the variable, and write the option where it is meant",
            ctx,
        )


party_folder = click.option("--folder", type=PATH, required=True, help="This party's own folder; secrets lie in keys/.")
exchange_folder = click.option(
    "--exchange", type=PATH, required=True, help="The folder that all parties read and write."
)
passphrase_file = click.option(
    "--passphrase-file", type=PATH, help="Its first line is the passphrase. [default: asked for]"
)
own_ledgers = click.option(
    "--ledgers",
    type=PATH,
    help="Where this hospital's ledgers lie. [default: $SECUREPFL_LEDGERS, else ~/.local/state/securepfl/ledgers]",
)
rehearsal_seed = click.option(
    "--seed",
    cls=ByHand,
    type=click.IntRange(min=0),
    help="Repeatable noise: for rehearsals and comparisons only, protects nobody.",
)
deadline = click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    default=3600.0,
    show_default=True,
    help="Seconds that a step of a round waits for hospitals.",
)
device = click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)


CONFIG_HERE: Final = Path("federation.toml")
DATA_HERE: Final = "data"
"""What `securepfl init` lays out, and `securepfl run` takes where nothing else is named."""


def found_here(config: Path | None, data: Path | None) -> tuple[Path | None, Path | None]:
    """CONFIG and --data, in place of which the file and the folder of `securepfl init` may stand; both None: the demo.
    Raises UsageError for one of them alone.
    """
    if config is None and data is None and CONFIG_HERE.is_file():
        config = CONFIG_HERE
    if config is not None and data is None:
        beside = config.parent / DATA_HERE
        if not beside.exists():
            raise click.UsageError(f"CONFIG and --data go together, and {beside} is no folder: name the data by --data")
        data = beside
    check_pair(config, data)
    return config, data


def check_pair(config: Path | None, data: Path | None) -> None:
    """Raises UsageError for a CONFIG without --data, or the reverse."""
    if (config is None) != (data is None):
        raise click.UsageError("CONFIG and --data go together: the configuration declares what the data hold")


@contextmanager
def extra(name: str) -> Iterator[None]:
    """For imports that need packages of securepfl[`name`]. Raises ConfigError where they are not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("securepfl"):
            raise
        raise ConfigError(f"{error.name} is not installed; run: pip install 'securepfl[{name}]'") from None
