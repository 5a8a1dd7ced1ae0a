"""Folders that hold no run, or a damaged one, are refused in a line; a page replaces nothing but a page."""

import json
import shutil
import sys

import pytest

from securepfl.cli.main import main
from securepfl.errors import ConfigError, StorageError
from securepfl.report.pages.page import read_page
from securepfl.report.pages.reading import read_any
from securepfl.report.pages.writing import write_page


def refusal(folder):
    with pytest.raises(ConfigError) as caught:
        read_page([folder])
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    return str(caught.value)


def test_what_is_no_run_is_refused(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "file").write_text("x")
    assert "no folder" in refusal(tmp_path / "file")
    assert "has no result.json" in refusal(tmp_path)
    (tmp_path / "unfinished").mkdir()
    assert "securepfl run --resume" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not what securepfl writes"),
        ('{"schema": 2}', "schema 2"),
        ('{"schema": 1}', "missing required field"),
        ('{"schema": 1, "simulation": "yes"}', "not what this securepfl writes"),
    ],
)
def test_a_damaged_result_is_refused(tmp_path, text, said):
    (tmp_path / "result.json").write_text(text)
    assert said in refusal(tmp_path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sites", "Mainz", "signal"), float("nan")),
        (("sites", "Mainz", "metrics", "personalised", "auroc"), 1e300),
        (("sites", "Mainz", "metrics", "personalised", "auroc"), 10**400),
        (("sites", "Mainz", "curves", "personalised", "yes"), 0),
        (("sites", "Mainz", "curves", "personalised", "rows"), -1),
        (("sites", "Mainz", "privacy", "epsilon"), -1.0),
        (("sites", "Mainz", "notes"), ["x" * 1_000_001]),
        (("federation", "privacy"), 0),
        (("federation", "sites", "Mainz"), "x"),
        (("federation", "shape", "shared"), [1]),
        (("versions", "torch"), "\ud800"),
        (("counted",), None),
        (("within",), {}),
        (("released",), {}),
        (("schema",), {"deep": [[[[[[[[[[[[[[1]]]]]]]]]]]]]]}),
    ],
)
def test_a_result_that_somebody_edited_is_refused(tables, tmp_path, path, value):
    result = json.loads((tables / "result.json").read_text())
    *where, key = path
    held = result
    for part in where:
        held = held[part]
    held[key] = value
    (tmp_path / "result.json").write_text(json.dumps(result))
    assert len(refusal(tmp_path)) < 600


@pytest.mark.parametrize("rows", ['[{"gates": null}]', '[{"gates": ["x"]}]', '[{"gates": [[1]]}]', "[3]"])
def test_gates_that_somebody_edited_are_refused(routed, tmp_path, rows):
    gates = json.loads((routed / "gates.json").read_text()) | {"rows": json.loads(rows)}
    (tmp_path / "gates.json").write_text(json.dumps(gates))
    assert "gates.json" in refusal(tmp_path)


def test_damaged_gates_are_refused(routed, tmp_path):
    (tmp_path / "gates.json").write_text((routed / "gates.json").read_text().replace('"site"', '"sight"'))
    assert "gates.json" in refusal(tmp_path)


def test_a_half_written_round_is_left_out(tables, tmp_path):
    shutil.copytree(tables, tmp_path / "run")
    (path, *_) = (tmp_path / "run" / "sites").glob("Mainz/rounds.jsonl")
    whole = path.read_text()
    assert [json.loads(line)["round"] for line in whole.splitlines()] == [1, 2, 3, 4]
    path.write_text(whole[:-20])
    assert [number for number, _ in read_any(tmp_path / "run").rounds["Mainz"]] == [1, 2, 3]
    path.write_bytes(b"\xff\n[[\n" + whole.replace("0.", "1e308", 1).encode())
    assert [number for number, _ in read_any(tmp_path / "run").rounds["Mainz"]] == [2, 3, 4], "what can't be drawn"


def test_a_page_replaces_a_page_and_nothing_else(tables, tmp_path):
    page = read_page([tables])
    write_page(page, tmp_path / "page.html")
    write_page(page, tmp_path / "page.html")
    (tmp_path / "thesis.html").write_text("<html>mine</html>")
    with pytest.raises(StorageError, match="is no page of"):
        write_page(page, tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "<html>mine</html>"
    with pytest.raises(StorageError, match="is a folder"):
        write_page(page, tmp_path)
    with pytest.raises(StorageError, match="is no folder"):
        write_page(page, tmp_path / "nowhere" / "page.html")


def test_the_command_writes_into_the_run_and_tells_the_verdict(tables, routed, tmp_path, monkeypatch, capsys):
    def called(*words):
        monkeypatch.setattr(sys, "argv", ["securepfl", "report", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            main()
        return left.value.code, capsys.readouterr()

    shutil.copytree(tables, tmp_path / "run")
    (tmp_path / "run" / "report.html").unlink()
    assert called(tmp_path / "run")[0] == 0 and (tmp_path / "run" / "report.html").exists()
    monkeypatch.chdir(tmp_path)
    code, printed = called(tmp_path / "run", tables, routed, "--json")
    told = json.loads(printed.out)["result"]
    assert code == 0 and told["out"] == "report.html" and len(told["runs"]) == 2
    assert "Did training together pay?" in told["runs"][0]["verdict"] and told["runs"][0]["forbids"]
    code, printed = called(tables, tables)
    assert code == 2 and "is named twice" in printed.err and "Traceback" not in printed.err
