"""What a trained head sees of each record, computed once: what the whole network would have given there."""

import pytest
import torch

from securepfl.client.features import PIXELS, FeatureRecords, are_cached, with_features
from securepfl.client.records import TrainingSet
from securepfl.settings.tables import ModelSettings
from securepfl.tasks.networks import build_network
from securepfl.tasks.segmentation import Segmentation

CPU = torch.device("cpu")


def unet():
    net = build_network("unet", 1, 2)
    with torch.no_grad():
        net.head.weight.normal_(std=0.1, generator=torch.Generator().manual_seed(3))
    return net


def item(seed, side=20, field=1):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(1, side, side, generator=generator)
    mask = (torch.rand(2, side, side, generator=generator) > 0.5).to(torch.uint8)
    mask[1] = field
    return image, mask


def test_the_head_on_features_gives_what_the_network_gives_in_the_field():
    net, (image, mask) = unet(), item(1)
    mask[1, :5] = 0
    x, y = with_features(TrainingSet([(image, mask)], None), net, CPU).dataset[0]
    assert x.shape == (net.width, PIXELS, 1) and y.shape == (2, PIXELS, 1) and y.dtype == torch.uint8
    inside = int(mask[1].sum())
    logits, there = net(x[None])[0, 0, :, 0], mask[1].flatten() != 0
    assert torch.allclose(logits[:inside], net(image[None]).flatten()[there], atol=1e-4)
    assert torch.equal(y[0, :inside, 0], mask[0].flatten()[there]) and not y[1, inside:].any()
    task = Segmentation()
    whole, cached = task.loss(net(image[None]), mask[None]), task.loss(net(x[None]), y[None])
    assert torch.allclose(whole, cached, atol=1e-5)


def test_of_a_large_field_as_many_pixels_are_kept_spread_over_it():
    net, (image, mask) = unet(), item(2, side=100)
    x, y = with_features(TrainingSet([(image, mask)], None), net, CPU).dataset[0]
    assert bool((y[1] == 1).all())
    share = mask[0].float().mean() - y[0].float().mean()
    assert abs(float(share)) < 0.03
    again = with_features(TrainingSet([item(3), (image, mask)], None), net, CPU).dataset[1]
    assert torch.equal(again[0], x) and torch.equal(again[1], y), "they hang on another record"


def test_patients_keep_their_records_and_what_cannot_be_read_is_told_where_it_is_read():
    net = unet()
    one, other = item(4), item(5)
    patient = tuple(torch.stack(parts) for parts in zip(one, other, strict=True))
    found = with_features(TrainingSet([patient, (torch.zeros(3), "no mask")], None, "patient"), net, CPU)
    x, y = found.dataset[0]
    assert x.shape == (2, net.width, PIXELS, 1) and len(y) == 2
    assert isinstance(found.dataset, FeatureRecords) and found.found == 2
    with pytest.raises((TypeError, ValueError, AttributeError)):
        found.dataset[1]


def test_only_a_head_that_takes_features_is_trained_so():
    frozen = ModelSettings(kind="unet", trained="head", start="f")
    assert are_cached(frozen, unet()) and not are_cached(ModelSettings(kind="unet"), unet())
    assert not are_cached(ModelSettings(kind="cnn", trained="head", start="f"), build_network("cnn", 1, 2))
