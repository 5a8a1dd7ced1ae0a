"""The page: one file that needs no network, no script and no other file, of one run or of several side by side."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from securepfl.errors import ConfigError
from securepfl.report.pages.blocks import Section
from securepfl.report.pages.comparing import comparison_sections
from securepfl.report.pages.curves import curves_section
from securepfl.report.pages.curves_by_part import parts_section
from securepfl.report.pages.curves_of_numbers import numbers_section
from securepfl.report.pages.learners import learners_section
from securepfl.report.pages.ledgers import Checked, checked_ledgers, contradictions, ledgers_section
from securepfl.report.pages.plain import visible
from securepfl.report.pages.privacy import privacy_section
from securepfl.report.pages.reading import Routed, Run, read_any
from securepfl.report.pages.released import released_section
from securepfl.report.pages.results import models_of, results_section
from securepfl.report.pages.rounds import rounds_section
from securepfl.report.pages.routed import routed_section
from securepfl.report.pages.sentences import Sentence, verdict_of
from securepfl.report.pages.settings import settings_section
from securepfl.report.pages.similarity import similarity_section
from securepfl.report.pages.traffic import traffic_section
from securepfl.report.pages.warnings import Weighed, weighed

PAGE: Final = "report.html"
MOST_BYTES: Final = 2_000_000
GENERATOR: Final = "securepfl report"
"""What the page names as its maker."""
MOST_RUNS: Final = 20


@dataclass(frozen=True)
class Verdict:
    """Of one run: what it is called, what it is, three sentences, and its notes."""

    name: str
    what: str
    sentences: tuple[Sentence, ...]
    notes: Weighed


@dataclass(frozen=True)
class Page:
    """All that the template shows."""

    title: str
    about: str
    verdicts: tuple[Verdict, ...]
    sections: tuple[Section, ...]

    @property
    def forbids(self) -> tuple[str, ...]:
        """What forbids to publish some of it, once; of whom, where it isn't all."""
        found: dict[str, list[str]] = {}
        for verdict in self.verdicts:
            for note in verdict.notes.forbids:
                found.setdefault(note, []).append(verdict.name)
        every = len(self.verdicts)
        return tuple(note if len(whose) == every else f"{', '.join(whose)}: {note}" for note, whose in found.items())

    def to_mapping(self) -> dict[str, Any]:
        """The verdicts and warnings, for `--json`."""
        return {
            "title": self.title,
            "runs": [
                {
                    "name": verdict.name,
                    "what": verdict.what,
                    "verdict": {sentence.asks: sentence.answer for sentence in verdict.sentences},
                    "forbids": list(verdict.notes.forbids),
                    "limits": list(verdict.notes.limits),
                    "detail": list(verdict.notes.detail),
                }
                for verdict in self.verdicts
            ],
            "sections": [section.title for section in self.sections],
        }

    def html(self) -> str:
        """The file."""
        return _environment().get_template("page.html").render(page=self, generator=GENERATOR)


def read_page(folders: Sequence[Path], name: str | None = None) -> Page:
    """The page of the runs, and answers to unseen rows, in `folders`. `name`: what the only one, of an answer, will be
    called. Raises ConfigError for a folder without a run that has ended, and for too many.
    """
    if len(folders) > MOST_RUNS:
        raise ConfigError(f"{len(folders)} folders: at most {MOST_RUNS} fit side by side; name fewer")
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        twice = next(folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1)
        raise ConfigError(f"{twice}: is named twice; name each folder once")
    found = [read_any(folder) for folder in folders]
    runs = [one for one in found if isinstance(one, Run)]
    answers = [one for one in found if isinstance(one, Routed)]
    names = _names(runs)
    ledgers = [checked_ledgers(run) for run in runs]
    if len(runs) == 1:
        sections = _of_one(runs[0], ledgers[0])
    else:
        sections = comparison_sections(runs, names, ledgers) if runs else []
    room = MOST_BYTES // 2 // max(1, len(answers))
    routed = [
        routed_section(answer, name or answer.folder.name, f"r{number}", room)
        for number, answer in enumerate(answers, start=1)
    ]
    place = max(0, len(sections) - 1) if runs else 0
    verdicts = tuple(
        Verdict(name, _what(run), verdict_of(run, held), weighed(run, contradictions(run, held)))
        for run, name, held in zip(runs, names, ledgers, strict=True)
    )
    title = names[0] if len(runs) == 1 else f"{len(runs)} runs side by side" if runs else "Answers to unseen rows"
    about = _what(runs[0]) if len(runs) == 1 else ""
    return Page(title, about, verdicts, (*sections[:place], *routed, *sections[place:]))


def _names(runs: Sequence[Run]) -> list[str]:
    """What runs are called beside each other: the federation's name, with as much of the folder's path as tells apart
    those that have the same.
    """
    names, places = [run.name for run in runs], [run.folder.resolve().parts for run in runs]
    if len(set(names)) == len(names):
        return names
    parts = next(n for n in range(1, 1 + max(map(len, places))) if len({place[-n:] for place in places}) == len(places))
    return [
        name if names.count(name) == 1 else f"{name} ({'/'.join(place[-parts:])})"
        for name, place in zip(names, places, strict=True)
    ]


def _of_one(run: Run, ledgers: Mapping[str, Checked]) -> list[Section]:
    sections: Iterable[Section | None] = (
        results_section(run, ""),
        released_section(run, ""),
        curves_section(run, models_of(run), ""),
        parts_section(run, models_of(run), ""),
        numbers_section(run, models_of(run), ""),
        rounds_section(run, ""),
        privacy_section(run, ledgers, ""),
        learners_section(run, ""),
        similarity_section(run, ""),
        traffic_section(run, ""),
        ledgers_section(run, dict(ledgers), ""),
        settings_section(run, ""),
    )
    return [section for section in sections if section is not None]


def _what(run: Run) -> str:
    """A line below the title: what kind of run, of whom, how long, when."""
    result = run.result
    rounds = result.rounds if result.rounds is not None else run.settings.get("rounds", "?")
    if run.alone:
        kind = f"{'Rehearsal' if run.seeded else 'Simulated run' if result.simulation else 'Run'} at {result.site}"
    else:
        kind = f"Simulation of {len(result.sites)} hospitals"
    date = f", {result.written[:10]}" if result.written else ""
    task = "yes or no" if result.task == "binary" else result.task
    count = f"{rounds} round{'' if rounds == 1 else 's'}"
    return f"{kind}, {count}, task: {task}{date}"


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("securepfl.report.pages"),
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
