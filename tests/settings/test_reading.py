"""How people's files are: what an editor, a keyboard or an earlier version leaves in a TOML, and one line for each."""

import pytest
from click.testing import CliRunner

from securepfl.cli.main import cli
from securepfl.errors import ConfigError
from securepfl.settings.federation import Federation
from securepfl.settings.reading import MOST_BYTES

TEXT = 'name = "Köln"\nrounds = 7\n'


def read(tmp_path, data):
    path = tmp_path / "federation.toml"
    path.write_bytes(data)
    return Federation.read(path)


@pytest.mark.parametrize(
    "data",
    [TEXT.encode(), TEXT.encode("utf-8-sig"), TEXT.replace("\n", "\r\n").encode("utf-8-sig")],
    ids=["utf-8", "byte-order-mark", "windows"],
)
def test_a_file_is_read_as_any_editor_saves_it_in_utf_8(tmp_path, data):
    federation = read(tmp_path, data)
    assert (federation.name, federation.rounds) == ("Köln", 7)
    assert federation.digest == read(tmp_path, TEXT.encode()).digest


@pytest.mark.parametrize(
    "data",
    [TEXT.encode("utf-16"), TEXT.encode("utf-16-be"), TEXT.encode("latin-1"), b"rounds = 3\0"],
    ids=["utf-16", "utf-16-without-mark", "latin-1", "nul"],
)
def test_a_file_in_another_encoding_is_refused_with_the_way_out(tmp_path, data):
    with pytest.raises(ConfigError, match=r"federation\.toml: .*save it as UTF-8$"):
        read(tmp_path, data)


def test_the_line_of_a_byte_that_is_no_utf_8_is_named(tmp_path):
    with pytest.raises(ConfigError, match="line 3 is not UTF-8"):
        read(tmp_path, b"rounds = 3\n\n# K\xf6ln\n")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[similarity]\nbeside_masks = True\n", ["line 2", "true and false"]),
        ("name = “Klinik”\n", ["line 1", "straight"]),
        ("name = 'x'\n\u00a0rounds = 2\n", ["line 2", "not seen"]),
        ("\ufeff\ufeffname = 'x'\n", ["line 1", "not seen"]),
        ("[privacy]\nepsilon = 1,5\n", ["line 2", "write a point"]),
        ("rounds = None", ["leave the key out"]),
        ("[sites]\nlong beach = { units = 3 }\n", ["line 2", "stands in quotes"]),
        ("[sites.zürich]\nunits = 3\n", ["line 1", "stands in quotes"]),
        ("age (years) = 3\n", ["line 1", "stands in quotes"]),
        ("x = = 3\n", ["line 1", "mend that line"]),
        ("a = [1,\n b c]\n", ["line 2", "mend that line"]),
        ("[model]\nhidden = 3\n[model]\nhidden = 4\n", ["twice", "line 3"]),
        ("rounds = 1\nrounds = 2\n", ["line 2", "mend that line"]),
        ("rounds = " + "9" * 5000, ["too many digits"]),
        ("a = " + "[" * 100_000, ["too deep"]),
        ("rounds = 9007199254740992", ["rounds", "2^53"]),
        ("[data]\nlabel = [99999999999999999999]", ["data.label", "2^53"]),
        ("rounds = 2024-01-01", ["[rounds]", "date"]),
        ("[privacy]\nepsilon = nan", ["[privacy] epsilon = nan"]),
    ],
)
def test_what_is_no_toml_or_no_setting_gets_one_line_with_its_place(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text.encode())
    message = str(caught.value)
    assert all(word in message for word in ["federation.toml", *words]) and "\n" not in message, message


def test_a_folder_and_a_file_that_is_no_settings_file_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory"):
        Federation.read(tmp_path)
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ConfigError, match=r"longer than 16 MiB"):
        Federation.read(tmp_path / "huge.toml")


def test_an_empty_file_is_all_defaults(tmp_path):
    auto = ("rounds", "training.learning_rate", "privacy.clip", "encryption.limit")
    assert read(tmp_path, b"") == Federation(auto=auto)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": {"seed": 1}}, ["[model] seed: removed", "delete it"]),
        ({"training": {"physical_batch": 64}}, ["[training] physical_batch: moved", "simulate"]),
        ({"privacy": {"noise": "shared", "normaliser": 9}}, ["[privacy] noise: moved", "[shared_noise]"]),
        ({"privacy": {"colluders": 2}}, ["write it under [shared_noise]"]),
        ({"sparsity": {"exploration": 0.5}}, ["[sparsity] exploration: removed"]),
        ({"encryption": {"mask_degree": 4}}, ["[encryption] mask_degree: removed"]),
        ({"similarity": {"of": "personal"}}, ["[similarity] of: removed"]),
        ({"similarity": {"gate": 2.0}}, ["[similarity] gate: removed", "always 3"]),
        ({"similarity": {"dimensions": 64}}, ["[similarity] dimensions: removed"]),
        ({"coupling": {"kind": "lasso"}}, ["[coupling] kind: removed", "[lasso]"]),
        ({"coupling": {"penalty": 0.1}}, ["write it under [lasso]"]),
        ({"coupling": {"momentum": True}}, ["[coupling] momentum: removed"]),
        ({"coupling": {"graph": "complete"}}, ["[coupling] graph: removed", "measured best"]),
        ({"coupling": {"hold": 2}}, ["[coupling] hold: removed"]),
        ({"trajectory": {"layers": {}}}, ["[trajectory] layers: removed"]),
    ],
)
def test_a_key_of_an_earlier_version_is_refused_with_what_became_of_it(tables, words):
    with pytest.raises(ConfigError) as caught:
        Federation.from_mapping(tables, where="old.toml")
    assert all(word in str(caught.value) for word in ["old.toml", *words]), caught.value


def test_the_command_line_says_it_in_one_line_too(tmp_path):
    (tmp_path / "federation.toml").write_bytes(TEXT.encode("utf-16"))
    (tmp_path / "data").mkdir()
    done = CliRunner().invoke(cli, ["run", str(tmp_path / "federation.toml"), "--data", str(tmp_path / "data")])
    assert isinstance(done.exception, ConfigError) and "save it as UTF-8" in str(done.exception)


@pytest.mark.parametrize(
    ("table", "key", "known"),
    [
        ("sparsity", "kind", "auto, support, select, soft and difference"),
        ("model", "personal", "auto, intercept, head and adapters; patterns stand in a list"),
        ("model", "trained", "all and head; patterns stand in a list"),
        ("privacy", "unit", "record and patient"),
    ],
)
def test_a_word_that_a_key_does_not_know_is_answered_with_all_that_it_does(table, key, known):
    with pytest.raises(ConfigError, match=rf"\[{table}\.{key}\] .*; known are {known}$"):
        Federation.from_mapping({table: {key: "nonsense"}})
