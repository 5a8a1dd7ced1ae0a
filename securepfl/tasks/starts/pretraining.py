"""A network trained on synthetic images alone: minutes on one core, with the patches that hospitals' training uses."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from securepfl.randomness import RandomStream
from securepfl.tasks.augmentation import patches
from securepfl.tasks.models import public_stream
from securepfl.tasks.networks import UNet
from securepfl.tasks.segmentation import Segmentation
from securepfl.tasks.starts.drawn import Drawn, Floats

Scale = Callable[[NDArray[np.float64], NDArray[np.uint8]], Floats]
"""What an image's values become: (values [H, W, 1], field [H, W]) -> features [1, H, W], as for patients' images."""
Pool = tuple[Tensor, Tensor]
"""Images [n, C, H, W] as a network sees them, and their labels [n, 2, H, W]."""
_SEEN: Final = 24
"""Images over which features are standardised."""
_RIDGE: Final = 0.1


@dataclass(frozen=True)
class Lesson:
    """How long, and on what: steps of `batch` patches of `size` pixels, Adam from `rate` down to 0 along a cosine.

    `upright` is the share of steps whose images are not turned, only mirrored: chests stand, eyes don't.
    Raises ValueError where a number is below 1, or the rate or the share is out of range.
    """

    steps: int = 1000
    batch: int = 4
    size: int = 128
    rate: float = 4e-3
    upright: float = 0.0

    def __post_init__(self) -> None:
        if min(self.steps, self.batch, self.size) < 1 or not self.rate > 0 or not 0 <= self.upright <= 1:
            raise ValueError(
                f"a lesson needs steps, batch and size from 1, a rate above 0 and a share in [0, 1]: {self}"
            )


def scaled(drawn: Drawn, scales: tuple[Scale, ...]) -> Pool:
    """Drawn images as a network sees patients' ones, and their labels; image i by scale i modulo their number."""
    features = [
        scales[i % len(scales)](image[0, :, :, None].astype(np.float64), labels[1])
        for i, (image, labels) in enumerate(zip(drawn.images, drawn.labels, strict=True))
    ]
    return torch.from_numpy(np.stack(features)), torch.from_numpy(drawn.labels)


def pretrain(
    model: UNet, pools: Sequence[Pool], lesson: Lesson, seed: int, told: Callable[[int], None] = lambda _: None
) -> None:
    """Train the body of `model` on each pool in turn, and standardise its features by the first.

    The head stays as it is. `told` hears each finished step's number. The same call gives the same weights on one
    machine with one thread; nothing is read from torch's global generator.
    """
    task, stream = Segmentation(), public_stream("pretraining", seed)
    parameters = list(model.body.parameters())
    optimiser = torch.optim.Adam(parameters, lr=lesson.rate)
    model.train()
    for step in range(lesson.steps):
        # A short rise keeps group norms from being thrown by Adam's first steps.
        rate = min(1.0, (step + 1) / 30) * 0.5 * (1 + math.cos(math.pi * step / lesson.steps))
        for group in optimiser.param_groups:
            group["lr"] = lesson.rate * rate
        turned = stream.uniform(1)[0] >= lesson.upright
        images, labels = pools[step % len(pools)]
        x, y = (patches if turned else _upright)(images, labels, lesson.batch, lesson.size, stream)
        loss = task.loss(model(x), y).mean()
        gradients = torch.autograd.grad(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        told(step + 1)
    optimiser.zero_grad(set_to_none=True)
    model.eval()
    images, labels = pools[0]
    standardise(model, images[:_SEEN], labels[:_SEEN, 1])


def standardise(model: UNet, images: Tensor, fields: Tensor) -> None:
    """Set `centre`, `spread` and `mixing`: means, deviations and whitening of features over `images`' fields [n, H, W].

    Whitening is the inverse of the correlations' Cholesky factor: of all matrices that whiten, the triangular one.
    """
    with torch.no_grad():
        model.centre.zero_()
        model.spread.fill_(1.0)
        model.mixing.copy_(torch.eye(model.width))
        inside = fields > 0
        seen = [model.features(image[None])[0][:, field] for image, field in zip(images, inside, strict=True)]
        values = torch.cat(seen, dim=1).double()
        model.centre.copy_(values.mean(dim=1))
        # A feature that never varies carries nothing: left as it is, not blown up.
        deviation = values.std(dim=1)
        spread = torch.where(deviation > 1e-4, deviation, torch.ones_like(deviation))
        model.spread.copy_(spread)
        model.mixing.copy_(_whitening(torch.cov(values) / spread.outer(spread)))


def _whitening(correlations: Tensor) -> Tensor:
    """[F, F], lower triangular: what makes features of these correlations independent, but for the weakest directions.

    A tenth of a feature's variance is added to all directions, so that none is blown up more than about threefold.

    >>> _whitening(torch.tensor([[1.0, 0.9], [0.9, 1.0]]).double()).numpy().round(2).tolist()
    [[1.0, 0.0], [-1.42, 1.74]]
    """
    identity = torch.eye(len(correlations)).to(correlations)
    factor = torch.linalg.cholesky(correlations + _RIDGE * identity)
    white: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False) * math.sqrt(1 + _RIDGE)
    return white


def _upright(images: Tensor, labels: Tensor, count: int, size: int, stream: RandomStream) -> tuple[Tensor, Tensor]:
    """As `patches`, but neither turned nor zoomed: pieces of the images as they stand, mirrored at random."""
    height, width = images.shape[-2:]
    drawn = stream.uniform(4 * count).reshape(count, 4)
    found = []
    for which, down, right, mirror in drawn.tolist():
        i = int(which * len(images))
        top, left = int(down * max(1, height - size + 1)), int(right * max(1, width - size + 1))
        piece = (slice(top, top + size), slice(left, left + size))
        pair = images[i][:, *piece], labels[i][:, *piece]
        found.append(tuple(part.flip(-1) for part in pair) if mirror < 0.5 else pair)
    return torch.stack([x for x, _ in found]), torch.stack([y for _, y in found])
