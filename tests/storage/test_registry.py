"""A hospital's registry of ledgers: which ledger is charged for which records, and what is refused."""

import json
import os
import threading

import msgspec
import numpy as np
import pytest

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import ConfigError, LedgerError, StorageError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.fingerprints import content_of
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.storage.registry import Registry, ledgers_place

SIGNER = LedgerSigner(Identity.generate("north"), trusting=True)
STEP = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)


def rows(count, seed=0, levels=None):
    """Identities of made-up records: real numbers, or a few levels in each of three columns."""
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, 6)) if levels is None else draw.integers(0, levels, size=(count, 3))
    return [content_of(row) for row in values]


def features(*parts):
    return {"features": [text for part in parts for text in part]}


def opener(path, name, earlier=frozenset()):
    terms = Terms("north", name, Budget(1e6, 1e-5), simulation=False, seeded=False)
    return Ledger.open(path, terms, SIGNER)


def charge(place, identities, declared=None, *, spend=True, site="north"):
    """Open, reserve a step, close: (data set, notes)."""
    registry = Registry(place, site)
    charged = registry.open(identities, declared, "real", opener)
    with charged.ledger as ledger:
        if spend:
            ledger.settle(ledger.reserve(STEP, federation="ab" * 32, round=1, attempt=0), STEP)
        registry.remember(charged.data_set, "real", ledger)
    return charged.data_set, charged.notes


def spends(place, data_set="north"):
    """How many releases the ledger of a data set counts."""
    return (place / "north" / f"{data_set}.jsonl").read_bytes().count(b'"reservation"')


A, B = rows(40), rows(40, seed=1)


@pytest.mark.parametrize(
    ("again", "declared"),
    [
        (A, None),
        (A[::-1], None),
        (A[:1], None),
        (A[5:25], "stroke"),
        (A + B, "sepsis"),
        (A + A, "doubled"),
        (B[:30] + A[:1], None),
    ],
    ids=["same", "another order", "one record", "part and another id", "more", "each twice", "one among others"],
)
def test_records_that_a_ledger_knows_are_charged_to_it(tmp_path, again, declared):
    assert charge(tmp_path, features(A), "biopsies") == ("biopsies", ())
    found, notes = charge(tmp_path, features(again), declared)
    assert found == "biopsies" and spends(tmp_path, "biopsies") == 2
    assert len(notes) == (declared is not None) and all("biopsies" in note for note in notes)


def test_records_that_came_with_known_ones_are_known_from_then_on(tmp_path):
    charge(tmp_path, features(A))
    charge(tmp_path, features(A[:3], B))
    assert charge(tmp_path, features(B[20:]), "new")[0] == "north"


def test_records_that_nobody_knows_get_a_ledger_of_their_own(tmp_path):
    assert charge(tmp_path, features(A))[0] == "north"
    assert charge(tmp_path, features(B))[0] == "north-2"
    assert charge(tmp_path, features(rows(40, seed=2)), "stroke")[0] == "stroke"
    assert [one.id for one in Registry(tmp_path, "north").data_sets()] == ["north", "north-2", "stroke"]
    assert [spends(tmp_path, name) for name in ("north", "north-2", "stroke")] == [1, 1, 1]


def test_a_declared_data_set_keeps_its_ledger_as_it_grows_to_other_records(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    assert charge(tmp_path, features(B), "biopsies") == ("biopsies", ())
    assert spends(tmp_path, "biopsies") == 2


def test_records_of_two_ledgers_are_refused_and_both_named(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    charge(tmp_path, features(B), "stroke")
    before = {path: path.read_bytes() for path in (tmp_path / "north").iterdir()}
    for declared in (None, "biopsies", "third"):
        with pytest.raises(LedgerError, match=r"biopsies \(50% of them\) and stroke \(50% of them\).*leave out"):
            charge(tmp_path, features(A, B), declared)
    assert {path: path.read_bytes() for path in (tmp_path / "north").iterdir()} == before


def test_any_kind_of_identity_is_enough(tmp_path):
    charge(tmp_path, {"features": A, "cells": [b"cells" + text for text in A]})
    assert charge(tmp_path, {"features": B, "cells": [b"cells" + text for text in A[:2]]}, "other")[0] == "north"
    assert charge(tmp_path, {"features": rows(9, seed=5), "cells": A})[0] == "north-2"  # a kind is no other


def test_ids_of_patients_decide_nothing_and_are_told(tmp_path):
    numbered = [str(number).encode() for number in range(40)]
    charge(tmp_path, {"features": A, "patient": numbered}, "biopsies")
    found, (note,) = charge(tmp_path, {"features": B, "patient": numbered})
    assert found == "north" and '[data] id = "biopsies"' in note and "patients" in note
    assert charge(tmp_path, {"features": B, "patient": numbered}, "north") == ("north", ())


def test_a_simulation_and_a_real_run_have_ledgers_of_their_own(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    registry = Registry(tmp_path, "north")
    terms = Terms("north", "biopsies", Budget(1.0, 1e-5), simulation=True, seeded=False)
    charged = registry.open(features(A), "biopsies", "simulated", lambda path, *_: Ledger.open(path, terms, SIGNER))
    charged.ledger.close()
    assert charged.ledger.path.name == "biopsies.simulated.jsonl" and charged.notes == ()
    assert {(one.id, one.kind) for one in registry.data_sets()} == {("biopsies", "real"), ("biopsies", "simulated")}


# Three columns of three levels: 27 different records, so that 60 of other patients equal some by chance.
FEW, OTHERS = rows(60, levels=3), rows(60, seed=1, levels=3)


def test_records_of_few_different_values_follow_the_declared_id(tmp_path):
    charge(tmp_path, features(FEW), "biopsies")
    found, (note,) = charge(tmp_path, features(OTHERS), "stroke")
    assert found == "stroke" and "chance" in note and '[data] id = "biopsies"' in note
    assert charge(tmp_path, features(OTHERS[:50]), "biopsies")[0] == "biopsies"


def test_records_of_few_different_values_without_an_id_are_charged_to_be_safe(tmp_path):
    charge(tmp_path, features(FEW), "biopsies")
    found, (note,) = charge(tmp_path, features(OTHERS))
    assert found == "biopsies" and "declare another [data] id" in note
    charge(tmp_path, features(rows(50, seed=2, levels=3)), "stroke")
    with pytest.raises(LedgerError, match=r"any of the data sets biopsies, stroke; declare which"):
        charge(tmp_path, features(rows(50, seed=3, levels=3)))


def test_all_records_together_are_known_however_few_values_they_have(tmp_path):
    charge(tmp_path, features(FEW), "biopsies")
    assert charge(tmp_path, features(FEW[::-1]), "stroke")[0] == "biopsies"


def test_a_few_twins_among_many_records_hide_nobody(tmp_path):
    mostly = A + A[:2]  # 4 of 42 have a twin
    charge(tmp_path, features(mostly), "biopsies")
    assert charge(tmp_path, features(A[10:20], B[:20]), "stroke")[0] == "biopsies"


@pytest.mark.parametrize("id_", ["", ".hidden", "a/b", "a\\b", "a\nb", "x" * 101, "a.simulated", " a", 'a"'])
def test_an_id_that_is_no_file_name_is_refused(tmp_path, id_):
    with pytest.raises(ConfigError, match="cannot be a file's name"):
        charge(tmp_path, features(A), id_)
    assert not (tmp_path / "north").exists()


def test_two_ids_that_differ_in_capitals_are_refused(tmp_path):
    charge(tmp_path, features(A), "Biopsies")
    with pytest.raises(ConfigError, match="reads like 'Biopsies'"):
        charge(tmp_path, features(B), "biopsies")


def test_nothing_but_this_user_reads_the_registry_and_no_record_stands_in_it(tmp_path):
    secret = b"ann, born 1961"
    charge(tmp_path, {"features": [secret, *A]})
    folder = tmp_path / "north"
    assert folder.stat().st_mode & 0o077 == 0
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0 and secret not in path.read_bytes()
        assert not any(text in path.read_bytes() for text in A)


def test_two_registries_share_no_fingerprint(tmp_path):
    found = []
    for name in ("one", "two"):
        charge(tmp_path / name, features(A))
        data = (tmp_path / name / "north" / "north.rows").read_bytes()[25:]
        found.append({data[start : start + 16] for start in range(0, len(data), 16)})
    assert len(found[0]) == 41 and not found[0] & found[1]


# What happens to files: see the table in docs/ledger.md.


def test_a_ledger_restored_from_a_backup_is_refused(tmp_path):
    charge(tmp_path, features(A))
    path = tmp_path / "north" / "north.jsonl"
    backup = path.read_bytes()
    charge(tmp_path, features(A))
    now = path.read_bytes()
    for content in (backup, b""):
        path.write_bytes(content)
        with pytest.raises(LedgerError, match=r"older copy stands there.*restore the latest one"):
            charge(tmp_path, features(A))
        assert path.read_bytes() == content
    path.unlink()
    with pytest.raises(LedgerError, match="is missing or empty"):
        charge(tmp_path, features(A))
    assert not path.exists()
    path.write_bytes(now)
    assert charge(tmp_path, features(A))[0] == "north"


@pytest.mark.parametrize("name", ["registry.json", "north.rows"])
def test_another_file_restored_from_a_backup_is_refused(tmp_path, name):
    charge(tmp_path, features(A))
    path = tmp_path / "north" / name
    backup = path.read_bytes()
    charge(tmp_path, features(A[:3], B))
    charge(tmp_path, features(rows(9, seed=4)), "third")
    path.write_bytes(backup)
    with pytest.raises(LedgerError, match=r"(older than that ledger|fingerprints where).*latest copy"):
        charge(tmp_path, features(B))


def test_a_listing_that_is_missing_or_damaged_is_refused_and_nothing_is_begun_anew(tmp_path):
    charge(tmp_path, features(A))
    path = tmp_path / "north" / "registry.json"
    whole = path.read_bytes()
    for content in (b"", whole[:-9], whole.replace(b'"lines"', b'"linse"'), b"\xff"):
        path.write_bytes(content)
        with pytest.raises(LedgerError, match=r"registry.json: is damaged; restore"):
            charge(tmp_path, features(A))
    path.unlink()
    for ask in (lambda: charge(tmp_path, features(A)), lambda: Registry(tmp_path, "north").data_sets()):
        with pytest.raises(LedgerError, match=r"registry.json: is missing, but ledgers lie beside it"):
            ask()
    assert not path.exists() and spends(tmp_path) == 1


def test_a_listing_of_another_hospital_or_a_later_version_is_refused(tmp_path):
    charge(tmp_path, features(A))
    path = tmp_path / "north" / "registry.json"
    content = json.loads(path.read_bytes())
    for change, words in (({"site": "south"}, "is south's, not north's"), ({"schema": 2}, "schema 2")):
        path.write_text(json.dumps(content | change))
        with pytest.raises(LedgerError, match=words):
            charge(tmp_path, features(A))


def test_a_lost_key_is_told_and_the_ledgers_go_on_under_their_ids(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    charge(tmp_path, features(B), "stroke")
    folder = tmp_path / "north"
    for content in (None, bytes(32), b"short"):
        (folder / "key").unlink(missing_ok=True)
        if content is not None:
            (folder / "key").write_bytes(content)
        with pytest.raises(LedgerError, match=r"key: is missing or another.*remove it and all .rows files"):
            charge(tmp_path, features(A))
    for path in (folder / "key", *folder.glob("*.rows")):
        path.unlink()
    for declared in (None, "third"):
        with pytest.raises(LedgerError, match=r"data set biopsies counts is not known"):
            charge(tmp_path, features(A), declared)
    for records, name in ((A, "biopsies"), (B, "stroke")):
        assert charge(tmp_path, features(records), name) == (name, ())
        assert spends(tmp_path, name) == 2
    assert charge(tmp_path, features(A[:3]), "third")[0] == "biopsies"


def test_a_fingerprint_file_that_is_lost_or_damaged_stops_all_but_its_own_data_set(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    path = tmp_path / "north" / "biopsies.rows"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LedgerError, match=r"biopsies.rows: is not a file of fingerprints.*restore"):
        charge(tmp_path, features(A))
    path.unlink()
    for declared in (None, "stroke"):
        with pytest.raises(LedgerError, match=r'counts is not known.*\[data\] id = "biopsies"'):
            charge(tmp_path, features(B), declared)
    assert charge(tmp_path, features(A), "biopsies")[0] == "biopsies"
    assert charge(tmp_path, features(A[:2]), "stroke")[0] == "biopsies"


def test_a_registry_that_cannot_be_written_is_told(tmp_path, monkeypatch):
    charge(tmp_path, features(A))
    before, opened = {path: path.read_bytes() for path in (tmp_path / "north").iterdir()}, os.open

    def read_only(path, flags, *rest, **named):
        if flags & os.O_CREAT:
            raise OSError(30, "Read-only file system")
        return opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, "open", read_only)
    with pytest.raises(StorageError, match="Read-only file system; make room or choose"):
        charge(tmp_path, features(A))
    assert {path: path.read_bytes() for path in (tmp_path / "north").iterdir()} == before


def test_a_place_that_is_a_file_is_told(tmp_path):
    (tmp_path / "place").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        charge(tmp_path / "place", features(A))


def test_a_full_disk_leaves_nothing_half_written(tmp_path, monkeypatch):
    charge(tmp_path, features(A))
    folder = tmp_path / "north"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fsync, calls, allowed = os.fsync, [], 0

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) > allowed:
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    for most in range(12):
        allowed = most
        calls.clear()
        monkeypatch.setattr(os, "fsync", full)
        try:
            charge(tmp_path, features(A[:3], B), spend=False)
        except StorageError as error:
            assert "make room" in str(error)
        else:
            break
        monkeypatch.setattr(os, "fsync", fsync)
        assert not list(folder.glob(".*.partial"))
        assert charge(tmp_path, features(A), spend=False)[0] == "north"  # it can be read, and goes on
        assert (folder / "north.jsonl").read_bytes().startswith(before["north.jsonl"])
    assert 4 < allowed < 11


def test_what_a_failed_opening_left_is_no_ledger_of_others(tmp_path):
    def refused(path, name, _):
        opener(path, name).close()
        raise StorageError("full")

    with pytest.raises(StorageError):
        Registry(tmp_path, "north").open(features(A), None, "real", refused)
    assert charge(tmp_path, features(B))[0] == "north" and spends(tmp_path) == 1


def test_looking_for_a_ledger_writes_nothing(tmp_path):
    registry = Registry(tmp_path, "north")
    assert registry.find(features(A), "biopsies", "real").new
    assert not (tmp_path / "north").exists() and registry.data_sets() == ()
    charge(tmp_path, features(A))
    before = {path: path.read_bytes() for path in (tmp_path / "north").iterdir()}
    assert registry.find(features(A[:2]), "biopsies", "real").id == "north"
    assert {path: path.read_bytes() for path in (tmp_path / "north").iterdir()} == before


def test_several_at_once_never_make_two_ledgers_for_the_same_records(tmp_path):
    found, failed = [], []

    def one():
        try:
            found.append(charge(tmp_path, features(A), spend=False)[0])
        except LedgerError as error:  # the ledger has one writer at a time
            failed.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(found) == {"north"} and len(found) + len(failed) == 8
    assert all("has this ledger open" in words for words in failed)
    assert [one.id for one in Registry(tmp_path, "north").data_sets()] == ["north"]


# Ledgers of before there was a registry.


def old_ledger(path, name="north", spends=2):
    with opener(path, name) as ledger:
        for number in range(1, spends + 1):
            ledger.settle(ledger.reserve(STEP, federation="ab" * 32, round=number, attempt=0), STEP)
    return path


def test_a_ledger_of_before_is_taken_over_and_goes_on(tmp_path):
    old = old_ledger(tmp_path / "rows.csv.ledgers" / "north.jsonl")
    kept = old.read_bytes()
    registry = Registry(tmp_path / "place", "north")
    assert registry.take_in(old, None, "real") == registry.take_in(old, None, "real") == "north"
    with pytest.raises(LedgerError, match="is not known"):  # until its own records were seen
        charge(tmp_path / "place", features(B), "stroke")
    assert charge(tmp_path / "place", features(A), "north")[0] == "north"
    assert spends(tmp_path / "place") == 3 and old.read_bytes() == kept
    assert registry.take_in(old, None, "real") is None
    assert charge(tmp_path / "place", features(A), "stroke")[0] == "north"


def test_a_ledger_of_before_gets_the_declared_id_and_keeps_its_name_in_its_lines(tmp_path):
    old = old_ledger(tmp_path / "north.jsonl")
    assert Registry(tmp_path, "north").take_in(old, "biopsies", "real") == "biopsies"
    assert charge(tmp_path, features(A), "biopsies")[0] == "biopsies"
    sessions = [line for line in (tmp_path / "north" / "biopsies.jsonl").read_text().splitlines() if "data_set" in line]
    assert [json.loads(line)["data_set"] for line in sessions] == ["north", "north"]


def test_a_ledger_that_went_on_after_it_was_taken_over_is_refused(tmp_path):
    old = old_ledger(tmp_path / "north.jsonl")
    registry = Registry(tmp_path, "north")
    charge(tmp_path, features(A), registry.take_in(old, None, "real"))
    old_ledger(old, spends=1)
    with pytest.raises(LedgerError, match=r"went on after it was taken over as .*north/north.jsonl"):
        registry.take_in(old, None, "real")


def test_a_declared_data_set_with_a_ledger_takes_over_no_second_one(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    registry = Registry(tmp_path, "north")
    with pytest.raises(LedgerError, match="which has one"):
        registry.take_in(old_ledger(tmp_path / "north.jsonl"), "biopsies", "real")
    assert registry.take_in(tmp_path / "north.jsonl", None, "real") == "north"


def test_a_damaged_ledger_of_before_is_told(tmp_path):
    old = old_ledger(tmp_path / "north.jsonl")
    old.write_bytes(old.read_bytes().replace(b'"site"', b'"sitt"', 1))
    with pytest.raises(LedgerError, match=r"north.jsonl: line 1 .*restore"):
        Registry(tmp_path, "north").take_in(old, None, "real")
    assert Registry(tmp_path, "north").take_in(tmp_path / "none.jsonl", None, "real") is None


def test_the_place_of_registries_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(tmp_path / "here"))
    assert ledgers_place() == tmp_path / "here"
    monkeypatch.delenv("SECUREPFL_LEDGERS")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert ledgers_place() == tmp_path / "securepfl" / "ledgers"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ledgers_place() == tmp_path / ".local" / "state" / "securepfl" / "ledgers"


def test_the_listing_is_as_its_schema_says(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    content = msgspec.json.decode((tmp_path / "north" / "registry.json").read_bytes())
    assert sorted(content) == ["data_sets", "key", "registry", "schema", "signers", "site"]
    (one,) = content["data_sets"]
    assert sorted(one) == ["head", "id", "kind", "lines", "marks", "name", "origin", "twins"]
    assert (one["lines"], one["marks"], one["twins"]["features"]) == (3, 41, 0.0)


def test_a_hospital_with_a_new_identity_goes_on_with_its_ledgers_and_nobody_else_does(tmp_path):
    terms = Terms("north", "north", Budget(1e6, 1e-5), simulation=False, seeded=False)

    def as_somebody(identity):
        def opened(path, name, earlier):
            return Ledger.open(path, terms, LedgerSigner(identity, trusting=False, earlier=earlier))

        return opened

    registry = Registry(tmp_path, "north")
    for _ in range(2):
        registry.open(features(A), None, "real", as_somebody(Identity.generate("north"))).ledger.close()
    assert len(registry.signers()) == 2
    stranger = LedgerSigner(Identity.generate("north"), trusting=False)
    with pytest.raises(LedgerError, match="names a key that is not trusted here"):
        Ledger.open(tmp_path / "north" / "north.jsonl", terms, stranger)


# Other sites at the same place, and where the place is.


def test_a_hospital_under_another_name_begins_no_ledger_for_records_that_are_known(tmp_path):
    charge(tmp_path, features(A))
    for records in (features(A), features(A[:25]), features(A + B[:30])):
        with pytest.raises(LedgerError, match=r"of these records are known to north's ledger .*take part as north"):
            charge(tmp_path, records, site="north-clinic")
        assert not list((tmp_path / "north-clinic").glob("*.jsonl"))


def test_a_patient_of_two_sites_is_told_and_refuses_neither(tmp_path):
    charge(tmp_path, features(A))
    found, (note,) = charge(tmp_path, features(A[:2], B), site="south")
    assert found == "south" and "known to north's ledger" in note and "adds up" in note
    assert charge(tmp_path, features(A[:2], B), site="south") == ("south", ())


def test_sites_whose_registry_is_damaged_stop_no_other_site(tmp_path):
    charge(tmp_path, features(A))
    (tmp_path / "north" / "registry.json").write_bytes(b"")
    assert charge(tmp_path, features(B), site="south") == ("south", ())


def test_a_second_ledger_is_said_when_it_begins(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    for records, declared in ((B, None), (rows(40, seed=2), "stroke")):
        found, (note,) = charge(tmp_path, features(records), declared)
        assert found != "biopsies" and "a new ledger begins" in note and "biopsies" in note
        assert charge(tmp_path, features(records), declared) == (found, ())


def test_of_many_ledgers_a_note_names_three(tmp_path):
    for seed in range(4):
        charge(tmp_path, features(rows(40, seed=seed + 10)), f"study-{seed}")
    _, (note,) = charge(tmp_path, features(A))
    assert "study-2 and 1 more (`securepfl audit ledgers` lists all)" in note and "study-3" not in note


def test_a_relative_place_is_one_place(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    registry = Registry(type(tmp_path)("ledgers"), "north")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert registry.folder == tmp_path / "ledgers" / "north"
    monkeypatch.setenv("SECUREPFL_LEDGERS", "ledgers")
    with pytest.raises(ConfigError, match=r"SECUREPFL_LEDGERS is 'ledgers': give a full path"):
        ledgers_place()
    monkeypatch.delenv("SECUREPFL_LEDGERS")
    monkeypatch.setenv("XDG_STATE_HOME", "state")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert ledgers_place() == tmp_path / ".local" / "state" / "securepfl" / "ledgers"


def test_what_to_do_for_a_ledger_of_its_own_is_said_where_a_part_is_known(tmp_path):
    charge(tmp_path, features(A), "biopsies")
    _, (note,) = charge(tmp_path, features(A[:2], B), "stroke")
    assert "without the records that it knows, stroke gets a ledger of its own" in note
