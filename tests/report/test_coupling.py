"""A run says where similarity or coupling did nothing, why, and what to do."""

from dataclasses import replace
from functools import partial

import pytest
from parties import federation_of

import securepfl
from securepfl.errors import ConfigError
from securepfl.report.coupling import idle_settings, never_coupled
from securepfl.report.outcome import SiteOutcome
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model

NAMES = ("alder", "birch", "cedar", "damson")
ON = {"rounds": 5, "similarity": {"every": 1}, "coupling": {"strength": 0.5}}


def site(signal=9.0, row=NAMES[1:], neighbours=(), coupled=0):
    return SiteOutcome(
        train=10,
        test=5,
        metrics={},
        epsilon=1.0,
        epsilon_replace_one=2.0,
        budget=1.0,
        sat_out=(),
        similarity=dict.fromkeys(row, 0.5),
        signal=signal,
        neighbours=neighbours,
        coupled_rounds=coupled,
        notes=(),
    )


def federation(names=NAMES, **tables):
    return federation_of(names, **(ON | tables))


def notes_of(sites, **tables):
    return never_coupled(federation(**tables), dict(zip(NAMES, sites, strict=True)))


def test_one_hospital_below_the_gate_uncouples_four_and_each_hears_its_own_reason():
    seen = [site(row=NAMES[:2])] * 3
    (note,) = notes_of([*seen, site(signal=2.9, row=())])
    assert note == (
        "coupling is on, but no hospital was ever coupled. At the last comparison: damson below the gate of 3; alder, "
        "birch, cedar with fewer than 3 others above the gate. To go without, set [coupling] strength = 0; else raise "
        "[privacy] epsilon, add rows or hospitals, or lower [similarity] gate (more noise passes it)"
    )


def test_who_alone_was_never_coupled_is_named_and_who_once_was_is_not():
    assert notes_of([site(coupled=1)] * 4) == []
    (note,) = notes_of([site(coupled=1), site(signal=None), site(coupled=2), site(coupled=2)])
    assert "birch was never coupled. At the last comparison: birch absent." in note and "budgets that last" in note
    (note,) = notes_of([site(coupled=1), site(), site(), site(coupled=2)])
    assert "birch, cedar were never coupled" in note and "birch, cedar too unlike the others" in note
    apart = replace(site(), similarity=dict.fromkeys(NAMES[1:], -0.1))
    (note,) = notes_of([site(coupled=1), apart, site(coupled=2), site(coupled=2)])
    assert "birch with fewer than 3 others at a cosine above 0" in note


def test_what_may_mend_it_depends_on_the_graph_and_the_kind():
    (note,) = notes_of([site()] * 4, coupling={"strength": 0.5, "graph": "threshold", "threshold": 0.9})
    assert "with fewer than 3 others at a cosine of at least 0.9. " in note
    assert note.endswith("set [coupling] strength = 0; else lower [coupling] threshold")
    lasso = {"kind": "lasso", "penalty": 0.1}
    tables = {"coupling": lasso, "similarity": {"every": 1, "of": "personal"}}
    (note,) = notes_of([site(neighbours=NAMES[:3])] * 4, **tables)
    assert "fewer than 3 neighbours that chose it too" in note and note.endswith("set [coupling] penalty = 0")


def test_no_reason_is_made_up_where_no_round_could_couple():
    assert notes_of([site(signal=None)] * 4, rounds=2) == []
    assert notes_of([site()] * 4, coupling={}) == []
    three = federation(NAMES[:3])
    assert never_coupled(three, dict.fromkeys(NAMES[:3], site())) == []
    (note,) = idle_settings(three)
    assert "it takes 3 others, and each has 2; add hospitals, or set [coupling] strength = 0" in note


@pytest.mark.parametrize(
    ("rounds", "every", "mend"),
    [
        (1, 2, "at least 5 rounds"),
        (2, 1, "at least 5 rounds"),
        (6, 6, "9 rounds, or set [similarity] every to at most 3"),
    ],
)
def test_rounds_too_few_to_compare_are_a_note_and_no_error(rounds, every, mend):
    tables = {"rounds": rounds, "similarity": {"every": every}}
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
    assert idle_settings(federation(coupling={"strength": 0.5, "graph": "complete"})) == []


def test_a_table_that_is_off_says_what_it_makes_idle():
    (note,) = idle_settings(federation(coupling={"strength": 0.0, "neighbours": 4, "hold": 2}))
    assert note == (
        "[coupling] strength = 0 leaves it off, so neighbours, hold had no effect; set strength above 0 to use it"
    )
    personal = {"every": 1, "of": "personal"}
    (note,) = idle_settings(federation(similarity=personal, coupling={"kind": "lasso", "weight_bits": 8}))
    assert note.startswith("[coupling] penalty = 0 leaves it off, so kind, weight_bits had no effect")
    (note,) = idle_settings(federation(similarity={"of": "personal", "gate": 2.0}, coupling={}))
    assert note.startswith("[similarity] every = 0 leaves it off, so of, gate had no effect")
    assert idle_settings(federation(similarity={}, coupling={})) == []
    assert idle_settings(federation()) == []


def test_blocks_that_are_all_sent_are_a_note_so_that_densities_can_be_compared():
    (note,) = idle_settings(federation(sparsity={"block": 4, "exploration": 0.5}))
    assert note == (
        "[sparsity] density = 1 in blocks of 4 sends all 56 shared parameters, so block, exploration had no "
        "effect; set a smaller density or block"
    )
    (note,) = idle_settings(federation(sparsity={"density": 0.5, "block": 100}))
    assert note.startswith("[sparsity] density = 0.5 in blocks of 100 sends all 56") and "so density, block had" in note
    assert idle_settings(federation(sparsity={"density": 0.5, "block": 4, "exploration": 0.5})) == []


def test_a_hidden_layer_that_is_not_there_is_a_note():
    settings = {"model": {"kind": "logistic", "hidden": 16}}
    bound = Federation.from_mapping(settings).bound(NAMES, partial(build_model, "logistic", 6))
    (note,) = idle_settings(bound)
    assert note.startswith("[model] hidden had no effect")


def test_settings_without_hospitals_are_refused():
    with pytest.raises(ConfigError, match=r"^federation: not bound to hospitals and a model; call Federation.bound"):
        securepfl.idle_settings(Federation())


def test_a_key_of_another_graph_is_a_note_so_that_graphs_can_be_compared():
    (note,) = idle_settings(federation(coupling={"strength": 0.5, "graph": "complete", "neighbours": 5}))
    assert note == '[coupling] neighbours had no effect under graph = "complete"; remove it, or set graph = "knn"'
    (note,) = idle_settings(federation(coupling={"strength": 0.5, "threshold": 0.9}))
    assert note == '[coupling] threshold had no effect under graph = "knn"; remove it, or set graph = "threshold"'
