"""Patients' identifiers: which spellings are one patient, and which might be one and are refused.

A patient counted as two units has twice the epsilon that a ledger states. So what no numbering tells patients apart by
(invisible marks, kinds of blanks, hyphens and digits) has one spelling here, and two identifiers that differ only in
what an export may change (case, leading zeros, marks) are for people to decide. Tables and pipelines use this one rule.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np

from securepfl.errors import DataError
from securepfl.spelling import folded, unsaid

MARKS = "case, blanks, hyphens or other marks, leading zeros or look-alike letters"
"""In what two identifiers may differ that could be one patient's, for a message."""

LOSSY = "in the form that spreadsheets round long numbers to (1.2E+11); export it as text"
MERGED = "in a float type that cannot hold it exactly, so two patients' may be equal; store identifiers as text"
_HYPHENS = dict.fromkeys(map(ord, "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"), "-")
_WHOLE = re.compile(r"(-?[0-9]+)(\.0*)?")
_WHOLE_BY_COMMA = re.compile(r"(-?[0-9]+),0*")
_THOUSANDS = re.compile(r"(?<![0-9.])[0-9]{1,3}(\.[0-9]{3})+(?![0-9.])")
_EXPONENT = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?e\+[0-9]+", re.IGNORECASE)
_ZEROS = re.compile(r"(?<![0-9])0+(?=[0-9])")
_KINDS = (str, bytes, int, float, np.integer, np.floating, Decimal, UUID)
_NEGATIVE = re.compile(r"-[0-9]+")


def plain_identifier(text: str) -> str:
    """The one spelling of an identifier: trimmed, composed (NFC), one kind of blank, hyphen and digit, nothing unseen.

    A whole number stands without a decimal part.

    >>> plain_identifier(" P\\u20119\\u200b"), plain_identifier("\\uff17.0"), plain_identifier("A\\u00a0  1")
    ('P-9', '7', 'A 1')
    """
    if not (text.isascii() and text.isprintable()):
        text = "".join(map(_plain_mark, unicodedata.normalize("NFC", text).translate(_HYPHENS)))
        text = unicodedata.normalize("NFC", text)
    plain = " ".join(text.split())
    whole = _WHOLE.fullmatch(plain)
    return plain if whole is None else "0" if set(whole[1]) == {"-", "0"} else whole[1]


def _plain_mark(mark: str) -> str:
    kind = unicodedata.category(mark)
    if kind == "Nd":
        return str(unicodedata.decimal(mark))
    if "\uff01" <= mark <= "\uff5e":
        return unicodedata.normalize("NFKC", mark)
    if mark.isspace():
        return " "
    return "" if kind[0] == "C" or not folded(mark) else mark


def lossy(plain: str) -> bool:
    """Whether an identifier is a number as spreadsheets round it: of "1.23457E+11" the last digits are lost.

    >>> lossy("1.23457E+11"), lossy("12E5")
    (True, False)
    """
    return _EXPONENT.fullmatch(plain) is not None


def alike_before(plain: Iterable[str]) -> dict[int, int]:
    """For each place whose identifier might be an earlier one's patient: that earlier place.

    Two might be one patient's if they differ only in case, blanks, marks, leading zeros or letters of one look. Of a
    mark between digits the place counts and not the kind ("1-11" is 1/11 and not "11-1"), unless the other identifier
    has none at all. A single point may be a number's, and counts ("1.5" is not "15"), but where it parts thousands.

    >>> alike_before(["p-7", "q", "P007", "1-11", "11-1"]), alike_before(["1.5", "15", "010170-1234", "0101701234"])
    ({2: 0}, {3: 2})
    >>> alike_before(["12.345.678-5", "12345678/5"])
    {1: 0}
    """
    first: dict[str, int] = {}
    unmarked: dict[str, int] = {}
    marked: dict[str, int] = {}
    found = {}
    for place, identifier in enumerate(plain):
        key, bare = _keys(identifier)
        own, others = (unmarked, marked) if key == bare else (marked, unmarked)
        other = min(first.setdefault(key, place), others.get(bare, place))
        own.setdefault(bare, place)
        if other != place:
            found[place] = other
    return found


def told_by(plain: str) -> tuple[str, ...]:
    """What to keep of an identifier, so that one that might be the same patient's is known by `asked_by`, and no other:
    the rule of `alike_before` for identifiers that are never in one hand.

    >>> [bool({*told_by(one)} & {*asked_by(other)}) for one, other in (("007", "7"), ("A-1", "a 1"), ("1-11", "11-1"))]
    [True, True, False]
    >>> [bool({*told_by(one)} & {*asked_by(other)}) for one, other in (("01-1", "11"), ("11", "01-1"), ("1.5", "15"))]
    [True, True, False]
    """
    key, bare = _keys(plain)
    return (f"key {key}",) if key == bare else (f"key {key}", f"bare {bare}")


def asked_by(plain: str) -> tuple[str, ...]:
    """What an identifier is looked for by among `told_by` of others.

    >>> asked_by("7")
    ('key 7', 'bare 7')
    """
    key, bare = _keys(plain)
    return (f"key {key}", f"bare {bare}" if key == bare else f"key {bare}")


def also(more: int) -> str:
    """How many further pairs there are, for a message.

    >>> also(0), also(2)
    ('', ' (and 2 more are spelled so)')
    """
    return f" (and {more} more are spelled so)" if more else ""


def _keys(plain: str) -> tuple[str, str]:
    """What is equal for identifiers that might be one: with the marks that stand between digits, and without."""
    seen = _THOUSANDS.sub(lambda number: number[0].replace(".", ""), folded(plain))
    seen = whole[1] if (whole := _WHOLE_BY_COMMA.fullmatch(seen)) else seen
    sign = "-" if _NEGATIVE.fullmatch(seen) else ""
    kept = "".join(mark for place, mark in enumerate(seen) if _is_letter(mark) or _between_digits(seen, place))
    letters = "".join(mark if _is_letter(mark) else "-" for mark in kept)
    point = "." if kept.count(".") == 1 else ""
    bare = "".join(mark for mark in kept if _is_letter(mark) or mark == point)
    return sign + _ZEROS.sub("", letters or seen), sign + _ZEROS.sub("", bare or seen)


def _is_letter(mark: str) -> bool:
    """Whether a mark is a letter, a digit or an accent."""
    return mark.isalnum() or unicodedata.category(mark)[0] == "M"


def _between_digits(text: str, place: int) -> bool:
    return 0 < place < len(text) - 1 and text[place - 1].isdigit() and text[place + 1].isdigit()


def identified(identifiers: Sequence[Any]) -> list[str]:
    """The one spelling of each record's patient: texts, bytes in UTF-8, numbers of any type, or UUIDs.

    Equal numbers are equal however they are stored: 7, 7.0, "7". Raises DataError, naming records by their place from
    0 and never by what they hold, for one that names nobody or that its type cannot hold, and for two that might be one
    patient's.

    >>> identified([7, "7.0", " A 1"])
    ['7', '7', 'A 1']
    """
    spelled: dict[tuple[type, Any], str] = {}
    texts = []
    for place, identifier in enumerate(identifiers):
        try:
            key = (type(identifier), identifier)
            if key not in spelled:
                spelled[key] = _text_of(identifier)
            texts.append(spelled[key])
        except (TypeError, ValueError) as error:
            raise DataError(f"record {place} has a patient identifier {_reason(error)}") from None
    _refuse_alike(texts)
    return texts


def _reason(error: Exception) -> str:
    kind = "that names nobody, or of a type that cannot; name its patient by a text or number"
    return str(error) if isinstance(error, _UnfitError) else kind


class _UnfitError(ValueError):
    """What is wrong with one identifier."""


def _text_of(identifier: Any) -> str:
    if isinstance(identifier, bool | np.bool_) or not isinstance(identifier, _KINDS):
        raise TypeError
    if isinstance(identifier, float | np.floating):
        return _whole_or_short(identifier)
    if isinstance(identifier, bytes):
        identifier = identifier.decode("utf-8")
    text = plain_identifier(format(identifier, "f") if isinstance(identifier, Decimal) else str(identifier))
    if not text or unsaid(text):
        raise ValueError
    if lossy(text):
        raise _UnfitError(LOSSY)
    return text


def _whole_or_short(number: Any) -> str:
    if not math.isfinite(number):
        raise ValueError
    exact = 2 / float(np.finfo(number.dtype if isinstance(number, np.floating) else np.float64).eps)
    if abs(number) >= exact:
        raise _UnfitError(MERGED)
    return plain_identifier(str(number if isinstance(number, float) else number.item() if number % 1 == 0 else number))


def _refuse_alike(texts: Sequence[str]) -> None:
    different = list(dict.fromkeys(texts))
    alike = alike_before(different)
    if alike:
        place, other = next(iter(alike.items()))
        records = f"{texts.index(different[other])} and {texts.index(different[place])}"
        raise DataError(
            f"records {records} have patient identifiers that differ only in {MARKS}"
            f"{also(len(alike) - 1)}: write each patient's one way, or number patients anew"
        )
