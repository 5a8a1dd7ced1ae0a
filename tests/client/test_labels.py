"""Every label of a hospital is looked at when its Client is made: one that the task does not know counts as zero."""

from contextlib import closing

import pytest
import torch
from torch import nn
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset, TensorDataset

from securepfl import Client, Federation, Simulation, group_records, local_parties, simulate
from securepfl.client.records import TrainingSet
from securepfl.client.scanning import scan_units
from securepfl.errors import ConfigError, DataError, ModelError
from securepfl.tasks.binary import BINARY, bce
from securepfl.tasks.multiclass import Multiclass
from securepfl.tasks.regression import Regression

NAMES = ("alder", "birch", "cedar")
X = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
ZEROS = torch.zeros(60)


class Items(Dataset):
    """A data set of a pipeline's own: items come one by one."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index], self.y[index]


def one():
    return nn.Sequential(nn.Linear(4, 1), nn.Flatten(0))


def three():
    return nn.Sequential(nn.Linear(4, 3))


def bound(build, task=None, unit="record", units=60):
    model = {"kind": "own"} | ({} if task is None else {"task": task})
    tables = {"rounds": 1, "model": model, "encryption": {"scheme": "none"}, "privacy": {"unit": unit}}
    return Federation.from_mapping(tables).bound(NAMES, build, units=units)


def client(folder, training, build=one, federation=None, unit="record", units=60, **options):
    federation = federation or bound(build, unit=unit, units=units)
    keyring = local_parties(federation)[0]["alder"]
    options = {"ledgers": folder / "ledgers"} | options
    return closing(Client(federation, "alder", build, training, keyring, folder, simulation=Simulation(), **options))


def told(folder, training, **options):
    """What the hospital is told of the units that it cannot use: the first of each kind."""
    with pytest.warns(UserWarning, match=r"^alder: \d+ of \d+ .* as zero"), client(folder, training, **options) as made:
        assert made.scan.used + made.scan.cut + sum(one.units for one in made.scan.unusable) == made.scan.found
        return [one.first[0] for one in made.scan.unusable]


def with_label(label, place=57):
    y = ZEROS.clone()
    y[place] = label
    return y


@pytest.mark.parametrize(
    ("training", "item"),
    [
        (TensorDataset(X, with_label(2.0)), "record 57"),
        (Items(X, with_label(2.0)), "record 57"),
        (Items(X.numpy(), with_label(2.0).int().tolist()), "record 57"),
        (Subset(TensorDataset(X, with_label(2.0)), range(50, 60)), "record 7"),
        (Subset(Subset(TensorDataset(X, with_label(2.0)), range(50, 60)), [9, 7, 8]), "record 1"),
        (ConcatDataset([TensorDataset(X, ZEROS), TensorDataset(X, with_label(2.0))]), "record 117"),
        (DataLoader(TensorDataset(X, with_label(2.0)), batch_size=8, shuffle=True), "record 57"),
    ],
)
def test_an_illegal_label_is_told_wherever_it_is(tmp_path, training, item):
    found = told(tmp_path, training)
    assert found == [f"{item} (from 0): label is 2: binary labels are 0 and 1; map them, or set another task"]


@pytest.mark.parametrize("count", [30, 31, 60])
def test_where_no_more_than_half_can_be_used_something_else_was_meant(tmp_path, count):
    y = torch.where(torch.arange(60) < count, 2.0, 1.0)
    words = rf"^alder: record 0 \(from 0\): label is 2: binary labels are 0 and 1.*{count} of 60 records cannot be used"
    with pytest.raises(DataError, match=words):
        client(tmp_path / "state", TensorDataset(X, y))
    assert not (tmp_path / "state").exists()
    with pytest.warns(UserWarning), client(tmp_path, TensorDataset(X, with_label(2.0))) as made:
        assert (made.scan.used, made.scan.unusable[0].units) == (59, 1)


TWICE = TensorDataset(X, ZEROS)


@pytest.mark.parametrize(
    ("training", "told"),
    [
        (Subset(TWICE, [5, 6, 7, 5]), "records 0 and 3"),
        (Subset(TWICE, [5, -55]), "records 0 and 1"),
        (Subset(Subset(TWICE, torch.tensor([4, 5, 4])), [2, 1, 0]), "records 0 and 2"),
        (ConcatDataset([TWICE, TWICE]), "records 0 and 60"),
        (ConcatDataset([Subset(TWICE, range(9)), Subset(TWICE, range(8, 12))]), "records 8 and 9"),
    ],
)
def test_an_item_that_would_train_twice_is_refused(tmp_path, training, told):
    with pytest.raises(DataError, match=rf"^alder: {told} \(from 0\) are the same one"):
        client(tmp_path, training)


def test_every_item_once_in_any_order_is_taken(tmp_path):
    equal = TensorDataset(torch.ones(4, 4), torch.ones(4))
    with client(tmp_path, ConcatDataset([Subset(TWICE, torch.arange(20)), Subset(TWICE, range(59, 30, -1)), equal])):
        pass


def test_an_index_beyond_the_data_set_is_told(tmp_path):
    with pytest.raises(DataError, match=r"alder: record 2 \(from 0\) is none of its data set's"):
        client(tmp_path, Subset(TWICE, [0, 1, 60]))


@pytest.mark.parametrize(
    ("training", "told"),
    [
        ([((x, x), 0.0) for x in X], "features of several records make a list"),
        ([({"x": x}, 0.0) for x in X], "features of several records make a dict"),
        ([(x, "yes") for x in X], "labels of several records make a tuple"),
    ],
)
def test_what_makes_no_tensors_is_told(tmp_path, training, told):
    with pytest.raises(DataError, match=rf"alder: record 0 \(from 0\): {told}, not a tensor"):
        client(tmp_path, training)


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32, torch.uint64])
def test_labels_in_types_that_torch_does_not_compare(tmp_path, kind):
    with client(tmp_path / "a", TensorDataset(X, (X[:, 0] > 0).to(kind)), build=three, task="multiclass"):
        pass
    (found,) = told(tmp_path / "b", TensorDataset(X, with_label(3.0).to(kind)), build=three, task="multiclass")
    assert found.startswith("record 57 (from 0): label is 3: with 3 classes")


def test_complex_labels_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"alder: record 0 \(from 0\): label is a complex number"):
        client(tmp_path, TensorDataset(X, ZEROS.to(torch.complex64)))


class UnreadableError(Exception):
    """As libraries raise that derive from no error of Python's."""


def test_whatever_the_pipelines_own_code_raises_is_told_in_one_line(tmp_path):
    def fails(*_):
        raise UnreadableError("no header\nin this file")

    with pytest.raises(ModelError, match=r"alder: model and loss fail on this data set \(no header\)"):
        client(tmp_path, TensorDataset(X, ZEROS), loss=fails)
    failing = type("Failing", (Items,), {"__getitem__": fails})
    with pytest.raises(DataError, match=r"alder: record 0 \(from 0\) cannot be read \(no header\)"):
        client(tmp_path, failing(X, ZEROS))


def test_a_patients_illegal_label_is_named_by_patient_and_record(tmp_path):
    training = group_records(X, with_label(-1.0), [row // 3 for row in range(60)])
    (found,) = told(tmp_path, training, unit="patient", units=20)
    assert found.startswith("patient 19 (from 0), record 0 of theirs: label is -1")


def test_a_collate_function_that_maps_labels_is_believed(tmp_path):
    def mapped(items):
        x, y = zip(*items, strict=True)
        return torch.stack(x), (torch.stack(y) > 0).float()

    signs = torch.where(X[:, 0] > 0, 1.0, -1.0)
    with client(tmp_path, DataLoader(TensorDataset(X, signs), batch_size=8, collate_fn=mapped)):
        pass


def test_a_label_that_is_not_finite_counts_as_zero(tmp_path):
    (found,) = told(tmp_path, TensorDataset(X, with_label(float("nan"))))
    assert found.startswith("record 57 (from 0) holds NaN or infinity")


def test_an_item_that_cannot_be_read_is_told_alone(tmp_path):
    (found,) = told(tmp_path, Items(X, [*ZEROS.tolist()[:59], None]))
    assert found.startswith("record 59 (from 0) makes no batch: default_collate")


def test_items_that_make_no_batch_or_fail_in_the_model_are_told_alone(tmp_path):
    items = [(x, 0.0) for x in X]
    items[3], items[40], items[41] = (X[3], "no"), (torch.zeros(7), 1.0), (X[:2], 1.0)
    found = told(tmp_path, items)
    assert found[0].startswith("record 40 (from 0): mat1 and mat2")
    assert found[1].startswith("record 3 (from 0): labels of several records make a tuple")


def test_records_of_two_shapes_that_the_model_takes_alone_are_used(tmp_path):
    """They make no batch together, so each shape is looked at by itself."""

    def pooled():
        return nn.Sequential(nn.Conv1d(1, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(3, 1), nn.Flatten(0))

    items = [(torch.randn(1, 5 + number % 2), float(number % 3 == 0)) for number in range(60)]
    with client(tmp_path, items, build=pooled) as made:
        assert (made.scan.used, made.scan.unusable) == (60, ())


def test_a_look_at_all_units_leaves_torchs_generator_and_the_model_alone(tmp_path):
    model = one()
    before, weights = torch.random.get_rng_state(), [parameter.clone() for parameter in model.parameters()]
    scan_units(TrainingSet.of(Items(X, ZEROS), "alder"), 60, BINARY, model, bce, torch.device("cpu"), "alder", 16)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one, other) for one, other in zip(weights, model.parameters(), strict=True))


@pytest.mark.parametrize("label", [3, -1])
def test_a_class_that_the_model_has_no_output_for_is_told(tmp_path, label):
    (found,) = told(tmp_path, TensorDataset(X, with_label(label).long()), build=three, task="multiclass")
    assert found.startswith(f"record 57 (from 0): label is {label}: with 3 classes")


def test_a_model_of_another_task_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"alder: a binary task needs one output a record, not \[3\]"):
        client(tmp_path, TensorDataset(X, ZEROS), three)
    with pytest.raises(ModelError, match="4 classes are declared, and the model has 3 outputs"):
        client(tmp_path, TensorDataset(X, ZEROS), three, task=Multiclass(("a", "b", "c", "d")))


def test_the_federations_task_is_the_default_and_no_other_is_taken(tmp_path):
    federation = bound(three, "multiclass")
    assert federation.digest != bound(three).digest
    training = TensorDataset(X, X[:, :3].argmax(dim=1))
    with client(tmp_path / "a", training, three, federation) as made:
        assert made.task == Multiclass() and made.predict(X[:5]).shape == (5, 3)
    with pytest.raises(ConfigError, match='task "regression": the federation declares'):
        client(tmp_path / "b", training, three, federation, task="regression")
    with pytest.raises(ConfigError, match="task must be a task's name or a Task"):
        client(tmp_path / "b", training, three, task=Multiclass)


def test_a_loss_of_ones_own_takes_finite_labels_and_gives_raw_outputs(tmp_path):
    loss = nn.CrossEntropyLoss(reduction="none")
    labels = torch.randint(0, 3, (60,))
    with client(tmp_path / "a", TensorDataset(X, labels), three, loss=loss) as made:
        with torch.no_grad():
            expected = made.personal_model()(X[:4]).double().numpy()
        assert (made.predict(X[:4]) == expected).all()
    (found,) = told(tmp_path / "b", TensorDataset(X, with_label(float("nan"))), loss=lambda o, y: (o - y) ** 2)
    assert found == "record 57 (from 0): label holds nan: leave the record out"


def test_a_task_with_a_loss_of_ones_own_keeps_the_tasks_labels_and_predictions(tmp_path):
    smooth = nn.CrossEntropyLoss(reduction="none", label_smoothing=0.1)
    options = {"loss": smooth, "task": "multiclass"}
    with client(tmp_path / "a", TensorDataset(X, torch.randint(0, 3, (60,))), three, **options) as made:
        assert made.predict(X[:4]).sum(axis=1) == pytest.approx(1.0)
    (found,) = told(tmp_path / "b", TensorDataset(X, with_label(5).long()), build=three, **options)
    assert "with 3 classes" in found


def test_a_simulation_is_told_loss_and_task(tmp_path):
    labels = 120 + 20 * X[:, 0]
    training = {name: TensorDataset(X, labels) for name in NAMES}
    pressure = Regression(centre=120, spread=20, limit=10, unit="mmHg")
    federation = bound(one).changed("privacy", epsilon=1000.0).changed("training", steps=20, learning_rate=0.3)
    with simulate(
        federation, training, one, tmp_path / "task", ledgers=tmp_path / "one", device="cpu", task=pressure
    ) as run:
        assert abs(run.clients["alder"].predict(X) - labels.numpy()).mean() < 5
    with simulate(
        federation, training, one, tmp_path / "loss", ledgers=tmp_path / "two", loss=lambda o, y: (o - y) ** 2
    ) as run:
        assert run.clients["alder"].predict(X[:3]).shape == (3,)


class Codes(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.out = nn.Embedding(20, 4), nn.Linear(4, 1)

    def forward(self, codes):
        return self.out(self.table(codes).mean(1)).squeeze(-1)


def test_codes_are_predicted_as_they_were_trained(tmp_path):
    codes = torch.randint(0, 20, (60, 5))
    with client(tmp_path, TensorDataset(codes, (codes[:, 0] > 9).float()), Codes) as made:
        expected = made.predict(codes[:6])
        for kind in ("<i4", ">i8", "u1"):
            assert (made.predict(codes[:6].numpy().astype(kind)) == expected).all()
        with pytest.raises(ModelError, match="fails on float32 features"):
            made.predict(codes[:6].double())


def test_whole_numbers_are_measurements_where_training_had_measurements(tmp_path):
    with client(tmp_path, TensorDataset(X, ZEROS)) as made:
        whole = torch.ones(2, 4, dtype=torch.int64)
        assert (made.predict(whole) == made.predict(whole.float())).all()
