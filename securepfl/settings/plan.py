"""What a federation will do and can be expected to reach, from declarations alone: no row is read, nothing spent."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError
from securepfl.learning.declared.facts import Facts, Share
from securepfl.learning.declared.forecast import ASSUMED_AUROC, Forecast, forecast
from securepfl.learning.declared.rule import Choice, Given, choose
from securepfl.learning.declared.wrong import WRONG, Wrong
from securepfl.learning.released.expected import expected_figures
from securepfl.learning.released.figures import OutcomeFigures
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.accounting.gaussian import epsilon_of, mu_of
from securepfl.settings.auto import (
    AutoKey,
    choice_of,
    chosen,
    columns_of,
    facts_of,
    facts_without_rows,
    several_of,
    trained_share,
)
from securepfl.settings.evaluation import histogram_of, planned_deviation
from securepfl.settings.federation import Federation
from securepfl.settings.idle import same_experts
from securepfl.settings.roster import check_declared, check_roster

EPSILONS: Final = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Of the curve, beside the federation's own."""

_NO_TABLE: Final = "no [data] table; a plan rests on what it declares: label, ranges and categories"


@dataclass(frozen=True)
class Setting:
    """A number that the run will use, what the rule would choose (None: there is no rule for it), whether the file left
    it to be chosen, and why that one.
    """

    key: str
    value: float
    by_rule: bool
    rule: float | None
    reason: str


@dataclass(frozen=True)
class Point:
    """The AUROC to expect at an epsilon."""

    epsilon: float
    expected: Forecast


@dataclass(frozen=True)
class Change:
    """What another declaration would change: the AUROC to expect then, where there is a forecast, and a sentence."""

    what: str
    expected: Forecast | None
    sentence: str


@dataclass(frozen=True)
class Paid:
    """A part of what the run's epsilon pays for: its noisy steps, and a hospital's epsilon with all before it (None:
    it isn't the same at all hospitals, or noise is shared).
    """

    what: str
    steps: int
    epsilon: float | None


@dataclass(frozen=True)
class ReleasedPlan:
    """What released metrics cost and how exact they can be expected to be: their `share` of the noisy steps, the
    `epsilon` of them alone (None: as of Paid), by how much they raise the noise of training (`dearer`, a factor), the
    deviation of their `noise` in patients, and half the widths of intervals for about `units` held out (None: no
    figure; the widths are None too where `units` is).
    """

    share: float
    epsilon: float | None
    dearer: float
    noise: float
    units: int | None
    auroc: float | None
    sensitivity: float | None
    specificity: float | None


@dataclass(frozen=True)
class HospitalPlan:
    """A hospital's declared part: its share of the mean, the threshold of its model (None: several
    outputs, or none declared), the noise of a step over the clip
    (None: shared noise), what all that the run releases costs it, its budget, and what a further full-batch run may
    cost after it, in a ledger without earlier lines (None: batches are drawn, so only the ledger can tell).
    """

    units: int
    share: float
    threshold: float | None
    sample_rate: float
    noise_multiplier: float | None
    epsilon: float
    budget: float
    left: float | None
    note: str


@dataclass(frozen=True)
class RunPlan:
    """All that `securepfl plan` says. `no_forecast` is why there is none; then `expected`, `curve` and `wrong` are
    empty, or `expected` and `curve` alone.
    """

    name: str
    unit: str
    model: str
    features: int
    units: int
    epsilon: float
    delta: float
    settings: tuple[Setting, ...]
    personal: str
    assumed_auroc: float
    expected: Forecast | None
    no_forecast: str
    curve: tuple[Point, ...]
    changes: tuple[Change, ...]
    wrong: tuple[Wrong, ...]
    paid: tuple[Paid, ...]
    released: ReleasedPlan | None
    hospitals: Mapping[str, HospitalPlan]
    notes: tuple[str, ...]


def plan_of(federation: Federation, auroc: float = ASSUMED_AUROC) -> RunPlan:
    """The plan; `auroc` is what the model would reach without privacy, a guess from the literature.

    Of images there is no forecast and no rule for clip, rate and rounds; what is spent is planned alike.

    Raises ConfigError where units, `[sites]` or `[data]` are missing, the model is the pipeline's own, or `auroc` says
    nothing.
    """
    facts = _checked(federation)
    spec = federation.data_spec
    choice, ready = choice_of(federation), chosen(federation)
    linear = replace(facts, row=columns_of(spec).row) if isinstance(spec, DataSpec) else facts
    no_forecast = _no_forecast(ready)
    guess = None if no_forecast else auroc
    try:
        expected = _expected(linear, guess, choice)
    except ValueError as error:
        raise ConfigError(f"--auroc: {error}") from None
    return RunPlan(
        name=federation.name,
        unit=federation.privacy.unit,
        model=federation.model.kind,
        features=len(spec.feature_names) if isinstance(spec, DataSpec) else 0,
        units=facts.units,
        epsilon=federation.privacy.epsilon,
        delta=federation.privacy.delta,
        settings=tuple(_settings(ready, facts, federation.auto)),
        personal=_personal(ready),
        assumed_auroc=auroc,
        expected=expected,
        no_forecast=no_forecast,
        curve=() if guess is None else tuple(_curve(ready, linear, guess, choice)),
        changes=tuple(_changes(federation, linear, choice, guess)),
        wrong=WRONG if isinstance(spec, DataSpec) else (),
        paid=tuple(_paid(ready, facts)),
        released=_released(ready, facts, auroc) if ready.release.metrics else None,
        hospitals={name: _hospital(ready, name, share) for name, share in _shares(ready, facts)},
        notes=tuple(_notes(ready, choice)),
    )


def _checked(federation: Federation) -> Facts:
    if federation.model.kind == "own":
        raise ConfigError(
            '[model] kind = "own": a plan needs to know the model; use "mlp" or "logistic" (an own model trains with '
            "clip 1, learning rate 1 and 10 rounds unless you set them)"
        )
    if federation.data is None:
        raise ConfigError(_NO_TABLE)
    if not federation.privacy.protects:
        raise ConfigError('[privacy] protection = "none": a plan is about noise, and there is none; run it')
    files = federation.data.get("files") or {}
    missing = sorted(set(files) - set(federation.sites))
    if not federation.sites or missing:
        name = missing[0] if missing else "NAME"
        raise ConfigError(f"no [sites.{name}] table; declare units = N for every hospital that is to take part")
    check_roster(sorted(federation.sites), federation.minimum)
    check_declared(federation.sites, federation.privacy.unit)
    return facts_of(federation) or facts_without_rows(federation)


def _no_forecast(ready: Federation) -> str:
    """Why there is none, or nothing."""
    if ready.model.is_for_images:
        what = "masks" if ready.model.task == "segmentation" else "images"
        return f"it was measured on tables, and what a model of {what} reaches no declaration tells"
    if ready.model.plugins:
        return "it was measured on built-in models and tasks, and what a plug-in's reach no declaration tells"
    return "a regression has no AUROC" if ready.model.task == "regression" else ""


def _expected(facts: Facts, auroc: float | None, choice: Choice) -> Forecast | None:
    return None if auroc is None else forecast(facts, auroc, choice.rounds * facts.steps)


def _shares(federation: Federation, facts: Facts) -> Iterator[tuple[str, Share]]:
    return zip(federation.sites, facts.hospitals, strict=True)


def _settings(ready: Federation, facts: Facts, auto: tuple[AutoKey, ...]) -> Iterator[Setting]:
    """The file's numbers stand beside what the rule would choose if it chose all."""
    values: dict[AutoKey, float] = {
        "rounds": ready.rounds,
        "training.learning_rate": ready.training.learning_rate,
        "privacy.clip": ready.privacy.clip,
        "encryption.limit": ready.encryption.limit,
    }
    rules = _rules(ready, facts)
    for key, value in values.items():
        rule, reason = rules.get(key, (None, "no rule was measured on images"))
        yield Setting(key, value, key in auto, rule, reason)


def _rules(ready: Federation, facts: Facts) -> dict[AutoKey, tuple[float, str]]:
    """What the rule would choose, and why; of images the limit alone, which follows from the others."""
    limit = "the largest value that an update holds: a whole error, and five standard deviations of noise"
    if ready.model.is_for_images:
        given = Given(ready.rounds, ready.training.learning_rate, ready.privacy.clip)
        return {"encryption.limit": (choose(facts, given).limit, limit)}
    free = choose(facts, Given(several=several_of(ready)))
    stop = (
        f"training goes on until noise in a typical patient's log-odds has a standard deviation of {free.wanted:.2f}"
        if free.output_noise >= 0.99 * free.wanted
        else "as fast as is safe: training ends for want of rounds, with noise to spare"
    )
    whose = "a typical error" if ready.model.task == "regression" else "the rarest outcome's error"
    width = f"{facts.residual:.3g}, times the norm of a typical row's gradient, {math.sqrt(facts.row):.3g}"
    sparse = ", and the root of the share that a round trains" if facts.density < 1 else ""
    few = "as few as go in safe steps; more rounds under one epsilon only cut the same training into smaller steps"
    return {
        "rounds": (free.rounds, few),
        "training.learning_rate": (free.learning_rate, stop),
        "privacy.clip": (free.clip, f"{whose} at the start, {width}{sparse}"),
        "encryption.limit": (free.limit, limit),
    }


def _personal(ready: Federation) -> str:
    if ready.model.personal == ():
        known = any(site.prevalence is not None for site in ready.sites.values())
        start = (
            " Each hospital's level starts halfway to its own declared prevalence, which costs nothing."
            if known
            else ""
        )
        return f"Nothing is trained at one hospital alone: its noise would cost more than it finds.{start}"
    kept = ready.model.personal if isinstance(ready.model.personal, str) else ", ".join(ready.model.personal)
    return f"Trained by each hospital for itself, as the file asks: {kept}."


def _at(facts: Facts, federation: Federation, epsilon: float) -> Facts:
    return replace(facts, mu=mu_of(epsilon, federation.privacy.delta) * trained_share(federation))


def _curve(federation: Federation, facts: Facts, auroc: float, choice: Choice) -> Iterator[Point]:
    for each in sorted({*EPSILONS, federation.privacy.epsilon}):
        found = _expected(_at(facts, federation, each), auroc, choice)
        if found is not None:
            yield Point(each, found)


def _changes(federation: Federation, facts: Facts, choice: Choice, auroc: float | None) -> Iterator[Change]:
    """Shared noise, another round, another hospital."""
    if facts.absent is None and len(facts.hospitals) > 3:
        shared = replace(facts, absent=1, beside=0)
        times = facts.noise(choice.rounds) / shared.noise(choice.rounds)
        without = ", and no expert is released" if federation.release.experts else ""
        yield Change(
            "shared noise",
            _expected(shared, auroc, choice),
            f"noise in the mean would be {times:.2f} times less; epsilon then holds against who sees the sums, and not "
            f'against who sees a hospital\'s own update{without} (preset = "shared-noise")',
        )
    if federation.model.is_for_images:
        return
    more = choice_of(federation.replace(rounds=choice.rounds + 1))
    further = more.travel / choice.travel - 1
    yield Change(
        "another round",
        _expected(facts, auroc, choice),
        f"training would go {further:.0%} further at the same epsilon"
        if further > 0.02
        else "nothing: the same training in smaller steps, for one more exchange of messages",
    )
    units = sorted(hospital.units for hospital in facts.hospitals)[len(facts.hospitals) // 2]
    yield Change("another hospital", _expected(_joined(facts, units), auroc, choice), f"one of {units} units")


def _joined(facts: Facts, units: int) -> Facts:
    """With one more hospital, all weighing by their units."""
    counts = [*(hospital.units for hospital in facts.hospitals), units]
    rates = [*(hospital.rate for hospital in facts.hospitals), 1.0]
    total = sum(counts)
    return replace(facts, hospitals=tuple(Share(n, n / total, rate) for n, rate in zip(counts, rates, strict=True)))


def _paid(ready: Federation, facts: Facts) -> Iterator[Paid]:
    """What a hospital releases, in the order in which it does, and what it has spent by then."""
    release, steps, local = ready.release, 0, ready.training.steps
    each = f" of {local} steps" if local > 1 else ""
    parts = [(f"{ready.rounds} round{'s' * (ready.rounds > 1)}{each}", ready.rounds * local)]
    parts += [("released metrics", ready.evaluation_steps)] if release.metrics else []
    parts += [("fine-tuning an expert", release.finetuning)] if release.finetuning else []
    parts += [("a prior", 1)] if release.prior else []
    parts += [("experts made of these", 0)] if release.experts else []
    alike = len({share.rate for share in facts.hospitals}) == 1 and not ready.shares_noise
    for what, more in parts:
        steps += more
        yield Paid(what, more, _cost(ready, facts.hospitals[0].rate, steps) if alike else None)


def _released(ready: Federation, facts: Facts, auroc: float) -> ReleasedPlan:
    steps = ready.evaluation_steps
    histogram, alike = histogram_of(ready), len({share.rate for share in facts.hospitals}) == 1
    noise, rates = planned_deviation(ready, histogram), [share.rate for share in facts.hospitals]
    split, units = None if ready.data_spec is None else ready.data_spec.split, None
    found: OutcomeFigures | None = None
    if split is not None and split.method != "column":
        units = round(facts.units * split.test / (1 - split.test))
        found = expected_figures(
            histogram,
            auroc=auroc,
            prevalence=min(ready.prevalence_of() or (0.5,)),
            patients=units,
            deviation=noise,
            spread=1 + max((1 - rate) / (steps * rate) for rate in rates),
        )
    halves = {
        what: None if found is None or (figure := getattr(found, what)) is None else (figure.high - figure.low) / 2
        for what in ("auroc", "sensitivity", "specificity")
    }
    return ReleasedPlan(
        share=steps / ready.run_steps,
        epsilon=_cost(ready, facts.hospitals[0].rate, steps) if alike and not ready.shares_noise else None,
        dearer=math.sqrt(ready.run_steps / (ready.run_steps - steps)),
        noise=noise,
        units=units,
        **halves,
    )


def _cost(ready: Federation, rate: float, steps: int) -> float:
    """The epsilon of `steps` steps with the noise that the whole run's epsilon asks for: as a ledger will say."""
    step = Release(noise_multiplier=_noise(ready, rate), sample_rate=rate, steps=steps, unit=ready.privacy.unit)
    return epsilon([step], ready.privacy.delta)


def _noise(ready: Federation, rate: float) -> float:
    return noise_multiplier_for(ready.privacy.epsilon, ready.privacy.delta, rate, ready.run_steps)


def _hospital(ready: Federation, name: str, share: Share) -> HospitalPlan:
    whole, delta, budget = ready.privacy.epsilon, ready.privacy.delta, ready.budget_of(name)
    left = _left(budget, whole, delta) if share.rate == 1 else None
    return HospitalPlan(
        units=share.units,
        share=share.weight,
        threshold=point[0] if len(point := ready.operating_point_of(name)) == 1 else None,
        sample_rate=share.rate,
        noise_multiplier=None if ready.shares_noise else _noise(ready, share.rate),
        epsilon=whole if ready.shares_noise else _cost(ready, share.rate, ready.run_steps),
        budget=budget,
        left=left,
        note=_budget_note(ready, name, budget, left),
    )


def _left(budget: float, epsilon: float, delta: float) -> float:
    """What another full-batch run may cost: squares of mu add up."""
    if budget <= epsilon:
        return 0.0
    return epsilon_of(math.sqrt(mu_of(budget, delta) ** 2 - mu_of(epsilon, delta) ** 2), delta)


def _budget_note(ready: Federation, name: str, budget: float, left: float | None) -> str:
    if budget < ready.privacy.epsilon:
        return f"the budget of {budget:g} ends before the run does: raise [sites.{name}] budget, or lower epsilon"
    if left == 0:
        return "this run uses the budget up: no further run on these rows, unless a larger budget is declared before"
    return "" if left is not None else "batches are drawn: the ledger says after the run what is left"


def _notes(ready: Federation, choice: Choice) -> Iterator[str]:
    units = sorted((ready.units_of(name), name) for name in ready.sites)
    least, name = units[0]
    if ready.privacy.delta > 1 / (10 * least):
        yield f"delta {ready.privacy.delta:g} is above 1/(10 n) at {name} ({least} units): lower it"
    yield from same_experts(ready, personal=ready.model.personal != () or ready.model.adapters is not None)
    if ready.model.is_for_images:
        return
    if ready.prevalence_of() is None and ready.model.task != "regression":
        yield "no prevalence is declared: training starts from even odds; [data] prevalence costs nothing and helps"
    if choice.output_noise > 2 * choice.wanted:
        yield (
            f"learning rate and rounds as set let noise in a typical output reach {choice.output_noise:.2f}; the rule "
            f"would stop at {choice.wanted:.2f}"
        )
    if ready.model.kind == "mlp":
        yield (
            "the forecast was measured on logistic models; a network needs more rows or epsilon to reach it: on small "
            'tables [model] kind = "logistic" is the better start'
        )
