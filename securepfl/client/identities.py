"""By what a hospital's data set is known again, so that its ledger is found whatever the data are called."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from securepfl.client.records import TrainingSet
from securepfl.errors import ConfigError
from securepfl.privacy.ledger.fingerprints import Identities, content_of

__all__ = ["KnownAs", "identities_of"]

_READ_TWICE: Final = 8


@dataclass(frozen=True)
class KnownAs:
    """What tells a data set apart beside the features that train: its declared id, None for none, and further
    identities of its records, as the cells of a table's rows. earlier: ledgers that an earlier version kept of it.

    >>> KnownAs("biopsies", {"row": [b"a row's cells"]}).id
    'biopsies'
    """

    id: str | None = None
    by: Identities = field(default_factory=dict)
    earlier: tuple[Path, ...] = ()

    @classmethod
    def of(cls, given: "str | KnownAs | None", declared: str | None) -> "KnownAs":
        """What a Client was given, with the federation's `declared` id where it names none."""
        known = given if isinstance(given, KnownAs) else cls(given)
        return known if known.id is not None else replace(known, id=declared)


def identities_of(records: TrainingSet, known_as: KnownAs, site: str) -> Identities:
    """Of all records that can be read: the features of each, a patient's too, and what `known_as` adds.

    Nothing of the label, so that other labels over the same rows change nothing. Raises ConfigError where records
    cannot be told by what they hold, as items change each time they are read, and the data set has no declared id.
    """
    # Items may draw from torch's generator, which is the pipeline's own.
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        found = [] if _changes(records) else list(_features(records))
    identities = {**known_as.by, "features": found}
    if known_as.id is None and not any(identities.values()):
        raise ConfigError(
            f"{site}: the data set's records cannot be known again: its items hold no numbers or texts, or other ones "
            "each time they are read; name the data set, data_set= or [data] id, so that its ledger is found"
        )
    return identities


def _features(records: TrainingSet) -> Iterator[bytes]:
    """A digest of each record's features."""
    whole = _tensor_of(records)
    if whole is not None:
        yield from _each(whole)
        return
    for place in range(len(records.dataset)):  # type: ignore[arg-type]
        yield from _of_unit(records, place)


def _tensor_of(records: TrainingSet) -> Tensor | None:
    """The features of a TensorDataset at once; None for another data set."""
    dataset: Dataset[Any] = records.dataset
    return dataset.tensors[0] if type(dataset) is TensorDataset and records.unit == "record" else None


def _changes(records: TrainingSet) -> bool:
    """Whether some item holds something else when it is read again."""
    if _tensor_of(records) is not None:
        return False
    count = len(records.dataset)  # type: ignore[arg-type]
    places = sorted({int(place) for place in np.linspace(0, count - 1, min(count, _READ_TWICE))})
    return any(_of_unit(records, place) != _of_unit(records, place) for place in places)


def _of_unit(records: TrainingSet, place: int) -> list[bytes]:
    """A digest of each record of one unit; nothing of one that can't be read, which trains nothing either."""
    try:
        x = records.dataset[place][0]
        if records.unit == "patient":
            return list(_each(x))
        digest = _content(x)
    except Exception:  # noqa: BLE001 - whatever the pipeline's own code raises
        return []
    return [] if digest is None else [digest]


def _each(x: Tensor) -> Iterator[bytes]:
    for row in x:
        digest = _content(row)
        if digest is not None:
            yield digest


def _content(x: Any) -> bytes | None:
    """32 bytes for numbers, texts, and lists and tables of those; None for anything else."""
    if isinstance(x, Tensor):
        plain = x.detach().to("cpu")  # once, when a Client is made
        return content_of((plain.float() if plain.dtype is torch.bfloat16 else plain).numpy())
    if isinstance(x, str | bytes):
        return content_of(np.frombuffer(x if isinstance(x, bytes) else x.encode(), dtype=np.uint8))
    if isinstance(x, Mapping):
        x = [x[key] for key in sorted(x)]
    if isinstance(x, list | tuple) and not all(isinstance(part, int | float) for part in x):
        parts = [_content(part) for part in x]
        known = b"".join(part for part in parts if part is not None)
        return content_of(np.frombuffer(known, dtype=np.uint8)) if known else None
    return content_of(np.asarray(x))
