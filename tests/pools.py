"""Experts small enough to be known by heart, and rows and images for them."""

import numpy as np
import torch
from torch import nn

from securepfl.data.table import Table
from securepfl.outside.candidates import Panel
from securepfl.tasks.binary import BINARY
from securepfl.tasks.models import build_model
from securepfl.tasks.segmentation import Segmentation

SEGMENTATION = Segmentation()


def rows(features, labels=None, sizes=None):
    features = np.asarray(features, dtype=np.float32)
    return Table(
        site="new", features=features, labels=labels, patients=None, rows=np.arange(len(features)), sizes=sizes
    )


def linear(weight, bias=0.0):
    model = build_model("logistic", features=len(weight))
    with torch.no_grad():
        model.linear.weight[:] = torch.tensor([weight])
        model.linear.bias.fill_(bias)
    return model


def tables(**weights):
    return Panel({name: linear(weight) for name, weight in weights.items()}, BINARY)


class Filter(nn.Module):
    """Logits [n, 1, H, W] by one 3 x 3 filter."""

    def __init__(self, kernel, bias=0.0):
        super().__init__()
        self.filter = nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            self.filter.weight[0, 0] = torch.tensor(kernel)
            self.filter.bias.fill_(bias)

    def forward(self, images):
        return self.filter(images)


def bright(scale=1.0, bias=0.0):
    """Finds what is bright, from every side."""
    return Filter([[0.0, 0.0, 0.0], [0.0, scale, 0.0], [0.0, 0.0, 0.0]], bias)


def leaning(scale=1.0):
    """Finds what is brighter than its left neighbour, so that mirrored views contradict it."""
    return Filter([[0.0, 0.0, 0.0], [-scale, scale, 0.0], [0.0, 0.0, 0.0]])


def masks(**models):
    return Panel(models, SEGMENTATION)


def images(count=3, height=32, width=48, seed=0):
    """Discs of 1 on a ground of -1, noisy."""
    rng = np.random.default_rng(seed)
    down, right = np.mgrid[:height, :width]
    centres = rng.uniform(0.3, 0.7, (count, 2)) * (height, width)
    far = np.hypot(down - centres[:, :1, None], right - centres[:, 1:, None])
    discs = np.where(far < height / 4, 1.0, -1.0)
    return (discs + 0.3 * rng.normal(size=discs.shape))[:, None]
