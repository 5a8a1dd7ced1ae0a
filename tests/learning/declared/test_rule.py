"""The rule against numbers worked out by hand, and what must hold whatever is declared."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securepfl.learning.declared.facts import Facts, Share
from securepfl.learning.declared.rows import Columns, binary, multiclass, multilabel, regression, row_of_mlp
from securepfl.learning.declared.rule import LEAST_STEPS, MOST_NOISE, MOST_STEPS, Given, choose

HEART = tuple(Share(units, units / 486) for units in (199, 172, 30, 85))
FACTS = Facts(HEART, mu=0.26805, residual=0.5085, curvature=0.24993, row=8.75)


def test_heart_disease_by_hand():
    # noise = sqrt(4) / (.26805 * 486) = .015352, so an output may hold 1 / (300 noise) = .21713 of it:
    # travel .21713 / (.5085 * 8.75 * .015352) = 3.1788, in ceil(5 * 3.1788 * .24993) = 4 steps, and 5 are the least.
    choice = choose(FACTS)
    assert choice.clip == 1.5
    assert choice.rounds == LEAST_STEPS
    assert choice.travel == pytest.approx(3.1788, rel=0.01)
    assert choice.learning_rate == pytest.approx(3.1788 / 5, rel=0.01)
    assert choice.output_noise == pytest.approx(0.21713, rel=0.01)
    # Any hospital's value: .637 * (.5085 + 5 * 1.5 * (sqrt(5) / .26805) / 199).
    assert choice.limit == pytest.approx(0.524, abs=0.002)


def test_noise_of_weights_by_units_depends_on_all_units_alone():
    even = Facts((Share(100, 0.25),) * 4, mu=0.3, residual=0.5, curvature=0.25, row=9.0)
    uneven = replace(even, hospitals=(Share(370, 0.925), Share(10, 0.025), Share(10, 0.025), Share(10, 0.025)))
    assert even.noise(5) == pytest.approx(uneven.noise(5))
    alike = replace(uneven, hospitals=tuple(replace(hospital, weight=0.25) for hospital in uneven.hospitals))
    assert alike.noise(5) > 4 * even.noise(5)


def test_shared_noise_lets_the_model_travel_further():
    many = Facts((Share(30, 0.05),) * 20, mu=0.3, residual=0.5, curvature=0.25, row=9.0)
    shared = replace(many, absent=1)
    assert many.noise(5) / shared.noise(5) == pytest.approx(0.84 * math.sqrt(19))
    assert choose(shared).travel > 3 * choose(many).travel


def test_drawn_batches_are_noisier_than_full_ones_and_hardly_with_many_steps():
    full = Facts((Share(5000, 1.0),), mu=1.0, residual=0.5, curvature=0.25, row=9.0)
    drawn = replace(full, hospitals=(Share(5000, 1.0, rate=0.1),))
    assert drawn.noise(40) > 1.2 * full.noise(40)
    assert drawn.noise(100_000) == pytest.approx(full.noise(100_000), rel=0.01)


def test_what_is_given_stays_and_the_rest_follows_it():
    slow = choose(FACTS, Given(learning_rate=0.1))
    assert slow.learning_rate == 0.1
    assert slow.travel == pytest.approx(choose(FACTS).travel, rel=0.05)
    assert choose(FACTS, Given(rounds=20)).rounds == 20
    assert choose(FACTS, Given(rounds=20)).travel == pytest.approx(choose(FACTS).travel, rel=0.01)
    tight = choose(FACTS, Given(clip=0.375))
    assert tight.clip == 0.375
    assert tight.travel == pytest.approx(4 * choose(FACTS).travel, rel=0.01)
    assert choose(FACTS, Given(limit=2.0)).limit == 2.0


def test_coupling_gets_rounds_to_compare_in():
    assert choose(FACTS).rounds == 5
    assert choose(FACTS, Given(several=True)).rounds == 10


def test_local_steps_count_as_steps():
    assert choose(replace(FACTS, steps=5)).rounds == 1
    assert choose(replace(FACTS, steps=5)).travel == pytest.approx(choose(FACTS).travel, rel=0.01)


def test_a_sparse_round_clips_what_it_trains_and_goes_further_with_it():
    quarter = choose(replace(FACTS, density=0.25))
    assert quarter.rounds == 10
    assert quarter.clip == pytest.approx(choose(FACTS).clip / 2, rel=0.01)
    dense = choose(FACTS, Given(several=True))
    assert quarter.learning_rate == pytest.approx(4 * dense.learning_rate, rel=0.02)
    assert quarter.output_noise == pytest.approx(choose(FACTS).output_noise, rel=0.02)


@given(
    units=st.lists(st.integers(1, 10**6), min_size=1, max_size=30),
    mu=st.floats(1e-3, 1e3),
    prevalence=st.floats(0.01, 0.99),
    numbers=st.integers(1, 2000),
    hidden=st.booleans(),
)
def test_every_choice_is_usable(units, mu, prevalence, numbers, hidden):
    outputs = binary(prevalence)
    hospitals = tuple(Share(count, count / sum(units), 1.0 if count <= 2000 else 0.1) for count in units)
    row = Columns(numbers).row
    facts = Facts(
        hospitals, mu, outputs.residual, outputs.curvature, row_of_mlp(row, 8) if hidden else row, hidden=hidden
    )
    choice = choose(facts)
    assert LEAST_STEPS <= choice.rounds <= MOST_STEPS
    assert choice.learning_rate * facts.curvature <= 0.2 * 1.01
    assert choice.output_noise <= MOST_NOISE * 1.02
    assert choice.limit >= choice.learning_rate * min(facts.residual, choice.clip) * 0.99
    assert all(math.isfinite(value) and value > 0 for value in (choice.learning_rate, choice.clip, choice.limit))


def test_residuals_of_the_tasks():
    assert binary(0.9).residual == 0.9
    assert multiclass((0.5, 0.3, 0.2)).residual == pytest.approx(math.sqrt(0.8**2 + 0.5**2 + 0.3**2))
    assert multilabel((0.5, 0.5)).residual == pytest.approx(math.sqrt(0.5) / 2)
    assert multilabel((0.1, 0.2, 0.3)).residual < math.sqrt(0.9**2 + 0.8**2 + 0.7**2) / 3
    assert regression().residual == 2


def test_many_levels_of_one_category_count_once():
    assert Columns(categories=(3,)).row == 1.5
    assert Columns(categories=(40,)).row == 2.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": 0.0}, "mu"),
        ({"row": math.nan}, "row"),
        ({"hospitals": ()}, "declare"),
        ({"absent": 4}, "absent"),
    ],
)
def test_bad_facts_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(FACTS, **change)


@pytest.mark.parametrize("share", [(0, 0.5), (10, 0.0), (10, 1.5), (10, 0.5, 0.0)])
def test_bad_shares_are_refused(share):
    with pytest.raises(ValueError, match=r"must be|a share"):
        Share(*share)
