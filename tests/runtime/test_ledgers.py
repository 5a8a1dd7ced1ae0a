"""What tables spend stands in one ledger, whatever they are called, wherever they lie and however they are written."""

import csv
import json
import os
import shutil
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from securepfl.client.charging import Books
from securepfl.client.contents import contents_of
from securepfl.client.identities import KnownAs
from securepfl.client.records import TrainingSet
from securepfl.client.run_kind import Simulation
from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.errors import BudgetError, DataError, LedgerError
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.runtime.execution import execute
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.planning import plan_tables
from securepfl.settings.federation import Federation
from securepfl.storage.registry import Registry

SITES = ("alder", "birch", "cedar")
RANGES = {"age": {"centre": 60, "spread": 10}, "bmi": {"centre": 27, "spread": 4}}


def rows(seed=0, count=40):
    draw = np.random.default_rng(seed)
    age, bmi = draw.normal(60, 10, (2, 3 * count)).round(2)
    return {
        "site": list(np.repeat(SITES, count)),
        "who": [f"p{place}" for place in range(3 * count)],
        "age": age.tolist(),
        "bmi": bmi.tolist(),
        "ill": (age > 60).astype(int).tolist(),
        "died": (bmi > 27).astype(int).tolist(),
        "note": [f"n{number}" for number in draw.integers(0, 10**9, 3 * count)],
    }


def picked(frame, places):
    return {name: [column[place] for place in places] for name, column in frame.items()}


def shuffled(seed):
    frame = rows()
    return picked(frame, np.random.default_rng(seed).permutation(len(frame["age"])))


def only(*names):
    return {name: rows()[name] for name in names}


def settings(unit="record", units=30, **data):
    declared = {"label": "ill", "site": "site", "patient": "who", "drop": ["died", "note"], "ranges": RANGES} | data
    return Federation.from_mapping(
        {
            "rounds": 1,
            "model": {"kind": "logistic"},
            "privacy": {"epsilon": 1.0, "budget": 100.0, "unit": unit},
            "encryption": {"scheme": "none"},
            "sites": {name: {"units": units} for name in SITES},
            "data": {key: value for key, value in declared.items() if value is not None},
        }
    )


@contextmanager
def quiet(budgets):
    yield lambda event: None


def run(folder, data, federation=None, ledgers=None, out="out"):
    plan = plan_tables(federation or settings(), data, None, ledgers)
    return execute(plan, folder / out, seed=None, device="cpu", display=quiet)


def charged(data, federation, site="alder"):
    """The data set whose ledger a run on `data` would be charged to, and whether it is new."""
    plan = plan_tables(federation, data, None, None)
    records = TrainingSet.of(dataset_of(plan.hospitals[site].train, federation.privacy.unit), site, "record")
    books = Books.of(None, site, Simulation())
    found = books.rows_of(records, contents_of(records, range(records.found)), plan.data_sets[site], plan.federation)
    claim = books.registry.find(found.identities, found.declared, "simulated")
    return claim.id, claim.new


def summary(site="alder", data_set=None):
    path, _ = Registry(Path(os.environ["SECUREPFL_LEDGERS"]), site).ledger_at(data_set or site, "simulated")
    return verify_ledger(path, ledger_verifier(None))


def written(path, frame, marks=",."):
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.table(frame), path)
        return path
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=marks[0], quoting=csv.QUOTE_ALL if marks == ",." else csv.QUOTE_MINIMAL)
        writer.writerow(frame)
        writer.writerows(
            [str(cell).replace(".", marks[1]) for cell in row] for row in zip(*frame.values(), strict=True)
        )
    return path


@pytest.fixture(scope="module")
def spent(tmp_path_factory):
    """Where a run has spent on `rows()`, and its registries."""
    folder = tmp_path_factory.mktemp("spent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECUREPFL_LEDGERS", str(folder / "ledgers"))
        run(folder, written(folder / "rows.csv", rows()), settings(id="biopsies"))
    return folder


@pytest.fixture
def known(spent, tmp_path, monkeypatch):
    shutil.copytree(spent / "ledgers", tmp_path / "ledgers")
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(tmp_path / "ledgers"))
    return tmp_path


WIDE = {name: {**its, "spread": 50} for name, its in RANGES.items()}


@pytest.mark.parametrize(
    ("name", "frame", "marks", "data"),
    [
        ("moved/other.csv", rows(), ",.", {}),
        ("rows.csv", rows(), ",.", {"id": "stroke"}),
        ("rows.csv", shuffled(3), ",.", {}),
        ("rows.csv", picked(rows(), range(0, 120, 2)), ",.", {"id": "half"}),
        ("rows.csv", rows(), ";,", {"decimal": ","}),
        ("rows.csv", only("note", "ill", "bmi", "site", "died", "age", "who"), ",.", {}),
        ("rows.parquet", rows(), "", {}),
        ("rows.csv", rows(), ",.", {"ranges": WIDE, "id": "wide"}),
        ("rows.csv", rows(), ",.", {"label": "died", "drop": ["ill", "note"]}),
        ("rows.csv", rows(), ",.", {"ranges": {"age": RANGES["age"]}, "drop": ["bmi", "died", "note"]}),
        ("rows.csv", only("site", "who", "age", "bmi", "ill"), ",.", {"drop": None, "id": "fewer columns"}),
        ("rows.csv", rows(), ",.", {"patient_scope": "hospital"}),
        ("rows.csv", rows(), ",.", {"patient": None, "drop": ["died", "note", "who"]}),
        ("rows.csv", {name: both + rows(9)[name] for name, both in rows().items()}, ",.", {"id": "grown"}),
    ],
    ids=[
        *("moved", "another id", "another order", "part", "other marks", "other columns' order", "Parquet"),
        *("other ranges", "another label", "other features", "fewer columns", "own ids", "no patients", "grown"),
    ],
)
def test_the_same_rows_are_charged_to_the_ledger_that_knows_them(known, name, frame, marks, data):
    found = charged(written(known / name, frame, marks), settings(**data))
    assert found == ("biopsies", False)


def test_other_rows_get_a_ledger_of_their_own_though_patients_are_numbered_alike(known):
    data = written(known / "rows.csv", rows(seed=5))
    assert charged(data, settings(id="stroke")) == ("stroke", True)
    result = run(known, data)
    notes = [note for note in result["notes"] if "patients' ids" in note]
    assert len(notes) == 3 and all('[data] id = "biopsies"' in note for note in notes)
    assert len(summary().releases) == 1 and len(summary(data_set="biopsies").releases) == 1


def test_patients_in_place_of_records_are_refused_and_not_begun_anew(known):
    data = written(known / "rows.csv", rows())
    with pytest.raises(LedgerError, match=r"counts by record, and this run counts by patient"):
        run(known, data, settings(unit="patient", id="stroke"))
    (one,) = Registry(known / "ledgers", "alder").data_sets()
    assert one.id == "biopsies" and not (known / "out").exists()


def numbered(*ids):
    """`rows()` with each hospital's patients under `ids`, in place of their own."""
    return rows() | {"who": [f"{site}{place}" for site in ids for place in range(40)]}


def test_no_scope_of_ids_forgets_what_was_spent_on_patients_who_share_theirs(tmp_path):
    same = written(tmp_path / "rows.csv", numbered("p", "p", "p"))
    own = settings("patient", patient_scope="hospital").changed("privacy", budget=1.0)
    run(tmp_path, same, own)
    before = [summary(site).epsilon for site in SITES]
    assert min(before) > 0.99
    everywhere = settings("patient").changed("privacy", budget=1.0)
    with pytest.raises(DataError, match=r"patient id.* stand at several sites"):
        run(tmp_path, same, everywhere, out="same ids")
    anew = written(tmp_path / "anew.csv", numbered("a", "b", "c"))
    for federation in (everywhere, own):
        with pytest.raises(BudgetError, match="what earlier runs spent on the same records"):
            run(tmp_path, anew, federation, out="other ids")
    assert [summary(site).epsilon for site in SITES] == before


def test_three_runs_under_three_names_compose(tmp_path):
    spends = []
    for number, name in enumerate(("sepsis", "stroke", "icu")):
        data = written(tmp_path / name / f"{name}.csv", shuffled(number))
        run(tmp_path, data, settings(id=name), out=f"run {name}")
        spends.append(summary(data_set="sepsis").epsilon)
    assert len(summary(data_set="sepsis").releases) == 3 and spends == sorted(spends) and spends[2] > 1.7 * spends[0]
    assert not any(
        path.name.startswith(("stroke", "icu")) for path in (Path(os.environ["SECUREPFL_LEDGERS"]) / "alder").iterdir()
    )


def test_a_budget_that_another_name_has_spent_is_spent(known):
    federation = settings(id="stroke").changed("privacy", budget=1.0)
    with pytest.raises(BudgetError, match="what earlier runs spent on the same records, whatever they were called"):
        run(known, written(known / "rows.csv", rows()), federation)


def test_a_budget_below_one_runs_own_cost_says_what_the_run_takes(tmp_path):
    data, federation = written(tmp_path / "rows.csv", rows()), settings().changed("privacy", budget=0.5)
    with pytest.raises(BudgetError, match=r"this run alone takes epsilon \S+ at alder, whose budget is 0\.5") as told:
        run(tmp_path, data, federation)
    assert "earlier runs" not in str(told.value)


def test_a_snapshot_says_that_it_is_one_and_where_the_ledger_lives(tmp_path):
    result = run(tmp_path, written(tmp_path / "rows.csv", rows()), ledgers=tmp_path / "place")
    folder = tmp_path / "out" / "ledger"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.txt", "alder.snapshot.jsonl", "birch.snapshot.jsonl", "cedar.snapshot.jsonl"
    ]  # fmt: skip
    told = (folder / "README.txt").read_text()
    live = tmp_path / "place" / "alder" / "alder.simulated.jsonl"
    assert "Snapshots of 20" in told and f"alder: {live}\n" in told
    assert (
        verify_ledger(folder / "alder.snapshot.jsonl", ledger_verifier(None)).head
        == verify_ledger(live, ledger_verifier(None)).head
    )
    assert not any("ledger" in note for note in result["notes"])


def test_ledgers_that_lay_beside_the_data_are_taken_over_and_said(tmp_path):
    data = written(tmp_path / "rows.csv", rows())
    run(tmp_path, data, ledgers=tmp_path / "before")
    old = tmp_path / "rows.csv.ledgers" / "alder.jsonl"
    old.parent.mkdir()
    shutil.copy2(tmp_path / "before" / "alder" / "alder.simulated.jsonl", old)
    result = run(tmp_path, data, out="again")
    notes = [note for note in result["notes"] if str(old) in note]
    assert len(notes) == 1 and notes[0].startswith("alder: the ledger ") and "goes on as" in notes[0]
    assert len(summary().releases) == 2 and len(summary("birch").releases) == 1
    third = run(tmp_path, data, out="third")
    assert len(summary().releases) == 3 and not any(str(old) in note for note in third["notes"])


def test_a_seeded_run_keeps_its_ledgers_and_touches_no_registry(tmp_path):
    plan = plan_tables(settings(), written(tmp_path / "rows.csv", rows()), 3, None)
    execute(plan, tmp_path / "out", seed=3, device="cpu", display=quiet)
    assert not list(Path(os.environ["SECUREPFL_LEDGERS"]).iterdir())
    told = (tmp_path / "out" / "ledger" / "README.txt").read_text()
    assert "of this run alone" in told and "seeded" in told
    (path,) = (tmp_path / "out" / "ledger" / "alder").glob("*.jsonl")
    assert json.loads(path.read_text().splitlines()[0])["seeded"]


def test_what_a_data_set_is_known_as_holds_no_cell(tmp_path):
    plan = plan_tables(settings(), written(tmp_path / "rows.csv", rows()), None, None)
    known = plan.data_sets["alder"]
    assert isinstance(known, KnownAs) and set(known.by) == {"cells", "row", "patient"}
    assert all(len(text) == 32 for kind in ("cells", "row") for text in known.by[kind])
