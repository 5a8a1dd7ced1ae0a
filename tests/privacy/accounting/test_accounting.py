import math

import pytest
from dp_accounting.dp_event import GaussianDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant, RDPAccountant
from scipy.optimize import brentq
from scipy.stats import norm

from securepfl.privacy.accounting.accounting import (
    Composition,
    Release,
    Selection,
    SharedRelease,
    epsilon,
    epsilon_of_group,
)
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.accounting.events import LEAST_NOISE


def release(noise=2.0, rate=1.0, steps=10):
    return Release(noise_multiplier=noise, sample_rate=rate, steps=steps)


def balle_wang(mu, delta):
    """Theorem 8 of arXiv 1805.06530, solved for epsilon."""

    def excess(eps):
        return norm.cdf(mu / 2 - eps / mu) - math.exp(eps + norm.logcdf(-mu / 2 - eps / mu)) - delta

    return brentq(excess, 0, 500, xtol=1e-12)


def opacus_epsilon(accountant, noise, rate, steps, delta):
    accountant.history = [(noise, rate, steps)]
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize(("noise", "steps", "delta"), [(4.8, 20, 1e-5), (1.0, 1, 1e-3), (50.0, 10, 1e-6)])
def test_full_batches_compose_to_one_gaussian_mechanism_exactly(noise, steps, delta):
    mu = math.sqrt(steps) / noise
    assert epsilon([release(noise, 1.0, steps)], delta) == pytest.approx(balle_wang(mu, delta), rel=1e-9)
    assert epsilon([release(noise, 1.0, steps)], delta, "replace-one") == pytest.approx(
        balle_wang(2 * mu, delta), rel=1e-9
    )


def test_different_full_batch_noises_add_as_inverse_squares():
    mu = math.sqrt(3 / 4.0 + 5 / 9.0)
    assert epsilon([release(2.0, 1.0, 3), release(3.0, 1.0, 5)], 1e-5) == pytest.approx(balle_wang(mu, 1e-5))


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")  # in Opacus, at a sample rate of 1
@pytest.mark.parametrize(("noise", "rate", "steps"), [(4.8, 1.0, 20), (1.36, 0.2, 20), (1.1, 0.01, 200)])
def test_agrees_with_opacus(noise, rate, steps):
    ours = epsilon([release(noise, rate, steps)], 1e-5)
    # PRV's answer carries its own error bound of .01; RDP's conversion is looser and must lie above.
    assert ours == pytest.approx(opacus_epsilon(PRVAccountant(), noise, rate, steps, 1e-5), abs=0.03)
    assert ours <= opacus_epsilon(RDPAccountant(), noise, rate, steps, 1e-5)


def test_exact_formula_agrees_with_the_loss_distribution_at_a_sample_rate_of_almost_one():
    exact, composed = (epsilon([release(4.8, rate, 20)], 1e-5) for rate in (1.0, 1 - 1e-9))
    assert composed == pytest.approx(exact, rel=1e-3)


def test_order_and_grouping_do_not_matter_and_more_costs_more():
    mixed = [release(2.0, 1.0, 1), release(1.5, 0.2, 4), release(2.0, 1.0, 2)]
    regrouped = [release(1.5, 0.2, 1), release(2.0, 1.0, 3), release(1.5, 0.2, 3)]
    assert epsilon(mixed, 1e-5) == epsilon(regrouped, 1e-5)
    assert epsilon(mixed, 1e-5) > epsilon(mixed[:2], 1e-5) > epsilon(mixed[:1], 1e-5)


@pytest.mark.parametrize("rate", [1.0, 0.2])
def test_replace_one_costs_more_than_zero_out(rate):
    spent = [release(2.0, rate, 10)]
    assert epsilon(spent, 1e-5, "replace-one") > 1.3 * epsilon(spent, 1e-5)


def test_nothing_released_costs_nothing():
    assert epsilon([], 1e-5) == 0.0
    assert epsilon([release(steps=0)], 1e-5) == 0.0


@pytest.mark.parametrize("delta", [0.0, 1.0, 1e-13, math.nan])
def test_delta_out_of_range_is_refused(delta):
    with pytest.raises(ValueError, match="delta"):
        epsilon([release()], delta)


def test_unknown_adjacency_is_refused():
    with pytest.raises(ValueError, match="add-or-remove"):
        epsilon([release()], 1e-5, "add-or-remove")


def test_renyi_divergences_cost_more_than_the_exact_epsilon():
    """What a full-batch ledger pays for holding another kind: 9 % here."""
    accountant = RdpAccountant()
    accountant.compose(GaussianDpEvent(4.8), 20)
    assert 1.05 < accountant.get_epsilon(1e-5) / epsilon([release(4.8, 1.0, 20)], 1e-5) < 1.2


def shared(steps=20, **changes):
    fields = {"scale": 1000, "sensitivity": 400.0, "shares": 4, "dimension": 10_000, "tail": 0.0}
    return SharedRelease(steps=steps, **fields | changes)


def selection(steps=1, mean=4.0, shape=1.0, noise=8.0):
    return Selection(candidate=(release(noise, 1.0, 10),), mean=mean, shape=shape, steps=steps)


def test_shared_noise_costs_what_a_gaussian_of_all_shares_costs_up_to_the_renyi_bound():
    noise = math.sqrt(4) * 1000 / 400
    for adjacency in ("zero-out", "replace-one"):
        assert 1.0 < epsilon([shared()], 1e-5, adjacency) / epsilon([release(noise, 1.0, 20)], 1e-5, adjacency) < 1.2


def test_a_tail_takes_its_part_of_delta_once_for_each_release():
    clean, tailed = epsilon([shared()], 1e-5), epsilon([shared(tail=1e-8)], 1e-5)
    assert clean < tailed
    # (1 + e^epsilon) times the tail is what it takes.
    assert tailed == pytest.approx(epsilon([shared()], 1e-5 - (1 + math.exp(tailed)) * 1e-8), rel=1e-6)
    twice = [shared(steps=10, tail=1e-8), shared(steps=10, tail=1e-8)]
    assert epsilon(twice, 1e-5) == pytest.approx(epsilon([shared(tail=2e-8)], 1e-5))
    assert epsilon([shared(tail=1e-5)], 1e-5) == math.inf
    assert epsilon([shared(steps=0, tail=1e-5)], 1e-5) == 0.0


def test_the_best_of_several_costs_more_than_one_and_less_than_all():
    one, best = epsilon([release(8.0, 1.0, 10)], 1e-5), epsilon([selection()], 1e-5)
    assert one < best < 4 * epsilon([release(8.0, 1.0, 10)], 1e-5 / 4)
    assert epsilon([selection(mean=8.0)], 1e-5) > best
    assert epsilon([selection(shape="poisson")], 1e-5) > one
    assert epsilon([selection(2)], 1e-5) == epsilon([selection(), selection()], 1e-5) > best
    assert epsilon([selection(0)], 1e-5) == 0.0


KINDS = [release(4.0, 1.0, 10), release(1.5, 0.1, 40), shared(), shared(tail=1e-13), selection(), selection(shape=0.0)]


@settings(max_examples=15, deadline=None)
@given(
    parts=st.lists(st.sampled_from(KINDS), min_size=1, max_size=5),
    order=st.randoms(use_true_random=False),
    adjacency=st.sampled_from(["zero-out", "replace-one"]),
)
def test_any_mix_in_any_order_costs_the_same_no_less_than_a_part_and_no_more_than_the_sum(parts, order, adjacency):
    whole = epsilon(parts, 1e-5, adjacency)
    shuffled = order.sample(parts, len(parts))
    assert epsilon(shuffled, 1e-5, adjacency) == whole
    # A part alone may be composed more tightly than in a mix, never the other way round by more than the grid rounds.
    assert whole >= 0.998 * max(epsilon([part], 1e-5, adjacency) for part in parts)
    # A tail is a chance of failure that replace-one multiplies by e^epsilon of the whole, up to an infinite bound.
    grows = adjacency == "replace-one" and any(isinstance(part, SharedRelease) and part.tail for part in parts)
    if all(type(part) is type(parts[0]) for part in parts) and not grows:
        assert whole <= sum(epsilon([part], 1e-5 / len(parts), adjacency) for part in parts) * 1.002


@settings(max_examples=25, deadline=None)
@given(
    adding=st.lists(st.tuples(st.sampled_from(KINDS), st.booleans()), max_size=8),
)
def test_what_is_added_and_taken_back_leaves_no_trace(adding):
    kept, composition = [], Composition()
    for part, stays in adding:
        composition.add(part)
        if stays:
            kept.append(part)
    for part, stays in adding:
        if not stays:
            composition.remove(part)
    assert composition.epsilon(1e-5) == epsilon(kept, 1e-5)


def test_units_never_mix_and_other_things_are_no_releases():
    patient = Release(noise_multiplier=2.0, sample_rate=1.0, steps=1, unit="patient")
    for mixed in ([release(), patient], [patient, shared()], [selection(), patient]):
        with pytest.raises(ValueError, match="unit"):
            epsilon(mixed, 1e-5)
    with pytest.raises(TypeError, match="str"):
        epsilon(["gaussian"], 1e-5)
    assert epsilon([patient], 1e-5) == epsilon([release(2.0, 1.0, 1)], 1e-5)


def test_record_level_epsilon_understates_what_a_patient_with_many_records_loses():
    noise = noise_multiplier_for(1.0, 1e-5, 1.0, 100)
    patient = epsilon_of_group([release(noise, 1.0, 100)], 1e-5, 50)
    assert patient == pytest.approx(balle_wang(50 * 10 / noise, 1e-5), rel=1e-9)
    assert patient > 100  # for 50 records at epsilon 1 each: no guarantee at all
    assert epsilon_of_group([release(noise, 1.0, 100)], 1e-5, 1) == epsilon([release(noise, 1.0, 100)], 1e-5)


def test_a_group_under_poisson_sampling_costs_between_one_record_and_records_always_drawn_together():
    spent = [release(2.0, 0.05, 20)]
    groups = [epsilon_of_group(spent, 1e-5, size) for size in (1, 2, 3)]
    assert groups[0] == epsilon(spent, 1e-5) < groups[1] < groups[2]
    together = [epsilon([release(2.0 / size, 0.05, 20)], 1e-5) for size in (2, 3)]
    assert groups[1] < together[0] and groups[2] < together[1]


@pytest.mark.parametrize("size", [0, True, 1.5])
def test_a_group_has_a_whole_number_of_records(size):
    with pytest.raises(ValueError, match="size"):
        epsilon_of_group([release()], 1e-5, size)


def test_a_group_is_of_gaussian_releases_of_records():
    for wrong in (shared(), Release(noise_multiplier=2.0, sample_rate=1.0, steps=1, unit="patient")):
        with pytest.raises(ValueError, match="record"):
            epsilon_of_group([wrong], 1e-5, 2)


TINY = SharedRelease(scale=500_000, sensitivity=1.0, shares=1, dimension=1, tail=0.0, steps=1)


@settings(max_examples=12, deadline=None)
@given(
    parts=st.lists(st.sampled_from([*KINDS, TINY]), min_size=1, max_size=3),
    noise=st.floats(0.5, 1e6),
    rate=st.floats(1e-6, 1.0),
    steps=st.integers(1, 10**9),
    delta=st.sampled_from([1e-12, 1e-5]),
)
def test_adding_a_release_never_lowers_epsilon(parts, noise, rate, steps, delta):
    before = [*parts, TINY]  # composed by Renyi divergences with and without the addition
    assert epsilon([*before, release(noise, rate, steps)], delta) >= epsilon(before, delta)


def test_rounding_of_many_sampled_steps_cancels_no_real_cost():
    alone = epsilon([TINY], 1e-12)
    assert alone > 0.009
    assert epsilon([TINY, release(270824.5, 2.81e-6, 10**9)], 1e-12) >= alone
    # Nor does what is added for it show in ordinary releases.
    assert epsilon([TINY, release(1e6, 1e-6, 10**4)], 1e-12) == pytest.approx(alone, rel=1e-6)


@pytest.mark.parametrize("noise", [LEAST_NOISE, 1e-3, 0.01])
@pytest.mark.parametrize("rate", [0.5, 1.0])
@pytest.mark.parametrize("steps", [1, 10**9])
def test_the_least_noise_that_can_be_released_has_a_finite_epsilon_of_no_use(noise, rate, steps):
    sampled, full = (epsilon([release(noise, r, steps)], 1e-5) for r in (rate, 1.0))
    assert 1e3 < 0.4 * full < sampled <= 1.01 * full < math.inf


POISSON = [release(2.0, 0.1, 20), release(3.0, 0.05, 40), release(2.5, 0.1, 20)]


@pytest.mark.parametrize("parts", [[release(2.0), release(3.0)], [POISSON[0]] * 3, [shared()] * 2, [selection()] * 2])
def test_one_kind_or_full_batches_alone_cost_the_same_whenever_they_were_chosen(parts):
    composition = Composition.of(parts)
    assert not composition.is_mixed
    for adjacency in ("zero-out", "replace-one"):
        assert composition.adaptive_epsilon(4.0, 1e-5, adjacency) == epsilon(parts, 1e-5, adjacency)


@pytest.mark.parametrize("adjacency", ["zero-out", "replace-one"])
@pytest.mark.parametrize("parts", [POISSON, [release(4.0), POISSON[0]], [selection(), release(9.0)], KINDS[:3]])
def test_kinds_that_may_have_been_chosen_after_a_look_cost_more(parts, adjacency):
    composition = Composition.of(parts)
    assert composition.is_mixed
    assert composition.adaptive_epsilon(4.0, 1e-5, adjacency) > epsilon(parts, 1e-5, adjacency)


def test_a_mixture_is_accounted_at_one_order_that_its_budget_fixes_and_not_at_the_best_of_many():
    """Divergences at one order add up whatever was chosen when; here by hand, Gaussians and a sampled one."""
    order, budget, delta = 6, 4.0, 1e-5
    q, sigma = 0.1, 2.0
    terms = [
        math.comb(order, k) * (1 - q) ** (order - k) * q**k * math.exp(k * (k - 1) / 2 / sigma**2) for k in range(7)
    ]
    rho = 10 * order / (2 * 4.0**2) + 20 * math.log(sum(terms)) / (order - 1)
    by_hand = rho + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
    found = Composition.of([release(4.0), release(sigma, q, 20)]).adaptive_epsilon(budget, delta)
    assert found == pytest.approx(by_hand, rel=1e-9)


def test_a_mixture_is_the_same_in_any_order_and_what_is_taken_back_leaves_no_trace():
    composition = Composition()
    for part in (*POISSON, release(4.0)):
        composition.add(part)
        composition.adaptive_epsilon(4.0, 1e-5)
    composition.remove(POISSON[1])
    other = Composition.of([release(4.0), POISSON[2], POISSON[0]])
    assert composition.adaptive_epsilon(4.0, 1e-5) == other.adaptive_epsilon(4.0, 1e-5)
