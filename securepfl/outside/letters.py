"""Names in a picture whose fonts are this machine's: which of them it can draw, and by which fonts."""

from functools import cache
from typing import Final

_FAMILIES: Final = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Zen Hei",
    "Droid Sans Fallback",
    "Microsoft YaHei",
    "Malgun Gothic",
    "PingFang SC",
    "Hiragino Sans",
    "Arial Unicode MS",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
)
"""The first comes with matplotlib; of the others those that are installed."""


def families() -> list[str]:
    """The fonts to draw names in: each letter by the first that has it."""
    return list(_installed())


def drawable(name: str) -> bool:
    """Whether each letter of `name` is in one of them.

    >>> drawable("Köln"), drawable("\U0010fffd")
    (True, False)
    """
    from matplotlib.font_manager import get_font  # noqa: PLC0415 - a second, and only pictures need it

    fonts = [get_font(path) for path in _installed().values()]
    return all(any(font.get_char_index(ord(letter)) for font in fonts) for letter in name if not letter.isspace())


@cache
def _installed() -> dict[str, str]:
    """Family and file."""
    from matplotlib.font_manager import fontManager  # noqa: PLC0415 - as above

    found = {entry.name: entry.fname for entry in fontManager.ttflist if entry.style == "normal"}
    return {family: found[family] for family in _FAMILIES if family in found}
