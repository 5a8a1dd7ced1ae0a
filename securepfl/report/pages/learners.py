"""Who could learn what in a run as it was configured: who_learns_what.py's table as a section of a page."""

from securepfl.errors import ConfigError
from securepfl.report.pages.blocks import Section, Table, Text
from securepfl.report.pages.reading import Run
from securepfl.report.who_learns_what import MORE, PARTIES, who_learns, words_of
from securepfl.settings.federation import Federation

_TITLE = "Who could learn what"


def learners_section(run: Run, key: str) -> Section:
    """Said where the file's settings aren't those that the run had: nothing is told of others."""
    try:
        federation = Federation.from_told(run.settings, "result.json")
    except ConfigError as error:
        return Section(f"{key}learners", _TITLE, (Text(f"That can't be told: {error}."),))
    where = (
        "All parties ran in one process, so its owner sees everything. Between machines of their own, these settings "
        "let an honest but curious party learn this:"
        if run.result.simulation and not run.alone
        else "An honest but curious party could learn this under these settings:"
    )
    rows = tuple((row.thing, *row.cells) for row in who_learns(federation, seeded=run.seeded))
    headings = ("what", *PARTIES)
    table = Table(
        "Each party, under these settings", headings, rows, name="learners.csv", words=True, key=f"{key}learners-table"
    )
    after = Text(f"{words_of(federation, seeded=run.seeded)} {MORE}", small=True)
    return Section(f"{key}learners", _TITLE, (Text(where), table, after))
