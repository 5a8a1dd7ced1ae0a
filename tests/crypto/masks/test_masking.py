"""Pairwise masks: exact sums for any dropouts, nothing for a coordinator with a hospital, nothing before agreement."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.masks import edges as module
from securepfl.crypto.masks.agreement import SIGNATURE_CONTEXT, check_agreement, survivor_statement
from securepfl.crypto.masks.edges import ABSENT, add_masks, edges_to_reveal, pair_mask_secret, pieces
from securepfl.crypto.masks.graph import Masking, default_degree, mask_graph, threshold
from securepfl.crypto.masks.masking import PairwiseMasker
from securepfl.crypto.masks.shamir import PRIME
from securepfl.crypto.masks.shares import seal_shares
from securepfl.crypto.masks.unmasking import Unmasking
from securepfl.errors import MessageError
from securepfl.randomness import fresh_key

IDENTITIES = [Identity.generate(f"hospital {index}") for index in range(9)]
CONTEXT = b"federation, round 3, attempt 0"
MODULUS = 2**37 - 25


class Round:
    """All parties of one masked sum."""

    def __init__(self, clients, degree, inputs=None, modulus=MODULUS, context=CONTEXT):
        self.masking = Masking(clients, degree)
        self.modulus, self.context = modulus, context
        self.pairs = {(i, j): fresh_key() for i in range(clients) for j in range(i, clients)}
        self.maskers = [PairwiseMasker(index, self.secrets_of(index), self.masking) for index in range(clients)]
        self.roster = [identity.public for identity in IDENTITIES[:clients]]
        inputs = np.zeros((clients, 4), dtype=np.uint64) if inputs is None else inputs
        self.inputs = inputs
        self.sent = [one.mask(row, modulus, context) for one, row in zip(self.maskers, inputs, strict=True)]

    def secrets_of(self, index):
        return {other: self.pairs[min(index, other), max(index, other)] for other in range(self.masking.clients)}

    def sign(self, survivors, signers):
        statement = survivor_statement(self.masking, self.context, survivors)
        return {index: IDENTITIES[index].sign(statement, SIGNATURE_CONTEXT) for index in signers}

    def blobs(self, receiver, senders):
        return {sender: self.sent[sender].blobs[receiver] for sender in senders}

    def reveal(self, index, survivors, signatures):
        blobs = self.blobs(index, survivors)
        return self.maskers[index].reveal(self.context, survivors, signatures, self.roster, blobs)

    def unmasking(self, survivors):
        commitments = {index: self.sent[index].commitments for index in survivors}
        return Unmasking(self.masking, self.context, survivors, commitments)

    def total(self, survivors, part="slots"):
        rows = [self.sent[index].slots if part == "slots" else self.inputs[index] for index in survivors]
        return np.array([sum(column) % self.modulus for column in zip(*(row.tolist() for row in rows), strict=True)])

    def unmask(self, survivors, revealers):
        unmasking, signatures = self.unmasking(survivors), self.sign(survivors, revealers)
        for index in revealers:
            unmasking.add(index, self.reveal(index, survivors, signatures))
        mask = unmasking.total_mask(self.inputs.shape[1], self.modulus)
        return (self.total(survivors) - mask.astype(object)) % self.modulus


@pytest.fixture(scope="module")
def five():
    return Round(5, 4)


@given(st.integers(3, 9), st.sampled_from([2, 3, 2**16, MODULUS, 2**60]), st.data())
@settings(max_examples=40, deadline=None)
def test_sums_are_exact_whoever_drops_before_and_after_contributing_or_withholds_reveals(clients, modulus, data):
    degree = data.draw(st.integers(2, clients))
    masking = Masking(clients, degree)
    residues = st.one_of(st.just(modulus - 1), st.integers(0, modulus - 1))
    rows = data.draw(st.lists(st.lists(residues, min_size=3, max_size=3), min_size=clients, max_size=clients))
    everyone = st.sets(st.integers(0, clients - 1), min_size=masking.threshold)
    survivors = data.draw(everyone.filter(lambda found: len(found) >= masking.least_survivors))
    # Survivors may vanish and clients that missed the deadline may reveal: only the number counts.
    revealers = data.draw(everyone)
    one = Round(clients, degree, np.array(rows, dtype=np.uint64), modulus)
    assert (one.unmask(survivors, revealers) == one.total(survivors, "inputs")).all()


def test_sums_are_exact_across_chunks_and_with_more_masks_than_64_bits_hold():
    inputs = np.random.default_rng(0).integers(0, 2**60, (9, 40_000)).astype(np.uint64)
    one = Round(9, 8, inputs, 2**60)
    survivors = [0, 2, 3, 4, 5, 7, 8]
    assert (one.unmask(survivors, survivors) == one.total(survivors, "inputs")).all()


@pytest.mark.parametrize("modulus", [3, MODULUS, 2**59 + 1, 2**60 - 93, 2**60])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_number_of_the_largest_masks_overflows(monkeypatch, modulus, sign):
    word = modulus - 1 if sign > 0 else 0  # a subtracted 0 adds the whole modulus
    monkeypatch.setattr(module, "uniform_chunks", lambda _key, count, _modulus: [np.full(count, word, np.uint64)])
    masks = {(50, 50 + sign * (1 + index)): index for index in range(40)}
    total = add_masks(np.array([modulus - 1], dtype=np.uint64), masks, modulus, CONTEXT)
    assert total.tolist() == [(modulus - 1 + sign * 40 * word) % modulus]


def test_a_second_masking_under_the_same_context_has_another_self_mask(five):
    again = five.maskers[0].mask(five.inputs[0], MODULUS, CONTEXT)
    assert (again.slots != five.sent[0].slots).all()


# What a coordinator with one hospital sees.


def uniformity(residues):
    cells = (residues * np.uint64(16) // np.uint64(MODULUS)).astype(int)
    return chisquare(np.bincount(cells, minlength=16)).pvalue


def without(one, index, edges, self_mask=None):
    """The slots of `index` less its masks with those in `edges`, and less its self-mask where that is known."""
    masks = {} if self_mask is None else {(index, index): self_mask}
    for other in edges:
        pair = one.pairs[min(index, other), max(index, other)]
        masks[index, other] = pair_mask_secret(pair, index, other, CONTEXT)
    mask = add_masks(np.zeros(one.inputs.shape[1], dtype=np.uint64), masks, MODULUS, CONTEXT)
    return (one.sent[index].slots + np.uint64(MODULUS) - mask) % np.uint64(MODULUS)


@pytest.mark.parametrize("degree", [3, 4, 7])
def test_a_coordinator_with_one_hospital_sees_only_the_sum_of_the_others(degree):
    inputs = np.repeat(np.arange(1, 9, dtype=np.uint64)[:, None] * np.uint64(10**6), 20_000, axis=1)
    one = Round(8, degree, inputs)
    colluder, dropped = 3, {6}
    survivors = [index for index in range(8) if index not in dropped]
    honest = [index for index in survivors if index != colluder]
    unmasking, signatures = one.unmasking(survivors), one.sign(survivors, survivors)
    for index in survivors:
        unmasking.add(index, one.reveal(index, survivors, signatures))
    revealed = unmasking.reconstruct()
    graph = one.masking.graph(CONTEXT)
    # The colluder knows its own edges, and everybody those to the dropped: the reveals hold no other.
    assert {edge for edge in revealed if edge[0] != edge[1]} == {(i, j) for i in survivors for j in graph[i] & dropped}
    known = {colluder, *dropped}
    residues = {index: without(one, index, graph[index] & known, revealed[index, index]) for index in honest}
    for size in range(1, len(honest)):
        for some in combinations(honest, size):
            assert uniformity(sum(residues[index] for index in some) % np.uint64(MODULUS)) > 1e-9
    assert set(sum(residues.values()) % np.uint64(MODULUS)) == {sum(10**6 * (index + 1) for index in honest)}
    # Were the masks between honest hospitals left out, this is what would be seen, and the test above would fail.
    for index in honest:
        bare = without(one, index, graph[index], revealed[index, index])
        assert uniformity(bare) < 1e-9
        assert set(bare) == {10**6 * (index + 1)}


def test_a_contribution_that_nobody_unmasks_stays_uniform_to_all_its_neighbours_together():
    one = Round(3, 2, np.zeros((3, 20_000), dtype=np.uint64))
    assert uniformity(without(one, 0, {1, 2})) > 1e-9


# Agreement.


def test_a_hospital_reveals_for_no_list_but_the_one_it_signed():
    one = Round(7, 6)
    first, second = [0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5]
    assert survivor_statement(one.masking, CONTEXT, first) != survivor_statement(one.masking, CONTEXT, second)
    one.reveal(0, first, one.sign(first, range(5)))
    for signatures in (one.sign(second, [1, 2, 3, 4, 5]), one.sign(second, [1, 2, 3, 4, 5]) | one.sign(first, [0])):
        with pytest.raises(MessageError, match="has not signed this survivor list"):
            one.reveal(0, second, signatures)


def test_statements_bind_context_settings_and_list_and_not_its_order():
    masking = Masking(5, 4)
    base = survivor_statement(masking, b"context", [0, 1, 2, 3])
    assert survivor_statement(masking, b"context", {3, 2, 1, 0}) == base
    others = [
        survivor_statement(masking, b"contexu", [0, 1, 2, 3]),
        survivor_statement(masking, b"\0\0\0\4context", [0, 1, 2, 3]),
        survivor_statement(masking, b"context", [0, 1, 2, 4]),
        survivor_statement(masking, b"context", [0, 1, 2, 3, 4]),
        survivor_statement(Masking(5, 3), b"context", [0, 1, 2, 3]),
        survivor_statement(Masking(6, 5), b"context", [0, 1, 2, 3, 4]),
    ]
    assert len({base, *others}) == 7


def test_too_few_valid_signatures_reveal_nothing(five):
    survivors = range(5)
    good = five.sign(survivors, [0, 1, 2, 3])
    assert check_agreement(five.masking, CONTEXT, survivors, good, five.roster) == {0, 1, 2, 3}
    three = {index: good[index] for index in (0, 1, 2)}
    forged = [
        three,
        three | {3: good[2]},  # one hospital twice
        three | {9: good[3], 3: b""},  # nobody of the roster
        three | {3: good[3][:-1]},
        three | five.sign([0, 1, 2, 3], [3]),  # another list
        three | {3: IDENTITIES[3].sign(survivor_statement(five.masking, b"x", survivors), SIGNATURE_CONTEXT)},
        three | {3: IDENTITIES[3].sign(survivor_statement(five.masking, CONTEXT, survivors), b"envelope")},
        {},
    ]
    for signatures in forged:
        with pytest.raises(MessageError, match="4 are needed; nothing was revealed") as caught:
            five.reveal(0, survivors, signatures)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="roster must have 5"):
        check_agreement(five.masking, CONTEXT, survivors, good, five.roster[:4])


@pytest.mark.parametrize("survivors", [[0, 1, 2], [], [0, 1, 2, 2], [0, 1, 2, 5], [-1, 0, 1, 2]])
def test_lists_too_short_or_impossible_are_neither_signed_nor_used(five, survivors):
    with pytest.raises(MessageError, match="surviv"):
        survivor_statement(five.masking, CONTEXT, survivors)
    with pytest.raises(MessageError, match="surviv"):
        five.maskers[0].reveal(CONTEXT, survivors, {}, five.roster, {})
    with pytest.raises(MessageError, match="surviv"):
        Unmasking(five.masking, CONTEXT, survivors, {})


def test_two_agreed_lists_have_an_honest_signer_in_common_while_a_third_colludes():
    for clients in range(3, 200):
        assert threshold(clients) <= clients
        assert 2 * threshold(clients) - clients > (clients - 1) // 3


def test_fewer_than_degree_are_ever_taken_away_with_one_colluder():
    for clients in range(3, 120):
        for degree in {2, 3, default_degree(clients), clients}:
            masking = Masking(clients, degree)
            assert threshold(clients) <= masking.least_survivors <= clients
            assert clients - masking.least_survivors + 1 < degree


# False messages.


def check_absent(one, blobs, sender):
    """Client 0 reveals what it would, but for the shares that `sender` sealed so that they do not open."""
    survivors = list(range(5))
    signatures = one.sign(survivors, survivors)
    whole = pieces(one.reveal(0, survivors, signatures))
    found = pieces(one.maskers[0].reveal(CONTEXT, survivors, signatures, one.roster, blobs))
    edges = edges_to_reveal(one.masking.graph(CONTEXT), survivors)
    assert found == [ABSENT if edge[0] == sender else share for edge, share in zip(edges, whole, strict=True)]
    assert ABSENT in found


@pytest.mark.parametrize("change", ["alter", "shorten", "lengthen", "remove", "other receiver", "other context"])
def test_a_blob_that_does_not_open_costs_its_senders_shares_alone(five, change):
    blobs = five.blobs(0, list(range(5)))
    blob = blobs.pop(2)
    other = five.maskers[2].mask(five.inputs[2], MODULUS, b"round 4").blobs[0]
    changed = {
        "alter": blob[:40] + bytes((blob[40] ^ 1,)) + blob[41:],
        "shorten": blob[:-1],
        "lengthen": blob + b"\0",
        "other receiver": five.sent[2].blobs[1],
        "other context": other,
    }
    if change != "remove":
        blobs[2] = changed[change]
    check_absent(five, blobs, 2)


def test_a_blob_returned_to_its_sender_does_not_open(five):
    # Both directions of a pair have their own keys: a blob of 0 for 2 is none of 2 for 0.
    check_absent(five, five.blobs(0, list(range(5))) | {2: five.sent[0].blobs[2]}, 2)


def test_a_blob_with_shares_out_of_range_is_its_senders_fault(five):
    sealed = seal_shares([PRIME] * 5, five.pairs[0, 2], 2, 0, CONTEXT)
    check_absent(five, five.blobs(0, list(range(5))) | {2: sealed}, 2)


@pytest.mark.parametrize("lost", [1, 2])
def test_shares_that_some_never_got_come_from_the_others_and_too_few_name_who_sealed_none(five, lost):
    """Client 2 sealed `lost` of the 5 others' blobs so that they do not open; 4 shares are needed."""
    survivors = list(range(5))
    signatures, unmasking = five.sign(survivors, survivors), five.unmasking(survivors)
    for index in survivors:
        blobs = five.blobs(index, survivors) | ({2: b""} if index < lost else {})
        reveal = five.maskers[index].reveal(CONTEXT, survivors, signatures, five.roster, blobs)
        unmasking.add(index, reveal)
    if lost == 1:
        mask = unmasking.total_mask(4, MODULUS)
        assert ((five.total(survivors) - mask.astype(object)) % MODULUS == 0).all()
        assert unmasking.dealt_falsely is None
    else:
        with pytest.raises(MessageError, match="clients 2 committed"):
            unmasking.total_mask(4, MODULUS)
        assert unmasking.dealt_falsely == 2


@pytest.mark.parametrize("liar", range(5))
def test_a_false_reveal_is_left_out_where_one_more_than_needed_revealed_and_else_refused(five, liar):
    survivors = list(range(5))
    signatures = five.sign(survivors, survivors)
    honest = [index for index in survivors if index != liar][:3]
    reveals = {index: five.reveal(index, survivors, signatures) for index in survivors}
    false = bytearray(reveals[liar])
    false[63] ^= 1  # of client 1's self-mask alone
    unmasking = five.unmasking(survivors)
    unmasking.add(liar, bytes(false))
    for index in honest:
        unmasking.add(index, reveals[index])
    with pytest.raises(MessageError, match="clients 1 committed"):
        unmasking.total_mask(4, MODULUS)
    assert unmasking.dealt_falsely is None, "a false reveal would look the same"
    unmasking.add(*next((index, reveals[index]) for index in survivors if index not in {liar, *honest}))
    mask = unmasking.total_mask(4, MODULUS)
    assert ((five.total(survivors) - mask.astype(object)) % MODULUS == 0).all()


def test_a_hospital_whose_shares_do_not_fit_its_commitments_is_named(five):
    survivors = list(range(5))
    commitments = {index: five.sent[index].commitments for index in survivors}
    commitments[3] = bytes(32) + commitments[3][32:]
    unmasking = Unmasking(five.masking, CONTEXT, survivors, commitments)
    for index in survivors:
        unmasking.add(index, five.reveal(index, survivors, five.sign(survivors, survivors)))
    with pytest.raises(MessageError, match="clients 3 committed"):
        unmasking.total_mask(4, MODULUS)
    assert unmasking.dealt_falsely == 3


def test_masks_that_would_not_cancel_show_before_anything_is_revealed():
    one = Round(5, 4)
    wrong = PairwiseMasker(1, one.secrets_of(1) | {3: fresh_key()}, one.masking)
    one.sent[1] = wrong.mask(one.inputs[1], MODULUS, CONTEXT)
    with pytest.raises(MessageError, match="clients 1 and 3 hold different pair secrets"):
        one.unmasking(range(5))


def test_reveals_and_commitments_of_a_wrong_form_are_refused(five):
    survivors = range(5)
    unmasking = five.unmasking(survivors)
    reveal = five.reveal(0, survivors, five.sign(survivors, survivors))
    for revealer, data in [
        (0, reveal[:-1]),
        (0, reveal + bytes(32)),
        (0, b""),
        (0, ABSENT * (len(reveal) // 32)),
        (0, b"\x7f" + b"\xff" * (len(reveal) - 1)),
        (5, reveal),
    ]:
        with pytest.raises(MessageError, match=f"client {revealer}"):
            unmasking.add(revealer, data)
    unmasking.add(0, reveal)
    with pytest.raises(MessageError, match="revealed already"):
        unmasking.add(0, reveal)
    assert not unmasking.ready
    with pytest.raises(MessageError, match="1 clients revealed, 4 are needed"):
        unmasking.total_mask(4, MODULUS)
    good = {index: five.sent[index].commitments for index in survivors}
    for bad in (good | {2: good[2] + b"\0"}, {index: good[index] for index in range(4)}):
        with pytest.raises(MessageError, match="commitments"):
            Unmasking(five.masking, CONTEXT, survivors, bad)


# The graph.


def connected(graph, members):
    reached, todo = set(), [min(members)]
    while todo:
        reached.add(at := todo.pop())
        todo += (graph[at] & members) - reached
    return reached == members


@pytest.mark.parametrize("clients", [3, 4, 5, 6, 7, 8, 15, 16, 31, 100])
def test_each_client_has_the_degree_and_one_client_one_more_where_both_are_odd(clients):
    for degree in {*range(2, min(clients, 20)), clients - 1, clients + 5} - {1}:
        graph = mask_graph(clients, degree, b"context")
        capped = min(degree, clients - 1)
        extra = clients % 2 and capped % 2
        assert sorted(map(len, graph)) == [capped] * (clients - 1) + [capped + extra]
        assert all(index not in graph[index] for index in range(clients))
        assert all(index in graph[other] for index in range(clients) for other in graph[index])


@pytest.mark.parametrize("clients", range(3, 9))
def test_the_rest_stays_connected_whichever_fewer_than_degree_are_taken_away(clients):
    for degree in range(2, clients):
        graph = mask_graph(clients, degree, b"context")
        for gone in combinations(range(clients), degree - 1):
            assert connected(graph, set(range(clients)) - set(gone)), (degree, gone)


@given(st.integers(9, 60), st.binary(max_size=8), st.data())
@settings(max_examples=100, deadline=None)
def test_larger_graphs_stay_connected_too(clients, context, data):
    degree = data.draw(st.integers(2, clients - 1))
    gone = data.draw(st.sets(st.integers(0, clients - 1), max_size=degree - 1))
    assert connected(mask_graph(clients, degree, context), set(range(clients)) - gone)


def test_the_graph_is_public_and_changes_with_the_context():
    assert mask_graph(20, 6, b"a") == mask_graph(20, 6, b"a") != mask_graph(20, 6, b"b")
    # Pinned: parties with different numpy versions must draw the same graph.
    ring = [sorted(neighbours) for neighbours in mask_graph(6, 2, b"pinned")]
    assert ring == [[1, 3], [0, 2], [1, 5], [0, 4], [3, 5], [2, 4]]


def test_degrees_by_default():
    assert [default_degree(clients) for clients in (3, 5, 8, 10, 16, 17, 100, 1000)] == [2, 4, 7, 9, 10, 12, 16, 22]


# Arguments and secrets.


def test_settings_and_arguments_out_of_range_are_refused(five):
    for clients, degree in [(2, 2), (0, 0), (5, 1), (5, -1)]:
        with pytest.raises(ValueError, match="at least"):
            Masking(clients, degree)
    good = five.secrets_of(0)
    for index, pairs in [(0, {0: good[0]}), (5, good), (0, good | {5: good[1]}), (0, good | {1: b"short"})]:
        with pytest.raises(ValueError, match="pair_secrets must"):
            PairwiseMasker(index, pairs, five.masking)
    for slots in (np.zeros(3), np.zeros((1, 3), dtype=np.uint64), np.array([MODULUS], dtype=np.uint64)):
        with pytest.raises(ValueError, match="slots must"):
            five.maskers[0].mask(slots, MODULUS, CONTEXT)
    for modulus in (1, 2**60 + 1):
        with pytest.raises(ValueError, match="modulus must"):
            five.maskers[0].mask(np.zeros(1, dtype=np.uint64), modulus, CONTEXT)
        with pytest.raises(ValueError, match="modulus must"):
            five.unmasking(range(5)).total_mask(1, modulus)


def test_masking_leaves_the_callers_slots_alone(five):
    slots = np.arange(4, dtype=np.uint64)
    five.maskers[0].mask(slots, MODULUS, b"another")
    assert slots.tolist() == [0, 1, 2, 3]


def test_no_secret_shows_in_a_repr_or_travels_in_clear(five):
    survivors = range(5)
    unmasking, revealed = five.unmasking(survivors), []
    for index in survivors:
        revealed.append(five.reveal(index, survivors, five.sign(survivors, survivors)))
        unmasking.add(index, revealed[-1])
    shares = [int.from_bytes(row[at : at + 32], "big") for row in revealed for at in range(0, len(row), 32)]
    assert len(shares) == 25
    values = [*unmasking.reconstruct().values(), *shares]
    values += [int.from_bytes(secret, "big") for secret in five.secrets_of(0).values()]
    shown = repr((five.maskers, unmasking, five.sent, five.masking))
    travels = b"".join(b"".join(sent.blobs) + sent.commitments for sent in five.sent)
    for value in values:
        raw = value.to_bytes(32, "big")
        assert str(value) not in shown
        assert repr(raw)[2:-1] not in shown
        assert raw.hex() not in shown
        assert raw not in travels
