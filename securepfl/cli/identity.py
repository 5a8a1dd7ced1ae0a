"""`securepfl keys create` and `keys show`: a party's own keys. Each gives the lines to print."""

from datetime import UTC, datetime
from pathlib import Path

from securepfl.cli.asking import ask_passphrase
from securepfl.crypto.keys.card import IdentityCard
from securepfl.crypto.keys.certificates import ends
from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.crypto.keys.identity import Identity
from securepfl.errors import ConfigError
from securepfl.storage.ceremony_folder import card_file, check_name
from securepfl.storage.certificates import CertificateFile, certificates_file, expiry
from securepfl.storage.keys import KeyFolder, load_holdings, private_file, publish


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
    passphrase = ask_passphrase(passphrase_file, folder)
    holdings = load_holdings(folder, passphrase)
    return [*_keys(holdings), *_certificate(folder, passphrase)]


def _certificate(folder: Path, passphrase: bytes) -> list[str]:
    if not certificates_file(folder).exists():
        return []
    held = CertificateFile.open(folder, passphrase).held
    if not held.certificate:
        return ["certificate for TLS: asked for, not approved yet"]
    return [f"certificate for TLS: valid until {ends(held.certificate):%Y-%m-%d}", *expiry(held, datetime.now(UTC))]


def _keys(holdings: Holdings) -> list[str]:
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
    """The first 8 bytes, in groups that people can compare."""
    text = commitment.hex()[:16]
    return " ".join(text[start : start + 4] for start in range(0, 16, 4))
