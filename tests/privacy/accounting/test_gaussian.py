import math

import pytest
from dp_accounting import gaussian_mechanism
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from securepfl.privacy.accounting.gaussian import delta_of, epsilon_of, mu_of


@pytest.mark.parametrize(("epsilon", "mu"), [(0.0, 0.1), (0.5, 0.5), (4.0, 1.0), (8.0, 3.0)])
def test_delta_is_that_of_theorem_8(epsilon, mu):
    plain = norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu)
    assert delta_of(epsilon, mu) == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize(("epsilon", "mu"), [(4.0, 0.9249308977), (2.0, 0.5015516892), (1.0, 0.2680511232)])
def test_mu_and_epsilon_are_the_two_names_of_one_curve(epsilon, mu):
    assert mu_of(epsilon, 1e-5) == pytest.approx(mu, rel=1e-8)
    assert epsilon_of(mu, 1e-5) == pytest.approx(epsilon, rel=1e-8)
    assert delta_of(epsilon, mu) == pytest.approx(1e-5, rel=1e-6)


@settings(max_examples=50, deadline=None)
@given(mu=st.floats(1e-3, 30), delta=st.floats(1e-12, 0.4))
def test_epsilon_and_delta_are_inverses(mu, delta):
    epsilon = epsilon_of(mu, delta)
    if epsilon:
        assert delta_of(epsilon, mu) == pytest.approx(delta, rel=1e-6)
    else:
        assert delta_of(0.0, mu) <= delta


@settings(max_examples=25, deadline=None)
@given(epsilon=st.floats(1e-2, 1e3), delta=st.floats(1e-12, 0.4))
def test_mu_and_epsilon_are_inverses(epsilon, delta):
    assert epsilon_of(mu_of(epsilon, delta), delta) == pytest.approx(epsilon, rel=1e-9)


@pytest.mark.parametrize(("mu", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (6.0, 1e-10)])
def test_agrees_with_dp_accounting(mu, delta):
    assert epsilon_of(mu, delta) == pytest.approx(gaussian_mechanism.get_epsilon_gaussian(1 / mu, delta), rel=1e-8)


def test_tiny_deltas_are_told_apart():
    assert 0 < delta_of(36.0, 1.0) < delta_of(35.0, 1.0) < 1e-250
    assert epsilon_of(1.0, 1e-250) > epsilon_of(1.0, 1e-240) > 30


def test_nothing_moved_costs_nothing():
    assert (delta_of(0.0, 0.0), epsilon_of(0.0, 1e-5)) == (0.0, 0.0)
