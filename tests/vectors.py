"""Test vectors: inputs and the bytes that an earlier version made of them (crypto/vectors/README.md)."""

import json
from pathlib import Path

import numpy as np


def vectors(folder, name):
    """One JSON file of tests/FOLDER/vectors."""
    return json.loads((Path(__file__).parent / folder / "vectors" / f"{name}.json").read_text())


def words(numbers):
    """Words that stand as decimal text or integers, as uint64."""
    return np.array([int(number) for number in numbers], dtype=np.uint64)


def reals(texts):
    """Doubles that stand in hexadecimal, exact."""
    return np.array([float.fromhex(text) for text in texts])


def ints(mapping):
    """A JSON object's keys as integers."""
    return {int(key): value for key, value in mapping.items()}
