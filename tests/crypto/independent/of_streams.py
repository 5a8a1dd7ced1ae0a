"""What randomness.json, uniform.json and words.json hold."""

import hashlib

import bits
import streams
from inputs import KEY, named, numbers
from text import exact, texts

_LABELS = ([], ["federation tag key", 3], ["é", -1], ["ab", "c"], ["a", "bc"], [""])
_MODULI = (1, 3, 2**31 - 2, 2**62 + 1, 2**63)
_WIDTHS = ((1, 70), (10, 5), (31, 200), (37, 129), (60, 64), (64, 66), (3, 0))


def randomness() -> dict:
    """Derived keys, and each kind of number that a stream gives."""
    return {
        "key": KEY.hex(),
        "derive_key": [{"labels": row, "derived": streams.derive_key(KEY, *row).hex()} for row in _LABELS],
        "bytes": streams.keystream(KEY, 48).hex(),
        "words": streams.words(KEY, 4),
        "uniform": exact([float(number) for number in streams.uniform(KEY, 5)]),
        "gaussian": [f"{number:.12e}" for number in streams.gaussian(KEY, 5)],
        "integers": [{"modulus": m, "drawn": streams.integers(KEY, 6, m)} for m in _MODULI],
        "permutation": streams.permutation(KEY, 12),
    }


def seeds() -> dict:
    """The keys of a seeded simulation, a round's sketch keys, and the blocks that a support key draws."""
    noise = streams.derive_key(bytes(32), "simulation", 7, "noise")
    uses = ("noise", "sampling", "noise share", "update rounding", "personal rounding")
    support, sketch = streams.derive_key(KEY, "support", 3), streams.derive_key(KEY, "sketch", 3)
    return {
        "seed": 7,
        "noise_key": noise.hex(),
        "hospital": "alder",
        "round": 3,
        "streams": {use: streams.keystream(streams.derive_key(noise, "alder", use, 3), 16).hex() for use in uses},
        "sketch": {
            "key": KEY.hex(),
            "of_round": sketch.hex(),
            "rounding": streams.derive_key(sketch, "sketch rounding", "alder").hex(),
        },
        "support": {"key": KEY.hex(), "blocks": 20, "drawn": sorted(streams.permutation(support, 20)[:5])},
    }


def uniform() -> list:
    """Words expanded from a key: the first of them, and the digest of all, 8 bytes each."""
    moduli = ((2**36 - 5, 100), (2**50 - 27, 70_000), (2**60 - 16383, 40_000), (3, 4096), (5, 1000), (1, 3), (2**64, 4))
    found = []
    for modulus, count in moduli:
        words = streams.uniform_words(KEY, count, modulus)
        digest = hashlib.sha256(b"".join(word.to_bytes(8, "little") for word in words)).hexdigest()
        case = {"key": KEY.hex(), "modulus": str(modulus), "count": count, "first": texts(words[:4]), "sha256": digest}
        found.append(case)
    return found


def words() -> dict:
    """Packed words, words that fill more than one chunk, products and scaled words."""
    packed = []
    for width, count in _WIDTHS:
        plain = numbers(f"words of {width} bits", count, 2**width)
        packed.append({"bits": width, "words": texts(plain), "packed": bits.pack_words(plain, width).hex()})
    chunked_key = named("words in chunks")
    chunked = bits.pack_words(streams.uniform_words(chunked_key, 65_636, 2**37), 37)
    q, t = 2**60 - 16383, 2**50 - 27
    scaled = [([*numbers("scaled", 2, q), q - 1], factor) for factor in (0, 1, 7, 1_000_003)]
    left, right = [*numbers("left", 5, t), t - 1, t - 1, t - 1], [*numbers("right", 5, t), t - 2, 5, t - 1]
    return {
        "packed": packed,
        "chunked": {
            "key": chunked_key.hex(),
            "count": 65_636,
            "bits": 37,
            "sha256": hashlib.sha256(chunked).hexdigest(),
        },
        "scale": [
            {"words": texts(row), "factor": factor, "modulus": str(q), "scaled": texts([w * factor % q for w in row])}
            for row, factor in scaled
        ],
        "dot": {
            "modulus": str(t),
            "left": texts(left),
            "right": texts(right),
            "product": str(sum(a * b for a, b in zip(left, right, strict=True)) % t),
        },
    }
