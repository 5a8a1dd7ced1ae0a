"""One test for each cell of docs/threat-model.md's table: what a party's view holds after real rounds.

Five hospitals run four rounds, once with masks, once with similarity and coupling. A view is every message
a party opened and what its keys decrypt of it; the outside hospital's is what was released.
"""

from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from masked_rounds import chi_square
from parties import NAMES, channels_of, close_all, federation_of, parties, rows_of, start_of
from views import bytes_of, holds

from securepfl.client.comparing import compared_of
from securepfl.crypto.messages.envelope import Header, Kind, open_message
from securepfl.crypto.similarity.field import centred
from securepfl.crypto.similarity.product_wire import SketchUpload
from securepfl.crypto.similarity.scheme import Similarity
from securepfl.crypto.similarity.seal import SecretRing
from securepfl.crypto.sums.ring import stamp
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.protocol.channels import comparison_shape
from securepfl.protocol.messages import Answer, Contribution, decode
from securepfl.randomness import derive_key
from securepfl.report.who_learns_what import PARTIES, who_learns
from securepfl.settings.fixed import GATE

FIVE = (*NAMES, "elm")
ROUNDS = 4
WATCHED, CURIOUS = "alder", "birch"


def opened(message, party, senders, session, number):
    kind = Header.from_bytes(message).kind
    return open_message(
        message,
        party,
        senders,
        kinds=(kind,),
        federation_digest=session.base,
        run=session.run,
        round=number,
        max_bytes=10**7,
    )


def recorded(folder, masking):
    """The parties of a run, every body that the coordinator and the curious hospital opened, and what was sent."""
    federation = federation_of(
        names=FIVE,
        rounds=ROUNDS + 1,
        sparsity={"density": 1.0},
        privacy={"epsilon": 1e4, "budget": 1e5},
        encryption={"masking": masking},
        # An average over rounds; under alpha = 0 an expert is the last round's model, as the page says.
        trajectory={"of": "local", "alpha": 0.1},
        **({"similarity": {"every": 0}, "coupling": {"strength": 0.0}} if masking == "pairwise" else {}),
    )
    coordinator, clients = parties(federation, folder)
    run = SimpleNamespace(coordinator=coordinator, clients=clients, federation=federation, rounds=[])
    for _ in range(ROUNDS):
        run.rounds.append(one_round(coordinator, clients))
    return run


def one_round(coordinator, clients):
    seen = SimpleNamespace(number=coordinator.closed + 1, coordinator=[], curious=[], up={}, sent={}, personal={})
    seen.compared, seen.whole = {}, {}
    session, people = coordinator.rules, coordinator.hospitals

    def deliver(messages):
        for name, message in messages.items():
            if name == CURIOUS:
                keyring = clients[name].session.keyring
                seen.curious.append(opened(message, keyring.identity, [keyring.coordinator], session, seen.number)[1])
            if answer := clients[name].handle(message):
                header, body = opened(answer, coordinator.identity, people, session, seen.number)
                seen.coordinator.append(body)
                if header.kind == Kind.CONTRIBUTION:
                    seen.up[name] = decode(body, Contribution)
                coordinator.receive(answer)

    deliver(coordinator.invite())
    for name, client in clients.items():
        seen.sent[name] = client.state.pending.sent.copy()
        seen.personal[name] = client.state.personal.copy()
        seen.compared[name] = client.state.compared.copy()
        seen.whole[name] = compared_of(client.state, GATE)
    if coordinator.federation.masked:
        deliver(coordinator.fix_survivors())
        deliver(coordinator.unmask())
    seen.memory = bytes_of(coordinator)
    deliver(coordinator.close())
    seen.answer = decode(seen.curious[-1], Answer)
    return seen


@pytest.fixture(scope="module")
def masked(tmp_path_factory):
    run = recorded(tmp_path_factory.mktemp("masked"), "pairwise")
    yield run
    close_all(run.clients)


@pytest.fixture(scope="module")
def unmasked(tmp_path_factory):
    run = recorded(tmp_path_factory.mktemp("unmasked"), "none")
    yield run
    close_all(run.clients)


def coordinators_view(run):
    return b"|".join([*(body for seen in run.rounds for body in seen.coordinator), *(s.memory for s in run.rounds)])


def slots_of(run, update, kind="update"):
    """One ciphertext as whoever holds the federation key decrypts it."""
    channel = channels_of(run.clients[CURIOUS])[kind]
    aggregate = find_scheme("tenseal").total(channel.layout)
    aggregate.add(update)
    return channel.cipher.decrypt(aggregate.answer(), channel.layout)


def hospitals_view(run):
    """The curious hospital's bodies, and all that it decrypts of them."""
    client, parts = run.clients[CURIOUS], [body for seen in run.rounds for body in seen.curious]
    parts.append(bytes_of(client.state))
    return b"|".join(parts)


def vector_of(run, slots, kind="update"):
    """Values from one contribution's slots, ignoring the tag."""
    from securepfl.crypto.sums.packing import dequantise, unpack

    channel = channels_of(run.clients[CURIOUS])[kind]
    return dequantise(unpack(slots[: channel.layout.value_slots], channel.layout), channel.layout.bits, channel.limit)


def experts(run):
    return {name: client.release("personal")[0] for name, client in run.clients.items()}


def expert_bytes(run):
    models = experts(run).values()
    return b"|".join(p.detach().numpy().tobytes() for model in models for p in model.parameters())


def rows():
    return {name: rows_of(name).tensors[0].numpy() for name in FIVE}


# records


@pytest.mark.parametrize("view", ["coordinator", "another hospital", "both", "outside"])
def test_records_are_in_nobodys_view(unmasked, view):
    views = {
        "coordinator": coordinators_view(unmasked),
        "another hospital": hospitals_view(unmasked),
        "both": coordinators_view(unmasked) + hospitals_view(unmasked),
        "outside": expert_bytes(unmasked),
    }
    for name, table in rows().items():
        assert name == CURIOUS or not any(holds(views[view], row, size=16) for row in table)


# one hospital's shared update


def test_one_update_is_not_in_the_coordinators_view(unmasked):
    for seen in unmasked.rounds:
        for body, sent in ((seen.up[name].update, seen.sent[name]) for name in FIVE):
            assert not holds(coordinators_view(unmasked), sent)
            words = np.frombuffer(body[40:], dtype="<u8", count=(len(body) - 40) // 8)
            assert chi_square(words, 2**64) < 60


def test_one_update_is_not_in_another_hospitals_view(masked):
    for seen in masked.rounds:
        for name in set(FIVE) - {CURIOUS}:
            # Longer pieces: three small multiples of the grid's step also stand in the hospital's own update by chance.
            assert not holds(hospitals_view(masked), seen.sent[name], size=64)
            assert not np.allclose(aggregate_of(masked, seen), seen.sent[name], atol=1e-6)


def test_one_masked_update_is_noise_to_the_coordinator_with_a_hospitals_key(masked):
    t = channels_of(masked.clients[CURIOUS])["update"].layout.parameters.plain_modulus
    together = np.concatenate([slots_of(masked, seen.up[WATCHED].update) for seen in masked.rounds])
    assert chi_square(together, t) < 60
    for seen in masked.rounds:
        found = vector_of(masked, slots_of(masked, seen.up[WATCHED].update))
        assert abs(np.corrcoef(found[: seen.sent[WATCHED].size], seen.sent[WATCHED])[0, 1]) < 0.7


def test_one_unmasked_update_is_open_to_the_coordinator_with_a_hospitals_key(unmasked):
    """It is the hospital's DP release: what the table says is left."""
    for seen in unmasked.rounds:
        found = vector_of(unmasked, slots_of(unmasked, seen.up[WATCHED].update))
        np.testing.assert_allclose(found[: seen.sent[WATCHED].size], seen.sent[WATCHED], atol=1e-12)


def test_one_update_is_not_in_what_was_released(masked):
    for seen in masked.rounds:
        assert not holds(expert_bytes(masked), seen.sent[WATCHED])


# the sum of updates


def aggregate_of(run, seen):
    channel, client = channels_of(run.clients[CURIOUS])["update"], run.clients[CURIOUS]
    context = client.session.digest + f"update/{seen.number}/0".encode()
    return channel.mean(
        seen.answer.aggregate, dict.fromkeys(seen.answer.survivors, 1), context, seen.sent[WATCHED].size
    )


def test_the_sum_is_not_in_the_coordinators_view(masked):
    for seen in masked.rounds:
        assert not holds(coordinators_view(masked), np.mean(list(seen.sent.values()), axis=0))
    for client in masked.clients.values():
        key = client.session.keyring.federation_key
        assert not any(secret in coordinators_view(masked) for secret in (key.he_key[:64], key.root_key))


@pytest.mark.parametrize("with_coordinator", [False, True])
def test_the_sum_is_every_hospitals(masked, with_coordinator):
    for seen in masked.rounds:
        np.testing.assert_allclose(aggregate_of(masked, seen), np.mean(list(seen.sent.values()), axis=0), atol=1e-12)


def test_the_sum_is_not_in_what_was_released(masked):
    for seen in masked.rounds:
        assert not holds(expert_bytes(masked), np.mean(list(seen.sent.values()), axis=0))


# personal parameters


def test_personal_parameters_are_not_in_the_coordinators_view(unmasked):
    assert any(body.personal is not None for seen in unmasked.rounds for body in seen.up.values())
    for seen in unmasked.rounds:
        assert not any(holds(coordinators_view(unmasked), seen.personal[name]) for name in FIVE)


def test_another_hospital_sees_personal_parameters_in_sums_of_three_others_only(unmasked):
    client = unmasked.clients[CURIOUS]
    formed = [seen for seen in unmasked.rounds if seen.answer.neighbourhood is not None]
    assert formed
    for seen in formed:
        names = seen.answer.neighbours
        assert len(names) >= 3 and CURIOUS not in names
        context = client.session.digest + f"personal/{seen.number}/0".encode()
        channel = channels_of(client)["personal"]
        mean = channel.mean(seen.answer.neighbourhood, dict.fromkeys(names, 1), context, channel.layout.values)
        single = [seen.personal[name] - start_of(client) for name in names]
        np.testing.assert_allclose(mean, np.mean(single, axis=0), atol=2 * channel.limit / 1022)
        assert not any(np.allclose(mean, one, atol=1e-3) for one in single)


def test_personal_parameters_are_open_to_the_coordinator_with_a_hospitals_key(unmasked):
    """They are not masked; each is a DP release."""
    seen = next(seen for seen in unmasked.rounds if seen.up[WATCHED].personal is not None)
    found = vector_of(unmasked, slots_of(unmasked, seen.up[WATCHED].personal, "personal"), "personal")
    expected = seen.personal[WATCHED] - start_of(unmasked.clients[WATCHED])
    limit = channels_of(unmasked.clients[WATCHED])["personal"].limit
    np.testing.assert_allclose(found, expected, atol=2 * limit / 1022)


def test_personal_parameters_of_a_round_are_not_in_what_was_released(unmasked):
    """The released model is an average over rounds, and a release of its own."""
    for seen in unmasked.rounds:
        assert not holds(expert_bytes(unmasked), seen.personal[WATCHED])


# similarity


def cosines(seen):
    stacked = np.stack([seen.compared[name] for name in FIVE])
    unit = stacked / np.array([[seen.whole[name].signal.norm] for name in FIVE])  # without the known noise
    return unit @ unit.T


def test_the_coordinator_sees_of_similarity_only_which_neighbours_were_asked_for(unmasked):
    asked = [body.neighbours for seen in unmasked.rounds for body in seen.up.values() if body.neighbours]
    assert asked and all(len(names) >= 3 for names in asked)
    assert all(list(names) == sorted(names) and set(names.values()) == {1} for names in asked), "no ranking, no weights"
    sketches = [body.sketch for seen in unmasked.rounds for body in seen.up.values() if body.sketch is not None]
    octets = np.frombuffer(b"".join(sketches), dtype=np.uint8).astype(np.uint64)
    assert chi_square(octets, 256) < 60
    for seen in unmasked.rounds:
        assert not holds(coordinators_view(unmasked), seen.compared[WATCHED])


def test_another_hospital_sees_its_own_row_with_norms(unmasked):
    client, seen = unmasked.clients[CURIOUS], unmasked.rounds[2]
    # Under its own name stands what checks the row.
    assert set(seen.answer.products) == set(FIVE)
    index = FIVE.index(CURIOUS)
    row = [seen.compared[name] for name in FIVE if name != CURIOUS]
    last = unmasked.rounds[3]
    for other, cosine in client.similarity.items():
        assert abs(cosine - cosines(last)[index, FIVE.index(other)]) < 2e-2
        noise = sum(last.whole[name].noise.energy for name in (CURIOUS, other))
        apart = np.sqrt(max(0.0, np.sum((last.compared[CURIOUS] - last.compared[other]) ** 2) - noise))
        assert abs(client.distances[other] - apart) < 3e-2 * np.linalg.norm(last.compared[other])
    assert not any(holds(hospitals_view(unmasked), vector) for vector in row)


def test_the_coordinator_with_a_hospitals_key_sees_all_pairs_and_the_sketches(unmasked):
    seen, client = unmasked.rounds[2], unmasked.clients[CURIOUS]
    shape, key = comparison_shape(client.session.federation), client.session.key
    (modulus,) = shape.precision.moduli
    ring, sketch_key = SecretRing(key.similarity_he_key, modulus), derive_key(key.support_key, "sketch", seen.number)
    sketches = {}
    for name in FIVE:
        upload = SketchUpload.from_bytes(seen.up[name].sketch, shape, stamp())
        sketches[name] = centred(ring.decrypt(upload.lanes[0].value), modulus)[: shape.dimensions]
    rounding = derive_key(sketch_key, "sketch rounding", WATCHED)
    assert np.array_equal(sketches[WATCHED], seen.whole[WATCHED].sketch(shape, sketch_key, rounding))
    product = int(sketches[WATCHED] @ sketches["cedar"]) / shape.precision.norm**2
    pair = seen.whole[WATCHED].opened(Similarity(product, 1.0))
    assert abs(pair.cosine - cosines(seen)[FIVE.index(WATCHED), FIVE.index("cedar")]) < 2e-2


def test_similarity_is_not_in_what_was_released(unmasked):
    assert not holds(expert_bytes(unmasked), unmasked.rounds[-1].compared[WATCHED])
    records = [client.release("personal")[1] for client in unmasked.clients.values()]
    assert not any({"similarity", "distances", "neighbours"} & set(record) for record in records)


# sample counts


@pytest.mark.parametrize("view", ["coordinator", "another hospital", "both", "outside"])
def test_sample_counts_are_in_nobodys_view(tmp_path, monkeypatch, view):
    """Whatever the number of rows, every message has the same length and form, and the same numbers."""
    shapes = []
    for count in (40, 173):
        monkeypatch.setattr("parties.rows_of", lambda name, count=count: rows_of(name, count))
        coordinator, clients = parties(federation_of(names=FIVE), tmp_path / str(count))
        seen = one_round(coordinator, clients)
        assert (clients[WATCHED].units, clients[WATCHED].scan.found) == (40, count)
        bodies = {"coordinator": seen.coordinator, "another hospital": seen.curious}.get(
            view, seen.coordinator + seen.curious
        )
        bodies = (
            [msgspec.msgpack.encode(sorted(clients[WATCHED].release("personal")[1]))] if view == "outside" else bodies
        )
        shapes.append([form(msgspec.msgpack.decode(body)) for body in bodies])
        close_all(clients)
    assert shapes[0] == shapes[1]


def form(thing):
    """A body without what is random: lengths of bytes, names, every integer."""
    if isinstance(thing, bytes | bytearray):
        return len(thing)
    if isinstance(thing, dict):
        return {key: form(value) for key, value in thing.items()}
    if isinstance(thing, list):
        return [form(part) for part in thing]
    if isinstance(thing, str) and len(thing) == 64:
        return "hash"
    return thing


# released experts


def test_experts_are_not_in_the_coordinators_view(masked):
    for model in experts(masked).values():
        for parameter in model.parameters():
            assert not holds(coordinators_view(masked), parameter.detach().numpy().reshape(-1))


def test_another_hospitals_expert_is_not_in_a_hospitals_view(masked):
    for name, model in experts(masked).items():
        for parameter in model.parameters():
            vector = parameter.detach().numpy().reshape(-1)
            assert name == CURIOUS or not holds(hospitals_view(masked), vector)
            assert name == CURIOUS or not holds(coordinators_view(masked) + hospitals_view(masked), vector)


def test_the_coordinator_with_a_hospital_has_no_expert_without_a_release(masked):
    together = coordinators_view(masked) + hospitals_view(masked)
    model = masked.clients[WATCHED].personal_model()
    assert not any(holds(together, p.detach().numpy().reshape(-1)) for p in model.parameters())


def test_experts_are_released_with_an_audit_record(masked):
    model, record = masked.clients[WATCHED].release("personal")
    assert sum(p.numel() for p in model.parameters()) > 0
    assert record["epsilon"] > 0 and record["site"] == WATCHED and len(record["ledger_head"]) == 64


# the table that a run's page and its evidence show


def test_the_table_of_each_run_says_yes_where_its_views_show_it(masked, unmasked):
    """Found in the views above, and said by settings alone: both must agree."""
    for run in (masked, unmasked):
        told = {row.thing: dict(zip(PARTIES, row.cells, strict=True)) for row in who_learns(run.federation)}
        seen = run.rounds[-1]
        size, sent = seen.sent[WATCHED].size, seen.sent[WATCHED]
        found = {
            ("one hospital's shared update", "coordinator"): holds(coordinators_view(run), sent),
            ("one hospital's shared update", "another hospital"): holds(hospitals_view(run), sent, size=64),
            ("one hospital's shared update", "coordinator with one hospital"): np.allclose(
                vector_of(run, slots_of(run, seen.up[WATCHED].update))[:size], sent, atol=1e-9
            ),
            ("sum of updates", "coordinator"): holds(coordinators_view(run), np.mean(list(seen.sent.values()), axis=0)),
            ("sum of updates", "another hospital"): np.allclose(
                aggregate_of(run, seen), np.mean(list(seen.sent.values()), axis=0), atol=1e-9
            ),
            ("personal parameters", "coordinator with one hospital"): any(
                body.personal is not None for one in run.rounds for body in one.up.values()
            ),
            ("how alike hospitals are", "another hospital"): bool(run.clients[CURIOUS].similarity),
        }
        said = {(thing, party): told[thing][party].startswith(("yes", "its own row")) for thing, party in found}
        assert found == said
