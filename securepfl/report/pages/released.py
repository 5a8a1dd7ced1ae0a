"""Metrics that were released with differential privacy: the only ones of the page that may leave the hospitals."""

from securepfl.report.pages.blocks import Section, Table, Text
from securepfl.report.pages.reading import Run
from securepfl.report.released import released_note, released_rows


def released_section(run: Run, key: str) -> Section | None:
    """None where none were released."""
    found = run.result.released
    if found is None:
        return None
    rows = tuple(released_rows(found))
    note = Text(released_note(found))
    if not rows:
        return Section(f"{key}released", "Released metrics", (note,))
    headings = ("outcome", "figure", "value", f"{100 * found.get('level', 0.95):.0f} % interval")
    table = Table("Noisy figures, charged to the ledgers", headings, rows, name="released.csv", key=f"{key}released-t")
    may = Text("These may be passed on; no other metric of this page may.") if found["may_leave"] else None
    return Section(f"{key}released", "Released metrics", (table, note, *([may] if may else [])))
