"""Names as people write them: the one spelling of each, which two look alike, and how one stands in a message."""

import difflib
import re
import unicodedata
from collections.abc import Iterable
from types import MappingProxyType

_SHOWN = 40
_NEAR = 0.75
"""How alike, as difflib counts, a slip and what is meant are at least."""
_UNSAID = frozenset(("na", "n/a", "<na>", "nan", "none", "null", "nil", "nat", "unknown", "?", "-", "--", ".", "#n/a"))

_LATIN = MappingProxyType(
    str.maketrans(
        "авекмнорстухіјѕһԁԛԝӏ" + "αβεζηικμνορτυχ" + "ı" + "‐‑‒–—−" + "’‘ʼ´`" + "“”„″",
        "abekmhopctyxijshdqwl" + "abezhikmvoptux" + "i" + "------" + "'''''" + '""""',
    )
)
"""Cyrillic and Greek letters (lower case, by the look of either case), dashes and quotes, by their Latin likes."""

_UNSEEN = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Marks of no look of their own that Unicode counts as letters or accents."""

_DOT = re.compile(r"(?<![0-9])\.|\.(?![0-9])")
_NUMBER = re.compile(r"0*([0-9]+)(\.0+)?")


def composed(name: str) -> str:
    """The one spelling of a name: Unicode's composed form (NFC), trimmed.

    >>> composed("Ko\\u0308ln ") == "K\\u00f6ln"
    True
    """
    return unicodedata.normalize("NFC", name).strip()


def near(name: str, known: Iterable[str]) -> str | None:
    """The one of `known` names that `name` is likely a slip of; None where none is near.

    >>> near("epsilom", ["epsilon", "delta"]), near("max hart rate", ["age", "Max heart rate"]), near("x", ["age"])
    ('epsilon', 'Max heart rate', None)
    """
    folded_names = {folded(each): each for each in known}
    found = difflib.get_close_matches(folded(name), folded_names, n=1, cutoff=_NEAR)
    return folded_names[found[0]] if found else None


def look(name: str) -> str:
    """Equal for two names that a reader would take for one: alike but for case, spaces, dots that part no digits, marks
    that are not seen, letters of other scripts that look Latin, and for numbers their digits' script and zeros.

    >>> look("St. Anna") == look("st anna.") == look("St.\\u00a0\\u0410nna\\u200b")
    True
    >>> look("7") == look("007") == look("7.0") == look("\\u0667"), look("ward 1.1") == look("ward 11")
    (True, False)
    """
    plain = _DOT.sub("", folded(name))
    number = _NUMBER.fullmatch(plain)
    return number[1] if number else plain


def folded(name: str) -> str:
    """A name in small letters, without blanks and unseen marks, other scripts' letters by their Latin likes.

    >>> folded("St. \\u0410nna\\u200b")
    'st.anna'
    """
    seen = name.lower() if name.isascii() and name.isprintable() else _seen(name)
    return seen.replace(" ", "").translate(_LATIN)


def _seen(name: str) -> str:
    """A name in small letters, accents apart from their letters, digits as Latin ones, without what has no look."""
    folded = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", name).casefold()).replace("i\u0307", "i")
    kept = (mark for mark in _UNSEEN.sub("", folded) if unicodedata.category(mark)[0] not in "CZ")
    return "".join(str(unicodedata.decimal(mark, mark)) for mark in kept)


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


def shown(name: str) -> str:
    """A label or a name for a one-line message: cut, and with what a terminal would not show written out.

    >>> shown("yes")
    '`yes`'
    """
    cut = name if len(name) <= _SHOWN else f"{name[: _SHOWN - 3]}..."
    return f"`{''.join(mark if mark.isprintable() else written_out(mark) for mark in cut)}`"


def written_out(mark: str) -> str:
    """A mark by its number in Unicode."""
    return mark.encode("unicode_escape").decode("ascii")
