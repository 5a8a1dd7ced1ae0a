"""Released experts: signed files that are checked before they are opened, read as whole layers."""

import os

import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from securepfl.crypto.keys.identity import Identity
from securepfl.data.images.spec import ImageSpec
from securepfl.data.schema import DataSpec
from securepfl.errors import ConfigError, StorageError
from securepfl.outside import experts, signed_file
from securepfl.outside.experts import read_experts, write_expert, write_unreleased
from securepfl.outside.once import each_once
from securepfl.outside.routing import RoutedModel
from securepfl.outside.signed_file import read_signed, signed_bytes, write_signed
from securepfl.outside.unseen import Asked, route_unseen, summary
from securepfl.settings.binding import blank_model
from securepfl.settings.tables import ModelSettings
from securepfl.tasks.binary import BINARY
from securepfl.tasks.imaging import imaging
from securepfl.tasks.models import build_model
from securepfl.tasks.networks import build_network
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


PEOPLE = {name: Identity.generate(name) for name in ("north", "south", "east")}


def record(site, **changes):
    return {
        "expert": "personal", "site": site, "federation": "ab" * 32, "settings": "cd" * 32, "rounds": 3,
        "epsilon": 1.0, "delta": 1e-5, "unit": "record", "noise": "local", "simulation": True,
    } | changes  # fmt: skip


def release(folder, name, settings=ModelSettings(), spec=SPEC, seed=0, signer=None, **changes):  # noqa: B008
    site = name.partition(".")[0]
    signer = signer or PEOPLE.get(site, PEOPLE["north"])
    path = folder / f"{name}.safetensors"
    write_expert(path, trained(settings, seed), record(site, **changes), settings, spec, signer)
    return path


def refused(folder, match):
    """The one line with which the folder's experts are refused; none of them was decoded."""
    with pytest.raises(StorageError, match=match) as caught:
        read_experts(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["mlp", "logistic"])
@pytest.mark.parametrize("adapters", [None, 0, 2])
def test_an_expert_read_back_is_the_function_released_without_adapters(tmp_path, kind, adapters):
    settings = ModelSettings(kind=kind, adapters=adapters)
    models = {name: trained(settings, seed) for seed, name in enumerate(("north", "south"))}
    for seed, name in enumerate(models):
        release(tmp_path, name, settings, seed=seed)
    experts = read_experts(tmp_path)
    plain = list(build_model(kind, FEATURES, settings.hidden).state_dict())
    for name, expert in experts.models.items():
        assert list(expert.state_dict()) == plain
        np.testing.assert_allclose(predict(expert, ROWS, BINARY), predict(models[name], ROWS, BINARY), rtol=1e-5)
    routed = RoutedModel(list(experts.models.values()))
    assert list(routed.routed_layers()) == [name.removesuffix(".weight") for name in plain if name.endswith("weight")]


def test_who_signed_an_expert_is_told_with_its_record(tmp_path):
    release(tmp_path, "north")
    experts = read_experts(tmp_path)
    assert experts.signers["north"] == PEOPLE["north"].public and experts.records["north"] == record("north")


def test_a_model_that_several_released_is_one_candidate(tmp_path):
    same = {"north": 1, "south": 1, "north.finetuned": 2, "shared": 3, "east": 3}
    for name, seed in same.items():
        kind = {"north.finetuned": "finetuned", "shared": "shared"}.get(name, "personal")
        release(tmp_path / "experts", name, seed=seed, expert=kind)
    only, notes = each_once(read_experts(tmp_path / "experts"))
    assert set(only.models) == {"north", "north.finetuned", "shared"}
    assert set(only.records) == set(only.signers) == set(same)
    assert notes == ("experts that are one and the same model count once: east as shared; south as north",)
    assert each_once(only) == (only, ())
    (tmp_path / "new.csv").write_text("age,bmi,hr\n1,2,3\n0,1,0\n")
    answered = route_unseen(Asked(tmp_path, tmp_path / "new.csv"))
    assert notes[0] in summary(answered) and len(answered.routed.candidates) == 3


def test_experts_of_another_rank_are_not_one_runs(tmp_path):
    for name, adapters in (("north", 0), ("south", 1)):
        release(tmp_path, name, ModelSettings(adapters=adapters))
    refused(tmp_path, "another network than north.safetensors's")


def test_experts_of_other_ranges_or_of_another_run_are_not_mixed(tmp_path):
    release(tmp_path, "north")
    other = DataSpec.from_mapping(SPEC.to_mapping() | {"ranges": {"age": {"centre": 9, "spread": 1}}})
    release(tmp_path, "south", spec=other)
    refused(tmp_path, "ranges or images differ")
    release(tmp_path, "south", federation="ef" * 32)
    refused(tmp_path, "of another run than north.safetensors; keep one run's")


def test_an_expert_with_another_rank_than_it_says_is_refused(tmp_path):
    lying = msgspec.structs.replace(ModelSettings(adapters=1), adapters=0)
    model = trained(ModelSettings(adapters=1), 0)
    write_expert(tmp_path / "north.safetensors", model, record("north"), lying, SPEC, PEOPLE["north"])
    refused(tmp_path, "not an expert")


@pytest.mark.parametrize(
    "change",
    [
        lambda arrays, meta: meta["model"].update(hidden=10**7),
        lambda arrays, meta: meta.update(data="none"),
        lambda arrays, meta: meta["data"].update(ranges={}),
        lambda arrays, meta: meta.pop("record"),
        lambda arrays, meta: arrays.update({"head.bias": arrays["head.bias"] * np.nan}),
    ],
    ids=["ten million hidden units", "data as text", "no feature", "no record", "not a number"],
)
def test_what_another_hospital_could_sign_is_refused_at_once_and_by_file(tmp_path, monkeypatch, change):
    path = release(tmp_path, "north")
    found = read_signed(path)
    arrays, meta = dict(found.arrays), found.meta
    change(arrays, meta)
    write_signed(path, arrays, meta, PEOPLE["north"])
    made = lambda *_: pytest.fail("a model was made")  # noqa: E731
    monkeypatch.setattr("securepfl.outside.experts.blank_model", made)
    assert str(path) in refused(tmp_path, "not an expert that securepfl released")


def test_an_expert_that_would_be_shown_huge_images_is_refused_before_any_is_made(tmp_path):
    network = ModelSettings(kind="unet", task="segmentation", hidden=2)
    model = build_network("unet", 1, 2)
    path, person = tmp_path / "north.safetensors", PEOPLE["north"]
    write_expert(path, model, record("north"), network, ImageSpec(size=(2048, 4096)), person)
    assert read_experts(tmp_path).spec.size == (2048, 4096)
    found = read_signed(path)
    arrays, meta = dict(found.arrays), found.meta
    meta["data"].update(size=[8192, 8192])
    write_signed(path, arrays, meta, person)
    refused(tmp_path, "more than 8,388,608 pixels.*ask for a run on smaller ones")


@pytest.mark.parametrize("place", [12, 400, 9000, -1], ids=["header", "record", "signer", "last weight"])
def test_a_byte_changed_anywhere_is_refused_before_anything_is_decoded(tmp_path, monkeypatch, place):
    path = release(tmp_path, "north")
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    monkeypatch.setattr(signed_file, "load_safetensors", lambda _: pytest.fail("the arrays were decoded"))
    refused(tmp_path, "its signature does not hold|not a file that securepfl wrote whole|carries no signature")


def test_a_weight_changed_and_a_signature_taken_from_another_file_are_refused(tmp_path):
    one, other = (release(tmp_path, name) for name in ("north", "south"))
    found = read_signed(one)
    forged = signed_bytes({name: array + 1 for name, array in found.arrays.items()}, found.meta, PEOPLE["south"])
    one.write_bytes(forged)
    assert "signed by 'south'" in refused(tmp_path, "north")
    one.write_bytes(other.read_bytes())
    refused(tmp_path, "its record names 'south'")


def test_an_expert_from_before_files_were_signed_is_refused_with_a_remedy(tmp_path):
    write_unreleased(tmp_path / "north.safetensors", trained(ModelSettings(), 0), {}, ModelSettings(), SPEC)
    refused(tmp_path, "carries no signature.*run the federation again")


def test_an_expert_of_a_run_with_shared_noise_is_refused(tmp_path):
    release(tmp_path, "north", noise="shared")
    refused(tmp_path, r"of a run with shared noise.*ask for a run without \[shared_noise\]")


@pytest.mark.parametrize(
    "written",
    [
        {"delta": "abc"}, {"epsilon": "x"}, {"epsilon": {}}, {"epsilon": 10**400}, {"epsilon": -1.0}, {"hospitals": 5},
        {"unit": "<script>"}, {"rounds": "\n# heading"}, {"site": "north\nsays: all is well"}, {"simulation": "no"},
    ],
)  # fmt: skip
def test_an_audit_record_that_nobody_could_read_is_refused(tmp_path, written):
    name = written.get("site", "north")
    release(tmp_path, name, signer=Identity.generate(name), **{key: written[key] for key in written if key != "site"})
    with pytest.raises(StorageError, match="not an expert that securepfl released"):
        read_experts(tmp_path)


def test_a_signed_file_opens_no_other_file_of_its_reader(tmp_path):
    path = release(tmp_path, "north")
    found = read_signed(path)
    model = found.meta["model"] | {"kind": "cnn", "start": str(tmp_path / "secret")}
    data = ImageSpec(size=(8, 8), label="ill").to_mapping()
    write_signed(path, found.arrays, {**found.meta, "model": model, "data": data}, PEOPLE["north"])
    assert "secret" not in refused(tmp_path, "not an expert that securepfl released")


def test_a_mean_over_too_few_hospitals_is_refused(tmp_path):
    write_expert(
        tmp_path / "cluster-1.safetensors",
        trained(ModelSettings(), 0),
        record("all", expert="cluster", number=1, hospitals=["east", "north"]),
        ModelSettings(),
        SPEC,
        PEOPLE["north"],
    )
    refused(tmp_path, "over fewer than 3 hospitals")


def test_no_expert_and_a_folder_that_is_no_run_are_told_apart(tmp_path):
    refused(tmp_path / "nowhere" / "experts", "nowhere: is no run's folder")
    refused(tmp_path / "experts", "is no run's folder")
    (tmp_path / "result.json").write_text("{}")
    refused(tmp_path / "experts", r"holds no released expert; run without --seed and with \[release\]")


def test_links_pipes_and_files_that_are_too_large_are_not_opened(tmp_path):
    path, away = release(tmp_path, "north"), tmp_path / "away"
    path.rename(away)
    path.symlink_to(away)
    refused(tmp_path, "no plain file")
    path.unlink()
    os.mkfifo(path)
    refused(tmp_path, "no plain file")
    path.unlink()
    with path.open("wb") as file:
        file.truncate(signed_file.MOST_BYTES + 1)
    refused(tmp_path, "a released file has at most")


def test_keys_that_are_not_among_the_given_identities_are_refused(tmp_path):
    release(tmp_path, "north")
    release(tmp_path, "south")
    known = {PEOPLE["north"].public.to_bytes()}
    with pytest.raises(StorageError, match=r"south.safetensors: signed with keys of fingerprint [A-Z2-7-]{39}"):
        read_experts(tmp_path, known)
    release(tmp_path, "south.finetuned", expert="finetuned", signer=Identity.generate("south"))
    refused(tmp_path, "other keys of 'south' than before")


def test_a_library_that_is_missing_is_no_fault_of_the_file(tmp_path, monkeypatch):
    def without(*_):
        with imaging("a U-Net"):
            raise ModuleNotFoundError("No module named 'monai'", name="monai")

    release(tmp_path, "north")
    monkeypatch.setattr(experts, "built_in", without)
    with pytest.raises(ConfigError, match=r"needs monai: pip install"):
        read_experts(tmp_path)
