"""A run's folder when something fails: from the first round on it stays, and the run goes on there."""

import json
import os
from contextlib import contextmanager
from pathlib import Path

import pytest
from small_run import NAMES, prepare

from securepfl.errors import StorageError
from securepfl.outside.experts import read_experts
from securepfl.report.ledger import budget_of
from securepfl.runtime.execution import execute
from securepfl.runtime.planning import configured, plan_tables
from securepfl.storage.unfinished import UNFINISHED

WHOLE = {"coordinator", "experts", "heads.json", "ledger", "report.html", "result.json", "sites"}


@contextmanager
def quiet(budgets):
    yield lambda event: None


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("small"))


@pytest.fixture
def plan(small):
    """Makes the plan of one round among four hospitals."""

    def made(**released):
        settings = configured(small / "federation.toml", rounds=1)
        return plan_tables(settings.changed("release", **released), small / "rows.csv", None, None)

    return made


def ledgers():
    """By hospital."""
    found = {path.parent.name: path for path in Path(os.environ["SECUREPFL_LEDGERS"]).glob("*/*.jsonl")}
    assert len(found) == len(NAMES)
    return found


def refuse_to_write(monkeypatch, *names):
    """A disk that has no room for files of these names."""
    sync = os.fsync

    def full(descriptor):
        if any(name in str(Path(f"/proc/self/fd/{descriptor}").readlink()) for name in names):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("lost", ["report.html", "result.json", "heads.json", "experts"])
def test_a_file_that_cannot_be_written_costs_no_other(lost, tmp_path, monkeypatch, plan):
    refuse_to_write(monkeypatch, lost)
    with pytest.raises(StorageError, match=r"No space left.* their budget is spent") as error:
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet)
    assert f"{tmp_path / 'run' / lost}" in str(error.value) and ".partial-" not in str(error.value)
    found = {path.name for path in (tmp_path / "run").iterdir()}
    made_of_it = {"report.html"} if lost == "result.json" else set()
    assert found - {"experts"} == (WHOLE | {UNFINISHED}) - {lost, "experts"} - made_of_it
    if lost != "experts":
        assert len(read_experts(tmp_path / "run" / "experts").models) == len(NAMES) + 1
    if lost != "result.json":
        assert len(json.loads((tmp_path / "run" / "result.json").read_text())["sites"]) == len(NAMES)


def test_what_could_not_be_written_comes_when_the_run_is_resumed_and_all_else_stays(tmp_path, monkeypatch, plan):
    with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"the rest comes with `.* --resume "):
        refuse_to_write(patch, "heads.json")
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet)
    before = (tmp_path / "run" / "result.json").read_bytes()
    released = {path: path.read_bytes().count(b"expert-release") for path in ledgers().values()}
    assert all(released.values())
    again = execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet, resume=True)
    assert (tmp_path / "run" / "result.json").read_bytes() == before and again == json.loads(before)
    assert {path.name for path in (tmp_path / "run").iterdir()} == WHOLE
    assert all(path.read_bytes().count(b"expert-release") == count for path, count in released.items())
    with pytest.raises(StorageError, match="has ended"):
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet, resume=True)


def test_before_anything_is_spent_nothing_stays(tmp_path, monkeypatch, plan):
    refuse_to_write(monkeypatch, "state.safetensors")
    with pytest.raises(StorageError, match="No space left"):
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_failed_between_its_rounds_stays_and_goes_on(tmp_path, monkeypatch, plan):
    with monkeypatch.context() as patch, pytest.raises(StorageError, match="No space left"):
        refuse_to_write(patch, "/round-00001.journal")
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet)
    keys = tmp_path / "run" / UNFINISHED / "keys"
    assert keys.stat().st_mode & 0o777 == 0o600 and b"simulation" in keys.read_bytes()
    with pytest.raises(StorageError, match="holds a run that was stopped: go on with"):
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet)
    execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet, resume=True)
    assert {path.name for path in (tmp_path / "run").iterdir()} == WHOLE


def test_a_page_that_cannot_be_made_is_a_defect_that_is_told_and_costs_nothing_else(tmp_path, monkeypatch, plan):
    monkeypatch.setattr("securepfl.runtime.execution.write_own_page", lambda folder: {}["no such name"])
    with pytest.raises(KeyError):
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=quiet)
    assert {path.name for path in (tmp_path / "run").iterdir()} == (WHOLE | {UNFINISHED}) - {"report.html"}


def test_a_display_that_fails_stops_no_round(tmp_path, plan):
    @contextmanager
    def broken(budgets):
        def show(event):
            raise BrokenPipeError(32, "Broken pipe")

        yield show

    with pytest.raises(StorageError, match="Broken pipe"):
        execute(plan(), tmp_path / "run", seed=None, device="cpu", display=broken)
    assert {path.name for path in (tmp_path / "run").iterdir()} == WHOLE


def test_a_result_waits_for_all_that_is_still_to_be_spent(tmp_path, monkeypatch, plan):
    """Where an expert's fine-tuning could not be written, a result of before it would state too small an epsilon."""
    asked, out = plan(experts=True, finetuning=1, prior=True), tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(StorageError, match=r"the rest comes with `.* --resume "):
        refuse_to_write(patch, "experts")
        execute(asked, out, seed=None, device="cpu", display=quiet)
    result = execute(asked, out, seed=None, device="cpu", display=quiet, resume=True)
    kept = ledgers()
    for name, site in json.loads((out / "result.json").read_text())["sites"].items():
        assert site["privacy"]["epsilon"] == budget_of(kept[name], None)["spent"] == pytest.approx(2.0, rel=1e-3)
    assert len(result["sites"]) == len(NAMES) and (out / "experts" / "priors.json").exists()
