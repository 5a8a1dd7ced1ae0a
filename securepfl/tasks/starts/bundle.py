"""A body from a MONAI bundle's local folder: its description and its weights are read, and no code of it is run.

Read are `configs/inference.json` (or .yaml), its `network_def` alone, `models/model.pt` as weights only, and name and
version of `configs/metadata.json`. A bundle's expressions ("$...") and references ("@...") are code: refused.
"""

import json
import math
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from securepfl.errors import ConfigError, ModelError
from securepfl.tasks.models import public_stream
from securepfl.tasks.networks import UNet
from securepfl.tasks.starts.recipes import Recipe, Scaling, as_start, standardised
from securepfl.tasks.starts.start import MOST_BYTES, Start

_MOST_TEXT: Final = 1 << 20
_PARTS: Final = (1, 2, 4, 6, 8, 1)
_CONFIGS: Final = ("inference.json", "inference.yaml", "inference.yml")
_WIDEST: Final = 64
_LEAKY: Final = ["leakyrelu", {"negative_slope": 0.1, "inplace": True}]
"""BasicUNet's own."""
_DAMAGED: Final = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError),
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError),
)
"""What torch's reader of weights raises for bytes that are none."""


def read_bundle(folder: Path) -> tuple[UNet, str]:
    """The bundle's network as a U-Net of ours, its head at zero; and the bundle's name and version, for the card.

    Raises ModelError, one line, for a folder that is no bundle, a network of another kind, or weights that aren't its.
    """
    config = next((path for name in _CONFIGS if (path := folder / "configs" / name).is_file()), None)
    if config is None:
        raise ModelError(
            f"{folder}: no MONAI bundle, for it has no configs/inference.json or .yaml; name another folder"
        )
    channels, hidden = _sizes(_mapping(config).get("network_def"), config)
    model = UNet(channels, hidden, public_stream("bundle"))
    weights = folder / "models" / "model.pt"
    _put(model, _weights(weights), weights)
    return model.eval(), _title(folder)


def start_of_bundle(recipe: Recipe, scaling: Scaling, folder: Path, *, seed: int = 0) -> Start:
    """A bundle's weights as a start, its features' scale set by the recipe's synthetic images; `read_bundle` raises."""
    model, title = read_bundle(folder)
    standardised(recipe, scaling, model, seed)
    card = (
        f"Public start {recipe.name}, taken from the MONAI bundle {title}. What its weights were trained on, and with "
        "what right, its authors say, not securepfl: patients may be in it. Only the scale of its features was set "
        "here, on synthetic images with no patient in them. It is a place for training to begin, no medical device."
    )
    return as_start(recipe, model, card, {"seed": seed, "bundle": title})


def _mapping(path: Path) -> Mapping[str, Any]:
    """What a description holds. Raises ModelError where it cannot be read, or is no mapping."""
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_TEXT + 1)
        if len(data) > _MOST_TEXT:
            raise ModelError(f"{path}: a bundle's description has at most 1 MiB; name another folder")
        found = json.loads(data) if path.suffix == ".json" else _yaml(data, path)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); mend the bundle's folder") from None
    except (ValueError, RecursionError):
        raise ModelError(f"{path}: is not the JSON or YAML that its name says; mend the bundle") from None
    if not isinstance(found, dict):
        raise ModelError(f"{path}: is no mapping; mend the bundle")
    return found


def _yaml(data: bytes, path: Path) -> object:
    try:
        import yaml  # type: ignore[import-untyped]  # noqa: PLC0415 - optional, and only for bundles
    except ImportError:
        raise ConfigError(f"{path}: reading YAML needs PyYAML: pip install pyyaml") from None
    try:
        return yaml.safe_load(data)
    except yaml.YAMLError as error:
        raise ValueError(path.name) from error


def _sizes(network: object, config: Path) -> tuple[int, int]:
    """(channels, hidden) of the BasicUNet that a description names. Raises ModelError where it is another network."""
    if not isinstance(network, dict) or str(network.get("_target_", "")).rpartition(".")[2] != "BasicUNet":
        kind = str(network.get("_target_", "none"))[:60] if isinstance(network, dict) else "none"
        raise ModelError(
            f"{config}: network_def is {kind!r}, and only MONAI's BasicUNet fits a start; choose another bundle"
        )
    channels, hidden = network.get("in_channels", 1), (list(network.get("features") or []) or [32])[0]
    if not all(isinstance(number, int) and 1 <= number <= _WIDEST for number in (channels, hidden)):
        raise ModelError(
            f"{config}: in_channels and features must be plain numbers from 1 to {_WIDEST}, no expressions"
        )
    wanted = {
        "spatial_dims": 2,
        "out_channels": 1,
        "features": [hidden * part for part in _PARTS],
        "norm": ["group", {"num_groups": math.gcd(4, hidden)}],
        "upsample": "nontrainable",
    }
    act = network.get("act", _LEAKY)
    for key, value in wanted.items():
        if _plain(network.get(key)) != value:
            raise ModelError(
                f"{config}: network_def.{key} must be {json.dumps(value)} to fit a start; choose another bundle"
            )
    if _plain(act) != _LEAKY or not network.get("bias", True) or network.get("dropout", 0):
        raise ModelError(f"{config}: network_def must keep BasicUNet's act, bias and dropout; choose another bundle")
    return channels, hidden


def _plain(value: object) -> object:
    """Lists for tuples, and names in small letters, as MONAI takes them."""
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.lower() if isinstance(value, str) else value


def _weights(path: Path) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint, read as weights only. Raises ModelError where it holds anything else."""
    try:
        size = path.stat().st_size
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                size = sum(part.file_size for part in archive.infolist())
        if size > MOST_BYTES:
            raise ModelError(f"{path}: weights of at most {MOST_BYTES >> 20} MiB can be a start; choose another bundle")
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); mend the bundle's folder") from None
    except _DAMAGED:
        raise ModelError(f"{path}: holds something else than weights, and code is not run; save a state_dict") from None
    for key in ("model", "state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise ModelError(f"{path}: is no state_dict of tensors; save one")
    return found


def _put(model: UNet, weights: Mapping[str, Tensor], path: Path) -> None:
    own = model.body.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in own or name not in weights or own[name].shape != weights[name].shape:
            raise ModelError(f"{path}: {name!r} is not as its network_def says; the weights are another network's")
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise ModelError(f"{path}: NaN or infinity among the weights; choose another bundle")
    model.body.load_state_dict({name: weights[name].to(torch.float32) for name in own})


def _title(folder: Path) -> str:
    path = folder / "configs" / "metadata.json"
    meta = _mapping(path) if path.is_file() else {}
    texts = [str(meta[key])[:80] for key in ("name", "version") if isinstance(meta.get(key), str)]
    return " ".join(texts) or "without a name"
