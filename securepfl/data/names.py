"""Names of hospitals and patients: one spelling each, and which two would look alike."""

import unicodedata
from collections.abc import Iterable
from types import MappingProxyType

from securepfl.data.values import shown, written_out

_UNSAID = frozenset(("na", "n/a", "<na>", "nan", "none", "null", "nil", "nat", "unknown", "?", "-", "--", ".", "#n/a"))

_LATIN = MappingProxyType(
    str.maketrans(
        "авекмнорстухіјѕһԁԛԝ" + "αβεζηικμνορτυχ" + "ı" + "‐‑‒–—−" + "’‘ʼ´`",
        "abekmhopctyxijshdqw" + "abezhikmvoptux" + "i" + "------" + "'''''",
    )
)
"""Cyrillic and Greek letters (lower case, by the look of either case), dashes and apostrophes, by their Latin likes."""


def composed(name: str) -> str:
    """The one spelling of a name: Unicode's composed form (NFC), trimmed.

    >>> composed("Ko\\u0308ln ") == "K\\u00f6ln"
    True
    """
    return unicodedata.normalize("NFC", name).strip()


def look(name: str) -> str:
    """Equal for two names that a reader would take for one: alike but for case, spaces, marks that are not seen, and
    letters of other scripts that look Latin.

    >>> look("St. Anna") == look("st.anna") == look("St.\\u00a0\\u0410nna\\u200b")
    True
    """
    if name.isascii() and name.isprintable():
        return name.lower().replace(" ", "").translate(_LATIN)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    seen = "".join(mark for mark in folded if unicodedata.category(mark)[0] not in "CZ" and not mark.isspace())
    return seen.translate(_LATIN)


def alike(names: Iterable[str]) -> tuple[str, str] | None:
    """Two different names that look alike, or None.

    >>> alike(["north", "south", "North"])
    ('north', 'North')
    """
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(look(name), name)
        if first != name:
            return first, name
    return None


def spelled_out(name: str) -> str:
    """A name for a message about its look: what is no Latin letter stands by its number.

    >>> spelled_out("n\u043erth") == "`n" + chr(92) + "u043erth`"
    True
    """
    latin = (mark if mark.isascii() or "LATIN" in unicodedata.name(mark, "") else written_out(mark) for mark in name)
    return shown("".join(latin))


def unsaid(name: str) -> bool:
    """Whether a text says that there is no name: "NA", "null", "?".

    >>> unsaid("N/A"), unsaid("Nantes")
    (True, False)
    """
    return name.lower() in _UNSAID
