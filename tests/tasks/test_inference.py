"""Images too large for memory, and how many of the others are taken at once."""

import numpy as np
import pytest
import torch
from torch import nn

from securepfl.tasks.binary import BINARY
from securepfl.tasks.inference import logits_in_windows
from securepfl.tasks.networks import build_network
from securepfl.tasks.prediction import predict
from securepfl.tasks.segmentation import Segmentation


class Counting(nn.Module):
    """The pixel as its own logit; keeps how many rows came at once, and of which size."""

    def __init__(self):
        super().__init__()
        self.came = []

    def forward(self, rows):
        self.came.append(tuple(rows.shape))
        return rows[:, :1] + 0 if rows.ndim == 4 else rows[:, 0]


@pytest.mark.parametrize(("shape", "most"), [((512, 512), 2), ((128, 128), 32), ((1, 1), 70)])
def test_few_images_and_many_rows_are_taken_at_once(shape, most):
    model = Counting()
    assert predict(model, np.zeros((70, 1, *shape), dtype=np.float32), Segmentation()).shape == (70, *shape)
    assert max(rows for rows, *_ in model.came) == most
    model = Counting()
    predict(model, np.zeros((1500, 3)), BINARY)
    assert [rows for rows, _ in model.came] == [1024, 476]


def test_a_large_image_goes_through_in_windows_and_a_small_one_whole(monkeypatch):
    net = build_network("unet", 1, 1)
    seen = []
    net.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape[-2:])))
    large = np.zeros((1, 1, 900, 1300), dtype=np.float32)
    assert predict(net, large, Segmentation()).shape == (1, 900, 1300)
    assert len(seen) == 4 and set(seen) == {(768, 768)}
    seen.clear()
    predict(net, large[:, :, :64, :64], Segmentation())
    assert seen == [(64, 64)]


def test_windows_are_blended_to_what_a_model_says_of_each_pixel():
    images = torch.randn(2, 1, 70, 45)
    torch.testing.assert_close(logits_in_windows(Counting(), images, window=32), images)
