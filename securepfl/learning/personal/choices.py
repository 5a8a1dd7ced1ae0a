"""The words for what is personal, where a setting names a rule. Without torch, so that settings load fast."""

from typing import Literal

Rule = Literal["auto", "intercept", "head", "adapters"]
RULES: tuple[Rule, ...] = ("auto", "intercept", "head", "adapters")
