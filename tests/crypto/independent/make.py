"""Makes the test vectors, or with --check says which files differ from what would be made (exit 1).

    python tests/crypto/independent/make.py [--check] [FILE ...]        FILE such as crypto/vectors/masks.json

Plain Python that shares no code with securepfl: integers, fractions, decimals, hashlib, and primitives of
`cryptography` (one AES block, Ed25519, ML-DSA, ML-KEM, X25519, HPKE). Slow and obvious, written from the documents.
"""

import argparse
import sys
from pathlib import Path

import of_masks
import of_similarity
import of_state
import of_streams
from text import written

TESTS = Path(__file__).parents[2]

FILES = {
    "crypto/vectors/randomness.json": of_streams.randomness,
    "crypto/vectors/seeds.json": of_streams.seeds,
    "crypto/vectors/uniform.json": of_streams.uniform,
    "crypto/vectors/words.json": of_streams.words,
    "crypto/vectors/shamir.json": of_masks.shares,
    "crypto/vectors/masks.json": of_masks.round_of_masks,
    "crypto/vectors/similarity.json": of_similarity.similarity,
    "crypto/vectors/ledger_signing.json": of_state.ledger_signing,
    "client/vectors/snapshot.json": of_state.snapshot,
    "protocol/vectors/contexts.json": of_state.contexts,
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
    path, content = TESTS / name, written(FILES[name]())
    if not checking:
        path.write_text(content)
    return path.exists() and path.read_text() == content


if __name__ == "__main__":
    sys.exit(main())
