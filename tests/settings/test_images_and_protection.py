"""Networks for images, what of them trains, simulations without protection: what fits together, and what is refused."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from securepfl.errors import ConfigError
from securepfl.settings.binding import built_in, initial_model
from securepfl.settings.federation import Federation
from securepfl.tasks.networks import build_network
from securepfl.tasks.starts.start import Start, taken

NAMES = ("a", "b", "c")
IMAGES = {"kind": "images", "size": [16, 16]}
UNET = {"kind": "unet", "task": "segmentation", "hidden": 2}
NONE = {"protection": "none"}


def federation(**tables):
    return Federation.from_mapping(tables, where="test.toml")


def start_file(folder, change=0.0):
    weights = taken(build_network("unet", 1, 2))
    first = next(iter(weights))
    weights[first] = weights[first] + change
    start = Start(name="tiny", weights=weights, network={"kind": "unet"}, card="No patient is in it.")
    path = Path(folder, f"start{change}.safetensors")
    path.write_bytes(start.to_bytes())
    return path


@pytest.mark.parametrize(
    ("tables", "words"),
    [
        ({"model": UNET | {"trained": "head"}}, ["[model]", 'trained = "head"', "start"]),
        ({"model": {"kind": "mlp", "start": "x"}}, ["start", 'kind = "unet" or "cnn"']),
        ({"model": {"kind": "mlp", "trained": ["head.*"]}}, ["trained", 'kind = "unet" or "cnn"']),
        ({"model": UNET | {"trained": []}}, ["trained = []"]),
        ({"model": UNET | {"trained": ["head.*"], "adapters": 1}}, ["adapters", "trained"]),
        ({"model": UNET | {"start": ""}}, ["start"]),
        ({"model": {"kind": "mlp"}, "data": IMAGES}, ["mlp", "tables", "unet"]),
        ({"model": {"kind": "unet"}, "data": IMAGES}, ["unet", 'task = "segmentation"']),
        ({"model": UNET | {"kind": "cnn"}, "data": IMAGES}, ['task = "segmentation"', 'kind = "unet"']),
        (
            {"model": UNET, "data": {"label": "y", "ranges": {"x": {"centre": 0, "spread": 1}}}},
            ["unet", "images", "mlp"],
        ),
        ({"privacy": NONE | {"epsilon": 2.0}}, ["epsilon", 'protection = "none"', "remove it"]),
        ({"privacy": NONE | {"clip": 0.5}}, ["clip", 'protection = "none"']),
        ({"privacy": NONE | {"budget": 2.0}}, ["budget", 'protection = "none"']),
        ({"privacy": NONE, "sites": {"a": {"budget": 2.0}}}, ["[sites.a] budget", 'protection = "none"']),
        (
            {"privacy": NONE, "shared_noise": {}, "model": {"personal": []}, "encryption": {"masking": "pairwise"}},
            ["shared_noise", 'protection = "none"'],
        ),
        ({"privacy": NONE, "lasso": {"penalty": 0.1}, "similarity": {"every": 1}}, ["[lasso]", 'protection = "none"']),
        ({"training": {"batch": 8}}, ["[training] batch", 'protection = "none"']),
        ({"training": {"batch": 0}, "privacy": NONE}, ["batch = 0"]),
        ({"release": {"finetuning": 3}}, ["finetuning", "experts = true"]),
        ({"release": {"prior": True}}, ["prior", "experts = true"]),
        ({"release": {"finetuning": -1, "experts": True}}, ["finetuning = -1"]),
        ({"trajectory": {"alpha": {"head.*": 1.0}}}, ["alpha = 1.0", "head.*"]),
    ],
)
def test_what_does_not_fit_is_one_line_with_the_key(tables, words):
    with pytest.raises(ConfigError) as caught:
        federation(**tables)
    message = str(caught.value)
    assert all(word in message for word in ["test.toml", *words]), message
    assert "\n" not in message


def test_the_new_keys_leave_digests_of_enrolled_federations_as_they_were():
    """The number is what the version before these keys gave."""
    tables = {
        "rounds": 5,
        "model": {"kind": "logistic", "personal": ["linear.bias"]},
        "training": {"learning_rate": 0.5},
        "privacy": {"epsilon": 2.0, "clip": 1.0},
        "encryption": {"limit": 0.5},
        "trajectory": {"alpha": 0.25},
        "release": {"experts": True},
        "sites": {name: {"units": 40} for name in NAMES},
    }
    assert federation(**tables).digest.hex() == "574e77cbc3a0c8ac438c8e8e2572421dc09b88e985cc350716900fdec1987ef8"
    for table, key, value in (
        ("release", "finetuning", 3),
        ("release", "prior", True),
        ("trajectory", "alpha", {"*": 0.25}),
    ):
        changed = tables | {table: tables[table] | {key: value}}
        assert federation(**changed).digest != federation(**tables).digest


def test_a_start_counts_by_what_it_holds_and_not_by_where_it_lies(tmp_path):
    def bound(path):
        settings = federation(model=UNET | {"start": str(path), "trained": "head"}, data=IMAGES)
        return settings.bound(NAMES, built_in(settings.model, settings.data_spec), units=5)

    first, other = start_file(tmp_path), start_file(tmp_path, 0.5)
    copied = tmp_path / "elsewhere.safetensors"
    copied.write_bytes(first.read_bytes())
    assert bound(first).digest == bound(copied).digest != bound(other).digest
    assert str(tmp_path) not in str(bound(first).told()["model"]) and "start0.0" in str(bound(first).told())


def test_a_relative_start_lies_beside_the_settings(tmp_path):
    start_file(tmp_path)
    config = tmp_path / "f.toml"
    config.write_text('[model]\nkind = "unet"\ntask = "segmentation"\nhidden = 2\nstart = "start0.0.safetensors"\n')
    assert Federation.read(config).model.start == str(tmp_path / "start0.0.safetensors")


def test_only_what_is_named_trains(tmp_path):
    settings = federation(model=UNET | {"start": str(start_file(tmp_path)), "trained": "head"}, data=IMAGES)
    build = built_in(settings.model, settings.data_spec)
    model = initial_model(build, settings)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"head.weight", "head.bias"}
    bound = settings.bound(NAMES, build, units=5)
    assert bound.shape.shared == sum(p.numel() for p in model.head.parameters())
    wrong = settings.changed("model", trained=("tail.*",))
    with pytest.raises(ConfigError, match=re.escape('[model] trained: pattern "tail.*"')):
        initial_model(build, wrong)


def test_a_unet_takes_presets_and_personal_parts(tmp_path):
    start = str(start_file(tmp_path))
    for preset, own in (("personal-intercept", {"head.bias"}), ("groups", {"head.weight", "head.bias"})):
        settings = federation(preset=preset, rounds=8, model=UNET | {"start": start}, data=IMAGES)
        bound = settings.bound(NAMES, built_in(settings.model, settings.data_spec), units=5)
        model = initial_model(built_in(settings.model, settings.data_spec), bound)
        assert bound.shape.personal == sum(p.numel() for n, p in model.named_parameters() if n in own)


def test_without_protection_adams_rate_and_limit_are_chosen():
    bound = federation(privacy=NONE, training={"steps": 10}).bound(NAMES, lambda: nn.Linear(3, 1), units=5)
    assert (bound.rounds, bound.training.learning_rate, bound.encryption.limit) == (30, 0.002, 0.02)


def test_the_longest_pattern_of_alpha_counts_and_one_that_nobody_has_is_refused():
    settings = federation(trajectory={"alpha": {"*": 0.1, "head.*": 0.5, "h*": 0.2}}, model={"kind": "mlp"})
    assert [settings.trajectory.alpha_of(n) for n in ("body.weight", "head.bias")] == [0.1, 0.5]
    assert federation(trajectory={"alpha": {"head.*": 0.5}}).trajectory.alpha_of("body.weight") == 0.0
    wrong = federation(trajectory={"alpha": {"tail.*": 0.5}})
    with pytest.raises(ConfigError, match=re.escape('[trajectory] alpha: pattern "tail.*"')):
        wrong.bound(NAMES, lambda: nn.Linear(3, 1), units=5)


def test_a_segmentation_is_decided_at_even_odds_whatever_is_declared_of_its_share():
    settings = federation(model=UNET, data=IMAGES | {"prevalence": 0.1})
    build = built_in(settings.model, settings.data_spec)
    bound = settings.bound(NAMES, build, units=5)
    assert bound.operating_point_of("a") == ()
    assert torch.equal(initial_model(build, bound).head.bias, torch.zeros(1))


def test_a_record_of_unprotected_settings_tells_no_epsilon():
    told = Federation.from_mapping({"privacy": NONE}).told()
    assert told["privacy"]["epsilon"] is None and told["privacy"]["clip"] is None
    assert Federation.from_mapping({}).told()["privacy"]["epsilon"] == 4.0


def test_a_record_of_unprotected_settings_is_read_back():
    """Pages and archives tell who could learn what from it; its epsilon is null."""
    made = federation(privacy=NONE, sites={name: {"units": 40} for name in NAMES})
    told = made.told() | {"digest": made.digest.hex()}
    assert told["privacy"]["epsilon"] is None and Federation.from_told(told, "result.json") == made
    told["privacy"]["epsilon"] = 5.0
    with pytest.raises(ConfigError, match=r"result\.json: holds no settings"):
        Federation.from_told(told, "result.json")


def test_a_record_of_a_start_is_read_back_without_its_file(tmp_path):
    tables = {"model": UNET | {"start": str(start_file(tmp_path))}, "data": IMAGES, "privacy": NONE}
    made = federation(**tables, sites={name: {"units": 40} for name in NAMES}).bound(
        NAMES, lambda: build_network("unet", 1, 2), units=40
    )
    told = made.told() | {"digest": made.digest.hex()}
    assert "/" not in told["model"]["start"]
    assert Federation.from_told(told, "result.json").digest == made.digest
