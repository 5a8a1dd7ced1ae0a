"""Reading the folder through which a key ceremony's files pass: all in it is somebody's claim until it is checked."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from securepfl.crypto.keys.card import MAX_CARD_BYTES, IdentityCard
from securepfl.crypto.keys.holdings import Holdings
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.keys.roster import Roster
from securepfl.errors import ConfigError, MessageError, StorageError
from securepfl.storage.keys import publish, read_bounded

MAX_PARTIES: Final = 1000
_MAX_NAME_BYTES: Final = 100
_EPOCH_FOLDER: Final = re.compile(r"epoch-(0|[1-9][0-9]{0,8})")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what is wrong with it."""
    try:
        yield
    except MessageError as error:
        raise MessageError(f"{path}: {error}") from None


@contextmanager
def reachable(exchange: Path) -> Iterator[None]:
    """Raise ConfigError where the folder is missing, StorageError where the system refuses to look into it."""
    if not exchange.is_dir():
        raise ConfigError(f"{exchange}: no such folder; name the exchange folder that all parties use")
    try:
        yield
    except OSError as error:
        raise StorageError(f"{exchange}: cannot be used ({error.strerror}); make it readable and writable") from None


def check_name(name: str) -> None:
    """Raise ConfigError for a party's name that cannot be part of a file name, or that a terminal garbles.

    Stricter than settings.roster.check_roster, which stands above storage.
    """
    wrong = name == "shared" or not name or name != name.strip() or name.startswith((".", "-")) or "--" in name
    if wrong or set(name) & set('/\\:"') or not name.isprintable() or len(name.encode()) > _MAX_NAME_BYTES:
        raise ConfigError(
            f'name {name!r}: becomes a file name: at most {_MAX_NAME_BYTES} bytes, printable, without / \\ : " or '
            "--, not 'shared', and no . or - first; choose another"
        )


def card_file(exchange: Path, name: str) -> Path:
    return exchange / f"{name}.identity"


def read_card(exchange: Path, name: str) -> IdentityCard:
    path = card_file(exchange, name)
    check_name(name)
    data = read_bounded(path, MAX_CARD_BYTES)
    with naming(path):
        card = IdentityCard.from_text(data)
        if card.public.name != name:
            raise MessageError(f"holds the identity of {card.public.name!r}; name the file after it, or remove it")
    return card


def card_names(exchange: Path) -> list[str]:
    names = sorted(path.name.removesuffix(".identity") for path in exchange.glob("*.identity"))
    names = [name for name in names if not name.startswith(".")]
    if len(names) > MAX_PARTIES:
        raise ConfigError(f"{exchange}: more than {MAX_PARTIES} identities; remove those that are not of your parties")
    return names


def check_given(exchange: Path, given: Mapping[str, str]) -> None:
    """Every fingerprint that was given must be its file's. Raises MessageError naming the file that differs."""
    for name, fingerprint in given.items():
        if name not in card_names(exchange):
            known = ", ".join(card_names(exchange)) or "none"
            raise ConfigError(f"--fingerprint {name}: no such party in {exchange}; there are: {known}")
        found = read_card(exchange, name).public.fingerprint
        if found != fingerprint:
            raise MessageError(
                f"{card_file(exchange, name)}: has fingerprint {found}, not the one given; do not use it, and ask "
                f"{name} for its file and fingerprint again"
            )


def check_own(exchange: Path, holdings: Holdings) -> None:
    """This party's file in the exchange must be its own; written again where it is gone."""
    path = card_file(exchange, holdings.identity.name)
    card = IdentityCard.make(holdings.identity, coordinator=holdings.is_coordinator)
    if not path.exists() and not path.is_symlink():
        publish(path, card.to_text().encode())
        return
    found = read_card(exchange, holdings.identity.name)
    if (found.public, found.coordinator) != (card.public, card.coordinator):
        raise MessageError(
            f"{path}: is not this folder's identity; somebody put another there, or name your own folder"
        )


def read_people(exchange: Path, roster: Roster) -> dict[str, PublicIdentity]:
    """The roster's parties as their files in the exchange say. Raises MessageError naming a file that differs."""
    people = {}
    for name in sorted(roster.fingerprints):
        card = read_card(exchange, name)
        with naming(card_file(exchange, name)):
            roster.check(card.public)
            if card.coordinator != (name == roster.coordinator):
                raise MessageError(f"says {card.role}, the steward's roster says otherwise; refused")
        people[name] = card.public
    return people


def newest_epoch(exchange: Path, name: str) -> int:
    """The highest epoch whose folder holds the file `name`; -1 without one."""
    folders = [path for path in exchange.glob("epoch-*") if _EPOCH_FOLDER.fullmatch(path.name)]
    return max((int(path.name[6:]) for path in folders if (path / name).exists()), default=-1)


def epoch_folder(exchange: Path, number: int) -> Path:
    return exchange / f"epoch-{number}"
