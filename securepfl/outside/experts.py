"""Released experts: personal models that left their hospitals, each with its audit record and its inputs' ranges."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from torch import nn

from securepfl.data.prevalence import in_order
from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError, StorageError
from securepfl.learning.personal.adapters import folded
from securepfl.settings.binding import blank_model, built_in
from securepfl.settings.tables import ModelSettings
from securepfl.storage.folder import read_arrays, write_arrays
from securepfl.tasks.registry import task_named
from securepfl.tasks.task import OperatingPoint, Task

SHARED = "shared"
"""The name of the expert made of the shared parameters and the hospitals' average personal ones."""


@dataclass(frozen=True)
class Experts:
    """Models of one architecture by name, how their inputs were scaled, and what their outputs mean."""

    models: Mapping[str, nn.Module]
    spec: DataSpec
    task: Task
    records: Mapping[str, Mapping[str, Any]]

    @property
    def point(self) -> OperatingPoint:
        """Where probabilities become decisions: the declared threshold, else the declared prevalence; else empty."""
        spec, options = self.spec, self.spec.label_options
        if spec.threshold is not None or spec.prevalence is None:
            return () if spec.threshold is None else (spec.threshold,)
        return in_order(spec.prevalence, self.task.name, tuple(options.get("classes") or options.get("labels") or ()))


def write_expert(
    path: Path, model: nn.Module, record: Mapping[str, Any], settings: ModelSettings, spec: DataSpec
) -> None:
    """Write one expert as safetensors: parameters, audit record, architecture, declared ranges."""
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    meta = {"record": dict(record), "model": msgspec.to_builtins(settings), "data": spec.to_mapping()}
    write_arrays(path, arrays, meta)


def read_experts(folder: Path) -> Experts:
    """Read all experts of a run's `experts` folder. Raises StorageError where there are none or they differ."""
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise StorageError(f"{folder}: holds no released expert; run without --seed and with [release] experts = true")
    models, records = {}, {}
    first: dict[str, Any] | None = None
    for path in paths:
        arrays, meta = read_arrays(path)
        first = first or meta
        try:
            if (meta["model"], meta["data"]) != (first["model"], first["data"]):
                raise StorageError(f"{path}: model or ranges differ from {paths[0].name}; keep one run's experts")
            models[path.stem], records[path.stem] = _model(arrays, meta), meta["record"]
        except (AttributeError, KeyError, TypeError, RuntimeError, ValueError, ConfigError):
            raise StorageError(f"{path}: not an expert that securepfl released; restore it from a copy") from None
    meta = first or {}
    spec, settings = DataSpec.from_mapping(meta["data"], where=str(paths[0])), _settings_of(meta)
    return Experts(models, spec, task_named(settings.task, **spec.label_options), records)


def _settings_of(meta: Mapping[str, Any]) -> ModelSettings:
    return msgspec.convert(meta["model"], type=ModelSettings)


def _model(arrays: Mapping[str, np.ndarray[Any, Any]], meta: Mapping[str, Any]) -> nn.Module:
    settings = _settings_of(meta)
    if settings.kind == "own":
        raise StorageError("the experts are of the pipeline's own model; route them with securepfl.RoutedModel")
    # Before a model is made: a small file must not ask for a large one, nor numbers that no training leaves.
    if settings.kind == "mlp" and settings.hidden > sum(array.size for array in arrays.values()):
        raise ValueError("more hidden units than numbers")
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise ValueError("NaN or infinity among the parameters")
    model = blank_model(built_in(settings, DataSpec.from_mapping(meta["data"])), settings)
    model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    # Whole layers are mixed: a correction apart from its layer would meet another expert's.
    return folded(model).eval()
