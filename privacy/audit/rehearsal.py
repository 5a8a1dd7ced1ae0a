"""Rehearsals of a hospital's training with canaries in it: what an audit looks at. They never leave the hospital.

The code that draws, batches, clips, sums and adds noise is the one that real rounds run; only the canaries' gradients
are set (see training.canaries). A copy of the model is trained, no ledger is written, and the result is not released.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
from torch.utils.data import Subset

from securepfl.privacy.accounting.gaussian import epsilon_of, mu_of
from securepfl.privacy.audit.between import rounds_verdict
from securepfl.privacy.audit.contributions import contributions_verdict
from securepfl.privacy.audit.gaussian import runs_verdict, trade_off_verdict
from securepfl.privacy.audit.mechanism import mechanism_verdict
from securepfl.privacy.audit.report import AuditReport, conclude
from securepfl.privacy.audit.subject import Positions, Training, trained, values_at, watched_rounds
from securepfl.privacy.audit.verdicts import Floats, Scores, Verdict
from securepfl.privacy.training.units import count_units
from securepfl.randomness import RandomStream

_SILENT, _MOST_VALUES = 2000, 2000
# Looks at noise, rounds, contributions and single units, each counted as one rehearsal.
_OBSERVED = 4
# Of each parameter so many of its first values are watched; and so many parameters.
_FIRSTS, _MOST_LAYERS = 16, 256
# Whole rounds whose noise is compared, and how many values of them at most.
_COMPARED, _MOST_COMPARED = 8, 2**21
_STEPS_A_ROUND = 8
# Empty steps, enough that half the deviation shows in a layer of one value; empty rounds: (fewest, most, values wanted
# in all).
_EMPTY_STEPS, _EMPTY_ROUNDS = 96, (2, 16, 512)
# A rate at which no record of any data set is drawn in an audit's steps; times its inverse as units, 1 exactly.
_NEVER = 2.0**-50
# Contributions are looked at through little noise, and with gradients far above the clip.
_QUIET, _LOUD = 1e-3, 100.0
# Single units: the norm of noise in all directions is seen, so there must be less of it.
_TIGHT, _FAINT, _FAR, _MOST_UNITS = 1e-3, 1e-6, 1e3, 32
_FEWEST_QUIET_STEPS, _MOST_QUIET_STEPS, _FEWEST_LOUD = 2, 400, 64
# Draws of canaries that tell 1.1 times the declared rate with 99 %, but for what a rate near 1 saves; and how often
# each canary is drawn, so that passes over the data set show.
_DRAWS_WANTED, _PASSES = 4000, 4


Told = Callable[[int, int], None]
"""Is told how many rehearsals of how many are over."""


def audit(
    training: Training,
    *,
    epsilon: float,
    delta: float,
    canaries: int = 1000,
    runs: int = 40,
    rounds: int = 1,
    told: Told = lambda done, of: None,
) -> AuditReport:
    """All four tests of `rounds` rounds of `training`, which the accounting says cost (epsilon, delta).

    canaries: in one run (more than one where the model has fewer than twice as many parameters). runs: with one
    canary each; they all train on the whole data set. Under Poisson sampling, canaries are rehearsed with all
    records in each step and held against the epsilon of that: it tests clip and noise, and the draws are tested by
    themselves, so that amplification, what both together are worth, rests on the accounting.

    Draws of canaries, with one unit of the data set beside them, show a rate of 1.1 times the declared one with 99 %
    where there is room for 4,000 (1 - rate) draws: at a rate of 0.1 from 200 parameters on, at 0.01 from 2,000, at
    0.001 from 20,000. With fewer, the error that shows grows with the root; the finding says which rate it is.

    told: hears of each rehearsal that is over, and of how many there are.

    What is rehearsed is training.trainer: a client's own rounds (securepfl.client.rehearsed), with the random streams
    that it makes for them, or train_private alone. A key of too few bits is not seen.

    The report keeps numbers of canaries and of noise only: canaries' coordinates are cleared of the gradients of the
    data set, and of its units one bit is told, whether one added more than a clip, which none does in a build that
    clips. A build that mixes units before that, such as a clip of sums, may show more.

    Raises ValueError where a number is out of range, else as train_private.

    >>> import torch
    >>> from securepfl.privacy.training.dpsgd import DPSettings
    >>> settings = DPSettings(noise_multiplier=2.0, clip=1.0, sample_rate=1.0, steps=1, learning_rate=0.1)
    >>> data = torch.utils.data.TensorDataset(torch.randn(5, 3), torch.ones(5))
    >>> training = Training(torch.nn.Linear(3, 1), data, lambda z, y: (z[:, 0] - y) ** 2, settings, units=5)
    >>> audit(training, epsilon=2.0, delta=1e-5, canaries=8, runs=3).canaries
    8
    """
    for name, value, least in (("canaries", canaries, 1), ("runs", runs, 3), ("rounds", rounds, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value!r}")
    if not (math.isfinite(epsilon) and epsilon > 0):
        raise ValueError(f"epsilon must be positive and finite, not {epsilon!r}")
    if not 0 < delta < 1:
        raise ValueError(f"delta must be in (0, 1), not {delta!r}")
    settings = training.settings
    mu = mu_of(epsilon, delta) if settings.sample_rate == 1 else math.sqrt(settings.steps * rounds)
    if settings.sample_rate < 1:
        mu /= settings.noise_multiplier
    parts = math.ceil(canaries / _at_once(training))
    of = parts + runs + _OBSERVED
    seen = rehearse(training, canaries=canaries, rounds=rounds, told=lambda done, _: told(done, of))
    whole = many_runs(training, runs=runs, rounds=rounds, told=lambda done, _: told(parts + done, of))
    noise = observe_noise(training)
    told(of - 3, of)
    between = observe_rounds(training)
    told(of - 2, of)
    contributions = observe_contributions(training)
    told(of - 1, of)
    units = observe_units(training)
    told(of, of)
    verdicts: tuple[Verdict, ...] = (
        mechanism_verdict(*noise),
        rounds_verdict(*between),
        trade_off_verdict(seen, mu),
        runs_verdict(whole, mu),
        contributions_verdict(contributions, units, settings.sample_rate, unit=training.unit),
    )
    return conclude(
        seen,
        verdicts,
        claimed_epsilon=epsilon,
        rehearsed_epsilon=epsilon_of(mu, delta),
        delta=delta,
        unit=training.unit,
    )


def rehearse(training: Training, *, canaries: int, rounds: int = 1, told: Told = lambda done, of: None) -> Scores:
    """Scores of canaries at the clip, each in or out by a coin for the whole of its run, all records in each step.

    At most half of the model's coordinates carry a canary in one run, the next canaries take another run. A score is
    the sum over all steps in the canary's direction, over the declared deviation of its noise.
    """
    at_once = _at_once(training)
    sizes = [min(at_once, canaries - done) for done in range(0, canaries, at_once)]
    return _pooled(training, sizes, rounds, told)


def _at_once(training: Training) -> int:
    """Canaries that one run has room for."""
    return max(1, len(training.positions()) // 2)


def many_runs(training: Training, *, runs: int, rounds: int = 1, told: Told = lambda done, of: None) -> Scores:
    """Scores of `runs` runs from the same start, with one canary each, in or out by a coin. For tiny models.

    To tell mu from twice mu with 99 % takes about (12.5 / mu)^2 runs, for mu up to 1.
    """
    return _pooled(training, [1] * runs, rounds, told)


def _scores(training: Training, canaries: int, rounds: int) -> Scores:
    public = training.stream()
    included = public.uniform(canaries) < 0.5
    chosen = _some(training.positions(), canaries + _SILENT, public)
    # Half of what is left goes on training, so that the rehearsal stays a training.
    chosen = chosen[: canaries + max(0, (len(training.positions()) - canaries) // 2)]
    settings = replace(training.settings, sample_rate=1.0)
    seen = sum(watched_rounds(training, settings, chosen, included, rounds), start=np.zeros(len(chosen)))
    scores = seen / (settings.noise_multiplier * math.sqrt(settings.steps * rounds))
    return Scores(scores[:canaries], included, scores[canaries:])


def _pooled(training: Training, sizes: list[int], rounds: int, told: Told) -> Scores:
    """The scores of runs with so many canaries each."""
    parts = []
    for done, size in enumerate(sizes, start=1):
        parts.append(_scores(training, size, rounds))
        told(done, len(sizes))
    return Scores(
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.included for part in parts]),
        np.concatenate([part.silent for part in parts]),
    )


def observe_contributions(training: Training) -> Floats:
    """What canaries of 100 clips add to single steps at the declared rate, [steps, canaries], in clips.

    All are in, with one unit of the data set: nearly all that is drawn is seen. The noise is a thousandth of the
    clip, so that each draw and each contribution shows. Up to 400 steps, and canaries in up to half of the model's
    coordinates: with fewer draws than wanted, smaller errors of the rate are missed (see contributions.rate_told).
    """
    positions, rate = training.positions(), training.settings.sample_rate
    steps, canaries = _quiet_plan(rate, max(1, len(positions) // 2))
    chosen = _some(positions, canaries, training.stream())
    settings = replace(training.settings, noise_multiplier=_QUIET, steps=1)
    alone = replace(training, dataset=Subset(training.dataset, [training.smallest()]))
    everyone = np.ones(len(chosen), dtype=np.bool_)
    return np.stack(list(watched_rounds(alone, settings, chosen, everyone, steps, scale=_LOUD)))


def _quiet_plan(rate: float, most_canaries: int) -> tuple[int, int]:
    """Steps, and canaries up to `most_canaries`, that make the draws wanted where that is possible."""
    draws = _DRAWS_WANTED * (1 - rate)
    steps = max(_FEWEST_QUIET_STEPS, min(_MOST_QUIET_STEPS, math.ceil(_PASSES / rate)))
    canaries = min(most_canaries, max(_FEWEST_LOUD, math.ceil(draws / (rate * steps))))
    return max(steps, min(_MOST_QUIET_STEPS, math.ceil(draws / (rate * canaries)))), canaries


def observe_units(training: Training) -> Floats:
    """The norm of what single units of the data set add to a step, [units], in clips, with no canary's hook.

    The clip is a thousandth of the declared one, so that it binds. Patients with the most records come first: a
    clip of records in place of patients shows in them.
    """
    count = count_units(training.dataset)
    order = training.stream().permutation(count)
    if training.unit == "patient":
        order = order[np.argsort([-len(training.dataset[int(index)][1]) for index in order], kind="stable")]
    return np.array([_influence(training, int(index)) for index in order[:_MOST_UNITS]])


def _influence(training: Training, index: int) -> float:
    settings = training.settings
    clip = settings.clip * _TIGHT
    # One clip moves the model far, so that rounding of the weights does not show.
    rate = _FAR * training.units / clip
    alone = replace(settings, noise_multiplier=_FAINT, clip=clip, sample_rate=1.0, steps=1, learning_rate=rate)
    model, positions = copy.deepcopy(training.model).to(training.device), training.positions()
    before = values_at(model, positions)
    training.take(model, Subset(training.dataset, [index]), alone, None)
    return float(np.linalg.norm(values_at(model, positions) - before)) / _FAR


def observe_noise(training: Training) -> tuple[Floats, Floats, Positions]:
    """Noise of empty steps, [steps, values], and of empty rounds of 8 steps, [rounds, values], in declared deviations;
    and the number of the parameter that each value is of, [values]. Each of those steps is a round by itself.

    Among the values are the first of each parameter: noise that starts again with each shows as columns that repeat.
    """
    chosen = values_to_watch(training)
    fewest, most, wanted = _EMPTY_ROUNDS
    rounds = max(fewest, min(most, math.ceil(wanted / len(chosen))))
    noise, totals = (_empty(training, chosen, *shape) for shape in ((1, _EMPTY_STEPS), (_STEPS_A_ROUND, rounds)))
    return noise, totals, _layers(training, chosen)


def observe_rounds(training: Training) -> tuple[Floats, list[int]]:
    """Noise of consecutive empty rounds of as many steps as declared, [rounds, values], in declared deviations, in the
    order of the parameters; and how many values there are of each. Of large models, the first values of each.
    """
    positions = training.positions()
    layers = _layers(training, positions)
    most = max(1, _MOST_COMPARED // (_COMPARED * len(np.unique(layers))))
    chosen = np.concatenate([positions[layers == layer][:most] for layer in np.unique(layers)])
    sizes = np.unique(_layers(training, chosen), return_counts=True)[1]
    return _empty(training, chosen, training.settings.steps, _COMPARED), sizes.tolist()


def _empty(training: Training, chosen: Positions, steps: int, rounds: int) -> Floats:
    """Noise of rounds in which no unit is drawn, [rounds, values], in declared deviations."""
    settings = replace(training.settings, sample_rate=_NEVER, steps=steps)
    still = replace(training, settings=settings, units=round(1 / _NEVER))
    seen = np.stack(list(watched_rounds(still, settings, chosen, np.zeros(0, dtype=np.bool_), rounds)))
    noise: Floats = seen / (settings.noise_multiplier * math.sqrt(steps))
    return noise


def values_to_watch(training: Training) -> Positions:
    """Where noise is looked at: the first values of each parameter, then some of the others."""
    positions = training.positions()
    layers = _layers(training, positions)
    firsts = np.concatenate([positions[layers == layer][:_FIRSTS] for layer in np.unique(layers)[:_MOST_LAYERS]])
    rest = _some(np.setdiff1d(positions, firsts), _MOST_VALUES, training.stream())
    return np.concatenate([firsts, rest])


def _layers(training: Training, positions: Positions) -> Positions:
    """The number of the parameter that each position is of."""
    ends = np.cumsum([p.numel() for p in trained(training.model).values()])
    found: Positions = np.searchsorted(ends, positions, side="right").astype(np.int64)
    return found


def _some(positions: Positions, count: int, public: RandomStream) -> Positions:
    chosen: Positions = positions[public.permutation(len(positions))[:count]]
    return chosen
