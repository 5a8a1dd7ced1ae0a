"""A MONAI bundle's weights become a start; no code of a bundle is run, and another network is refused in one line."""

import json
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch

from securepfl.errors import ModelError
from securepfl.tasks.networks import build_network
from securepfl.tasks.starts import fill
from securepfl.tasks.starts.bundle import read_bundle, start_of_bundle
from securepfl.tasks.starts.recipes import VESSELS

NETWORK = {
    "_target_": "monai.networks.nets.BasicUNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 1,
    "features": [2, 4, 8, 12, 16, 2],
    "norm": ["GROUP", {"num_groups": 2}],
    "upsample": "nontrainable",
}


def scaling(intensity):
    return lambda values, field: values.transpose(2, 0, 1).astype(np.float32)


@pytest.fixture
def bundle(tmp_path):
    folder = tmp_path / "bundle"
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    describe(folder, NETWORK)
    (folder / "configs" / "metadata.json").write_text('{"name": "Tiny vessels", "version": "0.1"}')
    torch.save(body(), folder / "models" / "model.pt")
    return folder


def describe(folder, network):
    text = json.dumps({"imports": ["$import os"], "network_def": network, "run": "$os.abort()"})
    (folder / "configs" / "inference.json").write_text(text)


def body(channels=1, hidden=2):
    return build_network("unet", channels, hidden, 3).body.state_dict()


def test_a_bundle_becomes_a_start_that_fills_a_network(bundle, tmp_path):
    tiny = replace(VESSELS, pools=((3, 48),))
    start = start_of_bundle(tiny, scaling, bundle)
    assert "MONAI bundle Tiny vessels 0.1" in start.card and "patients may be in it" in start.card
    path = tmp_path / "s.safetensors"
    path.write_bytes(start.to_bytes())
    model = build_network("unet", 1, 2)
    fill(model, path)
    assert all(torch.equal(value, body()[name]) for name, value in model.body.state_dict().items())
    assert start.digest == start_of_bundle(tiny, scaling, bundle).digest and (model.spread != 1).any()


def test_colours_and_wrapped_weights_are_read(bundle):
    describe(bundle, NETWORK | {"in_channels": 3, "_target_": "BasicUNet"})
    torch.save({"model": body(3)}, bundle / "models" / "model.pt")
    model, _ = read_bundle(bundle)
    assert model.channels == 3
    assert start_of_bundle(replace(VESSELS, pools=((2, 32),)), scaling, bundle).network["channels"] == 3


def test_yaml_is_read_as_json_is(bundle):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (bundle / "configs" / "inference.json").unlink()
    path = bundle / "configs" / "inference.yaml"
    path.write_text(yaml.safe_dump({"network_def": NETWORK}))
    assert read_bundle(bundle)[0].channels == 1
    path.write_text("network_def: !!python/object/apply:os.abort []")
    with pytest.raises(ModelError, match="not the JSON or YAML"):
        read_bundle(bundle)


@pytest.mark.parametrize(
    ("network", "line"),
    [
        (NETWORK | {"_target_": "UNETR"}, "only MONAI's BasicUNet"),
        ("@other", "only MONAI's BasicUNet"),
        (NETWORK | {"in_channels": "$__import__('os').abort()"}, "plain numbers"),
        (NETWORK | {"features": [2, 4, 8, 16, 16, 2]}, "network_def.features must be"),
        (NETWORK | {"norm": "batch"}, "network_def.norm must be"),
        (NETWORK | {"spatial_dims": 3}, "network_def.spatial_dims must be 2"),
        (NETWORK | {"upsample": "deconv"}, "network_def.upsample must be"),
        (NETWORK | {"act": "relu"}, "act, bias and dropout"),
    ],
)
def test_another_network_is_refused_in_one_line(bundle, network, line):
    describe(bundle, network)
    with pytest.raises(ModelError, match=line) as refused:
        read_bundle(bundle)
    assert "\n" not in str(refused.value) and "inference.json" in str(refused.value)


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("code of a bundle was run",))


@pytest.mark.parametrize("wrap", [Trap(), {"model": {"conv_0": Trap()}}])
def test_code_in_weights_is_not_run(bundle, wrap):
    torch.save(wrap, bundle / "models" / "model.pt")
    with pytest.raises(ModelError, match="something else than weights, and code is not run"):
        read_bundle(bundle)
    (bundle / "models" / "model.pt").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ModelError, match="something else than weights"):
        read_bundle(bundle)


@pytest.mark.parametrize("data", [b"", b"\x80", b"PK\x05\x06" + bytes(18), b"text"])
def test_damaged_weights_are_refused(bundle, data):
    (bundle / "models" / "model.pt").write_bytes(data)
    with pytest.raises(ModelError, match=r"model\.pt"):
        read_bundle(bundle)


def test_weights_that_unpack_to_more_than_a_start_are_not_unpacked(bundle):
    with (
        zipfile.ZipFile(bundle / "models" / "model.pt", "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("archive/data/0", "w") as part,
    ):
        for _ in range(257):
            part.write(bytes(1 << 20))
    with pytest.raises(ModelError, match="at most 256 MiB"):
        read_bundle(bundle)


@pytest.mark.parametrize("wrong", ["name", "shape", "nan", "kind"])
def test_weights_of_another_network_are_refused(bundle, wrong):
    weights = body()
    first = next(iter(weights))
    if wrong == "name":
        weights["other"] = weights.pop(first)
    elif wrong == "shape":
        weights[first] = torch.zeros(1)
    elif wrong == "nan":
        weights[first] = weights[first] * torch.nan
    torch.save([1, 2] if wrong == "kind" else weights, bundle / "models" / "model.pt")
    with pytest.raises(ModelError, match=r"model\.pt"):
        read_bundle(bundle)


def test_a_folder_that_is_no_bundle_is_named(tmp_path):
    with pytest.raises(ModelError, match=r"no MONAI bundle, for it has no configs/inference\.json"):
        read_bundle(tmp_path)


@pytest.mark.parametrize("text", ["[1]", "{", "\xff", "[" * 100_000])
def test_a_damaged_description_is_named(bundle, text):
    (bundle / "configs" / "inference.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelError, match=r"inference\.json"):
        read_bundle(bundle)
