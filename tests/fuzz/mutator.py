"""A seeded mutator of messages and what they hold, and fingerprints that show whether a party was changed by one."""

import dataclasses
import hashlib
import math
import random
import struct
from pathlib import Path

import msgspec
import numpy as np

from securepfl.crypto.sums.seal import CiphertextSum

HEADER = {
    "magic": (0, 4),
    "version": (4, 5),
    "kind": (5, 6),
    "digest": (6, 38),
    "round": (38, 42),
    "attempt": (42, 46),
    "sender": (46, 66),
    "receiver": (66, 86),
}
"""An envelope's fields: first byte and end."""

HEADER_BYTES = 86
_X25519_TOP = HEADER_BYTES + 1088 + 31
"""The byte whose highest bit X25519 ignores (RFC 7748): only the KEM's hash over the share notices."""


class Mutator:
    """Everything follows from `seed`."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 (repeatable on purpose)

    def message(self, original: bytes, material: list[bytes], genuine: set[bytes]) -> tuple[str, bytes]:
        """(operation, other bytes) from an envelope; `material` to splice with. Never one of `genuine`."""
        return self._other(original, genuine, [*_BYTES, *_ENVELOPE], material)

    def file(self, original: bytes, material: list[bytes]) -> tuple[str, bytes]:
        """The same for bytes without an envelope's header."""
        return self._other(original, {original}, _BYTES, material)

    def body(self, original: bytes, names: list[str], material: list[bytes]) -> tuple[str, bytes]:
        """(operation, other MessagePack or what claims to be) from a message's body."""
        if self.random.random() < 0.25:
            operation, data = self.file(original, material)
            return f"raw {operation}", data
        while True:
            tree = msgspec.msgpack.decode(original)
            operation = self._mutate_tree(tree, names)
            data = msgspec.msgpack.encode(tree)
            if data != original:
                return operation, data

    def _other(self, original, genuine, operations, material):
        while True:
            name = self.random.choice(operations)
            data = bytes(getattr(self, name)(bytearray(original), material))
            if data != original and data not in genuine:
                return name, data

    def _span(self, data):
        start = self.random.randrange(len(data) or 1)
        return start, min(len(data), start + self.random.choice((1, 2, 4, 16, 64, 1000)))

    def flip_bit(self, data, _):
        data[self.random.randrange(len(data))] ^= 1 << self.random.randrange(8)
        return data

    def set_bytes(self, data, _):
        for _ in range(self.random.randint(1, 8)):
            data[self.random.randrange(len(data))] = self.random.choice(
                (0, 1, 0x7F, 0x80, 0xFF, self.random.randrange(256))
            )
        return data

    def truncate(self, data, _):
        return data[: self.random.choice((0, 1, 4, len(data) - 1, self.random.randrange(len(data))))]

    def cut_front(self, data, _):
        return data[self.random.randint(1, len(data)) :]

    def extend(self, data, _):
        return data + self.random.randbytes(self.random.choice((1, 2, 16, 4096)))

    def insert(self, data, _):
        at = self.random.randrange(len(data))
        return data[:at] + self.random.randbytes(self.random.choice((1, 4, 32))) + data[at:]

    def zero(self, data, _):
        start, end = self._span(data)
        return data[:start] + bytes(end - start) + data[end:]

    def duplicate_block(self, data, _):
        start, end = self._span(data)
        return data[:end] + data[start:end] + data[end:]

    def remove_block(self, data, _):
        start, end = self._span(data)
        return data[:start] + data[end:]

    def swap_blocks(self, data, _):
        size = self.random.choice((1, 16, 64))
        one, other = (self.random.randrange(max(1, len(data) - size)) for _ in range(2))
        data[one : one + size], data[other : other + size] = data[other : other + size], data[one : one + size]
        return data

    def length_field(self, data, _):
        form = self.random.choice((">I", "<I", ">H", ">B"))
        number = self.random.choice((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1))
        at = self.random.randrange(max(1, len(data) - 4))
        packed = struct.pack(form, number % 2 ** (8 * struct.calcsize(form)))
        return data[:at] + packed + data[at + len(packed) :]

    def splice(self, data, material):
        other = self.random.choice(material)
        at = self.random.randint(1, len(data))
        return data[:at] + other[self.random.choice((at, self.random.randrange(len(other) + 1))) :]

    def noise(self, data, _):
        return self.random.randbytes(self.random.choice((0, 1, 86, 1300, len(data))))

    def header_field(self, data, _):
        start, end = HEADER[self.random.choice(list(HEADER))]
        size = end - start
        choices = (
            0,
            1,
            2,
            3,
            4,
            2 ** (8 * size) - 1,
            int.from_bytes(data[start:end], "big") + 1,
            self.random.randrange(256),
        )
        data[start:end] = (self.random.choice(choices) % 2 ** (8 * size)).to_bytes(size, "big")
        return data

    def swap_header(self, data, material):
        return self.random.choice(material)[:HEADER_BYTES] + data[HEADER_BYTES:]

    def copy_field(self, data, material):
        start, end = HEADER[self.random.choice(list(HEADER))]
        data[start:end] = self.random.choice(material)[start:end]
        return data

    def swap_parties(self, data, _):
        return data[:46] + data[66:86] + data[46:66] + data[86:]

    def x25519_sign_bit(self, data, _):
        data[min(_X25519_TOP, len(data) - 1)] ^= 0x80
        return data

    def _mutate_tree(self, tree, names):
        """Change `tree` in place, at the root or somewhere in it; say what was done where."""
        if self.random.random() < 0.15:
            return self._mutate_root(tree)
        parent, key, path = tree, self.random.choice(list(tree)), ""
        while True:
            path += f".{key}" if isinstance(key, str) and parent is tree else "[]"
            value = parent[key]
            deeper = isinstance(value, (list, dict)) and len(value) > 0 and self.random.random() < 0.6
            if not deeper:
                parent[key] = self._instead_of(value, names)
                return path
            keys = list(value) if isinstance(value, dict) else list(range(len(value)))
            parent, key = value, self.random.choice(keys)

    def _mutate_root(self, tree):
        name = self.random.choice(list(tree))
        choice = self.random.choice(("missing", "unknown", "schema", "renamed"))
        if choice == "missing":
            tree.pop(name)
        elif choice == "unknown":
            tree["surprise"] = self.random.choice((None, 1, [[]] * 50, {"a": {}}, "x" * 100))
        elif choice == "schema":
            tree["schema"] = self.random.choice((0, 1, -1, 3, 2**63, None, "2", 2.5, True))
        else:
            tree[name + "x"] = tree.pop(name)
        return f"{choice} field"

    def _instead_of(self, value, names):
        if self.random.random() < 0.12:
            return self.random.choice(
                (None, True, -1, 2**64 - 1, 0.5, "text", b"", b"bytes", [], {}, [[[[]]]], {"a": 1})
            )
        kinds = {bytes: self._bytes, str: self._text, int: self._number, float: self._real, list: self._list}
        return self._dict(value, names) if isinstance(value, dict) else kinds.get(type(value), self._none)(value, names)

    def _bytes(self, value, _):
        if self.random.random() < 0.02:
            return bytes(10**7)
        if not value:
            return self.random.randbytes(self.random.choice((1, 16, 32, 5000)))
        choice = self.random.randrange(10)
        if choice < 5:
            return bytes(self.flip_bit(bytearray(value), None))
        small = (
            b"",
            value[:-1],
            value + b"\0",
            bytes(len(value)),
            self.random.randbytes(len(value)),
            value * 2,
            value[::-1],
        )
        return self.random.choice(small)

    def _text(self, value, names):
        odd = (
            "",
            "nobody",
            "é" * len(value),
            value + "\n",
            value.upper(),
            value * 2,
            "x" * 300,
            "\0",
            "\U0001f600" * 64,
        )
        return self.random.choice((*odd, *names))

    def _number(self, value, _):
        return self.random.choice((value + 1, value - 1, 0, -1, 2**31, 2**32, 2**63, 2**64 - 1, -(2**63)))

    def _real(self, _, __):
        return self.random.choice((math.inf, -math.inf, 0.0, -1.0, 1e308, -1e308, 5e-324, 0, 2**63))

    def _list(self, value, names):
        like = value[0] if value else self.random.choice(names)
        one = self.random.choice((like, "nobody", b"x", [like], None, *names))
        shuffled = self.random.sample(value, len(value))
        longer = value + [one] * self.random.choice((1, 3, 1000))
        sub = [item for item in value if self.random.random() < 0.7]
        return self.random.choice((longer, sub, sub, shuffled, value * 2, value[1:], [], [value], [one]))

    def _dict(self, value, names):
        items = list(value.items())
        filler = items[0][1] if items else b"x" * 16
        kept = {key: item for key, item in items if self.random.random() < 0.7}
        values = self.random.sample([item for _, item in items], len(items))
        swapped = dict(zip(value, values, strict=True))
        many = {f"{index}": filler for index in range(1000)}
        extra = value | {self.random.choice((*names, "nobody")): filler}
        return self.random.choice((kept, kept, swapped, value | many, extra, {}, {"a": value}, items))

    def _none(self, _, names):
        return self.random.choice((b"", b"x" * 100, 0, "", [], {}, self.random.choice(names)))


_BYTES = [
    "flip_bit",
    "flip_bit",
    "flip_bit",
    "set_bytes",
    "truncate",
    "cut_front",
    "extend",
    "insert",
    "zero",
    "duplicate_block",
    "remove_block",
    "swap_blocks",
    "length_field",
    "splice",
    "noise",
]
_ENVELOPE = ["header_field", "header_field", "swap_header", "copy_field", "swap_parties", "x25519_sign_bit"]


def fingerprint(*things) -> bytes:
    """A hash over everything that `things` hold: arrays, bytes, files (given as Path), objects by their attributes. Of
    this process: Python keeps its own hash of bytes with them, so that they are read once.
    """
    parts = []
    _feed(parts.append, things)
    return hashlib.sha256(b"".join(parts)).digest()


_PLAIN = frozenset({bool, int, float, str, type(None)})
"""Of which repr tells all."""


def _feed(add, thing):  # noqa: PLR0912 - a branch a kind
    kind = type(thing)
    if kind in _PLAIN:
        add(f"<{kind.__name__}>{thing!r}".encode())
        return
    add(f"<{kind.__name__}>".encode())
    if isinstance(thing, bytes):
        add(f"{len(thing)}:{hash(thing)}".encode())
    elif isinstance(thing, dict):
        _feed_named(add, thing)
    elif isinstance(thing, (list, tuple)):
        add(f"{len(thing)}:".encode())
        if _PLAIN.issuperset(map(type, thing)):
            add(repr(thing).encode())
            return
        for part in thing:
            _feed(add, part)
    elif isinstance(thing, np.ndarray):
        add(f"{thing.dtype}{thing.shape}".encode())
        add(thing.tobytes())
    elif isinstance(thing, Path):
        add(thing.read_bytes())
    elif isinstance(thing, (str, int, float)):
        add(repr(thing).encode())
    elif isinstance(thing, (set, frozenset)):
        _feed(add, sorted(thing, key=repr))
    elif isinstance(thing, msgspec.Struct):
        _feed_named(add, msgspec.structs.asdict(thing))
    elif isinstance(thing, CiphertextSum):
        _feed(add, [thing._context.words(one, 2) for one in thing._sum])
    elif dataclasses.is_dataclass(thing) or hasattr(thing, "__dict__"):
        _feed_named(add, vars(thing))
    else:
        raise TypeError(f"no fingerprint of {type(thing)}")


def _feed_named(add, named):
    """What stands under each key, whatever their order."""
    add(f"{len(named)}:".encode())
    if _PLAIN.issuperset(map(type, named.values())) and _PLAIN.issuperset(map(type, named)):
        add(repr(sorted(named.items(), key=_key)).encode())
        return
    for key, value in sorted(named.items(), key=_key):
        _feed(add, key)
        _feed(add, value)


def _key(item):
    return repr(item[0])
