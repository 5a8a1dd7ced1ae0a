"""An epsilon for people, and for JSON, which holds no infinity: where none holds, that is said."""

import math
from typing import Any, Final

NO_PRIVACY: Final = "no privacy"


def finite(epsilon: float) -> float | None:
    """For JSON: None where no epsilon holds."""
    return epsilon if math.isfinite(epsilon) else None


def epsilon_text(epsilon: float | None, form: str = ".3f") -> str:
    """For a table or a line.

    >>> epsilon_text(0.5), epsilon_text(None), epsilon_text(math.inf)
    ('0.500', 'no privacy', 'no privacy')
    """
    return NO_PRIVACY if epsilon is None or math.isinf(epsilon) else f"{epsilon:{form}}"


def budget_text(budget: float | None) -> str:
    """For a table; a run without protection has none."""
    return "none" if budget is None else f"{budget:g}"


def is_protected(result: dict[str, Any]) -> bool:
    """Whether the run of a result.json trained with noise."""
    return bool(result["federation"]["privacy"].get("protection", "dp") == "dp")


def alone_title(result: dict[str, Any]) -> str:
    """What stands over the models that hospitals trained alone."""
    return "local, same epsilon" if is_protected(result) else "local"
