"""A fine-tuned expert: part of the planned epsilon, charged as a round is, trained once whatever is killed."""

import pytest
import torch
from parties import close_all, exchange, federation_of, parties, reopened

from securepfl.client.client import Client
from securepfl.client.draft import DRAFT
from securepfl.client.finetuning import FILE, Finetuned
from securepfl.errors import BudgetError, ConfigError
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.training import dpsgd

PLAIN = {
    "rounds": 2,
    "encryption": {"scheme": "none"},
    "similarity": {"every": 0},
    "coupling": {"strength": 0.0},
    "release": {"experts": True, "finetuning": 3},
    "training": {"steps": 2},
}


def numbers(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.fixture
def over(tmp_path):
    """alder's client after the last round."""
    coordinator, clients = parties(federation_of(**PLAIN), tmp_path)
    for _ in range(2):
        exchange(coordinator, clients)
    yield clients.pop("alder")
    close_all(clients)


def test_rounds_and_fine_tuning_together_cost_the_epsilon_and_no_more(over):
    before = over.ledger.spent()
    assert over.spent_after_run == pytest.approx(4.0, abs=1e-6) and before < 3.9
    model, record = over.release("finetuned")
    assert record["steps"] == 3 and record["epsilon"] == pytest.approx(4.0, abs=1e-6)
    assert over.ledger.spent() <= over.ledger.budget.epsilon
    releases = over.ledger.releases()
    assert [release.steps for release in releases] == [2, 2, 3]
    assert len({release.noise_multiplier for release in releases}) == 1
    assert epsilon(releases, 1e-5) == pytest.approx(4.0, abs=1e-6)
    assert not torch.equal(numbers(model), numbers(over.shared_model()))
    again, _ = over.release("finetuned")
    assert torch.equal(numbers(again), numbers(model)) and len(over.ledger.releases()) == 3
    assert over.spent_after_run == pytest.approx(4.0, abs=1e-6)
    over.close()


def test_whoever_is_killed_in_between_draws_the_same_noise_again(over, monkeypatch):
    drawn, add, save = [], dpsgd.add_noise, Finetuned.save

    def spied(total, entries, settings, noise):
        before = total.clone()
        add(total, entries, settings, noise)
        drawn.append((total - before).numpy().tobytes())

    def killed(self, folder, session):
        raise KeyboardInterrupt

    monkeypatch.setattr(dpsgd, "add_noise", spied)
    monkeypatch.setattr(Finetuned, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        over.release("finetuned")
    first = list(drawn)
    assert len(first) == 3 and (over.folder / DRAFT).exists() and not (over.folder / FILE).exists()
    monkeypatch.setattr(Finetuned, "save", save)
    client = reopened(over)
    del drawn[:]
    client.release("finetuned")
    assert drawn == first and len(client.ledger.releases()) == 3 and not (client.folder / DRAFT).exists()
    assert client.ledger.spent() <= 4.0
    client.close()


def test_killed_before_it_is_settled_the_same_model_comes_and_is_settled(over, monkeypatch):
    def killed(self, round_, release):
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "_settle_reserved", killed)
    with pytest.raises(KeyboardInterrupt):
        over.release("finetuned")
    monkeypatch.undo()
    client, before = reopened(over), (over.folder / FILE).read_bytes()
    client.release("finetuned")
    assert (client.folder / FILE).read_bytes() == before
    federation = client.session.digest.hex()
    assert client.ledger.unsettled(federation=federation, round=3, attempt=0) is None
    client.close()


def test_with_its_draft_gone_it_is_not_begun_again(over, monkeypatch):
    def killed(self, folder, session):
        raise KeyboardInterrupt

    monkeypatch.setattr(Finetuned, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        over.release("finetuned")
    monkeypatch.undo()
    (over.folder / DRAFT).unlink()
    client = reopened(over)
    with pytest.raises(BudgetError, match="no fine-tuned expert") as caught:
        client.release("finetuned")
    assert "\n" not in str(caught.value) and len(client.ledger.releases()) == 3  # it counts in full
    client.close()


def test_it_comes_after_the_last_round_and_where_it_was_asked_for(tmp_path):
    coordinator, clients = parties(federation_of(**PLAIN), tmp_path / "one")
    exchange(coordinator, clients)
    with pytest.raises(ConfigError, match=r"no shared model|after the last"):
        clients["alder"].release("finetuned")
    assert len(clients["alder"].ledger.releases()) == 1
    close_all(clients)
    coordinator, clients = parties(federation_of(**PLAIN | {"release": {"experts": True}}), tmp_path / "two")
    for _ in range(2):
        exchange(coordinator, clients)
    with pytest.raises(ConfigError, match="finetuning = STEPS"):
        clients["alder"].release("finetuned")
    close_all(clients)


def test_without_room_for_it_the_budget_is_not_exceeded(tmp_path):
    """The budget of an older ledger holds the rounds alone."""
    tables = PLAIN | {"privacy": {"epsilon": 4.0, "budget": 3.5}}
    coordinator, clients = parties(federation_of(**tables), tmp_path)
    for _ in range(2):
        exchange(coordinator, clients)
    client = clients["alder"]
    assert not client.affords_run and client.sat_out == ()
    with pytest.raises(BudgetError, match="no fine-tuned expert"):
        client.release("finetuned")
    assert client.ledger.spent() <= 3.5 and not (client.folder / DRAFT).exists()
    close_all(clients)


def test_a_failing_data_set_releases_noise_alone_and_the_same_charge(over):
    dataset = over.training_set.dataset
    object.__setattr__(over._parts.training.training, "dataset", [None] * len(dataset))
    model, record = over.release("finetuned")
    assert record["epsilon"] == pytest.approx(4.0, abs=1e-6) and bool(torch.isfinite(numbers(model)).all())
    over.close()
