"""By what rows of a table are known again: digests of their cells, the same from any file that holds them.

A cell counts as the number that it is, else as its text, so that separators, quotes, decimal marks, the order of
columns and the kind of file make no difference. Digests are not keyed: they stay in memory.
"""

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

if TYPE_CHECKING:
    from securepfl.data.cells import Cells, Columns


def digests_of(columns: "Columns") -> NDArray[Any]:
    """32 bytes for each row, over the names and cells of `columns` in any order, [rows] (dtype object).

    >>> from securepfl.data.cells import Cells
    >>> one = digests_of({"age": Cells.of(["61.0"]), "sex": Cells.of(["f"])})
    >>> one[0] == digests_of({"sex": Cells.of([" f"]), "age": Cells.of([61])})[0]
    True
    """
    names = sorted(columns)
    start = hashlib.blake2b("\x1e".join(names).encode(), digest_size=32)
    texts = [_plain(columns[name]) for name in names]
    joined = pc.binary_join_element_wise(*texts, "\x1f", null_handling="replace", null_replacement="")
    found = []
    for text in joined.to_pylist():
        one = start.copy()
        one.update(text.encode())
        found.append(one.digest())
    return np.array(found, dtype=object)


def _plain(cells: "Cells") -> Any:
    """Each cell's number in its one spelling, else its text, null where nothing is recorded."""
    numbers = pa.array(cells.numbers, from_pandas=True).cast(pa.string())
    return pc.coalesce(numbers, cells.texts.cast(pa.string()))
