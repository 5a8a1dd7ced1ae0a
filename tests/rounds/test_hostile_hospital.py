"""One hostile hospital of eight, each round another trick: it is named each time, and the others end as without it."""

import pytest
from hostile import BAD
from hostile_run import ROUNDS, plan, run

from securepfl.crypto.messages.envelope import Kind

SCHEMES = {
    "tenseal": {"encryption": {"scheme": "tenseal"}},
    "none": {"encryption": {"scheme": "none"}},
    "lean, masked": {
        "encryption": {"scheme": "lean", "masking": "pairwise"},
        "similarity": {"every": 1, "beside_masks": True},
    },
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_hostile_hospital_is_named_in_each_of_twenty_rounds_and_changes_nothing(tmp_path, scheme, capsys):
    """Every round forms a sum, and after each the honest hospitals hold, bit for bit, what they hold in the run in
    which only what was at fault is missing; their budgets are spent once.
    """
    tables = SCHEMES[scheme]
    tricks = plan("masking" in tables["encryption"])
    hub, ends, spent = run(tmp_path / "with", tables, {number: trick.replies for number, trick in tricks.items()})
    calm = {number: {Kind.INVITATION: trick.instead} for number, trick in tricks.items()}
    _, without, as_much = run(tmp_path / "without", tables, calm)
    named = hub.named
    with capsys.disabled():
        for number, trick in tricks.items():
            print(f"\n{trick.name} | {named.get((number, BAD), 'NOT NAMED')}", end="")
    assert hub.closed == ROUNDS and not hub.ended
    assert {hospital for _, hospital in named} == {BAD}
    assert {number for number, _ in named} == set(range(1, ROUNDS + 1))
    for number, (end, other) in enumerate(zip(ends, without, strict=True), 1):
        assert end == other, f"round {number}: {tricks[number].name}"
    assert spent == as_much
