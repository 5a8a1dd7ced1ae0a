"""What units hold, as digests: by them the same units are kept whatever their order, and records are known again.

Digests are not keyed: whoever can guess a patient's row can try. They stay in memory; who keeps them keys them.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from securepfl.client.records import TrainingSet
from securepfl.privacy.accounting.events import Unit
from securepfl.privacy.ledger.fingerprints import content_of


@dataclass
class Contents:
    """Digests of the items (x, y) that were added so far, by their place in the data set. `features`: one of each
    record's x, so that records are known again under another outcome. `units`: one of all that a unit holds, whatever
    the order of its records.

    >>> contents = Contents()
    >>> contents.add(7, (torch.tensor([[1.0], [2.0]]), torch.zeros(2)), "patient")
    >>> contents.add(8, (torch.tensor([[1.0]]), torch.zeros(1)), "patient")
    >>> contents.largest, contents.features[7][0] == contents.features[8][0], len(contents.kept([7, 8], most=1))
    (2, True, 1)
    """

    features: dict[int, list[bytes]] = field(default_factory=dict)
    units: dict[int, bytes] = field(default_factory=dict)

    def add(self, place: int, item: Any, unit: Unit) -> None:
        """Take in one item; nothing of one that holds neither numbers nor texts."""
        try:
            x, y = item
            records = list(zip(x, y, strict=True)) if unit == "patient" else [(x, y)]
            digests = [(digest, _content(label) or b"") for row, label in records if (digest := _content(row))]
        except Exception:  # noqa: BLE001 - whatever the pipeline's own items raise
            return
        if digests:
            self.features[place] = [digest for digest, _ in digests]
            both = b"".join(sorted(digest + label for digest, label in digests))
            self.units[place] = hashlib.blake2b(both, digest_size=32).digest()

    @property
    def all_features(self) -> list[bytes]:
        """Of all records."""
        return [digest for place in sorted(self.features) for digest in self.features[place]]

    @property
    def largest(self) -> int:
        """The most records of one unit; 0 where there is none."""
        return max(map(len, self.features.values()), default=0)

    def kept(self, usable: Sequence[int], most: int) -> list[int]:
        """At most `most` of the units at the places `usable`, sorted: which ones follows from what they hold alone (of
        units without numbers or texts, from their places).
        """
        return sorted(sorted(usable, key=lambda place: (self.units.get(place, b""), place))[:most])


def contents_of(records: TrainingSet, places: Iterable[int]) -> Contents:
    """Of the units at `places`; nothing of one that cannot be read."""
    contents = Contents()
    for place in places:
        try:
            item = records.dataset[place]
        except Exception:  # noqa: BLE001, S112 - whatever the pipeline's own code raises
            continue
        contents.add(place, item, records.unit)
    return contents


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
