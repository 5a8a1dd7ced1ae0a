"""Products of ciphertexts: the noise that the closed form bounds, what hides it, and attacks that must fail."""

import math
from functools import cache

import numpy as np
import pytest
from laboratory import Attacker, leaky, negacyclic, re_encrypted, root_mean_square, shifted, words_of
from scipy.stats import binom, kstest
from tenseal import sealapi

from securepfl.crypto.similarity.parameters import (
    DEGREE,
    DROPPED_BITS,
    KEY_PRIMES,
    MODULUS,
    PRIMES,
    distance,
    flood,
    largest_noise,
    most_bits_read,
    noise_shift,
)
from securepfl.crypto.similarity.precision import COARSE, FINE
from securepfl.crypto.similarity.product_wire import EvaluationKeys, Fresh, Hidden, ProductAnswer, SketchUpload
from securepfl.crypto.similarity.products import SIMILARITY, ProductSimilarity
from securepfl.crypto.similarity.row_check import RowCheck
from securepfl.crypto.similarity.scheme import Shape
from securepfl.crypto.similarity.seal import PublicRing, SecretRing
from securepfl.crypto.similarity.sketches import sketch
from securepfl.crypto.sums.ring import generate_ring_key, stamp, unpack_key
from securepfl.errors import AggregateError, MessageError

(T,) = COARSE.moduli
KEY, CONTEXT = b"k" * 32, b"digest, round 3, attempt 0"
CLIENTS = 4
SHAPE = Shape(CLIENTS, DEGREE, COARSE)
B = flood(T, CLIENTS)
CHANCE = 1e-9
"""How often a correct build may fail a look at what it drew from the OS; what is looked for comes far below."""


@cache
def secret():
    return generate_ring_key()


@cache
def hospital():
    return SecretRing(secret(), T)


@cache
def coordinator():
    return PublicRing(T)


@cache
def attacker():
    return Attacker(secret(), coordinator())


@cache
def evaluation():
    return hospital().evaluation_keys()


@cache
def keys():
    return coordinator().keys(evaluation())


def sketch_of(seed, size=DEGREE):
    return sketch(np.random.default_rng(seed).standard_normal(size), size, KEY, 1.0, COARSE, bytes([seed % 256]) * 32)


def slots_of(values):
    return (values % T).astype(np.uint64)


def fresh_of(values):
    return hospital().encrypt(slots_of(values))


def product_of(left, right):
    ring = coordinator()
    return ring.multiply(ring.upload(left), ring.upload(right))


def coefficient(values, others):
    """Coefficient 0 of the product of two messages modulo t."""
    return int(values @ others) * pow(DEGREE, -1, T) % T


def received_noise(hidden, expected):
    """What a receiver makes of coefficient 0 of an answer, less the inner product: in units of p_0."""
    s = unpack_key(secret(), 3).astype(np.int64)
    s[s == 2] = -1
    second = hidden.second.astype(object)
    phase = (hidden.first + int(second[0]) * int(s[0]) - int(np.dot(second[1:], s[1:][::-1]))) % PRIMES[0]
    off = (T * phase - PRIMES[0] * expected) % (PRIMES[0] * T)
    return (off - PRIMES[0] * T if off > PRIMES[0] * T // 2 else off) / T


# --- the closed form, measured ---


@pytest.mark.parametrize("moduli", [COARSE.moduli, FINE.moduli])
@pytest.mark.parametrize("clients", [3, 16, 1000])
def test_what_a_receiver_sees_of_another_sketch_moves_by_less_than_two_to_the_minus_38(moduli, clients):
    for t in moduli:
        assert distance(t, clients) < 2**-38
        assert most_bits_read(t, clients) < math.log2(t) + 0.3
        # Flood, worst noise and rounding leave decryption exact, with nothing to spare but the rounding down.
        scaled = (flood(t, clients) + largest_noise(t, clients)) * PRIMES[0] // MODULUS
        assert scaled + 320 * (2**DROPPED_BITS + 1) <= PRIMES[0] / (2 * t)
    assert 2 * math.exp(-2 * 320**2 / (DEGREE + 1)) < 2**-70


def test_the_noise_of_products_is_as_large_as_stated_and_below_its_bound():
    found = []
    for trial in range(6):
        left, right = sketch_of(trial), sketch_of(100 + trial)
        product = product_of(fresh_of(left), fresh_of(right))
        a, b = (attacker().message_of(values) for values in (left, right))
        found.append(attacker().noise(product, negacyclic(a, b) % T))
        answer = leaky(coordinator(), product, keys(), randomised=True)
        assert np.abs(attacker().noise(answer, negacyclic(a, b) % T)).max() < largest_noise(T)
    # t sqrt(2 N Var(v) Var(k)) for a key of two thirds of all coefficients.
    expected = T * math.sqrt(2 * DEGREE * 42 / 4 * (DEGREE * 2 / 3) / 12)
    assert 0.8 * expected < root_mean_square(found) < 1.25 * expected


def test_another_sketch_under_the_same_draws_moves_the_noise_by_no_more_than_stated():
    moved = []
    for trial in range(3):
        own, values, other = sketch_of(trial), sketch_of(100 + trial), sketch_of(200 + trial)
        mine, theirs = fresh_of(own), fresh_of(values)
        old, new, m = (attacker().message_of(v) for v in (values, other, own))
        noises = []
        for upload, message in ((theirs, old), (re_encrypted(theirs, old, new, T), new)):
            assert hospital().decrypt(upload) is not None
            product = leaky(coordinator(), product_of(mine, upload), keys())
            noises.append(attacker().noise(product, negacyclic(m, message) % T))
        moved.append(noises[0] - noises[1])
    measured = root_mean_square(moved)
    assert 0.2 * noise_shift(T) < measured < noise_shift(T)
    assert measured / (2 * B + 1) < 2**-38


def test_answers_are_flooded_over_the_whole_range_and_always_decrypt():
    own, other = sketch_of(1), sketch_of(2)
    product, expected = product_of(fresh_of(own), fresh_of(other)), coefficient(own, other)
    noises = []
    for _ in range(300):
        hidden = coordinator().hidden(product, keys().relinearising, [keys().encryptor], B)
        noises.append(received_noise(hidden, expected) * MODULUS / PRIMES[0] / B)
        assert hospital().opened(Hidden.from_bytes(hidden.to_bytes())) == int(own @ other) % T
    assert kstest(noises, "uniform", args=(-1, 2)).pvalue > CHANCE
    quiet = coordinator().hidden(product, keys().relinearising, [keys().encryptor], 0)
    assert abs(received_noise(quiet, expected)) * MODULUS / PRIMES[0] / B < 2**-8


@pytest.mark.parametrize("edge", [-1, 1])
def test_decryption_holds_at_both_ends_of_the_flood_and_fails_past_the_bound(monkeypatch, edge):
    own, other = sketch_of(1), sketch_of(2)
    product, inner = product_of(fresh_of(own), fresh_of(other)), int(own @ other) % T

    def opened(limit):
        monkeypatch.setattr("securepfl.crypto.similarity.seal.secrets.randbelow", lambda n: n - 1 if edge > 0 else 0)
        hidden = coordinator().hidden(product, keys().relinearising, [keys().encryptor], limit)
        return hospital().opened(Hidden.from_bytes(hidden.to_bytes()))

    assert all(opened(flood(T, 3)) == inner for _ in range(20))
    assert opened(int(1.3 * B)) != inner


def test_the_second_polynomial_is_fresh_every_time_and_would_not_be_without_the_encryption_of_zero():
    product = product_of(fresh_of(sketch_of(1)), fresh_of(sketch_of(2)))
    seconds = [
        coordinator().hidden(product, keys().relinearising, [keys().encryptor], B).second.astype(np.float64)
        for _ in range(2)
    ]
    apart = (seconds[0] - seconds[1]) % PRIMES[0] / PRIMES[0]
    assert kstest(apart, "uniform").pvalue > CHANCE
    assert kstest(seconds[0] / PRIMES[0], "uniform").pvalue > CHANCE
    same = [words_of(leaky(coordinator(), product, keys()))[1] for _ in range(2)]
    assert np.array_equal(*same)


# --- attacks by a hospital that holds the secret ---

LOUD = 2**40
"""What a dishonest hospital adds to one coefficient of its own upload: the product still decrypts."""


def heard(noise):
    """What the noise of a product with a loud upload says of the other message: t times the fraction of noise / t."""
    return np.array([round(float(x) / LOUD) % T for x in noise])


def test_without_flood_and_cut_one_product_gives_the_whole_sketch_away():
    own, other = sketch_of(1), sketch_of(2)
    product = product_of(shifted(fresh_of(own), LOUD), fresh_of(other))
    m = attacker().message_of(own)
    for randomised in (False, True):
        answer = leaky(coordinator(), product, keys(), randomised=randomised)
        # The loud coefficient also multiplies (Q/t) m: that is part of the message's product, which it decrypts.
        noise = attacker().noise(answer, negacyclic(m, attacker().message_of(other)) % T)
        found = attacker().slots_of(heard(noise))
        assert np.array_equal(found, other)


def loud_guesses(limit, trials=48):
    """How often the top four bits of the other message's coefficient 0 are read off coefficient 0 of an answer."""
    right = 0
    for trial in range(trials):
        own, other = sketch_of(trial), sketch_of(100 + trial)
        product = product_of(shifted(fresh_of(own), LOUD), fresh_of(other))
        hidden = coordinator().hidden(product, keys().relinearising, [keys().encryptor], limit)
        noise = received_noise(hidden, coefficient(own, other)) * MODULUS / PRIMES[0]
        truth = int(attacker().message_of(other)[0])
        right += int(heard([noise])[0]) * 16 // T == truth * 16 // T
    return right


def test_one_coefficient_is_read_without_flood_and_at_chance_with_it():
    assert loud_guesses(0) > 40
    assert binom.sf(loud_guesses(B) - 1, 48, 1 / 16) > CHANCE


def chosen():
    """A ciphertext that no seed gives: its first polynomial is 0, its second the constant Q/t."""
    words = np.zeros((2, len(PRIMES), DEGREE), dtype=np.uint64)
    words[1, :, 0] = [MODULUS // T % prime for prime in PRIMES]
    ring = coordinator()._ring
    return ring.ciphertext(ring.fresh, words)


def test_the_second_polynomials_of_a_bare_product_are_the_others_ciphertext_and_ours_is_not():
    other = sketch_of(5)
    theirs = fresh_of(other)
    ring = coordinator()
    product = ring.multiply(chosen(), ring.upload(theirs))
    bare = words_of(product, 3)
    decryptor, plaintext = hospital()._decryptor, sealapi.Plaintext()
    decryptor.decrypt(ring._ring.ciphertext(ring._ring.fresh, bare[1:]), plaintext)
    assert np.array_equal(attacker().slots_of([plaintext.data(i) for i in range(DEGREE)]), other)
    # Of ours a hospital has one polynomial modulo p_0. The best it stands for is the first of the two.
    hidden = ring.hidden(product, keys().relinearising, [keys().encryptor], B)
    scaled = np.array([int(x) * (MODULUS // PRIMES[0]) for x in hidden.second], dtype=object)
    words = words_of(ring.upload(theirs))
    words[0] = [[int(x) % prime for x in scaled] for prime in PRIMES]
    decryptor.decrypt(ring._ring.ciphertext(ring._ring.fresh, words), plaintext)
    found = attacker().slots_of([plaintext.data(i) for i in range(plaintext.coeff_count())])
    # Even with the true second half of the other's ciphertext, which it lacks: chance.
    assert (found == other).sum() < 5


# --- the row's check ---


def test_a_row_altered_anyhow_passes_its_check_with_chance_one_in_t():
    """Counted modulo a small prime, where it can be."""
    modulus, trials = 11, 4000
    rng, passed = np.random.default_rng(0), 0
    slots = rng.integers(0, modulus, (4, DEGREE)).astype(np.uint64)
    for trial in range(trials):
        check = RowCheck(KEY, modulus, trial.to_bytes(4, "big"), (4, DEGREE))
        products = {j: int(slots[0].astype(int) @ slots[j].astype(int)) % modulus for j in (1, 2, 3)}
        lanes = [check.lane(slots[j], j).astype(int) for j in (1, 2, 3)]
        right = int(slots[0].astype(int) @ sum(lanes)) % modulus
        assert check.expected(products, slots[0]) == right
        altered = {j: (p + int(rng.integers(0, modulus))) % modulus for j, p in products.items()}
        altered[1] = (products[1] + 1 + int(rng.integers(0, modulus - 1))) % modulus
        passed += check.expected(altered, slots[0]) == (right + trial) % modulus
    assert binom.ppf(1e-4, trials, 1 / modulus) < passed < binom.ppf(1 - 1e-4, trials, 1 / modulus)


@cache
def cipher():
    return ProductSimilarity(KEY, secret(), SHAPE)


@cache
def uploads():
    return [cipher().encrypt(sketch_of(i), 1.0 + i, i, CONTEXT) for i in range(CLIENTS)]


@cache
def evaluation_bytes():
    return {client: cipher().evaluation_keys() for client in range(CLIENTS)}


def table_of(sent=None):
    table = SIMILARITY.table(SHAPE, evaluation_bytes())
    for client, upload in enumerate(uploads() if sent is None else sent):
        table.add(client, upload)
    return table


@cache
def row():
    return table_of().row(0)


def refused(altered):
    with pytest.raises(AggregateError, match="failed its check"):
        cipher().open_row(altered, sketch_of(0), 0, CONTEXT)


def with_words(other, change):
    """The row with an answer's words changed."""
    about_all = other == 0
    answer = ProductAnswer.from_bytes(row()[other], SHAPE, about_all=about_all)
    products = tuple(change(hidden) for hidden in answer.products)
    return row() | {other: ProductAnswer(answer.norm, products).to_bytes()}


@pytest.mark.parametrize("other", range(CLIENTS))
@pytest.mark.parametrize("part", ["first", "second"])
def test_any_number_of_an_answer_altered_is_refused(other, part):
    def change(hidden):
        if part == "first":
            return Hidden((hidden.first + PRIMES[0] // 3) % PRIMES[0], hidden.second)
        second = hidden.second.copy()
        # A changed word is multiplied by one coefficient of the secret: where that is 0, nothing changes.
        place = DEGREE - int(np.flatnonzero(unpack_key(secret(), 3))[-1])
        second[place] = (int(second[place]) + PRIMES[0] // 3) % PRIMES[0]
        return Hidden(hidden.first, second)

    refused(with_words(other, change))


def scaled(factor):
    return lambda hidden: Hidden(hidden.first * factor % PRIMES[0], hidden.second * np.uint64(factor) % PRIMES[0])


@pytest.mark.parametrize("factor", [0, 2, 3])
@pytest.mark.parametrize("other", range(CLIENTS))
def test_scaled_and_zeroed_answers_and_checks_are_refused(other, factor):
    if factor == 0:
        refused(with_words(other, scaled(0)))
    else:
        # Scaling also scales the flood past what decryption bears: a coordinator would scale before it floods.
        ring = coordinator()
        parsed = [SketchUpload.from_bytes(upload, SHAPE, stamp()).lanes[0] for upload in uploads()]
        left = ring.upload(parsed[0].value)
        right = ring.upload(parsed[other or 1].value if other else parsed[1].check)
        doubled = right
        for _ in range(factor - 1):
            doubled = ring.add(doubled, right)
        hidden = ring.hidden(ring.multiply(left, doubled), keys().relinearising, [keys().encryptor], B)
        norm = row()[other][:32] if other else b""
        refused(row() | {other: ProductAnswer(norm, (hidden,)).to_bytes()})


def test_swapped_dropped_and_replayed_answers_are_refused():
    refused(row() | {1: row()[2], 2: row()[1]})
    for other in (1, 2, 3):
        refused({client: answer for client, answer in row().items() if client != other})
    refused(row() | {0: table_of().row(1)[1]})
    # Norms and products of two answers mixed.
    for head, tail in ((1, 2), (2, 1)):
        refused(row() | {head: row()[tail][:32] + row()[head][32:]})
    with pytest.raises(MessageError, match="without its check"):
        cipher().open_row({1: row()[1]}, sketch_of(0), 0, CONTEXT)
    with pytest.raises(MessageError, match="nothing else"):
        cipher().open_row({0: row()[0]}, sketch_of(0), 0, CONTEXT)


def test_a_row_about_others_than_were_added_is_refused():
    table = table_of()
    table.leave_out(3)
    refused(row() | {0: table.row(0)[0]})
    refused(table.row(0) | {3: row()[3]})
    assert set(cipher().open_row(table.row(0), sketch_of(0), 0, CONTEXT)) == {1, 2}


def test_hospitals_are_left_out_to_the_last():
    table = table_of()
    assert len(table.row(0)) == CLIENTS
    for client in (1, 3, 2):
        table.leave_out(client)
        assert len(table.row(0)) == (0 if client == 2 else CLIENTS - (1 if client == 1 else 2))
    table.leave_out(0)
    table.add(1, uploads()[1])
    table.add(2, uploads()[2])
    assert set(cipher().open_row(table.row(1), sketch_of(1), 1, CONTEXT)) == {2}


def test_a_rows_check_is_hidden_by_the_public_key_of_any_one_of_the_others():
    """Three of four lay theirs open, the receiver's among them: the sum of the others' still randomises."""
    silent = {}
    for client, data in evaluation_bytes().items():
        read = EvaluationKeys.from_bytes(data, stamp())
        public = read.public if client == 1 else np.zeros_like(read.public)
        silent[client] = EvaluationKeys(public, read.relinearising).to_bytes(stamp())
    seconds = []
    for keys_ in (silent, dict.fromkeys(range(CLIENTS), silent[0])):
        for _ in range(2):
            table = SIMILARITY.table(SHAPE, keys_)
            for client, upload in enumerate(uploads()):
                table.add(client, upload)
            seconds.append(ProductAnswer.from_bytes(table.row(0)[0], SHAPE, about_all=True).products[0].second)
    apart = (seconds[0].astype(np.float64) - seconds[1]) % PRIMES[0] / PRIMES[0]
    assert kstest(apart, "uniform").pvalue > CHANCE
    # Where all do, two answers are the same up to the noise of an encryption: the test can fail.
    apart = np.abs(seconds[2].astype(np.int64) - seconds[3].astype(np.int64))
    assert np.minimum(apart, PRIMES[0] - apart).max() <= 2**DROPPED_BITS * 2


def test_a_key_that_takes_the_others_away_does_not_lay_a_rows_check_open():
    """An opened round shows others' public keys. Who sends its own only then may make all of a row's cancel."""
    read = {client: EvaluationKeys.from_bytes(data, stamp()) for client, data in evaluation_bytes().items()}
    modulus = np.array(KEY_PRIMES, dtype=np.uint64)[:, np.newaxis]
    rogue = (2 * modulus - read[1].public - read[2].public) % modulus
    keys_ = evaluation_bytes() | {3: EvaluationKeys(rogue, read[3].relinearising).to_bytes(stamp())}
    seconds = []
    for _ in range(2):
        table = SIMILARITY.table(SHAPE, keys_)
        for client, upload in enumerate(uploads()):
            table.add(client, upload)
        seconds.append(ProductAnswer.from_bytes(table.row(0)[0], SHAPE, about_all=True).products[0].second)
    apart = (seconds[0].astype(np.float64) - seconds[1]) % PRIMES[0] / PRIMES[0]
    assert kstest(apart, "uniform").pvalue > CHANCE


def test_the_lanes_of_two_hospitals_exchanged_are_refused():
    parsed = [SketchUpload.from_bytes(upload, SHAPE, stamp()) for upload in uploads()]
    for values, checks in (((0, 2, 1, 3), (0, 2, 1, 3)), ((0, 2, 1, 3), (0, 1, 2, 3)), ((1, 0, 2, 3), (1, 0, 2, 3))):
        sent = [
            SketchUpload(
                parsed[i].norm, (type(parsed[i].lanes[0])(parsed[v].lanes[0].value, parsed[c].lanes[0].check),)
            ).to_bytes(stamp())
            for i, (v, c) in enumerate(zip(values, checks, strict=True))
        ]
        refused(table_of(sent).row(0))


# --- one hospital's upload and keys ---


def test_loud_and_unrelated_uploads_are_found_out():
    parsed = SketchUpload.from_bytes(uploads()[1], SHAPE, stamp())
    lanes = parsed.lanes[0]
    for value, check in (
        (shifted(lanes.value, 50), lanes.check),
        (lanes.value, shifted(lanes.check, 2**40)),
        (fresh_of(sketch_of(9)), lanes.check),
        (lanes.value, fresh_of(sketch_of(1))),
    ):
        changed = SketchUpload(parsed.norm, (type(lanes)(value, check),)).to_bytes(stamp())
        assert not cipher().check_upload(changed, 1, CONTEXT)


@cache
def read_keys():
    return EvaluationKeys.from_bytes(evaluation_bytes()[1], stamp())


def test_evaluation_keys_by_the_rules_pass_and_others_are_found_out():
    good = read_keys()
    SIMILARITY.check_keys(evaluation_bytes()[1])
    assert cipher().check_keys(evaluation_bytes()[1])
    relin = good.relinearising
    silent = good.public.copy()
    silent[1] = 0
    noisy = good.public.copy()
    noisy[0, 0, 0] ^= 1
    flat = Fresh(relin[0].seed, np.zeros_like(relin[0].words))
    for bad in (
        EvaluationKeys(silent, relin),
        EvaluationKeys(noisy, relin),
        EvaluationKeys(good.public, (flat, relin[1])),
        EvaluationKeys(good.public, relin[::-1]),
        EvaluationKeys(good.public, SecretRing(generate_ring_key(), T).evaluation_keys().relinearising),
    ):
        assert not cipher().check_keys(bad.to_bytes(stamp()))
    assert not cipher().check_keys(b"")


def test_evaluation_keys_of_another_form_are_refused():
    data = evaluation_bytes()[0]
    for bad in (b"", data[:-1], data + b"\0", bytes(8) + data[8:], data[:8] + b"\xff" * (len(data) - 8)):
        with pytest.raises(MessageError):
            SIMILARITY.check_keys(bad)
    table = SIMILARITY.table(SHAPE, {})
    with pytest.raises(MessageError, match="evaluation keys"):
        table.add(0, uploads()[0])


def test_sketches_longer_than_a_ciphertext_and_wrong_keys_are_refused():
    long = Shape(3, DEGREE + 1, COARSE)
    for call in (lambda: ProductSimilarity(KEY, secret(), long), lambda: SIMILARITY.table(long, {})):
        with pytest.raises(ValueError, match="dimensions"):
            call()
    with pytest.raises(ValueError, match="32 bytes"):
        ProductSimilarity(b"short", secret(), SHAPE)
    with pytest.raises(MessageError):
        ProductSimilarity(KEY, secret()[:-1], SHAPE)


def test_keys_never_show_and_nothing_repeats():
    one = ProductSimilarity(b"\x41" * 32, secret(), SHAPE)
    check = RowCheck(b"\x41" * 32, T, CONTEXT, (1,))
    assert not any("AAAA" in f"{thing!r}{thing}" or "4141" in f"{thing!r}" for thing in (one, check, hospital()))
    again = cipher().encrypt(sketch_of(1), 2.0, 1, CONTEXT)
    seeds = [
        fresh.seed
        for upload in (again, *uploads())
        for lanes in SketchUpload.from_bytes(upload, SHAPE, stamp()).lanes
        for fresh in (lanes.value, lanes.check)
    ]
    assert len(set(seeds)) == len(seeds) == 10


def test_budgets_of_the_goal():
    shape = Shape(16, DEGREE, COARSE)
    down = 15 * SIMILARITY.answer_bytes(shape) + ProductAnswer.length(shape)
    assert SIMILARITY.upload_bytes(shape) < 100_000
    assert down / 15 < 24_000
    assert SIMILARITY.evaluation_bytes < 210_000
