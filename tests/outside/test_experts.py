"""Experts that were trained with adapters are read as whole layers, and routed."""

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from securepfl.data.schema import DataSpec
from securepfl.errors import StorageError
from securepfl.outside.experts import read_experts, write_expert
from securepfl.outside.routing import RoutedModel
from securepfl.settings.binding import blank_model
from securepfl.settings.tables import ModelSettings
from securepfl.storage.folder import read_arrays, write_arrays
from securepfl.tasks.binary import BINARY
from securepfl.tasks.models import build_model
from securepfl.tasks.prediction import predict

SPEC = DataSpec.from_mapping(
    {"label": "outcome", "ranges": {name: {"centre": 0, "spread": 1} for name in ("age", "bmi", "hr")}}
)
FEATURES = len(SPEC.feature_names)
ROWS = torch.randn(5, FEATURES, generator=torch.Generator().manual_seed(1))


def trained(settings, seed):
    model = blank_model(lambda: build_model(settings.kind, FEATURES, settings.hidden), settings)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


@pytest.mark.parametrize("kind", ["mlp", "logistic"])
@pytest.mark.parametrize("adapters", [None, 0, 2])
def test_an_expert_read_back_is_the_function_released_without_adapters(tmp_path, kind, adapters):
    settings = ModelSettings(kind=kind, adapters=adapters)
    models = {name: trained(settings, seed) for seed, name in enumerate(("north", "south"))}
    for name, model in models.items():
        write_expert(tmp_path / f"{name}.safetensors", model, {"epsilon": 1.0}, settings, SPEC)
    experts = read_experts(tmp_path)
    plain = list(build_model(kind, FEATURES, settings.hidden).state_dict())
    for name, expert in experts.models.items():
        assert list(expert.state_dict()) == plain
        np.testing.assert_allclose(predict(expert, ROWS, BINARY), predict(models[name], ROWS, BINARY), rtol=1e-5)
    routed = RoutedModel(list(experts.models.values()))
    assert list(routed.routed_layers()) == [name.removesuffix(".weight") for name in plain if name.endswith("weight")]


def test_experts_of_another_rank_are_not_one_runs(tmp_path):
    for name, adapters in (("north", 0), ("south", 1)):
        settings = ModelSettings(adapters=adapters)
        write_expert(tmp_path / f"{name}.safetensors", trained(settings, 0), {}, settings, SPEC)
    with pytest.raises(StorageError, match="differ"):
        read_experts(tmp_path)


def test_an_expert_with_another_rank_than_it_says_is_refused(tmp_path):
    settings = ModelSettings(adapters=1)
    lying = msgspec.structs.replace(settings, adapters=0)
    write_expert(tmp_path / "north.safetensors", trained(settings, 0), {}, lying, SPEC)
    with pytest.raises(StorageError, match="not an expert"):
        read_experts(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, meta: meta["model"].update(hidden=10**7),
        lambda arrays, meta: meta.update(data="none"),
        lambda arrays, meta: meta["data"].update(ranges={}),
        lambda arrays, meta: arrays.update({"head.bias": arrays["head.bias"] * np.nan}),
    ],
    ids=["ten million hidden units", "data as text", "no feature", "not a number"],
)
def test_what_another_hospital_could_write_is_refused_at_once_and_by_file(tmp_path, monkeypatch, change):
    path, settings = tmp_path / "north.safetensors", ModelSettings()
    write_expert(path, trained(settings, 0), {}, settings, SPEC)
    arrays, meta = read_arrays(path)
    change(arrays, meta)
    write_arrays(path, arrays, meta)
    made = lambda *_: pytest.fail("a model was made")  # noqa: E731
    monkeypatch.setattr("securepfl.outside.experts.blank_model", made)
    with pytest.raises(StorageError, match="not an expert that securepfl released") as caught:
        read_experts(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
