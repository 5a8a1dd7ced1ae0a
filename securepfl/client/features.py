"""What a trained head sees of each record: a frozen body's features, computed once, at some pixels of the field.

A frozen body gives the same features in every step. So they are had once, when a client is made, and each training step
passes the head alone. Of each image 4,000 pixels of its own field are kept, at places that follow from the field and a
public stream: the head has as many numbers as features, and more pixels of one patient would say little more.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from securepfl.client.records import TrainingSet
from securepfl.settings.tables import ModelSettings
from securepfl.tasks.layout import laid_out
from securepfl.tasks.models import public_stream
from securepfl.tasks.prediction import evaluating

PIXELS: Final = 4000


class FeatureRecords(Dataset[tuple[Tensor, Tensor]]):
    """Items in the place of a data set's own, each computed before; one that could not be raises what it raised."""

    def __init__(self, items: Sequence[tuple[Tensor, Tensor] | Exception]) -> None:
        self._items = tuple(items)

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        item = self._items[place]
        if isinstance(item, Exception):
            raise item
        return item


def are_cached(settings: ModelSettings, model: nn.Module) -> bool:
    """Whether training passes the head alone: it alone trains, and the model takes features in the place of images."""
    return settings.trained == "head" and callable(getattr(model, "features", None))


def with_features(records: TrainingSet, model: nn.Module, device: torch.device) -> TrainingSet:
    """`records` with the features of `model` in the place of images, [features, pixels, 1] each, and masks alike."""
    found: list[tuple[Tensor, Tensor] | Exception] = []
    with evaluating(model), laid_out(model), torch.no_grad():
        for place in range(records.found):
            try:
                x, y = records.dataset[place]
                found.append(
                    _of_patient(model, x, y, device) if records.unit == "patient" else _of(model, x, y, device)
                )
            except Exception as error:  # noqa: BLE001 - whatever the pipeline's own code raises: the scan tells it
                found.append(error)
    return TrainingSet(FeatureRecords(found), None, records.unit)


def _of_patient(model: nn.Module, x: Any, y: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    pairs = [_of(model, image, mask, device) for image, mask in zip(x, y, strict=True)]
    features, masks = zip(*pairs, strict=True)
    return torch.stack(features), torch.stack(masks)


def _of(model: nn.Module, image: Tensor, mask: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    """Features [features, PIXELS, 1] and mask with field [2, PIXELS, 1]; a smaller field is filled up with what is not
    scored.
    """
    features: Tensor = model.features(image[None].to(device))[0].flatten(1).cpu()  # type: ignore[operator]
    labels = mask.flatten(1)
    places = torch.from_numpy(_places(labels[1].cpu().numpy()))
    kept, said = features.new_zeros(len(features), PIXELS), labels.new_zeros(len(labels), PIXELS)
    kept[:, : len(places)], said[:, : len(places)] = features[:, places], labels[:, places]
    return kept[..., None], said[..., None]


def _places(field: NDArray[Any]) -> NDArray[np.int64]:
    """At most PIXELS places within a field [pixels], spread evenly over it; which follows from the field alone."""
    inside = np.flatnonzero(field != 0)
    if len(inside) <= PIXELS:
        return inside
    drawn = public_stream("pixels of a head").uniform(PIXELS)
    spread = (np.arange(PIXELS) + drawn) * (len(inside) / PIXELS)
    places: NDArray[np.int64] = inside[np.minimum(spread.astype(np.int64), len(inside) - 1)]
    return places
