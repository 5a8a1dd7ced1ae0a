"""A run's notes by what they weigh: what forbids to publish it first, what limits it next, trivia last."""

from collections.abc import Sequence
from dataclasses import dataclass

from securepfl.report.pages.reading import Run

_PRIVATE = (
    "These figures are exact functions of this hospital's own rows: epsilon doesn't cover them, so they are not for "
    "publication"
)


@dataclass(frozen=True)
class Weighed:
    """Notes, each once."""

    forbids: tuple[str, ...]
    limits: tuple[str, ...]
    detail: tuple[str, ...]


def weighed(run: Run, contradictions: Sequence[str] = ()) -> Weighed:
    """The notes of a run. One whose weight the file doesn't hold limits it; where ledgers contradict it, all is off."""
    weights = run.result.weights if len(run.result.weights) == len(run.result.notes) else []
    notes = list(zip(run.result.notes, weights or ["limits"] * len(run.result.notes), strict=True))
    private = [*contradictions, *([_PRIVATE] if run.alone else [])]
    if run.alone and run.seeded:
        private.append("Rehearsed with a known seed: whoever knows it can subtract the noise, so it protects nobody")
    if run.result.ended:
        notes.insert(0, (f"the run ended early: {run.result.ended}", "limits"))
    names = set(run.result.sites)
    forbids, limits, detail = (
        tuple(_sentence(note, names) for note in found)
        for found in ([*private, *_of(notes, "forbids")], _of(notes, "limits"), _of(notes, "detail"))
    )
    return Weighed(forbids, limits, detail)


def _of(notes: list[tuple[str, str]], weight: str) -> list[str]:
    return list(dict.fromkeys(note for note, its in notes if its == weight))


def _sentence(note: str, names: set[str]) -> str:
    """With a capital where it begins with a word, and no hospital's name, and with a full stop.

    >>> _sentence("north: has one class", {"north"}), _sentence("seeded: it can be repeated", {"north"})
    ('north: has one class.', 'Seeded: it can be repeated.')
    """
    named = not names.isdisjoint(note.split(":", 1)[0].split(", "))
    text = note if named or not note[:1].isalpha() else note[0].upper() + note[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
