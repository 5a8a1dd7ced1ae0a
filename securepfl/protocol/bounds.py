"""How far legal updates and their noise can take a sum: from public settings alone, so the same at every hospital.

A hospital holds the tag key, so the tag of a sum shows nothing of what that hospital put in. What it may put in is
public. Its update u has k values, in [-limit, limit] each, and

    u = rounded(clip(signal + held + noise)),    |signal| <= s,  |held| <= e    (Euclidean norms)

- s = share x steps x learning rate x clip: a step is the mean of clipped gradients. Where batches are drawn, a step
  divides by the declared batch and the drawn one may be larger, by a factor that Bernstein's inequality bounds.
- e: what it adds from earlier rounds. A hospital pays back at most that much a round (`Allowance.due`): all that
  rounding left behind; what the grid clipped, or a lost round, over several rounds.
- noise: steps Gaussians a value, of a size that follows from the hospital's declared units; drawn anew for each update.

Clipping is odd and moves no two points apart, so clip(signal + held + noise) is within |signal + held| of clip(noise),
whose values are symmetric and independent. They are sub-Gaussian with variance proxy min(noise variance, limit^2):
cosh grows with the size of its argument, and cosh(x) <= exp(x^2 / 2). Unbiased rounding by at most a step of the grid
adds step^2 / 4 (Hoeffding). So a sum over hospitals is a fixed part of norm at most D = sum (s + e), and a vector that
is sub-Gaussian with proxy V, the sum of theirs, whatever the gradients are and however they depend on earlier noise:

    |sum| <= D + sqrt(V (k + 2 sqrt(k t) + 2 t)) but with chance exp(-t)    (Hsu, Kakade and Zhang 2012, theorem 1)
    each value <= D + sqrt(2 V t)                but with chance 2 exp(-t)

The t are chosen so that all rounds of a run of honest hospitals pass but with chance 2^-40.

Where more is sent than is trained in a round (`[sparsity]` kind select, soft, difference) an update holds the noise of
many rounds, kept or not by what the sum before showed, and is not sub-Gaussian in any way that we could prove. There a
hospital cuts its update to a norm that its legal training hardly reaches, and D is the sum of those norms.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import ceil, floor, fsum, inf, log, sqrt
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from securepfl.crypto.sums.parameters import top_level
from securepfl.errors import AggregateError, ConfigError
from securepfl.privacy.training.shared_noise import SharedNoise
from securepfl.settings.federation import Federation

CHANCE: Final = 2.0**-40
"""That any sum or single update of an honest run is refused."""

_ROUNDING: Final = 1 + 2.0**-20
"""For what doubles round, here and where a hospital scales its update."""

_PAID_BACK: Final = 0.25
"""The share of a round's signal that is added from earlier rounds where more is left than rounding leaves. All of it
would let a dishonest hospital add as much again.
"""

_FLOATS: Final = 2.0**-22
"""Four times what one step of training rounds a parameter of size 1 by (float32)."""

_ADAMS_STEP: Final = 2.5
"""At least the most that one step of Adam with decays .9 and .99 moves a number by, over the learning rate: the root of
(1 - .9)^2 / (1 - .99) / (1 - .81 / .99), after Cauchy and Schwarz, and less in the first steps.
"""

_REFUSED: Final = "the sum failed its check: it is beyond what legal updates come to; nothing was applied"


@dataclass(frozen=True)
class Allowance:
    """What one hospital's update may be made of in a round, in the unit of parameters.

    `held` bounds the norm of what it adds from earlier rounds, `most` that of all it sends (infinite: the grid's limit
    alone). `fixed` bounds the norm of what is no fresh noise, `variance` is the proxy of a value's noise and rounding.

    >>> from securepfl.settings.tables import SiteSettings
    >>> federation = Federation(sites={name: SiteSettings(units=400) for name in ("north", "south", "west")})
    >>> allowance = Allowance.of(federation, "north", round_=1, values=100, largest=1.0)
    >>> allowance.held, allowance.most
    (0.25, inf)
    >>> sqrt(allowance.variance) < 4.9 * 1.0 / 400  # noise multiplier, clip, units
    True
    """

    held: float
    most: float
    fixed: float
    variance: float

    @classmethod
    def of(cls, federation: Federation, name: str, *, round_: int, values: int, largest: float) -> Self:
        """That of hospital `name` for `values` values in `round_`. `largest` is the largest size of a shared parameter
        before the round: what single precision rounds goes by it.
        """
        moves, place = federation.once(Moves.of), [federation.places[name]]
        held, most, fixed, variance = moves.allowed(federation, place, round_=round_, values=values, largest=largest)
        return cls(float(held[0]), float(most[0]), float(fixed[0]), float(variance[0]))

    def due(self, residual: NDArray[np.float64]) -> NDArray[np.float64]:
        """What of `residual` (the values of this round's support) is added now: all that fits; the rest waits."""
        return residual * _factor(residual, self.held)

    def cut(self, update: NDArray[np.float64]) -> NDArray[np.float64]:
        """`update`, shorter where it is too long to be sent."""
        return update * _factor(update, self.most)


@dataclass(frozen=True)
class Moves:
    """How far a round's training and noise take each hospital's update, [n] in the roster's order: `signal` bounds the
    norm of what is no noise, `noise` is the deviation of a value's. Both are the same in all rounds.
    """

    signal: NDArray[np.float64]
    noise: NDArray[np.float64]

    @classmethod
    def of(cls, federation: Federation) -> Self:
        """Of all hospitals, those of one size worked out once."""
        if not federation.privacy.protects:
            return cls._of_adam(federation)
        training, chances, roster = federation.training, Chances.of(federation), federation.roster
        units = [federation.units_of(name) for name in roster]
        longest = {its: _longest_step(federation, its, chances.draw) for its in set(units)}
        noise = {its: _noise(federation, its) for its in set(units)}
        shares = np.array([federation.weight_share(name) for name in roster])
        pace = shares * training.learning_rate * federation.privacy.clip
        return cls(
            pace * training.steps * np.array([longest[its] for its in units]),
            pace * sqrt(training.steps) * np.array([noise[its] for its in units]),
        )

    @classmethod
    def _of_adam(cls, federation: Federation) -> Self:
        """Without protection nothing is clipped, and there is no noise: Adam's steps are bounded by themselves."""
        training, size = federation.training, 1 if federation.shape is None else federation.shape.shared
        shares = np.array([federation.weight_share(name) for name in federation.roster])
        moved = _ADAMS_STEP * training.steps * training.learning_rate * sqrt(size)
        return cls(shares * moved, np.zeros(len(shares)))

    def allowed(
        self, federation: Federation, places: Sequence[int], *, round_: int, values: int, largest: float
    ) -> tuple[NDArray[np.float64], ...]:
        """The fields of Allowance for the hospitals at `places`, an array each."""
        grid, chances = federation.encryption, federation.once(Chances.of)
        signal, noise, step = self.signal[list(places)], self.noise[list(places)], 2 * grid.limit / top_level(grid.bits)
        floats = sqrt(values) * federation.training.steps * _FLOATS * (largest + grid.limit)
        rounding, of_grid, feedback = step**2 / 4, grid.limit * sqrt(values), federation.sparsity.feedback
        if federation.trains_support:
            held = np.maximum(_PAID_BACK * signal, step * sqrt(values)) if feedback else np.zeros(len(places))
            variance = np.minimum(noise, grid.limit) ** 2 + rounding
            return held, np.full(len(places), inf), signal + held + floats, variance
        rounds = round_ if feedback else 1
        most = rounds * signal + sqrt(rounds) * noise * (sqrt(values) + sqrt(2 * chances.norm)) + floats
        variance = np.where(most < of_grid, rounding, 0.0)
        return np.full(len(places), inf), most, np.minimum(most, of_grid), variance


def _factor(vector: NDArray[np.float64], most: float) -> float:
    norm = float(np.linalg.norm(vector))
    return 1.0 if norm <= most else most / norm


@dataclass(frozen=True)
class Chances:
    """-log of the chance that each kind of event may have, so that all in a run together have CHANCE: a `norm` or a
    value (`field`) beyond its bound, in a sum or a single update, and a `draw` of a batch beyond its.
    """

    norm: float
    field: float
    draw: float

    @classmethod
    def of(cls, federation: Federation) -> Self:
        """For all rounds; in each at most as many sums, over fewer and fewer hospitals, as hospitals, and each
        hospital's update alone.
        """
        hospitals, size = len(federation.roster), 1 if federation.shape is None else federation.shape.shared
        looks = 2 * federation.rounds * hospitals
        draws = federation.rounds * federation.training.steps * hospitals
        return cls(log(3 * looks / CHANCE), log(3 * looks * 2 * size / CHANCE), log(3 * draws / CHANCE))


def _noise(federation: Federation, units: int) -> float:
    """The deviation of a step's noise, over learning rate and clip, of a hospital that declares `units`."""
    from securepfl.privacy.accounting.calibration import noise_multiplier_for  # noqa: PLC0415 (loads dp_accounting)

    steps, privacy = federation.run_steps, federation.privacy
    rate = federation.sample_rate_for(units)
    return noise_multiplier_for(privacy.epsilon, privacy.delta, rate, steps) / (rate * units)


def _longest_step(federation: Federation, units: int, draw: float) -> float:
    """The largest mean of clipped gradients, over the clip: 1 for full batches, more where a drawn batch is larger
    than the declared one that divides its sum (Bernstein's inequality; more units have less of that).
    """
    rate = federation.sample_rate_for(units)
    beyond = draw / 3 + sqrt((draw / 3) ** 2 + 2 * draw * rate * units * (1 - rate))
    return min(1 / rate, 1 + beyond / (rate * units))


@dataclass(frozen=True)
class SumBound:
    """What a sum of `values` values may be at most: each in size (`field`), and their squares together (`square`), in
    steps of the grid. Both are whole numbers, so that no two hospitals' rounding decides.

    It holds for one hospital's update too: `over` that one alone.

    >>> from securepfl.settings.tables import SiteSettings
    >>> federation = Federation(sites={name: SiteSettings(units=400) for name in ("north", "south", "west")})
    >>> bound = SumBound.over(federation, federation.roster, round_=1, values=100, largest=1.0)
    >>> bound.check(np.full(100, 60), weight=0, top=1022)
    >>> bound.check(np.full(100, 1500), weight=0, top=1022)
    Traceback (most recent call last):
    securepfl.errors.AggregateError: the sum failed its check: it is beyond what legal updates come to; nothing was ...
    """

    values: int
    field: int
    square: int

    @classmethod
    def over(
        cls, federation: Federation, senders: Collection[str], *, round_: int, values: int, largest: float
    ) -> Self:
        """The bound on the sum of the updates of `senders`, or on the update of one. The other arguments: Allowance.of.

        Raises ConfigError where the federation shares noise and is not bound.
        """
        if federation.shared_noise is not None:
            return cls._of_integers(federation, len(senders), values)
        moves, places = federation.once(Moves.of), [federation.places[name] for name in senders]
        _, _, fixed, variance = moves.allowed(federation, places, round_=round_, values=values, largest=largest)
        step = 2 * federation.encryption.limit / top_level(federation.encryption.bits)
        # Exact sums, so that no order of hospitals or numpy's own matters.
        together = fsum(fixed.tolist()) / step, fsum(variance.tolist()) / step**2
        return cls._of(federation.once(Chances.of), values, *together)

    @classmethod
    def of_digits(cls, values: int, levels: int, senders: int) -> Self:
        """On a sum of counts in digits from -levels to levels each: whatever they are, they are legal."""
        return cls(values, senders * levels, values * (senders * levels) ** 2)

    @classmethod
    def _of_integers(cls, federation: Federation, senders: int, values: int) -> Self:
        """Of one step under shared noise: all hospitals' units together are declared, and each hospital's noise."""
        noise, units = _noise_of(federation), federation.all_units
        fixed, variance = units * noise.sensitivity, senders * float(noise.scale) ** 2
        return cls._of(federation.once(Chances.of), values, fixed, variance)

    @classmethod
    def _of(cls, chances: Chances, values: int, fixed: float, variance: float) -> Self:
        norm = fixed + sqrt(variance * (values + 2 * sqrt(values * chances.norm) + 2 * chances.norm))
        field = fixed + sqrt(2 * variance * chances.field)
        return cls(values, floor(field * _ROUNDING), floor((norm * _ROUNDING) ** 2))

    @property
    def norm(self) -> float:
        """The largest norm, in steps of the grid."""
        return sqrt(self.square)

    def check(self, levels: NDArray[np.integer], weight: int, top: int) -> None:
        """Raises AggregateError, always the same, where the sum of levels [at least `values`] of total weight `weight`
        on a grid of highest level `top` is beyond.
        """
        steps = levels[: self.values].astype(np.int64) - weight * (top // 2)
        if int(np.abs(steps).max(initial=0)) > self.field or exact_square(steps) > self.square:
            raise AggregateError(_REFUSED)


def _noise_of(federation: Federation) -> SharedNoise:
    if federation.shape is None or federation.shape.noise is None:
        raise ConfigError("the federation is not bound to hospitals and a model: call Federation.bound first")
    return federation.shape.noise


_HALF: Final = 1 << 20


def exact_square(steps: NDArray[np.int64]) -> int:
    """The sum of squares of integers below 2^40, exactly: no two machines may differ on it.

    >>> exact_square(np.array([3, -4, 2**39]))
    302231454903657293676569
    """
    high, low = np.divmod(steps, _HALF)
    parts: Iterable[tuple[NDArray[np.int64], NDArray[np.int64], int]] = (
        (high, high, _HALF**2),
        (high, low, 2 * _HALF),
        (low, low, 1),
    )
    chunk = 1 << 20
    return sum(
        weight * int(np.dot(one[at : at + chunk], other[at : at + chunk]))
        for one, other, weight in parts
        for at in range(0, ceil(steps.size / chunk) * chunk, chunk)
    )
