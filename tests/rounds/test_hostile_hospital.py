"""One hostile hospital of eight, each round another trick: it is named each time, and the others end as without it."""

import pytest
from hostile import BAD
from hostile_run import ROUNDS, compared, tables_of


@pytest.mark.parametrize(("scheme", "masked"), [("tenseal", False), ("none", False), ("lean", True)])
def test_a_hostile_hospital_is_named_in_each_of_twenty_rounds_and_changes_nothing(tmp_path, scheme, masked):
    """Every round forms a sum, and after each the honest hospitals hold, bit for bit, what they hold in the run in
    which only what was at fault is missing; their budgets are spent once. benchmarks/hostile_hospital.py shows the log.
    """
    hub, same, budgets = compared(tmp_path, tables_of(scheme, masked))
    assert hub.closed == ROUNDS and not hub.ended
    assert {hospital for _, hospital in hub.named} == {BAD}
    assert {number for number, _ in hub.named} == set(range(1, ROUNDS + 1))
    assert same == [True] * ROUNDS
    assert budgets
