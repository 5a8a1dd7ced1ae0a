"""Which decimal mark a file's numbers have, where nobody declared one: hospitals of one federation differ in that too.

A comma is taken for the mark only where the numbers show it. "1,5" and "0,125" have no other meaning, while "1,234" may
be a thousand, so such cells alone decide nothing. A file that shows neither mark or both is read with a point, and a
cell that then is no number is refused: no stray cell changes what others mean.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow.compute as pc

_COMMA = r"^\s*[+\x{2212}-]?([0-9]*,([0-9]{1,2}|[0-9]{4,})|0*,[0-9]+)\s*$"
_EITHER = r"^\s*[+\x{2212}-]?[1-9][0-9]{0,2},[0-9]{3}\s*$"
_POINT = r"^\s*[+\x{2212}-]?[0-9]*\.[0-9]+\s*$"


def decimal_of(columns: Iterable[Any]) -> str:
    """ "," where arrow arrays of texts, the numeric columns of one file, show a decimal comma; else ".".

    >>> import pyarrow as pa
    >>> [decimal_of([pa.array(texts)]) for texts in (["10,5", "7"], ["1,234", "7"], ["10,5", "9.5"])]
    [',', '.', '.']
    """
    shown = np.zeros(3, dtype=np.int64)
    for texts in columns:
        shown += [pc.sum(pc.match_substring_regex(texts, mark)).as_py() or 0 for mark in (_COMMA, _EITHER, _POINT)]
    commas, either, points = shown
    return "," if commas > either and not points else "."
