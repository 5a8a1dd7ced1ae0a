"""What two runs of the same federation, with the same keys and seed, must have in common: everything that trained."""

import json
import subprocess
from pathlib import Path

import numpy as np
from forked import python

from loopback.world import HUB, World
from securepfl.storage.folder import read_arrays

_OWN = frozenset({"run", "joined", "nonce", "pending"})
"""What is drawn for each run anew."""


def differences(world: World, other: World) -> list[str]:
    """Where the hospitals' states differ: arrays bit for bit, and all that is no run's own."""
    found = []
    for name in world.hospitals:
        (arrays, told), (wanted, expected) = (
            read_arrays(place.state(name) / "state.safetensors") for place in (world, other)
        )
        kept = {key for key in arrays | wanted if not key.startswith("pending.")}
        for key in sorted(kept):
            same = key in arrays and key in wanted and _same(arrays[key], wanted[key])
            found += [] if same else [f"{name}: {key}"]
        found += [
            f"{name}: {key}: {told.get(key)} and {expected.get(key)}"
            for key in sorted(told.keys() | expected.keys())
            if key not in _OWN and told.get(key) != expected.get(key)
        ]
    return found


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def rounds_of(world: World) -> dict[str, int]:
    """The rounds that each hospital has applied."""
    return {name: _told(world, name)["round"] for name in world.hospitals}


def sat_out(world: World) -> dict[str, list[int]]:
    """The rounds in which a hospital sent nothing; only hospitals with such rounds."""
    return {name: rounds for name in world.hospitals if (rounds := _told(world, name)["sat_out"])}


def _told(world: World, name: str) -> dict:
    return read_arrays(world.state(name) / "state.safetensors")[1]


def ledger_of(world: World, name: str) -> Path:
    """The ledger that a hospital's run is charged to."""
    return Path(json.loads((world.state(name) / "ledger.json").read_text())["ledger"])


def wrong_budgets(world: World, rounds: int) -> list[str]:
    """Ledgers that `securepfl audit verify` refuses, or in which not each round was reserved once and settled."""
    found = []
    for name in world.hospitals:
        ledger = ledger_of(world, name)
        verified = _call("audit", "verify", ledger)
        if verified.returncode:
            found.append(f"{name}: {verified.stderr}")
            continue
        counted = json.loads(_call("audit", "budget", ledger, "--json").stdout)["result"]["rounds"]
        numbers = sorted(entry["round"] for entry in counted)
        if numbers != list(range(1, rounds + 1)) or not all(entry["settled"] for entry in counted):
            found.append(f"{name}: rounds {numbers} in its ledger, {rounds} were run")
    return found


def _call(*words: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [*python(), "-m", "securepfl", *map(str, words)], capture_output=True, text=True, check=False, timeout=120
    )


def folder_bytes(world: World) -> dict[str, int]:
    """Bytes on disk of each party's run."""
    return {
        name: sum(path.stat().st_size for path in world.run(name).rglob("*") if path.is_file())
        for name in (*world.hospitals, HUB)
    }
