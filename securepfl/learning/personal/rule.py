"""The public rule for what is personal: the smallest part that captures a shift between hospitals.

Under privacy every personal coordinate costs noise, so: the intercept, then the head, then adapters. The rule looks
at the model alone, never at data, so that all hospitals arrive at the same names.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import fx, nn

from securepfl.errors import ModelError
from securepfl.learning.personal.adapters import LAYER_TYPES, Adapted, adapter_names
from securepfl.learning.personal.choices import Rule

# What a forward pass asks a tensor that is not its values: no way from an input to the output.
_SHAPE_METHODS = frozenset({"size", "dim", "numel", "element_size", "ndimension"})
_SHAPE_ATTRIBUTES = frozenset({"shape", "ndim", "dtype", "device"})


def default_personal(model: nn.Module) -> tuple[str, ...]:
    """Names of the parameters that are personal where nobody said otherwise.

    The adapters where the model has some, since to be personal is what they were added for. Else the output layer's
    bias where it has one, else the whole output layer. Raises ModelError, telling what to do, where that is not
    known (see output_layer) or would leave nothing to share.
    """
    choices = candidates(model)
    for choice in ("adapters", "intercept", "head"):
        if choice in choices:
            return choices[choice]
    layer = output_layer(model)
    _refuse_frozen(model, layer, "auto")
    raise ModelError(
        f'[model] personal = "auto": the output layer "{layer}" has no bias and is all there is; set adapters = 0, '
        "give it a bias, or name personal parameters by patterns"
    )


def candidates(model: nn.Module) -> Mapping[str, tuple[str, ...]]:
    """What could be personal, from nothing to most: "none" (always) and those of "intercept", "head" and "adapters"
    that `model` has and that leave something shared; each with its parameters' names, in `named_parameters` order.

    With adapters in the model, the head is the output layer with its adapter, and "none" and "intercept" leave the
    adapters shared, which gains nothing: compare those on the model without adapters.
    """
    names = tuple(name for name, parameter in model.named_parameters() if parameter.requires_grad)
    adapters = set(adapter_names(model))
    found: dict[str, tuple[str, ...]] = {"adapters": tuple(name for name in names if name in adapters)}
    try:
        layer = output_layer(model)
    except ModelError:
        pass  # default_personal says why
    else:
        prefix = f"{layer}." if layer else ""
        biases = (f"{prefix}bias", f"{prefix}base.bias")
        found["intercept"] = tuple(name for name in names if name in biases)
        found["head"] = tuple(name for name in names if name.startswith(prefix))
    some = {choice: found.get(choice, ()) for choice in ("intercept", "head", "adapters")}
    return {"none": ()} | {choice: part for choice, part in some.items() if 0 < len(part) < len(names)}


def named_by(rule: Rule, model: nn.Module) -> tuple[str, ...]:
    """The parameters that `rule` makes personal. Raises ModelError where `model` has none such."""
    if rule == "auto":
        return default_personal(model)
    choices = candidates(model)
    if rule in choices:
        return choices[rule]
    if rule == "adapters":
        raise ModelError('[model] personal = "adapters": the model has none; set adapters, or name other parameters')
    layer = output_layer(model)
    _refuse_frozen(model, layer, rule)
    lacks = "has no bias" if rule == "intercept" else "is all there is, so nothing would be shared"
    raise ModelError(f'[model] personal = "{rule}": the output layer "{layer}" {lacks}; name parameters by patterns')


def _refuse_frozen(model: nn.Module, layer: str, rule: Rule) -> None:
    """Raises ModelError where what `rule` looks for in the output layer is there and does not train."""
    parameters = dict(model.get_submodule(layer).named_parameters())
    sought = [p for name, p in parameters.items() if name in ("bias", "base.bias")] if rule == "intercept" else []
    if not any(p.requires_grad for p in sought or parameters.values()):
        raise ModelError(
            f'[model] personal = "{rule}": the output layer "{layer}" is frozen; let it train (requires_grad), or name '
            "personal parameters by patterns"
        )


def output_layer(model: nn.Module) -> str:
    """Name of the Linear or Conv layer from which the output of `model` comes; "" where the model is that layer.

    Found in the graph of one symbolic forward pass (torch.fx), without data: from the output back, through whatever
    has no parameters (activations, pooling, reshaping, arithmetic), every way must end at the same layer, before any
    input. The order in which layers were written plays no part. A model whose output is a sum of several layers' may
    say itself which of them it is, by an attribute `output_layer` (tasks.networks.UNet does). Raises ModelError where
    that fails: a forward pass that branches on values cannot be followed, and several output layers are not one.
    Tracing runs the model's own code, and no other thread may run a model meanwhile.
    """
    if (named := getattr(model, "output_layer", None)) is not None:
        return _declared(model, named)
    if type(model) in LAYER_TYPES or isinstance(model, Adapted):
        return ""
    try:
        # A forward pass may draw numbers: the caller's generators are left as they were.
        with torch.random.fork_rng(range(torch.cuda.device_count())):
            graph = _Tracer().trace(model, concrete_args=_defaults(model))
    except _FAULTS as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unknown(f"its forward pass cannot be followed ({reason})") from None
    holders = {name for name, _ in model.named_parameters()} | _with_parameters(model)

    def through(node: fx.Node) -> bool:
        return node.op != "placeholder" and (node.op not in ("call_module", "get_attr") or node.target not in holders)

    output = next(node for node in graph.nodes if node.op == "output")
    ends = [node for node in _back([output], through) if not through(node)]
    names = sorted({str(node.target) for node in ends})
    if len(names) != 1:
        raise _unknown(f"its output comes from {', '.join(names) or 'nothing with parameters'}")
    layer = model.get_submodule(names[0]) if ends[0].op == "call_module" else None
    if type(layer) not in LAYER_TYPES and not isinstance(layer, Adapted):
        raise _unknown(f'its output comes from "{names[0]}", not a Linear or Conv layer')
    if any(node.target == names[0] for node in _back(ends, lambda _: True)):
        raise _unknown(f'its output layer "{names[0]}" is also used before the output')
    return names[0]


def _declared(model: nn.Module, named: object) -> str:
    layers = dict(model.named_modules())
    layer = layers.get(named) if isinstance(named, str) else None
    if type(layer) not in LAYER_TYPES and not isinstance(layer, Adapted):
        raise _unknown(f"its attribute output_layer is {named!r}, which names no Linear or Conv layer of it")
    return str(named)


def _with_parameters(model: nn.Module) -> set[str]:
    return {name for name, module in model.named_modules() if next(module.parameters(), None) is not None}


# What a model's code may raise when its inputs are placeholders.
_FAULTS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class _Tracer(fx.Tracer):
    """Follows the forward pass down to layers; what cannot be followed, or has no parameters, stays whole."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        plain = isinstance(m, Adapted) or next(m.parameters(), None) is None
        return plain or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except _FAULTS:
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)


def _defaults(model: nn.Module) -> dict[str, Any]:
    """Arguments of forward beside the one input: training and prediction leave them at their defaults."""
    parameters = inspect.signature(model.forward).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _back(starts: Iterable[fx.Node], through: Callable[[fx.Node], bool]) -> Iterator[fx.Node]:
    """Every node on a way back from `starts`, which are not among them; a way ends where `through` is False."""
    seen: set[fx.Node] = set()
    waiting = [before for node in starts for before in node.all_input_nodes]
    while waiting:
        node = waiting.pop()
        if node in seen or _asks_for_shape(node):
            continue
        seen.add(node)
        yield node
        waiting += node.all_input_nodes if through(node) else []


def _asks_for_shape(node: fx.Node) -> bool:
    if node.op == "call_method":
        return node.target in _SHAPE_METHODS
    return node.op == "call_function" and node.target is getattr and node.args[1] in _SHAPE_ATTRIBUTES


def _unknown(reason: str) -> ModelError:
    return ModelError(f"[model] personal: the model's output layer is not known, as {reason}; name patterns instead")
