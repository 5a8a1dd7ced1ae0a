"""A party's own keys on the command line: `securepfl keys create` and `show`, and what the ceremony asks people.

Each command gives the lines to print. The ceremony itself is in enrolment.py.
"""

import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from securepfl.crypto.keys.ceremony import IdentityCard
from securepfl.crypto.keys.identity import Identity, fingerprint_bytes
from securepfl.crypto.keys.keystore import Epoch, Holdings, passphrase_bytes
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, MessageError
from securepfl.storage.ceremony_folder import card_file, check_name
from securepfl.storage.keys import KeyFolder, load_holdings, private_file, publish, read_passphrase


def create(name: str, folder: Path, exchange: Path, *, coordinator: bool, passphrase_file: Path | None) -> list[str]:
    """Make an identity: FOLDER/keys/private under a passphrase, EXCHANGE/NAME.identity for everybody.

    Raises StorageError where either is there already, ConfigError for a name or passphrase that will not do.
    """
    check_name(name)
    path = card_file(exchange, name)
    for taken in (path, private_file(folder)):
        if taken.exists() or taken.is_symlink():
            raise ConfigError(f"{taken}: is there already; choose another name or folder, or remove it if it is unused")
    identity = Identity.generate(name)
    card = IdentityCard.make(identity, coordinator=coordinator)
    passphrase = ask_passphrase(passphrase_file, folder, new=True)
    with KeyFolder.create(folder, Holdings(identity, coordinator), passphrase):
        publish(path, card.to_text().encode())
    return [
        f"{name} ({card.role}): {identity.public.fingerprint}",
        "read it to the others by phone",
        f"wrote {private_file(folder)} (keep it, and a copy), {path} (for everybody)",
    ]


def show(folder: Path, *, passphrase_file: Path | None) -> list[str]:
    """What a folder holds, never a secret. Raises StorageError where it holds no keys or does not open."""
    holdings = load_holdings(folder, ask_passphrase(passphrase_file, folder))
    role = "coordinator" if holdings.is_coordinator else "hospital"
    lines = [f"{holdings.identity.name} ({role}): {holdings.identity.public.fingerprint}"]
    if not holdings.is_coordinator:
        lines.append(f"signs its ledger with: {holdings.identity.public.ed25519.hex()}")
    epoch = holdings.latest
    if epoch is None:
        return [*lines, "not enrolled yet"]
    lines.append(f"epoch {epoch.number}: steward {epoch.steward}, key commitment {short(epoch.commitment)}")
    width = max(map(len, epoch.people))
    for name, public in sorted(epoch.people.items()):
        held = "coordinator"
        if name != epoch.coordinator.name:
            held = "" if holdings.is_coordinator else f"{_held(holdings, epoch, name)}"
        lines.append(f"  {name:<{width}}  {public.fingerprint}  {held}".rstrip())
    earlier = [str(old.number) for old in holdings.epochs[:-1]]
    return [*lines, f"kept to finish its last round: epoch {', '.join(earlier)}"] if earlier else lines


def _held(holdings: Holdings, epoch: Epoch, name: str) -> str:
    what = "self secret" if name == holdings.identity.name else "pair secret"
    return f"{what} {'held' if name in epoch.pair_secrets else 'missing'}"


def short(commitment: bytes) -> str:
    text = commitment.hex()[:16]
    return " ".join(text[start : start + 4] for start in range(0, 16, 4))


def ask_passphrase(file: Path | None, folder: Path, *, new: bool = False) -> Secret:
    """The passphrase from `file`, or from a terminal (twice where it is `new`). Raises ConfigError without either."""
    if file is not None:
        return read_passphrase(file)
    if not _at_terminal():
        raise ConfigError("no terminal to ask for the passphrase; give --passphrase-file PATH")
    with _unless_interrupted():
        text = f"Passphrase of {private_file(folder)}"
        return passphrase_bytes(click.prompt(text, hide_input=True, confirmation_prompt=new, err=True))


def parse_fingerprints(options: Iterable[str]) -> dict[str, str]:
    """`NAME=XXXX-...` options as fingerprints by name. Raises ConfigError naming the option that is none."""
    given: dict[str, str] = {}
    for option in options:
        name, _, heard = option.rpartition("=")
        letters = re.sub(r"[\s-]", "", heard).upper()
        text = "-".join(letters[start : start + 4] for start in range(0, len(letters), 4))
        try:
            fingerprint_bytes(text)
        except ValueError:
            wanted = "NAME=XXXX-..., with 8 groups of 4 letters and digits (2 to 7)"
            raise ConfigError(f"--fingerprint {option!r}: give {wanted}") from None
        if given.setdefault(name, text) != text:
            raise ConfigError(f"--fingerprint {name}: given twice, and different; give the one read by phone")
    return given


def confirm(
    exchange: Path, cards: Iterable[IdentityCard], given: Mapping[str, str], replaced: Container[str] = ()
) -> None:
    """Have each card's fingerprint confirmed, by option or by a person. Raises ConfigError naming those that are not.

    `replaced` are the names under which another identity is held so far. The error leaves the fingerprint out:
    whoever pastes it from there has compared nothing.
    """
    cards = list(cards)
    for card in cards:
        # What was read before may have been another file.
        if given.get(card.public.name, card.public.fingerprint) != card.public.fingerprint:
            path = card_file(exchange, card.public.name)
            raise MessageError(f"{path}: is not the identity whose fingerprint was given; do not use it, and ask again")
    left = [card for card in cards if card.public.name not in given]
    if left and not _at_terminal():
        names = ", ".join(card.public.name for card in left)
        option = f"--fingerprint {left[0].public.name}=XXXX-..."
        raise ConfigError(f"fingerprint not confirmed of: {names}; ask each by phone and give {option}")
    for card in left:
        name = card.public.name
        role = f"{card.role}, in place of its identity so far" if name in replaced else card.role
        click.echo(f"{name} ({role}): {card.public.fingerprint}", err=True)
        with _unless_interrupted():
            agreed = click.confirm(f"Did {name} read this very fingerprint to you by phone?", err=True)
        if not agreed:
            path = card_file(exchange, name)
            raise ConfigError(f"{path}: not confirmed, nothing was written; compare again, or remove the file")


def _at_terminal() -> bool:
    return sys.stdin.isatty()


@contextmanager
def _unless_interrupted() -> Iterator[None]:
    try:
        yield
    except click.Abort:
        raise ConfigError("interrupted; nothing was written") from None
