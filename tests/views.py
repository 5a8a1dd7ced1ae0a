"""What somebody can see: everything that an object holds, as bytes to search in."""

from collections.abc import Mapping

import numpy as np


def bytes_of(thing, seen=None):
    """Everything that an object holds, as one byte string: attributes, containers, arrays, texts."""
    seen = set() if seen is None else seen
    if id(thing) in seen or isinstance(thing, int | float | bool | type(None)):
        return b""
    seen.add(id(thing))
    if isinstance(thing, bytes | bytearray):
        return bytes(thing)
    if isinstance(thing, str):
        return thing.encode()
    if isinstance(thing, np.ndarray):
        return thing.tobytes()
    return b"|".join(bytes_of(part, seen) for part in parts_of(thing))


def parts_of(thing):
    if isinstance(thing, Mapping):
        return [part for pair in thing.items() for part in pair]
    if isinstance(thing, list | tuple | set | frozenset):
        return thing
    slots = [getattr(thing, name, None) for name in getattr(thing, "__struct_fields__", ())]
    return [*getattr(thing, "__dict__", {}).values(), *slots]


def pieces(secret, size=24):
    """Every aligned piece of a secret: a copy of any part of it would show."""
    return [secret[at : at + size] for at in range(0, len(secret) - size + 1, size)]


def holds(view, vector, size=24):
    """Whether any piece of a vector stands in the view, in single or double precision."""
    forms = (np.asarray(vector, dtype=form).tobytes() for form in ("<f4", "<f8"))
    return any(piece in view for form in forms for piece in pieces(form, size) if piece.strip(b"\0"))
