"""Whether a model trains privately: each layer, and what to put in the place of one that can't."""

import importlib.util
import sys
from collections import Counter
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from securepfl.errors import ConfigError, ModelError, first_line
from securepfl.runtime.doctor.finding import Finding

if TYPE_CHECKING:
    from torch import nn

    from securepfl.settings.federation import Federation

_HOW = "give --model FILE.py:NAME or PACKAGE.MODULE:NAME, where NAME() builds the model"


def model_of(federation: "Federation | None", named: str | None) -> "nn.Module | None":
    """The model that somebody `named`, else the federation's own; None where there is neither. Raises ConfigError or
    ModelError.
    """
    from securepfl.settings.auto import chosen  # noqa: PLC0415
    from securepfl.settings.binding import built_in, initial_model  # noqa: PLC0415

    if named is not None:
        return _built(named)
    if federation is None or federation.data_spec is None or federation.model.kind == "own":
        return None
    return initial_model(built_in(federation.model, federation.data_spec), chosen(federation))


def _built(named: str) -> "nn.Module":
    from torch import nn  # noqa: PLC0415

    place, _, name = named.rpartition(":")
    if not place or not name.isidentifier():
        raise ConfigError(f"--model {named}: is no such place; {_HOW}")
    try:
        build = getattr(_module(place), name, None)
        model = build() if callable(build) else build
    except ConfigError:
        raise
    except Exception as error:  # noqa: BLE001 - the user's own code
        told = f"{type(error).__name__}: {first_line(error)}"
        raise ModelError(f"--model {named}: could not be built ({told}); mend it there") from None
    if not isinstance(model, nn.Module):
        raise ModelError(f"--model {named}: gives {type(model).__name__} and no torch module; {_HOW}")
    return model


def _module(place: str) -> ModuleType:
    if not place.endswith(".py"):
        sys.path.insert(0, "")
        try:
            return import_module(place)
        finally:
            sys.path.remove("")
    path = Path(place)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path}: no such file; {_HOW}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def check_model(model: "nn.Module") -> Iterator[Finding]:
    """Each layer that can't be trained record by record, with its mend; the others by kind."""
    from securepfl.privacy.training.validation import (  # noqa: PLC0415
        layers_of,
        replace_unsupported,
        validate_model,
    )

    layers = list(layers_of(model))
    for layer in layers:
        if layer.fault:
            told, _, remedy = layer.fault.partition(": ")
            yield Finding(f"layer {layer.name}", "failed", f"{layer.kind} {told}", remedy or "replace it")
    good = Counter(layer.kind for layer in layers if layer.numbers and not layer.fault)
    if good:
        kinds = ", ".join(f"{kind} x {count}" if count > 1 else kind for kind, count in sorted(good.items()))
        numbers = sum(layer.numbers for layer in layers if not layer.fault)
        yield Finding("layers", "ok", f"{kinds}: gradients by record, {numbers:,} numbers train")
    if any(layer.fault for layer in layers):
        mended, replaced = replace_unsupported(model)
        try:
            validate_model(mended)
            told = f"securepfl.replace_unsupported(model) mends all of it ({len(replaced)} layers)"
            yield Finding("model", "note", told, "train what it gives: it computes something else than the model did")
        except ModelError:
            yield Finding(
                "model", "note", "securepfl.replace_unsupported(model) does not mend all", "mend the lines above"
            )
        return
    validate_model(model)
    yield Finding("model", "ok", "trains privately, as far as its layers show; a client looks at it on its records too")
