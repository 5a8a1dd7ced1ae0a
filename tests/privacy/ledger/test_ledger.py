import copy
import dataclasses
import errno
import hashlib
import json
import os
import resource
import subprocess
import sys
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from securepfl.errors import BudgetError, ConfigError, LedgerError, StorageError
from securepfl.privacy.accounting.accounting import Composition, Release, Selection, SharedRelease, epsilon
from securepfl.privacy.accounting.versions import ACCOUNTANT
from securepfl.privacy.ledger.history import History, replay
from securepfl.privacy.ledger.ledger import Budget, Facts, Ledger, Terms
from securepfl.privacy.ledger.summary import SessionStart, verify_ledger

FEDERATION = "ab" * 32
FIRST_VERSION = Path(__file__).with_name("first_version.jsonl")
DECLARED = FIRST_VERSION.with_name("declared_sessions.jsonl")
DELTA = 1e-5


class Ed25519Signer:
    algorithm = "Ed25519"

    def __init__(self, seed=1):
        key = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.public_key, self.sign = key.public_key().public_bytes_raw(), key.sign

    @staticmethod
    def verify(algorithm, public_key, message, signature):
        if algorithm != "Ed25519":
            raise ValueError("has no valid signature")
        try:
            Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
        except InvalidSignature:
            raise ValueError("has no valid signature") from None


verify = Ed25519Signer.verify


def release(steps=1, noise=5.0):
    return Release(noise_multiplier=noise, sample_rate=1.0, steps=steps)


def open_ledger(path, *, signer=None, budget=4.0, delta=DELTA, run=None, **changes):
    defaults = {"site": "north", "data_set": "biopsies", "simulation": True, "seeded": False}
    terms = Terms(budget=Budget(budget, delta), **defaults | changes)
    return Ledger.open(path, terms, signer or Ed25519Signer(), run=run)


def reserve(ledger, round_, spent=None):
    return ledger.reserve(spent or release(), federation=FEDERATION, round=round_, attempt=0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "site" / "ledger.jsonl"


def filled(path, rounds=3):
    with open_ledger(path) as ledger:
        for round_ in range(1, rounds + 1):
            ledger.settle(reserve(ledger, round_), release())
    return path.read_bytes()


def test_every_line_is_canonical_chained_and_says_what_was_spent(path):
    lines = filled(path).splitlines()
    previous = "0" * 64
    for index, data in enumerate(lines):
        line = json.loads(data)
        assert rfc8785.dumps(line) == data
        assert (line["schema"], line["index"], line["previous"]) == (1, index, previous)
        assert (line["site"], line["simulation"], line["seeded"]) == ("north", True, False)
        previous = hashlib.sha256(data).hexdigest()
    assert [json.loads(data)["kind"] for data in lines] == ["declared-session"] + 3 * ["reservation", "settlement"]
    assert json.loads(lines[-1])["epsilon"] == pytest.approx(epsilon([release(3)], DELTA))


def test_verification_recomputes_the_same_summary(path):
    filled(path)
    summary = verify_ledger(path, verify)
    assert summary.epsilon == epsilon([release(3)], DELTA)
    assert summary.epsilon_replace_one == epsilon([release(3)], DELTA, "replace-one")
    assert summary.releases == (release(),) * 3
    assert summary.public_keys == (Ed25519Signer().public_key,)
    assert (summary.site, summary.data_set, summary.lines, summary.unsettled) == ("north", "biopsies", 7, 0)
    with open_ledger(path) as ledger:
        assert ledger.spent() == summary.epsilon
        assert ledger.spent_replace_one() == summary.epsilon_replace_one
        assert ledger.releases() == summary.releases


def test_two_runs_compose_instead_of_adding_up(path):
    filled(path)
    with open_ledger(path, signer=Ed25519Signer(2)) as ledger:
        reserve(ledger, 1)
        assert ledger.spent() == epsilon([release(4)], DELTA)
        assert ledger.spent() < epsilon([release(3)], DELTA) + epsilon([release(1)], DELTA)
    assert verify_ledger(path, verify).public_keys == (
        Ed25519Signer(1).public_key,
        Ed25519Signer(2).public_key,
    )


def test_a_spend_over_the_budget_is_refused_before_anything_is_written(path):
    budget = epsilon([release(3)], DELTA) * (1 + 1e-9)
    filled(path, rounds=2)
    with open_ledger(path, budget=budget, raise_budget=True) as ledger:
        reserve(ledger, 3)
        before, head = path.read_bytes(), ledger.head
        assert ledger.would_exceed(release())
        with pytest.raises(BudgetError, match=r"north: round 4 .* budget") as caught:
            reserve(ledger, 4)
        assert "\n" not in str(caught.value)
        assert (path.read_bytes(), ledger.head) == (before, head)
        assert ledger.spent() <= budget


def test_settling_for_less_is_refused_and_a_reduction_gives_the_rest_back_and_says_why(path):
    with open_ledger(path) as ledger:
        id_ = reserve(ledger, 1, release(10))
        before = path.read_bytes()
        with pytest.raises(ValueError, match="less than it reserved"):
            ledger.settle(id_, release(4))
        assert path.read_bytes() == before
        assert ledger.spent() == epsilon([release(10)], DELTA)
        ledger.reduce(id_, release(4), reason="the server lost power")
        assert ledger.spent() == epsilon([release(4)], DELTA)
        ledger.reduce(reserve(ledger, 2), release(0), reason="never started")
        assert ledger.spent() == epsilon([release(4)], DELTA)
    summary = verify_ledger(path, verify)
    assert (summary.epsilon, summary.settled_below) == (epsilon([release(4)], DELTA), 2)
    assert json.loads(path.read_bytes().splitlines()[2])["reason"] == "the server lost power"


def test_a_settlement_for_less_is_found_under_a_valid_signature(path):
    """Whoever writes their own lines can still reduce, and every reader is told; a plain settlement can't."""
    filled(path)
    resigned(path, lambda line: line["kind"] == "settlement" and line["actual"].update(steps=0))
    for attempt in (open_ledger, lambda path: verify_ledger(path, verify)):
        with pytest.raises(LedgerError, match=r"line 3 settles .* with less than it reserved"):
            attempt(path)


FACTS = Facts(units=200, unit="record", clip=1.5, settings="cd" * 32)


def test_a_session_says_from_what_and_by_what_its_lines_were_computed(path):
    with open_ledger(path, facts=FACTS, run="one") as ledger:
        ledger.settle(reserve(ledger, 1), release())
        ledger.record("expert-release", {"federation": FEDERATION})
    session, reserved, _, released = (json.loads(data) for data in path.read_bytes().splitlines())
    assert session["facts"] == {"units": 200, "unit": "record", "clip": 1.5, "settings": "cd" * 32}
    assert (session["adjacency"], session["accountant"]) == ("zero-out", ACCOUNTANT)
    assert session["versions"] == {name: version(name) for name in ("dp-accounting", "numpy", "scipy", "securepfl")}
    assert session["run"] == reserved["run"] == released["details"]["run"] == "one"
    assert reserved["federation"] == released["details"]["federation"] == FEDERATION
    assert [start.facts for start in verify_ledger(path, verify).sessions] == [FACTS]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda line: "facts" in line and line["facts"].update(unit="patient"), "line 2 counts by record"),
        (lambda line: "accountant" in line and line.update(accountant="mine"), "line 1 accounts by 'mine'"),
        (lambda line: "details" in line and line["details"].update(run="two"), "line 4 releases an expert of another"),
    ],
)
def test_lines_that_do_not_fit_their_session_are_found(path, change, found):
    with open_ledger(path, facts=FACTS, run="one") as ledger:
        ledger.settle(reserve(ledger, 1), release())
        ledger.record("expert-release", {})
    resigned(path, change)
    for attempt in (open_ledger, lambda path: verify_ledger(path, verify)):
        with pytest.raises(LedgerError, match=found):
            attempt(path)


def test_a_session_of_another_unit_reserves_nothing(path):
    with open_ledger(path, facts=FACTS) as ledger, pytest.raises(ValueError, match="counts by patient"):
        reserve(ledger, 1, patient())


@pytest.mark.parametrize(
    "actual",
    [
        release(11),
        release(10, noise=4.9),
    ],
)
def test_settling_for_more_is_refused(path, actual):
    with open_ledger(path) as ledger:
        id_ = reserve(ledger, 1, release(10))
        before = path.read_bytes()
        with pytest.raises(ValueError, match="more than it reserved"):
            ledger.settle(id_, actual)
        assert path.read_bytes() == before


def test_only_open_reservations_are_settled(path):
    with open_ledger(path) as ledger:
        id_ = reserve(ledger, 1)
        ledger.settle(id_, release())
        for wrong in (id_, "00"):
            with pytest.raises(ValueError, match="settles reservation"):
                ledger.settle(wrong, release())


def test_a_crash_leaves_the_reservation_counted_in_full(path):
    script = (
        "import os, sys; sys.path[:0] = sys.argv[2:]\n"
        "from pathlib import Path\n"
        "import test_ledger as t\n"
        "ledger = t.open_ledger(Path(sys.argv[1]), run='one')\n"
        "t.reserve(ledger, 1, t.release(10))\n"
        "os._exit(9)\n"
    )
    folder = Path(__file__).parent
    crashed = subprocess.run([sys.executable, "-c", script, path, folder, *sys.path], check=False)
    assert crashed.returncode == 9
    with open_ledger(path, run="one") as ledger:
        assert ledger.spent() == epsilon([release(10)], DELTA)
    assert verify_ledger(path, verify).unsettled == 1


def test_a_resumed_run_cannot_reserve_a_round_twice_and_a_new_run_can(path):
    with open_ledger(path) as ledger:
        run = ledger.run
        reserve(ledger, 1)
    with open_ledger(path, run=run) as ledger:
        before = path.read_bytes()
        with pytest.raises(LedgerError, match="already reserved"):
            reserve(ledger, 1)
        assert path.read_bytes() == before
        ledger.reserve(release(), federation=FEDERATION, round=1, attempt=1)
    with open_ledger(path) as ledger:
        assert ledger.run != run
        reserve(ledger, 1)
        assert len(ledger.releases()) == 3


def test_a_second_writer_is_refused_until_the_first_closes(path):
    with open_ledger(path), pytest.raises(LedgerError, match=f"{path}: another process"):
        open_ledger(path)
    open_ledger(path).close()


def test_a_closed_ledger_writes_nothing(path):
    ledger = open_ledger(path)
    ledger.close()
    before = path.read_bytes()
    with pytest.raises(ValueError, match="closed"):
        reserve(ledger, 1)
    assert path.read_bytes() == before


SHARED = SharedRelease(scale=9000, sensitivity=90.0, shares=4, dimension=100, tail=1e-15, steps=3)
SELECTION = Selection(candidate=(release(5, 90.0),), mean=2.0, shape="poisson")


def with_every_kind_of_line(path):
    with open_ledger(path) as ledger:
        ledger.settle(reserve(ledger, 1), release())
        ledger.reduce(reserve(ledger, 2, SHARED), msgspec.structs.replace(SHARED, steps=1), reason="two failed")
        ledger.settle(reserve(ledger, 3, SELECTION), SELECTION)
        ledger.record("expert-release", {"digest": "ab", "loss": None})
        ledger.record("audit", {"lower_bound": 0.3})
    return path.read_bytes()


def copied(history):
    """Takes lines without `history` noticing."""
    held = {name: copy.copy(getattr(history, name)) for name in ("sessions", "reserved", "settled", "spent_after")}
    return dataclasses.replace(history, **held)


def test_every_bit_of_every_byte_of_every_kind_of_line_counts(path):
    """Each bit is flipped on its own. The lines before are intact, so replay goes on from them."""
    history = History()
    for number, data in enumerate(with_every_kind_of_line(path).splitlines(), start=1):
        for position in range(len(data)):
            for bit in range(8):
                changed = bytearray(data)
                changed[position] ^= 1 << bit
                # A newline splits the line: its first half is read first, and refused.
                first = bytes(changed).split(b"\n")[0]
                with pytest.raises(LedgerError, match=f"ledger.jsonl: line {number} "):
                    list(replay("ledger.jsonl", [first], verify, copied(history), number))
        list(replay("ledger.jsonl", [data], verify, history, number))
    assert history.lines == 9


def test_a_changed_byte_anywhere_is_refused_by_reader_and_writer(path):
    content = with_every_kind_of_line(path)
    ends = [position for position, byte in enumerate(content) if byte == ord("\n")]
    for position in [*range(0, len(content), 97), *ends]:
        for value in (content[position] ^ 1, ord(" ") if position in ends else ord("\n")):
            changed = content[:position] + bytes([value]) + content[position + 1 :]
            path.write_bytes(changed)
            number = content[:position].count(b"\n") + 1
            for attempt in (open_ledger, lambda path: verify_ledger(path, verify)):
                with pytest.raises(LedgerError, match=rf"ledger.jsonl: line ({number}|{number + 1}) "):
                    attempt(path)
            assert path.read_bytes() == changed


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: [lines[0], *lines[2:]],
        lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: lines[1:],
        lambda lines: [*lines, b""],
        lambda lines: [lines[0].replace(b'"schema":1', b'"schema":1,"note":2'), *lines[1:]],
        lambda lines: [lines[0].replace(b'"kind":"declared-session"', b'"kind":"sermon"'), *lines[1:]],
        lambda lines: [lines[0].replace(b":", b": ", 1), *lines[1:]],
        lambda lines: [lines[0], b"[" * 100_000, *lines[1:]],
    ],
    ids=["removed", "reordered", "doubled", "beheaded", "blank", "key", "kind", "spaced", "nested"],
)
def test_other_damage_is_found_by_reader_and_writer(path, damage):
    lines = filled(path).splitlines()
    path.write_bytes(b"".join(line + b"\n" for line in damage(lines)))
    with pytest.raises(LedgerError, match=f"{path}: line "):
        verify_ledger(path, verify)
    with pytest.raises(LedgerError, match=f"{path}: line "):
        open_ledger(path)


def resigned(path, change):
    """The ledger as a hospital that wants to lie would write it: its own key, chain and signatures intact."""
    signer, previous, out = Ed25519Signer(), "0" * 64, []
    for data in path.read_bytes().splitlines():
        line = json.loads(data)
        change(line)
        line["previous"] = previous
        del line["signature"]
        message = b"securepfl ledger line, schema 1\n" + rfc8785.dumps(line)
        line["signature"] = signer.sign(message).hex()
        out.append(rfc8785.dumps(line))
        previous = hashlib.sha256(out[-1]).hexdigest()
    path.write_bytes(b"".join(line + b"\n" for line in out))


def test_resigning_alone_passes(path):
    before = filled(path)
    resigned(path, lambda line: None)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda line: line.update(epsilon=line["epsilon"] / 2), "states epsilon"),
        (
            lambda line: "actual" in line and line["actual"].update(noise_multiplier=4),
            "more than it reserved",
        ),
        (lambda line: "budget" in line and line["budget"].update(epsilon=0.5), "more than its budget"),
        (lambda line: line.update(seeded=line["kind"] == "reservation"), "seeded"),
        (lambda line: line.update(simulation="session" in line["kind"]), "simulation"),
        (lambda line: "round" in line and line.update(round=1), "id that is not its own"),
        (lambda line: line["kind"] == "reservation" and line.update(run="other"), "id that is not its own"),
    ],
)
def test_false_claims_under_valid_signatures_are_found(path, change, found):
    filled(path)
    resigned(path, change)
    with pytest.raises(LedgerError, match=found):
        verify_ledger(path, verify)


def test_a_forged_key_is_refused_where_the_verifier_pins_the_hospitals(path):
    filled(path)

    def pinned(algorithm, public_key, message, signature):
        if public_key != Ed25519Signer(9).public_key:
            raise ValueError("has no valid signature")
        verify(algorithm, public_key, message, signature)

    with pytest.raises(LedgerError, match="line 1 has no valid signature"):
        verify_ledger(path, pinned)


def test_cutting_lines_off_changes_the_head(path):
    content = filled(path)
    full = verify_ledger(path, verify)
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    cut = verify_ledger(path, verify)
    assert cut.head != full.head
    assert cut.unsettled == 1


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_a_torn_last_line_is_dropped_and_said_so(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "torn.jsonl"
    path.unlink(missing_ok=True)
    content = filled(path, rounds=1)
    whole, last = content[: content[:-1].rindex(b"\n") + 1], content[content[:-1].rindex(b"\n") + 1 :]
    torn = last[: data.draw(st.integers(1, len(last) - 2))]
    path.write_bytes(whole + torn)
    with pytest.raises(LedgerError, match="line 3 is missing or unfinished"):
        verify_ledger(path, verify)
    with open_ledger(path) as ledger:
        assert ledger.releases() == (release(),)  # the settlement was torn: the reservation counts in full
    assert path.read_bytes().startswith(whole)
    recovered = json.loads(path.read_bytes().splitlines()[-1])["recovered"]
    assert recovered == {"count": len(torn), "sha256": hashlib.sha256(torn).hexdigest()}
    assert verify_ledger(path, verify).unsettled == 1


def test_a_last_line_that_lacks_only_its_newline_still_counts(path):
    with open_ledger(path) as ledger:
        reserve(ledger, 1)
    path.write_bytes(path.read_bytes()[:-1])
    with open_ledger(path) as ledger:
        assert ledger.releases() == (release(),)
    assert verify_ledger(path, verify).unsettled == 1


@settings(max_examples=20, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 5), st.sampled_from([3.0, 10.0]), st.integers(0, 5), st.booleans(), st.booleans()),
        max_size=8,
    )
)
def test_any_sequence_stays_in_budget_and_verifies(tmp_path_factory, sequence):
    path = tmp_path_factory.getbasetemp() / "sequence.jsonl"
    path.unlink(missing_ok=True)
    expected, ledger = [], open_ledger(path, budget=2.0)
    for number, (steps, noise, actual, settle, reopen) in enumerate(sequence):
        if reopen:
            ledger.close()
            ledger = open_ledger(path, budget=2.0)
        wanted = release(steps, noise)
        if ledger.would_exceed(wanted):
            with pytest.raises(BudgetError):
                reserve(ledger, number, wanted)
            continue
        id_ = reserve(ledger, number, wanted)
        if settle:
            wanted = release(min(actual, steps), noise)
            ledger.reduce(id_, wanted, reason="drawn by lot")
        expected.append(wanted)
    with ledger:
        assert list(ledger.releases()) == expected
        assert ledger.spent() == epsilon(expected, DELTA) <= 2.0
        assert verify_ledger(path, verify).head == ledger.head


@pytest.mark.parametrize(
    "changes",
    [{"site": "south"}, {"data_set": "scans"}, {"simulation": False}],
    ids=lambda changes: next(iter(changes)),
)
def test_a_ledger_of_something_else_is_not_continued(path, changes):
    before = filled(path)
    with pytest.raises(LedgerError, match=f"{path}: ") as caught:
        open_ledger(path, **changes)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_each_session_accounts_at_its_own_delta(path):
    filled(path)
    with open_ledger(path, delta=1e-3, raise_budget=True) as ledger:
        assert ledger.spent() == epsilon([release(3)], 1e-3)
    assert verify_ledger(path, verify).epsilon == epsilon([release(3)], 1e-3)


@pytest.mark.parametrize("looser", [{"budget": 4.1}, {"delta": 2 * DELTA}])
def test_a_looser_budget_is_refused_unless_it_is_meant(path, looser):
    """A budget that any run may loosen bounds nothing."""
    filled(path)
    before = path.read_bytes()
    with pytest.raises(BudgetError, match="loosen"):
        open_ledger(path, **looser)
    assert path.read_bytes() == before
    open_ledger(path, raise_budget=True, **looser).close()
    verify_ledger(path, verify)


def test_seeded_and_unseeded_runs_never_share_a_ledger(path):
    filled(path)
    with pytest.raises(LedgerError, match="seeded simulations"):
        open_ledger(path, seeded=True)


def test_a_smaller_budget_later_refuses_but_keeps_the_past(path):
    filled(path)
    with open_ledger(path, budget=0.1) as ledger:
        assert not ledger.would_exceed(release()), "undecided, a ledger keeps its budget"
    with open_ledger(path, budget=0.1, raise_budget=True) as ledger:
        assert ledger.spent() > 0.1
        with pytest.raises(BudgetError):
            reserve(ledger, 1)
    verify_ledger(path, verify)


def test_an_expert_release_is_written_and_costs_nothing(path):
    filled(path)
    with open_ledger(path) as ledger:
        before = ledger.spent(), ledger.head
        ledger.record("expert-release", {"rounds": 3, "epsilon": ledger.spent()})
        assert ledger.spent() == before[0]
        assert ledger.head != before[1]
    assert json.loads(path.read_bytes().splitlines()[-1])["details"]["rounds"] == 3
    verify_ledger(path, verify)


@pytest.mark.parametrize("details", [{"x": float("nan")}, {"x": 2**60}, {"x": 1e18}, {"x": "\ud800"}])
def test_what_could_not_be_read_back_is_not_written(path, details):
    with open_ledger(path) as ledger:
        before = path.read_bytes()
        with pytest.raises(ValueError):
            ledger.record("expert-release", details)
        assert path.read_bytes() == before
        with pytest.raises(ValueError, match="kind"):
            ledger.record("metrics", {})
    verify_ledger(path, verify)


@contextmanager
def full_after(size):
    """No file of this process grows beyond `size` bytes meanwhile: a write stops in the middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def failing_fsync():
    with pytest.MonkeyPatch.context() as patch:

        def fail(descriptor):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(os, "fsync", fail)
        yield


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_leaves_file_and_memory_as_they_were(path, call):
    with open_ledger(path) as ledger:
        before, head = path.read_bytes(), ledger.head
        full, reason = {
            "write": (full_after(len(before) + 100), "File too large"),
            "fsync": (failing_fsync(), "No space left on device"),
        }[call]
        with full, pytest.raises(StorageError, match=f"{path}: {reason}") as caught:
            reserve(ledger, 1)
        assert "\n" not in str(caught.value)
        assert (path.read_bytes(), ledger.head, ledger.releases()) == (before, head, ())
        reserve(ledger, 1)
    assert verify_ledger(path, verify).unsettled == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match=str(tmp_path)):
        open_ledger(tmp_path / "ledger.jsonl")


def test_a_folder_in_place_of_the_file_is_named(tmp_path):
    for attempt in (open_ledger, lambda path: verify_ledger(path, verify)):
        with pytest.raises(StorageError, match=f"{tmp_path}: "):
            attempt(tmp_path)


@pytest.mark.parametrize(("content", "message"), [(b"", "is empty"), (b"{", "line 1 is missing")])
def test_an_empty_ledger_verifies_nothing(path, content, message):
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(LedgerError, match=message):
        verify_ledger(path, verify)


@pytest.mark.parametrize(("eps", "delta"), [(0.0, 1e-5), (float("inf"), 1e-5), (1.0, 0.0), (1.0, 1.0)])
def test_a_budget_out_of_range_is_refused(eps, delta):
    with pytest.raises(ConfigError, match="budget"):
        Budget(eps, delta)


def test_a_reservation_of_no_steps_is_refused(path):
    with open_ledger(path) as ledger, pytest.raises(ValueError, match="steps"):
        reserve(ledger, 1, release(0))


def test_an_audit_is_noted_and_costs_nothing(path):
    with open_ledger(path) as ledger:
        reserve(ledger, 1)
        before = ledger.spent()
        ledger.record("audit", {"lower_bound": 0.3, "canaries": 500})
        assert ledger.spent() == before
    assert json.loads(path.read_bytes().splitlines()[-1])["details"] == {"lower_bound": 0.3, "canaries": 500}
    assert verify_ledger(path, verify).epsilon == before


def test_kinds_compose_in_one_ledger_and_settle_for_less(path):
    with_every_kind_of_line(path)
    summary = verify_ledger(path, verify)
    assert summary.releases == (release(), msgspec.structs.replace(SHARED, steps=1), SELECTION)
    assert summary.epsilon == Composition.of(summary.releases).adaptive_epsilon(4.0, DELTA)
    with open_ledger(path) as ledger:
        id_ = reserve(ledger, 4, SHARED)
        for more in (msgspec.structs.replace(SHARED, shares=3), release(), SELECTION):
            with pytest.raises(ValueError, match="more than it reserved"):
                ledger.settle(id_, more)
        ledger.reduce(id_, msgspec.structs.replace(SHARED, steps=0), reason="none happened")
        assert ledger.spent() == summary.epsilon


def test_the_summary_tells_what_each_round_and_session_was(path):
    filled(path, rounds=2)
    with open_ledger(path, run="second", budget=5.0, raise_budget=True) as ledger:
        reserved = ledger.reserve(release(3), federation="cd" * 32, round=7, attempt=1)
        ledger.reduce(reserved, release(2), reason="the third failed")
        reserve(ledger, 8)
    summary = verify_ledger(path, verify)
    assert summary.unit == "record"
    assert [(r.run == "second", r.federation, r.round, r.attempt, r.settled) for r in summary.rounds] == [
        (False, FEDERATION, 1, 0, True),
        (False, FEDERATION, 2, 0, True),
        (True, "cd" * 32, 7, 1, True),
        (True, FEDERATION, 8, 0, False),
    ]
    assert [spend.release.steps for spend in summary.rounds] == [1, 1, 2, 1]
    assert [spend.epsilon for spend in summary.rounds] == [epsilon([release(n)], DELTA) for n in (1, 2, 4, 5)]
    lines = [json.loads(data) for data in path.read_bytes().splitlines()]
    assert [spend.time for spend in summary.rounds] == [lines[at]["time"] for at in (2, 4, 7, 8)]
    assert summary.sessions == (
        SessionStart(lines[0]["run"], lines[0]["time"], Budget(4.0, DELTA), None, None),
        SessionStart("second", lines[5]["time"], Budget(5.0, DELTA), None, None),
    )


def patient(steps=1):
    return msgspec.structs.replace(release(steps), unit="patient")


def test_a_ledger_counts_records_or_patients_never_both(path):
    filled(path)
    with open_ledger(path) as ledger:
        assert ledger.unit == "record"
        before = path.read_bytes()
        for attempt in (lambda: reserve(ledger, 4, patient()), lambda: ledger.would_exceed(patient())):
            with pytest.raises(LedgerError, match=r"counts by record.*by patient.*go on with") as caught:
                attempt()
            assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="more than it reserved"):
            ledger.settle(reserve(ledger, 5), patient())
    assert path.read_bytes().startswith(before)
    verify_ledger(path, verify)


def test_a_patient_ledger_is_one_from_its_first_release_on(path):
    with open_ledger(path) as ledger:
        assert ledger.unit is None
        ledger.reduce(reserve(ledger, 1, patient()), patient(0), reason="none happened")
        assert ledger.unit == "patient"
        with pytest.raises(LedgerError, match="counts by patient"):
            reserve(ledger, 2)
    assert verify_ledger(path, verify).unit == "patient"


def test_a_line_that_counts_by_another_unit_is_found_under_valid_signatures(path):
    filled(path)

    def change(line):
        if line.get("round") == 2:
            line["release"]["unit"] = "patient"

    resigned(path, change)
    for attempt in (open_ledger, lambda path: verify_ledger(path, verify)):
        with pytest.raises(LedgerError, match="line 4 counts by patient"):
            attempt(path)


@pytest.mark.parametrize(
    "unknown",
    [{"mechanism": "laplace", "steps": 1}, {"steps": 1}, {"mechanism": "gaussian", "steps": 1, "note": 2}],
)
def test_a_release_of_an_unknown_kind_is_refused(path, unknown):
    filled(path)
    resigned(path, lambda line: "round" in line and line.update(release=unknown))
    with pytest.raises(LedgerError, match="line 2 is not a line of schema 1"):
        verify_ledger(path, verify)


def timed(path, moved, of_lines=lambda index: True):
    """The ledger as if the clock of the machine that wrote it had been `moved`."""
    then = (datetime.now(UTC) + moved).strftime("%Y-%m-%dT%H:%M:%SZ")
    resigned(path, lambda line: of_lines(line["index"]) and line.update(time=then))
    return then


def test_a_clock_that_was_set_back_a_little_lends_a_line_the_time_before_it(path):
    filled(path)
    then = timed(path, timedelta(seconds=50))
    with open_ledger(path) as ledger:
        reserve(ledger, 4)
    assert [json.loads(data)["time"] for data in path.read_bytes().splitlines()[-2:]] == [then, then]
    verify_ledger(path, verify)


def test_a_clock_that_was_set_back_further_is_refused_with_both_times(path):
    filled(path)
    then = timed(path, timedelta(hours=2))
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=rf"last line is of {then}.*clock says \d{{4}}-\d\d-\d\dT.*set the clock"):
        open_ledger(path)
    assert path.read_bytes() == before
    verify_ledger(path, verify)


def test_a_line_before_its_time_is_found(path):
    filled(path)
    timed(path, -timedelta(seconds=30), lambda index: index >= 3)
    with pytest.raises(LedgerError, match=r"line 4 is of .*, before the line above it"):
        verify_ledger(path, verify)


def test_a_day_that_never_was_is_refused(path):
    filled(path)
    resigned(path, lambda line: line.update(time="2026-02-30T00:00:00Z"))
    with pytest.raises(LedgerError, match="line 1 is not a line of schema 1"):
        open_ledger(path)


def test_heads_that_the_coordinator_saw_show_what_was_cut_off_or_replaced(path):
    content = filled(path)
    heads = [hashlib.sha256(data).hexdigest() for data in content.splitlines()]
    verify_ledger(path, verify, heads=heads)
    verify_ledger(path, verify, heads={heads[2]})
    path.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    verify_ledger(path, verify, heads=heads[:-1])
    with pytest.raises(LedgerError, match=f"ledger.jsonl: was cut off or replaced .* head {heads[-1]}"):
        verify_ledger(path, verify, heads=heads)
    path.unlink()
    filled(path)
    with pytest.raises(LedgerError, match="cut off or replaced"):
        verify_ledger(path, verify, heads=heads[-1:])


def in_another_process(path, script):
    """Runs `script`, in which t is this module and path the ledger."""
    setting = "import sys; sys.path[:0] = sys.argv[2:]\nfrom pathlib import Path\nimport test_ledger as t\n"
    arguments = [path, Path(__file__).parent, *sys.path]
    script = setting + "path = Path(sys.argv[1])\n" + script
    done = subprocess.run([sys.executable, "-c", script, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_disk_that_fills_within_a_line_leaves_the_ledger_as_it_was(path):
    """The kernel's own limit on a file's size stops a real write half way."""
    filled(path)
    in_another_process(
        path,
        "from resource import RLIMIT_FSIZE, getrlimit, setrlimit\n"
        "with t.open_ledger(path) as ledger:\n"
        "    before, head, limits = path.read_bytes(), ledger.head, getrlimit(RLIMIT_FSIZE)\n"
        "    setrlimit(RLIMIT_FSIZE, (len(before) + 100, limits[1]))\n"
        "    try:\n"
        "        t.reserve(ledger, 9)\n"
        "        raise SystemExit('the disk never filled')\n"
        "    except t.StorageError as error:\n"
        "        assert str(path) in str(error) and chr(10) not in str(error), error\n"
        "    assert (path.read_bytes(), ledger.head) == (before, head)\n"
        "    setrlimit(RLIMIT_FSIZE, limits)\n"
        "    t.reserve(ledger, 9)\n",
    )
    assert verify_ledger(path, verify).unsettled == 1


def test_a_second_process_is_refused(path):
    with open_ledger(path):
        before = path.read_bytes()
        script = "try:\n    t.open_ledger(path)\nexcept t.LedgerError as error:\n    print(error)\n"
        assert f"{path}: another process has this ledger open" in in_another_process(path, script)
        assert path.read_bytes() == before


def test_a_ledger_written_before_there_were_other_kinds_still_holds(path):
    """first_version.jsonl is, byte for byte, what the first version wrote."""
    path.parent.mkdir()
    path.write_bytes(FIRST_VERSION.read_bytes())
    summary = verify_ledger(path, verify)
    assert summary.unit == "record"
    assert summary.releases == (release(), Release(noise_multiplier=4.5, sample_rate=0.1, steps=8))
    with open_ledger(path, run="one") as ledger:
        reserve(ledger, 3)
    assert path.read_bytes().startswith(FIRST_VERSION.read_bytes())
    verify_ledger(path, verify)


def test_a_ledger_written_when_sessions_first_declared_their_facts_still_holds(path):
    """declared_sessions.jsonl is, byte for byte, what the version wrote that brought that kind and reductions."""
    path.parent.mkdir()
    path.write_bytes(DECLARED.read_bytes())
    summary = verify_ledger(path, verify)
    assert [start.facts for start in summary.sessions] == [FACTS, None]
    poisson = Release(noise_multiplier=4.5, sample_rate=0.1, steps=8)
    assert (summary.releases, summary.settled_below, summary.mixed) == ((release(), release(2), poisson), 1, True)
    assert summary.epsilon == pytest.approx(2.1342873346400273, rel=1e-6)
    with open_ledger(path, run="three") as ledger:
        reserve(ledger, 3)
    assert path.read_bytes().startswith(DECLARED.read_bytes())
    verify_ledger(path, verify)


@pytest.mark.parametrize("verdict", [True, False])
def test_a_verifier_that_returns_a_verdict_is_refused_whatever_it_says(path, verdict):
    """It would be believed without being looked at."""
    filled(path)
    with pytest.raises(TypeError, match=f"raise ValueError or return nothing, and it returned {verdict}"):
        verify_ledger(path, lambda *line: verdict)
