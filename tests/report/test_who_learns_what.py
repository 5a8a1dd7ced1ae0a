"""The table of who could learn what says what docs/threat-model.md says, for the settings of one run."""

import re
from pathlib import Path

from securepfl.report.evidence.markdown import plain
from securepfl.report.who_learns_what import PARTIES, who_learns, words_of
from securepfl.settings.federation import Federation
from securepfl.settings.tables import SiteSettings

PAGE = Path(__file__).parents[2] / "docs" / "threat-model.md"
SITES = dict.fromkeys(("north", "south", "west", "east"), SiteSettings(units=40))


ORDER = (
    "records of patients", "one hospital's shared update", "sum of updates", "personal parameters",
    "how alike hospitals are", "how many patients there really are", "released metrics", "released models",
)  # fmt: skip
"""The rows in the order of the page."""


def told(*, seeded=False, **tables):
    federation = Federation(sites=SITES)
    for name, changes in tables.items():
        federation = federation.changed(name, **changes)
    return {row.thing: dict(zip(PARTIES, row.cells, strict=True)) for row in who_learns(federation, seeded=seeded)}


def documented():
    """The cells of the page's table, without the numbers of their tests."""
    part = PAGE.read_text().split("## Who learns what")[1].split("Hospitals share")[0]
    lines = [line for line in part.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    numbers = re.compile(r"[\u00b9\u00b2\u00b3\u2070-\u2079]")
    return [[numbers.sub("", cell).strip() for cell in line.split("|")[2:-1]] for line in lines]


def test_each_cell_says_no_where_the_page_does():
    """Of a run with all that the page's table is about: compared, coupled, with released models and metrics."""
    asked = {"release": {"experts": True, "metrics": True}, "similarity": {"every": 1}, "coupling": {"strength": 0.5}}
    found, page = told(**asked), documented()
    assert list(found) == list(ORDER) and len(page) == len(ORDER)
    for (thing, cells), written in zip(found.items(), page, strict=True):
        for (party, cell), words in zip(cells.items(), written, strict=True):
            if thing == "personal parameters" and party == "whoever gets what was released":
                continue  # by default an expert is the last round's model, as the page says below its table
            assert cell.startswith("no") is bool(re.match("no[ ;:]|no$|which", words.split("unmasked: ")[-1])), (
                thing,
                party,
                cell,
                words,
            )


def test_nothing_encrypted_is_told_wherever_the_coordinator_reads():
    clear = told(encryption={"scheme": "none"})
    assert clear["one hospital's shared update"]["coordinator"].startswith("yes, a DP release")
    assert told()["one hospital's shared update"]["coordinator"] == "no"
    assert clear["sum of updates"]["coordinator"].startswith("yes") and told()["sum of updates"]["coordinator"] == "no"


def test_masks_hide_a_hospital_unless_sketches_show_it():
    both, one = "coordinator with one hospital", "one hospital's shared update"
    masks = {"masking": "pairwise"}
    off = {"similarity": {"every": 0}, "coupling": {"strength": 0.0}}
    assert told(**off)[one][both] == "yes, a DP release"
    assert told(**off, encryption=masks)[one][both].startswith("no: masks hide it")
    accepted = Federation.from_mapping(
        {
            "encryption": masks,
            "similarity": {"every": 2, "beside_masks": True},
            "sites": {n: {"units": 40} for n in SITES},
        }
    )
    assert who_learns(accepted)[1].cells[2].startswith("its sketch shows it")


def test_what_is_off_is_said_to_be():
    off = told(similarity={"every": 0}, coupling={"strength": 0.0})
    assert set(off["how alike hospitals are"].values()) == {"nothing is compared"}
    assert off["personal parameters"]["another hospital"].startswith("no")
    assert set(off["released models"].values()) == {"none is released"}
    assert told(release={"experts": True})["released models"]["whoever gets what was released"].startswith("yes")


def test_a_known_seed_or_no_noise_is_no_release_that_a_ledger_counts():
    asked, both = {"release": {"experts": True}, "encryption": {"scheme": "none"}}, "coordinator with one hospital"
    seeded = told(**asked, seeded=True)
    assert not any("DP release" in cell for cells in seeded.values() for cell in cells.values())
    assert set(seeded["released models"].values()) == {"none is released"}
    bare = told(**asked, privacy={"protection": "none"})
    assert bare["one hospital's shared update"][both] == "yes, unprotected"
    assert bare["released models"]["whoever gets what was released"] == "yes, each unprotected"
    federation = Federation(sites=SITES)
    assert len({words_of(federation), words_of(federation, seeded=True),
                words_of(federation.changed("privacy", protection="none"))}) == 3  # fmt: skip


def test_text_from_outside_makes_no_link_image_html_or_cell():
    assert plain("a|b <i> [x](y) ![z](w)\n`c`\u202e") == "a\\|b &lt;i> \\[x\\](y) \\!\\[z\\](w) \\`c\\` "
