"""`securepfl machines`: other engines that carry a federation's messages. Their bodies are in runtime/."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from securepfl.cli.command import Group
from securepfl.cli.options import EXISTING, PATH, deadline, exchange_folder, party_folder, passphrase_file
from securepfl.cli.output import give_lines, stderr_or_none
from securepfl.cli.stopping import stoppable

if TYPE_CHECKING:
    from securepfl.crypto.keys.holdings import Holdings


@click.group(cls=Group, examples=("securepfl machines nvflare --help",))
def machines() -> None:
    """Run a federation over another engine."""


@machines.group(examples=("securepfl machines nvflare init --folder hub --exchange exchange --host hub.example.org",))
def nvflare() -> None:
    """NVIDIA FLARE carries the messages. Hub: init, approve, start, run. Hospital: request, install, start."""


@nvflare.command(examples=("securepfl machines nvflare init --folder hub --exchange exchange --host hub.example.org",))
@party_folder
@exchange_folder
@click.option("--host", required=True, help="The hub's name, as hospitals reach it.")
@click.option("--port", type=click.IntRange(1, 65535), default=8443, show_default=True, help="The one open port.")
@click.option("--scheme", type=click.Choice(["grpc", "tcp"]), default="grpc", show_default=True)
@passphrase_file
def init(folder: Path, exchange: Path, host: str, port: int, scheme: str, passphrase_file: Path | None) -> None:
    """Hub: make the root certificate, the server's kit and the account that may submit jobs."""
    from securepfl.runtime.nvflare import ceremony
    from securepfl.storage.ceremony_folder import reachable

    with reachable(exchange):
        give_lines(ceremony.init(_holdings(folder, passphrase_file), folder, exchange, host, port, scheme))


@nvflare.command(examples=("securepfl machines nvflare request --folder north --exchange exchange",))
@party_folder
@exchange_folder
@passphrase_file
def request(folder: Path, exchange: Path, passphrase_file: Path | None) -> None:
    """Hospital: make a key that stays here, and ask the hub for a certificate."""
    from securepfl.runtime.nvflare import ceremony
    from securepfl.storage.ceremony_folder import reachable

    with reachable(exchange):
        give_lines(ceremony.request(_holdings(folder, passphrase_file), folder, exchange))


@nvflare.command(examples=("securepfl machines nvflare approve --folder hub --exchange exchange",))
@party_folder
@exchange_folder
@passphrase_file
def approve(folder: Path, exchange: Path, passphrase_file: Path | None) -> None:
    """Hub: answer the hospitals' requests; run again until it says "complete"."""
    from securepfl.runtime.nvflare import ceremony
    from securepfl.storage.ceremony_folder import reachable

    with reachable(exchange):
        give_lines(ceremony.approve(_holdings(folder, passphrase_file), folder, exchange))


@nvflare.command(
    examples=("securepfl machines nvflare install --folder north --exchange exchange --socket north/agent.sock",)
)
@party_folder
@exchange_folder
@click.option("--socket", type=PATH, required=True, help="Where this hospital's `securepfl agent` listens.")
@passphrase_file
def install(folder: Path, exchange: Path, socket: Path, passphrase_file: Path | None) -> None:
    """Hospital: install the approved kit, with all that could run other code switched off."""
    from securepfl.runtime.nvflare import ceremony
    from securepfl.storage.ceremony_folder import reachable

    with reachable(exchange):
        give_lines(ceremony.install(_holdings(folder, passphrase_file), folder, exchange, socket))


@nvflare.command(examples=("securepfl machines nvflare start --folder north",))
@party_folder
def start(folder: Path) -> None:
    """Run the hub's server or the hospital's site in the foreground, for systemd. It needs no passphrase."""
    from securepfl.runtime.nvflare.kit import Kit
    from securepfl.runtime.nvflare.tool import require_nvflare

    require_nvflare()
    Kit(folder).become()


@nvflare.command(examples=("securepfl machines nvflare run federation.toml --folder hub --passphrase-file passphrase",))
@click.argument("config", type=EXISTING)
@party_folder
@click.option("--out", type=PATH, help="The folder of this run; the same again goes on. [default: FOLDER/run]")
@click.option("--passphrase-file", type=PATH, required=True, help="Its first line is the passphrase.")
@deadline
@click.option(
    "--poll",
    type=click.FloatRange(0.1, 5.0),
    default=0.2,
    show_default=True,
    help="Seconds after which an idle site asks again.",
)
def run(config: Path, folder: Path, out: Path | None, passphrase_file: Path, deadline: float, poll: float) -> None:
    """Hub: have the server carry the run, through restarts, until it is over."""
    from securepfl.protocol.loop import Patience
    from securepfl.runtime.nvflare.running import supervise

    with stoppable("the job is ended; the same command goes on"):
        supervise(
            config,
            folder,
            out or folder / "run",
            passphrase_file,
            patience=Patience(deadline),
            poll=poll,
            console=stderr_or_none(),
        )


def _holdings(folder: Path, passphrase_file: Path | None) -> "Holdings":
    from securepfl.cli.asking import ask_passphrase
    from securepfl.storage.keys import load_holdings

    return load_holdings(folder, ask_passphrase(passphrase_file, folder))
