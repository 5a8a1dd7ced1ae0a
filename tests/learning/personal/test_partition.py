import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from securepfl.errors import ModelError
from securepfl.learning.personal.partition import Partition, personal_names
from securepfl.tasks.models import build_model


def test_patterns_split_in_parameter_order():
    partition = Partition.of(build_model("mlp", features=4, hidden=3), ["head.*"])
    assert partition.shared == ("body.weight", "body.bias")
    assert partition.personal == ("head.weight", "head.bias")
    assert (partition.shared_size, partition.personal_size) == (15, 4)


@pytest.mark.parametrize(("patterns", "sizes"), [([], (19, 0)), (["*"], (0, 19))])
def test_either_part_may_be_empty(patterns, sizes):
    model = build_model("mlp", features=4, hidden=3)
    partition = Partition.of(model, patterns)
    assert (partition.flatten_shared(model).numel(), partition.flatten_personal(model).numel()) == sizes
    partition.load_shared(model, torch.zeros(sizes[0]))
    partition.load_personal(model, torch.zeros(sizes[1]))
    assert all(not p.any() for p in model.parameters())


def test_a_pattern_without_a_match_is_named_with_the_parameters():
    with pytest.raises(ModelError, match=r'"heads\.\*".*body\.weight'):
        Partition.of(build_model("mlp", features=4), ["body.*", "heads.*"])


def test_frozen_parameters_are_in_neither_part():
    model = build_model("mlp", features=4)
    model.body.requires_grad_(False)
    partition = Partition.of(model, ["head.bias"])
    assert partition.shared == ("head.weight",)
    model.head.requires_grad_(False)
    with pytest.raises(ModelError, match="no trainable parameter"):
        Partition.of(model, [])


def test_one_string_is_not_taken_for_a_list_of_letters():
    with pytest.raises(ValueError, match=r"'head\.\*'"):
        Partition.of(build_model("mlp", features=4), "head.*")


def test_parts_must_be_disjoint_and_have_shapes():
    with pytest.raises(ValueError, match="twice"):
        Partition(shared=("a",), personal=("a",), shapes={"a": (1,)})
    with pytest.raises(ValueError, match="shapes"):
        Partition(shared=("a",), personal=(), shapes={"b": (1,)})


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(["body.*", "head.*", "*.bias", "*.weight"]), max_size=3), st.integers(0, 99))
def test_flatten_and_load_are_inverse_and_touch_one_part_only(patterns, seed):
    model, other = build_model("mlp", features=3), build_model("mlp", features=3)
    partition = Partition.of(model, patterns)
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(partition.shared_size, generator=generator)
    partition.load_shared(other, vector)
    assert torch.equal(partition.flatten_shared(other), vector)
    assert torch.equal(partition.flatten_personal(other), partition.flatten_personal(model))


def test_flattened_vectors_are_copies_on_the_models_device(device):
    model = build_model("mlp", features=3).to(device)
    partition = Partition.of(model, ["head.weight", "head.bias", "body.bias"])
    vector = partition.flatten_shared(model)
    before = vector.clone()
    vector += 1.0
    assert torch.equal(partition.flatten_shared(model), before)
    partition.load_shared(model, vector.cpu())
    assert model.body.weight.device.type == device.type == partition.flatten_shared(model).device.type
    torch.testing.assert_close(partition.flatten_shared(model), vector)


def test_another_model_is_refused_and_nothing_is_written():
    model = build_model("mlp", features=3)
    partition = Partition.of(model, ["head.*"])
    with pytest.raises(ModelError, match=r'"body\.weight" is missing'):
        partition.flatten_shared(build_model("logistic", features=3))
    with pytest.raises(ModelError, match=r"\(8, 4\)"):
        partition.load_shared(build_model("mlp", features=4), torch.zeros(partition.shared_size))
    before = partition.flatten_shared(model)
    with pytest.raises(ValueError, match=r"\(33,\)"):
        partition.load_shared(model, torch.zeros(33))
    assert torch.equal(partition.flatten_shared(model), before)


def test_masks_place_the_support_on_the_same_coordinates():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
    partition = Partition.of(model, ["1.bias"])
    support = np.zeros(partition.shared_size, dtype=np.bool_)
    support[[0, 4, 7, 8]] = True
    masks = partition.mask_from_support(support)
    assert list(masks) == list(partition.shared)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in masks:
                parameter.copy_(masks[name])
    assert np.array_equal(partition.flatten_shared(model).numpy(), support.astype(np.float32))
    with pytest.raises(ValueError, match="bool"):
        partition.mask_from_support(support.astype(np.int64))


def test_a_callable_and_a_rule_pick_like_patterns():
    model = build_model("mlp", features=4, hidden=3)
    picked = Partition.of(model, lambda name, parameter: name.endswith("bias") and parameter.numel() > 1)
    assert picked == Partition.of(model, ["body.bias"])
    assert Partition.of(model, "auto") == Partition.of(model, "intercept") == Partition.of(model, ["head.bias"])
    assert Partition.of(model, "head") == Partition.of(model, ["head.*"])
    assert Partition.of(model, lambda *_: False).personal == ()


@given(st.lists(st.text("ab[]*?!-", min_size=1, max_size=5), min_size=1, max_size=5, unique=True), st.integers(0, 31))
def test_resolved_names_match_themselves_only(keys, bits):
    model = nn.ParameterDict({key: nn.Parameter(torch.zeros(1)) for key in keys})
    chosen = {key for place, key in enumerate(keys) if bits >> place & 1}
    patterns = personal_names(model, lambda name, _: name in chosen)
    assert set(Partition.of(model, patterns).personal) == chosen


def test_plain_names_are_resolved_as_they_stand():
    model = build_model("mlp", features=4, hidden=3)
    assert personal_names(model, ["head.*"]) == ("head.weight", "head.bias")
    assert personal_names(model, "auto") == ("head.bias",)
