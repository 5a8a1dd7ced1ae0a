import math

import pytest
import torch
from methods import majority
from methods.task import Settings, Site, Task
from torch import nn


def test_each_hospital_predicts_its_training_prevalence() -> None:
    x = torch.randn(8, 2)
    labels = {"few": torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]), "many": torch.ones(8), "none": torch.zeros(8)}
    sites = {name: Site(x, y, x, 1 - y) for name, y in labels.items()}
    task = Task("labels", sites, lambda: nn.Linear(2, 1), head=())
    fitted = majority.fit(task, Settings(1.0, 1e-5, 1), {}, 0)
    logits = {name: model(torch.randn(3, 2)) for name, model in fitted.models.items()}
    assert logits["few"].shape == (3,)
    assert logits["few"].tolist() == pytest.approx([math.log(2 / 6)] * 3)
    assert logits["many"].tolist() == pytest.approx([math.log(15)] * 3)
    assert logits["none"].tolist() == pytest.approx([-math.log(15)] * 3)
    assert (fitted.upload_bytes, fitted.download_bytes) == (0, 0)
