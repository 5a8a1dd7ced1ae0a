import numpy as np
import pytest
import torch
from torch import nn

from securepfl.errors import ModelError
from securepfl.tasks.binary import BINARY
from securepfl.tasks.models import build_model
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.multilabel import Multilabel
from securepfl.tasks.own import OwnLoss
from securepfl.tasks.prediction import evaluating, predict
from securepfl.tasks.regression import Regression


def test_binary_probabilities_are_the_sigmoid_in_double_precision(device):
    model = build_model("mlp", features=3).to(device)
    features = np.random.default_rng(0).normal(size=(7, 3))
    logits = model(torch.tensor(features, dtype=torch.float32, device=device)).detach().cpu()
    probabilities = predict(model, features, BINARY, batch=2)
    assert probabilities.dtype == np.float64
    np.testing.assert_allclose(probabilities, logits.double().sigmoid().numpy(), atol=1e-7)


def test_a_task_says_what_outputs_become():
    features, several = torch.randn(5, 3), nn.Linear(3, 4)
    assert predict(nn.Linear(3, 1), features, BINARY).shape == (5,)
    classes = predict(several, features, Multiclass())
    assert classes.shape == (5, 4)
    np.testing.assert_allclose(classes.sum(axis=1), 1.0)
    outputs = several(features).detach().numpy()
    np.testing.assert_allclose(predict(several, features, Multilabel()), 1 / (1 + np.exp(-outputs)), rtol=1e-5)
    np.testing.assert_array_equal(predict(several, features, OwnLoss()), outputs)
    one = nn.Linear(3, 1)
    expected = 120 + 20 * one(features).detach().numpy()[:, 0].astype(np.float64)
    np.testing.assert_array_equal(predict(one, features, Regression(120, 20)), expected)


@pytest.mark.parametrize("task", [BINARY, Multiclass(("a", "b")), Multilabel(("a", "b")), Regression()])
def test_outputs_of_another_shape_are_refused(task):
    with pytest.raises(ModelError, match=r"predict: the model fails on float32 features \[2, 3\]"):
        predict(nn.Linear(3, 3), torch.ones(2, 3), task)


class Codes(nn.Module):
    """Keeps the type that it was given."""

    def __init__(self):
        super().__init__()
        self.table, self.seen = nn.Embedding(300, 1), None

    def forward(self, codes):
        self.seen = codes.dtype
        return self.table(codes.long()).sum(dim=1)


@pytest.mark.parametrize(
    ("given", "trained", "seen"),
    [
        (torch.ones(2, 3, dtype=torch.int64), None, torch.int64),
        (torch.ones(2, 3, dtype=torch.bool), None, torch.bool),
        (np.ones((2, 3), np.uint8), None, torch.uint8),
        (np.ones((2, 3), ">i4"), None, torch.int32),
        (np.ones((3, 2), np.int64).T[::-1], torch.int64, torch.int64),
        (np.ones((2, 3), np.int32), torch.int64, torch.int64),
        (np.full((2, 3), 299), torch.uint8, torch.int64),
        (np.ones((2, 3), np.int64), torch.float32, torch.float32),
        (np.ones((2, 3), np.uint16), torch.int64, torch.int64),
        (np.ones((2, 3), np.uint32), torch.int32, torch.int64),
        (np.ones((2, 3), ">u2"), torch.float32, torch.float32),
        (np.ones((2, 3), np.int64), torch.uint16, torch.int64),
        (np.ones((2, 3), ">f8"), torch.int64, torch.float32),
        (np.ones((2, 3), np.longdouble), None, torch.float32),
        (torch.ones(2, 3, dtype=torch.float64), torch.float64, torch.float32),
    ],
)
def test_integers_stay_integers_and_numbers_take_the_models_type(given, trained, seen):
    model = Codes()
    assert predict(model, given, BINARY, trained=trained).shape == (2,)
    assert model.seen == seen


def test_what_is_no_number_is_refused():
    with pytest.raises(ModelError, match="features of type object; hand in an array of numbers"):
        predict(Codes(), np.array([["a"]], dtype=object), BINARY)


def test_rows_of_several_lengths_are_no_array():
    with pytest.raises(ModelError, match=r"cannot be made one array .*; hand in an array of numbers"):
        predict(nn.Linear(2, 1), [[1.0, 2.0], [1.0]], BINARY)


def test_whatever_the_pipelines_own_code_raises_is_told_in_one_line():
    class Strict(nn.Linear):
        def forward(self, x):
            assert x.shape[1] == 3, "two lines\nof words"
            return super().forward(x)

    with pytest.raises(ModelError, match=r"fails on float32 features \[2, 4\] \(two lines\)"):
        predict(Strict(3, 1), torch.ones(2, 4), BINARY)


def test_a_type_that_the_model_does_not_take_is_told_in_one_line():
    with pytest.raises(ModelError, match=r"fails on float32 features \[2, 3\] .*hand in rows as in training"):
        predict(nn.Sequential(nn.Embedding(3, 1), nn.Flatten()), torch.ones(2, 3), OwnLoss())


def test_dropout_is_off_while_predicting_and_every_mode_comes_back():
    model = nn.Sequential(nn.Linear(3, 50), nn.Dropout(0.5), nn.Linear(50, 1))
    model.train()
    model[0].eval()
    features = np.ones((1, 3))
    assert predict(model, features, BINARY) == predict(model, features, BINARY)
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
    assert np.array_equal(predict(model, features, BINARY)[::-1], predict(model, features[::-1], BINARY))


def test_no_rows_give_no_probabilities():
    assert predict(build_model("mlp", features=3), np.empty((0, 3)), BINARY).shape == (0,)


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(ValueError, match="batch"):
        predict(build_model("mlp", features=3), np.ones((2, 3)), BINARY, batch=0)
