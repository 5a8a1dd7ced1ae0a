"""Rounds between real parties over bytes."""

import copy
import time

import msgspec
import numpy as np
import pytest
import torch
from forging import falsify_answers, opened_by_coordinator, sum_of
from parties import MODEL, NAMES, Carried, close_all, exchange, federation_of, parties, reopened, rows_of

from securepfl.client.client import Client
from securepfl.client.pinning import PIN
from securepfl.client.records import TrainingSet
from securepfl.client.run_kind import Simulation
from securepfl.client.scanning import scan_units
from securepfl.errors import (
    AggregateError,
    BudgetError,
    ConfigError,
    DataError,
    LateError,
    LedgerError,
    MessageError,
    ModelError,
    StorageError,
)
from securepfl.protocol.rounds import drive
from securepfl.randomness import derive_key
from securepfl.runtime.local import local_parties, simulate
from securepfl.settings.federation import Federation
from securepfl.storage.folder import write_arrays
from securepfl.tasks.own import OwnLoss

SEED = bytes(range(32))


def state(client):
    return client.state


def test_shared_parameters_stay_equal_and_personal_ones_differ(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    for _ in range(3):
        exchange(coordinator, clients)
    shared = [state(client).shared for client in clients.values()]
    assert all(np.array_equal(shared[0], other) for other in shared[1:])
    personal = {state(client).personal.tobytes() for client in clients.values()}
    assert len(personal) == len(clients)
    assert all(client.round == 3 for client in clients.values())
    close_all(clients)


def test_the_applied_step_is_the_weighted_mean_of_what_was_sent(tmp_path):
    weights = {"alder": 4, "birch": 2, "cedar": 1, "damson": 1}
    federation = federation_of(sites={name: {"weight": weight} for name, weight in weights.items()})
    coordinator, clients = parties(federation, tmp_path)
    before = state(clients["alder"]).shared.copy()
    sent = {}
    for name, invitation in coordinator.invite().items():
        coordinator.receive(clients[name].contribute(invitation))
        sent[name] = state(clients[name]).pending.sent
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    step = sum(sent.values()) / (1.0 + 0.5 + 0.25 + 0.25)
    assert np.allclose(before - state(clients["alder"]).shared, step, atol=1e-6)
    close_all(clients)


def test_encrypted_and_plaintext_rounds_agree_bit_for_bit(tmp_path):
    """Same seed, same federation but for the scheme: every state of every hospital is identical."""
    states = {}
    for scheme in ("tenseal", "none"):
        federation = federation_of(rounds=4, similarity={"every": 2}, encryption={"scheme": scheme})
        coordinator, clients = parties(federation, tmp_path / scheme, root_key=SEED, noise_key=SEED)
        for _ in range(4):
            exchange(coordinator, clients)
        states[scheme] = {name: msgspec.structs.asdict(state(client)) for name, client in clients.items()}
        close_all(clients)
    for name in NAMES:
        encrypted, plain = states["tenseal"][name], states["none"][name]
        for key in ("shared", "personal", "residual", "compared", "aggregate", "average_personal"):
            assert encrypted[key].tobytes() == plain[key].tobytes(), (name, key)
        assert encrypted["similarity"] == plain["similarity"] != {}
        assert encrypted["pull"] == plain["pull"]
        for part in ("shared", "personal"):
            assert encrypted["trajectory"][part].tobytes() == plain["trajectory"][part].tobytes()


def test_unseeded_runs_never_repeat(tmp_path):
    seen = set()
    for attempt in ("one", "two"):
        coordinator, clients = parties(federation_of(), tmp_path / attempt)
        exchange(coordinator, clients)
        seen.add(state(clients["alder"]).personal.tobytes())
        close_all(clients)
    assert len(seen) == 2


def test_similarity_rows_are_symmetric_and_start_neighbourhood_sums(tmp_path):
    coordinator, clients = parties(federation_of(rounds=4, similarity={"every": 2}, privacy={"epsilon": 1e4}), tmp_path)
    exchange(coordinator, clients)
    assert not clients["alder"].similarity
    exchange(coordinator, clients)
    for one in NAMES:
        assert set(clients[one].similarity) == set(NAMES) - {one}
        for other, value in clients[one].similarity.items():
            assert value == clients[other].similarity[one]
    close_all(clients)


def test_coupling_moves_personal_parameters_to_the_neighbours_mean(tmp_path):
    federation = federation_of(rounds=5, similarity={"every": 1}, privacy={"epsilon": 1e4, "budget": 2e4})
    coordinator, clients = parties(federation, tmp_path)
    exchange(coordinator, clients)
    assert all(client.similarity == {} for client in clients.values()), "nobody knows the others' nonces yet"
    exchange(coordinator, clients)
    assert all(0 < state(client).pull <= 0.5 for client in clients.values())
    before, pulls = {}, {name: state(client).pull for name, client in clients.items()}
    for name, invitation in coordinator.invite().items():
        coordinator.receive(clients[name].contribute(invitation))
        before[name] = state(clients[name]).personal.copy()
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    grid = federation.encryption.personal_limit / 511  # one level of the 10-bit grid
    for name in NAMES:
        mean = np.mean([before[other] for other in NAMES if other != name], axis=0)
        expected = before[name] + pulls[name] * (mean - before[name])
        assert np.abs(state(clients[name]).personal - expected).max() <= grid
    close_all(clients)


def test_the_last_round_gives_everyone_the_average_head(tmp_path):
    coordinator, clients = parties(federation_of(rounds=1), tmp_path)
    exchange(coordinator, clients)
    mean = np.mean([state(client).personal for client in clients.values()], axis=0)
    for client in clients.values():
        assert np.abs(state(client).average_personal - mean).max() < 4.0 / 511
    close_all(clients)


def test_a_repeated_invitation_gives_the_same_bytes_and_no_new_noise(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    invitation = coordinator.invite()["alder"]
    first = clients["alder"].contribute(invitation)
    spent = clients["alder"].ledger.spent()
    assert clients["alder"].contribute(invitation) == first
    assert clients["alder"].ledger.spent() == spent
    close_all(clients)


def test_a_killed_hospital_goes_on_from_its_folder(tmp_path):
    """Killed between contribute and apply: the same bytes are sent again, and the round ends as for the others."""
    federation = federation_of()
    coordinator, clients = parties(federation, tmp_path)
    invitations = coordinator.invite()
    sent = {name: clients[name].contribute(invitation) for name, invitation in invitations.items()}
    again = reopened(clients["birch"])
    assert again.contribute(invitations["birch"]) == sent["birch"]
    clients["birch"] = again
    for message in sent.values():
        coordinator.receive(message)
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    assert np.array_equal(state(again).shared, state(clients["alder"]).shared)
    exchange(coordinator, clients)
    assert np.array_equal(state(again).shared, state(clients["alder"]).shared)
    close_all(clients)


def test_stopped_in_training_the_round_is_made_again_and_charged_once(tmp_path, monkeypatch):
    federation = federation_of()
    coordinator, clients = parties(federation, tmp_path)
    invitations = coordinator.invite()
    monkeypatch.setattr(
        "securepfl.client.training.train_private", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        clients["birch"].contribute(invitations["birch"])
    monkeypatch.undo()
    spent = clients["birch"].ledger.spent()
    assert spent > 0
    again = reopened(clients["birch"])
    clients["birch"] = again
    for name, invitation in invitations.items():
        coordinator.receive(clients[name].contribute(invitation))
    assert coordinator.survivors == ("alder", "birch", "cedar", "damson")
    assert again.ledger.spent() == spent and again.sat_out == ()
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    assert np.array_equal(state(again).shared, state(clients["alder"]).shared)
    close_all(clients)


def test_a_hospital_without_budget_sits_out_and_the_others_go_on(tmp_path):
    federation = federation_of(sites={"cedar": {"budget": 3.0}})
    coordinator, clients = parties(federation, tmp_path)
    for _ in range(3):
        exchange(coordinator, clients)
    assert clients["cedar"].sat_out and clients["cedar"].ledger.spent() <= 3.0
    assert not clients["alder"].sat_out
    assert clients["alder"].ledger.spent() == pytest.approx(4.0, rel=0.01)
    assert np.array_equal(state(clients["cedar"]).shared, state(clients["alder"]).shared)
    close_all(clients)


def test_fewer_than_three_survivors_form_no_sum_and_nothing_is_lost(tmp_path):
    coordinator, clients = parties(federation_of(similarity={"every": 1}), tmp_path)
    before = state(clients["alder"]).shared.copy()
    invitations = coordinator.invite()
    for name in ("alder", "birch"):
        coordinator.receive(clients[name].contribute(invitations[name]))
    sent = state(clients["alder"]).pending.sent.copy()
    answers = coordinator.close()
    residual = state(clients["alder"]).residual.copy()
    clients["alder"].apply(answers["alder"])
    assert np.array_equal(state(clients["alder"]).shared, before)
    assert np.allclose(state(clients["alder"]).residual, residual + sent)
    assert not clients["alder"].similarity
    close_all(clients)


def test_messages_of_other_rounds_kinds_and_parties_are_refused(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    first = coordinator.invite()
    message = clients["alder"].contribute(first["alder"])
    with pytest.raises(MessageError):
        clients["birch"].contribute(first["alder"])
    with pytest.raises(MessageError):
        clients["alder"].apply(first["alder"])
    with pytest.raises(MessageError):
        coordinator.receive(first["alder"])
    with pytest.raises(MessageError):
        coordinator.receive(message[:-1])
    with pytest.raises(MessageError):
        coordinator.receive(message[:200] + bytes([message[200] ^ 1]) + message[201:])
    assert coordinator.receive(message) == coordinator.receive(message) == "alder"
    assert coordinator.survivors == ("alder",)
    coordinator.close()
    coordinator.invite()
    with pytest.raises(MessageError):
        coordinator.receive(message)
    close_all(clients)


def test_other_bytes_for_the_same_round_are_refused_and_kept_as_evidence(tmp_path):
    federation = federation_of()
    coordinator, clients = parties(federation, tmp_path / "one")
    twin = Client(
        federation,
        "alder",
        MODEL,
        rows_of("alder"),
        clients["alder"].session.keyring,
        tmp_path / "twin",
        device="cpu",
        simulation=Simulation(),
    )
    invitation = coordinator.invite()["alder"]
    coordinator.receive(clients["alder"].contribute(invitation))
    other = twin.contribute(invitation)
    with pytest.raises(MessageError, match="other bytes"):
        coordinator.receive(other)
    assert coordinator.evidence == {(1, "alder"): other}
    close_all(clients | {"twin": twin})


def test_a_federation_with_other_settings_is_refused(tmp_path):
    _, clients = parties(federation_of(), tmp_path / "one")
    coordinator, others = parties(federation_of(rounds=4), tmp_path / "two")
    with pytest.raises(MessageError):
        clients["alder"].contribute(coordinator.invite()["alder"])
    close_all(clients)
    close_all(others)


def contributions(coordinator, clients):
    """One round's bodies by name, received by nobody yet."""
    bodies = {}
    for name, invitation in coordinator.invite().items():
        message = clients[name].contribute(invitation)
        bodies[name] = message
    return bodies


def forged(coordinator, **changes):
    """The answer that alder would get, with some fields of its body replaced: a dishonest coordinator's."""
    with pytest.MonkeyPatch.context() as patch:
        falsify_answers(patch, **changes)
        return coordinator.close()["alder"]


@pytest.mark.parametrize("fault", ["altered", "dropped", "doubled", "exchanged"])
def test_a_tampered_sum_is_refused_and_the_state_stays(tmp_path, fault):
    """The sum is changed, or holds other contributions than the survivors named."""
    coordinator, clients = parties(federation_of(), tmp_path)
    for message in contributions(coordinator, clients).values():
        coordinator.receive(message)
    answer = forged(coordinator, aggregate=falsified(coordinator, clients, fault))
    before = state(clients["alder"]).shared.copy()
    with pytest.raises(AggregateError):
        clients["alder"].apply(answer)
    assert np.array_equal(state(clients["alder"]).shared, before) and clients["alder"].round == 0
    close_all(clients)


def test_the_sum_made_as_the_faulty_ones_is_taken_where_nothing_is_wrong(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    for message in contributions(coordinator, clients).values():
        coordinator.receive(message)
    clients["alder"].apply(forged(coordinator, aggregate=falsified(coordinator, clients, "nothing")))
    assert clients["alder"].round == 1
    close_all(clients)


def falsified(coordinator, clients, fault):
    """The sum over what all sent, and what is wrong with it."""
    made = coordinator.federation.scheme_of("update"), coordinator.rules.layouts.update
    updates = {
        name: opened_by_coordinator(coordinator, state(client).pending.message).update
        for name, client in clients.items()
    }
    if fault == "altered":
        return sum_of(*made, updates.values(), off=2**50)
    if fault == "dropped":
        return sum_of(*made, [update for name, update in updates.items() if name != "birch"])
    if fault == "doubled":
        return sum_of(*made, updates.values(), weights=[2 if name == "birch" else 1 for name in updates])
    if fault == "exchanged":
        return sum_of(*made, [updates["birch" if name == "damson" else name] for name in updates])
    return sum_of(*made, updates.values())


@pytest.mark.parametrize(
    "changes",
    [
        {"survivors": NAMES * 50},
        {"survivors": ("birch",) * 3},
        {"survivors": tuple(reversed(NAMES))},
        {"survivors": (*NAMES, "nobody")},
        {"survivors": ("alder", "birch"), "products": {}},
        {"consensus": b"x"},
        {"neighbourhood": b"x", "neighbours": ("birch", "cedar", "damson")},
        {"neighbours": ("birch", "cedar", "damson")},
        {"aggregate": None},
        {"products": {"nobody": b"x"}},
    ],
)
def test_an_answer_of_another_form_is_refused_before_anything_is_decrypted(tmp_path, changes, monkeypatch):
    coordinator, clients = parties(federation_of(), tmp_path)
    for message in contributions(coordinator, clients).values():
        coordinator.receive(message)
    answer = forged(coordinator, **changes)
    monkeypatch.setattr("securepfl.client.answers.Opener.open", lambda *_: pytest.fail("decrypted"))
    with pytest.raises(MessageError, match="does not fit"):
        clients["alder"].apply(answer)
    close_all(clients)


def test_a_hospital_decrypts_one_answer_a_round_and_fails_always_alike(tmp_path):
    """Otherwise a coordinator could try answers until a hospital's reactions gave away the key."""
    coordinator, clients = parties(federation_of(), tmp_path)
    exchange(coordinator, clients)
    for message in contributions(coordinator, clients).values():
        coordinator.receive(message)
    open_round, client = copy.deepcopy(coordinator.open_round), clients["alder"]
    texts = set()
    for changes in ({"products": {"birch": b"", "cedar": b""}}, {"aggregate": b"garbage"}):
        coordinator.open_round = copy.deepcopy(open_round)
        answer = forged(coordinator, **changes)
        with pytest.raises(AggregateError) as caught:
            client.apply(answer)
        texts.add(str(caught.value))
        with pytest.raises(AggregateError):
            client.apply(answer)
        coordinator.open_round = copy.deepcopy(open_round)
        with pytest.raises(MessageError, match="another answer"):
            client.apply(forged(coordinator))
        unpinned = msgspec.structs.replace(state(client).pending, answer="")
        (client.folder / PIN).unlink()
        client = reopened(client, pending=unpinned)  # the next case starts unpinned
    assert len(texts) == 1
    close_all(clients | {"alder": client})


def test_a_key_of_the_other_scheme_is_refused_before_anything_is_sent(tmp_path):
    """Encryption must not fail open."""
    federation, open_federation = federation_of(), federation_of(encryption={"scheme": "none"})
    clear, _ = local_parties(open_federation)
    for wrong_key, wanted in ((clear["alder"], federation), (local_parties(federation)[0]["alder"], open_federation)):
        with pytest.raises(ConfigError, match="scheme"):
            Client(wanted, "alder", MODEL, rows_of("alder"), wrong_key, tmp_path, device="cpu", simulation=Simulation())


def test_a_failed_save_changes_nothing_and_sends_nothing(tmp_path, monkeypatch):
    """A message is on disk before it is sent; where that fails, the state is as before."""
    coordinator, clients = parties(federation_of(), tmp_path)
    invitations, client = coordinator.invite(), clients["alder"]
    before = msgspec.structs.asdict(state(client))

    def full(*_, **__):
        raise StorageError("no space")

    monkeypatch.setattr("securepfl.client.state.write_arrays", full)
    with pytest.raises(StorageError):
        client.contribute(invitations["alder"])
    monkeypatch.undo()
    assert not client.ledger.releases(), "that it joins the run is on disk before anything is spent"
    client._join(client.session.joining(coordinator.rules.run))
    monkeypatch.setattr("securepfl.client.state.write_arrays", full)
    with pytest.raises(StorageError):
        client.contribute(invitations["alder"])
    monkeypatch.undo()
    after = msgspec.structs.asdict(state(client))
    assert after["pending"] is None
    assert all(np.array_equal(before[key], after[key]) for key in ("shared", "personal", "residual", "compared"))
    coordinator.receive(client.contribute(invitations["alder"]))
    assert client.sat_out == (1,), "the round stays charged, and no second noise is drawn for it"
    close_all(clients)


def test_a_hospital_that_missed_the_invitation_takes_the_step(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    invitations = coordinator.invite()
    for name in ("alder", "birch", "cedar"):
        coordinator.receive(clients[name].contribute(invitations[name]))
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    assert np.array_equal(state(clients["damson"]).shared, state(clients["alder"]).shared)
    exchange(coordinator, clients)
    assert np.array_equal(state(clients["damson"]).shared, state(clients["alder"]).shared)
    close_all(clients)


def test_clocks_hours_apart_change_nothing(tmp_path, monkeypatch):
    clocks = {"coordinator": -6e4, "alder": 9e4, "birch": -9e8, "cedar": 3e7, "damson": 0.0}
    coordinator, clients = parties(federation_of(), tmp_path)
    now, whose = time.time(), {"clock": "coordinator"}
    monkeypatch.setattr(time, "time", lambda: now + clocks[whose["clock"]])

    class Apart(Carried):
        def ask(self, name, message):
            whose["clock"] = name
            reply = super().ask(name, message)
            whose["clock"] = "coordinator"
            return reply

    for _ in range(2):
        assert drive(coordinator, Apart(clients)) == ()
    assert coordinator.answered.survivors == sorted(clients) and {client.round for client in clients.values()} == {2}
    close_all(clients)


def test_an_invitation_that_lay_about_for_days_is_answered_and_one_of_a_round_that_is_over_is_not(tmp_path):
    coordinator, clients = parties(federation_of(), tmp_path)
    invitations = coordinator.invite()
    for name in ("birch", "cedar", "damson"):
        coordinator.receive(clients[name].contribute(invitations[name]))
    answer, late = coordinator.close()["alder"], clients["alder"].contribute(invitations["alder"])
    with pytest.raises(LateError, match="CONTRIBUTION of round 1 came late: round 1 takes RECEIPT"):
        coordinator.receive(late)
    assert not coordinator.evidence and not coordinator.named
    clients["alder"].apply(answer)
    with pytest.raises(MessageError, match="round 1 where 2 is expected"):
        clients["alder"].contribute(invitations["alder"])
    close_all(clients)


def test_a_missed_round_whose_answer_failed_sends_no_empty_message(tmp_path, monkeypatch):
    coordinator, clients = parties(federation_of(), tmp_path)
    invitations = coordinator.invite()
    for name in ("alder", "birch", "cedar"):
        coordinator.receive(clients[name].contribute(invitations[name]))
    present = {name: client for name, client in clients.items() if name != "damson"}
    falsify_answers(monkeypatch, aggregate=falsified(coordinator, present, "altered"))
    answer = coordinator.close()["damson"]
    with pytest.raises(AggregateError):
        clients["damson"].apply(answer)
    with pytest.raises(MessageError, match="too late"):
        clients["damson"].contribute(invitations["damson"])
    close_all(clients)


def test_a_folder_has_one_user(tmp_path):
    federation = federation_of()
    _, clients = parties(federation, tmp_path)
    keyring = clients["alder"].session.keyring
    stored = (tmp_path / "alder" / "state.safetensors").read_bytes()
    with pytest.raises(StorageError, match="in use"):
        Client(federation, "alder", MODEL, rows_of("alder"), keyring, tmp_path / "alder", simulation=Simulation())
    assert (tmp_path / "alder" / "state.safetensors").read_bytes() == stored
    close_all(clients)


def test_a_damaged_state_is_named_and_not_overwritten(tmp_path):
    federation = federation_of()
    _, clients = parties(federation, tmp_path)
    close_all(clients)
    path = tmp_path / "alder" / "state.safetensors"
    for arrays, meta in (({}, {}), ({}, {"schema": 99}), ({}, {"schema": 1, "federation": federation.digest.hex()})):
        write_arrays(path, arrays, meta)
        with pytest.raises(StorageError, match="state"):
            Client(
                federation,
                "alder",
                MODEL,
                rows_of("alder"),
                clients["alder"].session.keyring,
                tmp_path / "alder",
                simulation=Simulation(),
            )


def loader(sampler=None, **options):
    return torch.utils.data.DataLoader(rows_of("alder"), sampler=sampler, **options)


@pytest.mark.parametrize(
    "training",
    [
        loader(torch.utils.data.SubsetRandomSampler(range(10))),
        loader(torch.utils.data.WeightedRandomSampler([1.0] * 40, 40)),
        loader(torch.utils.data.RandomSampler(range(40), replacement=True)),
        loader(torch.utils.data.SequentialSampler(range(10))),
        loader(batch_size=None),
        torch.utils.data.TensorDataset(torch.zeros(0, 6), torch.zeros(0)),
    ],
    ids=["subset", "weighted", "replacement", "first ten", "unbatched", "empty"],
)
def test_a_loader_that_would_train_on_other_records_is_refused(training):
    """Batches are drawn anew: a sampler that holds rows out for testing would be undone unseen."""
    with pytest.raises(DataError, match="alder"):
        TrainingSet.of(training, "alder")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("labels", r"alder: record 0 .*label is \[1\], and the model's output one number; reshape one of them"),
        ("outputs", r"alder: a binary task needs one output a record, not \[3\]; change the model's last layer"),
        ("inputs", "alder: model and loss fail on this data set"),
    ],
)
def test_a_mistake_in_shapes_is_told_before_any_budget_is_reserved(tmp_path, fault, words):
    x, y = rows_of("alder").tensors
    data = torch.utils.data.TensorDataset(x[:, :3] if fault == "inputs" else x, y[:, None] if fault == "labels" else y)

    def build():
        return torch.nn.Sequential(torch.nn.Linear(6, 3), torch.nn.Flatten(1 if fault == "outputs" else 0))

    model = MODEL if fault != "outputs" else build
    tables = {} if fault != "outputs" else {"model": {"kind": "own", "personal": ["0.bias"]}}
    federation = Federation.from_mapping(tables).bound(NAMES, model, units=40)
    keyring = local_parties(federation)[0]["alder"]
    with pytest.raises((ModelError, DataError), match=words):
        Client(federation, "alder", model, data, keyring, tmp_path, simulation=Simulation())
    assert not list(tmp_path.iterdir())


class Idle(torch.nn.Module):
    """A model with a parameter that its forward pass doesn't use."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = torch.nn.Linear(6, 1), torch.nn.Linear(2, 2)

    def forward(self, x):
        return self.used(x).squeeze()


def scan(training, model, loss, unit="record"):
    records, cpu = TrainingSet.of(training, "alder", unit), torch.device("cpu")
    return scan_units(records, records.found, OwnLoss(), model, loss, cpu, "alder", 256)


@pytest.mark.parametrize("loss", [lambda *_: 0.5, lambda *_: {}["no"], lambda o, y: (o - y).square().mean()])
def test_a_loss_that_is_not_one_number_a_record_is_told_at_once(loss):
    with pytest.raises(ModelError, match="alder"):
        scan(rows_of("alder"), MODEL(), loss)


def test_what_only_training_shows_is_told_at_once():
    training, loss = rows_of("alder"), torch.nn.BCEWithLogitsLoss(reduction="none")
    with pytest.raises(ModelError, match="alder: "):
        scan(training, Idle(), loss)
    model = MODEL()
    before = [parameter.clone() for parameter in model.parameters()]
    scan(training, model, loss)
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))


def test_what_was_trained_under_a_seed_stays_unreleasable(tmp_path):
    """Reopened as unseeded, or with a ledger that knows nothing of it, the state is refused."""
    federation = federation_of(rounds=1)
    coordinator, clients = parties(federation, tmp_path, noise_key=SEED)
    exchange(coordinator, clients)
    keyring = clients["alder"].session.keyring
    close_all(clients)

    def reopen(simulation):
        options = {"ledgers": tmp_path / "others", "device": "cpu", "simulation": simulation}
        return Client(federation, "alder", MODEL, rows_of("alder"), keyring, tmp_path / "alder", **options)

    with pytest.raises(StorageError, match="seeded"):
        reopen(Simulation())
    with pytest.raises(LedgerError, match="began with"):
        reopen(Simulation(SEED))


def test_a_run_is_afforded_while_its_last_round_is_under_way(tmp_path):
    coordinator, clients = parties(federation_of(rounds=2), tmp_path)
    assert clients["alder"].affords_run
    clients["alder"].contribute(coordinator.invite()["alder"])
    assert clients["alder"].affords_run
    close_all(clients)


def test_an_unbound_federation_and_missing_training_sets_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match="bound"):
        local_parties(Federation())
    with pytest.raises(ConfigError, match="roster"), simulate(federation_of(), {}, MODEL, tmp_path):
        pass


def test_plain_and_shuffled_loaders_are_taken():
    for training in (loader(batch_size=8), loader(batch_size=8, shuffle=True), rows_of("alder")):
        assert TrainingSet.of(training, "alder").found == 40


def test_without_a_last_sum_there_is_no_shared_model(tmp_path):
    """Never the untrained head in its place."""
    coordinator, clients = parties(federation_of(rounds=1), tmp_path)
    coordinator.invite()
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    assert clients["alder"].shared_model() is None
    with pytest.raises(ConfigError, match="no shared model"):
        clients["alder"].release("shared")
    close_all(clients)


def test_a_seeded_simulation_releases_no_expert(tmp_path):
    _, clients = parties(federation_of(), tmp_path, noise_key=SEED)
    with pytest.raises(ConfigError, match="seeded"):
        clients["alder"].release("personal")
    close_all(clients)


def test_a_looser_budget_needs_a_decision(tmp_path):
    """--epsilon alone never raises what the ledger enforces; an explicit budget does."""

    def open_with(**privacy):
        federation = federation_of(privacy=privacy)
        keyring = local_parties(federation)[0]["alder"]
        folder = tmp_path / str(privacy)
        client = Client(federation, "alder", MODEL, rows_of("alder"), keyring, folder, simulation=Simulation())
        client.close()

    open_with(epsilon=2.0)
    for looser in ({"epsilon": 3.0}, {"epsilon": 2.0, "delta": 1e-3}):
        with pytest.raises(BudgetError, match="loosen"):
            open_with(**looser)
    open_with(epsilon=1.0)
    open_with(epsilon=2.0)
    open_with(epsilon=3.0, budget=3.0)


def test_the_pipelines_own_model_must_be_the_federations(tmp_path):
    federation = federation_of()
    _, clients = parties(federation, tmp_path)
    keyring = clients["alder"].session.keyring
    with pytest.raises(ConfigError, match="not the federation's"):
        Client(
            federation,
            "alder",
            lambda: torch.nn.ModuleDict({"body": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 1)}),
            rows_of("alder"),
            keyring,
            tmp_path / "x",
        )
    close_all(clients)


def test_batchnorm_is_refused_with_its_layers_name(tmp_path):
    def build():
        return torch.nn.Sequential(
            torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1), torch.nn.Flatten(0)
        )

    federation = Federation.from_mapping({"model": {"kind": "own", "personal": ["2.*"]}}).bound(NAMES, build, units=40)
    keyrings, _ = local_parties(federation)
    with pytest.raises(ModelError, match=r'"?1"?.*GroupNorm'):
        Client(federation, "alder", build, rows_of("alder"), keyrings["alder"], tmp_path)


def test_no_private_number_travels_but_through_the_released_vectors(tmp_path):
    """Two data sets that train to the same state give messages of the same length, byte for byte counted."""
    lengths = set()
    for attempt in ("one", "two"):
        coordinator, clients = parties(federation_of(), tmp_path / attempt)
        sent, _ = exchange(coordinator, clients)
        lengths |= {len(message) for message in sent.values()}
        close_all(clients)
    assert len(lengths) <= len({len(name) for name in NAMES})


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")),
    ],
)
def test_a_round_runs_on_each_device(tmp_path, device):
    from securepfl.runtime.local import local_parties

    federation = federation_of(rounds=1)
    keyrings, coordinator = local_parties(federation)
    clients = {
        name: Client(
            federation,
            name,
            MODEL,
            rows_of(name),
            keys,
            tmp_path / name,
            device=device,
            simulation=Simulation(),
        )
        for name, keys in keyrings.items()
    }
    exchange(coordinator, clients)
    assert next(clients["alder"].personal_model().parameters()).device.type == device
    assert clients["alder"].predict(torch.zeros(2, 6)).shape == (2,)
    close_all(clients)


def test_asking_for_an_absent_cuda_device_is_a_config_error():
    from securepfl.tasks.device import resolve_device

    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ConfigError, match="cuda"):
        resolve_device("cuda")
    assert resolve_device("auto").type == "cpu"


def test_reduction_no_personal_parameters_is_fedavg(tmp_path):
    """METHODS A, reductions: with nothing personal and huge epsilon, a round is the mean of the local models."""
    federation = federation_of(
        rounds=1,
        model={"personal": []},
        privacy={"epsilon": 1e6},
        sparsity={"density": 1.0},
        similarity={"every": 0},
        coupling={"strength": 0.0},
        encryption={"bits": 10, "limit": 2.0},
        release={"experts": False},
    )
    coordinator, clients = parties(federation, tmp_path, root_key=SEED, noise_key=derive_key(SEED, "n"))
    local = []
    for name, invitation in coordinator.invite().items():
        coordinator.receive(clients[name].contribute(invitation))
        local.append(state(clients[name]).pending.local_shared)
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    assert np.abs(state(clients["alder"]).shared - np.mean(local, axis=0)).max() < 2.0 / 511
    close_all(clients)


def test_above_2000_records_batches_are_drawn_at_the_declared_rate(tmp_path):
    """Poisson sampling, declared noise, and the whole budget spent at the end, no more."""
    sites = {"alder": {"units": 2100}}
    federation = federation_of(rounds=2, similarity={"every": 0}, coupling={"strength": 0.0}, sites=sites)
    keyrings, coordinator = local_parties(federation)
    clients = {
        name: Client(
            federation, name, MODEL, rows_of(name, 2100 if name == "alder" else 40), keys, tmp_path / name,
            device="cpu", simulation=Simulation(),
        )
        for name, keys in keyrings.items()
    }  # fmt: skip
    for _ in range(2):
        exchange(coordinator, clients)
    (release, _) = clients["alder"].ledger.releases()
    assert release.sample_rate == 0.1 and clients["birch"].ledger.releases()[0].sample_rate == 1.0
    assert 3.9 < clients["alder"].ledger.spent() <= 4.0
    assert release.noise_multiplier < clients["birch"].ledger.releases()[0].noise_multiplier
    close_all(clients)
