"""One client's masks opened by itself: where a sum failed its check, and what it masked is public in the end."""

import numpy as np

from securepfl.crypto.masks.edges import (
    SECRET_BYTES,
    Edge,
    add_masks,
    check_modulus,
    commitment,
    edges_of,
    pieces,
)
from securepfl.crypto.masks.graph import Masking
from securepfl.crypto.masks.shamir import PRIME
from securepfl.crypto.sums.words import Words
from securepfl.errors import MessageError


def opened_mask(
    masking: Masking, context: bytes, index: int, commitments: bytes, secrets: bytes, count: int, modulus: int
) -> Words:
    """What client `index` added to its slots under `context`, modulo `modulus`: shape (count,).

    `secrets` are its mask secrets, 32 bytes each, in the order of its `commitments`: that for itself first, then those
    with its neighbours. Raises MessageError where they are not what it committed to, ValueError for a modulus out of
    range.

    | what is opened                                       | what happens                             |
    |------------------------------------------------------|------------------------------------------|
    | the secrets that were committed to                   | the exact mask                           |
    | other secrets, fewer or more, or one out of range    | MessageError; nobody can tell its update |
    | those of another context                             | MessageError: commitments are bound to it |
    """
    check_modulus(modulus)
    found = _secrets(masking, context, index, secrets)
    expected = b"".join(commitment(edge, secret, context) for edge, secret in found.items())
    if expected != commitments:
        raise MessageError(f"client {index} opened other masks than it committed to; its update can't be told")
    return add_masks(np.zeros(count, dtype=np.uint64), found, modulus, context)


def _secrets(masking: Masking, context: bytes, index: int, data: bytes) -> dict[Edge, int]:
    edges = edges_of(masking.graph(context), index)
    values = [int.from_bytes(piece, "big") for piece in pieces(data)]
    if len(data) != SECRET_BYTES * len(edges) or max(values) >= PRIME:
        raise MessageError(f"client {index} opened masks of a wrong number or range; its update can't be told")
    return dict(zip(edges, values, strict=True))
