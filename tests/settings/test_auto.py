"""What a federation leaves to the rule, and what the rule is told of it."""

import pytest

from securepfl import Federation
from securepfl.errors import ConfigError
from securepfl.settings.auto import alone_at, choice_of, chosen, clip_by_rule, facts_of

SITES = {"north": {"units": 200}, "south": {"units": 100}, "west": {"units": 100}}
DATA = {
    "label": "ill",
    "prevalence": 0.2,
    "ranges": {
        "age": {"centre": 60, "spread": 10},
        "smoker": {"centre": 0.5, "spread": 0.5},
        "sex": {"centre": 1.5, "spread": 0.5},
    },
    "categories": {"ward": ["a", "b", "c"]},
}


def federation(**tables):
    return Federation.from_mapping({"model": {"kind": "logistic"}, "sites": SITES, "data": DATA, **tables})


def test_columns_are_counted_by_kind():
    facts = facts_of(federation())
    assert facts.row == pytest.approx(1 + 0.7 + 1 + 1 + 0.5)
    assert (facts.residual, facts.units) == (0.8, 400)
    assert [share.weight for share in facts.hospitals] == [0.5, 0.25, 0.25]


def test_all_numbers_are_chosen_and_stand_in_the_digest():
    ready = chosen(federation())
    assert ready.auto == ()
    assert ready.privacy.clip == pytest.approx(0.8 * 4.2**0.5, rel=0.01)
    assert ready.digest != federation().digest
    assert chosen(ready) == ready


def test_what_the_file_sets_stays():
    ready = chosen(federation(privacy={"clip": 2.0, "epsilon": 1.0}, rounds=7, encryption={"limit": 0.25}))
    assert (ready.privacy.clip, ready.rounds, ready.encryption.limit) == (2.0, 7, 0.25)


def test_the_chosen_limit_fits_what_travels():
    """With the earlier .5 the noise of a large learning rate was cut off."""
    small = chosen(federation(sites={name: {"units": 20} for name in SITES}, privacy={"epsilon": 4.0}))
    facts, settings = facts_of(small), small.training
    noise = small.privacy.clip * facts.multiplier(facts.hospitals[0], small.rounds) / 20
    assert small.encryption.limit > settings.learning_rate * 5 * noise


def test_sparse_rounds_and_networks_have_clips_of_their_own():
    sparse = facts_of(federation(sparsity={"density": 0.25}))
    network = facts_of(federation(model={"kind": "mlp", "hidden": 8}))
    assert sparse.density == 0.25
    assert network.hidden
    assert network.row == pytest.approx(1 + 1.6 + 0.2 * 4.2)


def test_without_a_row_size_constants_stand_and_a_limit_that_fits():
    own = federation(model={"kind": "own"})
    assert facts_of(own) is None
    ready = chosen(own)
    assert (ready.rounds, ready.training.learning_rate, ready.privacy.clip) == (10, 1.0, 1.0)
    assert ready.encryption.limit == choice_of(own).limit > 1


def test_missing_units_are_named():
    with pytest.raises(ConfigError, match=r"\[sites\.west\] units: must be declared"):
        chosen(federation(sites={**SITES, "west": {}}))


def test_a_folder_that_nobody_declared_may_take_no_part():
    with pytest.raises(ConfigError, match=r'units: must be declared.*takes no part, \[data\] without = \["east"\]$'):
        federation().bound([*SITES, "east"], lambda: None)


@pytest.mark.parametrize(
    ("model", "labels"),
    [
        ("multiclass", {"classes": ["a", "b", "c"]}),
        ("multilabel", {"label": ["ill", "worse"]}),
        ("regression", {"label_range": {"centre": 1, "spread": 2}}),
    ],
)
def test_every_task_has_a_choice_without_prevalence(model, labels):
    plain = {key: value for key, value in DATA.items() if key != "prevalence"}
    ready = chosen(federation(model={"kind": "logistic", "task": model}, data={**plain, **labels}))
    assert ready.training.learning_rate > 0


def test_a_hospital_alone_takes_the_rate_that_the_rule_gives_it_and_nothing_else_changes():
    """Its noise is that of one hospital: so a comparison with it is fair."""
    ready = chosen(federation())
    alone = alone_at(ready, "west")
    one = Federation.from_mapping({"model": {"kind": "logistic"}, "sites": {"west": SITES["west"]}, "data": DATA})
    same = one.changed("privacy", clip=ready.privacy.clip).replace(rounds=ready.rounds)
    free = same.replace(auto=("training.learning_rate",))
    assert alone.training.learning_rate == choice_of(free).learning_rate < ready.training.learning_rate
    assert alone.changed("training", learning_rate=ready.training.learning_rate) == ready


def test_a_rate_that_somebody_set_is_everybodys():
    ready = chosen(federation(training={"learning_rate": 0.123}))
    assert alone_at(ready, "west") == ready


def test_a_clip_of_the_rules_is_told_from_somebodys_own():
    assert clip_by_rule(chosen(federation()))
    assert not clip_by_rule(chosen(federation(privacy={"clip": 0.5})))
    assert not clip_by_rule(chosen(federation(model={"kind": "own", "personal": []}, data=None)))


@pytest.mark.parametrize(
    "tables",
    [{"similarity": {"every": 2}}, {"sparsity": {"density": 0.5}}, {"preset": "few-bytes"}, {"preset": "groups"}],
)
def test_what_needs_several_rounds_gets_ten(tables):
    few = {name: {"units": 20} for name in SITES}
    assert chosen(federation(sites=few)).rounds == 5
    assert chosen(federation(sites=few, **tables)).rounds == 10


def test_what_is_given_later_is_not_chosen_any_more():
    """`--rounds 50` stands, whatever the file leaves open."""
    federation = Federation(auto=("rounds", "training.learning_rate", "privacy.clip"))
    assert federation.replace(rounds=50).auto == ("training.learning_rate", "privacy.clip")
    assert federation.changed("privacy", clip=2.0).auto == ("rounds", "training.learning_rate")
    assert federation.changed("privacy", epsilon=2.0).auto == federation.auto
