"""What of the settings can do nothing is a line each, known before a run."""

from functools import partial

import pytest
from parties import federation_of

import securepfl
from securepfl.errors import ConfigError
from securepfl.settings.federation import Federation
from securepfl.settings.idle import idle_settings
from securepfl.tasks.models import build_model

NAMES = ("alder", "birch", "cedar", "damson")
ON = {"rounds": 5, "similarity": {"every": 1}, "coupling": {"strength": 0.5}}


def federation(names=NAMES, **tables):
    return federation_of(names, **(ON | tables))


@pytest.mark.parametrize(
    ("rounds", "every", "mend"),
    [
        (1, 2, "at least 5 rounds"),
        (2, 1, "at least 5 rounds"),
        (6, 6, "9 rounds, or set [similarity] every to at most 3"),
    ],
)
def test_rounds_too_few_to_compare_are_a_note_and_no_error(rounds, every, mend):
    tables = {"rounds": rounds, "similarity": {"every": every}, "trajectory": {"of": "local"}}
    (note,) = idle_settings(federation(**tables))
    assert note.startswith(f"[similarity] every = {every}: none of {rounds} round(s)") and "so no hospital is" in note
    assert note.endswith(mend)
    (note,) = idle_settings(federation(**tables, coupling={}))
    assert "coupled" not in note
    (note,) = idle_settings(federation(**(tables | {"rounds": max(every, 2) + 1})))
    assert "in the last round alone" in note and note.startswith("hospitals are drawn")
    enough = tables | {"rounds": max(every, 2) + 1, "trajectory": {"of": "mixture"}}
    assert idle_settings(federation(**enough)) == []
    assert idle_settings(federation(**(tables | {"rounds": max(every, 2) + 3}))) == []


def test_more_neighbours_than_others_is_a_note_because_hospitals_may_leave():
    tables = {"coupling": {"strength": 0.5, "neighbours": 4}}
    (note,) = idle_settings(federation(**tables))
    assert "neighbours = 4: each hospital has 3 others" in note and note.endswith("set at most 3")
    assert idle_settings(federation((*NAMES, "elm"), **tables)) == []


def test_a_table_that_is_off_says_what_it_makes_idle():
    (note,) = idle_settings(federation(coupling={"strength": 0.0, "neighbours": 4}))
    assert note == (
        "[coupling] strength = 0 leaves it off, so neighbours had no effect; set strength above 0 to use it"
    )
    (note,) = idle_settings(federation(similarity={"beside_masks": True}, coupling={}))
    assert note.startswith("[similarity] every = 0 leaves it off, so beside_masks had no effect")
    assert idle_settings(federation(similarity={}, coupling={})) == []
    assert idle_settings(federation()) == []


def test_blocks_that_are_all_sent_are_a_note_so_that_densities_can_be_compared():
    (note,) = idle_settings(federation(sparsity={"block": 4}))
    assert note == (
        "[sparsity] density = 1 in blocks of 4 sends all 56 shared parameters, so block had no effect; "
        "set a smaller density or block"
    )
    (note,) = idle_settings(federation(sparsity={"density": 0.5, "block": 100}))
    assert note.startswith("[sparsity] density = 0.5 in blocks of 100 sends all 56") and "so density, block had" in note
    assert idle_settings(federation(sparsity={"density": 0.5, "block": 4})) == []


def test_a_hidden_layer_that_is_not_there_is_a_note():
    settings = {"model": {"kind": "logistic", "hidden": 16}}
    bound = Federation.from_mapping(settings).bound(NAMES, partial(build_model, "logistic", 6), units=40)
    (note,) = idle_settings(bound)
    assert note.startswith("[model] hidden had no effect")


def test_settings_without_hospitals_are_refused():
    with pytest.raises(ConfigError, match=r"^federation: not bound to hospitals and a model; call Federation.bound"):
        securepfl.idle_settings(Federation())


def test_the_network_lasso_is_taken_off_by_removing_its_table():
    lasso = {"similarity": {"every": 1}, "coupling": {}, "lasso": {"penalty": 0.1}}
    (note,) = idle_settings(federation(NAMES[:3], **lasso))
    assert note.endswith("add hospitals, or remove [lasso]")


def test_experts_that_are_one_and_the_same_model_are_a_note():
    same = {"similarity": {}, "coupling": {}, "model": {"personal": []}, "release": {"experts": True}}
    (note,) = idle_settings(federation(**same))
    assert note.startswith("[release] experts: nothing is personal") and "set [release] finetuning" in note
    for apart in (
        {"release": {"experts": True, "finetuning": 2}},
        {"trajectory": {"of": "local"}},
        {"model": {"personal": "head"}},
        {"release": {}},
    ):
        assert idle_settings(federation(**(same | apart))) == []
