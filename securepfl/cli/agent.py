"""`securepfl agent`."""

import os
from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, device, own_ledgers, passphrase_file, rehearsal_seed
from securepfl.cli.output import stderr_or_none
from securepfl.cli.stopping import serving


@click.command(
    cls=Command,
    examples=("securepfl agent federation.toml --data rows.csv --folder north --socket north/agent.sock",),
)
@click.argument("config", type=EXISTING)
@click.option("--data", type=PATH, required=True, help="This hospital's table, or the folder in which it lies.")
@click.option("--folder", type=PATH, required=True, help="This hospital's own folder; its keys lie in keys/.")
@click.option("--socket", "path", type=PATH, required=True, help="The Unix socket to answer at.")
@click.option("--out", type=PATH, help="Folder of this run. [default: FOLDER/run]")
@passphrase_file
@click.option("--group", help="A group whose members may open the socket. [default: this user alone]")
@click.option(
    "--user",
    "users",
    multiple=True,
    metavar="NAME",
    help="A user, by name or number, whose processes may ask; may be given again. [default: this user alone]",
)
@own_ledgers
@rehearsal_seed
@device
def agent(
    config: Path,
    data: Path,
    folder: Path,
    path: Path,
    out: Path | None,
    passphrase_file: Path | None,
    group: str | None,
    users: tuple[str, ...],
    ledgers: Path | None,
    seed: int | None,
    device: str,
) -> None:
    """A hospital's own process: it trains and decrypts for whoever may ask at its socket.

    It holds the keys, the rows and the ledger; what carries messages (NVFlare's client, say) runs as another user and
    holds none of them. Runs until it is stopped; the same command goes on.
    """
    from securepfl.cli.asking import ask_passphrase
    from securepfl.runtime.agent.serving import listening, serve, user_numbers
    from securepfl.runtime.visits import HospitalSession

    allowed = user_numbers(users) or frozenset((os.getuid(),))
    out = out or folder / "run"
    with (
        serving("the same command goes on") as stop,
        HospitalSession.open(
            config,
            data,
            folder,
            ask_passphrase(passphrase_file, folder),
            out,
            ledgers=ledgers,
            device=device,
            seed=seed,
            console=stderr_or_none(),
        ) as session,
        listening(path, group) as listener,
    ):
        session.check = stop.check
        serve(session, listener, allowed)
