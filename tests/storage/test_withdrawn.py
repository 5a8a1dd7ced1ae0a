"""Patients who withdrew their consent: their records train no more, and nobody can tell from a line who they are."""

import hashlib

import numpy as np
import pytest

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import LedgerError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.fingerprints import content_of
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.summary import verify_ledger
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
    assert [one.units for one in verify_ledger(path, SIGNER.verify).withdrawals] == [1, 2]


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
