"""A personal correction to shared layers: base(x) + adapter(x), so that x = Mx + Nz reaches every layer.

The correction is of low rank (LoRA, Hu et al. 2022, arXiv 2106.09685): up(down(x)), `up` started at zero and `down` a
fixed public projection (FFA-LoRA, Sun et al. 2024, arXiv 2403.12313), so that it is linear in what is personal: means
over hospitals and rounds are means of functions. All of it is made of plain Linear and Conv layers, so that per-unit
gradients are had in every mode of securepfl.privacy.
"""

import copy
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from securepfl.errors import ModelError
from securepfl.tasks.models import public_stream

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Layer = nn.Linear | Convolution
LAYER_TYPES: tuple[type[Layer], ...] = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""The layers that can be corrected. Exactly these: a subclass may use its parameters in any way."""

_NAMES_SHOWN = 6
_L = TypeVar("_L", bound=nn.Module)


class Adapted(nn.Module):
    """A shared layer `base` with its personal correction `adapter`: both take the layer's input, and are summed."""

    def __init__(self, base: Layer, adapter: nn.Module) -> None:
        super().__init__()
        self.base = base
        self.adapter = adapter

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.base(inputs) + self.adapter(inputs)
        return outputs

    def __getattr__(self, name: str) -> Any:
        # Code that takes a layer's weight past its forward would miss the correction: better no answer.
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f'a layer with an adapter has no "{name}": let the model call the layer, or give it no adapter'
            ) from None


class LowRank(nn.Module):
    """up(down(x)): `down` has the layer's geometry and `rank` output channels, `up` mixes these at each position.

    The weight of `down` is a buffer: it is not trained, takes no noise and is not sent.
    """

    def __init__(self, down: Layer, up: Layer) -> None:
        super().__init__()
        self.down = down
        self.up = up

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.up(self.down(inputs))
        return outputs


class UnitBias(nn.Module):
    """One constant for each of `units` outputs or channels; `positions` is the layer's number of spatial dimensions.

    A Linear layer fed a 1 for each record: as a parameter of this module it would have no sampler of per-unit
    gradients, and the whole model would fall to a slower mode.
    """

    def __init__(self, units: int, positions: int) -> None:
        super().__init__()
        self.units = _at_zero(nn.Linear(1, units, bias=False, device="meta"))
        self.positions = positions

    def forward(self, inputs: Tensor) -> Tensor:
        ones = inputs.new_ones(*inputs.shape[: inputs.ndim - 1 - self.positions], 1)
        constants: Tensor = self.units(ones)
        return constants[(..., *(None,) * self.positions)]


def with_adapters(model: nn.Module, rank: int, layers: Sequence[str] = ("*",)) -> nn.Module:
    """Give each Linear, Conv1d, Conv2d and Conv3d of `model` whose name matches one of `layers` a correction, in place.

    Parameter `L.weight` becomes `L.base.weight`, beside it stand `L.adapter.up.weight` [out, rank, ...], behind the
    fixed buffer `L.adapter.down.weight` [rank, in, ...], with `L.adapter.up.bias` where the layer has a bias. Where
    `rank` is no smaller than the layer's own (min(in, out); of a convolution, in times its kernel), `L.adapter.weight`
    is one matrix of full rank, which spans all corrections. With rank 0, `L.adapter.units.weight` [out, 1] is a bias
    only. The function is unchanged at the start, which is public: the same at every hospital. Torch's generators play
    no part.

    Returns `model`. Code that replaces or looks into layers must run before. Raises ModelError, and leaves the model
    as it was, where a pattern matches no such layer, the model has adapters, is a bare layer, or a matching layer is
    grouped (rank 0 suits it) or shares a parameter with another place; ValueError for a negative rank.

    >>> model = with_adapters(nn.Sequential(nn.Linear(8, 4)), rank=2)
    >>> [name for name, _ in model.named_parameters()]
    ['0.base.weight', '0.base.bias', '0.adapter.up.weight', '0.adapter.up.bias']
    """
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise ValueError(f"rank must be a whole number of at least 0, not {rank!r}")
    if isinstance(layers, str):
        raise ValueError(f"layers must be a sequence of patterns, not {layers!r}")
    chosen = _chosen(model, layers)
    adapted = {
        name: Adapted(layer, _adapter(name, layer, rank)).train(layer.training) for name, layer in chosen.items()
    }
    for name, module in adapted.items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, module)
    return model


def adapter_names(model: nn.Module) -> tuple[str, ...]:
    """Names of all parameters of `model` that belong to adapters, in `named_parameters` order."""
    own = {id(p) for module in model.modules() if isinstance(module, Adapted) for p in module.adapter.parameters()}
    return tuple(name for name, parameter in model.named_parameters() if id(parameter) in own)


def folded(model: nn.Module) -> nn.Module:
    """A copy of `model` with each correction added into its layer: the same function, without adapters.

    Mixing such copies layer by layer (routing.py) mixes whole layers; with adapters apart, `down` of one model would
    meet `up` of another. Only a layer without bias that got one by rank 0 is of another shape than before.
    """
    plain = copy.deepcopy(model)
    for name, module in list(plain.named_modules()):
        if isinstance(module, Adapted):
            parent, _, child = name.rpartition(".")
            setattr(plain.get_submodule(parent), child, _sum_of(module))
    return plain


def _chosen(model: nn.Module, patterns: Sequence[str]) -> dict[str, Layer]:
    """The layers to correct, by name."""
    if type(model) in LAYER_TYPES:
        raise ModelError(f"the model is a bare {type(model).__name__}: put it into nn.Sequential to give it an adapter")
    if any(isinstance(module, Adapted) for module in model.modules()):
        raise ModelError("the model has adapters already: add them once, in build_model or by [model] adapters")
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, LAYER_TYPES) and type(module) in LAYER_TYPES
    }
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in found):
            shown = ", ".join(list(found)[:_NAMES_SHOWN]) + (", ..." if len(found) > _NAMES_SHOWN else "")
            raise ModelError(
                f'adapters: pattern "{pattern}" matches no Linear or Conv layer: mend it; layers are {shown or "none"}'
            )
    chosen = {name: layer for name, layer in found.items() if any(fnmatchcase(name, p) for p in patterns)}
    _refuse_shared(model, chosen)
    return chosen


def _refuse_shared(model: nn.Module, chosen: dict[str, Layer]) -> None:
    first: dict[int, str] = {}
    for holder, name in _places(model):
        key = id(getattr(model.get_submodule(holder), name))
        if key in first and {holder, first[key]} & set(chosen):
            raise ModelError(
                f'adapters: layers "{first[key]}" and "{holder}" share their {name}: give each its own, or name other '
                "layers"
            )
        first.setdefault(key, holder)


def _places(model: nn.Module) -> Iterator[tuple[str, str]]:
    """(module, parameter) of every place that holds a parameter, a module under two names included."""
    for holder, module in model.named_modules(remove_duplicate=False):
        for name, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            yield holder, name


def _adapter(name: str, layer: Layer, rank: int) -> nn.Module:
    """The correction of `layer`, of the same type and on the same device, zero as a function."""
    units, inputs, kernel = layer.weight.shape[0], layer.weight.shape[1], layer.weight.shape[2:]
    adapter: nn.Module
    if rank == 0:
        adapter = UnitBias(units, len(kernel))
    elif not isinstance(layer, nn.Linear) and layer.groups != 1:
        raise ModelError(f'adapters: layer "{name}" has {layer.groups} groups: use rank 0, or name other layers')
    elif rank >= min(units, inputs * prod(kernel)):
        adapter = _at_zero(_like(layer, units, bias=layer.bias is not None))
    else:
        down = _at_zero(_like(layer, rank, bias=False))
        with torch.no_grad():
            drawn = torch.from_numpy(public_stream("adapter", name, rank).uniform(down.weight.numel()))
            down.weight.copy_((2.0 * drawn - 1.0).reshape(down.weight.shape) / (inputs * prod(kernel)) ** 0.5)
        weight = down.weight.detach()
        del down.weight
        down.register_buffer("weight", weight)
        adapter = LowRank(down, _at_zero(_pointwise(layer, rank, units)))
    return adapter.to(layer.weight)


def _like(layer: Layer, units: int, *, bias: bool) -> Layer:
    """A layer of the same inputs and geometry with `units` outputs, on the meta device."""
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, units, bias=bias, device="meta")
    kind: Any = type(layer)
    made: Convolution = kind(
        layer.in_channels,
        units,
        layer.kernel_size,
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        bias=bias,
        padding_mode=layer.padding_mode,
        device="meta",
    )
    return made


def _pointwise(layer: Layer, rank: int, units: int) -> Layer:
    """From `rank` channels to the layer's outputs at each position, on the meta device."""
    bias = layer.bias is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(rank, units, bias=bias, device="meta")
    kind: Any = type(layer)
    made: Convolution = kind(rank, units, 1, bias=bias, device="meta")
    return made


def _at_zero(layer: _L) -> _L:
    """`layer` (on the meta device: nothing was drawn for it) on the CPU, all zero."""
    layer.to_empty(device="cpu")
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _sum_of(adapted: Adapted) -> Layer:
    """`adapted` as one layer."""
    base, (weight, bias) = adapted.base, _correction(adapted.adapter)
    with torch.no_grad():
        if weight is not None:
            base.weight += weight
        if bias is not None:
            trained = base.bias is None or base.bias.requires_grad
            base.bias = nn.Parameter(bias.clone() if base.bias is None else base.bias + bias, requires_grad=trained)
    return base


def _correction(adapter: nn.Module) -> tuple[Tensor | None, Tensor | None]:
    """What an adapter adds to its layer's weight and bias."""
    match adapter:
        case UnitBias():
            return None, adapter.units.weight[:, 0]
        case LowRank():
            up = adapter.up.weight.flatten(1)
            return torch.tensordot(up, adapter.down.weight, dims=1), adapter.up.bias
        case _:
            return adapter.weight, adapter.bias  # type: ignore[return-value]
