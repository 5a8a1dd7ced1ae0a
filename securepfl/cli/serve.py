"""`securepfl serve`: the hub over HTTPS."""

from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, deadline, extra, passphrase_file
from securepfl.cli.output import give, stderr_or_none, tell


@click.command(
    cls=Command, examples=("securepfl serve federation.toml --folder hub --passphrase-file passphrase --monitor 9100",)
)
@click.argument("config", type=EXISTING)
@click.option("--folder", type=PATH, required=True, help="The hub's own folder; its keys lie in keys/.")
@click.option("--out", type=PATH, help="Folder of this run; the same again goes on. [default: FOLDER/run]")
@click.option("--host", default="0.0.0.0", show_default=True, help="The address to listen on.")  # noqa: S104
@click.option("--port", type=click.IntRange(0, 65535), default=8443, show_default=True, help="0: a free one.")
@click.option(
    "--monitor", type=click.IntRange(0, 65535), help="Port on 127.0.0.1 for /healthz and /metrics. [default: none]"
)
@passphrase_file
@deadline
@click.option(
    "--away",
    type=click.FloatRange(min=0),
    default=600.0,
    show_default=True,
    help="Seconds that it waits, at most, for one that gives no sign of life any more.",
)
def serve(
    config: Path,
    folder: Path,
    out: Path | None,
    host: str,
    port: int,
    monitor: int | None,
    passphrase_file: Path | None,
    deadline: float,
    away: float,
) -> None:
    """Serve the federation in CONFIG to its hospitals over HTTPS, until its last round is over.

    Ctrl-C or SIGTERM stop it in order; the same command goes on.
    """
    from securepfl.cli.asking import ask_passphrase
    from securepfl.protocol.loop import Patience

    with extra("https"):
        from securepfl.runtime.https.serving import serve_session
    from securepfl.runtime.hub import HubSession
    from securepfl.storage.certificates import load_credentials

    out = out or folder / "run"
    passphrase = ask_passphrase(passphrase_file, folder)
    credentials = load_credentials(folder, passphrase)
    patience = Patience(deadline, away)
    with HubSession.open(config, folder, passphrase, out, patience=patience, console=stderr_or_none()) as session:
        over = serve_session(session, credentials, host=host, port=port, monitor=monitor)
        closed, rounds = session.hub.closed, session.hub.rounds
    end = "all rounds are over ({} of {})" if over else "stopped after {} of {} rounds; the same command goes on"
    give({"over": over, "closed": closed, "rounds": rounds}, lambda: tell(end.format(closed, rounds)))
