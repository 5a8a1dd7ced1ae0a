"""The documents tell the truth where a test can check it."""

import dataclasses
import re
import tomllib
from pathlib import Path

import msgspec

from securepfl.data.schema import DataSpec, Range, Split
from securepfl.settings.federation import Federation
from securepfl.settings.tables import SiteSettings

ROOT = Path(__file__).resolve().parents[1]


def blocks():
    text = (ROOT / "docs" / "configuration.md").read_text()
    return [tomllib.loads(block) for block in re.findall(r"```toml\n(.*?)```", text, re.DOTALL)]


def test_the_documented_settings_are_all_of_them_with_their_defaults():
    settings = blocks()[0]
    sites, budget = settings.pop("sites"), settings["privacy"].pop("budget")
    assert sites["north"].keys() == {field.name for field in msgspec.structs.fields(SiteSettings)} and budget == 4.0
    plain = msgspec.to_builtins(Federation())
    for name in ("sites", "data", "shape"):
        plain.pop(name)
    plain["privacy"].pop("budget")
    assert plain["privacy"].pop("normaliser") is None, "TOML has no null: it stands there as a comment"
    assert plain["encryption"].pop("mask_degree") is None, "TOML has no null: it stands there as a comment"
    assert plain["model"].pop("task") is None, "binary, but for a pipeline's own loss: it stands there as a comment"
    assert plain["model"].pop("adapters") is None, "TOML has no null: it stands there as a comment"
    assert settings == plain


def test_the_documented_data_keys_are_all_of_them():
    data = blocks()[1]["data"]
    assert data.keys() == {field.name for field in dataclasses.fields(DataSpec)}
    keys = {field.name for field in dataclasses.fields(Range)}
    assert set().union(*data["ranges"].values()) == keys
    assert Split(**data["split"]) == Split()


def test_links_between_documents_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_tests_that_the_threat_model_names_exist():
    text = (ROOT / "docs" / "threat-model.md").read_text()
    here = ""
    for path, test in re.findall(r"`(tests/[\w/]+\.py|\.\.\.)(?:::(\w+))?`", text):
        here = here if path == "..." else path
        source = (ROOT / here).read_text()
        assert not test or f"def {test}(" in source, f"{here}::{test}"
