from functools import partial

import pytest
import torch
from torch import nn

from securepfl.errors import ConfigError, ModelError
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model
from securepfl.tasks.names import LABEL_KEYS

MLP = partial(build_model, "mlp", 5)
NAMES = ("a", "b", "c")


def federation(**tables):
    return Federation.from_mapping(tables, where="test.toml")


def test_defaults_are_valid_and_bind_to_a_model():
    bound = federation().bound(NAMES, MLP, units=40)
    assert bound.roster == NAMES
    assert (bound.shape.shared, bound.shape.personal) == (5 * 8 + 8 + 8 + 1, 0)


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"privacy": {"epsilon": 0}}, ["test.toml", "epsilon = 0", "positive"]),
        ({"privacy": {"epsilon": -1.0}}, ["epsilon = -1.0"]),
        ({"privacy": {"delta": 1.0}}, ["[privacy]", "delta"]),
        (
            {"privacy": {"epsilonn": 1.0}},
            ["unknown key `epsilonn` in [privacy]; remove it or mend its spelling (`epsilon`?)"],
        ),
        ({"roundz": 3}, ["unknown key `roundz` in the top level", "(`rounds`?)"]),
        ({"privcy": {}}, ["(`privacy`?)"]),
        ({"sites": {"north": {"unts": 3}}}, ["unknown key `unts` in [sites.NAME]", "(`units`?)"]),
        ({"privacy": {"zebra": 3}}, ["mend its spelling"]),
        ({"rounds": 0}, ["rounds = 0"]),
        ({"rounds": "many"}, ["[rounds]", "int"]),
        ({"sites": {"a": {"weight": 0}}}, ["weight = 0"]),
        ({"coupling": {"strength": 0.5}}, ["similarity"]),
        ({"coupling": {"neighbours": 2}}, ["neighbours = 2"]),
        ({"shape": {}}, ["computed from the model"]),
        ({"sparsity": {"strength": 2.0}}, ["[sparsity] strength", 'kind = "soft" or "difference"']),
        ({"sparsity": {"strength": 2.0, "kind": "select"}}, ["[sparsity] strength", "remove it"]),
        ({"lasso": {}}, ["[lasso] penalty", "must be declared"]),
        ({"lasso": {"penalty": 0}}, ["[lasso] penalty = 0", "positive"]),
        ({"lasso": {"penalty": 0.1}}, ["[lasso]", "[similarity] every = 1"]),
        (
            {"lasso": {"penalty": 0.1}, "similarity": {"every": 1}, "coupling": {"strength": 0.1}},
            ["[coupling] strength", "[lasso]", "remove"],
        ),
        ({"shared_noise": {"normaliser": 100}}, ["[shared_noise] normaliser", "units"]),
        ({"shared_noise": {}}, ["[shared_noise]", "masking"]),
    ],
)
def test_a_bad_setting_is_named_with_its_file(tables, words):
    with pytest.raises(ConfigError) as caught:
        federation(**tables)
    message = str(caught.value)
    assert all(word in message for word in ["test.toml", *words]), message
    assert "\n" not in message


@pytest.mark.parametrize(
    "tables",
    [
        {"sparsity": {"strength": 2.0, "kind": "soft"}},
        {"sparsity": {"strength": 1, "kind": "select"}},
        {"coupling": {"strength": 0.0, "neighbours": 4}},
        {"coupling": {"strength": 0.5}, "similarity": {"every": 30}},
    ],
)
def test_a_table_that_is_off_or_spells_out_a_default_may_keep_the_rest(tables):
    assert federation(**tables).bound(NAMES, MLP, units=40).roster == NAMES


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"coupling": {"strength": 0.5}, "similarity": {"every": 2}}, r"\[coupling\] strength: .* set it to 0, or"),
        ({"lasso": {"penalty": 0.1}, "similarity": {"every": 1}}, r"\[lasso\] penalty: .* remove \[lasso\], or"),
    ],
)
def test_with_nothing_personal_none_is_coupled(tables, words):
    with pytest.raises(ConfigError, match=words):
        federation(model={"personal": []}, **tables).bound(NAMES, MLP, units=40)
    assert federation(**tables).bound(NAMES, MLP, units=40).shape.personal == 1


def test_with_nothing_personal_updates_can_still_be_compared():
    assert federation(model={"personal": []}, similarity={"every": 2}).bound(NAMES, MLP, units=40).shape.personal == 0


@pytest.mark.parametrize(
    ("rounds", "every", "due"),
    [(5, 1, (3, 5)), (6, 2, (3, 4, 6)), (4, 2, (4,)), (3, 2, (3,)), (9, 8, (9,)), (2, 1, ()), (1, 2, ()), (8, 8, ())],
)
def test_the_rounds_that_couple_follow_a_comparison(rounds, every, due):
    settings = federation(rounds=rounds, similarity={"every": every}, coupling={"strength": 0.5})
    assert settings.schedule.coupling_rounds == due
    assert bool(due) == any(settings.schedule.similarity_due(round_) for round_ in range(1, rounds + 1))
    assert settings.changed("coupling", strength=0.0).schedule.coupling_rounds == ()


def test_a_missing_and_a_broken_file_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        Federation.read(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("rounds = \n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        Federation.read(broken)


def test_too_few_hospitals_are_refused_and_two_only_on_request():
    with pytest.raises(ConfigError, match=r"1 hospital.*a sum needs 3"):
        federation().bound(["only"], MLP, units=40)
    with pytest.raises(ConfigError, match="read off the other's update"):
        federation().bound(["one", "two"], MLP, units=40)
    with pytest.raises(ConfigError, match="a sum needs 2"):
        federation(minimum=2).bound(["only"], MLP, units=40)
    assert federation(minimum=2).bound(["one", "two"], MLP, units=40).roster == ("one", "two")


def test_a_setting_for_an_absent_hospital_is_refused():
    with pytest.raises(ConfigError, match="no such hospital"):
        federation(sites={"d": {"weight": 2}}).bound(NAMES, MLP, units=40)


@pytest.mark.parametrize("name", ["../x", "a/b", ".hidden", "", "x\n"])
def test_a_name_that_is_no_file_name_is_refused(name):
    with pytest.raises(ConfigError, match="file name"):
        federation().bound([*NAMES, name], MLP, units=40)


def test_a_pattern_that_matches_nothing_is_refused():
    with pytest.raises(ModelError, match="neck"):
        federation(model={"personal": ["neck.*"]}).bound(NAMES, MLP, units=40)


def test_all_personal_is_refused_because_nothing_would_be_shared():
    with pytest.raises(ConfigError, match="nothing is shared"):
        federation(model={"personal": ["*"]}).bound(NAMES, MLP, units=40)


def test_the_digest_covers_settings_scheme_and_model_but_no_budget():
    bound = federation().bound(NAMES, MLP, units=40)
    assert bound.digest == federation().bound(reversed(NAMES), MLP, units=40).digest
    assert bound.digest != bound.changed("encryption", scheme="none").digest
    assert bound.digest != federation().bound(NAMES, partial(build_model, "mlp", 6), units=40).digest
    assert bound.digest == bound.changed("privacy", budget=9.0).digest == bound.without_budgets().digest


@pytest.mark.parametrize("persistent", [True, False])
def test_the_digest_covers_buffers(persistent):
    def build(number):
        model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
        model.register_buffer("scale", torch.tensor([number]), persistent=persistent)
        return model

    bound = [
        federation(model={"kind": "own"}).bound(NAMES, partial(build, number), units=40)
        for number in (1.0, 1.0, 1.0001)
    ]
    assert bound[0].digest == bound[1].digest != bound[2].digest


def test_the_coordinators_copy_holds_no_budget():
    bound = federation(privacy={"budget": 7.5}, sites={"a": {"budget": 3.5}}).bound(NAMES, MLP, units=40)
    assert bound.budget_of("a") == 3.5 and bound.budget_of("b") == 7.5
    assert "7.5" not in repr(bound.without_budgets()) and "3.5" not in repr(bound.without_budgets())


def test_changed_checks_again():
    with pytest.raises(ConfigError, match=r"\[privacy\] epsilon"):
        federation().changed("privacy", epsilon=0.0)


def test_an_own_model_starts_alike_everywhere():
    settings = federation(model={"kind": "own", "personal": ["1.*"]})
    build = lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))  # noqa: E731
    assert settings.bound(NAMES, build, units=40).digest == settings.bound(NAMES, build, units=40).digest


LABELS = {
    "multiclass": {"label": "grade", "classes": ["mild", "severe"]},
    "multilabel": {"label": ["flu", "asthma"]},
    "regression": {"label": "mmhg", "label_range": {"centre": 120, "spread": 20, "unit": "mmHg"}},
}


@pytest.mark.parametrize(
    ("task", "changes"),
    [
        ("multiclass", {"classes": ["severe", "mild"]}),
        ("multiclass", {"classes": ["mild", "severe", "worst"]}),
        ("multilabel", {"label": ["asthma", "flu"]}),
        ("regression", {"label_range": {"centre": 120, "spread": 21, "unit": "mmHg"}}),
        ("regression", {"label_range": {"centre": 121, "spread": 20, "unit": "mmHg"}}),
        ("regression", {"label_range": {"centre": 120, "spread": 20, "limit": 9, "unit": "mmHg"}}),
    ],
)
def test_the_digest_covers_what_labels_are(task, changes):
    assert of_task(task, LABELS[task]).digest != of_task(task, LABELS[task] | changes).digest


def of_task(task, labels):
    model = {} if task is None else {"task": task}
    return Federation.from_mapping({"model": model, "data": {"ranges": {"age": {"centre": 0, "spread": 1}}} | labels})


@pytest.mark.parametrize("task", LABELS)
def test_the_task_and_what_is_declared_of_labels_fit_or_are_refused(task):
    assert of_task(task, LABELS[task]).model.task == task
    for wrong in (None, "binary"):
        with pytest.raises(ConfigError, match=f'needs \\[model\\] task = .*"{task}".*, not "binary"'):
            of_task(wrong, LABELS[task])
    with pytest.raises(ConfigError, match=f'task = "{task}" needs \\[data\\]'):
        of_task(task, {"label": "grade"})


def test_what_data_declares_of_labels_is_for_the_task():
    assert of_task("multiclass", LABELS["multiclass"]).label_options == {"classes": ("mild", "severe")}
    assert of_task("multilabel", LABELS["multilabel"]).label_options == {"labels": ("flu", "asthma")}
    declared = {"centre": 120.0, "spread": 20.0, "limit": 10.0, "unit": "mmHg"}
    assert of_task("regression", LABELS["regression"]).label_options == declared
    assert Federation.from_mapping({}).label_options == {}


def test_an_unknown_task_is_refused_with_those_that_are_known():
    known = ", ".join(f'"{name}"' for name in LABEL_KEYS)
    with pytest.raises(ConfigError, match=f"known are {known};"):
        Federation.from_mapping({"model": {"task": "ranking"}})
