"""A party's `keys/` folder, and the folder through which a key ceremony's files pass.

`FOLDER/keys/private` holds the party's secrets under its passphrase (crypto/keys/keystore.py). The exchange folder is
nobody's: what is read from it is bounded in size, must be a plain file, and is authenticated by who asks for it.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, Self

from securepfl.crypto.keys.holdings import Holdings
from securepfl.crypto.keys.identity import Identity, PublicIdentity
from securepfl.crypto.keys.keys import Keyring
from securepfl.crypto.keys.keystore import StoreKey, passphrase_bytes
from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, StorageError
from securepfl.storage.folder import lock_folder, storage_error, sync_folder, write_bytes

MAX_PRIVATE_BYTES: Final = 2**24
MAX_PASSPHRASE_BYTES: Final = 4096
_PASSED: Final = ("certificates", "nvflare")  # beside the epochs' folders


@dataclass
class KeyFolder:
    """An opened `keys/` folder: what it holds, and the key that writes it again. Its process is the only user."""

    path: Path
    holdings: Holdings
    _key: StoreKey
    _lock: IO[bytes]

    @classmethod
    @contextmanager
    def create(cls, folder: Path, holdings: Holdings, passphrase: bytes) -> Iterator[Self]:
        """Write new keys under `folder`; they are gone again if the block raises.

        Raises StorageError where keys lie there already, ConfigError for a short passphrase.
        """
        path = private_file(folder)
        if path.exists():
            raise StorageError(f"{path}: already holds keys; name another folder, or delete it if nobody enrolled them")
        key = StoreKey.create(passphrase)
        with lock_folder(path.parent) as lock:
            keys = cls(path, holdings, key, lock)
            keys.save(holdings)
            try:
                yield keys
            except BaseException:
                path.unlink(missing_ok=True)
                raise

    @classmethod
    @contextmanager
    def open(cls, folder: Path, passphrase: bytes) -> Iterator[Self]:
        """Open `folder`'s keys for changes. Raises StorageError: none there, wrong passphrase, in use."""
        path = private_file(folder)
        _require_private(path)
        with lock_folder(path.parent) as lock:
            key, holdings = _read_private(path, passphrase)
            yield cls(path, holdings, key, lock)

    def save(self, holdings: Holdings) -> None:
        """Replace the file in one step, on disk when this returns. Raises StorageError; the old one then stands."""
        write_bytes(self.path, self._key.seal(holdings.to_bytes()))
        self.holdings = holdings


@dataclass(frozen=True)
class CoordinatorKeys:
    """What a coordinator holds in one epoch: its identity, the hospitals' public ones by name, the key's commitment."""

    identity: Identity
    hospitals: dict[str, PublicIdentity]
    key_commitment: bytes


def private_file(folder: Path) -> Path:
    """Where a party's secrets lie under its folder."""
    return folder / "keys" / "private"


def load_holdings(folder: Path, passphrase: bytes) -> Holdings:
    """All that a party's folder holds. Raises StorageError where there is nothing or the passphrase is wrong."""
    return _read_private(private_file(folder), passphrase)[1]


def load_keyring(folder: Path, passphrase: str, *, epoch: int | None = None) -> Keyring:
    """A hospital's keyring, for Client: the newest epoch, or the one before by its number.

    Raises StorageError where `folder` holds no keys, the passphrase is wrong, or the ceremony has not come so far.

    >>> load_keyring(Path("nobody"), "correct horse")
    Traceback (most recent call last):
    securepfl.errors.StorageError: nobody/keys/private: no keys here; name the party's folder, or run ...
    """
    secret = passphrase_bytes(passphrase)
    del passphrase
    with _naming(private_file(folder)):
        return load_holdings(folder, secret).keyring(epoch)


def load_coordinator(folder: Path, passphrase: str, *, epoch: int | None = None) -> CoordinatorKeys:
    """A coordinator's identity and roster, for Coordinator. Raises StorageError as `load_keyring` does.

    >>> load_coordinator(Path("nobody"), "correct horse")
    Traceback (most recent call last):
    securepfl.errors.StorageError: nobody/keys/private: no keys here; name the party's folder, or run ...
    """
    secret = passphrase_bytes(passphrase)
    del passphrase
    with _naming(private_file(folder)):
        holdings = load_holdings(folder, secret)
        if not holdings.is_coordinator:
            raise StorageError("keys of a hospital; name the coordinator's folder")
        held = holdings.epoch(epoch)
        return CoordinatorKeys(holdings.identity, dict(held.hospitals), held.commitment)


def _require_private(path: Path) -> None:
    if not path.exists():
        raise StorageError(f"{path}: no keys here; name the party's folder, or run `securepfl keys create`")


def _read_private(path: Path, passphrase: bytes) -> tuple[StoreKey, Holdings]:
    _require_private(path)
    data = read_bounded(path, MAX_PRIVATE_BYTES)
    with _naming(path):
        key = StoreKey.of(data, passphrase)
        return key, Holdings.from_bytes(key.open(data))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before a StorageError that lacks it."""
    try:
        yield
    except StorageError as error:
        if str(error).startswith(str(path)):
            raise
        raise StorageError(f"{path}: {error}") from None


def read_passphrase(path: Path) -> Secret:
    """The first line of a file that only its owner may read. Raises ConfigError for any other file."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            line = Secret(file.readline(MAX_PASSPHRASE_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name the file with the passphrase") from None
    if stat.S_ISREG(mode) and mode & (0o007 if _is_credential(path) else 0o077):
        raise ConfigError(f"{path}: others may read it (mode {mode & 0o777:o}); run: chmod 600 {path}")
    if len(line) > MAX_PASSPHRASE_BYTES:
        raise ConfigError(f"{path}: first line longer than {MAX_PASSPHRASE_BYTES} bytes; name the right file")
    secret = _decoded(line)
    if secret is None:
        raise ConfigError(f"{path}: first line is not UTF-8 text; name the right file")
    if not secret:
        raise ConfigError(f"{path}: first line is empty; write the passphrase there")
    return secret


def _is_credential(path: Path) -> bool:
    """Whether systemd made this file for this service alone: what stands for the group there may be its user's mask."""
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    return folder is not None and path.parent == Path(folder)


def _decoded(line: bytes) -> Secret | None:
    # No error is raised here: a UnicodeDecodeError would carry the passphrase.
    try:
        return passphrase_bytes(line.rstrip(b"\r\n").decode())
    except UnicodeDecodeError:
        return None


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """The bytes of a plain file of at most `max_bytes`; no link is followed, nothing waits for a pipe.

    Raises StorageError where it is missing, longer, or no plain file.
    """
    _refuse_linked_folder(path)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise StorageError(f"{path}: not a plain file; remove it and copy the file again")
            data = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror}); copy the plain file there again") from None
    if status.st_size > max_bytes or len(data) > max_bytes:
        raise StorageError(f"{path}: {status.st_size} bytes, at most {max_bytes} belong there; copy the file again")
    return data


def publish(path: Path, data: bytes) -> None:
    """Write a file that others read (mode by umask) in one step; its folder is made where missing.

    Raises StorageError where it stands already or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.partial")
    _refuse_linked_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        # O_EXCL: neither a link nor a file that somebody else put there is written through.
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        if path.is_symlink() or path.exists():
            raise StorageError(f"{path}: is there already; remove it if it is an old one")
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise storage_error(path, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def withdraw(path: Path) -> None:
    """Remove a file that others read, where there is one. Raises StorageError; nothing behind a link is removed."""
    _refuse_linked_folder(path)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: cannot be replaced ({error.strerror}); remove it") from None


def _refuse_linked_folder(path: Path) -> None:
    # A folder of the exchange folder that is a link would lead files elsewhere on this party's disk.
    name = path.parent.name
    if (name.startswith("epoch-") or name in _PASSED) and path.parent.is_symlink():
        raise StorageError(f"{path.parent}: is a link; remove it, and copy the folder itself there")
