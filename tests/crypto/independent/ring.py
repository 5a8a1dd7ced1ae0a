"""The ring of sums: polynomials modulo X^4096 + 1 and a prime, a ternary key, and RLWE encryption.

c0 = encoded message - a s + e, where a is expanded from a seed and e counts bits: those of 21 less those of 21 others.
"lean" and SEAL differ in how a follows from a seed. What SEAL draws for e nobody can fix: here e is lean's for both.
"""

from bits import pack_words
from blake2x import seal_uniform
from layouts import DEGREE, SEED_BYTES, STAMP, Layout
from packing import encoded
from streams import uniform_words, words

_DIGIT = 80
"""Bits: 4,096 words below 2^60 sum to less than 2^72."""


def ternary(key: bytes) -> list[int]:
    """A secret for tests: -1, 0 and 1."""
    return [word - 1 for word in uniform_words(key, DEGREE, 3)]


def packed_key(secret: list[int]) -> bytes:
    """Two bits a coefficient: 0, 1, and 2 for -1."""
    return pack_words([coefficient % 3 for coefficient in secret], 2)


def product(a: list[int], secret: list[int], modulus: int) -> list[int]:
    """a s modulo X^4096 + 1: what passes the top comes back at the bottom with the other sign.

    A polynomial stands as one number, a digit a coefficient, so that to multiply by a power of X is to shift.
    """
    number = sum(word << _DIGIT * place for place, word in enumerate(a))
    added = sum(number << _DIGIT * place for place, coefficient in enumerate(secret) if coefficient == 1)
    taken = sum(number << _DIGIT * place for place, coefficient in enumerate(secret) if coefficient == -1)
    added_, taken_ = _digits(added), _digits(taken)
    whole = [plus - minus for plus, minus in zip(added_, taken_, strict=True)]
    return [(low - high) % modulus for low, high in zip(whole[:DEGREE], whole[DEGREE:], strict=True)]


def _digits(number: int) -> list[int]:
    data = number.to_bytes(2 * DEGREE * _DIGIT // 8, "little")
    return [int.from_bytes(data[at : at + _DIGIT // 8], "little") for at in range(0, len(data), _DIGIT // 8)]


def noise(key: bytes, count: int) -> list[int]:
    """Centred binomial: of each word of a key's stream, the lowest 21 bits count up, the 21 from bit 32 on down."""
    low = 2**21 - 1
    return [(word & low).bit_count() - (word >> 32 & low).bit_count() for word in words(key, count)]


def hidden(slots: list[int], layout: Layout, secret: list[int], a: list[int], noise_key: bytes) -> list[int]:
    """c0, one word a slot, under the uniform halves a of as many ciphertexts as it takes."""
    q, masked = layout.set.q, []
    for start in range(0, len(a), DEGREE):
        masked += product(a[start : start + DEGREE], secret, q)
    errors = noise(noise_key, len(slots))
    return [(encoded(m, layout.set) - b + e) % q for m, b, e in zip(slots, masked, errors, strict=False)]


def lean_half(seed: bytes, layout: Layout) -> list[int]:
    """All a of a contribution of "lean", from its one seed of 32 bytes."""
    assert len(seed) == SEED_BYTES
    return uniform_words(seed, layout.ciphertexts * DEGREE, layout.set.q)


def seal_half(seeds: bytes, layout: Layout) -> list[int]:
    """All a of a contribution of "tenseal": each ciphertext's from 64 bytes, as SEAL expands them."""
    assert len(seeds) == 64 * layout.ciphertexts
    parts = [seeds[at : at + 64] for at in range(0, len(seeds), 64)]
    return [word for seed in parts for word in seal_uniform(seed, DEGREE, layout.set.q)]


def sent(words_: list[int], layout: Layout) -> bytes:
    """Words packed without the low bits that are not sent."""
    return pack_words([word >> layout.dropped_bits for word in words_], layout.word_bits)


def contribution(words_: list[int], layout: Layout, seeds: bytes) -> bytes:
    """Stamp, seeds, words."""
    return STAMP + seeds + sent(words_, layout)


def summed(rows: list[list[int]], weights: list[int], layout: Layout, mask: list[int] | None) -> list[int]:
    """The sum of the words that were sent, less the mask's encoding."""
    q, d = layout.set.q, layout.dropped_bits
    total = [0] * layout.slots
    for weight, row in zip(weights, rows, strict=True):
        total = [sum_ + weight * (word >> d << d) for sum_, word in zip(total, row, strict=True)]
    if mask is not None:
        total = [word - encoded(one, layout.set) for word, one in zip(total, mask, strict=True)]
    return [word % q for word in total]


def summed_half(halves: list[list[int]], weights: list[int], layout: Layout) -> list[int]:
    """The sum of the a."""
    total = [0] * len(halves[0])
    for weight, half in zip(weights, halves, strict=True):
        total = [sum_ + weight * word for sum_, word in zip(total, half, strict=True)]
    return [word % layout.set.q for word in total]


def flooded(total: list[int], layout: Layout, key: bytes) -> list[int]:
    """Each word moved by a number that is uniform in [-F, F]."""
    drawn = uniform_words(key, len(total), 2 * layout.flood + 1)
    return [(word + one - layout.flood) % layout.set.q for word, one in zip(total, drawn, strict=True)]


def answer(weights: list[int], carried: bytes, total: list[int], layout: Layout) -> bytes:
    """Stamp, count and weights (4 bytes each), what it carries for decryption, the sum's words."""
    numbers = b"".join(number.to_bytes(4, "big") for number in (len(weights), *weights))
    return STAMP + numbers + carried + sent(total, layout)


def packed_half(half: list[int], layout: Layout) -> bytes:
    """Whole words."""
    return pack_words(half, layout.set.q.bit_length())


def restored(total: list[int], weights: list[int], layout: Layout) -> list[int]:
    """A sum's words as they travel, with the middle of what was not sent: for each summand and for the answer."""
    d = layout.dropped_bits
    middle = 2**d // 2 * (sum(weights) + 1)
    return [((word >> d << d) + middle) % layout.set.q for word in total]


def decrypted(total: list[int], half: list[int], weights: list[int], layout: Layout, secret: list[int]) -> list[int]:
    """From a sum's words: each slot is the message nearest to its phase c0 + a s."""
    q, t, masked = layout.set.q, layout.set.t, []
    for start in range(0, len(half), DEGREE):
        masked += product(half[start : start + DEGREE], secret, q)
    phases = [(word + b) % q for word, b in zip(restored(total, weights, layout), masked, strict=False)]
    return [(phase * t + q // 2) // q % t for phase in phases]
