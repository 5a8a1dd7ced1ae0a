import dataclasses
import json
import math

import msgspec
import pytest
import rfc8785

from securepfl.privacy.accounting.events import AnyRelease, Release, Selection, SharedRelease

GAUSSIAN = Release(noise_multiplier=4.5, sample_rate=0.1, steps=10)
SHARED = SharedRelease(scale=100, sensitivity=25.5, shares=4, dimension=1000, tail=1e-12, steps=10, unit="patient")
SELECTION = Selection(candidate=(GAUSSIAN, GAUSSIAN), mean=5.0, shape=0.5)
EVENTS = [GAUSSIAN, SHARED, SELECTION, msgspec.structs.replace(SELECTION, shape="poisson")]


@pytest.mark.parametrize("event", EVENTS)
def test_every_kind_comes_back_from_canonical_json(event):
    data = rfc8785.dumps(msgspec.to_builtins(event))
    assert msgspec.json.decode(data, type=AnyRelease) == event
    assert hash(msgspec.json.decode(data, type=AnyRelease)) == hash(event)
    assert rfc8785.dumps(msgspec.to_builtins(msgspec.json.decode(data, type=AnyRelease))) == data


def test_a_gaussian_release_is_written_as_it_always_was():
    written = b'{"mechanism":"gaussian","noise_multiplier":4.5,"sample_rate":0.1,"steps":10,"unit":"record"}'
    assert rfc8785.dumps(msgspec.to_builtins(GAUSSIAN)) == written


@pytest.mark.parametrize(
    ("event", "changes"),
    [
        (GAUSSIAN, {"noise_multiplier": 0.0}),
        (GAUSSIAN, {"noise_multiplier": math.nan}),
        (GAUSSIAN, {"noise_multiplier": math.inf}),
        (GAUSSIAN, {"noise_multiplier": 9.9e-5}),
        (GAUSSIAN, {"noise_multiplier": 1e-300}),
        (GAUSSIAN, {"sample_rate": 0.0}),
        (GAUSSIAN, {"sample_rate": 1.1}),
        (GAUSSIAN, {"steps": -1}),
        (GAUSSIAN, {"steps": True}),
        (GAUSSIAN, {"steps": 1.0}),
        (GAUSSIAN, {"unit": "household"}),
        (SHARED, {"scale": 7}),
        (SHARED, {"scale": 2**53 + 1}),
        (SHARED, {"scale": 100.0}),
        (SHARED, {"sensitivity": 0.9}),
        (SHARED, {"sensitivity": math.inf}),
        (SHARED, {"shares": 0}),
        (SHARED, {"dimension": 0}),
        (SHARED, {"tail": -1e-12}),
        (SHARED, {"tail": 1.0}),
        (SHARED, {"tail": math.nan}),
        (SHARED, {"unit": "household"}),
        (SELECTION, {"candidate": ()}),
        (SELECTION, {"candidate": (GAUSSIAN, msgspec.structs.replace(GAUSSIAN, unit="patient"))}),
        (SELECTION, {"candidate": (SHARED,)}),
        (SELECTION, {"mean": 0.99}),
        (SELECTION, {"mean": math.inf}),
        (SELECTION, {"shape": -0.1}),
        (SELECTION, {"shape": math.inf}),
        (SELECTION, {"shape": math.nan}),
        (SELECTION, {"shape": "normal"}),
        (SELECTION, {"steps": -1}),
    ],
)
def test_an_event_names_the_field_that_is_wrong(event, changes):
    with pytest.raises(ValueError, match=next(iter(changes))):
        msgspec.structs.replace(event, **changes)


def test_an_event_of_an_unknown_kind_or_field_is_refused():
    plain = msgspec.to_builtins(GAUSSIAN)
    for wrong in (plain | {"mechanism": "laplace"}, plain | {"note": 1}, {k: plain[k] for k in list(plain)[1:]}):
        with pytest.raises(msgspec.ValidationError):
            msgspec.json.decode(json.dumps(wrong), type=AnyRelease)


def test_events_never_change():
    with pytest.raises(AttributeError):
        GAUSSIAN.steps = 1
    assert not dataclasses.is_dataclass(GAUSSIAN)


CHEAPER = [
    (GAUSSIAN, {"noise_multiplier": 5.0}),
    (GAUSSIAN, {"sample_rate": 0.05}),
    (GAUSSIAN, {"steps": 0}),
    (SHARED, {"scale": 101}),
    (SHARED, {"sensitivity": 25.0}),
    (SHARED, {"shares": 5}),
    (SHARED, {"dimension": 999}),
    (SHARED, {"tail": 0.0}),
    (SHARED, {"steps": 9}),
    (SELECTION, {"steps": 0}),
    (SELECTION, {"candidate": (GAUSSIAN, msgspec.structs.replace(GAUSSIAN, steps=1))}),
]


@pytest.mark.parametrize(("event", "changes"), CHEAPER)
def test_an_event_covers_itself_and_what_costs_less_and_never_what_costs_more(event, changes):
    cheaper = msgspec.structs.replace(event, **changes)
    assert event.covers(event) and event.covers(cheaper)
    assert not cheaper.covers(event)


@pytest.mark.parametrize("event", EVENTS)
def test_kinds_and_units_never_cover_one_another(event):
    for other in (GAUSSIAN, SHARED, SELECTION):
        assert event.covers(other) == (type(event) is type(other) and event == other)
    if event is GAUSSIAN:
        assert not event.covers(msgspec.structs.replace(event, unit="patient"))


@pytest.mark.parametrize("changes", [{"mean": 4.0}, {"shape": 0.4}, {"candidate": (GAUSSIAN,)}])
def test_another_draw_is_never_covered(changes):
    assert not SELECTION.covers(msgspec.structs.replace(SELECTION, **changes))
