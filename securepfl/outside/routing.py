"""Outside personalisation: a model for an unseen hospital, mixed from released experts layer by layer.

Each layer with parameters becomes sum_k g_k(x) expert_k(x), its gates g computed from the layer's own input.
For a layer linear in its parameters that equals mixing the parameters (Jiang et al., arXiv 2204.08467, with
softmax gates: unnormalised ones change the scale). Only gates are trained, see adaptation.py.
"""

import copy
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from securepfl.errors import ModelError
from securepfl.tasks.models import public_stream, seeded_linear
from securepfl.tasks.prediction import evaluating, placed_like

_GATE_WIDTH = 16
_CHANNELS_LAST = (nn.Linear, nn.LayerNorm)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ROUTABLE = (*_CHANNELS_LAST, *_CONVOLUTIONS, nn.GroupNorm)


class Gate(nn.Module):
    """Mixing weights of one layer: pooled input [B, features] -> [B, experts], positive, summing to 1.

    The last layer starts at zero, so every gate starts at exactly 1 / experts.
    """

    def __init__(self, features: int, experts: int, name: str) -> None:
        super().__init__()
        stream = public_stream("gate", name)
        self.inner = seeded_linear(features, _GATE_WIDTH, stream)
        self.outer = seeded_linear(_GATE_WIDTH, experts, stream)
        for parameter in self.outer.parameters():
            nn.init.zeros_(parameter)

    def forward(self, pooled: Tensor) -> Tensor:
        logits: Tensor = self.outer(torch.relu(self.inner(pooled)))
        return logits.softmax(dim=-1)


class RoutedLayer(nn.Module):
    """One layer of all experts, mixed by a gate per sample. The first dimension of its input is the batch."""

    def __init__(self, experts: Sequence[nn.Module], name: str) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        weight = next(experts[0].parameters())
        self.gate = Gate(_input_features(experts[0]), len(experts), name).to(weight)

    def forward(self, inputs: Tensor) -> Tensor:
        gates: Tensor = self.gate(_pooled(self.experts[0], inputs))
        outputs = torch.stack([expert(inputs) for expert in self.experts])
        return torch.einsum("bk,kb...->b...", gates, outputs)


class RoutedModel(nn.Module):
    """`experts` (same architecture, at least one) merged into one model; input and output are an expert's.

    The experts are copied, frozen and in evaluation mode; with untrained gates the model is their parameter
    average. Raises ModelError where architectures differ, an expert holds a value that is not finite, or a
    parameter belongs to a layer that cannot be mixed exactly (named, with what to do); ValueError for none.

    >>> one, other = nn.Linear(3, 1), nn.Linear(3, 1)
    >>> inputs = torch.eye(3)
    >>> torch.allclose(RoutedModel([one, other])(inputs), (one(inputs) + other(inputs)) / 2)
    True
    """

    def __init__(self, experts: Sequence[nn.Module]) -> None:
        if not experts:
            raise ValueError("experts must hold at least one model, not 0")
        super().__init__()
        _check_layers(experts[0])
        for index, expert in enumerate(experts):
            _check_alike(experts[0], expert, index)
        reference = next(experts[0].parameters())
        self.model = _route([copy.deepcopy(expert).to(reference).requires_grad_(False) for expert in experts])
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Outputs as an expert gives them, mixed by the gates: [n, ...] from `inputs` [n, ...].

        >>> RoutedModel([nn.Linear(3, 1), nn.Linear(3, 1)]).forward(torch.eye(3)).shape
        torch.Size([3, 1])
        """
        outputs: Tensor = self.model(inputs)
        return outputs

    def routed_layers(self) -> dict[str, RoutedLayer]:
        """The mixed layers by their name in an expert, in the expert's order.

        >>> experts = [nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)) for _ in range(2)]
        >>> list(RoutedModel(experts).routed_layers())
        ['0', '2']
        """
        found = self.model.named_modules()
        return {name: module for name, module in found if isinstance(module, RoutedLayer)}

    def gate_parameters(self) -> Iterator[nn.Parameter]:
        """The only trainable parameters.

        >>> routed = RoutedModel([nn.Linear(3, 1), nn.Linear(3, 1)])
        >>> gates = sum(parameter.numel() for parameter in routed.gate_parameters())
        >>> gates == sum(p.numel() for p in routed.parameters() if p.requires_grad)
        True
        """
        for layer in self.routed_layers().values():
            yield from layer.gate.parameters()


def gate_summary(routed: RoutedModel, features: Tensor) -> dict[str, list[float]]:
    """Mean gate of every expert over the rows of `features` [n, ...], by layer: {layer: [K]}.

    Raises ValueError where there is no row.
    """
    if len(features) == 0:
        raise ValueError("features must hold at least one row, not 0")
    layers = routed.routed_layers()
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str) -> torch.utils.hooks.RemovableHandle:
        return layers[name].gate.register_forward_hook(lambda _m, _i, gates: seen[name].append(gates))

    handles = [keep(name) for name in layers]
    try:
        with evaluating(routed), torch.no_grad():
            routed(placed_like(routed, features))
    finally:
        for handle in handles:
            handle.remove()
    return {name: torch.cat(gates).double().mean(dim=0).tolist() for name, gates in seen.items() if gates}


def _input_features(layer: nn.Module) -> int:
    """Width of the pooled input of a routable layer."""
    match layer:
        case nn.Linear():
            return layer.in_features
        case nn.LayerNorm():
            return layer.weight.numel()
        case nn.GroupNorm():
            return layer.num_channels
        case nn.Conv1d() | nn.Conv2d() | nn.Conv3d():
            return layer.in_channels
        case _:
            raise ValueError(f"layer must be one of {_ROUTABLE}, not {type(layer).__name__}")


def _pooled(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Input of `layer` averaged over everything but batch and features: [B, features]."""
    if (isinstance(layer, _CONVOLUTIONS) and inputs.ndim != layer.weight.ndim) or inputs.ndim < 2:
        raise ValueError(f"{layer} needs a batch as first dimension, not an input {tuple(inputs.shape)}")
    if isinstance(layer, _CHANNELS_LAST):
        return inputs.reshape(len(inputs), -1, _input_features(layer)).mean(dim=1)
    return inputs.reshape(len(inputs), _input_features(layer), -1).mean(dim=2)


def _check_layers(model: nn.Module) -> None:
    """Every parameter belongs to a layer linear in its parameters, and no layer looks across the batch."""
    for name, module in model.named_modules():
        where = f'"{name}" ({type(module).__name__})' if name else f"the model itself ({type(module).__name__})"
        if isinstance(module, _BatchNorm):
            raise ModelError(f"{where} mixes the rows of a batch: replace it by GroupNorm")
        own = [key for key, _ in module.named_parameters(recurse=False)]
        # A subclass may use its parameters in any way, so only the exact types are taken.
        if own and type(module) not in _ROUTABLE:
            allowed = ", ".join(kind.__name__ for kind in _ROUTABLE)
            raise ModelError(f'{where} holds "{own[0]}" and cannot be routed: keep parameters in {allowed}')
    if next(model.parameters(), None) is None:
        raise ModelError("the experts have no parameters: there is nothing to route")


def _check_alike(first: nn.Module, expert: nn.Module, index: int) -> None:
    shapes, others = ({k: v.shape for k, v in m.state_dict().items()} for m in (first, expert))
    # The printed form holds strides, groups, eps and the like, which shapes do not show.
    if type(first) is not type(expert) or repr(first) != repr(expert) or shapes != others:
        raise ModelError(f"expert {index} differs from expert 0 in architecture: route models of one kind only")
    for name, parameter in expert.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ModelError(f'expert {index} holds a value that is not finite in "{name}": leave it out')
    buffers = dict(first.named_buffers())
    for name, buffer in expert.named_buffers():
        if not torch.equal(buffers[name].cpu(), buffer.cpu()):
            raise ModelError(f'buffer "{name}" of expert {index} differs from expert 0: only parameters are mixed')


def _route(copies: Sequence[nn.Module]) -> nn.Module:
    """The first copy with each layer that has parameters replaced by a RoutedLayer over all copies.

    A layer that stands under two names (it is called twice) gets one RoutedLayer under both.
    """
    trees = [dict(model.named_modules(remove_duplicate=False)) for model in copies]
    routed: dict[nn.Module, RoutedLayer] = {}
    for name, layer in trees[0].items():
        if next(layer.parameters(recurse=False), None) is None:
            continue
        if layer not in routed:
            routed[layer] = RoutedLayer([tree[name] for tree in trees], name)
        if not name:
            return routed[layer]
        parent, _, child = name.rpartition(".")
        setattr(trees[0][parent], child, routed[layer])
    return copies[0]
