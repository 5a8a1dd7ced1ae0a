"""MessagePack (its specification of 2013), the shortest form of each value; a double for every float."""

import struct


def pack(value: object) -> bytes:
    """None, bool, int, float, str, bytes, list or tuple, dict."""
    if value is None or isinstance(value, bool | int | float):
        return _number(value)
    if isinstance(value, str):
        data = value.encode()
        return _head(len(data), 0xA0, 32, (0xD9, 0xDA, 0xDB)) + data
    if isinstance(value, bytes):
        return _head(len(value), 0, 0, (0xC4, 0xC5, 0xC6)) + value
    if isinstance(value, dict):
        parts = [part for pair in value.items() for part in pair]
        return _head(len(value), 0x80, 16, (None, 0xDE, 0xDF)) + b"".join(map(pack, parts))
    return _head(len(value), 0x90, 16, (None, 0xDC, 0xDD)) + b"".join(map(pack, value))


def _number(value: float | None) -> bytes:
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if -32 <= value < 128:
        return struct.pack("b" if value < 0 else "B", value)
    for code, form, low, high in (
        (0xCC, ">B", 0, 2**8),
        (0xCD, ">H", 0, 2**16),
        (0xCE, ">I", 0, 2**32),
        (0xCF, ">Q", 0, 2**64),
        (0xD0, ">b", -(2**7), 0),
        (0xD1, ">h", -(2**15), 0),
        (0xD2, ">i", -(2**31), 0),
        (0xD3, ">q", -(2**63), 0),
    ):
        if low <= value < high:
            return bytes((code,)) + struct.pack(form, value)
    raise ValueError(value)


def _head(count: int, short: int, below: int, codes: tuple[int | None, int, int]) -> bytes:
    if count < below:
        return bytes((short + count,))
    for code, form in zip(codes, (">B", ">H", ">I"), strict=True):
        if code is not None and count < 2 ** (8 * struct.calcsize(form)):
            return bytes((code,)) + struct.pack(form, count)
    raise ValueError(count)
