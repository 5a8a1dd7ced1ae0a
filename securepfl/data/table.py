"""One site's rows as arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False, kw_only=True)
class Table:
    """One site's rows, scaled as declared: records of a table, or images.

    `features` float32 [n, d] in the order of `DataSpec.feature_names`, finite and within the declared limits; of images
    [n, channels, height, width]. `labels` as `DataSpec.read_labels` gives them, or None where unlabelled; of a
    segmentation uint8 [n, 2, height, width], the structure and what is scored (the field of view), each 0 or 1.
    `patients` texts (dtype object) [n], or None; `rows` int64 [n], each row's number in its file; `held_out` bool [n],
    which rows a declared column tests on, or None; `known` digests [n] by which each row is known again, by their kind.
    `ids` texts (dtype object) [n], the rows' own names where they have some (of an image its path in the folder of
    images, without the ending), or None; `sizes` int64 [n, 2], an image's own height and width in pixels, or None.
    Raises ValueError where shapes differ.
    """

    site: str
    features: NDArray[np.float32] = field(repr=False)
    labels: NDArray[Any] | None = field(repr=False)
    patients: NDArray[Any] | None = field(repr=False)
    rows: NDArray[np.int64] = field(repr=False)
    held_out: NDArray[np.bool_] | None = field(default=None, repr=False)
    known: Mapping[str, NDArray[Any]] = field(default_factory=dict, repr=False)
    ids: NDArray[Any] | None = field(default=None, repr=False)
    sizes: NDArray[np.int64] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.features.ndim not in (2, 4):
            raise ValueError(
                f"features must have shape [n, d] or [n, channels, height, width], not {list(self.features.shape)}"
            )
        most = {"labels": self.features.ndim, "sizes": 2}
        for name in ("labels", "patients", "rows", "held_out", "ids", "sizes"):
            column = getattr(self, name)
            if column is not None and (len(column) != len(self.features) or column.ndim > most.get(name, 1)):
                raise ValueError(f"{name} must have shape [{len(self.features)}], not {list(column.shape)}")

    def __len__(self) -> int:
        return len(self.features)

    def select(self, index: NDArray[Any]) -> "Table":
        """The rows at `index` (positions or a boolean mask), as a table."""
        return Table(
            site=self.site,
            features=self.features[index],
            labels=None if self.labels is None else self.labels[index],
            patients=None if self.patients is None else self.patients[index],
            rows=self.rows[index],
            held_out=None if self.held_out is None else self.held_out[index],
            known={kind: digests[index] for kind, digests in self.known.items()},
            ids=None if self.ids is None else self.ids[index],
            sizes=None if self.sizes is None else self.sizes[index],
        )
