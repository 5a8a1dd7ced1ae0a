"""Recipes by name: `preset = "..."` in the TOML sets the keys of a method that was measured, and any key overrides.

What each is good for is in docs/results/methods.md. A preset adds nothing of its own: a file that spells out the same
keys is the same federation, with the same digest.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from securepfl.errors import ConfigError

if TYPE_CHECKING:
    from securepfl.settings.federation import Federation

Tables = Mapping[str, Mapping[str, Any]]

_AVERAGED: Tables = {"trajectory": {"of": "mixture", "alpha": 0.5}}
_WIDE = {"logistic": ("*.weight",)}
"""What is personal where hospitals differ in more than level: the output layer, or of a model that is nothing else, all
weights but the intercept."""


@dataclass(frozen=True)
class Need:
    """What a preset's method can't do without: `holds` of the settings, else `key` is to blame."""

    key: str
    holds: "Callable[[Federation], bool]"
    otherwise: str


@dataclass(frozen=True)
class Preset:
    """A recipe: `tables` of keys, in the words of the TOML, and what must not be taken back. `purpose`: a sentence."""

    purpose: str
    tables: Tables
    needs: tuple[Need, ...]
    wide: bool = False

    def tables_for(self, model_kind: str) -> Tables:
        """The keys it sets for a model of `[model] kind`."""
        if not self.wide:
            return self.tables
        return {"model": {"personal": _WIDE.get(model_kind, "head")}, **self.tables}


_COUPLABLE = Need(
    "[model] personal",
    lambda f: f.model.personal != () or not f.coupled,
    "nothing is personal, so [coupling] and [lasso] have nothing to draw together",
)
_ROUNDS = Need(
    "rounds", lambda f: bool(f.schedule.coupling_rounds), "too few rounds to compare hospitals and draw them together"
)
_PERSONAL = Need("[model] personal", lambda f: f.model.personal != (), "nothing would be personal")

PRESETS: Mapping[str, Preset] = {
    "one-model": Preset(
        "One model for all hospitals, averaged over the rounds. Where hospitals are alike, or rows are few.",
        {"model": {"personal": ()}, **_AVERAGED},
        (
            Need("[model] personal", lambda f: f.model.personal == (), "there would be more than one model"),
            Need("[coupling] strength", lambda f: not f.coupling.strength, "nothing is personal to be drawn together"),
            Need("[lasso]", lambda f: f.lasso is None, "nothing is personal to be drawn together"),
        ),
    ),
    "personal-intercept": Preset(
        "One model with an intercept of each hospital's own. Where hospitals differ in how many patients are ill.",
        {"model": {"personal": "intercept"}, **_AVERAGED},
        (_PERSONAL,),
    ),
    "groups": Preset(
        "An output layer of each hospital's own, drawn to similar hospitals'. Where groups of 4 or more are alike.",
        {"similarity": {"every": 2}, "coupling": {"strength": 0.75}, **_AVERAGED},
        (
            _PERSONAL,
            Need("[coupling] strength", lambda f: f.coupling.strength > 0, "nobody would be drawn to anybody"),
            _ROUNDS,
        ),
        wide=True,
    ),
    "network-lasso": Preset(
        "The method of Zhao et al. (arXiv 2306.14483): output layers joined by a network lasso over the similarity "
        "graph, and difference-sparse updates.",
        {
            "similarity": {"every": 1},
            "lasso": {"penalty": 0.02},
            "sparsity": {"density": 0.2, "kind": "difference"},
            "trajectory": {"of": "mixture", "alpha": 0.0},
        },
        (
            _PERSONAL,
            Need(
                "[sparsity] kind", lambda f: f.sparsity.kind == "difference", "updates would not be difference-sparse"
            ),
            _ROUNDS,
        ),
        wide=True,
    ),
    "experts": Preset(
        "The method of Jiang et al. (arXiv 2204.08467): one model is trained, and each hospital releases an average of "
        "its own models for hospitals outside.",
        {"model": {"personal": ()}, "trajectory": {"of": "local", "alpha": 0.1}, "release": {"experts": True}},
        (
            Need("[release] experts", lambda f: f.release.experts, "no expert would be released"),
            Need("[trajectory] of", lambda f: f.trajectory.of == "local", "no hospital's own models would be averaged"),
            _COUPLABLE,
        ),
    ),
    "shared-noise": Preset(
        "Noise that all hospitals make together, so each adds less. Where hospitals are many or epsilon is small.",
        {"model": {"personal": ()}, "encryption": {"masking": "pairwise"}, "shared_noise": {}, **_AVERAGED},
        (_COUPLABLE,),
    ),
    "few-bytes": Preset(
        "A quarter of the coordinates travels in a round, in 8 bits, after five steps. For large models.",
        {
            "model": {"personal": "intercept"},
            "training": {"steps": 5},
            "sparsity": {"density": 0.25, "block": 64},
            "encryption": {"bits": 8},
            **_AVERAGED,
        },
        (Need("[sparsity] density", lambda f: f.sparsity.density < 1, "all coordinates would travel"),),
    ),
}


def expanded(mapping: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """`mapping` with the keys that its preset sets and it does not. Raises ConfigError for a preset nobody knows.

    >>> expanded({"preset": "one-model", "trajectory": {"alpha": 0.25}}, "federation.toml")["trajectory"]
    {'of': 'mixture', 'alpha': 0.25}
    """
    preset = _preset(mapping.get("preset"), where)
    if preset is None:
        return mapping
    model = mapping.get("model")
    kind = model.get("kind", "mlp") if isinstance(model, Mapping) else "mlp"
    merged = dict(mapping)
    for name, keys in preset.tables_for(kind).items():
        own = mapping.get(name, {})
        merged[name] = {**keys, **own} if isinstance(own, Mapping) else own
    return merged


def check_needs(federation: "Federation", where: str) -> None:
    """Raise ConfigError, with the preset and the key, where a key takes back what the preset's method needs."""
    preset = _preset(federation.preset, where)
    for need in () if preset is None else preset.needs:
        if not need.holds(federation):
            raise ConfigError(
                f'{where}: preset = "{federation.preset}" and {need.key} contradict each other: {need.otherwise}; '
                "change the key, or choose another preset"
            )


def preset_notes(federation: "Federation") -> list[str]:
    """What the preset set, and which of its keys the settings override: a line, or none."""
    preset = _preset(federation.preset, federation.name)
    if preset is None:
        return []
    kept: list[str] = []
    others: list[str] = []
    for table, keys in preset.tables_for(federation.model.kind).items():
        own = getattr(federation, table)
        kept += [f"[{table}]"] if not keys else []
        for key, value in keys.items():
            now = getattr(own, key, None)
            (kept if now == value else others).append(f"[{table}] {key} = {_toml(now)}")
    line = f'preset = "{federation.preset}" set {", ".join(kept) or "nothing"}'
    return [f"{line}; overridden: {', '.join(others)}" if others else line]


def _preset(name: Any, where: str) -> Preset | None:
    if name is None:
        return None
    if not isinstance(name, str) or name not in PRESETS:
        raise ConfigError(f"{where}: preset = {_toml(name)}: known are {', '.join(PRESETS)}")
    return PRESETS[name]


def _toml(value: Any) -> str:
    """As it would stand in the file."""
    return json.dumps(value, ensure_ascii=False, default=str)
