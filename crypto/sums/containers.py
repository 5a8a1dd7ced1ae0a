"""How SEAL writes what it saves: containers taken apart, and built anew around words that were checked.

Everything passes through memory files, never disk. SEAL's own container (compressed, self-describing) never leaves this
machine, and SEAL loads only what was built here: what travels is seeds and packed words of known length.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
import zstandard

from securepfl.crypto.sums.words import Words

# SEAL 4 begins with a 16-byte header: magic, size, version, compression, reserved, length; then comes the body.
_HEADER: Final = struct.Struct("<HBBBBHQ")
HEADER_BYTES: Final = _HEADER.size
_MAGIC: Final = 0xA15E
_UNCOMPRESSED, _ZSTD = 0, 2

CIPHERTEXT_FIELDS: Final = 73
"""Bytes before a ciphertext's words: parms_id, NTT flag, then size, degree, primes, scale and correction."""

PLAINTEXT_FIELDS: Final = 48
"""Bytes before a plaintext's (and so a secret key's) words: parms_id, coefficient count, scale."""

ARRAY_FIELDS: Final = _HEADER.size + 8
"""Bytes of an array before its words: a header of its own and their number."""

SEED_BYTES: Final = 64
"""Of the seed from which SEAL expands the second polynomial of a fresh ciphertext."""

_BLAKE2XB: Final = 1
_SIZE: Final = struct.Struct("<Q")
_SIZE_OFFSET: Final = 33
"""Of the number of polynomials in a ciphertext's fields."""


@contextmanager
def _memory_file() -> Iterator[tuple[int, str]]:
    descriptor = os.memfd_create("securepfl", os.MFD_CLOEXEC)
    try:
        yield descriptor, f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)


def save(thing: Any) -> tuple[tuple[int, int], bytes]:
    """SEAL's (major, minor) version and the uncompressed body of what it saves.

    Raises RuntimeError for a SEAL that compresses in another way.
    """
    with _memory_file() as (descriptor, path):
        thing.save(path)
        data = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
    _, _, major, minor, compression, _, _ = _HEADER.unpack_from(data)
    body = data[_HEADER.size :]
    if compression == _ZSTD:
        body = zstandard.ZstdDecompressor().decompressobj().decompress(body)
    elif compression != _UNCOMPRESSED:
        raise RuntimeError(f"SEAL saved with compression {compression}; built differently from the TenSEAL wheels")
    return (major, minor), body


def load(context: Any, target: Any, container: bytes) -> Any:
    """Fill a SEAL object from a container that was built here."""
    with _memory_file() as (descriptor, path):
        os.write(descriptor, container)
        target.load(context, path)
    return target


def framed(version: tuple[int, int], body: bytes) -> bytes:
    """A container: SEAL's header for an uncompressed body, and the body."""
    return _HEADER.pack(_MAGIC, _HEADER.size, *version, _UNCOMPRESSED, 0, _HEADER.size + len(body)) + body


def array(version: tuple[int, int], words: Words) -> bytes:
    """Words as SEAL's array of 64-bit numbers."""
    return framed(version, _SIZE.pack(words.size) + words.astype("<u8", copy=False).tobytes())


def seed_info(version: tuple[int, int], seed: bytes) -> bytes:
    """What stands in the second polynomial's place: the generator's kind, always BLAKE2xb, and its seed."""
    return framed(version, bytes((_BLAKE2XB,)) + seed)


def read_seed(body: bytes) -> bytes:
    """The seed at the end of a fresh ciphertext's body, SEED_BYTES long.

    Raises RuntimeError for a SEAL with another generator.
    """
    if body[-SEED_BYTES - 1] != _BLAKE2XB:
        raise RuntimeError("SEAL saved a seed of another generator; built differently from the TenSEAL wheels")
    return body[-SEED_BYTES:]


def read_words(body: bytes, fields: int, shape: tuple[int, ...]) -> Words:
    """The first words of an array that follows `fields` bytes of a body, in this shape."""
    count = int(np.prod(shape))
    return np.frombuffer(body, "<u8", count, fields + ARRAY_FIELDS).astype(np.uint64).reshape(shape)


def resized(fields: bytes, size: int) -> bytes:
    """A ciphertext's fields with another number of polynomials."""
    return fields[:_SIZE_OFFSET] + _SIZE.pack(size) + fields[_SIZE_OFFSET + _SIZE.size :]
