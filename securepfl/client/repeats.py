"""Whether a data set made of others holds an item twice: oversampled, it would be two units, each with its own clip."""

import bisect
import operator
from typing import Any

from torch.utils.data import ConcatDataset, Dataset, Subset

from securepfl.errors import DataError
from securepfl.privacy.accounting.events import Unit


def check_held_once(dataset: Dataset[Any], site: str, unit: Unit) -> None:
    """Raises DataError for a Subset or ConcatDataset, of each other too, that holds an item of a data set twice, or one
    that is not there. Items of one data set that are equal are none of its business.
    """
    if not isinstance(dataset, Subset | ConcatDataset):
        return
    first: dict[tuple[int, Any], int] = {}
    for place in range(len(dataset)):
        try:
            source = _source(dataset, place)
        except IndexError:
            raise DataError(f"{site}: {unit} {place} (from 0) is none of its data set's; mend the indices") from None
        if first.setdefault(source, place) != place:
            raise DataError(
                f"{site}: {unit}s {first[source]} and {place} (from 0) are the same one, which would count as two for "
                "epsilon; hand in each once, and weigh them in the loss"
            )


def _source(dataset: Dataset[Any], place: int) -> tuple[int, Any]:
    """The data set that an item comes from in the end, by its id, and the item's place there."""
    held: Any = dataset
    while isinstance(held, Subset | ConcatDataset):
        place = _from_start(held, place)
        if isinstance(held, Subset):
            held, place = held.dataset, held.indices[place]
        else:
            part = bisect.bisect_right(held.cumulative_sizes, place)
            place -= held.cumulative_sizes[part - 1] if part else 0
            held = held.datasets[part]
    return id(held), _from_start(held, place)


def _from_start(held: Any, place: Any) -> Any:
    """`place` counted from the start; itself where it is no number. Raises IndexError where there is no such item."""
    try:
        number = operator.index(place)
    except TypeError:
        return place
    return range(len(held))[number] if hasattr(held, "__len__") else number
