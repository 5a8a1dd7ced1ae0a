"""A preset sets the keys of a recipe, any key overrides it, and what would undo it is refused."""

import json

import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.errors import ConfigError
from securepfl.settings.federation import Federation
from securepfl.settings.presets import PRESETS, preset_notes


def federation(preset, **tables):
    return Federation.from_mapping({"preset": preset, **tables}, where="test.toml")


def spelled_out(preset, kind="mlp"):
    """The preset's keys as a file without it would have them."""
    return {name: dict(keys) for name, keys in PRESETS[preset].tables_for(kind).items()}


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_and_its_keys_spelled_out_are_the_same_federation(preset):
    spelled = Federation.from_mapping(spelled_out(preset))
    assert federation(preset).digest == spelled.digest != Federation().digest
    assert spelled.preset is None


@pytest.mark.parametrize("preset", PRESETS)
def test_any_other_key_stands_beside_it(preset):
    changed = federation(preset, rounds=9, privacy={"epsilon": 2.0}, model={"hidden": 16})
    assert (changed.rounds, changed.privacy.epsilon, changed.model.hidden) == (9, 2.0, 16)
    assert changed.model.personal == federation(preset).model.personal


def test_a_key_of_the_file_overrides_the_presets():
    changed = federation("groups", coupling={"strength": 0.5}, trajectory={"alpha": 0.1})
    assert (changed.coupling.strength, changed.trajectory.alpha, changed.trajectory.of) == (0.5, 0.1, "mixture")
    (note,) = preset_notes(changed)
    assert note.startswith('preset = "groups" set [model] personal = "head", [similarity] every = 2')
    assert note.endswith("overridden: [coupling] strength = 0.5, [trajectory] alpha = 0.1")


def test_in_a_logistic_model_the_weights_are_what_is_personal_in_groups():
    assert federation("groups", model={"kind": "logistic"}).model.personal == ("*.weight",)
    assert federation("groups", model={"kind": "own"}).model.personal == "head"


@pytest.mark.parametrize(
    ("preset", "tables", "words"),
    [
        ("one-model", {"model": {"personal": "head"}}, "[model] personal"),
        ("one-model", {"similarity": {"every": 2}, "coupling": {"strength": 0.5}}, "[coupling] strength"),
        ("one-model", {"similarity": {"every": 1}, "lasso": {"penalty": 0.1}}, "[lasso]"),
        ("personal-intercept", {"model": {"personal": []}}, "[model] personal"),
        ("groups", {"similarity": {"every": 0}}, "[similarity] every"),
        ("groups", {"model": {"personal": []}}, "[model] personal"),
        ("groups", {"coupling": {"strength": 0}}, "[coupling] strength"),
        ("groups", {"rounds": 2}, "rounds"),
        ("network-lasso", {"similarity": {"every": 2}}, "[similarity] every"),
        ("network-lasso", {"coupling": {"strength": 0.5}}, "[coupling] strength"),
        ("network-lasso", {"sparsity": {"kind": "select"}}, "[sparsity] kind"),
        ("network-lasso", {"model": {"personal": []}}, "[model] personal"),
        ("experts", {"release": {"experts": False}}, "[release] experts"),
        ("experts", {"trajectory": {"of": "mixture"}}, "[trajectory] of"),
        ("experts", {"encryption": {"masking": "pairwise"}, "shared_noise": {}}, "[shared_noise]"),
        ("shared-noise", {"similarity": {"every": 2}}, "[similarity] every"),
        ("shared-noise", {"encryption": {"masking": "none"}}, "[encryption] masking"),
        ("few-bytes", {"sparsity": {"density": 1.0}}, "[sparsity] density"),
    ],
)
def test_a_key_that_undoes_the_preset_is_refused_with_both_named(preset, tables, words):
    with pytest.raises(ConfigError) as caught:
        federation(preset, **tables)
    message = str(caught.value)
    assert message.startswith(f'test.toml: preset = "{preset}"') and words in message and "\n" not in message, message


def test_what_is_wrong_without_the_preset_too_is_not_blamed_on_it():
    with pytest.raises(ConfigError, match=r"^test\.toml: \[privacy\] epsilon"):
        federation("groups", privacy={"epsilon": 0})


@pytest.mark.parametrize("name", ["group", 3, ["groups"], {"groups": 1}, ""])
def test_a_preset_nobody_knows_is_refused_with_those_there_are(name):
    with pytest.raises(ConfigError, match=r"known are one-model, .*, few-bytes"):
        federation(name) if isinstance(name, str) else Federation.from_mapping({"preset": name})


def test_a_run_says_what_its_preset_set(tmp_path):
    rows = [
        "site,age,ill",
        *(f"{site},{40 + number + ord(site) % 7},{number % 2}" for site in "abc" for number in range(12)),
    ]
    (tmp_path / "rows.csv").write_text("\n".join(rows))
    (tmp_path / "federation.toml").write_text(
        'preset = "personal-intercept"\nrounds = 2\n[model]\nkind = "logistic"\n[data]\nlabel = "ill"\nsite = "site"\n'
        "[sites]\na.units = 8\nb.units = 8\nc.units = 8\n"
        "[data.ranges]\nage = { centre = 50, spread = 15 }\n"
    )
    arguments = ["run", str(tmp_path / "federation.toml"), "--data", str(tmp_path / "rows.csv"), "--seed", "1"]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.exception
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert any(note.startswith('preset = "personal-intercept" set [model] personal') for note in result["notes"])
    assert result["federation"]["preset"] == "personal-intercept"
