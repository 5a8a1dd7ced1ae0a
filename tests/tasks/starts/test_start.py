"""A start's file: what is written is read back, and anything else is refused with one line that names the file."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load, save
from torch import nn

from securepfl.errors import ModelError
from securepfl.tasks.starts.start import MOST_BYTES, Start, fill, read_start, taken


class Net(nn.Module):
    def __init__(self, width=3):
        super().__init__()
        self.body = nn.Conv2d(1, width, 3)
        self.head = nn.Conv2d(width, 1, 1)
        self.register_buffer("centre", torch.zeros(width))


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(5)
    network = {"kind": "unet", "channels": 1, "hidden": 3}
    start = Start(name="tiny", weights=taken(Net()), network=network, card="No patient is in it.", made={"seed": 0})
    path = tmp_path / "tiny.safetensors"
    path.write_bytes(start.to_bytes())
    return path


def parts(path):
    data = path.read_bytes()
    return load(data), json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def test_a_filled_network_has_the_starts_body_and_its_own_head(path):
    model = Net()
    head = model.head.weight.detach().clone()
    start = fill(model, path)
    assert (start.name, start.card, start.made) == ("tiny", "No patient is in it.", {"seed": 0})
    assert torch.equal(model.body.weight, torch.from_numpy(read_start(path).weights["body.weight"]))
    assert torch.equal(model.head.weight, head) and not any(name.startswith("head") for name in start.weights)


def test_the_digest_follows_from_the_content_alone(path):
    one, again = read_start(path), Start.from_bytes(path.read_bytes(), "x")
    assert one.digest == again.digest and len(one.digest) == 64
    other = Start(name=one.name, weights=one.weights, network=one.network, card=one.card + " ", made=one.made)
    assert other.digest != one.digest


@pytest.mark.parametrize("changed", ["weight", "card", "facts"])
def test_a_changed_file_is_refused(path, changed):
    weights, meta = parts(path)
    if changed == "weight":
        weights["centre"][0] += 1
    elif changed == "card":
        meta["card"] += " Of patients."
    else:
        meta["facts"] = meta["facts"].replace('"hidden": 3', '"hidden": 4')
    path.write_bytes(save(weights, meta))
    with pytest.raises(ModelError, match=r"tiny\.safetensors: its content is not what its digest says"):
        read_start(path)


@pytest.mark.parametrize(
    "facts", ["[]", "{", '{"name": 1}', '{"network": 3, "name": "x", "images": {}, "made": {}}', "[" * 5000]
)
def test_texts_of_another_form_are_refused_in_one_line(path, facts):
    weights, meta = parts(path)
    path.write_bytes(save(weights, meta | {"facts": facts}))
    with pytest.raises(ModelError, match="tiny") as refused:
        read_start(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\xff" * 64, save({"w": np.ones(2, np.float32)})])
def test_another_file_is_refused(path, data):
    path.write_bytes(data)
    with pytest.raises(ModelError, match="not a start that securepfl wrote whole"):
        read_start(path)


def test_a_cut_file_is_refused(path):
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match="not a start"):
        read_start(path)


@pytest.mark.parametrize("bad", [np.array([np.nan], np.float32), np.ones(1), np.ones(1, np.int32)])
def test_weights_are_finite_float32(path, bad):
    weights, meta = parts(path)
    path.write_bytes(save(weights | {"centre": bad}, meta))
    with pytest.raises(ModelError, match=r"tiny.*'centre' must be finite float32"):
        read_start(path)


def test_a_file_too_large_is_not_read(path):
    with path.open("r+b") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(ModelError, match="at most 256 MiB"):
        read_start(path)


def test_a_missing_file_is_an_error_of_one_line(tmp_path):
    with pytest.raises(ModelError, match="cannot be read"):
        read_start(tmp_path / "none")


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no endless device here")
def test_a_device_is_no_start_and_is_not_read_to_its_end():
    with pytest.raises(ModelError, match="no plain file"):
        read_start(Path("/dev/zero"))


def test_another_network_is_refused_and_left_as_it_was(path):
    model = Net(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"of another network \(channels 1, hidden 3, kind unet\): its body\.bias has"):
        fill(model, path)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("spread", np.zeros(3), "spread holds numbers below"),
        ("spread", -np.ones(3), "spread holds numbers below"),
        ("mixing", np.zeros((3, 3)), "mixing is not lower triangular"),
        ("mixing", np.ones((3, 3)), "mixing is not lower triangular"),
        ("centre", np.full(3, 3e38), "centre holds numbers above"),
    ],
)
def test_numbers_that_no_network_answers_by_are_refused_though_their_digest_is_right(tmp_path, name, value, said):
    model = Net()
    model.register_buffer("spread", torch.ones(3))
    model.register_buffer("mixing", torch.eye(3))
    weights = taken(model) | {name: value.astype(np.float32)}
    (tmp_path / "s").write_bytes(Start(name="tiny", weights=weights, network={}, card="No patient.").to_bytes())
    before = model.body.weight.detach().clone()
    with pytest.raises(ModelError, match=said) as refused:
        fill(model, tmp_path / "s")
    assert "\n" not in str(refused.value) and torch.equal(model.body.weight, before)
