"""Sketches in the slots of ciphertexts, as crypto/similarity tells it: what a hospital uploads, and what opens to what.

SEAL multiplies; nothing of that is here. Uploads and answers are made as honest parties could have made them, with
noise of our own, so that securepfl must read from them what was put in.
"""

from aes import gcm_seal
from bits import pack_words
from blake2x import seal_uniform_rows
from layouts import DEGREE, STAMP
from ring import noise, product
from streams import derive_key, uniform_words

PRIMES = (4_398_046_486_529, 4_398_046_240_769)
KEY_PRIMES = (*PRIMES, 114_689)
Q = PRIMES[0] * PRIMES[1]
_DROPPED = 12


def sealed_norm(level: int, key: bytes, context: bytes, sender: int, nonce: bytes) -> bytes:
    """Nonce, then AES-256-GCM over the level, 4 bytes, under a key for one context and sender."""
    return nonce + gcm_seal(
        derive_key(key, "similarity", "norm", context.hex(), sender), nonce, level.to_bytes(4, "big")
    )


class RowCheck:
    """l_j and u_j of each hospital in one context, modulo t."""

    def __init__(self, key: bytes, t: int, context: bytes, clients: int, dimensions: int) -> None:
        self._key, self._t = key, t
        self._labels = ("similarity", "row check", context.hex(), clients, dimensions, t)

    def drawn(self, client: int) -> tuple[int, list[int]]:
        """l, then u: one stream."""
        words = uniform_words(derive_key(self._key, *self._labels, client), 1 + DEGREE, self._t)
        return words[0], words[1:]

    def lane(self, slots: list[int], client: int) -> list[int]:
        """l a + u."""
        factor, shift = self.drawn(client)
        return [(factor * slot + one) % self._t for slot, one in zip(slots, shift, strict=True)]

    def expected(self, slots: list[int], others: dict[int, list[int]]) -> int:
        """<a_i, sum of the others' lanes>."""
        total = 0
        for other, theirs in others.items():
            total += sum(a * b for a, b in zip(slots, self.lane(theirs, other), strict=True))
        return total % self._t


def slots_of(sketch: list[int], t: int) -> list[int]:
    """Entries modulo t, then zeros."""
    return [number % t for number in sketch] + [0] * (DEGREE - len(sketch))


def _smallest_root(t: int) -> int:
    """The smallest number modulo the prime t whose power DEGREE is -1."""
    step = next(pow(base, (t - 1) // (2 * DEGREE), t) for base in range(2, t) if pow(base, (t - 1) // 2, t) == t - 1)
    return min(pow(step, odd, t) for odd in range(1, 2 * DEGREE, 2))


def _sums(values: list[int], root: int, t: int) -> list[int]:
    """sum_k values[k] root^(j k) for each j, by halves."""
    if len(values) == 1:
        return values
    even, odd = (_sums(values[start::2], root * root % t, t) for start in (0, 1))
    power, low, high = 1, [], []
    for e, o in zip(even, odd, strict=True):
        low.append((e + power * o) % t)
        high.append((e - power * o) % t)
        power = power * root % t
    return low + high


def polynomial(slots: list[int], t: int) -> list[int]:
    """The polynomial with value slots[i] at zeta^(3^i), for the first half, and at zeta^(-3^i), for the second: zeta is
    the smallest root of X^4096 = -1 modulo t.
    """
    zeta, half, at_odd, exponent = _smallest_root(t), DEGREE // 2, [0] * DEGREE, 1
    for place in range(half):
        at_odd[exponent // 2] = slots[place]
        at_odd[(2 * DEGREE - exponent) // 2] = slots[half + place]
        exponent = 3 * exponent % (2 * DEGREE)
    back, scale = pow(zeta, -1, t), pow(DEGREE, -1, t)
    sums = _sums(at_odd, back * back % t, t)
    return [word * pow(back, place, t) * scale % t for place, word in enumerate(sums)]


def encoded(word: int, t: int, q: int) -> int:
    """SEAL's rounding of q m / t."""
    return (q * word + (t + 1) // 2) // t


def packed_rows(rows: list[list[int]], primes: tuple[int, ...]) -> bytes:
    """Words modulo each prime, as many bits as it has."""
    return b"".join(pack_words(row, prime.bit_length()) for row, prime in zip(rows, primes, strict=True))


def fresh(slots: list[int], t: int, secret: list[int], seed: bytes, noise_key: bytes) -> bytes:
    """An encryption of slots: SEAL's seed of 64 bytes, then c0 modulo each prime."""
    plain, errors, rows = polynomial(slots, t), noise(noise_key, DEGREE), []
    for prime, a in zip(PRIMES, seal_uniform_rows(seed, DEGREE, PRIMES), strict=True):
        masked = product(a, secret, prime)
        rows.append([(encoded(m, t, Q) - b + e) % prime for m, b, e in zip(plain, masked, errors, strict=True)])
    return seed + packed_rows(rows, PRIMES)


def upload(norm: bytes, lanes: list[bytes]) -> bytes:
    """Stamp, norm, then for each plain modulus the sketch and its check lane."""
    return STAMP + norm + b"".join(lanes)


def hidden(inner: int, t: int, secret: list[int], key: bytes) -> tuple[int, list[int]]:
    """What leaves of a product: coefficient 0 of an encryption modulo p_0 of a polynomial whose coefficient 0 is the
    inner product over N, with a number of up to 20 bits on it, and the whole second polynomial.
    """
    second = uniform_words(key, DEGREE + 1, PRIMES[0])
    flood, second = second[0] % 2**21 - 2**20, second[1:]
    message = encoded(inner * pow(DEGREE, -1, t) % t, t, PRIMES[0])
    return (message - product(second, secret, PRIMES[0])[0] + flood) % PRIMES[0], second


def packed_hidden(first: int, second: list[int]) -> bytes:
    """Its words without their lowest 12 bits, the first polynomial's last."""
    words = [word >> _DROPPED for word in [*second, first]]
    return pack_words(words, PRIMES[0].bit_length() - _DROPPED)
