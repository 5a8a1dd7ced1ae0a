"""What the noise left in a decrypted sum tells one hospital of another: attacks, for any scheme and for real rounds.

The adversary is a hospital that keeps its own answer. It has the secret key s, what it sent itself, and the whole
answer: the sum M of slots, the words, and of the uniform halves a_i either all (an answer with seeds) or their sum. The
words' noise is sum_i w_i (e_i - dropped_i) and what rounded encodings leave, where dropped_i are the low bits of c0_i =
encoded(m_i) + e_i - a_i s. Who knows a_i s and guesses m_i predicts dropped_i, and the guess shows in the noise: that
is `carries`. `residue` predicts round(q m / t) - q m / t instead, and needs no a_i.

What the sum itself tells is no leak: noise is measured from where the words of that sum belong, and two guesses are
never told apart by how well they fit M.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from securepfl.crypto.sums.encoding import encoded
from securepfl.crypto.sums.parameters import SEED_BYTES
from securepfl.crypto.sums.seal import CiphertextSum
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import add, scale, subtract


def chance(trials: int, bits: int = 20) -> int:
    """The fewest right guesses of `trials` between two that a coin comes to with chance at most 2^-bits, or as few
    wrong ones: whoever guesses so well knows something.
    """
    tail, right = 0, trials + 1
    while (tail + math.comb(trials, right - 1)) << (bits + 1) <= 1 << trials:
        right -= 1
        tail += math.comb(trials, right)
    return right


def knows_something(right: int, trials: int) -> bool:
    """Whether so many right guesses, or so many wrong, are no accident: one in 2^24, as tests ask some eighty times."""
    return max(right, trials - right) >= chance(trials, bits=24)


def rounded(slots, parameters):
    """SEAL's encoding under any prime, also one that no ParameterSet may have, exactly."""
    q, t = parameters.coeff_modulus, parameters.plain_modulus
    if (q + 1) % t == 0:
        return encoded(slots, t, q)
    whole, rest = divmod(q, t)
    # floor((rest m + (t + 1) / 2) / t): in doubles at most one off, and what is left over tells which way.
    part = np.floor(slots.astype(np.float64) * (rest / t) + 0.5).astype(np.int64)
    over = slots.view(np.int64) * np.int64(rest) - part * np.int64(t) + np.int64((t + 1) // 2)
    part += (over >= t).astype(np.int64) - (over < 0)
    return slots * np.uint64(whole) + part.view(np.uint64)


def placed(total, parameters):
    """Where the words of a sum of value slots belong: under today's primes j M, for the encodings in it are linear."""
    q, t = parameters.coeff_modulus, parameters.plain_modulus
    return rounded(total, parameters) if (q + 1) % t else total * np.uint64((q + 1) // t)


def residue(slots, parameters):
    """round(q m / t) - q m / t, for each slot."""
    q, t = parameters.coeff_modulus, parameters.plain_modulus
    over = scale(slots, q % t, t).astype(np.float64) / t
    return np.where(over >= 0.5, 1.0 - over, -over)


def centred(words, modulus):
    """Words modulo a prime as signed numbers about 0."""
    signed = words.astype(np.int64)
    return np.where(signed > modulus // 2, signed - modulus, signed)


@dataclass
class View:
    """What the adversary has of one answer.

    `total` are the slots it decrypts, `noise` what the words are away from their encoding. `products` are a_i s by
    client, those that it knows for certain; `rest` is what it knows of all others together.
    """

    parameters: object
    dropped: int
    total: np.ndarray
    noise: np.ndarray
    products: Mapping[int, np.ndarray]
    rest: np.ndarray
    own: np.ndarray | None = None

    def first(self, slots: int) -> "View":
        """Of the first slots alone: those of values, without tags."""
        products = {client: product[:slots] for client, product in self.products.items()}
        parts = (self.total[:slots], self.noise[:slots], products, self.rest[:slots])
        return View(self.parameters, self.dropped, *parts)

    def product(self, client: int):
        """a_i s where it is known, else a stand-in of its own for each client from what is."""
        known = self.products.get(client)
        return scale(self.rest, client + 1, self.parameters.coeff_modulus) if known is None else known

    def low(self, slots, client: int):
        """The low bits that this client would have dropped, had it sent these slots."""
        q = self.parameters.coeff_modulus
        words = subtract(rounded(slots, self.parameters), self.product(client), q)
        return (words & np.uint64((1 << self.dropped) - 1)).astype(np.float64)

    def carries(self, slots, client: int) -> float:
        """How well the noise fits this client having sent these slots, by the low bits that it dropped."""
        return -_correlation(self.low(slots, client), self.noise)

    def residue(self, slots, client: int) -> float:
        """The same by what its encoding was rounded by."""
        return _correlation(residue(slots, self.parameters), self.noise)


def _correlation(left, right) -> float:
    left, right = left - left.mean(), right - right.mean()
    size = math.sqrt(float(left @ left) * float(right @ right))
    return float(left @ right) / size if size else 0.0


SCORES = (View.carries, View.residue)


def products_of(secret, seeds, slots):
    """a s of one contribution from its seeds, ours or SEAL's, shape (slots,)."""
    parameters = secret.parameters
    degree, count = parameters.poly_modulus_degree, -(-slots // parameters.poly_modulus_degree)
    if len(seeds) == SEED_BYTES:
        halves = uniform_words(seeds, count * degree, parameters.coeff_modulus).reshape(count, degree)
    else:
        expanding = CiphertextSum(parameters, slots)
        expanding.add(seeds, np.zeros(slots, dtype=np.uint64), 1)
        halves = expanding.words()[1]
    return secret.times_secret(halves).reshape(-1)[:slots]


def view_of(secret, wire, answer: bytes, own: "Own | None" = None, members=None) -> View:
    """What the hospital makes of an answer; `members` are the clients in it, in order, `own` among them if given."""
    parameters, slots, q = secret.parameters, wire.layout.slots, wire.modulus
    weights, carried, words = wire.read_answer(answer)
    members, products = list(range(len(weights)) if members is None else members), {}
    if wire.sums_halves:
        halves = wire.read_halves(carried)
        whole = secret.times_secret(halves).reshape(-1)[:slots]
    else:
        seeds = [carried[at : at + wire.seed_bytes] for at in range(0, len(carried), wire.seed_bytes)]
        products = {client: products_of(secret, seed, slots) for client, seed in zip(members, seeds, strict=True)}
        scaled = [scale(products[client], weight, q) for client, weight in zip(members, weights, strict=True)]
        whole = np.zeros(slots, dtype=np.uint64)
        for part in scaled:
            whole = add(whole, part, q)
    full = wire.with_middles(words, sum(weights))
    uniform = halves if wire.sums_halves else _summed_halves(secret, seeds, weights, slots)
    total = secret.decrypt(full, uniform)
    noise = centred(subtract(add(words, whole, q), placed(total, parameters), q), q).astype(np.float64)
    view = View(parameters, wire.dropped_bits, total, noise, products, whole)
    if own is not None:
        # It knows its own half and its own low bits, whatever an answer carries.
        view.products = {**products, own.client: own.product}
        view.rest = subtract(whole, own.product, q)
        view.noise, view.own = noise + view.low(own.slots, own.client), own.slots
    return view


def _summed_halves(secret, seeds, weights, slots):
    parameters = secret.parameters
    count, q = -(-slots // parameters.poly_modulus_degree), parameters.coeff_modulus
    total = np.zeros(count * parameters.poly_modulus_degree, dtype=np.uint64)
    for seed, weight in zip(seeds, weights, strict=True):
        total = add(total, scale(uniform_words(seed, total.size, q), weight, q), q)
    return total.reshape(count, -1)


@dataclass
class Own:
    """What the adversary put into a sum itself."""

    client: int
    slots: np.ndarray
    product: np.ndarray
