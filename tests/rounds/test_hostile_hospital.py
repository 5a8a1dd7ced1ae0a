"""One hostile hospital of five, each round another trick: it is named each time, and the others end as without it."""

import pytest
from hostile import BAD
from hostile_run import EIGHT, MASKED, OPEN, compared, plan, tables_of


@pytest.mark.parametrize(("scheme", "masked"), [("tenseal", False), ("none", False), ("lean", True)])
def test_a_hostile_hospital_is_named_in_each_round_whatever_it_plays_and_changes_nothing(tmp_path, scheme, masked):
    """Every round forms a sum, and after each the honest hospitals hold, bit for bit, what they hold in the run in
    which only what was at fault is missing; their budgets are spent once. benchmarks/hostile_hospital.py plays twenty,
    among eight.
    """
    tricks = {trick.name for trick in (*OPEN, *(MASKED if masked else ()))}
    rounds = len(tricks) + 1
    assert {trick.name for trick in plan(masked, rounds).values()} == tricks
    hub, same, budgets = compared(tmp_path, tables_of(scheme, masked), rounds, EIGHT[:5])
    assert hub.closed == rounds and not hub.ended
    assert {hospital for _, hospital in hub.named} == {BAD}
    assert {number for number, _ in hub.named} == set(range(1, rounds + 1))
    assert same == [True] * rounds
    assert budgets
