"""Where models start and from where on a probability is a yes, by declared prevalences; and what is then personal."""

import math

import pytest

from securepfl import Federation
from securepfl.errors import ConfigError
from securepfl.settings.auto import chosen
from securepfl.settings.prevalence import start_of

SITES = {
    "north": {"units": 300, "prevalence": 0.5},
    "south": {"units": 100, "prevalence": 0.9},
    "west": {"units": 100},
}
DATA = {"label": "ill", "ranges": {"age": {"centre": 60, "spread": 10}}}


def logit(share):
    return math.log(share / (1 - share))


def federation(data=DATA, sites=None, **tables):
    units = {
        "north": {"units": 300, "prevalence": 0.5},
        "south": {"units": 100, "prevalence": 0.9},
        "west": {"units": 100},
    }
    sites = units if sites is None else sites
    return Federation.from_mapping({"data": data, "sites": sites, "model": {"kind": "logistic"}, **tables})


def test_all_start_from_the_mean_by_units():
    assert start_of(federation()) == pytest.approx([logit((300 * 0.5 + 100 * 0.9) / 400)])
    assert start_of(federation({**DATA, "prevalence": 0.3})) == pytest.approx([logit(0.3)])


def test_a_hospital_starts_halfway_to_its_own_prevalence_and_alone_all_the_way():
    common = logit(0.6)
    assert start_of(federation(), "south") == pytest.approx([(common + logit(0.9)) / 2])
    assert start_of(federation(), "south", alone=True) == pytest.approx([logit(0.9)])


def test_the_threshold_is_where_the_hospitals_model_starts():
    halfway = 1 / (1 + math.exp(-(logit(0.6) + logit(0.9)) / 2))
    assert federation().operating_point_of("south") == pytest.approx((halfway,))
    assert federation().operating_point_of() == pytest.approx((0.6,))
    assert federation().operating_point_of("south", alone=True) == pytest.approx((0.9,))
    assert federation({**DATA, "threshold": 0.25}).operating_point_of("south") == (0.25,)


def test_the_share_of_a_structure_moves_neither_start_nor_threshold():
    data, model = {"kind": "images", "size": [64, 64], "prevalence": 0.1}, {"kind": "unet", "task": "segmentation"}
    masks = federation(data, {}, model=model)
    assert masks.prevalence_of() == (0.1,)
    assert start_of(masks) is None and masks.operating_point_of() == ()
    assert federation({**data, "threshold": 0.4}, {}, model=model).operating_point_of() == (0.4,)


def test_without_a_prevalence_nothing_moves():
    plain = federation(sites={name: {"units": 10} for name in ("north", "south", "west")})
    assert start_of(plain) is None
    assert plain.operating_point_of("north") == ()


def test_classes_start_halfway_too():
    shares = {"a": 0.7, "b": 0.3}
    data = {**DATA, "classes": ["a", "b"], "prevalence": shares}
    sites = {"north": {"units": 1}, "south": {"units": 1, "prevalence": {"a": 0.1, "b": 0.9}}, "west": {"units": 1}}
    model = {"kind": "logistic", "task": "multiclass"}
    first, second = start_of(federation(data, sites, model=model), "south")
    assert first - second == pytest.approx((math.log(0.7 / 0.3) + math.log(0.1 / 0.9)) / 2)


def test_nothing_is_trained_personally_unless_something_needs_it():
    assert chosen(federation()).model.personal == ()
    coupled = federation(similarity={"every": 1}, coupling={"strength": 0.5})
    assert chosen(coupled).model.personal == "auto"
    assert chosen(federation(model={"kind": "mlp", "adapters": 2})).model.personal == "auto"
    assert chosen(federation(model={"kind": "mlp", "personal": "head"})).model.personal == "head"


@pytest.mark.parametrize("share", [5e-324, 1e-320, 1 - 1e-16])
def test_a_share_that_is_as_good_as_none_or_all_is_refused(share):
    with pytest.raises(ConfigError, match=r"prevalence = .* is nearer to 0 or 1 than"):
        federation({**DATA, "prevalence": share})
    with pytest.raises(ConfigError, match=r"prevalence = .* is nearer to 0 or 1 than"):
        federation(sites={"north": {"units": 300, "prevalence": share}})
