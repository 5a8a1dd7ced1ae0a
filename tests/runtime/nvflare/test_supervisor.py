"""What the supervisor decides, over an engine that a test steers; the real one is killed in test_kills.py."""

from contextlib import contextmanager

import pytest

from securepfl.errors import StorageError
from securepfl.runtime.logs import open_log
from securepfl.runtime.nvflare.engine import UnreachableError
from securepfl.runtime.nvflare.session import HERE, SILENT, JobSession
from securepfl.runtime.nvflare.supervisor import Supervisor
from securepfl.storage.folder import lock_folder

NAMES = ("north", "south", "west")


class Steered:
    """A server whose sites and failures a test sets, and that counts what it is asked to do."""

    def __init__(self):
        self.sites, self.jobs, self.dead = frozenset(NAMES), {}, set()
        self.submitted, self.aborted, self.down = [], [], False

    def _up(self):
        if self.down:
            raise UnreachableError("cannot connect")

    def connected(self):
        self._up()
        return self.sites

    def running(self):
        self._up()
        return dict(self.jobs)

    def submit(self, job):
        self._up()
        assert not set(self.jobs) - self.dead, "two jobs at once"
        self.submitted.append(f"job{len(self.submitted)}")
        self.jobs[self.submitted[-1]] = "SUBMITTED"
        return self.submitted[-1]

    def abort(self, job):
        self._up()
        if job in self.dead:
            return False
        self.aborted.append(job)
        self.jobs.pop(job, None)
        return True


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def lab(tmp_path):
    engine, clock = Steered(), Clock()
    log = open_log(tmp_path, "hub")
    made = Supervisor(engine, tmp_path, tmp_path, NAMES, 2, log, clock)
    made.log_path = tmp_path / "log.jsonl"
    return made


def pass_time(lab, seconds, step=0.5):
    """Step through time; whether it said that the run is over."""
    end = lab.clock.now + seconds
    while lab.clock.now < end:
        lab.clock.now += step
        if lab.step():
            return True
    return False


@contextmanager
def a_job_in(lab, job, **states):
    """The controller of `job` is alive, and tells who is in it."""
    lab.engine.jobs[job] = "RUNNING"
    with lock_folder(lab.out):
        JobSession(job=job, hospitals=dict.fromkeys(NAMES, HERE) | states).write(lab.out)
        yield


def test_a_job_is_submitted_at_once_when_everybody_is_connected(lab):
    pass_time(lab, 1.0)
    assert lab.engine.submitted == ["job0"]


def test_too_few_hospitals_get_no_job_and_enough_get_one_after_a_while(lab):
    lab.engine.sites = frozenset(NAMES[:1])
    pass_time(lab, 60.0)
    assert not lab.engine.submitted
    lab.engine.sites = frozenset(NAMES[:2])
    pass_time(lab, 8.0)
    assert not lab.engine.submitted
    pass_time(lab, 6.0)
    assert lab.engine.submitted == ["job0"]


def test_no_second_job_is_submitted_while_one_starts_or_runs(lab):
    pass_time(lab, 60.0)
    with a_job_in(lab, "job0"):
        pass_time(lab, 600.0)
    assert lab.engine.submitted == ["job0"] and not lab.engine.aborted


def test_a_job_that_ended_is_followed_by_another_and_failures_take_longer_each_time(lab):
    gaps, last = [], 0.0
    for _ in range(8):
        count = len(lab.engine.submitted)
        while len(lab.engine.submitted) == count:
            pass_time(lab, 0.5)
        gaps.append(lab.clock.now - last)
        last = lab.clock.now
        lab.engine.jobs.clear()  # it failed before its controller began
    assert gaps[-1] > 60.0 > gaps[2] > gaps[1] and gaps[-1] < 70.0


def test_a_site_that_is_connected_and_not_in_the_job_is_brought_in_by_another_job(lab):
    pass_time(lab, 1.0)
    with a_job_in(lab, "job0", west=SILENT):
        pass_time(lab, 6.0)
        assert lab.engine.aborted == ["job0"]
    pass_time(lab, 3.0)
    assert lab.engine.submitted == ["job0", "job1"]


def test_a_site_that_is_gone_costs_the_others_no_job(lab):
    pass_time(lab, 1.0)
    lab.engine.sites = frozenset(NAMES[:2])
    with a_job_in(lab, "job0", west=SILENT):
        pass_time(lab, 600.0)
    assert not lab.engine.aborted


def test_a_site_that_no_job_brings_in_is_tried_ever_more_rarely(lab):
    pass_time(lab, 1.0)
    while lab.clock.now < 2300.0:
        job = lab.engine.submitted[-1]
        with a_job_in(lab, job, west=SILENT):
            while job not in lab.engine.aborted and lab.clock.now < 2300.0:
                pass_time(lab, 0.5)
        pass_time(lab, 3.0)
    assert 5 <= len(lab.engine.aborted) <= 10


def test_a_killed_server_that_still_names_its_job_does_not_hold_up_the_next(lab):
    pass_time(lab, 1.0)
    with a_job_in(lab, "job0"):
        pass_time(lab, 1.0)
        lab.engine.down = True
    pass_time(lab, 10.0)
    lab.engine.down, lab.engine.dead = False, {"job0"}  # back; it lists job0 as running for ever
    pass_time(lab, 120.0)
    assert lab.engine.submitted[:2] == ["job0", "job1"]


def test_a_supervisor_that_is_started_again_keeps_the_job_that_runs(lab):
    with a_job_in(lab, "of-before"):
        pass_time(lab, 30.0)
    assert not lab.engine.submitted and not lab.engine.aborted


def test_jobs_that_somebody_left_are_ended_before_one_is_submitted(lab):
    lab.engine.jobs["left"] = "SUBMITTED"
    pass_time(lab, 3.0)
    assert lab.engine.aborted == ["left"] and lab.engine.submitted == ["job0"]


def test_it_ends_with_the_run_and_not_with_a_job(lab):
    with lock_folder(lab.out):
        JobSession(job="job0", hospitals={}, finished=True).write(lab.out)
        assert not pass_time(lab, 5.0)  # its controller still writes
    assert pass_time(lab, 5.0)


def test_a_hub_that_cannot_open_its_folder_is_told_of_after_a_few_tries(lab):
    with pytest.raises(StorageError, match=r"hub cannot go on: federation\.toml: other settings"):
        for _ in range(20):
            pass_time(lab, 20.0)
            JobSession(job=lab.engine.submitted[-1], hospitals={}, failure="federation.toml: other settings").write(
                lab.out
            )
            lab.engine.jobs.clear()
    assert 3 <= len(lab.engine.submitted) <= 5


def test_stopping_ends_the_job(lab):
    pass_time(lab, 1.0)
    lab.stop()
    assert lab.engine.aborted == ["job0"]


def test_every_decision_is_a_line_in_the_log(lab):
    pass_time(lab, 1.0)
    lab.engine.down = True
    pass_time(lab, 5.0)
    lines = lab.log_path.read_text()
    assert '"job submitted"' in lines and '"server not reachable"' in lines
