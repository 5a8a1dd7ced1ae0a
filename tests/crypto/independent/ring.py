"""The ring of sums: polynomials modulo X^4096 + 1 and a prime, a ternary key, and our own RLWE encryption ("lean").

c0 = encoded message - a s + e, where a is expanded from a seed and e counts bits: those of 21 less those of 21 others.
"""

from operator import add, sub

from bits import pack_words
from layouts import DEGREE, SEED_BYTES, STAMP, Layout
from packing import encoded
from streams import uniform_words, words


def ternary(key: bytes) -> list[int]:
    """A secret for tests: -1, 0 and 1."""
    return [word - 1 for word in uniform_words(key, DEGREE, 3)]


def packed_key(secret: list[int]) -> bytes:
    """Two bits a coefficient: 0, 1, and 2 for -1."""
    return pack_words([coefficient % 3 for coefficient in secret], 2)


def product(a: list[int], secret: list[int], modulus: int) -> list[int]:
    """a s modulo X^4096 + 1: what passes the top comes back at the bottom with the other sign."""
    total = [0] * DEGREE
    for place, coefficient in enumerate(secret):
        if coefficient:
            turned = [-word for word in a[DEGREE - place :]] + a[: DEGREE - place]
            total = list(map(add if coefficient == 1 else sub, total, turned))
    return [word % modulus for word in total]


def noise(key: bytes, count: int) -> list[int]:
    """Centred binomial: of each word of a key's stream, the lowest 21 bits count up, the 21 from bit 32 on down."""
    low = 2**21 - 1
    return [(word & low).bit_count() - (word >> 32 & low).bit_count() for word in words(key, count)]


def encrypted(slots: list[int], layout: Layout, secret: list[int], seed: bytes, noise_key: bytes) -> list[int]:
    """c0, one word a slot."""
    q, size = layout.set.q, layout.ciphertexts * DEGREE
    a = uniform_words(seed, size, q)
    masked = []
    for start in range(0, size, DEGREE):
        masked += product(a[start : start + DEGREE], secret, q)
    errors = noise(noise_key, len(slots))
    return [(encoded(m, layout.set) - b + e) % q for m, b, e in zip(slots, masked, errors, strict=False)]


def sent(words_: list[int], layout: Layout) -> bytes:
    """Words packed without the low bits that are not sent."""
    return pack_words([word >> layout.dropped_bits for word in words_], layout.word_bits)


def contribution(words_: list[int], layout: Layout, seed: bytes) -> bytes:
    """Stamp, seed, words."""
    assert len(seed) == SEED_BYTES
    return STAMP + seed + sent(words_, layout)


def answered(
    contributions: list[list[int]], weights: list[int], seeds: list[bytes], layout: Layout, mask: list[int] | None
) -> tuple[bytes, list[int], list[int]]:
    """Stamp, count, weights, seeds, and the sum of the words that were sent, less the mask's encoding. Then what a
    hospital makes of it: those words with the middle of what was not sent, and the sum of the a.
    """
    q, d = layout.set.q, layout.dropped_bits
    total = [0] * layout.slots
    for weight, row in zip(weights, contributions, strict=True):
        total = [sum_ + weight * (word >> d << d) for sum_, word in zip(total, row, strict=True)]
    if mask is not None:
        total = [word - encoded(one, layout.set) for word, one in zip(total, mask, strict=True)]
    total = [word % q for word in total]
    head = STAMP + b"".join(number.to_bytes(4, "big") for number in (len(weights), *weights)) + b"".join(seeds)
    a = [0] * (layout.ciphertexts * DEGREE)
    for weight, seed in zip(weights, seeds, strict=True):
        a = [sum_ + weight * word for sum_, word in zip(a, uniform_words(seed, len(a), q), strict=True)]
    middle = 2**d // 2 * (sum(weights) + 1)
    return head + sent(total, layout), [((word >> d << d) + middle) % q for word in total], [word % q for word in a]


def decrypted(total: list[int], a: list[int], layout: Layout, secret: list[int]) -> list[int]:
    """The nearest message to the phase c0 + a s of one polynomial, for each word of c0."""
    q, t = layout.set.q, layout.set.t
    phases = [(word + b) % q for word, b in zip(total, product(a, secret, q), strict=False)]
    return [(phase * t + q // 2) // q % t for phase in phases]
