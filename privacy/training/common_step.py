"""One step under shared noise at one hospital: shared gradients become integers to sum, personal ones take a step.

The clip bounds each unit's shared and personal gradient together, as in dpsgd.py. Batches are full.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.training.clipping import Layout
from securepfl.privacy.training.dpsgd import DPSettings, add_noise, descend, in_training, validate_model
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.privacy.training.passes import Loss, Passes
from securepfl.privacy.training.tally import Tally, TrainingReport
from securepfl.privacy.training.units import Collate, count_units, use_batches
from securepfl.randomness import RandomStream


def take_common_step(
    model: nn.Module,
    dataset: Dataset[Any] | None,
    loss: Loss,
    settings: DPSettings,
    integers: IntegerSum,
    *,
    shared: Collection[str],
    noise: RandomStream,
    sampling: RandomStream,
    device: torch.device | str,
    units: int,
    unit: Unit = "record",
    masks: Mapping[str, Tensor] | None = None,
    collate: Collate | None = None,
    skipped: Collection[int] = (),
) -> TrainingReport:
    """Adds the clipped gradients of all units to `integers`, and moves the personal parameters of `model` in place.

    shared: names of the parameters whose gradients are summed over hospitals; in named_parameters() order their
    coordinates within `masks` are the values of `integers`, whose noise the caller draws. The others take a step with
    Gaussian noise of `settings.noise_multiplier`, which must be at least that of the shared noise. The remaining
    arguments are as in dpsgd.train_private: a data set of None adds nothing, and the personal step is noise alone.

    Raises as train_private does, and ValueError for settings of other than one full-batch step or too little noise.

    >>> from securepfl.privacy.training.shared_noise import SharedNoise
    >>> model, data = nn.Linear(3, 1), torch.utils.data.TensorDataset(torch.randn(8, 3), torch.ones(8))
    >>> shared_noise = SharedNoise(grid=16, scale=40, shares=4, dimension=3, limit=2**20)
    >>> integers = IntegerSum.empty(shared_noise, RandomStream(bytes(32)), 3)
    >>> report = take_common_step(
    ...     model,
    ...     data,
    ...     lambda z, y: (z[:, 0] - y) ** 2,
    ...     DPSettings(noise_multiplier=5.0, clip=1.0, sample_rate=1.0, steps=1, learning_rate=0.1),
    ...     integers,
    ...     shared={"weight"},
    ...     noise=RandomStream(bytes(31) + b"1"),
    ...     sampling=RandomStream(bytes(31) + b"2"),
    ...     device="cpu",
    ...     units=8,
    ... )
    >>> integers.total.shape  # the bias took a step of its own
    (3,)
    """
    if settings.steps != 1 or settings.sample_rate != 1.0:
        raise ValueError("settings must be of one step over the full batch: shared noise is accounted for no other")
    if settings.noise_multiplier < integers.noise.noise_multiplier:
        raise ValueError("settings.noise_multiplier must be at least that of the shared noise")
    validate_model(model)
    available = range(0 if dataset is None else count_units(dataset))
    with in_training(model, device, sampling) as recorder:
        layout = Layout.of(model, masks or {}, None)
        personal = layout.entries(lambda name: name not in shared)
        moving = layout.entries(lambda name: name in shared)
        total = torch.zeros(layout.size, dtype=torch.float64, device=layout.device)
        passes, tally = Passes(recorder, loss, layout, settings.clip, settings.physical_batch), Tally(layout.device)
        used = [index for index in available if index not in skipped]
        tally.draw(len(available), len(available) - len(used))
        made = use_batches(dataset, used, passes.most, unit, collate, passes.clipped, tally.unusable)
        for clipped, *seen in made:
            for rows in clipped:
                _add(integers, total, rows, moving, personal, settings.clip)
            tally.add(*seen)
        add_noise(total, personal, settings, noise)
        descend(layout, total / units, settings.learning_rate)
    return tally.report(settings.steps, "per-sample")


def _add(integers: IntegerSum, total: Tensor, clipped: Tensor, moving: Tensor, personal: Tensor, clip: float) -> None:
    """clipped: double [units, layout.size]."""
    own = clipped[:, personal]
    total.index_add_(0, personal, own.sum(dim=0))
    norms = torch.linalg.vector_norm(own, dim=1) / clip
    integers.add((clipped[:, moving] / clip).cpu().numpy(), norms.cpu().numpy())
