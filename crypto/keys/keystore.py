"""A party's secrets at rest: one file under a passphrase.

scrypt (RFC 7914, n = 2^17, r = 8, p = 1: 128 MiB, most of a second) makes an AES-256 key of the passphrase;
AES-256-GCM encrypts, with the whole header as associated data. The header (36 bytes) is magic, version, log2 n, r,
p, salt, nonce; parameters out of bounds are refused before scrypt runs. This file knows bytes only: who writes them
is storage/keys.py; what is in it, holdings.py. What may never change: the header, and that all of it is authenticated.
"""

import secrets
import struct
import unicodedata
from dataclasses import dataclass
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from securepfl.crypto.keys.secret import Secret
from securepfl.errors import ConfigError, StorageError

LOG_N: Final = 17
"""scrypt's cost for new files: n = 2^17."""

MIN_PASSPHRASE: Final = 12
"""Characters of a new passphrase."""

_MAGIC: Final = b"SPKS"
_VERSION: Final = 1
_HEADER: Final = struct.Struct(">4sBBBB16s12s")
# At most 2^20, which is 1 GiB of memory.
_LOG_N_BOUNDS: Final = range(14, 21)
_R: Final = 8
_P: Final = 1


def passphrase_bytes(text: str) -> Secret:
    """A passphrase in UTF-8 after NFC (RFC 8265), so that each keyboard gives the same bytes.

    Raises ConfigError for what is no valid text.

    >>> passphrase_bytes("correct horse battery")
    Secret(21 bytes)
    """
    encoded = _encoded(text)
    del text
    if encoded is None:
        raise ConfigError("the passphrase is not valid text; type it on a terminal that is set to UTF-8")
    return encoded


def _encoded(text: str) -> Secret | None:
    # No error leaves here: a UnicodeEncodeError would carry the passphrase.
    try:
        return Secret(unicodedata.normalize("NFC", text).encode())
    except UnicodeEncodeError:
        return None


def check_new_passphrase(passphrase: bytes) -> None:
    """Raise ConfigError for a passphrase that is too short for a new file."""
    if len(passphrase.decode()) < MIN_PASSPHRASE:
        raise ConfigError(f"the passphrase needs at least {MIN_PASSPHRASE} characters: try five words drawn at random")


@dataclass(frozen=True, repr=False)
class StoreKey:
    """The key of one file, derived once: each writing takes a fresh nonce, and only a new file a new salt.

    >>> store = StoreKey(log_n=14, salt=bytes(16), key=Secret(bytes(32)))  # in real use: StoreKey.create(passphrase)
    >>> store.open(store.seal(b"holdings"))
    Secret(8 bytes)
    """

    log_n: int
    salt: bytes
    key: Secret

    @classmethod
    def create(cls, passphrase: bytes) -> Self:
        """For a new file. Raises ConfigError for a short passphrase."""
        check_new_passphrase(passphrase)
        salt = secrets.token_bytes(16)
        return cls(LOG_N, salt, stretch(passphrase, salt, LOG_N))

    @classmethod
    def of(cls, data: bytes, passphrase: bytes) -> Self:
        """For a file as it stands. Raises StorageError for a header out of bounds, before scrypt runs."""
        log_n, salt, _ = _read_header(data)
        return cls(log_n, salt, stretch(passphrase, salt, log_n))

    def seal(self, plaintext: bytes) -> bytes:
        """The whole file."""
        nonce = secrets.token_bytes(12)
        header = _HEADER.pack(_MAGIC, _VERSION, self.log_n, _R, _P, self.salt, nonce)
        return header + AESGCM(self.key).encrypt(nonce, plaintext, header)

    def open(self, data: bytes) -> Secret:
        """What `seal` was given. Raises StorageError where passphrase or file are not the ones."""
        _, _, nonce = _read_header(data)
        try:
            return Secret(AESGCM(self.key).decrypt(nonce, data[_HEADER.size :], data[: _HEADER.size]))
        except InvalidTag:
            raise StorageError("wrong passphrase, or the file was altered; try again, or restore it") from None


def _read_header(data: bytes) -> tuple[int, bytes, bytes]:
    """(log2 n, salt, nonce)."""
    if len(data) < _HEADER.size + 16 or not data.startswith(_MAGIC):
        raise StorageError("not a file of private keys, or a truncated one; restore it from a copy")
    _, version, log_n, r, p, salt, nonce = _HEADER.unpack_from(data)
    if version != _VERSION:
        raise StorageError(f"version {version}, but {_VERSION} is read here; install the securepfl that wrote it")
    if log_n not in _LOG_N_BOUNDS or (r, p) != (_R, _P):
        raise StorageError(f"scrypt parameters n = 2^{log_n}, r = {r}, p = {p} are out of bounds; restore the file")
    return log_n, salt, nonce


def stretch(passphrase: bytes, salt: bytes, log_n: int) -> Secret:
    """The key that scrypt makes of a passphrase, 32 bytes."""
    return Secret(Scrypt(salt=salt, length=32, n=2**log_n, r=_R, p=_P).derive(passphrase))
