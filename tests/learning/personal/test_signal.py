"""What is left of a vector without its known noise, and when that is enough."""

import math

import numpy as np
import pytest

from securepfl.learning.personal.signal import KnownNoise, Signal, largest_excess


def test_noise_adds_up_over_rounds():
    noise = KnownNoise().plus(100, 0.5).plus(20, 0.25)
    assert noise == KnownNoise(55.0, 0.75)


def test_debiased_norm_is_that_of_the_signal_on_average():
    generator, signal, deviation = np.random.default_rng(0), np.full(400, 0.3), 1.0
    noise = KnownNoise().plus(400, deviation**2)
    squared = [Signal.of(signal + deviation * generator.standard_normal(400), noise).norm ** 2 for _ in range(400)]
    raw = 36.0 + 400.0
    assert abs(np.mean(squared) - 36.0) < 4.0 < raw - 36.0


@pytest.mark.parametrize("size", [10, 1000, 100_000])
def test_noise_alone_rarely_passes_the_gate(size):
    generator, noise = np.random.default_rng(size), KnownNoise().plus(size, 4.0)
    ratios = [Signal.of(2.0 * generator.standard_normal(size), noise).ratio for _ in range(300)]
    assert np.mean(np.asarray(ratios) > 3.0) < 0.05
    assert Signal.of(np.full(size, 2.0 * (1 + 4 / size**0.25)), noise).ratio > 3.0


def test_noise_that_explains_it_all_leaves_nothing():
    assert Signal.of(np.ones(4), KnownNoise(4.0, 1.0)) == Signal(0.0, 0.0)


def test_without_noise_everything_is_signal():
    assert Signal.of(np.array([3.0, 4.0]), KnownNoise()) == Signal(5.0, math.inf)


@pytest.mark.parametrize(("size", "gate"), [(10, 3.0), (10_000, 3.0), (100, 0.5)])
def test_excess_is_largest_at_the_gate_and_full_support(size, gate):
    noise = KnownNoise().plus(size, 1.0)
    vector = np.full(size, math.sqrt((size + gate * math.sqrt(size)) / size))
    signal = Signal.of(vector, noise)
    assert signal.ratio == pytest.approx(gate)
    assert np.linalg.norm(vector) / signal.norm == pytest.approx(largest_excess(size, gate))
    narrow = KnownNoise().plus(size // 2, 1.0).plus(size // 2, 1.0)
    assert narrow.energy == noise.energy
    assert narrow.spread > noise.spread


@pytest.mark.parametrize(("energy", "peak"), [(-1.0, 1.0), (1.0, math.nan), (math.inf, 1.0)])
def test_impossible_noise_is_refused(energy, peak):
    with pytest.raises(ValueError, match="finite and at least 0"):
        KnownNoise(energy, peak)
