"""The audit record of a released expert as it was written: who signed it could have written anything there."""

import math
from collections.abc import Mapping
from typing import Any, Final, get_args

from securepfl.privacy.accounting.events import Unit

KINDS: Final = ("personal", "finetuned", "shared", "cluster")
_LONGEST: Final = 255


def check_record(record: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError for a record of another form: it is shown to readers, as in cards.

    >>> check_record({"expert": "hope"})
    Traceback (most recent call last):
    ValueError: expert
    """
    _require("expert", record["expert"] in KINDS)
    _require("site", _is_name(record["site"]))
    _require("hospitals", all(map(_is_name, record.get("hospitals") or ())))
    _require("federation", isinstance(record["federation"], str))
    _require("unit", record["unit"] in get_args(Unit))
    _require("rounds", _is_number(record["rounds"]) and record["rounds"] == int(record["rounds"]))
    _require("epsilon", record["epsilon"] is None or _is_number(record["epsilon"]))
    _require("delta", record.get("delta") is None or (_is_number(record["delta"]) and record["delta"] < 1))
    _require("simulation", isinstance(record.get("simulation", False), bool))


def _require(key: str, holds: bool) -> None:
    if not holds:
        raise ValueError(key)


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= _LONGEST and value.isprintable()


def _is_number(value: object) -> bool:
    """Whether `value` is a finite number from 0 on that a float can hold."""
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and 0 <= value < 1e300 and math.isfinite(value)  # type: ignore[operator,arg-type]
