"""Masked rounds: sums as exact as without masks, whoever vanishes, and nothing revealed that should not be."""

import itertools

import msgspec
import numpy as np
import pytest
from masked_rounds import SEVEN, chi_square, contribute, unmask
from parties import close_all, federation_of, parties

from securepfl.coordinator.coordinator import Coordinator
from securepfl.crypto.masks.graph import threshold
from securepfl.crypto.messages.envelope import Kind, open_message, seal_message
from securepfl.crypto.sums.uniform import uniform_words
from securepfl.crypto.sums.words import add, subtract
from securepfl.errors import AggregateError, ConfigError, MessageError
from securepfl.protocol.channels import Layouts
from securepfl.protocol.messages import Agreement, Answer, Contribution, Invitation, Survivors, Unmask, decode, encode
from securepfl.randomness import derive_key


def masked(names=SEVEN, **tables):
    defaults = {"encryption": {"masking": "pairwise"}, "coupling": {"strength": 0.0}, "similarity": {"every": 0}}
    return federation_of(names=names, **(defaults | tables))


def state(client):
    return client.state


def sums(coordinator, clients, answers):
    """What the sum gave every hospital, beside the exact mean of what was sent."""
    body = decode(clients["alder"]._open(answers["alder"], Kind.ANSWER)[1], Answer)
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
            contribute(coordinator, clients)
            if federation.masked:
                unmask(coordinator, clients)
            for name, answer in coordinator.close().items():
                clients[name].apply(answer)
        ends.append({name: state(client).shared for name, client in clients.items()})
        close_all(clients)
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in SEVEN)


def test_masks_add_no_byte_to_the_encrypted_update(tmp_path):
    lengths = []
    for federation, folder in ((masked(), "masked"), (masked(encryption={}), "open")):
        coordinator, clients = parties(federation, tmp_path / folder)
        message = clients["alder"].contribute(coordinator.invite()["alder"])
        lengths.append(len(body_of(coordinator, message).update))
        close_all(clients)
    assert lengths[0] == lengths[1]


def body_of(coordinator, message, kind=Kind.CONTRIBUTION, form=Contribution):
    opened = open_message(
        message,
        coordinator.identity,
        coordinator.hospitals,
        kinds=(kind,),
        federation_digest=coordinator.rules.session,
        round=coordinator.open_round.number,
        max_bytes=10**7,
    )
    return decode(opened[1], form)


def decrypted(client, update):
    """The slots of one hospital's update, as whoever holds the federation key decrypts them."""
    channel = client._channels["update"]
    from securepfl.crypto.sums.scheme import find_scheme

    aggregate = find_scheme("bfv").total(channel.layout)
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
        bodies[name] = body_of(coordinator, message).update
        coordinator.receive(message)
    t = colluder._channels["update"].layout.parameters.plain_modulus
    seen = {name: decrypted(colluder, bodies[name]) for name in SEVEN[1:]}
    header, _ = colluder._open(invitations["alder"], Kind.INVITATION)
    context = colluder._context("update", header)
    stripped = {name: without_shared_masks(colluder, slots, name, context, t) for name, slots in seen.items()}
    # 15 degrees of freedom: 60 has chance 2e-7. A grid of levels around the middle is far from it.
    for slots in (*seen.values(), *stripped.values()):
        assert chi_square(slots, t) < 60
    for one, other in itertools.combinations(stripped.values(), 2):
        assert chi_square(subtract(one, other, t), t) < 60
    close_all(clients)


def without_shared_masks(colluder, slots, name, context, modulus):
    from securepfl.crypto.masks.edges import pair_mask_secret, secret_to_bytes

    index, other = colluder.federation.roster.index("alder"), colluder.federation.roster.index(name)
    graph = colluder._masks.masking.graph(context)
    if other not in graph[index]:
        return slots
    secret = pair_mask_secret(colluder._keyring.pair_secrets[name], index, other, context)
    words = uniform_words(derive_key(secret_to_bytes(secret), "mask words 1", context.hex()), slots.size, modulus)
    return add(slots, words, modulus) if other > index else subtract(slots, words, modulus)


def test_without_masks_the_same_look_finds_the_update(tmp_path):
    federation = masked(encryption={}, sparsity={"density": 1.0})
    coordinator, clients = parties(federation, tmp_path)
    message = clients["birch"].contribute(coordinator.invite()["birch"])
    slots = decrypted(clients["alder"], body_of(coordinator, message).update)
    layout = clients["alder"]._channels["update"].layout
    assert chi_square(slots[: layout.value_slots], layout.parameters.plain_modulus) > 100
    close_all(clients)


def survivors_message(coordinator, names, listed):
    body = encode(Survivors(survivors=listed, salt=coordinator.open_round.salt))
    return {name: coordinator._seal(Kind.SURVIVORS, name, body) for name in names}


def test_masks_do_not_come_again_where_hospitals_start_over_under_the_same_keys(tmp_path):
    """New folders and ledgers, or copies of old ones: only the coordinator could make masks repeat, with its salts."""
    federation = masked()
    coordinator, clients = parties(federation, tmp_path)
    header, invitation = opened(clients["birch"], coordinator.invite()["birch"], Kind.INVITATION, Invitation)
    coordinator.close()
    again = Coordinator(
        federation,
        coordinator.identity,
        coordinator.hospitals,
        key_commitment=clients["birch"].session.keyring.federation_key.commitment,
    )
    _, second = opened(clients["birch"], again.invite()["birch"], Kind.INVITATION, Invitation)
    client = clients["birch"]
    one, two = (
        set(client._masks.masker._secrets(client._mask_context(header, body.salt)).values())
        for body in (invitation, second)
    )
    assert len(one) == len(two) == len(SEVEN) and not one & two
    close_all(clients)


def opened(client, message, kind, body):
    header, data = client._open(message, kind)
    return header, decode(data, body)


def test_another_salt_than_the_invitations_is_refused(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    body = encode(Survivors(survivors=SEVEN, salt=bytes(16)))
    with pytest.raises(MessageError, match="salt"):
        clients["alder"].sign_survivors(coordinator._seal(Kind.SURVIVORS, "alder", body))
    body = encode(Survivors(survivors=SEVEN, salt=b""))
    with pytest.raises(MessageError, match="salt"):
        clients["alder"].sign_survivors(coordinator._seal(Kind.SURVIVORS, "alder", body))
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
    from securepfl.client.state import ClientState

    stored = ClientState.load(clients["alder"]._path, coordinator.federation.digest.hex())
    assert stored.pending.agreed == SEVEN
    close_all(clients)


def test_a_split_view_gets_no_reveal_from_either_side(tmp_path):
    """The coordinator shows two lists to two groups: neither has signatures enough."""
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    coordinator.fix_survivors()
    one = survivors_message(coordinator, SEVEN[:4], SEVEN)
    other = survivors_message(coordinator, SEVEN[4:], SEVEN[:-1])
    for name, message in (one | other).items():
        body = body_of(coordinator, clients[name].sign_survivors(message), Kind.AGREEMENT, Agreement)
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
    request = coordinator._seal(Kind.UNMASK, "alder", encode(Unmask(signatures={}, blobs={})))
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
    with pytest.raises(MessageError, match="CONTRIBUTION where AGREEMENT"):
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
def test_an_update_without_a_sum_is_never_sent_again_whoever_the_answer_names(tmp_path, asked):
    """Enough others may have revealed, asked or not: the coordinator may hold the unmasked sum."""
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    unmask(coordinator, clients, unsigned=() if asked else ("alder",))
    residual = state(clients["alder"]).residual.copy()
    honest = coordinator._answer
    coordinator._answer = lambda *arguments: msgspec.structs.replace(
        honest(*arguments), survivors=(), aggregate=None, consensus=None
    )
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
    body = decode(clients["alder"]._open(request, Kind.UNMASK)[1], Unmask)
    other = msgspec.structs.replace(body, blobs=body.blobs | {"birch": body.blobs["cedar"]})
    with pytest.raises(MessageError, match="revealed other shares"):
        clients["alder"].reveal(coordinator._seal(Kind.UNMASK, "alder", encode(other)))
    close_all(clients)


@pytest.mark.parametrize("signature", [b"", b"short", bytes(3373), bytes(20_000)])
def test_a_false_signature_is_refused_on_arrival_and_the_true_one_still_counts(tmp_path, signature):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    lists = coordinator.fix_survivors()
    header, _ = clients["alder"]._open(lists["alder"], Kind.SURVIVORS)
    false = clients["alder"]._seal(header, Kind.AGREEMENT, encode(Agreement(signature=signature)))
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


def test_a_second_run_under_the_same_keys_is_refused(tmp_path):
    """Its masks and tags would be the first run's."""
    from parties import MODEL, rows_of

    from securepfl.client.client import Client
    from securepfl.client.run_kind import Simulation
    from securepfl.errors import LedgerError

    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    keyring, ledger = clients["alder"].session.keyring, tmp_path / "alder" / "ledger.jsonl"
    close_all(clients)

    def again(folder):
        options = {"device": "cpu", "simulation": Simulation(), "ledger": ledger}
        return Client(masked(), "alder", MODEL, rows_of("alder"), keyring, folder, **options)

    with pytest.raises(LedgerError, match="rotate the keys"):
        again(tmp_path / "new")
    again(tmp_path / "alder").close()


def test_an_invitation_to_another_attempt_is_refused(tmp_path):
    from dataclasses import replace

    coordinator, clients = parties(masked(), tmp_path)
    invitation, keyring = coordinator.invite()["alder"], clients["alder"].session.keyring
    header, body = clients["alder"]._open(invitation, Kind.INVITATION)
    later = seal_message(replace(header, attempt=1), body, coordinator.identity, keyring.identity.public)
    with pytest.raises(MessageError, match="attempt 1"):
        clients["alder"].contribute(later)
    close_all(clients)


def test_an_answer_for_other_survivors_than_were_signed_is_refused(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    unmask(coordinator, clients)
    honest = coordinator._answer
    coordinator._answer = lambda *arguments: msgspec.structs.replace(honest(*arguments), survivors=SEVEN[:-1])
    with pytest.raises(MessageError, match="does not fit"):
        clients["alder"].apply(coordinator.close()["alder"])
    close_all(clients)


def test_a_sum_that_was_not_unmasked_fails_its_check(tmp_path):
    coordinator, clients = parties(masked(), tmp_path)
    contribute(coordinator, clients)
    unmask(coordinator, clients)
    coordinator._total_mask = lambda unmasking: np.zeros(coordinator._layouts.update.slots, dtype=np.uint64)
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
    with pytest.raises(MessageError, match="takes AGREEMENT"):
        coordinator.fix_survivors()
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
    message = survivors_message(coordinator, ["alder"], SEVEN)["alder"]
    header, body = clients["alder"]._open(message, Kind.SURVIVORS)
    from dataclasses import replace

    other = clients["birch"].session.keyring.identity
    forged = seal_message(
        replace(header, sender=other.public.fingerprint), body, other, clients["alder"].session.keyring.identity.public
    )
    with pytest.raises(MessageError, match="unknown sender"):
        clients["alder"].sign_survivors(forged)
    close_all(clients)
