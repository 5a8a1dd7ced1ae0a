"""A hospital's images as a table."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from securepfl.data.images.folders import Files
from securepfl.data.images.owners import Owners
from securepfl.data.images.reading import ReadImage
from securepfl.data.images.spec import ImageSpec
from securepfl.data.source import Source
from securepfl.data.table import Table


def table_of(
    site: str,
    images: Files,
    read: Sequence[ReadImage],
    labels: NDArray[Any] | None,
    owners: Owners | None,
    held_out: NDArray[np.bool_] | None = None,
) -> Table:
    """The table, in the order of `images`; its rows are numbered from 1."""
    return Table(
        site=site,
        features=np.stack([one.features for one in read]),
        labels=labels,
        patients=owners,
        rows=np.arange(1, len(read) + 1, dtype=np.int64),
        held_out=held_out,
        known={
            "pixels": np.array([one.pixels for one in read], dtype=object),
            "file": np.array([one.file for one in read], dtype=object),
        },
        ids=np.array(images.ids, dtype=object),
        sizes=np.array([one.size for one in read], dtype=np.int64),
    )


def labels_of(read: Sequence[ReadImage], index: Source | None, spec: ImageSpec) -> NDArray[Any] | None:
    """What is learned: masks where there are some, or the index's labels. Raises DataError."""
    if not spec.segments:
        return None if index is None else spec.read_labels(index)
    masks = [one.labels for one in read if one.labels is not None]
    return np.stack(masks) if masks else None


def tags_of(read: Sequence[ReadImage]) -> list[str | None]:
    """The DICOM element that was asked for, of each image."""
    return [one.tag for one in read]
