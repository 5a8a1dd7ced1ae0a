"""What real clients draw in one round has nothing to do with what they draw in another: read from their own messages,
opened with the keys that hospitals and coordinator hold, over several rounds. Whatever part of it a client kept, shows.

Noise is so large that gradients do not show beside it. Two vectors of d independent numbers have a cosine of standard
deviation 1 / sqrt(d); six of those, for the largest of at most a thousand pairs, come by chance in one of 500,000 runs.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
import pytest
import torch
from forging import opened_by_coordinator, opened_by_hospital
from masked_rounds import SEVEN
from parties import NAMES, Carried, channels_of, close_all, parties, start_of
from torch import nn
from torch.utils.data import TensorDataset

from securepfl.client.round import Round
from securepfl.crypto.messages.envelope import Header, Kind
from securepfl.protocol.channels import SumChannel
from securepfl.protocol.rounds import drive
from securepfl.randomness import RandomStream, fresh_key
from securepfl.settings.federation import Federation
from securepfl.tasks.models import build_model

ROUNDS, LARGEST = 5, 7.0
WIDE = partial(build_model, "mlp", 6, hidden=200)
"""The first layer's weights are personal (1,200 values), the rest is shared (401)."""


def standing_out(one, other):
    """The cosine of two vectors, in standard deviations of what it would be by chance."""
    one, other = one.ravel().astype(np.float64), other.ravel().astype(np.float64)
    size = min(one.size, other.size)
    one, other = one[:size], other[:size]
    return abs(float(one @ other)) / np.linalg.norm(one) / np.linalg.norm(other) * np.sqrt(size)


def most_alike(drawn):
    """Of all pairs of vectors by name, (how far the most alike stand out, their names)."""
    pairs = itertools.combinations(drawn.items(), 2)
    return max((standing_out(one, other), first, second) for (first, one), (second, other) in pairs)


@dataclass
class Watched:
    """What each hospital drew in each round, by (what, hospital, round)."""

    clients: dict
    model: Callable[[], nn.Module]
    drawn: dict = field(default_factory=dict)

    def of(self, *kinds):
        return {name: vector for name, vector in self.drawn.items() if name[0] in kinds}

    def one_round(self, coordinator):
        before = {name: client.state for name, client in self.clients.items()}
        contexts = {}

        def read(name, reply):
            if reply and Header.from_bytes(reply).kind == Kind.CONTRIBUTION:
                self._read(name, before[name], opened_by_coordinator(coordinator, reply), contexts[name])
            return reply

        carried = Carried(self.clients, swap=read)
        ask = carried.ask

        def noting(name, message):
            if Header.from_bytes(message).kind == Kind.INVITATION:
                contexts[name] = opened_by_hospital(self.clients[name], message)[0].contexts
            return ask(name, message)

        carried.ask = noting
        assert drive(coordinator, carried) == ()

    def _read(self, name, before, body, contexts):
        client, number = self.clients[name], before.round + 1
        after, channels = client.state, channels_of(client)
        pending = after.pending
        update = opened(client, channels["update"], body.update, name, contexts["update"], before.shared.size)
        self.drawn["shared noise", name, number] = before.shared - pending.local_shared
        self.drawn["personal noise", name, number] = before.personal - pending.personal
        self.drawn["update", name, number] = update
        trained = before.residual + (before.shared - pending.local_shared)
        self.drawn["update rounding", name, number] = update - trained
        if body.personal is not None:
            held = pending.personal - start_of(client, self.model)
            sent = opened(client, channels["personal"], body.personal, name, contexts["personal"], held.size)
            self.drawn["personal rounding", name, number] = sent - held


def opened(client, channel, contribution, name, context, count):
    """The values of one contribution, as any hospital's key opens them."""
    scheme = client.federation.scheme_of("update" if channel.limit < 1 else "personal")
    total = scheme.total(channel.layout)
    total.add(contribution)
    return channel.mean(total.answer(), {name: 1}, context, count)


def watched(folder, noise_key=None, **tables):
    defaults = {
        "rounds": ROUNDS,
        "model": {"hidden": 200, "personal": ["body.weight"]},
        "privacy": {"epsilon": 0.05},
        "training": {"learning_rate": 0.002},
        "sparsity": {"density": 1.0},
        "similarity": {"every": 1},
        "coupling": {"strength": 0.5},
        "encryption": {"scheme": "none"},
    }
    return run_of(Federation.from_mapping(defaults | tables).bound(NAMES, WIDE, units=40), folder, WIDE, noise_key)


def run_of(federation, folder, model, noise_key=None, **options):
    coordinator, clients = parties(federation, folder, noise_key=noise_key, model=model, **options)
    seen = Watched(clients, model)
    for _ in range(ROUNDS):
        seen.one_round(coordinator)
    close_all(clients)
    return seen


def keep(monkeypatch, *uses):
    """A client that keeps the keys of these streams from its first round on."""
    fresh, kept = Round.streams.func, {}

    def streams(self):
        held = {use: RandomStream(kept.setdefault((self.session.name, use), fresh_key())) for use in uses}
        return dict(fresh(self)) | held

    property_ = cached_property(streams)
    property_.__set_name__(Round, "streams")
    monkeypatch.setattr(Round, "streams", property_)


NOISE = ("shared noise", "personal noise", "update")
ROUNDING = ("update rounding", "personal rounding")


@pytest.mark.parametrize(("scheme", "noise_key"), [("tenseal", None), ("none", bytes(32))], ids=["tenseal", "seeded"])
def test_what_clients_draw_in_one_round_is_not_alike_in_any_other(tmp_path, scheme, noise_key):
    seen = watched(tmp_path, noise_key, encryption={"scheme": scheme})
    for kinds in (("shared noise", "personal noise"), ("update",), ("update rounding",), ("personal rounding",)):
        found = seen.of(*kinds)
        assert len(found) >= len(NAMES) * (ROUNDS - 1) * len(kinds) - len(NAMES), kinds
        furthest, *names = most_alike(found)
        assert furthest < LARGEST, names
    update, noise = seen.drawn["update", "alder", 1], seen.drawn["shared noise", "alder", 1]
    assert standing_out(update, noise) > 0.99 * np.sqrt(noise.size), "what is sent is the noise that was drawn"


@pytest.mark.parametrize(
    ("use", "shows_in"),
    [
        ("noise", ("shared noise", "personal noise", "update")),
        ("update rounding", ("update rounding",)),
        ("personal rounding", ("personal rounding",)),
    ],
)
def test_a_client_that_keeps_a_key_over_rounds_is_seen_in_what_it_sends(tmp_path, monkeypatch, use, shows_in):
    keep(monkeypatch, use)
    seen = watched(tmp_path)
    for kind in (*NOISE, *ROUNDING):
        furthest, one, other = most_alike(seen.of(kind))
        assert (furthest > LARGEST) == (kind in shows_in), kind
        if kind in shows_in:
            assert one[1] == other[1] and one[2] != other[2], "one hospital, two rounds"


# --- Shares of common noise ---------------------------------------------------------------------------------------


def shares_of(folder, monkeypatch):
    """The integers that each hospital hands to encryption, by (hospital, round), and its personal noise beside them."""
    federation = Federation.from_mapping(
        {
            "rounds": 3,
            "privacy": {"epsilon": 0.5},
            "training": {"learning_rate": 0.002},
            "model": {"hidden": 200, "personal": ["body.weight"]},
            "sparsity": {"density": 1.0},
            "encryption": {"masking": "pairwise", "scheme": "none"},
            "coupling": {"strength": 0.0},
            "similarity": {"every": 0},
            "shared_noise": {"dropouts": 1},
        }
    ).bound(SEVEN, WIDE, units=40)
    drawn, encode = {}, SumChannel.encode_integers
    numbers = {name: itertools.count(1) for name in SEVEN}

    def spied(self, values, client, *rest):
        drawn["share", client, next(numbers[client])] = values.copy()
        return encode(self, values, client, *rest)

    monkeypatch.setattr(SumChannel, "encode_integers", spied)
    coordinator, clients = parties(federation, folder, model=WIDE)
    for _ in range(federation.rounds):
        before = {name: client.state.personal for name, client in clients.items()}
        number = clients["alder"].round + 1
        assert drive(coordinator, Carried(clients)) == ()
        for name, client in clients.items():
            drawn["personal noise", name, number] = before[name] - client.state.personal
    close_all(clients)
    return drawn


def test_shares_of_common_noise_are_not_alike_in_any_two_rounds(tmp_path, monkeypatch):
    found = shares_of(tmp_path, monkeypatch)
    assert len(found) == 2 * 3 * len(SEVEN)
    furthest, *names = most_alike(found)
    assert furthest < LARGEST, names


def test_a_client_that_keeps_the_key_of_its_share_is_seen(tmp_path, monkeypatch):
    keep(monkeypatch, "noise share")
    furthest, one, other = most_alike(shares_of(tmp_path, monkeypatch))
    assert furthest > LARGEST and one[:2] == other[:2] and one[0] == "share"


# --- Draws of units -----------------------------------------------------------------------------------------------

UNITS, RATE = 2_050, 0.2


def draws_of(folder):
    """Which units are in a hospital's update, bool [rounds, units]: each has a weight of its own, and little noise."""

    def lines():
        return nn.Sequential(nn.Linear(UNITS, 1, bias=False), nn.Flatten(0))

    names, few = NAMES[:3], TensorDataset(torch.ones(3, UNITS), torch.zeros(3))
    federation = Federation.from_mapping(
        {
            "rounds": ROUNDS,
            "model": {"kind": "own", "personal": []},
            "privacy": {"epsilon": 1e4, "clip": 1.0, "sample_rate": RATE},
            "training": {"learning_rate": 50.0},
            "sparsity": {"density": 1.0},
            "encryption": {"scheme": "none"},
        }
    ).bound(names, lines, units=dict.fromkeys(names, 3) | {names[0]: UNITS})
    rows = dict.fromkeys(names, few) | {names[0]: TensorDataset(torch.eye(UNITS), torch.zeros(UNITS))}
    seen = run_of(federation, folder, lines, rows=rows, loss=lambda output, y: 10 * output)
    moved = np.stack([vector for (_, name, _), vector in seen.of("shared noise").items() if name == names[0]])
    return moved * RATE * UNITS / federation.training.learning_rate > 0.5


def test_units_are_drawn_anew_in_every_round(tmp_path):
    drawn = draws_of(tmp_path)
    assert abs(drawn.mean() - RATE) < LARGEST * np.sqrt(RATE * (1 - RATE) / drawn.size)
    furthest, *names = most_alike(dict(enumerate(drawn - RATE)))
    assert furthest < LARGEST, names


def test_a_client_that_draws_the_same_units_again_is_seen(tmp_path, monkeypatch):
    keep(monkeypatch, "sampling")
    drawn = draws_of(tmp_path)
    assert most_alike(dict(enumerate(drawn - RATE)))[0] > LARGEST
