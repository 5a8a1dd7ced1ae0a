"""Per-record gradients: which way suits a model, what each layer saw, and one gradient per record from it.

The samplers of one layer are Opacus's (Yousefpour et al. 2021, arXiv 2109.12298). What feeds them is taken here:
parameters ask for no gradient during the forward pass, so the backward pass computes none that would be thrown
away, and each layer's input and output gradient are handed on as they come.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from opacus.grad_sample import GradSampleModule
from opacus.grad_sample.functorch import ft_compute_per_sample_gradient, prepare_layer
from opacus.layers import DPGRU, DPLSTM, DPRNN
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from securepfl.errors import ModelError

ModeName = Literal["per-sample", "ghost", "functorch"]
Sampler = Callable[[Any, list[Tensor], Tensor], dict[nn.Parameter, Tensor]]

# Above this, the gradients of one physical batch are not kept: what a small machine can spare.
KEPT_BYTES = 2**30


@dataclass(frozen=True)
class GradientMode:
    """How per-record gradients are had, and why.

    per-sample: kept for a whole physical batch, from a sampler for each layer. functorch: the same, but layers
    that have no sampler are differentiated record by record (vmap). ghost: never kept, but taken layer by layer,
    twice, for the norms and for the sum; layers without a sampler as in functorch.

    >>> GradientMode("ghost", "gradients of 256 records take 900 MiB").name
    'ghost'
    """

    name: ModeName
    reason: str


@dataclass(frozen=True, eq=False)
class Layer:
    """A module whose parameters are trained, with its name in the model; functorch where it has no sampler.

    parameters are those the layer answers for: its own, and its children's where functorch takes it whole.
    """

    name: str
    module: nn.Module
    parameters: tuple[nn.Parameter, ...]
    functorch: bool

    def gradients(self, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        """Gradient of each parameter, shape [B, *parameter], from inputs and output gradients of B records.

        Raises ModelError where a parameter of the layer gets none: the clip would not see what moves it.
        """
        given = self._by_functorch(activations, backprops) if self.functorch else self._sampled(activations, backprops)
        found = {p: given[p] for p in self.parameters if p in given}  # a layer may be frozen in part
        if set(found) != set(self.parameters):
            names = {p: name for name, p in self.module.named_parameters()}
            without = ", ".join(names[p] for p in self.parameters if p not in found)
            raise ModelError(
                f"{_named(self)} gives no per-record gradient of {without or 'its parameters alone'}: "
                f"keep beside a {type(self.module).__name__}'s own parameters no others (no weight_norm either)"
            )
        return found

    def _by_functorch(self, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        try:
            return ft_compute_per_sample_gradient(self.module, activations, backprops)  # type: ignore[no-any-return]
        except RuntimeError as error:
            if "randomness" not in str(error):
                raise
            # Differentiating anew would draw anew: gradients of another pass than the one taken.
            raise ModelError(f"{_named(self)} draws at random (dropout?): draw in a layer without parameters") from None

    def _sampled(self, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
        if isinstance(self.module, nn.Embedding) and self.module.padding_idx is not None:
            padding = activations[0] == self.module.padding_idx
            backprops = backprops.masked_fill(padding.unsqueeze(-1), 0)  # as in torch: the padding row stays
        return _sampler(self.module)(self.module, activations, backprops)


@dataclass(frozen=True)
class Call:
    """What a layer saw once: its inputs and the gradient at its output, both with B records first."""

    layer: Layer
    activations: list[Tensor]
    backprops: Tensor

    def gradients(self, rows: slice) -> dict[nn.Parameter, Tensor]:
        """Gradients of the records in `rows`, by parameter, shape [rows, *parameter]."""
        return self.layer.gradients([a[rows] for a in self.activations], self.backprops[rows])


def choose_mode(
    model: nn.Module, *, unit: str = "record", physical_batch: int = 256, kept_bytes: int = KEPT_BYTES
) -> GradientMode:
    """The fastest mode for `model` whose gradients of one physical batch fit into `kept_bytes`.

    Masks and canaries suit every mode. Raises ModelError for a layer that no mode can do.

    >>> choose_mode(nn.Conv1d(3, 1, 3)).name, choose_mode(nn.Conv1d(3, 1, 3), kept_bytes=100).name
    ('per-sample', 'ghost')
    >>> choose_mode(nn.Linear(3, 1)).name, choose_mode(nn.Linear(3, 1), unit="patient").name
    ('ghost', 'per-sample')
    """
    layers = trained_layers(model)
    without = [layer for layer in layers if layer.functorch]
    for layer in without:
        _check_functorch(layer)
    needed = physical_batch * sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    if needed > kept_bytes:
        return GradientMode(
            "ghost",
            f"gradients of {physical_batch} {unit}s take {needed / 2**20:.0f} MiB, "
            f"more than the {kept_bytes / 2**20:.0f} MiB that are kept",
        )
    if unit == "record" and all(type(layer.module) is nn.Linear for layer in layers):
        return GradientMode("ghost", "Linear layers alone: norms follow from what each layer sees")
    if without:
        kind = type(without[0].module).__name__
        return GradientMode("functorch", f"layer {without[0].name or 'the model itself'} ({kind}) has no sampler")
    return GradientMode("per-sample", f"every layer gives them, in {needed / 2**20:.1f} MiB")


def require_mode(model: nn.Module, name: ModeName) -> GradientMode:
    """The mode asked for. Raises ModelError, naming the layer and the mend, where the model cannot do it."""
    if name not in ("per-sample", "ghost", "functorch"):
        raise ValueError(f"mode must be auto, per-sample, ghost or functorch, not {name!r}")
    for layer in trained_layers(model):
        if layer.functorch and name == "per-sample":
            raise ModelError(
                f"layer {layer.name or 'the model itself'} ({type(layer.module).__name__}) has no sampler of "
                "per-record gradients: choose mode 'functorch' or 'auto', or register one with opacus.grad_sample"
            )
        if layer.functorch:
            _check_functorch(layer)
    return GradientMode(name, "asked for")


def _check_functorch(layer: Layer) -> None:
    if any(isinstance(module, DPRNN | DPLSTM | DPGRU) for module in layer.module.modules()):
        raise ModelError(
            f"layer {layer.name or 'the model itself'} ({type(layer.module).__name__}) holds parameters of its own "
            "beside a recurrent layer, which functorch cannot take: move them into a layer of their own"
        )


def trained_layers(model: nn.Module, prefix: str = "") -> list[Layer]:
    """The modules to take gradients at, in the order of named_modules(): together they hold all trained parameters."""
    # Opacus's recurrent layers list their cells' parameters as their own.
    own = () if isinstance(model, DPRNN | DPLSTM | DPGRU) else _trained(model, recurse=False)
    if own and not _has_sampler(model):
        return [Layer(prefix, model, _trained(model, recurse=True), functorch=True)]
    found = [Layer(prefix, model, own, functorch=False)] if own else []
    for name, child in model.named_children():
        found += trained_layers(child, f"{prefix}.{name}" if prefix else name)
    return found


def _trained(model: nn.Module, *, recurse: bool) -> tuple[nn.Parameter, ...]:
    return tuple(p for p in model.parameters(recurse) if p.requires_grad)


class Recorder:
    """Hands on what each layer sees: `take` is called once for every call of a layer, in backward order."""

    def __init__(self, model: nn.Module, layers: list[Layer]) -> None:
        self._model, self._layers = model, layers
        self._trained = tuple({p: None for layer in layers for p in layer.parameters})
        self._take: Callable[[Call], None] = lambda _: None
        self._records = 0

    def run(self, x: Tensor, loss: Callable[[Tensor], Tensor], records: int, take: Callable[[Call], None]) -> Tensor:
        """Losses of `records` records, shape [records], after one pass forward and back. Raises ModelError."""
        self._take, self._records = take, records
        self._require(False)
        try:
            losses = loss(self._model(x))
        finally:
            self._require(True)  # samplers look at it
        if losses.shape != (records,):
            raise ModelError(
                f"the loss gave shape {tuple(losses.shape)} for {records} records: make it give one value per record "
                "(in torch's losses, reduction='none'; outputs and labels of one shape; the mean of a record's values)"
            )
        if losses.requires_grad:  # where not, no layer was used: the caller finds its parameters without gradients
            torch.autograd.backward(losses.sum())
        return losses.detach()

    def _require(self, gradients: bool) -> None:
        for parameter in self._trained:
            parameter.requires_grad_(gradients)

    @contextmanager
    def attached(self) -> Iterator["Recorder"]:
        """Hooks on the model; on leaving, the model is as it was."""
        with ExitStack() as stack:
            for layer in self._layers:
                if layer.functorch:
                    _prepare(layer)  # copies the module, which must not be hooked yet
                    stack.callback(delattr, layer.module, "ft_compute_sample_grad")
                stack.callback(layer.module.register_forward_hook(self._tap(layer), with_kwargs=True).remove)
            for module in self._model.modules():
                if isinstance(module, DPRNN | DPLSTM | DPGRU):
                    stack.callback(module.register_forward_pre_hook(_refuse_packed).remove)
            yield self

    def _tap(self, layer: Layer) -> Callable[[nn.Module, tuple[Any, ...], dict[str, Any], Any], Tensor | None]:
        def hook(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> Tensor | None:
            if not torch.is_grad_enabled():
                return None
            if named:
                raise ModelError(
                    f"{_named(layer)} is called with {', '.join(named)} by name: give its one input by place"
                )
            activations = [self._checked(layer, value) for value in inputs]
            if layer.functorch and len(activations) != 1:
                raise ModelError(
                    f"{_named(layer)} takes {len(activations)} inputs: give it one, as an argument by place"
                )
            self._checked(layer, output)
            versions = [value._version for value in activations]
            # Nothing before the first layer asks for a gradient. The clone may then be changed in place.
            tapped: Tensor = output if output.requires_grad else output.detach().requires_grad_().clone()
            tapped.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: self._hand_on(layer, activations, versions, gradient)
            )
            return tapped

        return hook

    def _hand_on(self, layer: Layer, activations: list[Tensor], versions: list[int], gradient: Tensor) -> None:
        if [value._version for value in activations] != versions:
            raise ModelError(f"the input of {_named(layer)} is changed in place after its use: copy it first")
        if len(gradient) != self._records:
            raise ModelError(
                f"{_named(layer)} has {len(gradient)} rows for {self._records} records: "
                "keep the batch as the first dimension of its input"
            )
        self._take(Call(layer, activations, gradient.detach()))

    def _checked(self, layer: Layer, value: Any) -> Tensor:
        if not isinstance(value, Tensor):
            raise ModelError(f"{_named(layer)} takes or gives a {type(value).__name__}: make it tensors")
        return value.detach()


def _prepare(layer: Layer) -> None:
    try:
        prepare_layer(layer.module)
    except NotImplementedError as error:
        raise ModelError(f"{_named(layer)} cannot be differentiated by functorch ({error}): replace it") from None


def _named(layer: Layer) -> str:
    names = ", ".join(f"{layer.name}.{name}" if layer.name else name for name, _ in layer.module.named_parameters())
    return f"layer {layer.name or 'the model itself'} ({type(layer.module).__name__}: {names})"


def _refuse_packed(module: nn.Module, inputs: tuple[Any, ...]) -> None:
    # Packing sorts records by length, and their gradients would be clipped in the wrong order.
    if inputs and isinstance(inputs[0], PackedSequence):
        raise ModelError(f"layer {type(module).__name__} is fed a PackedSequence: feed padded sequences instead")


def _prelu_gradients(layer: nn.PReLU, activations: list[Tensor], backprops: Tensor) -> dict[nn.Parameter, Tensor]:
    products = activations[0].clamp(max=0) * backprops
    if layer.num_parameters > 1:
        return {layer.weight: products.flatten(2).sum(2) if products.dim() > 2 else products}
    return {layer.weight: products.flatten(1).sum(1, keepdim=True)}


def _transposed_gradients(
    layer: nn.ConvTranspose2d, activations: list[Tensor], backprops: Tensor
) -> dict[nn.Parameter, Tensor]:
    """ConvTranspose2d: a convolution whose input and output gradients change places."""
    inputs, records = activations[0], len(backprops)
    windows = nn.functional.unfold(  # [B, out * kernel, positions]
        backprops, layer.kernel_size, layer.dilation, cast(tuple[int, int], layer.padding), layer.stride
    )
    grouped = windows.reshape(records, layer.groups, -1, windows.shape[-1])
    weight = inputs.reshape(records, layer.groups, -1, windows.shape[-1]) @ grouped.transpose(2, 3)
    found: dict[nn.Parameter, Tensor] = {cast(nn.Parameter, layer.weight): weight.reshape(records, *layer.weight.shape)}
    if layer.bias is not None:
        found[cast(nn.Parameter, layer.bias)] = backprops.flatten(2).sum(2)
    return found


def _has_sampler(module: nn.Module) -> bool:
    """Whether per-record gradients of a module with parameters can be had without functorch."""
    if isinstance(module, nn.ConvTranspose2d) and any(
        extra >= stride for extra, stride in zip(module.output_padding, module.stride, strict=True)
    ):
        return False
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.padding_mode != "zeros":
        return False  # Opacus's pads with zeros
    if isinstance(module, nn.LayerNorm) and "bias" not in dict(module.named_parameters(recurse=False)):
        return False  # Opacus's reads the bias
    return type(module) in GradSampleModule.GRAD_SAMPLERS or type(module) in _OWN_SAMPLERS


def _sampler(module: nn.Module) -> Sampler:
    return GradSampleModule.GRAD_SAMPLERS.get(type(module)) or _OWN_SAMPLERS[type(module)]


_OWN_SAMPLERS: dict[type[nn.Module], Sampler] = {
    nn.PReLU: _prelu_gradients,
    nn.ConvTranspose2d: _transposed_gradients,
}
