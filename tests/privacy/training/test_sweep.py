"""Dependence that only some records of a data set show, or only large batches, is found; what is sound passes."""

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from securepfl.errors import ModelError
from securepfl.privacy.training.probe import check_independence
from securepfl.privacy.training.units import PatientDataset
from securepfl.privacy.training.validation import replace_unsupported

DEPENDENT = "records depend on one another"


def squared(output, y):
    return (output.flatten(1).sum(1) - y) ** 2


def data(records=1500, positive=()):
    torch.manual_seed(11)
    labels = torch.zeros(records)
    labels[list(positive)] = 1
    return TensorDataset(torch.randn(records, 4), labels)


class Before(nn.Module):
    """A linear layer with something done to the rows before."""

    def __init__(self, before):
        super().__init__()
        self.layer, self.head, self.before = nn.Linear(4, 4), nn.Linear(4, 1), before

    def forward(self, x):
        return self.head(self.layer(self.before(x)).tanh())


def centred_in_large_batches(x):
    return x - x.mean(0) if len(x) > 8 else x


def centred_beside_an_outlier(x):
    return x - x.mean(0) if bool((x[:, 0] > 40).any()) else x


class SortedInLargeBatches(nn.Module):
    """Outputs are right, and the gradients of its layer stand in another order."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.Linear(4, 6), nn.Linear(6, 1)

    def forward(self, x):
        order = x[:, 0].argsort() if len(x) > 8 else torch.arange(len(x))
        return self.head(self.layer(x[order]).tanh()[order.argsort()])


@pytest.mark.parametrize("records", [20, 1500])
@pytest.mark.parametrize("model", [Before(centred_in_large_batches), SortedInLargeBatches()])
def test_dependence_in_large_batches_alone_is_found(model, records):
    with pytest.raises(ModelError, match=DEPENDENT):
        check_independence(model, data(records), squared, device="cpu")


@pytest.mark.parametrize("place", [3, 70, 1499])
def test_dependence_beside_one_record_is_found_wherever_it_stands(place):
    x, y = data().tensors
    x[place, 0] = 50.0
    with pytest.raises(ModelError, match=DEPENDENT):
        check_independence(Before(centred_beside_an_outlier), TensorDataset(x, y), squared, device="cpu")
    check_independence(Before(centred_beside_an_outlier), data(), squared, device="cpu")


def test_a_loss_weighted_by_a_class_far_down_is_refused():
    def balanced(output, y):
        return squared(output, y) / (1 + y.sum())

    with pytest.raises(ModelError, match=DEPENDENT):
        check_independence(Before(lambda x: x), data(1500, [1234]), balanced, device="cpu")
    check_independence(Before(lambda x: x), data(1500), balanced, device="cpu")  # all labels 0: a constant


def test_large_models_are_seen_by_their_losses():
    wide = nn.Sequential(Before(centred_beside_an_outlier), nn.Linear(1, 60_000), nn.Linear(60_000, 1))
    x, y = data(900).tensors
    x[700, 0] = 50.0
    with pytest.raises(ModelError, match=DEPENDENT):
        check_independence(wide, TensorDataset(x, y), squared, device="cpu")


class Sequences(Dataset):
    """Words from 1; of the first 100 records all are of one length."""

    def __init__(self, records=600, ragged=True):
        generator = torch.Generator().manual_seed(2)
        lengths = [5 if i < 100 or not ragged else 3 + i % 7 for i in range(records)]
        self.items = [torch.randint(1, 9, (length,), generator=generator) for length in lengths]

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index], float(self.items[index].sum() % 2)


def padded(items):
    words, labels = zip(*items, strict=True)
    return nn.utils.rnn.pad_sequence(words, batch_first=True), torch.tensor(labels)


def padded_to(length):
    def collate(items):
        words, labels = zip(*items, strict=True)
        return torch.stack([nn.functional.pad(w, (0, length - len(w))) for w in words]), torch.tensor(labels)

    return collate


class Words(nn.Module):
    def __init__(self, masked):
        super().__init__()
        self.embed, self.head, self.masked = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 1), masked

    def forward(self, words):
        hidden = self.embed(words)
        if not self.masked:
            return self.head(hidden.mean(1))
        return self.head(hidden.sum(1) / (words > 0).sum(1, keepdim=True))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 4, padding_idx=0), nn.Linear(4, 1)
        self.layer = replace_unsupported(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True))[0]

    def forward(self, words):
        shown = words > 0
        hidden = self.layer(self.embed(words), src_key_padding_mask=~shown)
        return self.head((hidden * shown[:, :, None]).sum(1) / shown.sum(1, keepdim=True))


def test_padding_to_the_longest_beside_it_is_refused_where_it_is_seen():
    with pytest.raises(ModelError, match="padded to the longest of them; pad all to one length"):
        check_independence(Words(masked=False), Sequences(), squared, device="cpu", collate=padded)
    for model in (Words(masked=True), Encoder()):
        check_independence(model, Sequences(), squared, device="cpu", collate=padded)
    check_independence(Words(masked=False), Sequences(), squared, device="cpu", collate=padded_to(9))
    check_independence(Words(masked=False), Sequences(ragged=False), squared, device="cpu", collate=padded)


def test_two_lengths_of_which_one_is_rare_are_told_apart():
    sequences = Sequences(ragged=False)
    sequences.items[450] = torch.arange(1, 8)
    with pytest.raises(ModelError, match="padded to the longest"):
        check_independence(Words(masked=False), sequences, squared, device="cpu", collate=padded)


@pytest.mark.parametrize("unit", ["record", "patient"])
def test_sound_models_pass_on_much_data(unit):
    """Also where gradients nearly vanish, or an input stands at the edge of a ReLU."""
    torch.manual_seed(4)
    model = nn.Sequential(nn.Linear(4, 200), nn.ReLU(), nn.Linear(200, 1))
    x = torch.randn(4000, 4)
    y = model(x).detach()[:, 0] + torch.randn(4000) * 10.0 ** torch.randint(-8, 1, (4000,))
    dataset = TensorDataset(x, y)
    if unit == "patient":
        dataset = PatientDataset([(x[i : i + 1 + i % 9], y[i : i + 1 + i % 9]) for i in range(0, 3900, 9)])
    check_independence(model, dataset, squared, device="cpu", unit=unit)
    with pytest.raises(ModelError, match=f"the gradient of {unit}"):
        check_independence(Before(centred_in_large_batches), dataset, squared, device="cpu", unit=unit)


def test_every_record_is_fetched_once_or_a_few_times():
    """The closer looks fetch a few again, and nothing else does."""
    fetches = []

    class Counting(TensorDataset):
        def __getitem__(self, index):
            fetches.append(index)
            return super().__getitem__(index)

    dataset = data(2000)
    check_independence(Before(lambda x: x), Counting(*dataset.tensors), squared, device="cpu")
    assert set(fetches) == set(range(2000))
    assert len(fetches) < 2100
