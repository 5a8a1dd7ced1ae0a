"""Where a run stands, as an operator reads it on a terminal of 80 columns."""

import io
from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from securepfl.cli.consoles import ReadableConsole
from securepfl.report.status import (
    HospitalStanding,
    HubStanding,
    NamedFor,
    Refused,
    Trouble,
    Visitor,
    print_standing,
    seconds_left,
)

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NAMES = ("north", "south", "hospital-of-the-very-long-name-by-the-sea", "west")


def before(seconds):
    return (NOW - timedelta(seconds=seconds)).isoformat()


def hub(**changes):
    visitors = {
        name: Visitor(here=True, round=3, heard=before(5), upload_bytes=10**9, download_bytes=10**9) for name in NAMES
    }
    standing = HubStanding(
        party="hub",
        state="running",
        started=before(4000),
        updated=before(1),
        run="ab" * 16,
        federation="demo",
        rounds=12,
        round=4,
        closed=3,
        step="contributions",
        since=before(125),
        deadline=before(-3475),
        needs=3,
        asked=list(NAMES),
        answered=["north"],
        failed=["south"],
        waits_for=list(NAMES[2:]),
        hospitals=visitors,
        seconds={"contributions": 812.44, "own work": 1.0},
        refused=[Refused(time=before(9), hospital="south", error="truncated; send it again")],
        named=[NamedFor(round=2, hospital="west", what="contributed and sent no receipt for the answer")],
        excluded={},
    )
    return msgspec.structs.replace(standing, **changes)


def hospital(**changes):
    standing = HospitalStanding(
        party="north",
        state="running",
        started=before(4000),
        updated=before(1),
        run="ab" * 16,
        federation="demo",
        rounds=12,
        round=3,
        heard=before(5),
        epsilon=1.2345,
        epsilon_left=2.7655,
        budget=4.0,
        delta=1e-5,
        sat_out=[2],
        upload_bytes=1234,
        download_bytes=567890,
        seconds={"train": 12.0},
        named={"west": "dealt false shares of its masks"},
        evidence=["/x/evidence-1.json"],
    )
    return msgspec.structs.replace(standing, **changes)


def shown(standing):
    stream = io.StringIO()
    print_standing(ReadableConsole(file=stream, width=80, markup=False, emoji=False), standing, NOW)
    lines = stream.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    return "\n".join(line.rstrip() for line in lines)


def test_a_running_hub_says_what_it_waits_for_and_until_when():
    said = shown(hub())
    assert "hub of 'demo', run abababab: running (1 s ago)" in said
    assert "3 of 12 rounds are over; round 4 takes contributions since 2 min, 57 min left" in said
    assert "answered: 1 of 4; waits for: hospital-of-the-very-long-name-by-the-sea, west" in said
    assert "failed at the hospital, its own log says why: south" in said
    assert "refused, 9 s ago: south: truncated; send it again" in said
    assert "named in round 2: west: contributed and sent no receipt for the answer" in said
    assert "seconds: contributions 812.4, own work 1.0" in said
    assert seconds_left(hub(), NOW) == 3475


def test_who_is_waited_for_and_not_here_is_away_or_was_never_seen():
    away = msgspec.structs.replace(hub().hospitals["west"], here=False, heard=before(900), round=3)
    hospitals = hub().hospitals | {"west": away, "south": msgspec.structs.replace(away, heard=None, round=0)}
    said = shown(hub(hospitals=hospitals, waits_for=["north", "west", "south"]))
    assert "waits for: north, west (away), south (never seen)" in said


def test_who_is_waited_for_stands_first_and_a_thousand_hospitals_fit_a_screen():
    rows = [line.split()[1] for line in shown(hub()).splitlines() if line.startswith("hospital: ")]
    assert rows[1] == "west" and rows[2:] == ["north", "south"]
    visitor = next(iter(hub().hospitals.values()))
    many = {f"h{number}": visitor for number in range(1000)}
    said = shown(hub(hospitals=many, waits_for=list(many), asked=list(many), answered=[]))
    assert "and 960 more: --json has all" in said and "and 988 more" in said and len(said.splitlines()) < 70


@pytest.mark.parametrize(
    ("state", "told"), [("killed", True), ("stopped", True), ("finished", False), ("failed", False)]
)
def test_a_hub_that_does_not_run_waits_for_nobody(state, told):
    said = shown(hub(state=state))
    assert f": {state} (" in said and "waits for" not in said and "waited for" not in said
    assert ("the same command goes on" in said) is told
    assert seconds_left(hub(state=state), NOW) is None


def test_the_last_error_comes_with_what_to_do():
    error = Trouble(time=before(60), line="disk: cannot be written", mend="make room")
    said = shown(hub(state="failed", error=error))
    assert "last error, 60 s ago: disk: cannot be written\nwhat to do: make room" in said


def test_a_passed_deadline_and_a_round_that_waits_for_hospitals_are_said():
    assert "its deadline has passed" in " ".join(shown(hub(deadline=before(5))).split())
    said = shown(hub(step=None, deadline=None, closed=0))
    assert "waits for hospitals: 4 of 4 are here, a round needs 3" in said


def test_a_hospital_reads_its_budget_and_what_is_said_of_others():
    said = shown(hospital())
    assert "has applied 3 of 12 rounds; the hub told it something 5 s ago" in said
    assert "epsilon: 1.234 spent, 2.765 left of 4 (delta 1e-05)" in said
    assert "bytes: 1,234 to the hub, 567,890 from it" in said
    assert "sat out 1 round(s): 2" in said
    assert "the hub says of west: dealt false shares of its masks" in said
    assert "signed contradictions of others: /x/evidence-1.json" in said
