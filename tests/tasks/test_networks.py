"""Networks for images: alike everywhere, trained record by record, and a head that is found."""

import sys
import threading

import pytest
import torch
from torch.utils.data import TensorDataset

from securepfl.errors import ConfigError, ModelError
from securepfl.learning.personal.adapters import with_adapters
from securepfl.learning.personal.rule import candidates, default_personal, output_layer
from securepfl.privacy.training.dpsgd import DPSettings, train_private
from securepfl.privacy.training.probe import check_independence
from securepfl.privacy.training.units import group_records
from securepfl.privacy.training.validation import validate_model
from securepfl.tasks.binary import bce
from securepfl.tasks.layout import laid_out
from securepfl.tasks.models import public_stream
from securepfl.tasks.networks import build_network
from securepfl.tasks.segmentation import Segmentation


def images_of(count, channels=1, height=20, width=27, seed=0):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def masks_of(images):
    return torch.stack([(images[:, 0] > 0.5).to(torch.uint8), torch.ones_like(images[:, 0], dtype=torch.uint8)], dim=1)


@pytest.mark.parametrize("kind", ["unet", "cnn"])
def test_hospitals_start_from_the_same_weights_and_torch_generator_is_untouched(kind):
    torch.manual_seed(1)
    first = build_network(kind, 3, 4)
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = build_network(kind, 3, 4)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))
    for (name, one), other in zip(first.state_dict().items(), second.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
    other = build_network(kind, 3, 4, seed=1)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))
    assert {name.split(".")[0] for name, _ in first.named_parameters()} == {"body", "head"}


@pytest.mark.parametrize(("height", "width"), [(1, 1), (16, 32), (33, 47)])
def test_any_size_will_do(height, width):
    net = build_network("unet", 1, 4)
    assert net(images_of(2, 1, height, width)).shape == (2, 1, height, width)
    assert build_network("cnn", 1, 4)(images_of(2, 1, height, width)).shape == (2,)


def triangular(width):
    drawn = torch.randn(width, width, generator=torch.Generator().manual_seed(4))
    return torch.tril(drawn) + 3 * torch.eye(width)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_head_is_added_to_the_body_and_features_serve_in_the_images_place(channels):
    net = build_network("unet", channels, 4).eval().double()
    images = images_of(3, channels).double()
    with torch.no_grad():
        net.centre.normal_(generator=torch.Generator().manual_seed(1))
        net.spread.uniform_(0.5, 2, generator=torch.Generator().manual_seed(2))
        net.mixing.copy_(triangular(net.width))
        plain = net(images)
        own = net.features(images)[:, :1] / net.mixing[0, 0] * net.spread[0] + net.centre[0]
        torch.testing.assert_close(plain, own)
        net.head.weight.normal_(generator=torch.Generator().manual_seed(3))
        corrected, features = net(images), net.features(images)
        assert features.shape == (3, net.width, 20, 27)
        assert not torch.allclose(corrected, plain)
        torch.testing.assert_close(net(features), corrected)
        some = features.flatten(2)[:, :, 5:9].unsqueeze(-1)
        torch.testing.assert_close(net(some).flatten(1), corrected.flatten(1)[:, 5:9])


def test_the_head_meets_levels_at_their_own_size_as_it_meets_features():
    net = build_network("unet", channels=1, hidden=4).double()
    for tensor in (net.head.weight, net.head.bias, net.centre):
        torch.nn.init.normal_(tensor)
    torch.nn.init.uniform_(net.spread, 0.5, 2.0)
    net.mixing.copy_(triangular(net.width))
    images = torch.randn(2, 1, 20, 27, dtype=torch.float64)
    short, long = net(images), net(net.features(images))
    torch.testing.assert_close(short, long)
    gradients = [torch.autograd.grad(of.square().sum(), net.parameters(), retain_graph=True) for of in (short, long)]
    torch.testing.assert_close(*gradients)


def test_a_head_with_an_adapter_answers_as_one_without():
    net, images = build_network("unet", 1, 2).eval(), images_of(2)
    with torch.no_grad():
        net.head.weight.normal_(generator=torch.Generator().manual_seed(3))
        before = net(images)
        torch.testing.assert_close(with_adapters(net, 1)(images), before)


def test_the_starting_logit_does_not_depend_on_how_features_are_standardised():
    net, images = build_network("unet", 1, 4).eval(), images_of(2)
    with torch.no_grad():
        before = net(images)
        net.centre.fill_(0.7)
        net.spread.fill_(3.0)
        net.mixing.copy_(triangular(net.width))
        torch.testing.assert_close(net(images), before)


def test_other_channels_are_refused_in_a_line():
    with pytest.raises(ModelError, match=r"takes images \[n, 1, height, width\], .* not \[2, 3, 8, 8\]"):
        build_network("unet", 1, 4)(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ModelError, match='"resnet"'):
        build_network("resnet", 1)
    with pytest.raises(ModelError, match="one output a pixel"):
        build_network("unet", 1, outputs=3)
    with pytest.raises(ValueError, match="channels must be at least 1"):
        build_network("cnn", 0)


def test_without_monai_the_command_that_installs_it_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "monai.networks.nets", None)
    with pytest.raises(
        ConfigError, match=r"\[model\] kind = \"unet\" needs monai.*: pip install 'securepfl\[imaging\]'"
    ):
        build_network("unet", 1)
    build_network("cnn", 1)


def test_the_rule_finds_the_head():
    net = build_network("unet", 1, 4)
    assert output_layer(net) == output_layer(build_network("cnn", 1, 4)) == "head"
    assert default_personal(net) == ("head.bias",)
    assert candidates(net)["head"] == ("head.weight", "head.bias")
    net.output_layer = "body"
    with pytest.raises(ModelError, match="output_layer is 'body'"):
        output_layer(net)


@pytest.mark.parametrize("trained", ["all", "head", "body.upcat_1", "adn.N"])
def test_each_image_of_a_u_net_has_its_own_gradient_and_torch_agrees(trained):
    net, images = build_network("unet", 1, 2), images_of(5, height=16, width=18)
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(trained == "all" or trained in name)
    validate_model(net)
    check_independence(net, TensorDataset(images, masks_of(images)), Segmentation().loss, device="cpu")


def test_each_image_of_a_classifier_has_its_own_gradient():
    net, images = build_network("cnn", 1, 4), images_of(5, height=16, width=18)
    validate_model(net)
    check_independence(net, TensorDataset(images, (images[:, 0, 0, 0] > 0).long()), bce, device="cpu")


def trained_parts(net, part):
    for name, parameter in net.named_parameters():
        parameter.requires_grad_(part == "all" or part in name)
    return {name: p.detach().clone() for name, p in net.named_parameters()}


@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("part", ["all", "head", "adn.N"])
def test_a_u_net_trains_privately_in_both_units(unit, part):
    net, images = build_network("unet", 1, 4), images_of(12, height=16, width=18)
    before = trained_parts(net, part)
    masks = masks_of(images)
    data = TensorDataset(images, masks)
    if unit == "patient":
        data = group_records(images, masks, [f"p{at % 5}" for at in range(12)])
    settings = DPSettings(noise_multiplier=1e-6, clip=0.5, sample_rate=1.0, steps=4, learning_rate=0.5)
    task, units = Segmentation(), len(data)
    start = task.loss(net(images), masks).mean()
    streams = {name: public_stream("test", name) for name in ("noise", "sampling")}
    report = train_private(net, data, task.loss, settings, **streams, device="cpu", units=units, unit=unit)
    assert report.mode == "per-sample"
    assert task.loss(net(images), masks).mean() < start - 1e-3
    moved = {name for name, p in net.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in net.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_every_way_to_per_image_gradients_takes_the_same_step(unit):
    images = images_of(6, height=16, width=16)
    data = TensorDataset(images, masks_of(images))
    if unit == "patient":
        data = group_records(images, masks_of(images), list("aabbbc"))
    found = {}
    for mode in ("per-sample", "ghost", "functorch"):
        net = build_network("unet", 1, 2)
        settings = DPSettings(noise_multiplier=1e-9, clip=0.3, sample_rate=1.0, steps=1, learning_rate=1.0)
        streams = {name: public_stream("test", name) for name in ("noise", "sampling")}
        train_private(
            net, data, Segmentation().loss, settings, **streams, device="cpu", units=len(data), unit=unit, mode=mode
        )
        found[mode] = torch.cat([p.detach().flatten() for p in net.parameters()])
    start = torch.cat([p.detach().flatten() for p in build_network("unet", 1, 2).parameters()])
    assert (found["ghost"] - start).norm() > 0.01
    for mode in ("ghost", "functorch"):
        torch.testing.assert_close(found[mode], found["per-sample"], atol=1e-5, rtol=1e-3)


def test_cached_features_of_a_frozen_body_train_the_head_as_images_do():
    images = images_of(6)
    masks, found = masks_of(images), []
    for cached in (False, True):
        net = build_network("unet", 1, 4)
        with torch.no_grad():
            net.centre.fill_(0.1)
            net.spread.fill_(0.8)
            features = net.features(images)
        trained_parts(net, "head")
        data = TensorDataset(features if cached else images, masks)
        settings = DPSettings(noise_multiplier=1e-9, clip=0.3, sample_rate=1.0, steps=3, learning_rate=1.0)
        streams = {name: public_stream("test", name) for name in ("noise", "sampling")}
        train_private(net, data, Segmentation().loss, settings, **streams, device="cpu", units=6)
        found.append(net.head.weight.detach())
    assert found[0].norm() > 0.01
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def test_threads_that_predict_at_once_leave_weights_as_they_lay():
    """Else they can't be saved: safetensors refuses what isn't contiguous."""
    net, inside, left = build_network("unet", 1, 2), threading.Event(), threading.Event()

    def later():
        with laid_out(net):
            inside.set()
            left.wait(10)

    with laid_out(net):
        other = threading.Thread(target=later)
        other.start()
        assert inside.wait(10)
    left.set()
    other.join()
    assert all(parameter.is_contiguous() for parameter in net.parameters())
