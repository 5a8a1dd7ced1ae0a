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


def guess_text(epsilon: float, delta: float) -> str:
    """How often the best attacker is right who guesses whether one unit was in, which it was as often as not:
    (e^epsilon + delta) / (e^epsilon + 1) (Kairouz, Oh and Viswanath 2015, theorem 2.1).

    A limit, so rounded up. verify_evidence.py, which imports nothing of this, says the same in `words`.

    >>> guess_text(0.0, 0.0), guess_text(4.0, 1e-5), guess_text(800.0, 1e-5)
    ('0.5000', '0.9821', '1.0000')
    """
    return f"{math.ceil(1e4 - 1e4 * (1 - delta) / (1 + math.exp(min(epsilon, 700)))) / 1e4:.4f}"


def budget_text(budget: float | None) -> str:
    """For a table; a run without protection has none."""
    return "none" if budget is None else f"{budget:g}"


def is_protected(result: dict[str, Any]) -> bool:
    """Whether the run of a result.json trained with noise."""
    return bool(result["federation"]["privacy"].get("protection", "dp") == "dp")


def alone_title(result: dict[str, Any]) -> str:
    """What stands over the models that hospitals trained alone."""
    return "local, same epsilon" if is_protected(result) else "local"
