"""A run says where similarity or coupling did nothing, why, and what to do."""

from dataclasses import replace

from parties import federation_of

from securepfl.report.coupling import never_coupled
from securepfl.report.outcome import SiteOutcome, TrainingUnits
from securepfl.settings.idle import idle_settings

NAMES = ("alder", "birch", "cedar", "damson")
ON = {"rounds": 5, "similarity": {"every": 1}, "coupling": {"strength": 0.5}}


def site(signal=9.0, row=NAMES[1:], neighbours=(), coupled=0):
    return SiteOutcome(
        train=10,
        units=TrainingUnits(declared=10, used=10, cut=0, padded=0, unusable=0, largest=1),
        test=5,
        test_units=5,
        patients_named=False,
        point=(),
        scores={},
        clipped_fraction=None,
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
        "[privacy] epsilon, or add rows or hospitals"
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


def test_what_may_mend_it_depends_on_the_kind():
    lasso = {"similarity": {"every": 1}, "coupling": {}, "lasso": {"penalty": 0.1}}
    (note,) = notes_of([site(neighbours=NAMES[:3])] * 4, **lasso)
    assert "fewer than 3 neighbours that chose it too" in note and note.endswith("To go without, remove [lasso]")


def test_no_reason_is_made_up_where_no_round_could_couple():
    assert notes_of([site(signal=None)] * 4, rounds=2) == []
    assert notes_of([site()] * 4, coupling={}) == []
    three = federation(NAMES[:3])
    assert never_coupled(three, dict.fromkeys(NAMES[:3], site())) == []
    (note,) = idle_settings(three)
    assert "it takes 3 others, and each has 2; add hospitals, or set [coupling] strength = 0" in note
