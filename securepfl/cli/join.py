"""`securepfl join`: a hospital over HTTPS."""

from pathlib import Path

import click

from securepfl.cli.command import Command
from securepfl.cli.options import EXISTING, PATH, device, extra, own_ledgers, passphrase_file, rehearsal_seed
from securepfl.cli.output import give, stderr_or_none, tell
from securepfl.cli.printed_config import print_config_at_once
from securepfl.cli.stopping import serving


@click.command(
    cls=Command,
    examples=("securepfl join federation.toml --data rows.csv --folder north --hub https://hub.example.org:8443",),
)
@click.argument("config", type=EXISTING, is_eager=True)
@click.option("--data", type=PATH, required=True, help="This hospital's rows: a file, or a folder with its file.")
@click.option("--folder", type=PATH, required=True, help="This hospital's own folder; its keys lie in keys/.")
@click.option("--out", type=PATH, help="Folder of this run; the same again goes on. [default: FOLDER/run]")
@click.option("--hub", required=True, metavar="URL", help="The hub: https://HOST:PORT.")
@passphrase_file
@own_ledgers
@rehearsal_seed
@device
@print_config_at_once
def join(
    config: Path,
    data: Path,
    folder: Path,
    out: Path | None,
    hub: str,
    passphrase_file: Path | None,
    ledgers: Path | None,
    seed: int | None,
    device: str,
) -> None:
    """Take part in the federation in CONFIG over HTTPS, until its last round is over.

    Only calls out to the hub, by the proxy in HTTPS_PROXY where there is one. Ctrl-C or SIGTERM stop it; the same
    command goes on.
    """
    from securepfl.cli.asking import ask_passphrase

    with extra("https"):
        from securepfl.runtime.https.hospital import check_url, most_bytes_of, travel
    from securepfl.runtime.visits import HospitalSession
    from securepfl.storage.certificates import load_credentials

    out = out or folder / "run"
    hub = check_url(hub)
    passphrase = ask_passphrase(passphrase_file, folder)
    credentials = load_credentials(folder, passphrase)
    with (
        serving(f"{out} holds all that was done; the same command goes on") as stop,
        HospitalSession.open(
            config, data, folder, passphrase, out, ledgers=ledgers, device=device, seed=seed, console=stderr_or_none()
        ) as session,
    ):
        session.check = stop.check
        if not (session.finished and session.written):  # else the hub may be away for good
            travel(session, hub, credentials, out / "spool", most_bytes=most_bytes_of(session.client))
            session.finish()
    give({"folder": str(out)}, lambda: tell(f"wrote {out}"))
