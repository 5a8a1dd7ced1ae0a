"""What similarity.json holds."""

from collections.abc import Callable

import pads
import sketches
from inputs import CONTEXT, KEY, OTHER_KEY, named, real_vector
from text import exact

_DIMENSIONS = 16
_NORMS = [4.5, 0.37, 12345.678]
_TRAVELLED = [0.0, 1e-320, 0.37, 1.0, 12345.678, 1e300]


def _in_clear(found: list[list[int]]) -> dict:
    return {
        "uploads": [pads.plain_upload(row, norm).hex() for row, norm in zip(found, _NORMS, strict=True)],
        "rows": _pairs(lambda client, other: pads.plain_answer(found, _NORMS, client, other).hex()),
    }


def _under_pads(found: list[list[int]], nonces: dict[int, bytes]) -> dict:
    hiding = pads.Pads(KEY, 3, _DIMENSIONS, CONTEXT, nonces)
    parts = [pads.upload_words(hiding, found[client], _NORMS[client], client) for client in range(3)]
    return {
        "uploads": [pads.upload(hiding, found[client], _NORMS[client], client).hex() for client in range(3)],
        "rows": _pairs(lambda client, other: pads.answer(parts, client, other).hex()),
    }


def _pairs(of: Callable[[int, int], object]) -> dict:
    """`of` each client and another one, by both."""
    others = {client: [other for other in range(3) if other != client] for client in range(3)}
    return {str(client): {str(other): of(client, other) for other in others[client]} for client in others}


def similarity() -> dict:
    """Sketches kept, projected and scaled; norms; uploads, answers and what they open to, under pads and in clear."""
    vectors = [real_vector(f"update {n}", 100) for n in range(3)]
    found = [sketches.sketch(vector, _DIMENSIONS, OTHER_KEY) for vector in vectors]
    nonces = {client: named(f"nonce of pads {client}", 16) for client in range(3)}
    bare = pads.Pads(KEY, 3, _DIMENSIONS, CONTEXT, {})
    return {
        "key": KEY.hex(),
        "context": CONTEXT.hex(),
        "dimensions": _DIMENSIONS,
        "vectors": [exact(vector) for vector in vectors],
        "nonces": {str(client): nonce.hex() for client, nonce in nonces.items()},
        "schemes": {"pads": _under_pads(found, nonces), "plain": _in_clear(found)},
        "opened": _pairs(lambda client, other: exact(pads.opened(found, _NORMS, client, other))),
        "scalars": pads.Pads(KEY, 3, _DIMENSIONS, CONTEXT, nonces).scalars(),
        "sketch_key": OTHER_KEY.hex(),
        "sketches": found,
        "kept": sketches.sketch([0.5, -2.0, 0.25], 5, OTHER_KEY),
        "scaled": sketches.sketch(vectors[0], _DIMENSIONS, OTHER_KEY, 0.5),
        "norms": exact(_NORMS),
        "levels": {norm.hex(): sketches.norm_level(norm) for norm in _TRAVELLED},
        "travelled": {norm.hex(): sketches.level_norm(sketches.norm_level(norm)).hex() for norm in _TRAVELLED},
        "without_nonces": pads.upload(bare, found[0], 1.0, 0).hex(),
    }
