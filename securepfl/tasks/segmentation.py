"""Which pixels are of a structure: an image's mask, scored within its field of view."""

import warnings
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from securepfl.tasks.anatomy import shaped
from securepfl.tasks.imaging import imaging
from securepfl.tasks.labels import first_bad, shape_text
from securepfl.tasks.metrics import check_probabilities, mean_of_known
from securepfl.tasks.resampling import score
from securepfl.tasks.task import Illegal, Labels, Metric, Metrics, OperatingPoint, Predictions, Shape, no_labels

_SMOOTH = 1.0
_PERCENTILE = 95


@dataclass(frozen=True)
class Segmentation:
    """Labels [n, 2, height, width] of 0 and 1: the structure, and what is scored (the field of view); outputs
    [n, 1, height, width]: the logit of each pixel. A sample of pixels is an image of one column.

    A decided mask keeps the `structures` largest connected regions (None: all), and is filled where the structure has
    no `holes`. Both are declared, from anatomy. Raises ValueError for fewer than one structure.

    >>> Segmentation().predict(torch.zeros(1, 1, 2, 2)).tolist()
    [[[0.5, 0.5], [0.5, 0.5]]]
    >>> Segmentation().misfit((2, 64, 64))
    'a segmentation needs [1, height, width] outputs an image, not [2, 64, 64]'
    """

    structures: int | None = None
    holes: bool = True

    name: ClassVar[str] = "segmentation"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("dice", "Dice"),
        Metric("hd95", "HD95, pixels", higher_is_better=False, detail=True),
    )
    deciding: ClassVar[str] = "dice"
    outputs: ClassVar[int] = 1
    baseline_title: ClassVar[str] = "empty mask"

    def __post_init__(self) -> None:
        if self.structures is not None and self.structures < 1:
            raise ValueError(f"structures = {self.structures}: at least 1, or none declared")

    def misfit(self, output: Shape) -> str:
        """One output a pixel."""
        if len(output) == 3 and output[0] == 1:
            return ""
        return f"a segmentation needs [1, height, width] outputs an image, not {shape_text(output)}"

    def illegal(self, labels: Tensor, output: Shape | None) -> Illegal | None:
        """Masks of another shape than the output's, without a field, or of values other than 0 and 1."""
        shape = tuple(labels.shape[1:])
        if len(shape) != 3 or shape[0] != 2 or output not in (None, (1, *shape[1:])):
            pixels = "height, width" if output is None or len(output) != 3 else f"{output[1]}, {output[2]}"
            return Illegal(0, f"label is {shape_text(shape)}, and a mask with its field here is [2, {pixels}]")
        bad = (labels != 0) & (labels != 1)
        return first_bad(labels, bad, "mask or field holds {}: 1 is of it and 0 is not; map others".format)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean binary cross-entropy over the field plus 1 - soft Dice (smoothed by 1), [n]; 0 where there is no field.

        Raises ValueError where the shapes do not fit.
        """
        if outputs.ndim != 4 or outputs.shape[1] != 1 or labels.shape != (len(outputs), 2, *outputs.shape[2:]):
            raise ValueError(f"outputs {tuple(outputs.shape)} and labels {tuple(labels.shape)} don't fit")
        logits = outputs.flatten(1)
        truth, field = labels.to(outputs.dtype).flatten(2).unbind(dim=1)
        errors = functional.binary_cross_entropy_with_logits(logits, truth, weight=field, reduction="none")
        chances, truth = logits.sigmoid() * field, truth * field
        both, each = (chances * truth).sum(dim=1), chances.sum(dim=1) + truth.sum(dim=1)
        dice = (2 * both + _SMOOTH) / (each + _SMOOTH)
        return errors.sum(dim=1) / field.sum(dim=1).clamp(min=1) + 1 - dice

    def predict(self, outputs: Tensor) -> Predictions:
        """Each pixel's probability, float32 [n, height, width]: images take room."""
        if problem := self.misfit(tuple(outputs.shape[1:])):
            raise ValueError(problem)
        return cast(Predictions, outputs.squeeze(1).float().sigmoid().cpu().numpy())

    def choices(self, outputs: Tensor) -> Tensor:
        """Of the structure or not, for each pixel, [n, pixels, 2]."""
        flat = outputs.flatten(1)
        return torch.stack([torch.zeros_like(flat), flat], dim=2)

    def decide(self, predictions: Predictions, point: OperatingPoint = ()) -> NDArray[np.bool_]:
        """Masks [n, height, width]: pixels from the threshold up, in the declared shape.

        >>> Segmentation().decide(np.array([[[0.2, 0.4]]]), (0.3,)).tolist()
        [[[False, True]]]
        """
        return shaped(predictions >= (point[0] if point else 0.5), self.structures, holes=self.holes)

    def by_image(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels
    ) -> dict[str, NDArray[np.float64]]:
        """Dice and HD95 within each image's field, [n]: NaN for an image without the structure, and HD95 (the 95th
        percentile of the distances from one outline to the other, of the worse way) for an empty mask.
        """
        _check(predictions, labels)
        truth, field = labels[:, 0] != 0, labels[:, 1] != 0
        truth, mask = truth & field, (decided != 0) & field
        return {"dice": _dice(mask, truth), "hd95": _hd95(mask, truth)}

    def measure(
        self, predictions: Predictions, decided: NDArray[np.generic], labels: Labels, weights: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        """Means over the images that have the metric; see by_image."""
        found = self.by_image(predictions, decided, labels)
        return {name: mean_of_known(values, weights) for name, values in found.items()}

    def evaluate(self, predictions: Predictions, labels: Labels, point: OperatingPoint = ()) -> Metrics:
        """See measure; decided at the threshold (default 1/2)."""
        return score(self, predictions, labels, point).point

    def baseline(self, labels: Labels, rows: int) -> Predictions:
        """Empty masks."""
        no_labels(labels)
        return cast(Predictions, np.zeros((rows, *labels.shape[2:]), dtype=np.float32))

    def lacking(self, labels: Labels) -> str:
        """A pixel of the structure, and one beside it, within the fields."""
        scored = labels[:, 0][labels[:, 1] != 0]
        if not len(scored):
            return "have no field of view"
        return "" if scored.min() != scored.max() else f"hold {'full' if scored.max() else 'empty'} masks only"

    def columns(self, predictions: Predictions, point: OperatingPoint = ()) -> dict[str, NDArray[np.generic]]:
        """How many pixels of each image are of the structure."""
        return {"pixels": np.count_nonzero(self.decide(predictions, point), axis=(1, 2))}


def _dice(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n]; NaN for an image without the structure."""
    both, truths, mine = (np.count_nonzero(of, axis=(1, 2)) for of in (masks & truth, truth, masks))
    found = np.full(len(truth), np.nan)
    np.divide(2.0 * both, truths + mine, out=found, where=truths > 0)
    return found


def _hd95(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """[n], in pixels; NaN where either is empty."""
    found = np.full(len(truth), np.nan)
    known = np.flatnonzero(masks.any(axis=(1, 2)) & truth.any(axis=(1, 2)))
    if len(known):
        with imaging("HD95"):
            from monai.metrics import compute_hausdorff_distance  # noqa: PLC0415 - optional
        pairs = (torch.from_numpy(of[known][:, None]) for of in (masks, truth))
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of MONAI's own calls
            distances = compute_hausdorff_distance(*pairs, include_background=True, percentile=_PERCENTILE)
        found[known] = distances[:, 0].numpy()
    return found


def _check(predictions: NDArray[Any], labels: Labels) -> None:
    if predictions.ndim != 3 or labels.shape != (len(predictions), 2, *predictions.shape[1:]):
        raise ValueError(f"probabilities {predictions.shape} and masks with fields {labels.shape} don't fit")
    check_probabilities(predictions)
