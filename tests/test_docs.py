"""The documents tell the truth where a test can check it."""

import dataclasses
import re
import tomllib

import msgspec
from pages import DOCS, PAGES, ROOT, blocks_of, name_of

from securepfl.data.columns import Range
from securepfl.data.declared_split import Split
from securepfl.data.images.spec import ImageSpec
from securepfl.data.schema import DataSpec
from securepfl.settings.federation import Federation
from securepfl.settings.presets import PRESETS, preset_notes
from securepfl.settings.tables import LassoSettings, SharedNoiseSettings, SiteSettings


def blocks():
    """The tables of docs/configuration.md, but the short example at its head."""
    found = [tomllib.loads(block.text) for block in blocks_of(DOCS / "configuration.md") if block.language == "toml"]
    return [block for block in found if "preset" not in block]


def test_the_documented_settings_are_all_of_them_with_their_defaults():
    settings = blocks()[0]
    sites, budget = settings.pop("sites"), settings["privacy"].pop("budget")
    assert sites["north"].keys() == {field.name for field in msgspec.structs.fields(SiteSettings)} and budget == 4.0
    plain = msgspec.to_builtins(Federation())
    for name in ("sites", "data", "shape", "auto"):
        plain.pop(name)
    plain["privacy"].pop("budget")
    for table, key in (("training", "learning_rate"), ("privacy", "clip"), ("encryption", "limit")):
        plain[table][key] = "auto"
    plain["rounds"] = "auto"
    # TOML has no null: these stand there as a comment, or as a table of their own.
    assert [plain.pop(name) for name in ("preset", "lasso", "shared_noise")] == [None] * 3
    assert [plain["model"].pop(name) for name in ("adapters", "task", "start")] == [None] * 3
    plain["model"]["plugins"] = list(plain["model"]["plugins"])
    assert settings == plain


def test_the_methods_with_a_table_of_their_own_are_documented_with_their_defaults():
    methods = blocks()[1]
    for name, kind in (("lasso", LassoSettings), ("shared_noise", SharedNoiseSettings)):
        required = {field.name: methods[name][field.name] for field in msgspec.structs.fields(kind) if field.required}
        assert methods[name] == msgspec.to_builtins(kind(**required))
    assert set(methods) == {"lasso", "shared_noise"}


def test_the_documented_presets_are_all_of_them_with_what_they_set():
    text = (ROOT / "docs" / "configuration.md").read_text()
    rows = re.findall(r"^\| `([a-z-]+)` \| (.+) \| `(.+)` \|$", text, re.MULTILINE)
    assert [name for name, _, _ in rows] == list(PRESETS)
    for name, purpose, sets in rows:
        (note,) = preset_notes(Federation.from_mapping({"preset": name}))
        assert (purpose, f'preset = "{name}" set {sets}') == (PRESETS[name].purpose, note)


def test_the_documented_data_keys_are_all_of_them():
    data = blocks()[2]["data"]
    assert data.keys() == {field.name for field in dataclasses.fields(DataSpec)}
    keys = {field.name for field in dataclasses.fields(Range)}
    assert set().union(*data["ranges"].values()) == keys
    assert Split(**data["split"]) == Split()


def test_the_documented_keys_of_images_are_all_of_them():
    data = next(block["data"] for block in blocks() if "kind" in block.get("data", {}))
    assert data.keys() == {field.name for field in dataclasses.fields(ImageSpec)}
    of_masks = ("fit", "colour", "intensity", "images", "masks", "index", "file", "site", "patient", "fields", "split")
    assert ImageSpec.from_mapping({key: data[key] for key in ("kind", "size", *of_masks)}).segments
    of_labels = ("label", "positive", "negative", "threshold", "prevalence", "without", "id")
    assert not ImageSpec.from_mapping({key: data[key] for key in ("kind", "size", *of_labels)}).segments


def test_links_between_documents_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\((?!http)([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{name_of(page)}: {target}"


def test_the_tests_that_the_threat_model_and_its_claims_name_exist():
    text = "".join((DOCS / page).read_text() for page in ("threat-model.md", "claims.md"))
    here = ""
    for path, test in re.findall(r"`(tests/[\w/]+\.py|\.\.\.)(?:::(\w+))?`", text):
        here = here if path == "..." else path
        source = (ROOT / here).read_text()
        assert not test or f"def {test}(" in source, f"{here}::{test}"
    rounds = "".join(file.read_text() for file in (ROOT / "tests" / "rounds").glob("*.py"))
    alone = re.findall(r"`(test_\w+)`", text)
    assert len(alone) > 20 and [test for test in alone if f"def {test}(" not in rounds] == []


def test_the_tests_that_the_page_on_encryption_names_exist():
    text = (ROOT / "docs" / "encryption.md").read_text()
    files = [*(ROOT / "tests").rglob("*.py")]
    known = {file.stem for file in files} | {
        name for file in files for name in re.findall(r"def (test_\w+)\(", file.read_text())
    }
    named = re.findall(r"test_\w+", text)
    assert len(named) > 25 and [name for name in named if name not in known] == []
    assert [path for path in re.findall(r"`(tests/[\w/]+)", text) if not any(ROOT.glob(f"{path}*"))] == []
