"""What a hospital's own answer tells it of another hospital: nothing, under every scheme that the settings allow.

Four attacks run against real encryptions, under each scheme as it is used, and under two that are built here alone: our
own encryption without masks, whose answers carry every seed, and SEAL's under the prime that all sets once shared, with
every bit sent and no flood. A guess is between two, so chance is a coin; an attack fails within what a coin does but
for 2^-20, and it succeeds on what it was made for. `pytest -s` prints the counts.
"""

import itertools
from dataclasses import replace
from functools import lru_cache
from zlib import crc32

import numpy as np
import pytest
from noise_attacks import SCORES, Own, View, centred, chance, knows_something, placed, products_of, rounded, view_of

from securepfl.crypto.sums.contribution import prepare
from securepfl.crypto.sums.parameters import DEGREE, SETS, Layout, ParameterSet, choose_layout, top_level
from securepfl.crypto.sums.ring import generate_ring_key
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.seal import SecretContext
from securepfl.crypto.sums.seal_sum import SealAggregate
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import add, scale, subtract
from securepfl.errors import ConfigError
from securepfl.randomness import fresh_key

KEY, TAG_KEY = generate_ring_key(), fresh_key()
ZERO = top_level(8) // 2
"""The level of exactly 0.0."""

DENSE, SPARSE = 0.0, 0.8
"""The share of exact zeros in an update."""


def unchecked(plain_modulus, coeff_modulus):
    """A parameter set that is refused today."""
    made = object.__new__(ParameterSet)
    parts = {
        "name": "old",
        "poly_modulus_degree": DEGREE,
        "coeff_modulus": coeff_modulus,
        "plain_modulus": plain_modulus,
    }
    for name, part in parts.items():
        object.__setattr__(made, name, part)
    return made


OLD = unchecked(2**48 - 59, 2**60 - 16383)


class Bare(SealAggregate):
    """SEAL's sum without a flood."""

    def _flood(self, count):
        return np.zeros(count, dtype=np.uint64)


@lru_cache
def secret_of(parameters):
    return SecretContext(parameters, KEY)


class Sums:
    """Sums of one way under one layout, and what hospital `own` makes of its answer."""

    def __init__(self, layout, scheme, *, masked=False, bare=False):
        self.layout, self.secret, self.masked = layout, secret_of(layout.parameters), masked
        self.wire = find_scheme(scheme).wire(layout)
        if bare:
            self.wire = replace(self.wire, dropped_bits=0)
            self.total = lambda: Bare(self.wire)
            self.encrypt = lambda slots: self.wire.contribution(*self.secret.encrypt(slots))
        else:
            cipher = find_scheme(scheme).cipher(KEY, layout)
            self.total = lambda: find_scheme(scheme).total(layout)
            self.encrypt = lambda slots: cipher.encrypt(slots, layout)

    def view(self, slots, weights=None, own=None) -> View:
        """`slots` and `weights` by client; `own` is the adversary's place among them, if it has one."""
        t, total, mask = self.layout.parameters.plain_modulus, self.total(), None
        weights = dict.fromkeys(slots, 1) if weights is None else weights
        if self.masked:
            masks = {client: uniform_words(fresh_key(), self.layout.slots, t) for client in slots}
            slots = {client: add(row, masks[client], t) for client, row in slots.items()}
            mask = np.zeros(self.layout.slots, dtype=np.uint64)
            for client, row in masks.items():
                mask = add(mask, scale(row, weights[client], t), t)
        mine = None
        for client, row in slots.items():
            sent = self.encrypt(row)
            total.add(sent, weights[client])
            if client == own:
                seeds, _ = self.wire.read_contribution(sent)
                mine = Own(client, row, products_of(self.secret, seeds, self.layout.slots))
        return view_of(self.secret, self.wire, total.answer(mask), mine, list(slots))


def tenseal(layout):
    return Sums(layout, "tenseal")


def tenseal_masked(layout):
    return Sums(layout, "tenseal", masked=True)


def tenseal_bare(layout):
    """With today's primes nothing is left to drown in value slots: also without flood and with every bit sent."""
    return Sums(layout, "tenseal", bare=True)


def lean_masked(layout):
    return Sums(layout, "lean", masked=True)


def lean_open(layout):
    """The old path: no masks, and an answer that carries every seed."""
    return Sums(layout, "lean")


def old_prime(layout):
    """Nearly the old path: SEAL's, with a prime that is not t j - 1."""
    return Sums(replace(layout, parameters=OLD), "tenseal", bare=True)


ALLOWED = pytest.mark.parametrize("ways", [tenseal, tenseal_masked, lean_masked], ids=lambda ways: ways.__name__)
UNMASKED = pytest.mark.parametrize("ways", [tenseal, tenseal_bare], ids=lambda ways: ways.__name__)
ZEROS = pytest.mark.parametrize("zeros", [DENSE, SPARSE], ids=["dense", "mostly zeros"])


class Trials:
    """How many guesses between two were right, by each of some scores, and what a coin would come to."""

    def __init__(self, what, scores):
        self.what, self.scores, self.right, self.count = what, scores, [0] * len(scores), 0

    def guess(self, true, false, random):
        """Scores of what is true and of what is not."""
        self.count += 1
        for index, (one, other) in enumerate(zip(true, false, strict=True)):
            self.right[index] += one > other or (one == other and bool(random.integers(2)))

    def nothing(self):
        self._show()
        return not any(knows_something(right, self.count) for right in self.right)

    def nearly_all(self):
        self._show()
        return min(self.right) >= max(chance(self.count), 0.9 * self.count)

    def _show(self):
        counts = ", ".join(f"{right} by {score.__name__}" for score, right in zip(self.scores, self.right, strict=True))
        print(f"\n{self.what}: right of {self.count}: {counts}; a coin stays below {chance(self.count)}")


def levels(random, layout, zeros):
    """An update's levels: normal, with a share of exact zeros."""
    values = np.clip(0.2 * random.standard_normal(layout.values), -1, 1)
    values[random.random(layout.values) < zeros] = 0.0
    return np.round((values + 1) * ZERO).astype(np.uint64)


def prepared(random, layout, client, context, zeros=DENSE):
    return prepare(levels(random, layout, zeros), layout, client, TAG_KEY, context)


def drawing(ways, seed):
    """The test's own randomness, other for each way; encryptions draw from the OS as ever."""
    return np.random.default_rng([seed, crc32(ways.__name__.encode())])


def contexts():
    return (f"round {number}".encode() for number in itertools.count())


def by_carries(view, guess):
    guess = {client: slots for client, slots in guess.items() if client}
    low = sum(view.low(slots, client) for client, slots in guess.items())
    return -float(np.abs(view.noise + low - np.mean(view.noise + low)).sum())


def by_residue(view, guess):
    guess = {0: view.own} | guess
    """All slots, tags too: how near the noise lies to what the encodings of these slots would leave."""
    q, t = view.parameters.coeff_modulus, view.parameters.plain_modulus
    words, slots = (np.zeros(view.total.size, dtype=np.uint64) for _ in range(2))
    for row in guess.values():
        words, slots = add(words, rounded(row, view.parameters), q), add(slots, row, t)
    left = centred(subtract(words, placed(slots, view.parameters), q), q)
    return -float(((view.noise - left) ** 2).sum())


PAIRWISE = (by_carries, by_residue)


def swap(ways, values, trials, zeros, scores=PAIRWISE, seed=7):
    """Two others sent these two updates: which is whose? Everything but that is known."""
    layout, random = choose_layout(values, 8, 3), drawing(ways, seed)
    sums, found = ways(layout), Trials(f"{ways.__name__}, swap of {values} values, {zeros:.0%} zeros", scores)
    layout = sums.layout
    for context, _ in zip(contexts(), range(trials), strict=False):
        rows = [levels(random, layout, zeros) for _ in range(3)]
        one, other = ({1: rows[a], 2: rows[b]} for a, b in ((1, 2), (2, 1)))
        true, false = (one, other) if random.integers(2) else (other, one)
        tagged = [
            {client: prepare(row, layout, client, TAG_KEY, context) for client, row in guess.items()}
            for guess in (true, false)
        ]
        view = sums.view({0: prepare(rows[0], layout, 0, TAG_KEY, context), **tagged[0]}, own=0)
        found.guess(*([score(view, guess) for score in scores] for guess in tagged), random)
    return found


@ALLOWED
@ZEROS
def test_nobody_tells_whose_of_two_known_updates_is_whose(ways, zeros):
    assert swap(ways, 100, 60, zeros).nothing()


@ZEROS
def test_on_the_old_path_everybody_did(zeros):
    assert swap(lean_open, 100, 60, zeros, (by_carries,)).nearly_all()


def split(ways, values, trials, zeros, scores=PAIRWISE, seed=9):
    """Two others sent either this pair of updates or that pair, of the same sum. All else is known."""
    layout, random = choose_layout(values, 8, 3), drawing(ways, seed)
    sums = ways(layout)
    layout, found = sums.layout, Trials(f"{ways.__name__}, split of {values} values, {zeros:.0%} zeros", scores)
    for context, _ in zip(contexts(), range(trials), strict=False):
        both = levels(random, layout, zeros) + levels(random, layout, zeros)
        lowest, highest = np.maximum(both, 2 * ZERO) - 2 * ZERO, np.minimum(both, 2 * ZERO)
        ones = [random.integers(lowest, highest + 1, dtype=np.uint64) for _ in range(2)]
        tagged = [
            {1: prepare(one, layout, 1, TAG_KEY, context), 2: prepare(both - one, layout, 2, TAG_KEY, context)}
            for one in ones
        ]
        view = sums.view({0: prepared(random, layout, 0, context, zeros), **tagged[0]}, own=0)
        found.guess(*([score(view, guess) for score in scores] for guess in tagged), random)
    return found


@ALLOWED
@ZEROS
def test_nobody_tells_two_pairs_of_the_same_sum_apart(ways, zeros):
    assert split(ways, 100, 60, zeros).nothing()


@ZEROS
def test_on_the_old_path_everybody_told_pairs_apart(zeros):
    assert split(lean_open, 100, 60, zeros, (by_carries,)).nearly_all()


@ZEROS
def test_by_what_encodings_are_rounded_by_everybody_could_under_the_old_prime(zeros):
    assert split(old_prime, 24_000, 30, zeros, (by_residue,)).nearly_all()
    assert split(tenseal_bare, 24_000, 30, zeros, (by_residue,)).nothing()


def candidate(ways, clients, values, trials, zeros, scores=SCORES, seed=8):
    """Did hospital 1 of so many send this update, or that one? Of the others nothing is known."""
    layout, random = choose_layout(values, 8, clients), drawing(ways, seed)
    sums = ways(layout)
    name = f"{ways.__name__}, candidate among {clients}, {values} values, {zeros:.0%} zeros"
    layout, found = sums.layout, Trials(name, scores)
    for context, _ in zip(contexts(), range(trials), strict=False):
        slots = {client: prepared(random, layout, client, context, zeros) for client in range(clients)}
        view = sums.view(slots, own=0).first(layout.value_slots)
        fake = prepared(random, layout, 1, context, zeros)
        guesses = [row[: layout.value_slots] for row in (slots[1], fake)]
        found.guess(*([score(view, guess, 1) for score in scores] for guess in guesses), random)
    return found


@ALLOWED
@ZEROS
def test_nobody_tells_whether_another_sent_this_update(ways, zeros):
    assert candidate(ways, 16, 2000, 40, zeros).nothing()


@ZEROS
def test_on_the_old_path_everybody_could(zeros):
    assert candidate(lean_open, 16, 2000, 40, zeros, (View.carries,)).nearly_all()


def test_by_what_its_encoding_was_rounded_by_everybody_could():
    assert candidate(old_prime, 3, 60_000, 25, DENSE, (View.residue,)).nearly_all()
    assert candidate(tenseal_bare, 3, 60_000, 25, DENSE, (View.residue,)).nothing()


def whose_are_zeros(ways, trials, seed=3):
    """Five of fifteen updates are mostly zeros, as after a soft threshold. Of two, one of each kind, which is it?"""
    clients, random = 16, drawing(ways, seed)
    layout = choose_layout(20_000, 8, clients)
    sums, found = ways(layout), Trials(f"{ways.__name__}, whose updates are zeros", (View.carries,))
    for context, _ in zip(contexts(), range(trials), strict=False):
        order = random.permutation(np.arange(1, clients))
        sparse, dense = order[:5], order[5:10]
        slots = {
            client: prepared(random, layout, client, context, SPARSE if client in sparse else DENSE)
            for client in range(clients)
        }
        view = sums.view(slots, own=0).first(layout.value_slots)
        zero = prepare(np.full(layout.values, ZERO, dtype=np.uint64), layout, 0, TAG_KEY, context)[: layout.value_slots]
        for one, other in zip(sparse, dense, strict=True):
            found.guess([view.carries(zero, int(one))], [view.carries(zero, int(other))], random)
    return found


@ALLOWED
def test_nobody_tells_whose_updates_are_zeros(ways):
    assert whose_are_zeros(ways, 8).nothing()


def test_on_the_old_path_everybody_saw_whose_updates_are_zeros():
    assert whose_are_zeros(lean_open, 8).nearly_all()


def neighbourhood(ways, values, trials, rounds, zeros, most_weight=1, scores=SCORES, seed=3):
    """Of three others' personal parts, own not among them: is the first this one, or that? Over several rounds of the
    same parts under other tags, noise and, where they have any, weights.
    """
    layout, random = choose_layout(values, 8, 4, most_weight), drawing(ways, seed)
    sums = ways(layout)
    name = (
        f"{ways.__name__}, sum of three, {values} values, {rounds} rounds, weights to {most_weight}, {zeros:.0%} zeros"
    )
    layout, found, names = sums.layout, Trials(name, scores), contexts()
    for _ in range(trials):
        rows, fake = [levels(random, layout, zeros) for _ in range(3)], levels(random, layout, zeros)
        known = np.zeros((2, len(scores)))
        for context, _ in zip(names, range(rounds), strict=False):
            slots = {client + 1: prepare(row, layout, client + 1, TAG_KEY, context) for client, row in enumerate(rows)}
            weights = {client: int(random.integers(1, most_weight + 1)) for client in slots}
            view = sums.view(slots, weights).first(layout.value_slots)
            other = prepare(fake, layout, 1, TAG_KEY, context)
            guesses = [row[: layout.value_slots] for row in (slots[1], other)]
            known += [[score(view, guess, 1) for score in scores] for guess in guesses]
        found.guess(*known, random)
    return found


@UNMASKED
@ZEROS
@pytest.mark.parametrize("most_weight", [1, 4095])
def test_nobody_tells_whose_personal_part_is_whose(ways, zeros, most_weight):
    assert neighbourhood(ways, 300, 40, 3, zeros, most_weight).nothing()


def test_on_the_old_path_everybody_told_whose_personal_part_is_whose():
    assert neighbourhood(lean_open, 31, 40, 10, DENSE, scores=(View.carries,)).nearly_all()
    assert neighbourhood(lean_open, 300, 40, 3, DENSE, scores=(View.carries,)).nearly_all()
    assert neighbourhood(lean_open, 300, 40, 3, SPARSE, scores=(View.carries,)).nearly_all()


def residues_read(ways, layout):
    """Whether a heavy contribution whose slots are any residues, as a tag's are, shows in the noise of a sum: how many
    standard deviations of a coin from nothing. Its share is the weight times m / t, less 1 from t / 2 on.
    """
    random, t = np.random.default_rng(7), layout.parameters.plain_modulus
    slots = {client: random.integers(0, t, layout.slots, dtype=np.uint64) for client in range(3)}
    view = ways(layout).view(slots, {0: layout.heaviest, 1: 1, 2: 1})
    return abs(np.corrcoef(centred(slots[0], t), view.noise)[0, 1]) * np.sqrt(layout.slots)


HEAVY = choose_layout(20_000, 8, 87, 4095)
"""The largest rosters with weights have the least room for a flood."""


def test_nobody_reads_tags_of_heavy_contributions():
    assert residues_read(tenseal, HEAVY) < 5


def test_without_a_flood_everybody_would():
    assert residues_read(tenseal_bare, HEAVY) > 5


def test_floods_grow_with_the_largest_weight():
    for clients, bits, weight in itertools.product(range(2, 96), range(2, 17), (1, 7, 4095)):
        try:
            layout = choose_layout(1000, bits, clients, weight)
        except ConfigError:
            continue
        assert layout.heaviest == weight and layout.flood >= 64 * weight


def test_the_old_set_is_the_old_one_and_its_sums_are_exact():
    """The attacks on it fail for no other reason than its prime."""
    layout = Layout(OLD, 20_000, 8, 3, 3)
    random, context = np.random.default_rng(1), b"once"
    slots = {client: prepared(random, layout, client, context) for client in range(3)}
    view = old_prime(layout).view(slots)
    t = OLD.plain_modulus
    expected = sum(row.astype(object) for row in slots.values()) % t
    assert (view.total == expected.astype(np.uint64)).all()
    exact = [(OLD.coeff_modulus * word + (t + 1) // 2) // t for word in slots[0][:2000].tolist()]
    assert rounded(slots[0][:2000], OLD).tolist() == exact
    assert np.abs(view.noise).max() <= 3 * 22
    with pytest.raises(ValueError, match="single updates"):
        ParameterSet("old", DEGREE, OLD.coeff_modulus, t)


@pytest.mark.parametrize("parameters", SETS, ids=lambda p: p.name)
def test_without_flood_and_dropped_bits_a_sums_noise_is_the_fresh_noise_alone(parameters):
    """Value slots leave nothing: the noise of a sum of three is a sum of three fresh ones, in every set."""
    layout = Layout(parameters, 20_000, 8, 3, 3)
    random = np.random.default_rng(2)
    slots = {client: prepared(random, layout, client, b"once", SPARSE) for client in range(3)}
    view = Sums(layout, "tenseal", bare=True).view(slots)
    noise = view.noise[: layout.value_slots]
    assert np.abs(noise).max() <= 63
    # Variance 31.5, of a sample of some thousands.
    assert abs(noise.var() - 31.5) < 31.5 * 6 * np.sqrt(2 / noise.size)


def test_a_coin_passes_and_one_that_knows_does_not():
    assert not knows_something(20, 40) and not knows_something(33, 40)
    assert knows_something(40, 40) and knows_something(0, 40) and knows_something(38, 40)
    # At most 2^-20 together, either way.
    tails = [sum(_choose(60, right) for right in range(chance(60) - shift, 61)) for shift in (0, 1)]
    assert 2 * tails[0] <= 2**40 < 2 * tails[1]


def _choose(trials, right):
    found = 1
    for at in range(right):
        found = found * (trials - at) // (at + 1)
    return found
