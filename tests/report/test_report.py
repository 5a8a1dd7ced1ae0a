"""result.json, the page and the terminal from one outcome."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from parties import federation_of
from rich.cells import cell_len
from rich.console import Console

from securepfl.report.console import closing_output
from securepfl.report.outcome import MODELS, Communication, Outcome, RoundEvent, SiteOutcome, TrainingUnits
from securepfl.report.pages.page import read_page
from securepfl.report.progress import live_display
from securepfl.report.result import result_of
from securepfl.tasks.binary import BINARY
from securepfl.tasks.resampling import Scored
from securepfl.tasks.segmentation import Segmentation

NAMES = ("a<b>&", "[red]b", "cedar")


def scored(accuracy, auroc):
    """Without resamples, so without intervals."""
    metrics = dict.fromkeys((metric.name for metric in BINARY.metrics), auroc) | {"accuracy": accuracy}
    return Scored({name: np.array([np.nan if value is None else value]) for name, value in metrics.items()})


def site(accuracy, auroc, **changes):
    values = {
        "train": 10,
        "units": TrainingUnits(declared=12, used=9, cut=0, padded=2, unusable=1, largest=4),
        "test": 5,
        "test_units": 5,
        "patients_named": False,
        "point": (),
        "scores": dict.fromkeys(MODELS, scored(accuracy, auroc)),
        "clipped_fraction": None,
        "epsilon": 1.25,
        "epsilon_replace_one": 2.75,
        "budget": 2.0,
        "sat_out": (),
        "similarity": {},
        "signal": 4.0,
        "neighbours": (),
        "coupled_rounds": 0,
        "notes": (),
    }
    return SiteOutcome(**(values | changes))


def outcome():
    sites = {
        NAMES[0]: site(0.5, 0.75, similarity={NAMES[1]: -0.25}, neighbours=NAMES[1:], coupled_rounds=1),
        NAMES[1]: site(1.0, None, sat_out=(2, 3)),
        NAMES[2]: site(0.6, 0.25, notes=("cedar: one class",)),
    }
    communication = Communication(3, 1000, 2000, 500, 500, 7, {"updates": 2500, "envelopes": 500})
    seconds = {"train": 1.0, "encrypt": 0.5, "aggregate": 0.25, "decrypt": 0.125, "total": 2.0}
    return Outcome(sites, dict.fromkeys(MODELS, scored(0.65, 0.6)), communication, seconds, None, {}, BINARY)


def result():
    return result_of(federation_of(names=NAMES), outcome()) | {"notes": ["a <note>"]}


def page_of(shown):
    """The page of a folder that holds this result.json alone."""
    with TemporaryDirectory() as folder:
        Path(folder, "result.json").write_text(json.dumps(shown))
        return read_page([Path(folder)]).html()


def rows_of(page):
    """The cells of each row of a page's tables."""
    rows = re.findall("<tr>(.*?)</tr>", page, re.DOTALL)
    return [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


def test_means_leave_out_what_could_not_be_computed():
    mean = outcome().mean()["local"]
    assert mean == pytest.approx(dict.fromkeys(mean, 0.5) | {"accuracy": 0.7})
    assert outcome().mean(without=(NAMES[0], NAMES[2]))["local"]["auroc"] is None


def test_the_result_is_json_with_nulls():
    read = json.loads(json.dumps(result(), allow_nan=False))
    assert read["sites"][NAMES[1]]["metrics"]["shared"]["auroc"] is None
    assert read["sites"][NAMES[1]]["sat_out"] == [2, 3]
    assert set(read["mean"]["personalised"]) == {metric.name for metric in BINARY.metrics}
    assert read["simulation"] is True and read["seed"] is None


def test_the_page_escapes_names_and_notes():
    page = page_of(result())
    assert "a&lt;b&gt;&amp;" in page and "A &lt;note&gt;." in page
    assert "<b>" not in page and "<note>" not in page
    assert ["[red]b", "10 / 5", "-", "-", "-", "-"] in rows_of(page), "a metric that can't be computed"
    assert ["a&lt;b&gt;&amp;", "[red]b, cedar", "1 of 1"] in rows_of(page)
    assert ["cedar", "none", "0 of 1"] in rows_of(page)


def printed(show):
    text = io.StringIO()
    show(Console(file=text, width=160, markup=False))
    return text.getvalue()


def test_the_terminal_shows_names_as_they_are_and_a_dash_for_null():
    out = printed(lambda console: closing_output(console, result()))
    assert "[red]b" in out and "a<b>&" in out
    assert "1.000 / - / -" in out
    assert "2.00 x dense float32" in out and "note: a <note>" in out and "-0.25" in out
    assert [" ".join(line.split()) for line in out.splitlines() if " of 1 " in line] == [
        "│ a<b>& │ [red]b, cedar │ 1 of 1 │", "│ [red]b │ none │ 0 of 1 │", "│ cedar │ none │ 0 of 1 │"
    ]  # fmt: skip


def test_both_epsilons_and_the_units_are_told_in_words():
    out, page = printed(lambda console: closing_output(console, result())), page_of(result())
    for shown in (" ".join(out.split()), page):
        assert "of whether one record was in the data. Swapped: of which of two records it was" in shown
        assert "More are cut, for fewer zeros stand" in shown
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines()]
    assert rows.count(["cedar", "12", "9", "0", "2", "4", "-"]) == 1
    assert ["cedar", "12", "9", "0", "2", "4", "-"] in rows_of(page)


def test_figures_over_all_hospitals_stand_with_their_intervals_and_the_verdict_stands_last():
    drawn = {metric.name: np.array([0.65, *np.linspace(0.6, 0.7, 101)]) for metric in BINARY.metrics}
    pooled = dict.fromkeys(MODELS, Scored(drawn))
    shown = result_of(federation_of(names=NAMES), replace(outcome(), pooled=pooled)) | {"notes": ["a note"]}
    out = printed(lambda console: closing_output(console, shown))
    assert "All 15 test records together, with 95 % intervals" in out and "0.650 (0.60 to 0.70)" in out
    last = out.splitlines()[-3:]
    assert last == [finding["line"] for finding in shown["verdict"]] and "training together paid" in last[0]
    assert "AUROC" in out and "calibration slope" in out
    page = page_of(shown)
    assert "0.650 (0.60 to 0.70)" in page and "Did training together pay?" in page


def test_a_mean_of_some_hospitals_says_of_how_many():
    shown = result()
    assert shown["counted"]["local"] == dict.fromkeys(shown["counted"]["local"], 2) | {"accuracy": 3}
    out = printed(lambda console: closing_output(console, shown))
    (line,) = [line for line in out.splitlines() if line.startswith("│ mean  ")]
    assert "2 of 3" in line


def test_what_must_be_known_before_the_first_round_is_printed_above_the_display():
    event = RoundEvent(0, 3, NAMES, dict.fromkeys(NAMES, 0.5), *[dict.fromkeys(NAMES, 0)] * 2, ("nothing is left",))

    def show(console):
        with live_display(console, dict.fromkeys(NAMES, 1.0)) as observe:
            observe(event)

    out = printed(show)
    assert out.startswith("note: nothing is left\n") and "sat out" not in out and "trained" not in out


def shown_round(*, terminal, verbose=False):
    """What a display of one round and of the next prints."""
    spent, sent = dict.fromkeys(NAMES, 0.5), dict.fromkeys(NAMES, 10)
    events = [RoundEvent(number, 3, NAMES[:1], spent, sent, sent) for number in (0, 1, 2)]
    text = io.StringIO()
    console = Console(file=text, width=100, force_terminal=terminal, color_system=None)
    with live_display(console, dict.fromkeys(NAMES, 1.0), verbose=verbose) as observe:
        for event in events:
            observe(event)
    return text.getvalue()


def test_a_terminal_shows_the_round_and_the_time_left_and_a_pipe_nothing():
    shown = shown_round(terminal=True)
    assert "round 2/3" in shown and "sat out" in shown and "about 1 s left" in shown
    assert shown_round(terminal=False) == ""


def test_a_pipe_gets_a_line_a_round_where_it_is_asked_for():
    first, second = shown_round(terminal=False, verbose=True).splitlines()
    assert first.startswith(f"round 1/3: 1 of {len(NAMES)} hospitals trained, epsilon at most 0.5")
    assert second.endswith(f"{20 * len(NAMES)} bytes so far, about 1 s left")


@pytest.mark.parametrize("width", [80, 100, 140])
@pytest.mark.parametrize("hospitals", [4, 12])
def test_no_name_and_no_figure_is_broken_on_a_terminal(width, hospitals):
    names = [f"北京-number-{number:02d}" if number % 3 else f"simulated-{number:02d}" for number in range(hospitals)]
    like = {one: {other: 0.5 for other in names if other != one} for one in names}
    sites = {name: site(0.875, 0.875, similarity=like[name], signal=1234.5) for name in names}
    pooled = dict.fromkeys(MODELS, scored(0.75, 0.75))
    whole = Outcome(sites, pooled, outcome().communication, outcome().seconds, None, {}, BINARY)
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, color_system=None)
    closing_output(console, result_of(federation_of(names=tuple(names)), whole) | {"notes": []})
    lines = text.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= width
    first = [line.split("│")[1].strip() for line in lines if line.startswith("│")]
    tables = 5 if width == 140 else 7  # metrics together or one by one, units, privacy, similarity, coupling
    metrics = {word for metric in BINARY.metrics for word in (metric.title, *metric.title.split())}
    assert all(first.count(name) == tables for name in names)
    assert set(first) <= {*names, *metrics, "mean", "mean by records", ""}
    shown = "".join(line for line in lines if line.startswith("│"))
    assert shown.count("0.875") == 4 * 3 * (hospitals + 2) and shown.count("1,234.5") == hospitals
    assert shown.count("0.750") == 4 * len(BINARY.metrics)
    assert ("most similar" in text.getvalue()) == (hospitals == 12 or width == 80)


def of_images():
    """Of a hospital that never finds the structure, and of one that does."""
    task, found = Segmentation(), Scored({"dice": np.array([0.8125] * 3), "hd95": np.array([23.4] * 3)})
    none = Scored({"dice": np.zeros(3), "hd95": np.full(3, np.nan)})
    models = dict.fromkeys(MODELS, found) | {"majority": none}
    sites = {name: site(0, 0, scores=models | {"local": none}, patients_named=True) for name in NAMES}
    made = replace(outcome(), sites=sites, pooled=models, task=task)
    return result_of(federation_of(names=NAMES, model={"task": "segmentation", "kind": "own"}), made) | {"notes": []}


def test_masks_are_told_by_dice_and_distance_beside_the_empty_mask():
    read = json.loads(json.dumps(of_images(), allow_nan=False))
    assert read["metrics"] == {
        "titles": {"dice": "Dice", "hd95": "HD95, pixels"},
        "shown": ["dice"],
        "decides": "dice",
        "majority": "empty mask",
    }
    assert read["sites"][NAMES[2]]["metrics"]["majority"] == {"dice": 0.0, "hd95": None}
    assert read["counted"]["local"] == {"dice": 3, "hd95": 0}
    assert read["intervals"]["pooled"]["shared"]["hd95"] == [23.4, 23.4]
    page, shown = page_of(read), printed(lambda console: closing_output(console, read))
    for text in (page, " ".join(shown.split())):
        assert "empty mask" in text and "every image counts alike" in text and "credit a model" not in text
        assert "HD95, pixels" in text and "23.400" in text and "0.812" in text
    assert "majority" not in shown and "Test Dice" in shown
