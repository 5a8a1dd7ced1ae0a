"""A party's certificates and their private keys: `FOLDER/keys/certificates`, under its passphrase as `private` is."""

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Self

import msgspec

from securepfl.crypto.keys.certificates import COORDINATOR, HOSPITAL, WARNED, Holder, check_leaf, ends
from securepfl.crypto.keys.holdings import Holdings
from securepfl.crypto.keys.keystore import StoreKey, passphrase_bytes
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import MessageError, StorageError
from securepfl.storage.folder import write_bytes
from securepfl.storage.keys import load_holdings, read_bounded

MAX_CERTIFICATES_BYTES: Final = 2**24
_SCHEMA: Final = 1
_RUN: Final = "run `securepfl keys certificate`"


class Approved(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a hub approved last for a hospital's identity: the request's number, its key's digest, the certificate."""

    number: int
    digest: bytes
    certificate: bytes


class Certificates(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a party's file holds, in MessagePack. Keys are PKCS #8, certificates DER; empty where there is none yet.

    `issuer` is the fingerprint of the hub whose root it is. `hosts` are a hub's. `pending_key` is the one that a
    request under way is for, `number` the request's. `approved` is a hub's, by fingerprint. Names and types may change
    only with another `schema`.
    """

    schema: int = _SCHEMA
    issuer: str = ""
    root: bytes = b""
    root_key: bytes = b""
    key: bytes = b""
    certificate: bytes = b""
    hosts: list[str] = []
    pending_key: bytes = b""
    number: int = 0
    approved: dict[str, Approved] = {}

    def __repr__(self) -> str:
        return "Certificates(...)"


def certificates_file(folder: Path) -> Path:
    """Where they lie under a party's folder."""
    return folder / "keys" / "certificates"


@dataclass
class CertificateFile:
    """An opened file of certificates: what it holds, and the key that writes it again."""

    path: Path
    held: Certificates
    _key: StoreKey = field(repr=False)
    _seen: tuple[int, int] = (0, 0)

    @classmethod
    def open(cls, folder: Path, passphrase: bytes) -> Self:
        """Of a party's folder; empty where there is none yet. Raises StorageError: damaged, other passphrase."""
        path = certificates_file(folder)
        if not path.exists():
            return cls(path, Certificates(), StoreKey.create(passphrase))
        data = read_bounded(path, MAX_CERTIFICATES_BYTES)
        try:
            key = StoreKey.of(data, passphrase)
            return cls(path, _read(key.open(data)), key, _stamp(path))
        except StorageError as error:
            raise StorageError(f"{path}: {error}") from None

    def save(self, held: Certificates) -> None:
        """Replace the file in one step. Raises StorageError; the old one then stands."""
        write_bytes(self.path, self._key.seal(msgspec.msgpack.encode(held, enc_hook=bytes)))
        self.held, self._seen = held, _stamp(self.path)

    def reread(self) -> bool:
        """Whether the file was replaced since, by a renewal: `held` is what it holds now. Raises StorageError."""
        if (stamp := _stamp(self.path)) == self._seen:
            return False
        try:
            self.held = _read(self._key.open(read_bounded(self.path, MAX_CERTIFICATES_BYTES)))
        except StorageError as error:
            raise StorageError(f"{self.path}: {error}") from None
        self._seen = stamp
        return True


@dataclass(frozen=True, repr=False)
class Credentials:
    """What a party shows in TLS, and whom it believes: its certificate and key, and the hub's root (DER, PKCS #8).

    `file` is where they were read; None for those that were made in this process.
    """

    holder: Holder
    root: bytes
    certificate: bytes
    key: Secret
    file: CertificateFile | None = None

    def __repr__(self) -> str:
        return f"Credentials({self.holder.name!r})"

    @property
    def place(self) -> str:
        """Where they lie, for messages to people."""
        return "the credentials" if self.file is None else f"{self.file.path}"

    def expiry(self, now: datetime) -> list[str]:
        """See `expiry`."""
        return expiry(Certificates(root=self.root, certificate=self.certificate), now)

    def renewed(self) -> "Credentials | None":
        """Those that replaced them on disk since; None where nothing did. Raises StorageError."""
        if self.file is None or not self.file.reread():
            return None
        return _credentials(self.file, self.holder)


def load_credentials(folder: Path, passphrase: str | bytes) -> Credentials:
    """A party's credentials for `runtime.https`. Raises StorageError where it has none yet, or of an earlier hub.

    >>> load_credentials(Path("nobody"), "correct horse")
    Traceback (most recent call last):
    securepfl.errors.StorageError: nobody/keys/private: no keys here; name the party's folder, or run ...
    """
    secret = passphrase if isinstance(passphrase, bytes) else passphrase_bytes(passphrase)
    del passphrase
    holdings = load_holdings(folder, secret)
    file = CertificateFile.open(folder, secret)
    credentials = _credentials(file, holder_of(holdings))
    if file.held.issuer != holdings.epoch().coordinator.fingerprint:
        raise StorageError(f"{file.path}: of another hub than the newest epoch names; {_RUN} again")
    return credentials


def holder_of(holdings: Holdings) -> Holder:
    """A party as its certificates name it."""
    role = COORDINATOR if holdings.is_coordinator else HOSPITAL
    return Holder(role, holdings.identity.name, holdings.identity.public.fingerprint)


def expiry(held: Certificates, now: datetime) -> list[str]:
    """A line on a certificate that ends, or ended; none while there is time, or where there is none."""
    if not held.certificate:
        return []
    lines = []
    for what, der in (("certificate", held.certificate), ("the hub's root", held.root)):
        end = ends(der)
        if end - now <= WARNED:
            when = "ended" if end <= now else "ends"
            lines.append(f"note: {what} {when} on {end:%Y-%m-%d}: run `securepfl keys certificate` again")
    return lines


def _credentials(file: CertificateFile, holder: Holder) -> Credentials:
    held = file.held
    if not held.certificate:
        waiting = " again, once the hub has approved its request" if held.pending_key else ""
        raise StorageError(f"{file.path}: no certificate of {holder.name} yet; {_RUN}{waiting}")
    try:
        check_leaf(held.certificate, held.root, Secret(held.key), holder)
    except MessageError as error:
        raise StorageError(f"{file.path}: {error}") from None
    return Credentials(holder, held.root, held.certificate, Secret(held.key), file)


def _read(data: bytes) -> Certificates:
    try:
        held = msgspec.msgpack.decode(data, type=Certificates)
    except (msgspec.MsgspecError, RecursionError):
        raise StorageError("malformed certificates; restore the file from a copy") from None
    if held.schema != _SCHEMA:
        raise StorageError(f"schema {held.schema}, but {_SCHEMA} is read here; install the newer securepfl")
    return held


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return (0, 0)
    return status.st_ino, status.st_mtime_ns
