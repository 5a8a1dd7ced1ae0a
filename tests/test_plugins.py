"""Plug-ins of a real distribution, installed as users install them: what they bring, and what they can't do."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from small_run import prepare

from securepfl import Federation
from securepfl.cli.main import cli
from securepfl.data.reading import read_columns
from securepfl.errors import ConfigError, DataError, ExtraError, HospitalNote, SecurePFLError
from securepfl.plugins import installed
from securepfl.settings.binding import built_in
from securepfl.tasks.binary import Binary
from securepfl.tasks.registry import task_named

CODE = """
import csv
import dataclasses
import torch
from securepfl.data.csv_table import read_csv
from securepfl.tasks.binary import Binary

class Careful(Binary):
    name = "careful"

class Spilling(Binary):
    name = "spilling"

    def measure(self, *given):
        raise ValueError("patient Smith, 4711")

class Coupling(Binary):
    name = "coupling"

    def loss(self, outputs, labels):
        return super().loss(outputs, labels) * (1 + labels.float().mean())

def line(inputs, *, hidden, outputs):
    model = torch.nn.Sequential(torch.nn.Linear(inputs, outputs), torch.nn.Flatten(0))
    return model

def read_tiny(path, wanted):
    return read_csv(path, wanted)

def read_leaky(path, wanted):
    raise ValueError("the cell of patient Smith is 4711")

def read_shifted(path, wanted):
    found = read_csv(path, wanted)
    return dataclasses.replace(found, columns=found.columns | {"b": found.columns["b"].behind(1)})

def quits(*given, **named):
    raise SystemExit("no licence")

def refuses(**labels):
    raise RuntimeError("two\\nlines")

binary = None
number = lambda **labels: 3
"""
POINTS = {
    "tasks": {
        "careful": "Careful",
        "spilling": "Spilling",
        "coupling": "Coupling",
        "binary": "number",
        "refuses": "refuses",
        "quits": "quits",
        "number": "number",
        "absent": "absent",
    },
    "models": {"line": "line", "mlp": "number", "nothing": "read_tiny"},
    "readers": {
        "tiny": "read_tiny",
        "leaky": "read_leaky",
        "csv": "read_leaky",
        "shifted": "read_shifted",
        "quits": "quits",
    },
}


def distribution(folder, name, version, points):
    """A project's sources; `points`: by group, names and what they load from its one module."""
    module = name.replace("-", "_")
    folder.mkdir()
    (folder / f"{module}.py").write_text(CODE)
    groups = "".join(
        f'[project.entry-points."securepfl.{group}"]\n'
        + "".join(f'{point} = "{module}:{what}"\n' for point, what in names.items())
        for group, names in points.items()
    )
    (folder / "pyproject.toml").write_text(
        f'[build-system]\nrequires = ["setuptools"]\nbuild-backend = "setuptools.build_meta"\n'
        f'[project]\nname = "{name}"\nversion = "{version}"\n[tool.setuptools]\npy-modules = ["{module}"]\n{groups}'
    )
    return folder


def install(target, *projects):
    words = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target", str(target)]
    subprocess.run([sys.executable, "-m", *words, *map(str, projects)], check=True, capture_output=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which a distribution is installed, and two that bring a plug-in of one name."""
    folder = tmp_path_factory.mktemp("plugins")
    install(folder / "target", distribution(folder / "first", "tiny-plugins", "1.2", POINTS))
    for name in ("other", "third"):
        info = folder / "target" / f"{name}_plugins-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-plugins\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[securepfl.models]\ntwice = tiny_plugins:line\n")
    half = folder / "target" / "half-1.0.dist-info"
    half.mkdir()
    (half / "entry_points.txt").write_text("[securepfl.models]\nhalf = tiny_plugins:line\n")
    return folder / "target"


@pytest.fixture
def plugged(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))


def federation(**model):
    return Federation.from_mapping({"model": model})


PINS = ["tiny-plugins==1.2"]


def test_what_is_installed_is_listed_and_nothing_of_it_is_loaded(plugged):
    found = installed("securepfl.models")
    assert [(its.name, its.distribution, its.version) for its in found if its.name == "line"] == [
        ("line", "tiny-plugins", "1.2")
    ]
    assert "tiny_plugins" not in sys.modules and "half" not in {its.name for its in found}, "what is half uninstalled"


def test_what_is_half_uninstalled_is_left_out_whoever_reads_metadata(place):
    """`importlib_metadata` replaces Python's own reader in any process that imports it, as libraries do."""
    pytest.importorskip("importlib_metadata")
    code = "import importlib_metadata; from securepfl.plugins import installed; print(installed('securepfl.models'))"
    paths = os.environ | {"PYTHONPATH": str(place)}
    told = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True, check=False)
    assert told.returncode == 0 and "tiny-plugins" in told.stdout and "half" not in told.stdout, told.stderr


def test_a_federation_names_a_plug_in_with_its_version_and_both_are_in_the_digest(plugged):
    chosen = federation(kind="line", plugins=PINS)
    assert chosen.digest != Federation().digest and built_in(chosen.model, spec()) is not None
    without = federation(kind="logistic")
    assert without.digest == Federation.from_mapping({"model": {"kind": "logistic"}}).digest
    assert federation(kind="line", plugins=["elsewhere==1.0", *PINS]).digest != chosen.digest


def spec():
    text = (Path(__file__).parents[1] / "examples" / "heart_disease" / "federation.toml").read_text()
    return Federation.from_mapping(tomllib.loads(text)).data_spec


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({"kind": "line"}, 'all hospitals must run the same; add plugins = ["tiny-plugins==1.2"]'),
        ({"kind": "line", "plugins": ["tiny-plugins==1.1"]}, "is 1.2 here and 1.1 in the settings; run: pip install"),
        ({"kind": "line", "plugins": ["other-plugins==1.0"]}, 'add plugins = ["tiny-plugins==1.2"]'),
        ({"kind": "line", "plugins": ["tiny-plugins"]}, 'write "NAME==VERSION"'),
        ({"kind": "line", "plugins": [*PINS, "tiny_plugins==1.3"]}, "stands there twice"),
        ({"kind": "nosuch"}, 'kind = "nosuch": known are "mlp", "logistic", "unet", "cnn", "own"; no plug-in'),
        ({"task": "nosuch"}, 'task = "nosuch": known are "binary"'),
        ({"kind": "twice", "plugins": ["other-plugins==1.0"]}, "both bring a plug-in 'twice'; uninstall one"),
        ({"plugins": PINS}, "plugins: neither kind nor task is a plug-in's; remove it"),
    ],
)
def test_what_is_wrong_with_a_plug_in_is_one_line(model, words, plugged):
    with pytest.raises(ConfigError) as error:
        federation(**model)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_no_plug_in_takes_a_built_in_name(plugged, tmp_path):
    assert isinstance(task_named("binary"), Binary) and type(task_named("binary")) is Binary
    assert "tiny" not in type(built_in(federation(kind="mlp").model, spec())()).__module__
    (tmp_path / "rows.csv").write_text("a,b\n1,2\n")
    assert read_columns(tmp_path / "rows.csv").rows == 1


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("refuses", "plug-in 'refuses' of tiny-plugins 1.2: failed when called (RuntimeError: two)"),
        ("quits", "failed when called (SystemExit: no licence)"),
        ("absent", "can't be loaded (AttributeError:"),
        ("number", "is no task, as it lacks baseline, baseline_title"),
    ],
)
def test_a_broken_task_is_one_line(task, words, plugged):
    with pytest.raises(ConfigError) as error:
        task_named(task)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_broken_model_and_a_missing_one_are_one_line(plugged):
    with pytest.raises(ConfigError, match=r"plug-in 'nothing' of tiny-plugins 1\.2: failed when called"):
        built_in(federation(kind="nothing", plugins=PINS).model, spec())()
    hub = federation(kind="elsewhere", plugins=["not-here==3.0"])  # a hub has no need of it
    with pytest.raises(ExtraError, match="install what plugins pins"):
        built_in(hub.model, spec())()


def test_a_reader_reads_and_is_named_and_its_errors_quote_no_cell(plugged, tmp_path):
    (tmp_path / "rows.tiny").write_text("a,b\n1,2\n3,4\n")
    with pytest.warns(HospitalNote, match=r"rows\.tiny was read by the plug-in 'tiny' of tiny-plugins 1\.2"):
        assert read_columns(tmp_path / "rows.tiny").rows == 2
    (tmp_path / "rows.leaky").write_text("a,b\n1,2\n")
    with pytest.raises(DataError) as error:
        read_columns(tmp_path / "rows.leaky")
    assert "failed (ValueError)" in str(error.value) and "Smith" not in str(error.value)


@pytest.mark.parametrize(
    ("suffix", "words"), [("shifted", "columns are not all Cells of 2 rows"), ("quits", "SystemExit")]
)
def test_a_reader_that_shifts_rows_or_quits_is_one_line(suffix, words, plugged, tmp_path):
    (tmp_path / f"rows.{suffix}").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match=words) as error:
        read_columns(tmp_path / f"rows.{suffix}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (
            "spilling",
            r"plug-in 'spilling' of tiny-plugins 1\.2: its task fails where models are judged \(ValueError at",
        ),
        ("coupling", "records depend on one another"),
    ],
)
def test_a_plug_ins_task_that_fails_or_couples_records_ends_a_run_in_a_line(
    task, words, plugged, tmp_path, monkeypatch
):
    prepare(tmp_path, rounds=1)
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "federation.toml").read_text(encoding="utf-8")
    text = text.replace('kind = "logistic"', f'kind = "line"\ntask = "{task}"\nplugins = {json.dumps(PINS)}')
    (tmp_path / "federation.toml").write_text(text, encoding="utf-8")
    done = CliRunner().invoke(cli, ["run", "federation.toml", "--data", "rows.csv", "--out", "out", "--seed", "1"])
    assert isinstance(done.exception, SecurePFLError) and re.search(words, str(done.exception)), done.exception
    assert "Smith" not in str(done.exception) + done.output


def test_a_whole_run_with_a_plug_ins_task_model_and_reader(plugged, tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    text = (tmp_path / "federation.toml").read_text(encoding="utf-8")
    text = text.replace('kind = "logistic"', f'kind = "line"\ntask = "careful"\nplugins = {json.dumps(PINS)}')
    (tmp_path / "federation.toml").write_text(text, encoding="utf-8")
    (tmp_path / "rows.csv").rename(tmp_path / "rows.tiny")
    words = ["run", "federation.toml", "--data", "rows.tiny", "--out", "out"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.exception
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["task"] == "careful" and result["federation"]["model"]["plugins"] == PINS
    assert any("was read by the plug-in 'tiny'" in note for note in result["notes"])
    routed = CliRunner().invoke(cli, ["route", "out", "--data", "rows.tiny"])
    assert routed.exit_code == 0 and len(routed.stdout.splitlines()) == 241, routed.exception
    monkeypatch.setattr(sys, "path", [its for its in sys.path if "plugins" not in its])
    gone = CliRunner().invoke(cli, ["route", "out", "--data", "rows.csv"])
    assert isinstance(gone.exception, ExtraError) and "no plug-in of that name is installed" in str(gone.exception)
