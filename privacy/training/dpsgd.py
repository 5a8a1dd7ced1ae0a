"""Local training of one round under DP-SGD (Abadi et al. 2016, arXiv 1607.00133), with Opacus's samplers.

One flat clip covers all trainable parameters, shared and personal: one release, one budget. The unit is one
item of the data set: a record, or a patient with all records of that patient. Noise comes from a RandomStream,
in double precision, and the step divides by the declared batch, never by the drawn one.
"""

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from securepfl.privacy.accounting.events import Release, Unit
from securepfl.privacy.training.canaries import Canaries
from securepfl.privacy.training.clipping import Layout
from securepfl.privacy.training.gradients import ModeName, Recorder, choose_mode, require_mode, trained_layers
from securepfl.privacy.training.passes import Loss, Passes
from securepfl.privacy.training.tally import Tally, TrainingReport
from securepfl.privacy.training.units import Collate, count_units, use_batches
from securepfl.privacy.training.validation import set_training, validate_model
from securepfl.randomness import RandomStream

__all__ = ["DPSettings", "Loss", "TrainingReport", "train_private", "validate_model"]


@dataclass(frozen=True)
class DPSettings:
    """How one round trains. Raises ValueError, naming the field.

    noise_multiplier: standard deviation of the noise over the clip. clip: largest L2 norm of one unit's
    gradient. sample_rate: chance of each unit to be in a step; 1.0 is the full batch. physical_batch:
    records whose gradients are in memory at once; changes no result beyond rounding. A patient with more records
    passes through the model that many at a time, and their gradients are summed before the norm.

    >>> settings = DPSettings(noise_multiplier=5.0, clip=1.0, sample_rate=1.0, steps=4, learning_rate=0.1)
    >>> settings.release("record", rounds=3).steps
    12
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

    def release(self, unit: Unit, rounds: int = 1) -> Release:
        """What `rounds` rounds of such training release."""
        return Release(
            noise_multiplier=self.noise_multiplier,
            sample_rate=self.sample_rate,
            steps=rounds * self.steps,
            unit=unit,
        )


def train_private(
    model: nn.Module,
    dataset: Dataset[Any] | None,
    loss: Loss,
    settings: DPSettings,
    *,
    noise: RandomStream,
    sampling: RandomStream,
    device: torch.device | str,
    units: int,
    unit: Unit = "record",
    mode: Literal["auto"] | ModeName = "auto",
    masks: Mapping[str, Tensor] | None = None,
    collate: Collate | None = None,
    canaries: Canaries | None = None,
    skipped: Collection[int] = (),
) -> TrainingReport:
    """Takes `settings.steps` plain DP-SGD steps on `model`, in place. Its release: accounting.Release.

    dataset: map-style, items (x, y); one item is the unit of privacy. None: no units, so every step is noise alone, of
    the size and from the stream of any other. With unit="patient" an item is a patient, x [r, ...] and y [r, ...]: the
    gradients of its r records are summed before the norm (see units.py). skipped: units of it that count as zero, a
    set; they are not looked at (what a GPU stops for, as an illegal label, cannot be caught there). loss:
    (model(x), y) -> one value per record, shape [B], each from its own record alone. units: the declared number
    of units; a step divides by sample_rate * units. mode: how gradients are had (see gradients.GradientMode);
    changes no result beyond rounding. masks: 0/1 tensors by parameter name, shaped like it; a coordinate at 0
    never moves. A missing name is all ones. collate: as torch's DataLoader takes it; one row per record, each
    made of its own record alone (no mixup: that could not be detected). canaries: for audits of rehearsals.

    | guaranteed | unless |
    |---|---|
    | a unit moves a step's sum by at most `clip`, all its records and parameters together | records depend on others |
    | the sum gets Gaussian noise of noise_multiplier * clip on every coordinate that moves | |
    | an empty draw gets noise too: nobody sees that nobody was drawn | |
    | units are drawn independently, each at sample_rate | `sampling` is known to whoever sees the model |
    | a step divides by the declared batch, so it does not tell the drawn one | |
    | a gradient with a NaN or an infinity counts as zero | |
    | so does a unit that raises when fetched, in model or loss, or for want of memory (see unusable.py) | |
    | frozen parameters, and coordinates masked to 0, never move | |

    Records that depend on one another inside the model or the loss void the guarantee, and most such models look
    sound: before the first round, call probe.check_independence (a client does). It is not called here.

    Same streams, same result, bit for bit on the CPU. If it raises, steps already taken stay in the model.
    Raises ModelError (see validate_model, a mode that the model cannot do; and where none of the units could be used
    and one was refused for the model or a loss that is not per record: after all steps), DataError for a data set that
    cannot be indexed or is empty, ValueError for an argument that does not fit.

    >>> model, data = nn.Linear(3, 1), torch.utils.data.TensorDataset(torch.randn(8, 3), torch.ones(8))
    >>> settings = DPSettings(noise_multiplier=2.0, clip=1.0, sample_rate=1.0, steps=2, learning_rate=0.1)
    >>> report = train_private(
    ...     model,
    ...     data,
    ...     lambda z, y: (z[:, 0] - y) ** 2,
    ...     settings,
    ...     noise=RandomStream(bytes(32)),
    ...     sampling=RandomStream(bytes(31) + b"1"),
    ...     device="cpu",
    ...     units=8,
    ... )
    >>> report.steps, report.mode
    (2, 'ghost')
    """
    validate_model(model)
    available = 0 if dataset is None else count_units(dataset)
    _check_arguments(units, unit, collate)
    if mode == "auto":
        chosen = choose_mode(model, unit=unit, physical_batch=settings.physical_batch).name
    else:
        chosen = require_mode(model, mode).name
    with in_training(model, device, sampling) as recorder:
        layout = Layout.of(model, masks or {}, canaries)
        passes = Passes(recorder, loss, layout, settings.clip, settings.physical_batch, canaries)
        entries = layout.entries() if masks else None
        tally, clipped = Tally(layout.device), partial(passes.summed, mode=chosen)
        for _ in range(settings.steps):
            drawn = draw(available, settings.sample_rate, sampling)
            used = [index for index in drawn if index not in skipped] if skipped else drawn
            tally.draw(len(drawn), len(drawn) - len(used))
            total = torch.zeros(layout.size, dtype=torch.float64, device=layout.device)
            made = use_batches(dataset, used, settings.physical_batch, unit, collate, clipped, tally.unusable)
            for part, *seen in made:
                total += part
                tally.add(*seen)
            # An empty draw too gets noise: staying still would show that nobody was drawn.
            add_noise(total, entries, settings, noise)
            descend(layout, total / (settings.sample_rate * units), settings.learning_rate)
    return tally.report(settings.steps, chosen)


def _check_arguments(units: int, unit: str, collate: Collate | None) -> None:
    if units < 1:
        raise ValueError(f"units must be at least 1, not {units!r}")
    if unit not in ("record", "patient"):
        raise ValueError(f"unit must be record or patient, not {unit!r}")
    if unit == "patient" and collate is not None:
        raise ValueError("collate cannot be given with unit='patient': records of patients are concatenated")


def add_noise(total: Tensor, entries: Tensor | None, settings: DPSettings, noise: RandomStream) -> None:
    """Adds one draw of noise to `total` [size] at `entries` (positions, int64, or all), before anything is rounded.

    | guaranteed | unless |
    |---|---|
    | each entry's noise is a Gaussian of noise_multiplier * clip, in double precision | `total` is of less |
    | all entries' noise is independent, and of every other draw | `noise` is a stream whose key was used before |
    | entries that are not named stay as they are | |

    >>> total = torch.zeros(3, dtype=torch.float64)
    >>> settings = DPSettings(noise_multiplier=2.0, clip=1.0, sample_rate=1.0, steps=1, learning_rate=0.1)
    >>> add_noise(total, torch.tensor([0, 2]), settings, RandomStream(bytes(32)))
    >>> (total != 0).tolist()
    [True, False, True]
    """
    drawn = noise.gaussian(len(total) if entries is None else len(entries))
    added = torch.from_numpy(drawn).to(total.device) * (settings.noise_multiplier * settings.clip)
    if entries is None:
        total += added
    else:
        total.index_add_(0, entries, added)


def descend(layout: Layout, gradient: Tensor, learning_rate: float) -> None:
    """Moves the parameters against `gradient`, double [layout.size]."""
    with torch.no_grad():
        for p, place in layout.places.items():
            step = gradient[place.start : place.start + place.size].to(p.dtype)
            p.add_(step.view(p.shape), alpha=-learning_rate)


def draw(available: int, sample_rate: float, sampling: RandomStream) -> list[int]:
    """Indices of the units of one step."""
    if not available:
        return []
    if sample_rate == 1.0:
        return list(range(available))
    chosen: NDArray[Any] = (sampling.uniform(available) < sample_rate).nonzero()[0]
    return [int(index) for index in chosen]


@contextmanager
def in_training(model: nn.Module, device: torch.device | str, sampling: RandomStream) -> Iterator[Recorder]:
    """Taps on `model`, on `device` and in training mode; on leaving, it is as it was but for its values and device.

    Dropout and the like draw from torch's generator: it is tied to the stream, and the caller's is left alone.
    """
    modes, place = [(module, module.training) for module in model.modules()], torch.device(device)
    set_training(model.to(place))
    try:
        with (
            torch.random.fork_rng(range(torch.cuda.device_count())),
            Recorder(model, trained_layers(model)).attached() as recorder,
        ):
            seed = int(sampling.words(1)[0] >> 1)
            # torch.manual_seed seeds every kind of device there is, which takes longer than a small step.
            torch.default_generator.manual_seed(seed) if place.type == "cpu" else torch.manual_seed(seed)
            yield recorder
    finally:
        for p in model.parameters():
            p.grad = None
        for module, training in modes:
            module.training = training
