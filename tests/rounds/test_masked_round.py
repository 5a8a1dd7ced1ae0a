"""Masked rounds: sums as exact as without masks, whoever vanishes, and nothing revealed that should not be."""

import itertools

import msgspec
import numpy as np
import pytest
from forging import falsify_answers, opened_by_coordinator, opened_by_hospital, to_coordinator, to_hospital
from masked_rounds import SEVEN, chi_square, contribute, unmask
from parties import MODEL, channels_of, close_all, exchange, federation_of, parties, reopened, rows_of

from securepfl.client.client import Client
from securepfl.client.masks import Masks
from securepfl.client.run_kind import Simulation
from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.masks.edges import add_masks, pair_mask_secret
from securepfl.crypto.masks.graph import threshold
from securepfl.crypto.masks.unmasking import Unmasking
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.words import subtract
from securepfl.errors import AggregateError, ConfigError, MessageError
from securepfl.protocol.channels import Layouts, masking_of
from securepfl.protocol.messages import Agreement, Survivors, Unmask


def masked(names=SEVEN, **tables):
    defaults = {"encryption": {"masking": "pairwise"}, "coupling": {"strength": 0.0}, "similarity": {"every": 0}}
    return federation_of(names=names, **(defaults | tables))


def state(client):
    return client.state


def sums(coordinator, clients, answers):
    """What the sum gave every hospital, beside the exact mean of what was sent."""
    _, body = opened_by_hospital(clients["alder"], answers["alder"])
    sent = [state(clients[name]).pending.sent for name in body.survivors]
    for name, answer in answers.items():
        clients[name].apply(answer)
    return body, np.mean(sent, axis=0)


@pytest.mark.parametrize(
    ("absent", "unsigned", "silent"),
    [
        ((), (), ()),
        (("gean",), (), ()),
        (("fir", "gean"), (), ()),
        (("gean",), ("gean",), ("fir",)),
        ((), ("elm", "fir"), ()),
        ((), ("gean",), ("alder",)),
        (("alder",), (), ("gean",)),
    ],
)
def test_hospitals_may_vanish_at_any_point_and_the_sum_is_exact(tmp_path, absent, unsigned, silent):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients, absent)
    unmask(coordinator, clients, unsigned, silent)
    body, expected = sums(coordinator, clients, coordinator.close())
    assert body.survivors == tuple(name for name in SEVEN if name not in absent)
    for client in clients.values():
        assert client.round == 1
        np.testing.assert_allclose(state(client).aggregate, expected, atol=1e-12)
    close_all(clients)


def test_masked_and_unmasked_runs_of_one_seed_end_in_the_same_state(tmp_path):
    """Masks, like encryption, change no number."""
    ends = []
    for federation, folder in ((masked(), "masked"), (masked(encryption={}), "open")):
        coordinator, clients = parties(federation, tmp_path / folder, b"r" * 32, b"n" * 32)
        for _ in range(2):
            exchange(coordinator, clients)
        ends.append({name: state(client).shared for name, client in clients.items()})
        close_all(clients)
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in SEVEN)


def test_masks_add_no_byte_to_the_encrypted_update(tmp_path):
    lengths = []
    for federation, folder in ((masked(), "masked"), (masked(encryption={}), "open")):
        coordinator, clients = parties(federation, tmp_path / folder)
        message = clients["alder"].contribute(coordinator.invite()["alder"])
        lengths.append(len(opened_by_coordinator(coordinator, message).update))
        close_all(clients)
    assert lengths[0] == lengths[1]


def decrypted(client, update):
    """The slots of one hospital's update, as whoever holds the federation key decrypts them."""
    channel = channels_of(client)["update"]
    aggregate = find_scheme("tenseal").total(channel.layout)
    aggregate.add(update)
    return channel.cipher.decrypt(aggregate.answer(), channel.layout)


def test_the_coordinator_with_one_hospitals_keys_sees_only_uniform_residues(tmp_path):
    """It decrypts every other update with the key and takes off every mask that the hospital shares."""
    federation = masked(sparsity={"density": 1.0})
    coordinator, clients = parties(federation, tmp_path)
    colluder = clients["alder"]
    invitations = coordinator.invite()
    bodies = {}
    for name in SEVEN:
        message = clients[name].contribute(invitations[name])
        bodies[name] = opened_by_coordinator(coordinator, message).update
        coordinator.receive(message)
    t = channels_of(colluder)["update"].layout.parameters.plain_modulus
    seen = {name: decrypted(colluder, bodies[name]) for name in SEVEN[1:]}
    context = round_of(colluder, invitations["alder"]).mask_context
    stripped = {name: without_shared_masks(colluder, slots, name, context, t) for name, slots in seen.items()}
    # 15 degrees of freedom: 60 has chance 2e-7. A grid of levels around the middle is far from it.
    for slots in (*seen.values(), *stripped.values()):
        assert chi_square(slots, t) < 60
    for one, other in itertools.combinations(stripped.values(), 2):
        assert chi_square(subtract(one, other, t), t) < 60
    close_all(clients)


def round_of(client, message):
    return opened_by_hospital(client, message)[0]


def without_shared_masks(colluder, slots, name, context, modulus):
    index, other = colluder.federation.roster.index("alder"), colluder.federation.roster.index(name)
    if other not in masking_of(colluder.federation).graph(context)[index]:
        return slots
    secret = pair_mask_secret(colluder.session.keyring.pair_secrets[name], index, other, context)
    # The colluder's own sign, which is the opposite of the other end's: so the words go.
    return add_masks(slots, {(index, other): secret}, modulus, context)


def test_without_masks_the_same_look_finds_the_update(tmp_path):
    federation = masked(encryption={}, sparsity={"density": 1.0})
    coordinator, clients = parties(federation, tmp_path)
    message = clients["birch"].contribute(coordinator.invite()["birch"])
    slots = decrypted(clients["alder"], opened_by_coordinator(coordinator, message).update)
    layout = channels_of(clients["alder"])["update"].layout
    assert chi_square(slots[: layout.value_slots], layout.parameters.plain_modulus) > 100
    close_all(clients)


def survivors_message(coordinator, names, listed):
    body = Survivors(survivors=listed, salt=coordinator.open_round.salt)
    return {name: to_hospital(coordinator, name, body) for name in names}


def test_masks_do_not_come_again_where_hospitals_start_over_under_the_same_keys(tmp_path):
    """New folders and ledgers, or copies of old ones: only the coordinator could make masks repeat, with its salts."""
    federation = masked()
    coordinator, clients = parties(federation, tmp_path)
    first = round_of(clients["birch"], coordinator.invite()["birch"])
    coordinator.close()
    again = Coordinator(
        federation,
        coordinator.identity,
        coordinator.hospitals,
        key_commitment=clients["birch"].session.keyring.federation_key.commitment,
    )
    second = round_of(clients["birch"], again.invite()["birch"])
    assert first.number == second.number and not set(first.contexts.values()) & set(second.contexts.values())
    one, two = (masks_of(clients["birch"], round_) for round_ in (first, second))
    assert len(one) == len(two) == len(SEVEN) and not one & two
    close_all(clients)


def masks_of(client, round_):
    """What a hospital's masks come from in a round: a secret with each other one, and one of its own, as its words."""
    secrets = client.session.keyring.pair_secrets
    index, names = SEVEN.index(client.name), [name for name in SEVEN if name != client.name]
    shared = {pair_mask_secret(secrets[name], index, SEVEN.index(name), round_.mask_context) for name in names}
    masked = Masks.of(client.federation, client.session.keyring).under(round_)(np.zeros(4, dtype=np.uint64), 2**20)
    return shared | {masked.slots.tobytes()}


def test_another_salt_than_the_invitations_is_refused(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    for salt in (bytes(16), b""):
        other = to_hospital(coordinator, "alder", Survivors(survivors=SEVEN, salt=salt))
        with pytest.raises(MessageError, match="salt"):
            clients["alder"].sign_survivors(other)
    close_all(clients)


def test_a_second_survivor_list_is_refused_also_after_a_restart(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    one = survivors_message(coordinator, SEVEN, SEVEN)
    other = survivors_message(coordinator, SEVEN, SEVEN[:-1])
    clients["alder"].sign_survivors(one["alder"])
    clients["alder"].sign_survivors(one["alder"])
    with pytest.raises(MessageError, match="another survivor list"):
        clients["alder"].sign_survivors(other["alder"])
    clients["alder"] = reopened(clients["alder"])
    assert clients["alder"].state.pending.agreed == SEVEN
    with pytest.raises(MessageError, match="another survivor list"):
        clients["alder"].sign_survivors(other["alder"])
    close_all(clients)


def test_a_split_view_gets_no_reveal_from_either_side(tmp_path):
    """The coordinator shows two lists to two groups: neither has signatures enough."""
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    coordinator.fix_survivors()
    one = survivors_message(coordinator, SEVEN[:4], SEVEN)
    other = survivors_message(coordinator, SEVEN[4:], SEVEN[:-1])
    for name, message in (one | other).items():
        body = opened_by_coordinator(coordinator, clients[name].sign_survivors(message))
        coordinator.open_round.signatures[name] = body.signature
    requests = coordinator.unmask()
    assert len(requests) == len(SEVEN)
    for name, request in requests.items():
        with pytest.raises(MessageError, match="valid signatures"):
            clients[name].reveal(request)
    close_all(clients)


def test_fewer_signatures_than_the_threshold_reveal_nothing(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    signers = SEVEN[: threshold(len(SEVEN)) - 1]
    for name, survivors in coordinator.fix_survivors().items():
        if name in signers:
            coordinator.receive(clients[name].sign_survivors(survivors))
    assert coordinator.unmask() == {}
    body, _ = sums(coordinator, clients, coordinator.close())
    assert body.aggregate is None
    close_all(clients)


def test_nothing_is_revealed_before_a_list_was_signed(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    coordinator.fix_survivors()
    request = to_hospital(coordinator, "alder", Unmask(signatures={}, blobs={}))
    with pytest.raises(MessageError, match="before it signed"):
        clients["alder"].reveal(request)
    close_all(clients)


def test_a_late_upload_is_refused_once_the_survivors_are_fixed(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    invitations = coordinator.invite()
    for name in SEVEN[:-1]:
        coordinator.receive(clients[name].contribute(invitations[name]))
    late = clients["gean"].contribute(invitations["gean"])
    unmasked_list = coordinator.fix_survivors()
    with pytest.raises(MessageError, match="CONTRIBUTION of round 1 came late: round 1 takes AGREEMENT"):
        coordinator.receive(late)
    for name, survivors in unmasked_list.items():
        coordinator.receive(clients[name].sign_survivors(survivors))
    for name, request in coordinator.unmask().items():
        coordinator.receive(clients[name].reveal(request))
    before = state(clients["gean"]).residual.copy()
    body, expected = sums(coordinator, clients, coordinator.close())
    assert "gean" not in body.survivors
    np.testing.assert_allclose(state(clients["gean"]).aggregate, expected, atol=1e-12)
    assert not np.array_equal(state(clients["gean"]).residual, before), "what was not summed goes out later"
    close_all(clients)


def test_an_update_that_was_unmasked_is_never_sent_again(tmp_path):
    """All reveal, and the coordinator claims that it could form no sum: another list must not get the same update."""
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    unmask(coordinator, clients)
    residual = state(clients["alder"]).residual.copy()
    coordinator.open_round.unmasking = None
    for name, answer in coordinator.close().items():
        clients[name].apply(answer)
    assert np.array_equal(state(clients["alder"]).residual, residual)
    close_all(clients)


@pytest.mark.parametrize("asked", [True, False])
def test_an_update_without_a_sum_is_never_sent_again_whoever_the_answer_names(tmp_path, monkeypatch, asked):
    """Enough others may have revealed, asked or not: the coordinator may hold the unmasked sum."""
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    unmask(coordinator, clients, unsigned=() if asked else ("alder",))
    residual = state(clients["alder"]).residual.copy()
    falsify_answers(monkeypatch, survivors=(), aggregate=None, consensus=None)
    clients["alder"].apply(coordinator.close()["alder"])
    assert np.array_equal(state(clients["alder"]).residual, residual)
    close_all(clients)


def test_other_shares_than_were_opened_are_not_opened_too(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    for name, survivors in coordinator.fix_survivors().items():
        coordinator.receive(clients[name].sign_survivors(survivors))
    request = coordinator.unmask()["alder"]
    clients["alder"].reveal(request)
    clients["alder"].reveal(request)
    _, body = opened_by_hospital(clients["alder"], request)
    other = msgspec.structs.replace(body, blobs=body.blobs | {"birch": body.blobs["cedar"]})
    with pytest.raises(MessageError, match="revealed other shares"):
        clients["alder"].reveal(to_hospital(coordinator, "alder", other))
    close_all(clients)


@pytest.mark.parametrize("signature", [b"", b"short", bytes(3373), bytes(20_000)])
def test_a_false_signature_is_refused_on_arrival_and_the_true_one_still_counts(tmp_path, signature):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    lists = coordinator.fix_survivors()
    false = to_coordinator(clients["alder"], Agreement(signature=signature))
    with pytest.raises(MessageError, match="signature of 'alder'"):
        coordinator.receive(false)
    for name, survivors in lists.items():
        coordinator.receive(clients[name].sign_survivors(survivors))
    assert set(coordinator.unmask()) == set(SEVEN)
    close_all(clients)


def test_masks_and_similarity_exclude_each_other_unless_accepted():
    """Sketches of compared updates would show, to whoever has a hospital's key, what masks hide."""
    with pytest.raises(ConfigError, match="beside_masks"):
        masked(similarity={"every": 1})
    assert masked(similarity={"every": 1, "beside_masks": True}).masked


def test_a_second_folder_in_one_run_is_refused(tmp_path):
    """Its masks and tags would be the first folder's."""
    coordinator, clients = parties(masked(), tmp_path)
    invitations = contribute(coordinator, clients)
    sent = clients["alder"].state.pending.message
    keyring = clients["alder"].session.keyring
    close_all(clients)

    def again(folder):
        options = {"device": "cpu", "simulation": Simulation(), "ledgers": tmp_path / "ledgers"}
        return Client(masked(), "alder", MODEL, rows_of("alder"), keyring, folder, **options)

    other = again(tmp_path / "new")
    with pytest.raises(MessageError, match="took part from another folder"):
        other.contribute(invitations["alder"])
    assert other.session.run == b"" and other.round == 0
    other.close()
    back = again(tmp_path / "alder")
    assert back.contribute(invitations["alder"]) == sent
    back.close()


def test_the_same_keys_serve_another_run_and_no_message_of_the_first_is_taken_in_it(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    exchange(coordinator, clients)
    old = coordinator.invite()["birch"]
    keyrings = {name: client.session.keyring for name, client in clients.items()}
    close_all(clients)
    again = Coordinator(
        masked(),
        coordinator.identity,
        coordinator.hospitals,
        key_commitment=keyrings["alder"].federation_key.commitment,
    )
    options = {"device": "cpu", "simulation": Simulation(), "ledgers": tmp_path / "ledgers"}
    clients = {
        name: Client(masked(), name, MODEL, rows_of(name), keyring, tmp_path / "2" / name, **options)
        for name, keyring in keyrings.items()
    }
    exchange(again, clients)
    assert all(client.round == 1 for client in clients.values())
    with pytest.raises(MessageError, match="run"):
        clients["birch"].contribute(old)
    close_all(clients)


def test_an_invitation_to_another_attempt_is_refused(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    _, body = opened_by_hospital(clients["alder"], coordinator.invite()["alder"])
    later = to_hospital(coordinator, "alder", body, attempt=1)
    with pytest.raises(MessageError, match="attempt 1"):
        clients["alder"].contribute(later)
    close_all(clients)


def test_an_answer_for_other_survivors_than_were_signed_is_refused(tmp_path, monkeypatch):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    unmask(coordinator, clients)
    falsify_answers(monkeypatch, survivors=SEVEN[:-1])
    with pytest.raises(MessageError, match="does not fit"):
        clients["alder"].apply(coordinator.close()["alder"])
    close_all(clients)


def test_a_sum_that_was_not_unmasked_fails_its_check(tmp_path, monkeypatch):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    unmask(coordinator, clients)
    monkeypatch.setattr(Unmasking, "total_mask", lambda self, count, modulus: np.zeros(count, dtype=np.uint64))
    with pytest.raises(AggregateError, match="failed its check"):
        clients["alder"].apply(coordinator.close()["alder"])
    close_all(clients)


def test_too_few_survivors_are_not_asked_to_sign(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients, absent=SEVEN[4:])
    assert coordinator.fix_survivors() == {}
    assert coordinator.unmask() == {}
    assert {name: len(answer) > 0 for name, answer in coordinator.close().items()} == dict.fromkeys(SEVEN, True)
    close_all(clients)


def test_steps_out_of_order_are_refused(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    coordinator.invite()
    with pytest.raises(MessageError, match="takes CONTRIBUTION"):
        coordinator.unmask()
    coordinator.fix_survivors()
    assert coordinator.invite() == {}, "contributions are over"
    close_all(clients)
    plain, others = parties(masked(encryption={}), tmp_path / "open")
    plain.invite()
    with pytest.raises(ConfigError, match="not masked"):
        plain.fix_survivors()
    close_all(others)


def test_a_hospital_without_pair_secrets_cannot_take_part(tmp_path):
    from dataclasses import replace

    from parties import MODEL, rows_of

    from securepfl.client.client import Client
    from securepfl.client.run_kind import Simulation
    from securepfl.runtime.local import local_parties

    federation = masked()
    keyrings, _ = local_parties(federation)
    lone = replace(keyrings["alder"], pair_secrets={"alder": bytes(32)})
    with pytest.raises(ConfigError, match="no pair secret with birch, cedar"):
        Client(federation, "alder", MODEL, rows_of("alder"), lone, tmp_path, device="cpu", simulation=Simulation())


def test_the_masks_bytes_stay_within_the_bound_of_a_message(tmp_path):
    federation = masked()
    coordinator, clients = parties(federation, tmp_path)
    invitations = contribute(coordinator, clients)
    largest = max(len(state(client).pending.message) for client in clients.values())
    requests = []
    for name, survivors in coordinator.fix_survivors().items():
        coordinator.receive(clients[name].sign_survivors(survivors))
    requests = coordinator.unmask()
    assert max(largest, *map(len, requests.values()), *map(len, invitations.values())) <= Layouts.of(
        federation
    ).most_bytes(federation)
    close_all(clients)


def test_another_hospitals_list_is_not_taken(tmp_path):
    """Only the coordinator's signature makes a list."""
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    body = Survivors(survivors=SEVEN, salt=coordinator.open_round.salt)
    forged = to_hospital(coordinator, "alder", body, signer=clients["birch"].session.keyring.identity)
    with pytest.raises(MessageError, match="unknown sender"):
        clients["alder"].sign_survivors(forged)
    close_all(clients)
