"""What commands ask people: a passphrase, whether a fingerprint is the one read by phone, whether a step is meant."""

import re
import sys
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import click

from securepfl.cli.output import say, shown
from securepfl.crypto.keys.card import IdentityCard
from securepfl.crypto.keys.identity import fingerprint_bytes
from securepfl.crypto.keys.keystore import passphrase_bytes
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, MessageError
from securepfl.storage.ceremony_folder import card_file
from securepfl.storage.keys import private_file, read_passphrase


def ask_passphrase(file: Path | None, folder: Path, *, new: bool = False) -> Secret:
    """The passphrase from `file`, or from a terminal (twice where it is `new`). Raises ConfigError without either."""
    if file is not None:
        return read_passphrase(file)
    if not _at_terminal():
        raise ConfigError("no terminal to ask for the passphrase; give --passphrase-file PATH")
    with _unless_interrupted():
        text = shown(f"Passphrase of {private_file(folder)}")
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
        say(f"{name} ({role}): {card.public.fingerprint}", err=True)
        with _unless_interrupted():
            agreed = click.confirm(shown(f"Did {name} read this very fingerprint to you by phone?"), err=True)
        if not agreed:
            path = card_file(exchange, name)
            raise ConfigError(f"{path}: not confirmed, nothing was written; compare again, or remove the file")


def confirm_for_good(question: str) -> None:
    """Have it confirmed by a person. Raises ConfigError without a terminal to ask at, and without a yes."""
    if not _at_terminal():
        raise ConfigError("no terminal to ask whether it is meant; give --yes")
    with _unless_interrupted():
        agreed = click.confirm(shown(question), err=True)
    if not agreed:
        raise ConfigError("not confirmed; nothing was written")


def _at_terminal() -> bool:
    return sys.stdin.isatty()


@contextmanager
def _unless_interrupted() -> Iterator[None]:
    try:
        yield
    except click.Abort:
        raise ConfigError("interrupted; nothing was written") from None
