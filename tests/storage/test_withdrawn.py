"""Patients who withdrew their consent: their records train no more, and nobody can tell from a line who they are."""

import hashlib

import numpy as np
import pytest

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.data.schema import DataSpec
from securepfl.data.tables import table_from_columns
from securepfl.errors import LedgerError
from securepfl.identifiers import asked_by, told_by
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.fingerprints import content_of
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.runtime.hospital import Hospital
from securepfl.runtime.planning import identities_in, known_as
from securepfl.storage.registry import Registry

SIGNER = LedgerSigner(Identity.generate("north"), trusting=True)
STEP = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)


def rows(count, seed=0, levels=None):
    draw = np.random.default_rng(seed)
    values = draw.normal(size=(count, 6)) if levels is None else draw.integers(0, levels, size=(count, 2))
    return [content_of(row) for row in values]


def opener(path, name, earlier=frozenset(), simulation=False):
    return Ledger.open(path, Terms("north", name, Budget(1e6, 1e-5), simulation=simulation, seeded=False), SIGNER)


def of_kind(kind, path, name, earlier):
    return opener(path, name, earlier, simulation=kind != "real")


def charge(place, identities, declared=None, kind="real"):
    registry = Registry(place, "north")

    def opened(path, name, earlier):
        return of_kind(kind, path, name, earlier)

    charged = registry.open(identities, declared, kind, opened)
    with charged.ledger as ledger:
        ledger.settle(ledger.reserve(STEP, federation="ab" * 32, round=1, attempt=0), STEP)
        registry.remember(charged.data_set, kind, ledger)
    return charged.data_set


def withdraw(place, identities, declared=None, units=1):
    return Registry(place, "north").withdraw(identities, declared, units, of_kind)


A, B = rows(40), rows(40, seed=1)
SPEC = DataSpec.from_mapping({"label": "ill", "patient": "id", "ranges": {"age": {"centre": 50.0, "spread": 20.0}}})


def test_records_that_withdrew_are_refused_and_the_others_go_on(tmp_path):
    charge(tmp_path, {"features": A})
    (path,) = withdraw(tmp_path, {"features": A[3:5]}, units=2)
    before = path.read_bytes()
    for held, declared in ((A, None), (A[4:5], None), (B + A[3:4], "others"), (A[::-1], "renamed")):
        with pytest.raises(LedgerError, match="withdrew their consent"):
            charge(tmp_path, {"features": held}, declared)
        with pytest.raises(LedgerError, match="withdrew their consent"):
            Registry(tmp_path, "north").find({"features": held}, declared, "real")
    assert path.read_bytes() == before
    assert charge(tmp_path, {"features": A[:3] + A[5:]}) == "north"
    spent = verify_ledger(path, SIGNER.verify)
    assert len(spent.releases) == 2 and spent.withdrawals[0].rounds == 1


def test_ids_of_patients_decide_within_their_data_set_alone(tmp_path):
    charge(tmp_path, {"features": A, "patient": [b"1", b"2", b"3"]}, "stroke")
    withdraw(tmp_path, {"features": A[:1], "patient": [b"1"]}, "stroke")
    with pytest.raises(LedgerError, match="1 of these records"):  # newly measured, of the same patient
        charge(tmp_path, {"features": B, "patient": [b"1", b"2"]}, "stroke")
    assert charge(tmp_path, {"features": B, "patient": [b"1", b"2"]}, "sepsis") == "sepsis"
    assert charge(tmp_path, {"features": A[1:], "patient": [b"2", b"3"]}, "stroke") == "stroke"


def test_chance_refuses_nobody_where_values_are_few(tmp_path):
    few = rows(200, levels=3)
    charge(tmp_path, {"features": few}, "survey")
    withdraw(tmp_path, {"features": few[:1]}, "survey")
    assert charge(tmp_path, {"features": few[1:]}, "survey") == "survey"


def test_rows_that_stand_twice_in_a_file_hide_nobody(tmp_path):
    charge(tmp_path, {"features": A})
    withdraw(tmp_path, {"features": A[:1]})
    with pytest.raises(LedgerError, match="withdrew"):
        charge(tmp_path, {"features": [one for one in A for _ in range(2)]})


def test_rows_that_only_test_hold_nobody_who_withdrew_either(tmp_path):
    table = table_from_columns("north", {"age": range(20, 60), "id": range(40), "ill": [0, 1] * 20}, SPEC, "north")
    train, test = (table.select(np.arange(40) % 4 == part) for part in (0, 1))
    registry = Registry(tmp_path, "north")
    before = known_as(Hospital(train, test), None)
    charge(tmp_path, before.by)
    registry.withdraw(identities_in(train.select(np.arange(10) == 3)), None, 1, of_kind)
    rest, gone = train.select(np.arange(10) != 3), train.select(np.arange(10) == 3)
    for hospital, refused in ((Hospital(rest, test), False), (Hospital(rest, gone), True)):
        known = known_as(hospital, None)
        try:
            registry.find(known.by, known.id, "real", known.beside)
        except LedgerError as error:
            assert refused and "1 of these records" in str(error)
        else:
            assert not refused


@pytest.mark.parametrize(
    ("told", "asked", "refused"),
    [
        ("007", "7", True),
        ("7", "0007", True),
        ("A-12", "a 12", True),
        ("010170-1234", "0101701234", True),
        ("0101701234", "010170-1234", True),
        ("\u0415-1", "E-1", True),
        ("1-11", "11-1", False),
        ("1.5", "15", False),
        ("7", "8", False),
    ],
)
def test_another_spelling_of_an_id_is_the_same_patient(tmp_path, told, asked, refused):
    charge(tmp_path, {"features": A, "patient": [told.encode()]}, "stroke")
    gone = {"features": A[:1], "patient": [told.encode()], "spelling": [one.encode() for one in told_by(told)]}
    withdraw(tmp_path, gone, "stroke")
    again = {"features": B, "patient": [asked.encode()]}
    beside = {"spelling": [one.encode() for one in asked_by(asked)]}
    for id_, ends in (("stroke", refused), ("sepsis", False)):
        if ends:
            with pytest.raises(LedgerError, match="1 of these records"):
                Registry(tmp_path, "north").find(again, id_, "real", beside)
        else:
            assert Registry(tmp_path, "north").find(again, id_, "real", beside).id == id_


def test_one_patient_who_trains_counts_as_one(tmp_path):
    """Its name stands among those of all rows (`beside`) as well."""
    words = {ask: [word.encode() for word in ask("7")] for ask in (told_by, asked_by)}
    charge(tmp_path, {"features": A, "patient": [b"7"]}, "stroke")
    withdraw(tmp_path, {"features": A[:1], "patient": [b"7"], "spelling": words[told_by]}, "stroke")
    again = {"features": A, "patient": [b"7"]}
    with pytest.raises(LedgerError, match="north: 1 of these records"):
        Registry(tmp_path, "north").find(again, "stroke", "real", {"spelling": words[asked_by]})


def test_a_patient_whose_cells_were_corrected_did_train_all_the_same(tmp_path):
    charge(tmp_path, {"features": A, "patient": [b"1", b"2"]}, "stroke")
    corrected = {"features": B[:1], "patient": [b"1"]}
    with pytest.raises(LedgerError, match="patients of these ids stand in data set stroke"):
        withdraw(tmp_path, corrected)
    (path,) = withdraw(tmp_path, corrected, "stroke")
    assert verify_ledger(path, SIGNER.verify).withdrawals[0].units == 1
    with pytest.raises(LedgerError, match="withdrew"):
        charge(tmp_path, {"features": A, "patient": [b"1", b"2"]})


def test_each_ledger_that_counts_one_of_the_records_gets_a_line(tmp_path):
    charge(tmp_path, {"features": A}, "stroke")
    charge(tmp_path, {"features": B}, "sepsis")
    written = withdraw(tmp_path, {"features": [A[0], B[0]]}, units=2)
    assert [path.name for path in written] == ["stroke.jsonl", "sepsis.jsonl"]
    for held in (A, B):
        with pytest.raises(LedgerError, match="withdrew"):
            charge(tmp_path, {"features": held})


def test_nobody_is_told_that_records_never_trained_while_that_is_not_known(tmp_path):
    charge(tmp_path, {"features": A}, "stroke")
    (tmp_path / "north" / "stroke.rows").unlink()
    for declared in (None, "stroke"):
        with pytest.raises(LedgerError, match="is not known; restore it"):
            withdraw(tmp_path, {"features": A[:1]}, declared)


def test_simulations_and_real_runs_each_get_a_line_and_either_refuses_both(tmp_path):
    charge(tmp_path, {"features": A})
    charge(tmp_path, {"features": A}, kind="simulated")
    written = withdraw(tmp_path, {"features": A[:1]})
    assert [path.name for path in written] == ["north.jsonl", "north.simulated.jsonl"]
    for kind in ("real", "simulated"):
        with pytest.raises(LedgerError, match="withdrew"):
            charge(tmp_path, {"features": A}, kind=kind)


def test_a_second_time_changes_nothing_and_a_second_patient_adds_a_line(tmp_path):
    charge(tmp_path, {"features": A})
    (path,) = withdraw(tmp_path, {"features": A[:1]})
    before = path.read_bytes()
    assert withdraw(tmp_path, {"features": A[:1]}) == (path,) and path.read_bytes() == before
    withdraw(tmp_path, {"features": A[:2]}, units=2)
    withdraw(tmp_path, {"features": A[:5]}, units=5)  # a list that grows counts nobody twice
    assert [one.units for one in verify_ledger(path, SIGNER.verify).withdrawals] == [1, 1, 3]


def test_records_that_never_trained_leave_everything_as_it_was(tmp_path):
    with pytest.raises(LedgerError, match="has no ledger here"):
        withdraw(tmp_path, {"features": B[:1]})
    charge(tmp_path, {"features": A})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(LedgerError, match="none of them ever trained"):
        withdraw(tmp_path, {"features": B[:1]})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("harm", ["missing", "emptied", "older", "damaged"])
def test_a_file_that_lacks_a_withdrawal_is_refused(tmp_path, harm):
    charge(tmp_path, {"features": A})
    (path,) = withdraw(tmp_path, {"features": A[:1]})
    file = path.with_suffix(".withdrawn")
    older = file.read_bytes()
    withdraw(tmp_path, {"features": A[1:2]})
    if harm == "missing":
        file.unlink()
    else:
        changed = {"emptied": b'{"schema":1,"entries":[]}', "older": older, "damaged": file.read_bytes()[:-9]}
        file.write_bytes(changed[harm])
    with pytest.raises(LedgerError, match=r"lacks a withdrawal|is damaged"):
        charge(tmp_path, {"features": A[5:]})


def test_a_kill_between_file_and_line_still_refuses_and_the_same_again_writes_the_line(tmp_path):
    charge(tmp_path, {"features": A})

    class KilledError(Exception):
        pass

    def killed(*words):
        ledger = of_kind(*words)
        ledger.withdraw = lambda *_: (_ for _ in ()).throw(KilledError)
        return ledger

    with pytest.raises(KilledError):
        Registry(tmp_path, "north").withdraw({"features": A[:1]}, None, 1, killed)
    with pytest.raises(LedgerError, match="withdrew"):
        charge(tmp_path, {"features": A})
    (path,) = withdraw(tmp_path, {"features": A[:1]})
    assert len(verify_ledger(path, SIGNER.verify).withdrawals) == 1


def test_a_line_tells_nobody_whom_it_is_about(tmp_path):
    """Not who guesses all records and ids: the salt is not in the ledger, nor is any fingerprint."""
    charge(tmp_path, {"features": A, "patient": [b"1", b"2"]})
    (path,) = withdraw(tmp_path, {"features": A[:1], "patient": [b"1"]})
    line = path.read_bytes().splitlines()[-1]
    for text in (
        A[0],
        A[0].hex().encode(),
        hashlib.sha256(A[0]).hexdigest().encode(),
        hashlib.sha256(b"1").hexdigest().encode(),
    ):
        assert text not in line
    one, other = tmp_path / "a", tmp_path / "b"
    lines = []
    for place in (one, other):
        charge(place, {"features": A})
        lines.append(verify_ledger(withdraw(place, {"features": A[:1]})[0], SIGNER.verify).withdrawals[0].commitment)
    assert lines[0] != lines[1]
