"""The fixed inputs: every one is a counter or follows from its name by SHAKE-256. They protect nothing."""

import hashlib

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
CONTEXT = b"session/update/3/0"


def named(name: str, count: int = 32) -> bytes:
    """`count` bytes that are this name's."""
    return hashlib.shake_256(b"securepfl test vectors: " + name.encode()).digest(count)


def numbers(name: str, count: int, below: int) -> list[int]:
    """`count` integers in [0, below): for tests, so a slight bias does not matter."""
    data = named(name, 16 * count)
    return [int.from_bytes(data[at : at + 16], "big") % below for at in range(0, len(data), 16)]


def real_vector(name: str, count: int) -> list[float]:
    """`count` doubles in [-1, 1), multiples of 2^-40."""
    return [number / 2**40 - 1 for number in numbers(name, count, 2**41)]
