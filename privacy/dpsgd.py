"""Local training of one round under DP-SGD (Abadi et al. 2016, arXiv 1607.00133), on Opacus.

One flat clip covers all trainable parameters, shared and personal: one release, one budget. The unit is one
item of the data set. Noise comes from a RandomStream, in double precision, and the step divides by the
declared batch, never by the drawn one.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from opacus.grad_sample import GradSampleModule
from opacus.optimizers import DPOptimizer
from opacus.validators import ModuleValidator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.utils.data import DataLoader, Dataset, IterableDataset

from securepfl.errors import DataError, ModelError
from securepfl.randomness import RandomStream

# Per-record gradients come in the parameters' precision; norms, factors and sums are double. This covers both.
_ROUNDING_MARGIN = 1e-6


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
    for name, parameter in model.named_parameters(remove_duplicate=False):
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


def _fault(module: nn.Module) -> str | None:
    """What forbids per-record gradients in this module, and the mend; None where nothing does."""
    if isinstance(module, _BatchNorm):
        return "makes records depend on one another: replace it by GroupNorm"
    if isinstance(module, _InstanceNorm) and module.track_running_stats:
        return "keeps statistics of private records: set track_running_stats=False, or use GroupNorm"
    if getattr(module, "max_norm", None) is not None:
        return "rewrites the rows that records look up, without noise: set max_norm=None"
    if isinstance(module, nn.RNNBase | nn.MultiheadAttention):
        return f"has no per-record gradients: replace it by opacus.layers.DP{type(module).__name__}"
    return _fault_of_parameters(module) if any(True for _ in module.parameters(recurse=False)) else None


def _fault_of_parameters(module: nn.Module) -> str | None:
    if type(module) in ModuleValidator.VALIDATORS and ModuleValidator.VALIDATORS[type(module)](module):
        return "has no per-record gradients in Opacus: replace it"
    if any(True for _ in module.buffers()):
        return "has parameters and buffers: move its buffers to a layer without parameters, or remove them"
    return None


@dataclass(frozen=True)
class DPSettings:
    """How one round trains. Raises ValueError, naming the field.

    noise_multiplier: standard deviation of the noise over the clip. clip: largest L2 norm of one record's
    gradient. sample_rate: chance of each record to be in a step; 1.0 is the full batch. physical_batch:
    records whose gradients are in memory at once; changes no result beyond rounding.
    """

    noise_multiplier: float
    clip: float
    sample_rate: float
    steps: int
    learning_rate: float
    physical_batch: int = 256

    def __post_init__(self) -> None:
        for name in ("noise_multiplier", "clip", "learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive and finite, not {value!r}")
        if not 0 < self.sample_rate <= 1:
            raise ValueError(f"sample_rate must be in (0, 1], not {self.sample_rate!r}")
        for name in ("steps", "physical_batch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


@dataclass(frozen=True)
class TrainingReport:
    """What a round's training looked like. Exact functions of private records: it stays in the hospital.

    clipped_fraction: of the records drawn, those whose gradient was clipped or refused. nonfinite_records:
    those whose gradient held a NaN or an infinity and counted as zero. mean_loss: over drawn records with a
    finite loss. Both fractions are None where no record was drawn.
    """

    steps: int
    clipped_fraction: float | None
    nonfinite_records: int
    mean_loss: float | None


class _Tally:
    """Counts of one call of train_private."""

    def __init__(self) -> None:
        self.drawn = self.clipped = self.nonfinite = self.finite_losses = 0
        self.loss_sum = 0.0

    def add_losses(self, losses: Tensor) -> None:
        finite = losses.detach()[torch.isfinite(losses.detach())]
        self.drawn += len(losses)
        self.finite_losses += len(finite)
        self.loss_sum += float(finite.sum(dtype=torch.float64))

    def report(self, steps: int) -> TrainingReport:
        return TrainingReport(
            steps=steps,
            clipped_fraction=self.clipped / self.drawn if self.drawn else None,
            nonfinite_records=self.nonfinite,
            mean_loss=self.loss_sum / self.finite_losses if self.finite_losses else None,
        )


class _StreamOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus's optimizer, clipping within a support and drawing its noise from a RandomStream.

    supports: for each parameter, in order, a bool tensor of its shape, or None for all of it.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        settings: DPSettings,
        expected_batch: float,
        supports: list[Tensor | None],
        noise: RandomStream,
    ) -> None:
        super().__init__(
            optimizer,
            noise_multiplier=settings.noise_multiplier,
            max_grad_norm=settings.clip,
            expected_batch_size=expected_batch,
        )
        self._supports, self._noise, self.tally = supports, noise, _Tally()

    def clip_and_accumulate(self) -> None:
        """Adds the clipped per-record gradients to `p.summed_grad`, kept in double precision."""
        factors = self._clip_factors()
        for p in self.params:
            # In double: a float32 (or TF32) sum over records could exceed the bound by more than the margin.
            total = torch.einsum("i,i...", factors, p.grad_sample.double())
            p.summed_grad = total if p.summed_grad is None else p.summed_grad + total

    def _clip_factors(self) -> Tensor:
        """Factor of each record, shape [B]. Clears gradients outside the support and non-finite records."""
        for p, support in zip(self.params, self._supports, strict=True):
            if support is not None:
                p.grad_sample.masked_fill_(~support, 0)  # unlike a product, also clears NaN
        norms_of_parts = [
            torch.linalg.vector_norm(p.grad_sample.reshape(-1, p.numel()), dim=1, dtype=torch.float64)
            for p in self.params
        ]
        norms: Tensor = torch.linalg.vector_norm(torch.stack(norms_of_parts), dim=0)
        refused = ~torch.isfinite(norms)
        if refused.any():
            # Zero is a valid clipped gradient, so the bound holds; a NaN times any factor would stay one.
            for p in self.params:
                p.grad_sample[refused] = 0
        self.tally.nonfinite += int(refused.sum())
        self.tally.clipped += int((refused | (norms > self.max_grad_norm)).sum())
        factors: Tensor = (self.max_grad_norm * (1 - _ROUNDING_MARGIN) / norms).clamp(max=1)
        # A factor below the normal float32 range would round by more than the margin; zero is always valid.
        return factors.masked_fill_(refused | (factors < torch.finfo(torch.float32).tiny), 0)

    def add_noise(self) -> None:
        """Sets `p.grad`: the sum plus one draw of noise, rounded to the parameter's precision afterwards."""
        for p, support in zip(self.params, self._supports, strict=True):
            count = p.numel() if support is None else int(support.sum())
            drawn = torch.from_numpy(self._noise.gaussian(count)) * (self.noise_multiplier * self.max_grad_norm)
            noise = torch.zeros(p.shape, dtype=torch.float64, device=p.device)
            noise[... if support is None else support] = drawn.to(p.device).reshape(
                p.shape if support is None else (-1,)
            )
            p.grad = (p.summed_grad + noise).to(p.dtype)


def train_private(
    model: nn.Module,
    dataset: Dataset[Any],
    loss: Callable[[Tensor, Tensor], Tensor],
    settings: DPSettings,
    *,
    noise: RandomStream,
    sampling: RandomStream,
    device: torch.device | str,
    units: int,
    masks: Mapping[str, Tensor] | None = None,
    collate: Callable[[list[Any]], Any] | None = None,
) -> TrainingReport:
    """Takes `settings.steps` plain DP-SGD steps on `model`, in place. Its release: accounting.Release.

    dataset: map-style, items (x, y); one item is the unit of privacy. loss: (model(x), y) -> one value per
    record, shape [B], each from its own record alone. units: the declared number of records; a step divides
    by sample_rate * units. masks: 0/1 tensors by parameter name, shaped like it; a coordinate at 0 never
    moves. A missing name is all ones. collate: as torch's DataLoader takes it; one row per record, each made
    of its own record alone (no mixup: that could not be detected).

    Same streams, same result, bit for bit on the CPU. If it raises, steps already taken stay in the model.
    Raises ModelError (see validate_model, or a loss that is not per record), DataError for a data set that
    cannot be indexed or is empty, ValueError for a mask or `units` that does not fit.
    """
    validate_model(model)
    records = _count_records(dataset)
    if units < 1:
        raise ValueError(f"units must be at least 1, not {units!r}")
    # Dropout and the like draw from torch's generator: tie it to the stream and leave the caller's alone.
    with (
        torch.random.fork_rng(range(torch.cuda.device_count())),
        _per_record_gradients(model, torch.device(device)) as wrapped,
    ):
        torch.manual_seed(int(sampling.words(1)[0] >> 1))
        optimizer = _StreamOptimizer(
            torch.optim.SGD(model.parameters(), lr=settings.learning_rate),
            settings,
            settings.sample_rate * units,
            _supports(model, masks or {}),
            noise,
        )
        for _ in range(settings.steps):
            drawn = _draw(records, settings.sample_rate, sampling)
            batches = [drawn[i : i + settings.physical_batch] for i in range(0, len(drawn), settings.physical_batch)]
            loader = DataLoader(dataset, batch_sampler=batches, collate_fn=collate)
            _step(wrapped, loader, batches, loss, optimizer)
    return optimizer.tally.report(settings.steps)


def _step(
    wrapped: GradSampleModule,
    loader: DataLoader[Any],
    batches: list[list[int]],
    loss: Callable[[Tensor, Tensor], Tensor],
    optimizer: _StreamOptimizer,
) -> None:
    """One step: clipped sums over the physical batches, then noise once."""
    device = next(wrapped.parameters()).device
    for number, ((x, y), drawn) in enumerate(zip(loader, batches, strict=True), start=1):
        if len(x) != len(drawn):
            raise DataError(
                f"the collate function made {len(x)} rows of {len(drawn)} records, but the clip bounds one row each: "
                "give one row per record"
            )
        losses = loss(wrapped(x.to(device)), y.to(device))
        if losses.shape != (len(x),):
            raise ModelError(
                f"the loss gave shape {tuple(losses.shape)} for {len(x)} records: "
                "make it give one value per record (in torch's losses, reduction='none')"
            )
        optimizer.tally.add_losses(losses)
        torch.autograd.backward(losses.sum())
        _check_gradients(wrapped, len(x))
        optimizer.signal_skip_step(number < len(batches))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    if not batches:
        # Staying still on an empty draw would show that nobody was drawn: noise is added all the same.
        for p in optimizer.params:
            p.grad_sample = p.new_zeros((0, *p.shape))
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _check_gradients(wrapped: GradSampleModule, records: int) -> None:
    """Each parameter must have one gradient per record: a layer fed with folded batches would clip slices."""
    for name, p in wrapped._module.named_parameters():
        if p.grad_sample is None:
            raise ModelError(f"parameter {name} gets no gradient from the loss: use it in forward(), or remove it")
        if len(p.grad_sample) != records:
            raise ModelError(
                f"parameter {name} has {len(p.grad_sample)} gradients for {records} records: "
                "keep the batch as the first dimension of its layer's input"
            )


def _draw(records: int, sample_rate: float, sampling: RandomStream) -> list[int]:
    """Indices of the records of one step."""
    if sample_rate == 1.0:
        return list(range(records))
    chosen: NDArray[Any] = (sampling.uniform(records) < sample_rate).nonzero()[0]
    return [int(index) for index in chosen]


def _count_records(dataset: Dataset[Any]) -> int:
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise DataError(
            f"{type(dataset).__name__} cannot be indexed, so records cannot be drawn independently: "
            "hand in a map-style data set (with __len__ and __getitem__)"
        )
    if not len(dataset):
        raise DataError(f"{type(dataset).__name__} holds no records: hand in at least one")
    return len(dataset)


def _supports(model: nn.Module, masks: Mapping[str, Tensor]) -> list[Tensor | None]:
    parameters = dict(model.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"masks names {name!r}, which is no parameter of the model")
        if mask.shape != parameters[name].shape:
            raise ValueError(f"mask {name!r} has shape {tuple(mask.shape)}, not {tuple(parameters[name].shape)}")
        if not ((mask == 0) | (mask == 1)).all():
            raise ValueError(f"mask {name!r} holds values other than 0 and 1")
    return [masks[name].to(p.device, torch.bool) if name in masks else None for name, p in parameters.items()]


@contextmanager
def _per_record_gradients(model: nn.Module, device: torch.device) -> Iterator[GradSampleModule]:
    """Opacus's hooks on `model`, in training mode; on leaving, the model is as it was but for its values."""
    modes = [(module, module.training) for module in model.modules()]
    model.to(device).train()
    wrapped = GradSampleModule(model, loss_reduction="sum")
    try:
        with warnings.catch_warnings():
            # True of every model whose first layer has parameters: the data need no gradient.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            yield wrapped
    finally:
        wrapped.cleanup()
        for p in model.parameters():
            p.grad = None
            vars(p).pop("summed_grad", None)
        for module, training in modes:
            module.training = training
            for name in ("activations", "max_batch_len"):  # what Opacus's hooks leave behind
                vars(module).pop(name, None)
