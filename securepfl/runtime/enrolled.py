"""Settings in a file, and the hospitals that a key ceremony enrolled: bound, and seen to be the same."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from securepfl import errors
from securepfl.crypto.keys.holdings import Epoch, Holdings
from securepfl.errors import ConfigError, SecurePFLError, StorageError
from securepfl.settings.federation import Federation
from securepfl.storage.keys import private_file

if TYPE_CHECKING:
    from torch import nn

_BIND: Final = "from securepfl.runtime.enrolled import main; main()"


def epoch_of(folder: Path, holdings: Holdings) -> Epoch:
    """The epoch that the party in `folder` is in. Raises StorageError where it has enrolled in none."""
    try:
        return holdings.epoch()
    except StorageError as error:
        raise StorageError(f"{private_file(folder)}: {error}") from None


def bind(config: Path, roster: Iterable[str]) -> "tuple[Federation, Callable[[], nn.Module]]":
    """The settings in `config` bound to hospitals, and what builds the model. Raises ConfigError."""
    from securepfl.settings.binding import built_in  # noqa: PLC0415 - loads torch, as no hub does

    federation = Federation.read(config)
    spec = federation.data_spec
    if spec is None:
        raise ConfigError(f"{config}: no [data] table; declare label, ranges and categories there")
    if federation.model.kind == "own":
        raise ConfigError(
            f'{config}: [model] kind = "own": files build "mlp" or "logistic"; open Client and Coordinator in your own '
            "pipeline for a model of your own"
        )
    build_model = built_in(federation.model, spec)
    try:
        return federation.bound(roster, build_model), build_model
    except SecurePFLError as error:
        raise type(error)(f"{config}: {error}") from None


def bind_for_hub(config: Path, roster: Iterable[str]) -> Federation:
    """The settings alone, as `bind` does: where no torch is loaded in a process apart, as a hub needs it at no other
    time. Raises ConfigError.
    """
    return bind(config, roster)[0] if "torch" in sys.modules else bind_apart(config, roster)


def bind_apart(config: Path, roster: Iterable[str]) -> Federation:
    """The settings alone, as `bind` does, in a process of its own that ends. Raises ConfigError."""
    told = json.dumps([str(config), list(roster)])
    done = subprocess.run(  # noqa: S603 - nothing in it is anybody else's
        [sys.executable, "-P", "-c", _BIND], input=told, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{config}: could not be bound: {done.stderr.strip()}")
    said = json.loads(done.stdout)
    if "error" in said:
        raise getattr(errors, said["error"])(said["line"])
    return msgspec.json.decode(said["federation"], type=Federation)


def main() -> None:
    """The process that `bind_apart` starts."""
    config, roster = json.load(sys.stdin)
    try:
        bound, _ = bind(Path(config), roster)
    except SecurePFLError as error:
        said = {"error": type(error).__name__, "line": str(error)}
    else:
        said = {"federation": msgspec.json.encode(bound).decode()}
    json.dump(said, sys.stdout)


def check_enrolled(config: Path, bound: Federation, epoch: Epoch) -> None:
    """Raises ConfigError for settings other than those that were enrolled."""
    if bound.ceremony_digest != epoch.federation_digest:
        raise ConfigError(
            f"{config}: other settings than those enrolled in epoch {epoch.number}; use the very file of the ceremony, "
            "or enrol this one (`securepfl keys rotate`)"
        )
