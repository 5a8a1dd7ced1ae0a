"""What products.json holds: similarity by products of ciphertexts."""

import base64
import hashlib

import products
from inputs import CONTEXT, KEY, OTHER_KEY, named, real_vector
from layouts import DEGREE, STAMP
from ring import packed_key, ternary
from sketches import COARSE, FINE, level_norm, norm_level, sketch
from streams import uniform_words

_DIMENSIONS, _CLIENTS = 16, 3
_NORMS = [4.5, 0.0, 12345.678]
_SECRET = ternary(named("ring key of similarity"))


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _words(name: str, prime: int) -> list[int]:
    return uniform_words(named(name), DEGREE, prime)


def similarity_products() -> dict:
    """Sketches rounded at random, sealed norms, check lanes, an upload and a row, and the bytes of given words."""
    t, vectors = COARSE.moduli[0], [real_vector(f"update {n}", 100) for n in range(_CLIENTS)]
    rounding = [named(f"rounding {n}") for n in range(_CLIENTS)]
    found = [sketch(v, _DIMENSIONS, OTHER_KEY, 1.0, COARSE, key) for v, key in zip(vectors, rounding, strict=True)]
    nonces = [named(f"nonce of norm {n}", 12) for n in range(_CLIENTS)]
    levels = [norm_level(norm) for norm in _NORMS]
    norms = [products.sealed_norm(levels[n], KEY, CONTEXT, n, nonces[n]) for n in range(_CLIENTS)]
    check = products.RowCheck(KEY, t, CONTEXT, _CLIENTS, _DIMENSIONS)
    slots = [products.slots_of(row, t) for row in found]
    drawn = [check.drawn(n) for n in range(_CLIENTS)]
    return {
        "key": KEY.hex(),
        "ring_key": packed_key(_SECRET).hex(),
        "context": CONTEXT.hex(),
        "dimensions": _DIMENSIONS,
        "sketch_key": OTHER_KEY.hex(),
        "rounding": [key.hex() for key in rounding],
        "sketches": found,
        "short": sketch([3e-3, 1.0], 4, OTHER_KEY, 0.01, COARSE, rounding[0]),
        "norms": [norm.hex() for norm in _NORMS],
        "nonces": [nonce.hex() for nonce in nonces],
        "sealed_norms": [norm.hex() for norm in norms],
        "row_check": [{"l": factor, "u": shift[:4]} for factor, shift in drawn],
        "lanes": [check.lane(slots[n], n)[:_DIMENSIONS] for n in range(_CLIENTS)],
        "upload": _upload(slots[0], check.lane(slots[0], 0), t, norms[0]),
        "row": _row(slots, check, t, norms),
        "cosines": [max(-1.0, min(1.0, _inner(found[0], found[n]) / COARSE.norm**2)).hex() for n in (1, 2)],
        "travelled": [level_norm(levels[n]).hex() for n in (1, 2)],
        "given_words": _given_words(),
    }


def _inner(left: list[int], right: list[int]) -> int:
    return sum(a * b for a, b in zip(left, right, strict=True))


def _upload(slots: list[int], lane: list[int], t: int, norm: bytes) -> str:
    """What SEAL could have encrypted for hospital 0, in base 64."""
    lanes = []
    for name, values in (("value", slots), ("check", lane)):
        seed, key = named(f"seed of {name}", 64), named(f"noise of {name}")
        lanes.append(products.fresh(values, t, _SECRET, seed, key))
    return base64.b64encode(products.upload(norm, lanes)).decode()


def _row(slots: list[list[int]], check: products.RowCheck, t: int, norms: list[bytes]) -> dict:
    """What could be answered to hospital 0, in base 64: about 1 and 2, and under 0 the row's check."""
    row = {}
    for other in (1, 2):
        inner = _inner(slots[0], slots[other]) % t
        row[other] = norms[other] + products.packed_hidden(
            *products.hidden(inner, t, _SECRET, named(f"answer {other}"))
        )
    right = check.expected(slots[0], {other: slots[other] for other in (1, 2)})
    row[0] = products.packed_hidden(*products.hidden(right, t, _SECRET, named("answer of all")))
    return {str(other): base64.b64encode(data).decode() for other, data in row.items()}


def _given_words() -> dict:
    """Digests of what words that follow from their names become: row p of NAME is of the key "NAME p"."""
    primes, nonce = products.PRIMES, bytes(range(32))

    def rows(name: str, of: tuple[int, ...]) -> bytes:
        return products.packed_rows([_words(f"{name} {at}", prime) for at, prime in enumerate(of)], of)

    lanes = [named(f"seed {n}", 64) + rows(f"lane {n}", primes) for n in range(2 * len(FINE.moduli))]
    answers = [(number + 5, _words(f"second {number}", primes[0])) for number in range(len(FINE.moduli))]
    keys = STAMP + rows("public 0", products.KEY_PRIMES) + rows("public 1", products.KEY_PRIMES)
    for row in range(len(primes)):
        keys += named(f"seed of key {row}", 64) + rows(f"key {row}", products.KEY_PRIMES)
    return {
        "keys": {name: named(name).hex() for name in _names()},
        "seeds": {f"seed {n}": named(f"seed {n}", 64).hex() for n in range(2 * len(FINE.moduli))}
        | {f"seed of key {row}": named(f"seed of key {row}", 64).hex() for row in range(len(primes))},
        "norm": nonce.hex(),
        "upload": _digest(products.upload(nonce, lanes)),
        "answer": _digest(nonce + b"".join(products.packed_hidden(*one) for one in answers)),
        "evaluation_keys": _digest(keys),
    }


def _names() -> list[str]:
    lanes = [f"lane {n} {at}" for n in range(2 * len(FINE.moduli)) for at in range(2)]
    keys = [f"{name} {at}" for name in ("public 0", "public 1", "key 0", "key 1") for at in range(3)]
    return [*lanes, *(f"second {number}" for number in range(len(FINE.moduli))), *keys]
