"""Which models can be trained record by record, and what to put in the place of layers that cannot."""

import copy
from collections.abc import Iterator

import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention, SequenceBias
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from securepfl.errors import ModelError


def validate_model(model: nn.Module) -> None:
    """Checks that `model` can be trained record by record, as far as its modules show it.

    A module that mixes records or keeps statistics of them without saying so (a functional batch norm, a
    buffer updated by hand) passes, and voids the guarantee.
    Raises ModelError, naming the layer or parameter as in the model, and the mend.
    """
    for name, module in model.named_modules():
        fault = _fault(module)
        if fault:
            raise ModelError(f"layer {name or 'the model itself'} ({type(module).__name__}) {fault}")
    first_name: dict[int, str] = {}
    for name, parameter in _held_parameters(model):
        if id(parameter) in first_name:
            raise ModelError(
                f"parameter {name} is shared with {first_name[id(parameter)]}: give each layer its own parameters"
            )
        first_name[id(parameter)] = name
        if not parameter.requires_grad:
            raise ModelError(
                f"parameter {name} is frozen (requires_grad is False): unfreeze it, "
                "or train on the frozen layers' outputs instead of inside this model"
            )
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ModelError(f"parameter {name} is {parameter.dtype}: convert the model to float32")
    if not first_name:
        raise ModelError("the model has no parameters to train: hand in one that has")


def _held_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every place that holds a parameter; Opacus's recurrent layers list those of their cells once more."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, DPRNN | DPLSTM | DPGRU):
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{prefix}.{name}" if prefix else name, parameter


def replace_unsupported(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of `model` that validate_model accepts as far as layers can be replaced, and what was replaced.

    BatchNorm becomes GroupNorm (gcd(32, channels) groups, weight and bias carried over), InstanceNorm with running
    statistics one without, LSTM, GRU and MultiheadAttention of one head the same of opacus.layers with the same
    weights. Names are those of named_modules(), in order. Device, dtype and train or eval mode stay; `model` does too.
    The copy computes something else than `model` where a norm was replaced: train it, do not just use it.
    """
    copied = copy.deepcopy(model)
    replaced = []
    for name, module in list(copied.named_modules()):
        substitute = _substitute(module)
        if substitute is None:
            continue
        replaced.append(name)
        if not name:
            return substitute, ("",)
        parent, _, child = name.rpartition(".")
        setattr(copied.get_submodule(parent), child, substitute)
    return copied, tuple(replaced)


def _substitute(module: nn.Module) -> nn.Module | None:
    """What stands in for an unsupported layer, trained as it was; None where the layer may stay or nothing fits."""
    if isinstance(module, _InstanceNorm):
        return _without_statistics(module) if module.track_running_stats else None
    if type(module) not in ModuleValidator.FIXERS or (
        isinstance(module, nn.MultiheadAttention) and module.num_heads > 1
    ):
        return None  # Opacus 1.6 mixes up heads and positions where records come first
    substitute: nn.Module = ModuleValidator.FIXERS[type(module)](module)
    if isinstance(module, _BatchNorm) and module.affine:
        substitute.load_state_dict({"weight": module.weight, "bias": module.bias})
    like = next(iter(module.parameters()), None)
    if like is not None:
        substitute.to(like.device, like.dtype)
    return substitute.train(module.training)


def _without_statistics(module: _InstanceNorm) -> nn.Module:
    # Opacus only clears the flag: the buffers stay, and the layer is refused for them.
    substitute = type(module)(module.num_features, module.eps, affine=module.affine, track_running_stats=False)
    if module.affine:
        substitute.load_state_dict({"weight": module.weight, "bias": module.bias})
        substitute.to(module.weight.device, module.weight.dtype)
    return substitute.train(module.training)


def _fault(module: nn.Module) -> str | None:
    """What forbids per-record gradients in this module, and the mend; None where nothing does."""
    faults = {
        "makes records depend on one another: replace it by GroupNorm (securepfl.replace_unsupported)": isinstance(
            module, _BatchNorm
        ),
        "keeps statistics of private records: set track_running_stats=False, or use GroupNorm": (
            isinstance(module, _InstanceNorm) and module.track_running_stats
        ),
        "rewrites the rows that records look up, without noise: set max_norm=None": (
            getattr(module, "max_norm", None) is not None
        ),
        "divides by how often the batch looks a row up: set scale_grad_by_freq=False": (
            getattr(module, "scale_grad_by_freq", False)
        ),
        f"has no per-record gradients: replace it by opacus.layers.DP{type(module).__name__}": (
            isinstance(module, nn.RNNBase | nn.MultiheadAttention)
        ),
        "takes positions first, so they would be clipped instead of records: set batch_first=True": (
            isinstance(module, DPMultiheadAttention | DPRNN | DPLSTM | DPGRU) and not module.batch_first
        ),
        "has no per-record gradients here: use Embedding, and sum or average over its positions": (
            isinstance(module, nn.EmbeddingBag)
        ),
        "has positions where its gradients need records: set add_bias_kv=False": isinstance(module, SequenceBias),
    }
    found = next((fault for fault, applies in faults.items() if applies), None)
    with_parameters = any(True for _ in module.parameters(recurse=False))
    return _fault_of_parameters(module) if found is None and with_parameters else found


def _fault_of_parameters(module: nn.Module) -> str | None:
    if type(module) in ModuleValidator.VALIDATORS and ModuleValidator.VALIDATORS[type(module)](module):
        return "has no per-record gradients in Opacus: replace it"
    if any(True for _ in module.buffers()):
        return "has parameters and buffers: move its buffers to a layer without parameters, or remove them"
    return None
