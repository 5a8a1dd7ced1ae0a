"""Makes the test vectors, or with --check says which files differ from what would be made (exit 1).

    python tests/crypto/independent/make.py [--check] [FILE ...]        FILE such as crypto/vectors/masks.json

Plain Python that shares no code with securepfl: integers, fractions, decimals, hashlib, and primitives of
`cryptography` (one AES block, Ed25519, ML-DSA, ML-KEM, X25519, HPKE). Slow and obvious, written from the documents.
"""

import argparse
import json
import sys
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import of_keys
import of_masks
import of_products
import of_protocol
import of_similarity
import of_state
import of_streams
import of_sums
from text import written

TESTS = Path(__file__).parents[2]

FILES = {
    "crypto/vectors/randomness.json": of_streams.randomness,
    "crypto/vectors/seeds.json": of_streams.seeds,
    "crypto/vectors/uniform.json": of_streams.uniform,
    "crypto/vectors/words.json": of_streams.words,
    "crypto/vectors/layouts.json": of_sums.shapes,
    "crypto/vectors/packing.json": of_sums.levels,
    "crypto/vectors/tags.json": of_sums.tags,
    "crypto/vectors/encoding.json": of_sums.encoding,
    "crypto/vectors/sums.json": of_sums.sums,
    "crypto/vectors/shamir.json": of_masks.shares,
    "crypto/vectors/masks.json": of_masks.round_of_masks,
    "crypto/vectors/similarity.json": of_similarity.similarity,
    "crypto/vectors/products.json": of_products.similarity_products,
    "crypto/vectors/keys.json": of_keys.keys,
    "crypto/vectors/envelope.json": of_keys.envelope,
    "crypto/vectors/ledger_signing.json": of_state.ledger_signing,
    "client/vectors/snapshot.json": of_state.snapshot,
    "protocol/vectors/contexts.json": of_protocol.contexts,
    "protocol/vectors/messages.json": of_protocol.messages,
    "protocol/vectors/statements.json": of_protocol.statements,
    "protocol/vectors/standing.json": of_protocol.standing,
}


def main() -> int:
    """0 where nothing differs."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("files", nargs="*", metavar="FILE")
    asked = parser.parse_args()
    different = [name for name in asked.files or FILES if not _agrees(name, checking=asked.check)]
    assert not {"securepfl", "numpy", "tenseal"} & set(sys.modules), "the vectors' maker must stand alone"
    for name in different:
        print(f"{name} differs from what the independent implementation makes")
    return bool(different)


def _agrees(name: str, *, checking: bool) -> bool:
    path = TESTS / name
    content = written(_content(FILES[name], path))
    if not checking:
        path.write_text(content)
    return path.exists() and path.read_text() == content


def _content(maker: Callable, path: Path) -> dict | list:
    """What a maker gives; one that signs or seals is shown what is stored, to keep it where it holds."""
    if not signature(maker).parameters:
        return maker()
    try:
        return maker(json.loads(path.read_text()))
    except FileNotFoundError:
        return maker({})


if __name__ == "__main__":
    sys.exit(main())
