"""One hospital's exception ends nobody else's round; where too few are left, the run stops with the first one's own."""

from contextlib import contextmanager

import pytest
from small_run import NAMES, prepare

from securepfl.client.client import Client
from securepfl.errors import HospitalNote
from securepfl.runtime.execution import execute
from securepfl.runtime.hospital import dataset_of
from securepfl.runtime.local import TRACEBACK, simulate
from securepfl.runtime.resuming import Wanted
from securepfl.storage.unfinished import UNFINISHED

ROUNDS = 3


class OddError(Exception):
    """As a model of one's own raises it."""


def breaking(monkeypatch, step, *names, rounds=(2,)):
    """`step` of the hospitals `names` raises once in each of these rounds, with a private value in its text."""
    real, calls = getattr(Client, step), []

    def broken(self, message):
        now = (self.name, self.round + 1)
        if self.name in names and self.round + 1 in rounds and now not in calls:
            calls.append(now)
            raise OddError("the value 37.5 is odd")
        return real(self, message)

    monkeypatch.setattr(Client, step, broken)
    return calls


def run(folder, notes):
    @contextmanager
    def display(budgets):
        yield lambda event: notes.extend(event.notes)

    wanted = Wanted(config=folder / "federation.toml", data=folder / "rows.csv", seed=1, device="cpu")
    plan = wanted.plan()
    return execute(plan, folder / "out", seed=1, device="cpu", display=display, asked=wanted.asked_for(plan))


@pytest.mark.parametrize("step", ["contribute", "apply"])
def test_a_hospital_that_fails_is_left_out_named_and_asked_again(step, tmp_path, monkeypatch):
    shown = []
    calls = breaking(monkeypatch, step, NAMES[0])
    result = run(prepare(tmp_path, rounds=ROUNDS), shown)
    assert (NAMES[0], 2) in calls
    (note,) = [note for note in result["notes"] if "failed" in note]
    assert note.startswith(f"{NAMES[0]}: failed in round 2 (OddError); left out") and "37.5" not in str(result)
    assert [line for line in shown if "failed" in line] == [
        f"round 2: {NAMES[0]} failed and was left out of the step (OddError)"
    ]
    told = (tmp_path / "out" / "sites" / NAMES[0] / TRACEBACK).read_text()
    assert "in broken" in told and "OddError" in told
    spent = {name: site["privacy"]["epsilon"] for name, site in result["sites"].items()}
    assert all(spent[name] >= spent[NAMES[0]] for name in NAMES)
    assert (spent[NAMES[0]] < spent[NAMES[1]]) == (step == "contribute"), "who never trained spent nothing"


def test_where_too_few_are_left_the_first_ones_own_exception_stops_the_run_before_more_is_spent(tmp_path, monkeypatch):
    calls = breaking(monkeypatch, "contribute", *NAMES, rounds=(1,))
    with pytest.raises(OddError, match=r"37\.5") as error:
        run(prepare(tmp_path, rounds=ROUNDS), [])
    assert any(frame.name == "broken" for frame in error.traceback)
    assert len(calls) == 2, "of four hospitals a sum needs three"
    assert (tmp_path / "out" / UNFINISHED).exists()
    assert not any(b'"reservation"' in path.read_bytes() for path in (tmp_path / "out/ledger").glob("*/*.jsonl"))
    monkeypatch.undo()
    wanted = Wanted(config=tmp_path / "federation.toml", data=tmp_path / "rows.csv", seed=1, device="cpu")

    @contextmanager
    def quiet(budgets):
        yield lambda event: None

    plan = wanted.plan()
    asked = wanted.asked_for(plan)
    result = execute(plan, tmp_path / "out", seed=1, device="cpu", display=quiet, asked=asked, resume=True)
    assert all(not site["sat_out"] for site in result["sites"].values())


def test_who_embeds_it_is_warned_by_name(tmp_path, monkeypatch):
    folder = prepare(tmp_path, rounds=2)
    plan = Wanted(config=folder / "federation.toml", data=folder / "rows.csv", seed=1, device="cpu").plan()
    training = {name: dataset_of(hospital.train, "record") for name, hospital in plan.hospitals.items()}
    breaking(monkeypatch, "contribute", NAMES[3])
    with (
        pytest.warns(HospitalNote, match=f"round 2: {NAMES[3]} failed and is left out until the next .OddError"),
        simulate(plan.federation, training, plan.build_model, folder / "sites", seed=1, device="cpu") as done,
    ):
        assert done.round == 2 and all(client.round == 2 for client in done.clients.values())
        assert [failure.hospital for failure in done.traffic.failures] == [NAMES[3]]
