"""Worlds that differ only in the rows of one hospital, and all that anybody else can see of a run in each.

What DP-SGD releases is the noised sum of a step's clipped gradients; all that follows must be post-processing of it.
So that sum alone is replaced, where noise is added to it, by numbers that depend on no row: a signal that all hospitals
share and one of each. Before it real code runs on real rows (it fetches, skips, clips), and behind it real code makes
states, messages and lines of ledgers. Whatever differs between worlds has then come past the noise.
"""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from zlib import crc32

import msgspec
import numpy as np
import torch
import torch.fx
from parties import NAMES, Carried, close_all, parties
from torch import nn
from torch.utils.data import Dataset

from securepfl import Federation
from securepfl.client import draft
from securepfl.client import round as rounds
from securepfl.errors import ModelError, SecurePFLError
from securepfl.privacy.training import common_step, dpsgd
from securepfl.privacy.training.integer_sum import IntegerSum
from securepfl.protocol.messages import encode_pieces
from securepfl.protocol.rounds import drive
from securepfl.randomness import RandomStream, derive_key

KEY = bytes(range(32))
WHO = "alder"  # whose rows differ
FEATURES, UNITS = 6, 40
MARK = 12345.0  # what the model's own code fails on


@torch.fx.wrap  # so that the output layer is found, which is traced
def checked(x):
    if (x == MARK).any():
        raise ModelError("a record that the model's code fails on")
    return x


class Picky(nn.Module):
    """A model whose code fails on a record with a mark in it."""

    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(FEATURES, 4), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.body(checked(x)))).squeeze(-1)


class Rows(Dataset):
    """A pipeline's own data set; one that is None cannot be read. `later` are its items once a Client was made."""

    def __init__(self, items, later=None):
        self.items = list(items)
        self.later = self.items if later is None else later

    def __len__(self):
        return len(self.items)

    def __getitem__(self, place):
        item = self.items[place]
        if item is None:
            raise OSError("no such image")
        return item


def items_of(name, count):
    generator = torch.Generator().manual_seed(crc32(name.encode()))
    x = torch.randn(count, FEATURES, generator=generator)
    return list(zip(x, (x[:, 0] > 0).float(), strict=True))


def plain(count):
    return Rows(items_of(WHO, count))


def other_values(count):
    return Rows([(50 * x, 1 - y) for x, y in items_of(WHO, count)])


def unusable(count):
    """A quarter of the units holds everything that one can be wrong in."""
    items = items_of(WHO, count)
    bad = [
        (torch.full((FEATURES,), torch.nan), torch.tensor(1.0)),
        (torch.full((FEATURES,), torch.inf), torch.tensor(0.0)),
        (items[2][0], torch.tensor(7.0)),
        (items[3][0], torch.tensor(torch.nan)),
        None,
        (torch.zeros(FEATURES + 3), torch.tensor(1.0)),
        (items[6][0], "no label"),
        (torch.full((FEATURES,), MARK), torch.tensor(1.0)),
        (torch.full((FEATURES,), 1e38), torch.tensor(1.0)),
    ]
    return Rows(bad + items[len(bad) :])


def more(count):
    return Rows(items_of(WHO, count + count // 4 + 1))


def fewer(count):
    return Rows(items_of(WHO, max(3, count // 8)))


def gone(count):
    """Nothing can be read any more once the hospital has looked."""
    return Rows(items_of(WHO, count), later=[None] * count)


def failing(count):
    """The model fails on everything once the hospital has looked."""
    return Rows(items_of(WHO, count), later=[(torch.full((FEATURES,), MARK), torch.tensor(1.0))] * count)


WORLDS = {kind.__name__: kind for kind in (other_values, unusable, more, fewer, gone, failing)}


def huge_patient(count):
    """Patients: one of them with more records than all others together."""
    x = torch.randn(500, FEATURES)
    items = patients_of(plain(count)).items
    return Rows([*items[1:], (x, (x[:, 1] > 0).float())])


def patients_of(rows):
    """Each unit of `rows` as a patient of two records."""
    return Rows(map(_patient, rows.items), list(map(_patient, rows.later)))


def _patient(item):
    if item is None:
        return None
    x, y = item
    return torch.stack([x, x / 2]), torch.stack([y, y]) if isinstance(y, torch.Tensor) else y


def bound(units=UNITS, **tables):
    """Four hospitals that compare themselves every round and draw to one another, and release experts."""
    defaults = {
        "rounds": 3,
        "model": {"kind": "own", "personal": ["head.*"]},
        "training": {"learning_rate": 0.5},
        "privacy": {"clip": 1.0, "delta": 1e-3},
        "encryption": {"scheme": "none"},
        "similarity": {"every": 1},
        "coupling": {"strength": 0.5},
        "release": {"experts": True},
    }
    return Federation.from_mapping(defaults | tables).bound(NAMES, Picky, units=units)


@dataclass
class Turn:
    """Whose turn it is, of which round; `drawn` keys since it began."""

    name: str = ""
    round: int = 0
    drawn: int = 0

    def numbers(self, size):
        """Data-free, [size]: much that all hospitals share, and some of one's own."""
        shared = RandomStream(derive_key(KEY, "shared", size)).gaussian(size)
        return 3 * shared + RandomStream(derive_key(KEY, self.name, self.round, size)).gaussian(size)

    def key(self):
        self.drawn += 1
        return derive_key(KEY, "stream", self.name, self.round, self.drawn)


def without_rows(patch, turn):
    """Replaces noised sums by data-free numbers of their size, and fresh keys of a hospital's round by its turn's."""

    def noised(total, entries, settings, noise):
        size = len(total) if entries is None else len(entries)
        numbers = torch.from_numpy(turn.numbers(size)) * settings.noise_multiplier * settings.clip
        if entries is None:
            total.copy_(numbers)
        else:
            total[entries] = numbers

    def noisy(integers):
        numbers = np.rint(turn.numbers(integers.total.size) * integers.noise.scale).astype(np.int64)
        return np.clip(numbers, -integers.noise.limit, integers.noise.limit)

    for module in (dpsgd, common_step):
        patch.setattr(module, "add_noise", noised)
    patch.setattr(IntegerSum, "noisy", noisy)
    patch.setattr(draft, "fresh_key", turn.key)


def seen(patch, folder, federation, rows, planted=lambda client: None, **options):
    """All that a run shows to anybody but WHO, and WHO's state and public attributes: by where it was seen."""
    turn, bodies, found = Turn(), [], {}
    without_rows(patch, turn)
    patch.setattr(rounds, "encode_pieces", partial(_encoded, bodies))
    patch.setenv("SECUREPFL_LEDGERS", str(folder / "ledgers"))
    coordinator, clients = parties(federation, folder, KEY, model=Picky, rows=rows, **options)
    planted(clients[WHO])
    rows[WHO].items = rows[WHO].later

    class Carrier(Carried):
        def ask(self, name, message):
            turn.name, turn.round, turn.drawn = name, clients[name].round, 0
            try:
                return super().ask(name, message)
            except SecurePFLError as error:  # as an engine does, which then has no reply to bring
                found[f"{turn.round}.{name} raised"] = type(error).__name__
                return b""

    for number in range(federation.rounds):
        carried = Carrier(clients)
        found[f"{number} refused"] = [refusal.hospital for refusal in drive(coordinator, carried)]
        for place, (name, message, reply) in enumerate(carried.asked):
            found[f"{number}.{place}.{name}"] = (len(message), len(reply))
    for place, body in enumerate(bodies):
        found |= _leaves(f"body {place} {type(body).__name__}", msgspec.structs.asdict(body))
    for name, client in clients.items():
        found |= _of_client(name, client)
    close_all(clients)
    return found


def _encoded(bodies, body):
    bodies.append(body)
    return encode_pieces(body)


def _of_client(name, client):
    found = {}
    for attribute in ("similarity", "distances", "signal", "neighbours", "clipped_values", "sat_out", "ended", "named"):
        found |= _leaves(f"{name}.{attribute}", getattr(client, attribute))
    for attribute in ("affords_run", "coupled_rounds", "gradient_mode", "units", "device", "state_digest"):
        found[f"{name}.{attribute}"] = str(getattr(client, attribute))
    state = msgspec.structs.asdict(client.state)
    del state["shortened"]  # exact, and kept for the hospital's own eyes, as `last_training` is: no message has it
    found |= _leaves(f"{name}.state", state)
    found |= _leaves(f"{name}.predict", client.predict(torch.ones(2, FEATURES)))
    for expert in ("personal", "shared"):
        if client.federation.release.experts:
            model, record = client.release(expert)
            found |= _leaves(f"{name}.{expert}", model.state_dict()) | _leaves(f"{name}.{expert} record", record)
    for number, line in enumerate(client.ledger.path.read_text().splitlines()):
        fields = json.loads(line)
        # To the second: two runs may share it by chance, and a third not.
        found |= _leaves(f"{name}.ledger {number}", fields | {"time": len(fields["time"])})
    return found


def _leaves(path, value):
    """The values within `value` by path, arrays as bytes."""
    if isinstance(value, dict) or hasattr(value, "items"):
        return {key: leaf for name, part in value.items() for key, leaf in _leaves(f"{path}.{name}", part).items()}
    if isinstance(value, msgspec.Struct):
        return _leaves(path, msgspec.structs.asdict(value))
    if dataclasses.is_dataclass(value):
        return _leaves(path, dataclasses.asdict(value))
    if isinstance(value, list | tuple):
        parts = {f"{path}.count": len(value)}
        return parts | {key: leaf for i, part in enumerate(value) for key, leaf in _leaves(f"{path}.{i}", part).items()}
    if isinstance(value, torch.Tensor):
        value = value.detach().numpy()
    return {path: value.tobytes() if isinstance(value, np.ndarray) else value}


def differing(one, again, other):
    """Fields that are others in `other` than in `one`, which was run `again`: what chance changes (keys, signatures,
    times) has its type and size compared.
    """
    paths = sorted(one.keys() | again.keys() | other.keys())
    absent = object()
    return [
        path
        for path in paths
        if (form := _exact if one.get(path, absent) == again.get(path, absent) else _size)(one.get(path, absent))
        != form(other.get(path, absent))
    ]


def _exact(value):
    return value


def _size(value):
    return type(value), len(value) if isinstance(value, str | bytes) else None
