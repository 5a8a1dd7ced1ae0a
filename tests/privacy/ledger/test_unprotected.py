"""A line says that records trained without protection: from then on nothing can be reserved, whatever is asked."""

import math

import pytest

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import BudgetError
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.lines import Unprotected, decode_line, split_lines
from securepfl.privacy.ledger.summary import verify_ledger

FEDERATION = "ab" * 32
STEP = Release(noise_multiplier=5.0, sample_rate=1.0, steps=1)
SIGNER = LedgerSigner(Identity.generate("north"), trusting=True)


def terms(**changes):
    fields = {"site": "north", "data_set": "biopsies", "budget": Budget(4.0, 1e-5), "simulation": True, "seeded": False}
    return Terms(**fields | changes)


def test_what_was_spent_before_stays_on_the_lines_and_nothing_bounds_it_any_more(tmp_path):
    path = tmp_path / "north.jsonl"
    with Ledger.open(path, terms(), SIGNER) as ledger:
        reserved = ledger.reserve(STEP, federation=FEDERATION, round=1, attempt=0)
        ledger.unprotect(federation=FEDERATION, round=2)
        ledger.unprotect(federation=FEDERATION, round=3)
        assert ledger.is_unprotected and math.isinf(ledger.spent()) and ledger.would_exceed(STEP)
        assert math.isinf(ledger.spent_replace_one()) and math.isinf(ledger.least_budget_for(STEP))
        ledger.settle(reserved, STEP)  # what was reserved before may still be told
        ledger.record("expert-release", {"expert": "personal"})
        before = path.read_bytes()
        with pytest.raises(BudgetError, match="trained without protection"):
            ledger.reserve(STEP, federation=FEDERATION, round=4, attempt=0)
        assert path.read_bytes() == before
    lines = [decode_line(line) for line in split_lines(path.read_bytes())[0]]
    assert sum(isinstance(line, Unprotected) for line in lines) == 1
    assert all(math.isfinite(line.epsilon) for line in lines)
    summary = verify_ledger(path, SIGNER.verify)
    assert math.isinf(summary.epsilon) and summary.unprotected == lines[2].time
    with pytest.raises(BudgetError, match="trained without protection"):
        Ledger.check(path, terms(), SIGNER, STEP)
    with Ledger.open(path, terms(budget=Budget(100.0, 1e-5), raise_budget=True), SIGNER) as later:
        assert math.isinf(later.spent())
        with pytest.raises(BudgetError, match="trained without protection"):
            later.reserve(STEP, federation=FEDERATION, round=1, attempt=0)


def test_a_looser_budget_is_told_that_none_holds_before_it_is_told_to_declare_one(tmp_path):
    path = tmp_path / "north.jsonl"
    with Ledger.open(path, terms(), SIGNER) as ledger:
        ledger.unprotect(federation=FEDERATION, round=1)
    with pytest.raises(BudgetError, match="trained without protection"):
        Ledger.check(path, terms(budget=Budget(8.0, 1e-5)), SIGNER, STEP)
    with pytest.raises(BudgetError, match="trained without protection"):
        Ledger.open(path, terms(budget=Budget(8.0, 1e-5)), SIGNER)


def test_a_run_that_spends_no_budget_takes_up_a_smaller_one_as_it_is(tmp_path):
    path = tmp_path / "north.jsonl"
    Ledger.open(path, terms(budget=Budget(0.5, 1e-6)), SIGNER).close()
    with pytest.raises(BudgetError, match="loosen"):
        Ledger.open(path, terms(), SIGNER)
    with Ledger.open(path, terms(keep_budget=True), SIGNER) as ledger:
        assert ledger.budget == Budget(0.5, 1e-6)


def test_no_ledger_of_real_runs_has_such_a_line(tmp_path):
    path = tmp_path / "north.jsonl"
    with Ledger.open(path, terms(simulation=False), SIGNER) as ledger:
        before = path.read_bytes()
        with pytest.raises(ValueError, match="only a simulation may"):
            ledger.unprotect(federation=FEDERATION, round=1)
        assert path.read_bytes() == before and not ledger.is_unprotected


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_steps_of_one_noise_cost_the_same_in_one_release_or_in_several(rate):
    """So that rounds, fine-tuning and prior are planned as one run of steps."""

    def release(steps):
        return Release(noise_multiplier=3.0, sample_rate=rate, steps=steps)

    parts = [release(20), release(20), release(7), release(1)]
    assert epsilon(parts, 1e-5) == pytest.approx(epsilon([release(48)], 1e-5), rel=1e-9)
