"""README.md: its two calls a round, as they stand there, in a round with two other hospitals."""

import ast

import pytest
import torch
from pages import ROOT, blocks_of
from parties import FEATURES, MODEL, close_all, federation_of, rows_of
from torch.utils.data import DataLoader

from securepfl import Client, Simulation, local_parties
from securepfl.protocol.rounds import drive

HERE = "tests/docs/test_readme.py"


class Page:
    """A hospital that runs the lines of a block one by one, each when what it needs has come."""

    def __init__(self, block, names):
        self.lines = iter(ast.parse(block.text).body)
        self.names = names

    def step(self, **come):
        self.names |= come
        exec(compile(ast.Module([next(self.lines)], []), "README.md", "exec"), self.names)  # noqa: S102 (our own page)
        return self.names


def test_the_two_calls_of_the_readme_are_a_round(tmp_path):
    (block,) = (block for block in blocks_of(ROOT / "README.md") if block.elsewhere == HERE)
    federation = federation_of(
        ("north", "south", "west"), rounds=1, similarity={"every": 0}, coupling={"strength": 0.0}
    )
    keyrings, coordinator = local_parties(federation)
    names = {"Client": lambda *words: Client(*words, simulation=Simulation()), "federation": federation}
    names |= {"build_model": MODEL, "loader": DataLoader(rows_of("north"), batch_size=8), "x": torch.zeros(5, FEATURES)}
    north = Page(block, names | {"keyring": keyrings["north"], "folder": tmp_path / "north"})
    clients = {
        name: Client(federation, name, MODEL, rows_of(name), keyrings[name], tmp_path / name, simulation=Simulation())
        for name in ("south", "west")
    } | {"north": north.step()["client"]}

    class Carrier:
        def ask(self, name, message):
            if name != "north":
                return clients[name].handle(message)
            if "message" not in north.names:
                return north.step(invitation=message)["message"]
            north.step(answer=message)
            return clients["north"].receipt()

    assert list(drive(coordinator, Carrier())) == [] and coordinator.closed == 1
    north.step()
    with pytest.raises(StopIteration):
        north.step()
    close_all(clients)
