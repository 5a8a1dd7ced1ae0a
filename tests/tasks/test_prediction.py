import numpy as np
import pytest
import torch
from torch import nn

from securepfl.tasks.models import build_model
from securepfl.tasks.prediction import class_logits, evaluating, predict


def test_binary_probabilities_are_the_sigmoid_in_double_precision(device):
    model = build_model("mlp", features=3).to(device)
    features = np.random.default_rng(0).normal(size=(7, 3))
    logits = model(torch.tensor(features, dtype=torch.float32, device=device)).detach().cpu()
    probabilities = predict(model, features, batch=2)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, logits.double().sigmoid().numpy(), atol=1e-7)


def test_one_column_counts_as_binary_and_more_as_classes():
    features = torch.randn(5, 3)
    assert predict(nn.Linear(3, 1), features).shape == (5,)
    classes = predict(nn.Linear(3, 4), features)
    assert classes.shape == (5, 4)
    np.testing.assert_allclose(classes.sum(axis=1), 1.0)


def test_dropout_is_off_while_predicting_and_every_mode_comes_back():
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 1))
    model.train()
    model[0].eval()
    features = np.ones((1, 3))
    assert predict(model, features) == predict(model, features)
    assert [module.training for module in model.modules()] == [True, False, True, True]


def test_modes_come_back_after_an_error():
    model = nn.Dropout().train()
    with pytest.raises(RuntimeError), evaluating(model):
        assert not model.training
        raise RuntimeError
    assert model.training


def test_read_only_and_reversed_arrays_are_taken():
    features = np.arange(6.0).reshape(2, 3)
    features.setflags(write=False)
    model = build_model("mlp", features=3)
    assert np.array_equal(predict(model, features)[::-1], predict(model, features[::-1]))


def test_no_rows_give_no_probabilities():
    assert predict(build_model("mlp", features=3), np.empty((0, 3))).shape == (0,)


def test_a_batch_of_nothing_and_logits_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="batch"):
        predict(build_model("mlp", features=3), np.ones((2, 3)), batch=0)
    with pytest.raises(ValueError, match=r"\(2, 3, 4\)"):
        class_logits(torch.zeros(2, 3, 4))
