"""The coordinator's half of masks, similarity and our own sums loads no SEAL and works where there is none; that of
SEAL's sums loads it when it begins one, and holds no key.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from securepfl.crypto.sums import seal
from securepfl.crypto.sums.containers import SEED_BYTES as SEAL_SEED_BYTES
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.ring import generate_ring_key
from securepfl.crypto.sums.scheme import find_scheme, scheme_names
from securepfl.errors import MessageError

LAYOUT = choose_layout(700, 10, 3)

BLOCKED = """
import sys
class NoSeal:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tenseal" or name.startswith("securepfl.crypto.sums.seal"):
            raise ImportError(f"{name} is asked for")
sys.meta_path.insert(0, NoSeal())
"""


def alone(program, *arguments, stdin=""):
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def modules(*names):
    """What is loaded once these are imported."""
    program = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\nprint(*sys.modules)"
    return set(alone(program, *names).split())


HALF = [
    "securepfl.coordinator.coordinator",
    "securepfl.protocol.channels",
    "securepfl.protocol.messages",
    "securepfl.crypto.keys.identity",
    "securepfl.crypto.keys.keys",
    "securepfl.crypto.masks.unmasking",
    "securepfl.crypto.messages.envelope",
    "securepfl.crypto.sums.scheme",
    "securepfl.crypto.sums.summation",
    *(f"securepfl.crypto.sums.schemes.{name}" for name in scheme_names()),
]


def test_importing_the_coordinators_half_loads_no_seal():
    loaded = modules(*HALF)
    assert set(HALF) <= loaded
    assert not {name for name in loaded if name.startswith(("tenseal", "securepfl.crypto.sums.seal"))}
    # What a hospital needs is found by the same look.
    assert "tenseal" in modules("securepfl.crypto.sums.seal_cipher")


def test_the_public_names_of_a_coordinators_program_load_no_seal():
    program = "import sys, securepfl\nsecurepfl.Coordinator, securepfl.Federation, securepfl.load_coordinator\n"
    assert "tenseal" not in alone(program + "print(*sys.modules)").split()


@pytest.mark.parametrize("scheme", ["lean", "none"])
def test_sums_are_formed_where_seal_cannot_be_loaded(scheme):
    found = find_scheme(scheme)
    cipher = found.cipher(generate_ring_key() if found.encrypted else b"", LAYOUT)
    rows = [np.arange(LAYOUT.slots, dtype=np.uint64) + np.uint64(index) for index in range(3)]
    sent = [cipher.encrypt(row, LAYOUT) for row in rows]
    stamp = sent[0][:8] if found.encrypted else b""
    program = f"""{BLOCKED}
import json
from securepfl.crypto.sums import ring
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.scheme import find_scheme
from securepfl.crypto.sums.schemes import lean
told = json.load(sys.stdin)
lean.stamp = lambda: bytes.fromhex(told["stamp"])
total = find_scheme({scheme!r}).total(choose_layout(700, 10, 3))
for contribution in told["sent"]:
    total.check(bytes.fromhex(contribution))
    total.add(bytes.fromhex(contribution))
print(total.answer().hex())
"""
    told = {"stamp": stamp.hex(), "sent": [contribution.hex() for contribution in sent]}
    answer = bytes.fromhex(alone(program, stdin=json.dumps(told)).strip())
    assert (cipher.decrypt(answer, LAYOUT) == sum(rows)).all()


def test_seals_sum_is_formed_in_a_process_that_is_given_no_key():
    scheme, key = find_scheme("tenseal"), generate_ring_key()
    cipher = scheme.cipher(key, LAYOUT)
    rows = [np.arange(LAYOUT.slots, dtype=np.uint64) + np.uint64(index) for index in range(3)]
    sent = [cipher.encrypt(row, LAYOUT) for row in rows]
    program = """
import json, sys
from securepfl.crypto.sums.parameters import choose_layout
from securepfl.crypto.sums.scheme import find_scheme
assert "tenseal" not in sys.modules
total = find_scheme("tenseal").total(choose_layout(700, 10, 3))
assert "tenseal" in sys.modules
for contribution in json.load(sys.stdin):
    total.check(bytes.fromhex(contribution))
    total.add(bytes.fromhex(contribution))
print(total.answer().hex())
"""
    answer = bytes.fromhex(alone(program, stdin=json.dumps([data.hex() for data in sent])).strip())
    assert (cipher.decrypt(answer, LAYOUT) == sum(rows)).all()
    assert len(answer) == scheme.wire(LAYOUT).answer_bytes(3)
    for data in sent:  # no seed of a hospital reaches another
        seed = data[8 : 8 + SEAL_SEED_BYTES]
        assert not any(seed[at : at + 8] in answer for at in range(0, SEAL_SEED_BYTES, 8))


def test_seal_is_shown_nothing_that_was_not_rebuilt(monkeypatch):
    """Whatever a hospital sends of the right length, SEAL loads our header, our fields and words below the prime."""
    scheme, shown = find_scheme("tenseal"), []
    cipher, wire, total = scheme.cipher(generate_ring_key(), LAYOUT), scheme.wire(LAYOUT), scheme.total(LAYOUT)
    good = cipher.encrypt(np.zeros(LAYOUT.slots, dtype=np.uint64), LAYOUT)
    genuine = os.write

    def write(descriptor, data):
        shown.append(bytes(data))
        return genuine(descriptor, data)

    monkeypatch.setattr(os, "write", write)
    prime = LAYOUT.parameters.coeff_modulus
    for at in (0, wire.contribution_bytes // 2, wire.contribution_bytes - 9):
        for bad in (good[:at] + b"\xff" * 9 + good[at + 9 :], good[:at], good + b"\0"):
            with pytest.raises(MessageError):
                total.add(bad)
    assert not shown
    # The seed is SEAL's to expand, whatever its bits: nothing else of these bytes has a meaning there.
    for seed in (bytes(SEAL_SEED_BYTES), b"\xff" * SEAL_SEED_BYTES):
        total.add(good[:8] + seed + good[8 + SEAL_SEED_BYTES :])
        loaded = shown.pop()
        assert loaded.endswith(seed)
        words = np.frombuffer(loaded[16 + 73 + 24 : -81], "<u8")
        assert words.size == LAYOUT.parameters.slots and int(words.max()) < prime
        assert loaded[16:89] == shown_fields()


def shown_fields():
    """A ciphertext of two polynomials of 4,096 words under one prime, not in NTT form, as SEAL itself writes it."""
    return seal._context(LAYOUT.parameters).fresh


def test_the_block_on_seal_does_block():
    with pytest.raises(AssertionError, match="seal is asked for"):
        alone(BLOCKED + "from securepfl.crypto.sums.ring import stamp\nstamp()")


def test_no_scheme_is_named_outside_its_file():
    """A new scheme is one file: nothing else compares a scheme's name, or lists them."""
    root = Path(__file__).parents[3]
    sources = [path for package in ("securepfl", "crypto") for path in (root / package).rglob("*.py")]
    names = tuple(f'"{name}"' for name in scheme_names() if name != "none")
    named = {f"{path.parent.name}/{path.name}" for path in sources if any(name in path.read_text() for name in names)}
    # Who carries what, the setting's default, the rows of a comparison, and the package of a scheme's name.
    carriers = {"schemes/lean.py", "schemes/tenseal.py"}
    package = {"sums/seal.py", "report/result.py", "doctor/machine.py"}
    found = {name for name in named if not name.startswith("bench/")}
    assert found == {*carriers, *package, "settings/tables.py"}
