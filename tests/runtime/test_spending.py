"""A run that uses budgets up, or clips nearly everybody or nobody, says so."""

import re
from contextlib import contextmanager

import pytest
from parties import federation_of
from small_run import NAMES, prepare

from securepfl.errors import BudgetError
from securepfl.runtime.evaluation import clip_notes
from securepfl.runtime.execution import execute
from securepfl.runtime.planning import configured, plan_tables

USED_UP = "nothing is left for another run on these records"


@pytest.fixture
def run(tmp_path):
    """Runs the small federation, one round, with tables changed; gives its events and result.json."""

    def finished(seed=None, clip=None, **tables):
        prepare(tmp_path)
        if clip is not None:
            text = (tmp_path / "federation.toml").read_text(encoding="utf-8")
            text = text.replace("[privacy]", f"[privacy]\nclip = {clip}")
            (tmp_path / "federation.toml").write_text(text, encoding="utf-8")
        federation = configured(tmp_path / "federation.toml", rounds=1)
        for table, changes in tables.items():
            federation = federation.changed(table, **changes)
        ledgers = tmp_path / "ledgers" if seed is None else None
        plan, events = plan_tables(federation, tmp_path / "rows.csv", seed, ledgers), []

        @contextmanager
        def kept(budgets):
            yield events.append

        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        return events, execute(plan, out, seed=seed, device="cpu", display=kept)

    return finished


def test_a_run_that_uses_budgets_up_says_so_before_its_first_round_and_in_its_notes(run):
    events, result = run(privacy={"budget": 2.0})
    assert [event.round for event in events] == [0, 1] and set(events[0].epsilon.values()) == {0.0}
    (note,) = events[0].notes
    assert note.startswith(f"{', '.join(sorted(NAMES))}: this run brings epsilon to 2.000 of 2: {USED_UP}")
    assert events[1].notes == ()
    assert any("epsilon 2.000 of 2 is spent: " + USED_UP in said for said in result["notes"])


def test_a_run_that_leaves_something_says_nothing_until_one_leaves_nothing(run):
    events, result = run(privacy={"budget": 3.0})
    assert events[0].notes == () and not any(USED_UP in note for note in result["notes"])
    events, _ = run(privacy={"budget": 3.0, "epsilon": 1.9})
    (note,) = events[0].notes
    assert "this run brings epsilon to 2.9" in note and "of 3" in note


def refusal(run, **tables):
    with pytest.raises(BudgetError, match="0 of 4 hospitals have budget left for all 1 rounds") as refused:
        run(**tables)
    return str(refused.value)


def test_each_remedy_that_a_refusal_names_works_where_nothing_is_left(run):
    run(privacy={"budget": 2.0})
    told = refusal(run, privacy={"budget": 2.0})
    assert "fewer rounds" not in told and "--epsilon" not in told, "neither would help"
    assert "--seed 1, a rehearsal that spends nothing (without --ledgers)" in told and "--ledgers NEW_FOLDER" in told
    run(seed=1, privacy={"budget": 2.0})
    needed = float(re.search(r"a budget of ([\d.]+) \(", told)[1])
    assert "nothing" not in refusal(run, privacy={"budget": needed - 0.002}).split("--seed")[0]
    run(privacy={"budget": needed})


def test_where_something_is_left_the_epsilon_that_a_refusal_names_is_all_there_is_room_for(run):
    run(privacy={"budget": 3.0})
    room = float(re.search(r"--epsilon ([\d.]+), for which there is room", refusal(run, privacy={"budget": 3.0}))[1])
    refusal(run, privacy={"budget": 3.0, "epsilon": round(1.1 * room, 3)})
    run(privacy={"budget": 3.0, "epsilon": room})


def test_a_run_that_is_dearer_than_its_budget_is_told_what_fits(run):
    told = refusal(run, privacy={"budget": 1.0})
    assert "this run alone takes epsilon 2 at" in told and "--ledgers" not in told.replace("(without --ledgers)", "")
    assert "--epsilon 0.99, for which there is room" in told or "--epsilon 1, " in told


def test_a_seeded_run_uses_nothing_up(run):
    events, result = run(seed=1, privacy={"budget": 2.0})
    assert events[0].notes == () and not any(USED_UP in note for note in result["notes"])


def test_a_clip_that_shortens_nearly_everybody_or_nobody_is_told_with_what_to_do(run):
    _, result = run(seed=1, clip=1e-4)
    assert all(site["clipped_fraction"] == 1.0 for site in result["sites"].values())
    (note,) = [note for note in result["notes"] if "the clip shortened" in note]
    assert "over 90% of its units" in note and "raise [privacy] clip and lower [training] learning_rate" in note
    _, result = run(seed=1, clip=1e4)
    assert all(site["clipped_fraction"] == 0.0 for site in result["sites"].values())
    (note,) = [note for note in result["notes"] if "the clip shortened" in note]
    assert "shortened none of its units" in note and "lower [privacy] clip" in note


def test_where_no_rule_chooses_a_clip_it_is_not_left_to_one():
    """Of images "auto" is the default: whoever had left both alone was told to leave both alone."""
    for share in (1.0, 0.0):
        (note,) = clip_notes(federation_of(), [share])
        assert "[privacy] clip" in note and "auto" not in note


def test_units_are_told_as_declared_used_cut_and_padded(run):
    _, result = run(seed=1)
    for site in result["sites"].values():
        units = site["units"]
        assert units["declared"] == 40 and units["largest"] == 1
        assert units["used"] + units["padded"] == 40 and units["used"] + units["cut"] == site["train"]
