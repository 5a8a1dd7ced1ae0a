"""What a signed ledger may not say, line by line: told with the line's number, and nothing is taken from it."""

import msgspec
import pytest

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import LedgerError, StorageError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.file import read_unheld
from securepfl.privacy.ledger.fingerprints import Fingerprints
from securepfl.privacy.ledger.history import History, replay
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.lines import decode_line, split_lines

FEDERATION = "ab" * 32
STEP = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
SIGNER = LedgerSigner(Identity.generate("north"), trusting=True)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """A session, a reservation, its settlement, a run without protection and a session of a later run."""
    path = tmp_path_factory.mktemp("ledger") / "north.jsonl"
    terms = Terms("north", "biopsies", Budget(4.0, 1e-5), simulation=True, seeded=False)
    with Ledger.open(path, terms, SIGNER, run="first") as ledger:
        ledger.settle(ledger.reserve(STEP, federation=FEDERATION, round=1, attempt=0), STEP)
        ledger.unprotect(federation=FEDERATION, round=2)
    Ledger.open(path, terms, SIGNER, run="second").close()
    return [decode_line(line) for line in split_lines(path.read_bytes())[0]]


def taken(history, line, **changes):
    """`line` put behind what `history` has."""
    placed = msgspec.structs.replace(line, index=history.lines, previous=history.head, **changes)
    history.add(placed, b"%d" % history.lines)
    return history


@pytest.mark.parametrize(
    ("before", "which", "changes", "words"),
    [
        ([], 1, {}, "comes before any session"),
        ([0], 4, {"data_set": "scans"}, "is about data set 'scans', not 'biopsies'"),
        ([0], 0, {"site": "south"}, "another site"),
        ([0], 0, {"seeded": True}, "mixes seeded and unseeded"),
        ([0, 3], 1, {}, "after its records trained unprotected"),
        ([0, 1], 1, {}, "reserves round 1, attempt 0 of its run a second time"),
        ([0, 4], 1, {}, "belongs to another run than its session"),
        ([0, 4], 3, {}, "belongs to another run than its session"),
    ],
)
def test_a_line_that_cannot_follow_is_refused_and_changes_nothing(lines, before, which, changes, words):
    history = History()
    for number in before:
        taken(history, lines[number])
    held = (history.lines, history.head, history.session, history.composition, dict(history.reserved))
    with pytest.raises(ValueError, match=words):
        taken(history, lines[which], **changes)
    assert held == (history.lines, history.head, history.session, history.composition, dict(history.reserved))


def test_no_line_is_before_the_first_session_and_nothing_was_spent(lines):
    assert History().noisy() == 0.0
    data = msgspec.json.encode(msgspec.structs.replace(lines[1], index=0, previous=History().head), order="sorted")
    with pytest.raises(LedgerError, match=r"north\.jsonl: line 1 "):
        list(replay("north.jsonl", [data], SIGNER.verify, History()))


def test_a_ledger_under_a_name_that_no_disk_has_is_told_as_a_file(tmp_path):
    with pytest.raises(StorageError, match=r"xxx\.jsonl.*too long"):
        read_unheld(tmp_path / f"{'x' * 300}.jsonl")


def test_fingerprints_take_a_whole_key():
    for key in (b"", bytes(31), bytes(33)):
        with pytest.raises(ValueError, match=f"key must be 32 bytes, not {len(key)}"):
            Fingerprints.of(key, {"features": [b"ann"]})
