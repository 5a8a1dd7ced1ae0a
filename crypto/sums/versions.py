"""The stamp before all that SEAL made: its version and TenSEAL's, so that no other version parses it.

Knows no SEAL itself, so the coordinator can read stamps without it.
"""

from typing import Final

from securepfl.errors import MessageError

STAMP_BYTES: Final = 8
_MAGIC: Final = b"SB"
_FORMAT: Final = 1


def make_stamp(seal: tuple[int, int], tenseal: tuple[int, int, int]) -> bytes:
    """Magic, format version, SEAL major.minor, TenSEAL major.minor.patch: 8 bytes."""
    return _MAGIC + bytes((_FORMAT, *seal, *tenseal))


def describe(stamp: bytes) -> str:
    """The versions in words."""
    _, seal_major, seal_minor, *tenseal = stamp[2:STAMP_BYTES]
    return f"SEAL {seal_major}.{seal_minor}, TenSEAL {'.'.join(map(str, tenseal))}"


def without_stamp(data: bytes, expected: bytes, what: str) -> bytes:
    """`data` after its stamp. Raises MessageError naming both versions where they differ, or where none is
    there.
    """
    stamp = data[:STAMP_BYTES]
    if len(stamp) < STAMP_BYTES or not stamp.startswith(_MAGIC):
        raise MessageError(f"{what}: no version stamp, so not made by this library; send or restore it again")
    if stamp != expected:
        raise MessageError(
            f"{what}: made with {describe(stamp)} (format {stamp[2]}), but here are {describe(expected)} "
            f"(format {expected[2]}); install the same versions everywhere"
        )
    return data[STAMP_BYTES:]
