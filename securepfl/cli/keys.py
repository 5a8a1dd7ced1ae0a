"""`securepfl keys`: bodies are in identity.py (create, show), enrol.py (enrol, rotate) and certificate.py, questions in
asking.py.
"""

from pathlib import Path

import click

from securepfl.cli.command import Group
from securepfl.cli.options import EXISTING, exchange_folder, party_folder, passphrase_file
from securepfl.cli.output import give_lines

_FINGERPRINTS = click.option(
    "--fingerprint",
    "fingerprints",
    multiple=True,
    metavar="NAME=XXXX-...",
    help="A fingerprint as its owner read it by phone. [default: asked for]",
)


@click.group(cls=Group, examples=("securepfl keys show --folder north",))
def keys() -> None:
    """The key ceremony: make an identity, enrol in a federation, renew its keys."""


@keys.command(
    examples=(
        "securepfl keys create north --folder north --exchange exchange",
        "securepfl keys create hub --coordinator --folder hub --exchange exchange",
    )
)
@click.argument("name")
@party_folder
@exchange_folder
@click.option("--coordinator", is_flag=True, help="This is the coordinator, not a hospital.")
@passphrase_file
def create(name: str, folder: Path, exchange: Path, coordinator: bool, passphrase_file: Path | None) -> None:
    """Make the identity of the party NAME: private keys in FOLDER, public ones in EXCHANGE."""
    from securepfl.cli import identity

    give_lines(identity.create(name, folder, exchange, coordinator=coordinator, passphrase_file=passphrase_file))


@keys.command(examples=("securepfl keys enrol federation.toml --steward north --folder north --exchange exchange",))
@click.argument("config", type=EXISTING)
@party_folder
@exchange_folder
@click.option("--steward", required=True, metavar="NAME", help="The hospital that makes the federation's key.")
@_FINGERPRINTS
@passphrase_file
def enrol(
    config: Path,
    folder: Path,
    exchange: Path,
    steward: str,
    fingerprints: tuple[str, ...],
    passphrase_file: Path | None,
) -> None:
    """Take the next step of the ceremony; every party runs this until it says "complete"."""
    from securepfl.cli import enrol as ceremony

    lines = ceremony.enrol(
        config, folder, exchange, steward=steward, fingerprints=fingerprints, passphrase_file=passphrase_file
    )
    give_lines(lines)


@keys.command(examples=("securepfl keys show --folder north",))
@party_folder
@passphrase_file
def show(folder: Path, passphrase_file: Path | None) -> None:
    """List what FOLDER holds: fingerprints, epoch, roster. Never a secret."""
    from securepfl.cli import identity

    give_lines(identity.show(folder, passphrase_file=passphrase_file))


@keys.command(examples=("securepfl keys rotate federation.toml --remove south --folder north --exchange exchange",))
@click.argument("config", type=EXISTING)
@party_folder
@exchange_folder
@click.option("--remove", multiple=True, metavar="NAME", help="A hospital that gets no key of the new epoch.")
@_FINGERPRINTS
@passphrase_file
def rotate(
    config: Path,
    folder: Path,
    exchange: Path,
    remove: tuple[str, ...],
    fingerprints: tuple[str, ...],
    passphrase_file: Path | None,
) -> None:
    """The steward begins a new epoch with wholly new keys; then all others enrol again."""
    from securepfl.cli import enrol as ceremony

    lines = ceremony.rotate(
        config, folder, exchange, remove=remove, fingerprints=fingerprints, passphrase_file=passphrase_file
    )
    give_lines(lines)


@keys.command(
    examples=(
        "securepfl keys certificate --folder hub --exchange exchange --host hub.example.org",
        "securepfl keys certificate --folder north --exchange exchange",
    )
)
@party_folder
@exchange_folder
@click.option("--host", "hosts", multiple=True, metavar="NAME", help="At the hub: a name or address of it.")
@click.option("--renew", is_flag=True, help="A new certificate, though the one held is good for long.")
@passphrase_file
def certificate(
    folder: Path, exchange: Path, hosts: tuple[str, ...], renew: bool, passphrase_file: Path | None
) -> None:
    """Ask for a TLS certificate and install it; at the hub, approve those of its hospitals."""
    from securepfl.cli import certificate as certificates

    give_lines(certificates.certificate(folder, exchange, hosts=hosts, renew=renew, passphrase_file=passphrase_file))
