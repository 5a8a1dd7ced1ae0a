"""Curves for a tracker: TensorBoard's own reader reads them, and what patients decide is there by choice alone."""

from types import SimpleNamespace

import pytest

from securepfl.errors import ConfigError
from securepfl.report.outcome import RoundEvent
from securepfl.report.progress import silent
from securepfl.runtime.tracking import Tracker, private_values, tracked, tracking

NAMES = ("Köln", "north")
METRICS = {"personalised": {"auroc": 0.75, "accuracy": None}}
RESULT = {"sites": {name: {"metrics": METRICS} for name in NAMES}}


def event(number):
    counts = dict.fromkeys(NAMES, 10 * number)
    return RoundEvent(number, 2, NAMES, dict.fromkeys(NAMES, 0.5 * number), counts, counts)


def run_with(trackers):
    with tracked(silent, trackers)(dict.fromkeys(NAMES)) as observe:
        for number in (0, 1, 2):
            observe(event(number))


def scalars_in(folder):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = reading.EventAccumulator(str(folder))
    found.Reload()
    return {name: [(its.step, its.value) for its in found.Scalars(name)] for name in found.Tags()["scalars"]}


@pytest.mark.parametrize("private", [False, True])
def test_tensorboard_reads_the_rounds_and_no_metric_of_patients_unless_asked(private, tmp_path):
    pytest.importorskip("tensorboard")
    with tracking([f"tensorboard:{tmp_path}/curves"], "run-1", told=print) as trackers:
        run_with(trackers)
        if private:
            trackers[0].log(private_values(RESULT), 2)
    found = scalars_in(tmp_path / "curves" / "run-1")
    public = {"trained", "failed", "bytes/up", "bytes/down", "epsilon/Köln", "epsilon/north"}
    assert found["epsilon/Köln"] == [(1, 0.5), (2, 1.0)] and found["bytes/up"] == [(1, 20.0), (2, 40.0)]
    metrics = {f"{name}/personalised/auroc" for name in NAMES}
    assert found.keys() == public | (metrics if private else set())


def test_mlflow_keeps_the_rounds_in_a_database_whatever_hospitals_are_called(tmp_path):
    mlflow = pytest.importorskip("mlflow")
    place, said = f"sqlite:///{tmp_path}/curves.db", []
    names = ("Köln", "St. Anna's", "東京 $x")
    with tracking([f"mlflow:{place}"], "run-1", told=said.append) as trackers:
        trackers[0].log({f"epsilon/{name}": 0.5 for name in names} | {"trained": 3.0}, 1)
        trackers[0].log({f"epsilon/{name}": 1.0 for name in names}, 2)
    client = mlflow.MlflowClient(tracking_uri=place)
    (run,) = client.search_runs([client.get_experiment_by_name("securepfl").experiment_id])
    kept = {
        name: [(its.step, its.value) for its in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }
    twice = [(1, 0.5), (2, 1.0)]
    assert kept == {
        "trained": [(1, 3.0)],
        "epsilon/Köln": twice,
        "epsilon/St. Anna_27_s": twice,
        "epsilon/東京 _24_x": twice,
    }
    assert (run.info.run_name, run.info.status, run.data.params, said) == ("run-1", "FINISHED", {}, [])
    with pytest.raises(ConfigError, match="can't be opened"), tracking([f"mlflow:{tmp_path}"], "run-1", told=print):
        pass


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ("nosuch:x", "known are mlflow, tensorboard, and no plug-in of that name is installed"),
        ("tensorboard", "name a folder, as in --track tensorboard:curves"),
        ("mlflow:https://me:secret@host", "a place with a user or password in it is refused"),
    ],
)
def test_what_cannot_be_opened_is_one_line_without_a_secret(wanted, words):
    with pytest.raises(ConfigError) as error, tracking([wanted], "run", told=print):
        pass
    assert words in str(error.value) and "secret" not in str(error.value)


def test_a_tracker_that_fails_ends_no_run_and_is_asked_no_more():
    asked, said = [], []

    def log(values, step):
        asked.append(step)
        raise ConnectionError("https://me:secret@host")

    broken = SimpleNamespace(log=log, close=lambda: asked.append("close"))
    assert isinstance(broken, Tracker)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("securepfl.runtime.tracking._opened", lambda *given: broken)
        with tracking(["broken:place"], "run", told=said.append) as trackers:
            run_with(trackers)
    assert asked == [1] and said == ["note: tracker broken failed (ConnectionError) and gets no more of this run"]
