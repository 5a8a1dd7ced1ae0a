"""The threat table of an archive says what docs/threat-model.md says, for the settings of one run."""

import re
from pathlib import Path

from securepfl.report.evidence.markdown import plain
from securepfl.report.evidence.threats import PARTIES, who_learns
from securepfl.settings.federation import Federation
from securepfl.settings.tables import SiteSettings

PAGE = Path(__file__).parents[2] / "docs" / "threat-model.md"
SITES = dict.fromkeys(("north", "south", "west", "east"), SiteSettings(units=40))


def told(**tables):
    federation = Federation(sites=SITES)
    for name, changes in tables.items():
        federation = federation.changed(name, **changes)
    return {row.thing: dict(zip(PARTIES, row.cells, strict=True)) for row in who_learns(federation)}


def test_the_table_has_a_row_for_each_of_the_page():
    rows = re.findall(
        r"^\| ([a-z][^|]*?) \|", PAGE.read_text().split("## Who learns what")[1].split("Hospitals share")[0], re.M
    )
    assert len(rows) == len(told()) == 8


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


def test_text_from_outside_makes_no_link_image_html_or_cell():
    assert plain("a|b <i> [x](y) ![z](w)\n`c`\u202e") == "a\\|b &lt;i> \\[x\\](y) \\!\\[z\\](w) \\`c\\` "
