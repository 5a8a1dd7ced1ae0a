"""Training without protection: in simulations alone, said in the ledger before the first step, and for good."""

import json
import math
from functools import partial

import numpy as np
import pytest
import torch
from parties import MODEL, close_all, exchange, federation_of, parties, reopened, rows_of
from torch import nn
from torch.nn.utils import parameters_to_vector

from securepfl import Client, local_parties
from securepfl.client.records import TrainingSet
from securepfl.client.run_kind import Simulation
from securepfl.client.unprotected import Minibatches, Plain
from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.errors import BudgetError, ConfigError, DataError, LedgerError, StorageError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.lines import Unprotected, decode_line, split_lines
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.randomness import RandomStream
from securepfl.report.ledger import budget_of, verdict
from securepfl.runtime.spending import used_up, uses_up
from securepfl.tasks.networks import build_network

CPU = torch.device("cpu")
PLAIN = {
    "encryption": {"scheme": "none"},
    "similarity": {"every": 0},
    "coupling": {"strength": 0.0},
    "sparsity": {"density": 1.0},
    "training": {"steps": 10, "learning_rate": 0.05},
    "model": {"personal": []},
}
STEP = Release(noise_multiplier=50.0, sample_rate=1.0, steps=1)


def unprotected(**tables):
    return federation_of(**PLAIN | {"privacy": {"protection": "none"}} | tables)


def lines_of(client):
    return [decode_line(line) for line in split_lines(client.ledger.path.read_bytes())[0]]


def loss_of(client, rows):
    with torch.no_grad():
        return float(client.task.loss(client.personal_model()(rows.tensors[0]), rows.tensors[1]).mean())


def test_a_real_hospital_refuses_and_nothing_lies_on_its_disk(tmp_path):
    federation = unprotected()
    keyrings, _ = local_parties(federation)
    with pytest.raises(ConfigError, match='protection = "none" is for simulations alone') as caught:
        Client(federation, "alder", MODEL, rows_of("alder"), keyrings["alder"], tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


def test_models_learn_and_the_ledger_says_before_the_first_step_that_nothing_protects(tmp_path, monkeypatch):
    coordinator, clients = parties(unprotected(), tmp_path)
    client, seen = clients["alder"], []
    plain = Plain.train

    def watched(self, *given, **options):
        seen.append(any(isinstance(line, Unprotected) for line in lines_of(client)))
        return plain(self, *given, **options)

    monkeypatch.setattr(Plain, "train", watched)
    rows = rows_of("alder")
    before = loss_of(client, rows)
    for _ in range(3):
        exchange(coordinator, clients)
    after = loss_of(client, rows)
    assert seen[0] and after < 0.8 * before
    assert sum(isinstance(line, Unprotected) for line in lines_of(client)) == 1, "once a run"
    assert math.isinf(client.ledger.spent()) and math.isinf(client.ledger.spent_replace_one())
    _, record = client.release("personal")
    assert (record["protection"], record["epsilon"], record["noise"]) == ("none", None, "none")
    with pytest.raises(BudgetError, match="trained without protection") as caught:
        client.ledger.reserve(STEP, federation="ab" * 32, round=9, attempt=0)
    assert "\n" not in str(caught.value) and client.ledger.would_exceed(STEP)
    path = client.ledger.path
    close_all(clients)
    summary = verify_ledger(path, ledger_verifier(None))
    assert summary.unprotected is not None and math.isinf(summary.epsilon)
    assert any(line.startswith("no privacy") for line in verdict(summary, None, None))
    told = budget_of(path, None)
    assert told["spent"] is None and told["left"] == 0.0 and told["unprotected"] == summary.unprotected


def test_a_private_run_on_those_records_gets_no_budget(tmp_path):
    coordinator, clients = parties(unprotected(), tmp_path / "one", ledgers=tmp_path / "ledgers")
    exchange(coordinator, clients)
    close_all(clients)
    private = federation_of(**PLAIN | {"privacy": {"budget": 1000.0}})
    coordinator, clients = parties(private, tmp_path / "two", ledgers=tmp_path / "ledgers")
    assert not any(client.affords_run for client in clients.values())
    exchange(coordinator, clients)
    assert all(client.sat_out == (1,) for client in clients.values())
    close_all(clients)
    _, clients = parties(private, tmp_path / "three", noise_key=bytes(32))  # seeded: a ledger of its own
    assert all(client.affords_run for client in clients.values())
    close_all(clients)


def test_an_unprotected_run_goes_on_after_its_process_ended(tmp_path):
    coordinator, clients = parties(unprotected(), tmp_path)
    exchange(coordinator, clients)
    clients["alder"] = reopened(clients["alder"])
    exchange(coordinator, clients)
    assert clients["alder"].round == 2
    assert sum(isinstance(line, Unprotected) for line in lines_of(clients["alder"])) == 1
    close_all(clients)


def after_three_rounds(folder, *, between):
    """Alder's state after rounds that begin with what `between` makes of it; seeded, so that runs repeat."""
    coordinator, clients = parties(unprotected(), folder, bytes(32), bytes(32))
    for _ in range(3):
        exchange(coordinator, clients)
        clients["alder"] = between(clients["alder"])
    state = clients["alder"].state
    close_all(clients)
    return state


def forgetful(client):
    client._state.moments.clear()
    return client


def test_adam_remembers_over_rounds_and_over_the_end_of_its_process(tmp_path):
    whole = after_three_rounds(tmp_path / "whole", between=lambda client: client)
    again = after_three_rounds(tmp_path / "again", between=reopened)
    other = after_three_rounds(tmp_path / "other", between=forgetful)
    assert np.array_equal(whole.shared, again.shared) and not np.array_equal(whole.shared, other.shared)
    assert set(whole.moments["steps"].tolist()) == {30.0} and (whole.moments["square"] > 0).any()
    assert all(np.array_equal(array, again.moments[name]) for name, array in whole.moments.items())


def trained_in(pieces, moments):
    x = torch.randn(6, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    records, net = Minibatches(x, x.mean(dim=(1, 2, 3)), patched=False), build_network("cnn", 1, 2)
    plain, first = Plain(rate=0.01, batch=6, whole=8), 0
    for steps in pieces:
        stream = RandomStream(bytes(32))
        plain.train(net, records, lambda z, y: (z - y) ** 2, stream, steps=steps, first=first, moments=moments)
        first += steps
    assert all(parameter.is_contiguous() for parameter in net.parameters())
    return parameters_to_vector(net.parameters())


def test_steps_in_two_halves_are_those_of_one_piece():
    whole, halves, anew = trained_in([8], None), trained_in([4, 4], {}), trained_in([4, 4], None)
    assert (whole - halves).abs().max() < 0.05 * (whole - anew).abs().max()


@pytest.mark.parametrize(
    "damage",
    [
        lambda held: held.update(mean=held["mean"][:-1]),
        lambda held: held.pop("steps"),
        lambda held: held.update(steps=held["steps"][:-1]),
        lambda held: held.update(steps=-held["steps"]),
        lambda held: held.update(square=held["square"] * np.float32("nan")),
        lambda held: held.update(other=held["mean"]),
    ],
    ids=["other sizes", "a part lacks", "other parameters", "negative", "not finite", "a part more"],
)
def test_damaged_moments_are_refused_in_a_line_before_a_step(damage):
    moments = {}
    trained_in([1], moments)
    damage(moments)
    with pytest.raises(StorageError, match="what Adam knows is of another model, or damaged; restore it"):
        trained_in([1], moments)


class Viewing(nn.Module):
    """A pipeline's own network, which asks for a view that one layout alone has."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 3, 3), nn.Linear(3 * 36, 1)

    def forward(self, images):
        return self.head(self.body(images).view(len(images), -1)).squeeze(-1)


def test_a_model_that_asks_for_views_of_its_convolutions_trains():
    x = torch.ones(4, 1, 8, 8)
    records = Minibatches(x, torch.ones(4), patched=False)
    net = Viewing()
    Plain(0.01, 4, 2).train(net, records, lambda z, y: (z - y) ** 2, RandomStream(bytes(32)), steps=2)


def test_what_a_private_run_releases_of_records_that_trained_unprotected_since_claims_no_epsilon(tmp_path):
    private = federation_of(**PLAIN)
    coordinator, clients = parties(private, tmp_path / "one", ledgers=tmp_path / "ledgers")
    exchange(coordinator, clients)
    close_all(clients)
    coordinator, others = parties(unprotected(), tmp_path / "two", ledgers=tmp_path / "ledgers")
    exchange(coordinator, others)
    close_all(others)
    client = reopened(clients["alder"])
    _, record = client.release("personal")
    assert record["epsilon"] is None and record["protection"] == "dp" and not client.affords_run
    assert used_up({"alder": client}) == uses_up({"alder": client})
    assert "trained without protection" in used_up({"alder": client})[0] and "inf" not in used_up({"alder": client})[0]
    client.close()


@pytest.mark.parametrize("seed", [None, bytes(32)])
def test_neither_a_real_run_nor_another_name_nor_a_seed_forgets_it(tmp_path, seed):
    coordinator, clients = parties(unprotected(), tmp_path / "one", seed, seed, ledgers=tmp_path / "ledgers")
    exchange(coordinator, clients)
    close_all(clients)
    private = federation_of(**PLAIN)
    keyrings, _ = local_parties(private)
    made = partial(Client, private, build_model=MODEL, ledgers=tmp_path / "ledgers", device="cpu")
    with pytest.raises(LedgerError, match="100% of these records trained without protection") as caught:
        made("alder", training=rows_of("alder"), keyring=keyrings["alder"], folder=tmp_path / "real")
    assert "\n" not in str(caught.value)
    with pytest.raises(LedgerError, match="leave these records out"):
        made(
            "birch",
            training=rows_of("alder"),
            keyring=keyrings["birch"],
            folder=tmp_path / "other",
            simulation=Simulation(),
        )
    _, clients = parties(private, tmp_path / "two", ledgers=tmp_path / "ledgers")
    assert not any(client.affords_run for client in clients.values())
    close_all(clients)


def test_a_prior_alone_is_told_too(tmp_path):
    """An exact share of a hospital that trained in no round."""
    data = {"label": "ill", "ranges": {name: {"centre": 0, "spread": 1} for name in "abcdef"}}
    _, clients = parties(unprotected(release={"experts": True, "prior": True}, data=data), tmp_path)
    client = clients["alder"]
    record = client.release_prior()
    assert record["epsilon"] is None and record["deviation"] == 0 and client.ledger.is_unprotected
    close_all(clients)


def test_a_registry_from_before_is_noticed(tmp_path):
    """Its ledger has no reservation, and is spent all the same."""
    coordinator, clients = parties(unprotected(), tmp_path / "one", ledgers=tmp_path / "ledgers")
    exchange(coordinator, clients)
    close_all(clients)
    listing = tmp_path / "ledgers" / "alder" / "registry.json"
    before = json.loads(listing.read_text())
    listing.write_text(json.dumps(before | {"data_sets": []}))
    with pytest.raises(LedgerError, match="does not list"):
        parties(federation_of(**PLAIN), tmp_path / "two", ledgers=tmp_path / "ledgers", data_set="another")


def test_a_seeded_run_repeats_and_may_release_what_says_that_nothing_protects_it(tmp_path):
    found = []
    for name in ("one", "two"):
        coordinator, clients = parties(unprotected(), tmp_path / name, bytes(32), bytes(32))
        exchange(coordinator, clients)
        model, record = clients["birch"].release("shared")
        assert record["protection"] == "none"
        found.append(torch.cat([p.flatten() for p in model.parameters()]))
        close_all(clients)
    assert torch.equal(*found)


def test_sparse_updates_train_their_support_alone(tmp_path):
    federation = unprotected(sparsity={"density": 0.5, "block": 4})
    coordinator, clients = parties(federation, tmp_path)
    client = clients["alder"]
    before = client.state.shared
    exchange(coordinator, clients)
    moved = client.state.shared != before
    assert 0 < moved.sum() <= client.state.aggregate.size and moved.mean() < 0.75
    close_all(clients)


def test_a_hospital_without_personal_noise_weighs_history_by_layer(tmp_path):
    alpha = {"body.*": 0.9, "head.*": 0.0}
    coordinator, clients = parties(unprotected(trajectory={"alpha": alpha}), tmp_path)
    client, seen = clients["alder"], []
    for _ in range(3):
        exchange(coordinator, clients)
        seen.append(client.state.shared)
    own = dict(client.personal_model().named_parameters())
    now = dict(client.shared_model().named_parameters())
    assert torch.equal(own["head.weight"], now["head.weight"])
    head = sum(p.numel() for name, p in own.items() if name.startswith("body."))
    average = seen[0]
    for shared in seen[1:]:
        average = 0.9 * average + np.float32(0.1) * shared
    flat = torch.cat([p.detach().flatten() for name, p in own.items() if name.startswith("body.")])
    assert np.allclose(flat.numpy(), average[:head], atol=1e-6)
    assert not torch.allclose(own["body.weight"], now["body.weight"])
    close_all(clients)


def test_every_record_comes_once_before_any_comes_again():
    x = torch.arange(6.0)[:, None]
    records = Minibatches(x, x[:, 0], patched=False)
    drawn, _ = records.draw(15, RandomStream(bytes(32)))
    counts = torch.bincount(drawn[:12, 0].long(), minlength=6)
    assert counts.tolist() == [2] * 6 and len(drawn) == 15


def test_records_of_several_shapes_are_one_line():
    rows = [(torch.zeros(2), torch.tensor(0.0)), (torch.zeros(3), torch.tensor(0.0))]
    with pytest.raises(DataError, match="of one shape") as caught:
        Minibatches.of(TrainingSet(rows, None), CPU, patched=False)
    assert "\n" not in str(caught.value)


def test_the_rate_goes_on_where_the_last_round_left_it():
    plain = Plain(rate=1.0, batch=2, whole=20)
    rates = [rate for first in (0, 10) for rate in plain.rates(first, 10)]
    assert rates == list(plain.rates(0, 20)) == sorted(rates, reverse=True)
    model, x = nn.Linear(1, 1), torch.ones(4, 1)
    before = [p.clone() for p in model.parameters()]
    frozen = {"weight": torch.zeros(1, 1)}
    plain.train(
        model,
        Minibatches(x, torch.ones(4), patched=False),
        lambda z, y: (z[:, 0] - y) ** 2,
        RandomStream(bytes(32)),
        steps=3,
        masks=frozen,
    )
    assert torch.equal(model.weight, before[0]) and not torch.equal(model.bias, before[1])
    assert all(p.grad is None for p in model.parameters())
