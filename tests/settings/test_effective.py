"""Settings printed whole: read back, they are the same federation, and each value says where it is from."""

from pathlib import Path

import pytest

from securepfl.settings.effective import effective_toml
from securepfl.settings.federation import Federation
from securepfl.settings.presets import PRESETS
from securepfl.settings.reading import read_toml

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*/*.toml"))
ODD = """
name = "été \\"quoted\\" \\\\ #"
preset = "{preset}"
minimum = 2
[model]
kind = "logistic"
[privacy]
delta = 1e-7
budget = 30
[sites]
"Köln.West" = {{ units = 40, prevalence = 0.25, budget = 12.5 }}
"北 京" = {{ units = 400 }}
north = {{ units = 41 }}
south = {{ units = 42 }}
[data]
label = "größe"
positive = ["ja", 1]
negative = "nein"
patient = "id"
decimal = ","
[data.ranges]
"a.b [mm]" = {{ centre = 50, spread = 15, read_as = {{ "< 5" = 2.5 }} }}
[data.categories]
ward = ["surgery", "medicine"]
allergy = {{ levels = ["none", "mild"], empty = "none" }}
[data.files]
north = "nord est.csv"
"""


def printed(path, tmp_path, options=None, **changes):
    federation = Federation.read(path)
    if changes:
        federation = federation.changed("privacy", **changes)
    text = effective_toml(federation, read_toml(path), options or {})
    again = tmp_path / "again.toml"
    again.write_text(text, encoding="utf-8")
    return federation, Federation.read(again), text


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_example_is_the_same_federation_read_back(path, tmp_path):
    federation, again, text = printed(path, tmp_path)
    assert again.ceremony_digest == federation.ceremony_digest and again.digest.hex() in text and not again.auto


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_preset_and_odd_names_are_the_same_federation_read_back(preset, tmp_path):
    path = tmp_path / "odd.toml"
    path.write_text(ODD.format(preset=preset), encoding="utf-8")
    federation, again, text = printed(path, tmp_path)
    assert again.ceremony_digest == federation.ceremony_digest
    assert again.budget_of("Köln.West") == 12.5 and again.budget_of("north") == 30
    lines = dict(line.split(" = ", 1) for line in text.splitlines() if " = " in line)
    assert lines["bits"].endswith("preset few-bytes" if preset == "few-bytes" else "default")
    assert "#" not in lines["delta"] and lines["clip"].endswith("# chosen from what is declared")
    assert "# default" in lines["ward"] or lines["ward"] == '["surgery", "medicine"]'


def test_an_option_in_place_of_the_files_value_is_named(tmp_path):
    _, again, text = printed(EXAMPLES[-1], tmp_path, {"privacy.epsilon": "--epsilon"}, epsilon=2.5)
    assert again.privacy.epsilon == 2.5
    assert [line.split("# ")[1] for line in text.splitlines() if line.startswith("epsilon")] == ["--epsilon"]
