"""What an attacker who holds the common secret computes of ciphertexts, and the coordinator's half with parts left out:
for tests that must be able to succeed.
"""

import math
import secrets

import numpy as np
from tenseal import sealapi

from securepfl.crypto.similarity.parameters import DEGREE, MODULUS, PRIMES
from securepfl.crypto.similarity.product_wire import Fresh
from securepfl.crypto.sums.containers import CIPHERTEXT_FIELDS, read_words, save
from securepfl.crypto.sums.ring import unpack_key


def whole(words):
    """Residues [primes, n] as integers of least size modulo Q."""
    total = np.zeros(words.shape[1], dtype=object)
    for row, prime in zip(words, PRIMES, strict=True):
        rest = MODULUS // prime
        total += row.astype(object) * (rest * pow(rest, -1, prime))
    return np.array([(x + MODULUS // 2) % MODULUS - MODULUS // 2 for x in total], dtype=object)


def negacyclic(left, right):
    """The product of two integer polynomials modulo x^DEGREE + 1, exactly: as one product of long integers."""
    size = sum(max(abs(int(x)) for x in side).bit_length() for side in (left, right)) + DEGREE.bit_length() + 2
    width = -(-size // 8)

    def joined(values):
        plus, minus = (b"".join(max(sign * int(x), 0).to_bytes(width, "little") for x in values) for sign in (1, -1))
        return int.from_bytes(plus, "little") - int.from_bytes(minus, "little")

    half = 1 << (8 * width - 1)
    offset = int.from_bytes(half.to_bytes(width, "little") * (2 * DEGREE), "little")
    data = (joined(left) * joined(right) + offset).to_bytes(width * (2 * DEGREE + 1), "little")
    digits = [int.from_bytes(data[i * width : (i + 1) * width], "little") - half for i in range(2 * DEGREE)]
    return np.array([digits[i] - digits[i + DEGREE] for i in range(DEGREE)], dtype=object)


def words_of(ciphertext, size=2):
    return read_words(save(ciphertext)[1], CIPHERTEXT_FIELDS, (size, len(PRIMES), DEGREE))


class Attacker:
    """Holds the common secret, and a context of one plain modulus."""

    def __init__(self, secret, public_ring):
        self.ring, self.t = public_ring, public_ring.plain_modulus
        self.s = np.array([int(x) if x < 2 else -1 for x in unpack_key(secret, 3)], dtype=object)
        self.encoder = sealapi.BatchEncoder(public_ring._ring.seal)

    def phase(self, ciphertext):
        """c_0 + c_1 s (+ c_2 s^2) over the integers, from balanced words."""
        size = ciphertext.size()
        polynomials = [whole(part) for part in words_of(ciphertext, size)]
        total, power = polynomials[0], np.array([1] + [0] * (DEGREE - 1), dtype=object)
        for polynomial in polynomials[1:]:
            power = negacyclic(power, self.s)
            total = total + negacyclic(polynomial, power)
        return total

    def message_of(self, slots):
        """The coefficients of an encoded plaintext."""
        plaintext = sealapi.Plaintext()
        self.encoder.encode([int(x) % self.t for x in slots], plaintext)
        found = [plaintext.data(i) for i in range(plaintext.coeff_count())]
        return np.array(found + [0] * (DEGREE - len(found)), dtype=object)

    def slots_of(self, message):
        """The slots of a plaintext's coefficients."""
        text = " + ".join(f"{int(x) % self.t:X}x^{i}" for i, x in reversed(list(enumerate(message))) if int(x) % self.t)
        found = np.array(self.encoder.decode_uint64(sealapi.Plaintext(text or "0")), dtype=np.int64)
        return np.where(found > self.t // 2, found - self.t, found)

    def noise(self, ciphertext, message):
        """The noise of a ciphertext whose message is known, as floats: what its phase is off (Q/t) m modulo Q."""
        phase, rest = self.phase(ciphertext), []
        for x, m in zip(phase, message, strict=True):
            scaled = (self.t * int(x) - MODULUS * int(m)) % (MODULUS * self.t)
            rest.append((scaled - MODULUS * self.t if scaled > MODULUS * self.t // 2 else scaled) / self.t)
        return np.array(rest)


def shifted(fresh, amount, place=0):
    """An upload with a number added to one coefficient of its first polynomial: legal to look at, but noisy."""
    words = fresh.words.copy()
    for row, prime in zip(words, PRIMES, strict=True):
        row[place] = (int(row[place]) + amount) % prime
    return Fresh(fresh.seed, words)


def re_encrypted(fresh, old, new, t):
    """The same draws of noise and second polynomial, with message coefficients `new` in place of `old`."""
    words = fresh.words.copy()
    scaled = [[(MODULUS * int(m) + (t + 1) // 2) // t for m in message] for message in (old, new)]
    for row, prime in zip(words, PRIMES, strict=True):
        row[:] = [(int(x) - a + b) % prime for x, a, b in zip(row, *scaled, strict=True)]
    return Fresh(fresh.seed, words)


def leaky(ring, product, keys, *, flood=0, randomised=False):
    """A product relinearised, with a flood and an encryption of zero only where asked for: all of it, not yet cut."""
    answer = sealapi.Ciphertext()
    ring._evaluator.relinearize(product, keys.relinearising, answer)
    if randomised:
        zero = sealapi.Ciphertext()
        keys.encryptor.encrypt_zero(zero)
        ring._evaluator.add_inplace(answer, zero)
    if flood:
        ring._evaluator.add_inplace(answer, ring._constant(secrets.randbelow(2 * flood + 1) - flood))
    return answer


def root_mean_square(values):
    return math.sqrt(float(np.mean(np.square(np.asarray(values, dtype=np.float64)))))
