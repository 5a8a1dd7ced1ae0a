"""AES-256 one block at a time, and the two modes in use: a counter's keystream (SP 800-38A) and GCM (SP 800-38D)."""

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

BLOCK = 16
_REDUCTION = 0xE1 << 120


def blocks(key: bytes, data: bytes) -> bytes:
    """Each 16-byte block under a 32-byte key, by itself."""
    assert len(key) == 32
    encryptor = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(data) + encryptor.finalize()


def keystream(key: bytes, count: int, first: int = 0) -> bytes:
    """`count` bytes: the blocks of a 128-bit big-endian counter from `first` on."""
    counters = b"".join((first + number).to_bytes(BLOCK, "big") for number in range(-(-count // BLOCK)))
    return blocks(key, counters)[:count]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _times(x: int, y: int) -> int:
    """The product in GCM's field of 2^128 elements, whose bits run from the left."""
    product = 0
    for place in range(127, -1, -1):
        if x >> place & 1:
            product ^= y
        y = (y >> 1) ^ (_REDUCTION if y & 1 else 0)
    return product


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _tag(key: bytes, first: int, associated: bytes, encrypted: bytes) -> bytes:
    hashing = int.from_bytes(blocks(key, bytes(BLOCK)), "big")
    lengths = b"".join((8 * len(part)).to_bytes(8, "big") for part in (associated, encrypted))
    covered = _padded(associated) + _padded(encrypted) + lengths
    total = 0
    for at in range(0, len(covered), BLOCK):
        total = _times(total ^ int.from_bytes(covered[at : at + BLOCK], "big"), hashing)
    return _xor(total.to_bytes(BLOCK, "big"), keystream(key, BLOCK, first))


def gcm_seal(key: bytes, nonce: bytes, plaintext: bytes, associated: bytes = b"") -> bytes:
    """The encryption, then its 16-byte tag, under a 12-byte nonce."""
    assert len(nonce) == 12
    first = int.from_bytes(nonce + bytes((0, 0, 0, 1)), "big")
    encrypted = _xor(plaintext, keystream(key, len(plaintext), first + 1))
    return encrypted + _tag(key, first, associated, encrypted)
