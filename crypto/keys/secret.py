"""Bytes that never show themselves: what a traceback, a log or a debugger prints of them is their length."""

from typing import SupportsIndex, overload


class Secret(bytes):
    """Secret bytes. They are bytes in every respect, but repr, str and format give only the length.

    Slices are secret too; what other operations (`+`, `join`) return is plain bytes again. Python cannot wipe
    memory: this hides secrets from text, not from a memory dump.

    >>> Secret(b"abcdef"), f"{Secret(b'abcdef')[1:3]}", Secret(b"ab") == b"ab"
    (Secret(6 bytes), 'Secret(2 bytes)', True)
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secret({len(self)} bytes)"

    __str__ = __repr__

    @overload
    def __getitem__(self, key: SupportsIndex, /) -> int: ...

    @overload
    def __getitem__(self, key: slice, /) -> "Secret": ...

    def __getitem__(self, key: SupportsIndex | slice, /) -> "int | Secret":
        if isinstance(key, slice):
            return Secret(super().__getitem__(key))
        return super().__getitem__(key)
