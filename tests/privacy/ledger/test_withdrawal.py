"""A line says that patients withdrew their consent: it costs nothing, gives nothing back, and tells what it touches."""

import pytest

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.lines import commitment_of
from securepfl.privacy.ledger.summary import verify_ledger

FEDERATION = "ab" * 32
STEP = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
SIGNER = LedgerSigner(Identity.generate("north"), trusting=True)
TERMS = Terms("north", "biopsies", Budget(4.0, 1e-5), simulation=False, seeded=False)


def reserve(ledger, number):
    ledger.settle(ledger.reserve(STEP, federation=FEDERATION, round=number, attempt=0), STEP)


def test_accounting_never_gets_cheaper_by_a_withdrawal(tmp_path):
    path, commitment = tmp_path / "north.jsonl", commitment_of(bytes(32), b"")
    with Ledger.open(path, TERMS, SIGNER) as ledger:
        reserve(ledger, 1)
        reserve(ledger, 2)
        ledger.record("expert-release", {"expert": "personal"})
        before = ledger.spent()
        ledger.withdraw(2, commitment)
        assert ledger.spent() == before == epsilon([STEP, STEP], 1e-5)
        reserve(ledger, 3)
        assert ledger.spent() == epsilon([STEP] * 3, 1e-5)
        assert ledger.withdrawals == (commitment,)
    summary = verify_ledger(path, SIGNER.verify)
    (found,) = summary.withdrawals
    assert (found.line, found.units, found.rounds, found.released) == (7, 2, 2, 1)
    assert summary.epsilon == epsilon([STEP] * 3, 1e-5)


def test_a_withdrawal_of_nobody_or_without_a_commitment_is_not_written(tmp_path):
    path = tmp_path / "north.jsonl"
    with Ledger.open(path, TERMS, SIGNER) as ledger:
        before = path.read_bytes()
        for units, commitment in ((0, "ab" * 32), (1, "north")):
            with pytest.raises(ValueError, match="line of schema"):
                ledger.withdraw(units, commitment)
        assert path.read_bytes() == before


def test_a_commitment_depends_on_salt_and_records_and_takes_no_short_salt():
    marks = b"a" * 16
    assert len({commitment_of(bytes(32), marks), commitment_of(b"\1" * 32, marks), commitment_of(bytes(32), b"")}) == 3
    with pytest.raises(ValueError, match="32 bytes"):
        commitment_of(b"", marks)
