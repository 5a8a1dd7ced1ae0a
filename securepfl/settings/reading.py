"""From a TOML file to settings: read, converted, and every error in our words with the file and the key."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from securepfl.errors import ConfigError
from securepfl.settings.presets import expanded

_S = TypeVar("_S", bound=msgspec.Struct)


def read_toml(path: Path) -> dict[str, Any]:
    """The mapping in a TOML file. Raises ConfigError naming the file, and the line where there is one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error}); mend that line") from None


def with_preset(mapping: Mapping[str, Any], kind: type[_S], where: str) -> _S:
    """`mapping` and what its preset adds to it, as settings of `kind`.

    Raises ConfigError naming `where` and the key; and the preset, where without it nothing would be wrong.
    """
    whole = expanded(mapping, where)
    try:
        return structured(whole, kind, where)
    except ConfigError as error:
        own = {key: value for key, value in mapping.items() if key != "preset"}
        if "preset" not in mapping or str(error) == _problem(own, kind, where):
            raise
        raise ConfigError(f'{where}: preset = "{mapping["preset"]}": {str(error).removeprefix(f"{where}: ")}') from None


def _problem(mapping: Mapping[str, Any], kind: type[_S], where: str) -> str:
    try:
        structured(mapping, kind, where)
    except ConfigError as error:
        return str(error)
    return ""


def structured(mapping: Mapping[str, Any], kind: type[_S], where: str) -> _S:
    """`mapping` as settings of `kind`. Raises ConfigError naming `where` and the key."""
    for place, words in _GONE.items():
        table, _, key = place.partition(".")
        if key in _table(mapping, table):
            raise ConfigError(f"{where}: [{table}] {key}: {words}")
    try:
        return msgspec.convert(mapping, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_readable(str(error))}") from None


def _table(mapping: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    table = mapping.get(name)
    return table if isinstance(table, Mapping) else {}


_GONE = {
    "model.seed": "removed: all starting weights are drawn from one fixed seed; delete it",
    "training.physical_batch": "moved: it changes no result, so it is no shared setting; delete it, and pass "
    "physical_batch to Client or simulate where memory is short",
    "privacy.noise": "moved: a [shared_noise] table turns shared noise on; delete this key",
    "privacy.normaliser": "moved; write it under [shared_noise]",
    "privacy.colluders": "moved; write it under [shared_noise]",
    "privacy.dropouts": "moved; write it under [shared_noise]",
    "sparsity.exploration": "removed: it is always 0.25; delete it",
    "encryption.mask_degree": "removed: it follows from the number of hospitals; delete it",
    "similarity.of": "removed: the network lasso compares personal parameters, all else accumulated updates; delete it",
    "similarity.dimensions": "removed: a sketch always has 4096; delete it",
    "similarity.gate": "removed: it is always 3; delete it",
    "coupling.kind": "removed: a [lasso] table turns the network lasso on, [coupling] strength the pull to neighbours; "
    "delete this key",
    "coupling.penalty": "moved; write it under [lasso]",
    "coupling.scale": "moved; write it under [lasso]",
    "coupling.weight_bits": "removed: they are always 12; delete it",
    "coupling.momentum": "removed: it amplified noise, and was refused wherever privacy was; delete it",
    "coupling.graph": "removed: the graph is always the nearest with a cosine above 0, which measured best; delete it",
    "coupling.threshold": "removed with [coupling] graph; delete it",
    "coupling.hold": "removed: a graph is always kept for 5 rounds; delete it",
    "trajectory.layers": "removed: one alpha serves all parameters; delete it",
}
"""Keys that files of earlier versions may hold, and what to do about each."""

_CHOICES = {
    "trajectory.of": "local and mixture",
    "sparsity.kind": "auto, support, select, soft and difference",
    "model.kind": "mlp, logistic and own",
    "model.task": "binary, multiclass, multilabel and regression",
    "model.personal": "auto, intercept, head and adapters; patterns stand in a list",
    "encryption.masking": "none and pairwise",
    "privacy.unit": "record and patient",
}


def _readable(message: str) -> str:
    """msgspec's words in ours: the key's place first, as it stands in the TOML."""
    text, _, place = message.partition(" - at `$")
    key = place.rstrip("`").lstrip(".")
    if text.startswith("Object contains unknown field"):
        field = text.split("`")[1]
        return f"unknown key `{field}` in {f'[{key}]' if key else 'the top level'}; remove it or mend its spelling"
    if text.startswith("Object missing required field"):
        field = text.split("`")[1]
        return f"[{key}] {field}: must be declared; add {field} = ..."
    if text.startswith("Invalid enum value"):
        text += f"; known are {_CHOICES.get(key, 'those in docs/configuration.md')}"
    if text.startswith("Expected"):
        text += "; mend its type (numbers stand without quotes)"
    return f"[{key}] {text}" if key else text
