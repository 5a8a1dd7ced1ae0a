"""All settings and versions, folded away."""

from collections.abc import Iterator, Mapping
from typing import Any

from securepfl.report.pages.blocks import Fold, Section, Table, Text
from securepfl.report.pages.reading import Run


def settings_section(run: Run, key: str) -> Section:
    """Every setting by its path, and what the run was made with."""
    rows = tuple(flat(run.settings).items())
    table = Table("Settings", ("key", "value"), rows, name="settings.csv", words=True, key=f"{key}settings-table")
    versions = tuple(run.result.versions.items())
    made = Table("Versions", ("package", "version"), versions, words=True, key=f"{key}versions")
    digest = Text(f"Digest of the settings: {run.settings.get('digest', 'not in this file')}")
    return Section(
        f"{key}settings",
        "Settings and versions",
        (Fold(f"{len(rows)} settings, and versions", (digest, table, made)),),
    )


def flat(settings: Mapping[str, Any]) -> dict[str, str]:
    """Keys as paths, without those that nobody set and the digest.

    >>> flat({"rounds": 3, "privacy": {"epsilon": 4.0, "budget": None}, "digest": "ab"})
    {'rounds': '3', 'privacy.epsilon': '4.0'}
    """
    return dict(_flat("", {key: value for key, value in settings.items() if key != "digest"}))


def _flat(path: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, held in value.items():
            yield from _flat(f"{path}.{key}" if path else str(key), held)
    elif isinstance(value, list):
        if value:
            yield path, ", ".join(map(str, value))
    elif value not in (None, ""):
        yield path, str(value)
