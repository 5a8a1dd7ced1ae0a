"""Which models can be trained record by record, and what to put in the place of layers that cannot."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from opacus.layers import DPGRU, DPLSTM, DPRNN, DPMultiheadAttention, SequenceBias
from opacus.validators import ModuleValidator
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.parameter import is_lazy

from securepfl.errors import ModelError
from securepfl.privacy.training.attention import attention_in_place_of

_SIZES = {"Line": "in_features", "Conv": "in_channels", "Batc": "num_features", "Inst": "num_features"}
_LAYERS_OF_ATTENTION = (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)


def validate_model(model: nn.Module) -> None:
    """Checks that `model` can be trained record by record, as far as its modules show it.

    Parameters with requires_grad False are frozen: they stay as they are, and so may layers whose parameters all are,
    even where these would have no per-record gradients. A module that mixes records without saying so (a functional
    batch norm) or keeps something of them (a buffer updated by hand) passes: probe.check_independence looks for those.
    Raises ModelError, naming the layer or parameter as in the model, and the mend.

    >>> validate_model(nn.Linear(3, 1))
    >>> validate_model(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    Traceback (most recent call last):
    securepfl.errors.ModelError: layer 1 (BatchNorm1d) ...
    """
    check_sizes(model)
    for layer in layers_of(model):
        if layer.fault:
            raise ModelError(f"layer {layer.name} ({layer.kind}) {layer.fault}")
    first_name: dict[int, str] = {}
    for name, parameter in _held_parameters(model):
        if parameter.dtype not in (torch.float32, torch.float64):
            raise ModelError(f"parameter {name} is {parameter.dtype}: convert the model to float32")
        if not parameter.requires_grad:
            continue
        if id(parameter) in first_name:
            raise ModelError(
                f"parameter {name} is shared with {first_name[id(parameter)]}: give each layer its own parameters"
            )
        first_name[id(parameter)] = name
    if not first_name:
        raise ModelError("the model has no parameters to train: hand in one that has, not all of them frozen")


@dataclass(frozen=True)
class Layer:
    """A module as a reader of a model knows it. `numbers`: those of its own that train; `fault`: why it can't be
    trained record by record, and the mend, "" where it can.
    """

    name: str
    kind: str
    numbers: int
    fault: str


def layers_of(model: nn.Module) -> Iterator[Layer]:
    """Each module of `model`, in the order of named_modules(). Of a lazy layer no number is counted.

    >>> model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    >>> [(layer.name, layer.numbers, layer.fault[:18]) for layer in layers_of(model)]
    [('the model itself', 0, ''), ('0', 16, ''), ('1', 8, 'makes records depe')]
    """
    for name, module in model.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        numbers = sum(parameter.numel() for parameter in own if not is_lazy(parameter))
        yield Layer(name or "the model itself", type(module).__name__, numbers, _fault(module) or "")


def check_sizes(model: nn.Module) -> None:
    """Raises ModelError for a layer that takes its sizes, and then its weights, from the first batch it sees.

    All hospitals must start from the same weights, and no batch is theirs alike.

    >>> check_sizes(nn.LazyLinear(1))
    Traceback (most recent call last):
    securepfl.errors.ModelError: layer the model itself (LazyLinear) has no size before its first batch: ...
    """
    for name, module in model.named_modules():
        held = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if any(is_lazy(tensor) for tensor in held):
            kind = type(module).__name__
            plain = kind.removeprefix("Lazy")
            mend = f"write nn.{plain} with its {_SIZES[plain[:4]]}" if plain[:4] in _SIZES else "give it its sizes"
            raise ModelError(
                f"layer {name or 'the model itself'} ({kind}) has no size before its first batch: {mend}, so that all "
                "hospitals start from the same weights"
            )


def set_training(model: nn.Module) -> None:
    """Training mode, in which frozen norms keep to their fixed statistics, as in evaluation.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2).requires_grad_(False))
    >>> set_training(model)
    >>> model[0].training, model[1].training
    (True, False)
    """
    model.train()
    for module in model.modules():
        if is_frozen_norm(module):
            module.eval()


def is_frozen_norm(module: nn.Module) -> bool:
    """Whether `module` is a batch or instance norm whose parameters, at least one, are all frozen, with statistics.

    Somebody froze it, so its statistics are part of the public start: they are used, and never changed.
    """
    if not isinstance(module, _BatchNorm | _InstanceNorm):
        return False
    return module.running_mean is not None and module.affine and not _trains(module)


def _trains(module: nn.Module, *, recurse: bool = True) -> bool:
    """Whether a parameter of `module` is trained."""
    return any(parameter.requires_grad for parameter in module.parameters(recurse))


def _held_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """Every place that holds a parameter; Opacus's recurrent layers list those of their cells once more."""
    for prefix, module in model.named_modules(remove_duplicate=False):
        if not isinstance(module, DPRNN | DPLSTM | DPGRU):
            for name, parameter in module.named_parameters(recurse=False):
                yield f"{prefix}.{name}" if prefix else name, parameter


def replace_unsupported(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A copy of `model` that validate_model accepts as far as layers can be replaced, and what was replaced.

    MultiheadAttention, torch's or Opacus's, becomes an Attention of the same function and weights, also within torch's
    transformer layers, which must have batch_first=True. LSTM, GRU and RNN become those of opacus.layers with the same
    weights. BatchNorm becomes GroupNorm (of one group for BatchNorm1d, whose records may hold one value a channel; else
    gcd(32, channels) groups; weight and bias carried over), InstanceNorm with running statistics one without: the copy
    then computes something else than `model`, so train it, do not just use it.
    Names are those of named_modules(), in order. Device, dtype, mode and what is frozen stay; `model` does too, and so
    do layers whose parameters are all frozen.

    Dropout stays as it was: in training, each record's is drawn by itself. A TransformerEncoder no longer takes nested
    tensors: in evaluation, its outputs at positions that src_key_padding_mask hides are then numbers, not zeros.
    Raises ModelError for a lazy layer (see check_sizes).

    >>> layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    >>> replace_unsupported(layer)[1]
    ('self_attn',)
    """
    check_sizes(model)
    copied = copy.deepcopy(model)
    replaced = []
    for name, module in list(copied.named_modules()):
        if isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
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
    if _fault(module) is None:
        return None
    if isinstance(module, nn.MultiheadAttention | DPMultiheadAttention):
        return attention_in_place_of(module)
    if isinstance(module, _InstanceNorm):
        return _without_statistics(module)
    substitute: nn.Module
    if type(module) is nn.RNN:
        substitute = _of_rnn(module)
    elif type(module) is nn.BatchNorm1d:  # Opacus's groups of one channel would make every value of [records, 16] a 0
        substitute = nn.GroupNorm(1, module.num_features, affine=module.affine)
    elif type(module) in ModuleValidator.FIXERS and not getattr(module, "proj_size", 0):
        substitute = ModuleValidator.FIXERS[type(module)](module)
    else:
        return None
    if isinstance(module, _BatchNorm) and module.affine:
        substitute.load_state_dict({"weight": module.weight, "bias": module.bias})
    like = next(iter(module.parameters()), None)
    if like is not None:
        substitute.to(like.device, like.dtype)
    trained = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    for name, parameter in substitute.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    return substitute.train(module.training)


def _of_rnn(module: nn.RNN) -> nn.Module:
    """Opacus has the layer, and no fixer that makes it."""
    substitute: nn.Module = DPRNN(
        module.input_size,
        module.hidden_size,
        module.num_layers,
        nonlinearity=module.nonlinearity,
        bias=module.bias,
        batch_first=module.batch_first,
        dropout=module.dropout,
        bidirectional=module.bidirectional,
    )
    substitute.load_state_dict(module.state_dict())
    return substitute


def _without_statistics(module: _InstanceNorm) -> nn.Module:
    # Opacus only clears the flag: the buffers stay, and the layer is refused for them.
    substitute = type(module)(module.num_features, module.eps, affine=module.affine, track_running_stats=False)
    if module.affine:
        substitute.load_state_dict({"weight": module.weight, "bias": module.bias})
        substitute.to(module.weight.device, module.weight.dtype)
    return substitute.train(module.training)


def _fault(module: nn.Module) -> str | None:
    """What forbids this module, and the mend; None where nothing does."""
    faults = {
        "makes records depend on one another: replace it by GroupNorm (securepfl.replace_unsupported), or freeze it": (
            isinstance(module, _BatchNorm) and not is_frozen_norm(module)
        ),
        "keeps statistics of private records: set track_running_stats=False, or use GroupNorm": (
            isinstance(module, _InstanceNorm) and module.track_running_stats and not is_frozen_norm(module)
        ),
        "rewrites the rows that records look up, without noise: set max_norm=None": (
            getattr(module, "max_norm", None) is not None
        ),
        "is something else than attention in Opacus: use nn.MultiheadAttention and securepfl.replace_unsupported": (
            isinstance(module, DPMultiheadAttention)
        ),
    }
    found = next((fault for fault, applies in faults.items() if applies), None)
    return _fault_of_training(module) if found is None and _trains(module) else found


def _fault_of_training(module: nn.Module) -> str | None:
    """What forbids per-record gradients of a module some of whose parameters are trained."""
    faults = {
        "divides by how often the batch looks a row up: set scale_grad_by_freq=False": (
            getattr(module, "scale_grad_by_freq", False)
        ),
        "has proj_size, and no layer with per-record gradients has: leave it out, and put a Linear behind": bool(
            getattr(module, "proj_size", 0)
        ),
        "has no per-record gradients: replace it (securepfl.replace_unsupported)": (
            isinstance(module, nn.RNNBase | nn.MultiheadAttention)
        ),
        "takes positions first, so they would be clipped instead of records: set batch_first=True": _positions_first(
            module
        ),
        "has no per-record gradients here: use Embedding, and sum or average over its positions": (
            isinstance(module, nn.EmbeddingBag)
        ),
        "has positions where its gradients need records: use nn.MultiheadAttention and "
        "securepfl.replace_unsupported": isinstance(module, SequenceBias),
    }
    found = next((fault for fault, applies in faults.items() if applies), None)
    own = _trains(module, recurse=False)
    return _fault_of_parameters(module) if found is None and own else found


def _positions_first(module: nn.Module) -> bool:
    if isinstance(module, _LAYERS_OF_ATTENTION):
        return not module.self_attn.batch_first
    return isinstance(module, DPRNN | DPLSTM | DPGRU) and not module.batch_first


def _fault_of_parameters(module: nn.Module) -> str | None:
    if type(module) in ModuleValidator.VALIDATORS and ModuleValidator.VALIDATORS[type(module)](module):
        return "has no per-record gradients in Opacus: replace it"
    if any(True for _ in module.buffers()):
        return "has parameters and buffers: move its buffers to a layer without parameters, or remove them"
    return None
