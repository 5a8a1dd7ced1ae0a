"""What units hold, as digests: by them the same units are kept whatever their order, and records are known again.

Digests are not keyed: whoever can guess a patient's row can try. They stay in memory; who keeps them keys them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from securepfl.privacy.ledger.fingerprints import content_of
from securepfl.privacy.training.units import Batch


@dataclass
class Contents:
    """Digests of the units that were added so far. `features`: one of each record, without its label, so that records
    are known again under another outcome. `units`: by place, one of all that a unit holds, whatever the order of its
    records. `largest`: the most records of one unit.

    >>> contents = Contents()
    >>> contents.add(Batch(torch.tensor([[1.0], [2.0], [1.0]]), torch.zeros(3), (7, 8), (2, 1)))
    >>> contents.largest, contents.features[0] == contents.features[2], len(contents.kept([7, 8], most=1))
    (2, True, 1)
    """

    features: list[bytes] = field(default_factory=list)
    units: dict[int, bytes] = field(default_factory=dict)
    largest: int = 0

    def add(self, batch: Batch) -> None:
        """Take in whole units."""
        features, labels = _digests(batch.x), _digests(batch.y)
        self.features += features
        record = 0
        for unit, count in zip(batch.units, batch.counts or (1,) * len(batch.units), strict=True):
            own = slice(record, record + count)
            both = sorted(x + y for x, y in zip(features[own], labels[own], strict=True))
            self.units[unit] = hashlib.blake2b(b"".join(both), digest_size=32).digest()
            self.largest = max(self.largest, count)
            record += count

    def kept(self, usable: Sequence[int], most: int) -> list[int]:
        """At most `most` of the units at the places `usable`, sorted: which ones follows from what they hold alone."""
        return sorted(sorted(usable, key=self.units.__getitem__)[:most])


def _digests(values: Tensor) -> list[bytes]:
    """One of each row."""
    plain = values.detach().cpu()  # once, before any round
    rows = (plain.float() if plain.dtype is torch.bfloat16 else plain).numpy()
    return [content_of(np.asarray(row)) or b"" for row in rows]
