"""Numbers that a file may leave to be chosen from what it declares: `rounds`, `learning_rate`, `clip` and `limit`.

They are chosen once, when every hospital's units are known, and stand as numbers in the digest from then on. The rule
is in learning/declared; here a federation becomes the facts that it needs.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, get_args

from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError
from securepfl.learning.declared.facts import Facts, Share
from securepfl.learning.declared.rows import Columns, Outputs, binary, multiclass, multilabel, regression, row_of_mlp
from securepfl.learning.declared.rule import Choice, Given, choose
from securepfl.settings.fixed import EVALUATION_SHARE
from securepfl.tasks.names import TASK_NAMES

if TYPE_CHECKING:
    from securepfl.settings.federation import Federation

AutoKey = Literal["rounds", "training.learning_rate", "privacy.clip", "encryption.limit"]
AUTO = "auto"


def without_auto(mapping: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[AutoKey, ...]]:
    """`mapping` without the keys that are "auto", and those keys with the ones that it leaves out.

    >>> without_auto({"rounds": 5, "privacy": {"clip": "auto", "epsilon": 1.0}}, "federation.toml")
    ({'rounds': 5, 'privacy': {'epsilon': 1.0}}, ('training.learning_rate', 'privacy.clip', 'encryption.limit'))
    """
    if AUTO in mapping:
        raise ConfigError(f'{where}: unknown key `auto`; write rounds = "auto" and the like')
    plain, auto = dict(mapping), []
    for place in get_args(AutoKey):
        table, _, key = place.rpartition(".")
        holder = plain.get(table, {}) if table else plain
        if not isinstance(holder, Mapping):
            continue
        if holder.get(key, AUTO) != AUTO:
            continue
        auto.append(place)
        if key in holder:
            kept = {name: value for name, value in holder.items() if name != key}
            if table:
                plain[table] = kept
            else:
                plain = kept
    return plain, tuple(auto)


def chosen(federation: "Federation") -> "Federation":
    """A copy in which every number that is still to be chosen is. Raises ConfigError where units aren't declared.

    Without `[data]`, or with a model of the pipeline's own, nothing is known of a row's size: clip 1, learning rate 1
    and 10 rounds, and the limit that fits them.
    """
    federation = _with_personal(federation)
    if not federation.auto:
        return federation
    if not federation.privacy.protects:
        return _unprotected(federation)
    choice = choice_of(federation)
    values: dict[AutoKey, float] = {
        "rounds": choice.rounds,
        "training.learning_rate": choice.learning_rate,
        "privacy.clip": choice.clip,
        "encryption.limit": choice.limit,
    }
    for key in federation.auto:
        table, _, name = key.rpartition(".")
        change = {name: values[key]}
        federation = federation.changed(table, **change) if table else federation.replace(**change)
    return federation.replace(auto=())


UNPROTECTED_RATE: Final = 2e-3
UNPROTECTED_ROUNDS: Final = 30
"""What Adam takes where nobody said otherwise: a UNet of hidden 8 on patches trained well so, a table's model too."""


def _unprotected(federation: "Federation") -> "Federation":
    """Without noise: nothing is clipped, and an update is as large as Adam's steps, which none of its numbers exceeds
    by much.
    """
    free = federation.auto
    federation = federation.replace(auto=())
    if "rounds" in free:
        federation = federation.replace(rounds=UNPROTECTED_ROUNDS)
    if "training.learning_rate" in free:
        federation = federation.changed("training", learning_rate=UNPROTECTED_RATE)
    if "encryption.limit" in free:
        training = federation.training
        reach = training.steps * training.learning_rate
        federation = federation.changed("encryption", limit=float(f"{min(max(reach, 1e-6), 1e6):.3g}"))
    return federation


def several_of(federation: "Federation") -> bool:
    """Whether it takes several rounds to do what is asked: to compare hospitals, or to send the model part by part."""
    return federation.coupled or federation.similarity.every > 0 or federation.sparsity.density < 1


def _with_personal(federation: "Federation") -> "Federation":
    """A copy in which nothing is trained personally where nobody said what should be: on nine tables a personal
    intercept's noise cost up to .04 of balanced accuracy, and what it learns a declared prevalence gives for nothing.
    Adapters, and what draws hospitals together, need a personal part.
    """
    model = federation.model
    if model.personal != "auto" or model.adapters is not None or federation.coupled:
        return federation
    return federation.changed("model", personal=())


def choice_of(federation: "Federation") -> Choice:
    """What the rule gives for a federation, of which `federation.auto` is free. Raises ConfigError as `chosen`."""
    free, facts = federation.auto, facts_of(federation)
    known = facts is not None
    given = Given(
        rounds=None if "rounds" in free and known else federation.rounds,
        learning_rate=None if "training.learning_rate" in free and known else federation.training.learning_rate,
        clip=None if "privacy.clip" in free and known else federation.privacy.clip,
        limit=None if "encryption.limit" in free else federation.encryption.limit,
        several=several_of(federation),
    )
    return choose(facts or facts_without_rows(federation), given)


def alone_at(federation: "Federation", site: str) -> "Federation":
    """A copy with the learning rate that the rule gives `site` alone, where the rule chose that of all hospitals.

    What trains alone has more noise in a step than a mean over hospitals: at their rate it would be worse than it is.
    """
    free: tuple[AutoKey, ...] = ("training.learning_rate",)
    if not federation.privacy.protects:
        return federation
    whole = federation.replace(auto=free)
    if federation.shares_noise or choice_of(whole).learning_rate != federation.training.learning_rate:
        return federation
    alone = whole.replace(sites={site: federation.sites[site]})
    return federation.changed("training", learning_rate=choice_of(alone).learning_rate)


def clip_by_rule(federation: "Federation") -> bool:
    """Whether the clip is the rule's, from declared ranges and prevalence, rather than somebody's own."""
    free: tuple[AutoKey, ...] = ("privacy.clip",)
    if not federation.privacy.protects:
        return False
    known = facts_of(federation) is not None
    return known and choice_of(federation.replace(auto=free)).clip == federation.privacy.clip


def facts_of(federation: "Federation") -> Facts | None:
    """What the rule may know, all of it declared; None where a row's size isn't. Raises ConfigError without units."""
    spec, kind, task = federation.data_spec, federation.model.kind, federation.model.task
    if not isinstance(spec, DataSpec) or kind not in ("mlp", "logistic") or task not in (None, *TASK_NAMES):
        return None  # what a row can do to a plug-in's loss isn't known
    row, outputs = columns_of(spec).row, _outputs(federation)
    return dataclasses.replace(
        facts_without_rows(federation),
        residual=outputs.residual,
        curvature=outputs.curvature,
        row=row_of_mlp(row, federation.model.hidden) if kind == "mlp" else row,
        hidden=kind == "mlp",
        density=federation.sparsity.density if federation.trains_support else 1.0,
    )


def columns_of(spec: DataSpec) -> Columns:
    """The columns by kind: a range of spread .5 around a half (0.5, 1.5, ...) is a yes or no, coded as two integers."""
    binary = sum(its.spread == 0.5 and its.centre % 1 == 0.5 for its in spec.ranges.values())
    levels = tuple(len(levels) for levels in spec.categories.values())
    return Columns(len(spec.ranges) - binary, binary, levels)


def facts_without_rows(federation: "Federation") -> Facts:
    """The facts that need no `[data]`; an update's values are bounded by the clip alone."""
    from securepfl.privacy.accounting.gaussian import mu_of  # noqa: PLC0415 (it loads scipy)

    weights = {name: federation.weight_share(name) for name in federation.sites}
    total, noise = math.fsum(weights.values()), federation.shared_noise
    hospitals = tuple(
        Share(units := federation.units_of(name), weight / total, federation.sample_rate_for(units))
        for name, weight in weights.items()
    )
    return Facts(
        hospitals,
        mu=mu_of(federation.privacy.epsilon, federation.privacy.delta) * trained_share(federation),
        residual=federation.privacy.clip,
        curvature=0.25,
        row=1.0,
        steps=federation.training.steps,
        absent=None if noise is None else noise.absent,
        beside=federation.release.steps,
    )


def trained_share(federation: "Federation") -> float:
    """How much of mu is left for rounds and what goes with them, where released metrics take theirs: squares add up."""
    return 1 / math.sqrt(1 + EVALUATION_SHARE) if federation.release.metrics else 1.0


def _outputs(federation: "Federation") -> Outputs:
    """Of the loss by the outputs, started at the declared prevalence; where it isn't declared, at even odds."""
    task, shares = federation.model.task, federation.prevalence_of()
    options = federation.label_options
    if task == "regression":
        return regression()
    if task == "multiclass":
        count = len(options["classes"])
        return multiclass(shares or (1 / count,) * count)
    if task == "multilabel":
        return multilabel(shares or (0.5,) * len(options["labels"]))
    return binary((shares or (0.5,))[0])
