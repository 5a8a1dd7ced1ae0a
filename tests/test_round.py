"""Rounds between real parties over bytes."""

import numpy as np
import pytest
import torch
from parties import MODEL, NAMES, close_all, exchange, federation_of, parties, rows_of

from securepfl.client import Client, Simulation
from securepfl.errors import AggregateError, ConfigError, MessageError, ModelError
from securepfl.randomness import derive_key

SEED = bytes(range(32))


def state(client):
    return client._state


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
    federation = federation_of(sites={"alder": {"weight": 4}, "birch": {"weight": 2}})
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
    for scheme in ("bfv", "none"):
        federation = federation_of(rounds=4, similarity={"every": 2}, encryption={"scheme": scheme})
        coordinator, clients = parties(federation, tmp_path / scheme, root_key=SEED, noise_key=SEED)
        for _ in range(4):
            exchange(coordinator, clients)
        states[scheme] = {name: vars(state(client)).copy() for name, client in clients.items()}
        close_all(clients)
    for name in NAMES:
        encrypted, plain = states["bfv"][name], states["none"][name]
        for key in ("shared", "personal", "residual", "accumulated", "aggregate", "average_personal"):
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
    coordinator, clients = parties(federation_of(rounds=4, similarity={"every": 2}), tmp_path)
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
    old = clients["birch"]
    old.close()
    again = Client(
        federation,
        "birch",
        MODEL,
        rows_of("birch"),
        old._keyring,
        tmp_path / "birch",
        device="cpu",
        simulation=Simulation(),
    )
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


def test_killed_in_training_the_round_stays_charged_and_is_sat_out(tmp_path, monkeypatch):
    federation = federation_of()
    coordinator, clients = parties(federation, tmp_path)
    invitations = coordinator.invite()
    monkeypatch.setattr("securepfl.client.train_private", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        clients["birch"].contribute(invitations["birch"])
    monkeypatch.undo()
    spent = clients["birch"].ledger.spent()
    clients["birch"].close()
    assert spent > 0
    again = Client(
        federation,
        "birch",
        MODEL,
        rows_of("birch"),
        clients["birch"]._keyring,
        tmp_path / "birch",
        device="cpu",
        simulation=Simulation(),
    )
    clients["birch"] = again
    for name, invitation in invitations.items():
        coordinator.receive(clients[name].contribute(invitation))
    assert coordinator.survivors == ("alder", "cedar", "damson")
    assert again.ledger.spent() == spent and again.sat_out == (1,)
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
        clients["alder"]._keyring,
        tmp_path / "twin",
        device="cpu",
        simulation=Simulation(),
    )
    invitation = coordinator.invite()["alder"]
    coordinator.receive(clients["alder"].contribute(invitation))
    other = twin.contribute(invitation)
    with pytest.raises(MessageError, match="other bytes"):
        coordinator.receive(other)
    assert coordinator.evidence == [other]
    close_all(clients | {"twin": twin})


def test_a_federation_with_other_settings_is_refused(tmp_path):
    _, clients = parties(federation_of(), tmp_path / "one")
    coordinator, others = parties(federation_of(rounds=4), tmp_path / "two")
    with pytest.raises(MessageError):
        clients["alder"].contribute(coordinator.invite()["alder"])
    close_all(clients)
    close_all(others)


def test_a_tampering_coordinator_is_caught_and_the_state_stays(tmp_path, monkeypatch):
    """The coordinator adds one contribution twice: every hospital refuses the sum and keeps its state."""
    coordinator, clients = parties(federation_of(similarity={"every": 0}, coupling={"strength": 0.0}), tmp_path)
    for name, invitation in coordinator.invite().items():
        coordinator.receive(clients[name].contribute(invitation))
    total = coordinator._round.total
    total._sum = (total._sum + np.uint64(1)) % np.uint64(total._wire.modulus)
    total._sum[0] = np.uint64(12345)
    answers = coordinator.close()
    before = state(clients["alder"]).shared.copy()
    with pytest.raises(AggregateError):
        clients["alder"].apply(answers["alder"])
    assert np.array_equal(state(clients["alder"]).shared, before)
    assert clients["alder"].round == 0
    close_all(clients)


def test_the_pipelines_own_model_must_be_the_federations(tmp_path):
    federation = federation_of()
    _, clients = parties(federation, tmp_path)
    keyring = clients["alder"]._keyring
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
    from securepfl.federation import Federation
    from securepfl.runtime.local import local_parties

    def build():
        return torch.nn.Sequential(
            torch.nn.Linear(6, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 1), torch.nn.Flatten(0)
        )

    federation = Federation.from_mapping({"model": {"kind": "own", "personal": ["2.*"]}}).bound(NAMES, build)
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
    from securepfl.client import resolve_device

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
