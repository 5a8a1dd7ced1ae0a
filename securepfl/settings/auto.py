"""Numbers that a file may leave to be chosen from what it declares: `rounds`, `learning_rate` and `clip` = "auto".

They are chosen once, when every hospital's units are known, and stand as numbers in the digest from then on.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from securepfl.errors import ConfigError

if TYPE_CHECKING:
    from securepfl.data.schema import DataSpec
    from securepfl.settings.federation import Federation

AutoKey = Literal["rounds", "training.learning_rate", "privacy.clip"]
AUTO = "auto"


def without_auto(mapping: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[AutoKey, ...]]:
    """`mapping` without the keys that are "auto", and those keys with the ones that it leaves out.

    >>> without_auto({"rounds": 5, "privacy": {"clip": "auto", "epsilon": 1.0}}, "federation.toml")
    ({'rounds': 5, 'privacy': {'epsilon': 1.0}}, ('training.learning_rate', 'privacy.clip'))
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

    Without `[data]` nothing is known of a row's size, and the defaults stand.
    """
    spec = federation.data_spec
    if not federation.auto or spec is None:
        return federation.replace(auto=())
    values = _by_rule(federation, spec)
    for key in federation.auto:
        table, _, name = key.rpartition(".")
        federation = federation.changed(table, **{name: values[key]}) if table else federation.replace(rounds=10)
    return federation.replace(auto=())


def _by_rule(federation: "Federation", spec: "DataSpec") -> dict[AutoKey, Any]:
    """Clip and learning rate for a logistic model and full batches."""
    from securepfl.privacy.accounting.gaussian import mu_of  # noqa: PLC0415 (it loads scipy)

    rounds = 10 if "rounds" in federation.auto else federation.rounds
    levels = sum(len(levels) - 1 for levels in spec.categories.values())
    row = math.sqrt(1 + 0.7 * len(spec.ranges) + levels)
    shares = federation.prevalence_of() or (0.5,)
    share = max(shares)
    clip = max(share, 1 - share) * row if "privacy.clip" in federation.auto else federation.privacy.clip
    mu = mu_of(federation.privacy.epsilon, federation.privacy.delta)
    hospitals, units = len(federation.sites), federation.all_units
    total = min(0.25 * mu * units / (clip * row * math.sqrt(hospitals)), 0.2 * rounds / (share * (1 - share)))
    rate = total / (rounds * federation.training.steps)
    return {"rounds": rounds, "privacy.clip": _rounded(clip), "training.learning_rate": _rounded(rate)}


def _rounded(value: float) -> float:
    """Three digits: what people read is what the digest holds."""
    return float(f"{value:.3g}")
