"""From a TOML file to settings: read, converted, and every error in our words with the file and the key."""

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from securepfl.errors import ConfigError

_S = TypeVar("_S", bound=msgspec.Struct)


def read_toml(path: Path) -> dict[str, Any]:
    """The mapping in a TOML file. Raises ConfigError naming the file, and the line where there is one."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); name an existing TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML ({error}); mend that line") from None


def structured(mapping: Mapping[str, Any], kind: type[_S], where: str) -> _S:
    """`mapping` as settings of `kind`. Raises ConfigError naming `where` and the key."""
    try:
        return msgspec.convert(mapping, type=kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {_readable(str(error))}") from None


_CHOICES = {
    "trajectory.of": "local and mixture",
    "sparsity.kind": "auto, support, select, soft and difference",
    "similarity.of": "updates and personal",
    "coupling.kind": "unit and lasso",
    "coupling.graph": "knn, threshold and complete",
    "model.kind": "mlp, logistic and own",
    "model.task": "binary, multiclass, multilabel and regression",
    "model.personal": "auto, intercept, head and adapters; patterns stand in a list",
    "encryption.masking": "none and pairwise",
    "privacy.unit": "record and patient",
    "privacy.noise": "local and shared",
}


def _readable(message: str) -> str:
    """msgspec's words in ours: the key's place first, as it stands in the TOML."""
    text, _, place = message.partition(" - at `$")
    key = place.rstrip("`").lstrip(".")
    if text.startswith("Object contains unknown field"):
        field = text.split("`")[1]
        return f"unknown key `{field}` in {f'[{key}]' if key else 'the top level'}; remove it or mend its spelling"
    if text.startswith("Invalid enum value"):
        text += f"; known are {_CHOICES.get(key, 'those in docs/configuration.md')}"
    if text.startswith("Expected"):
        text += "; mend its type (numbers stand without quotes)"
    return f"[{key}] {text}" if key else text
