"""What ledger_signing.json and snapshot.json (of the client) hold."""

import hashlib
import hmac
import json
import struct

from aes import gcm_seal
from inputs import KEY, named
from of_protocol import RUN, SESSION
from people import person
from streams import derive_key
from text import exact


def _canonical(value: object) -> str:
    """JSON after RFC 8785, for the values below: names sorted, no spaces, whole numbers without a point."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{_canonical(value[name])}" for name in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, float) and value == int(value):
        return str(int(value))
    return json.dumps(value, ensure_ascii=False)


_LABEL = b"securepfl ledger signature 1"


def _lines() -> list[str]:
    """Two lines: each is signed after a label, without its signature, and holds the hash of the one before."""
    alder, previous, lines = person("alder"), "0" * 64, []
    federation, budget = SESSION.hex(), {"epsilon": 4.0, "delta": 0.0625}
    session = {"kind": "session", "data_set": "biopsies", "budget": budget, "algorithm": "Ed25519", "epsilon": 0.0}
    session |= {"public_key": alder.public[6:38].hex(), "recovered": None}
    release = {"mechanism": "gaussian", "noise_multiplier": 5.5, "sample_rate": 1.0, "steps": 1, "unit": "record"}
    reserved = hashlib.sha256(_canonical(["one", federation, 1, 0]).encode()).hexdigest()[:32]
    reservation = {"kind": "reservation", "id": reserved, "federation": federation, "round": 1, "attempt": 0}
    reservation |= {"release": release, "epsilon": 0.725521750857794}
    for index, own in enumerate((session, reservation)):
        line = own | {"schema": 1, "index": index, "previous": previous, "time": "2026-11-26T15:44:39Z", "run": "one"}
        line |= {"site": "nörd", "simulation": False, "seeded": False}
        signed = b"securepfl ledger line, schema 1\n" + _canonical(line).encode()
        line["signature"] = alder.classical(_LABEL + signed).hex()
        lines.append(_canonical(line))
        previous = hashlib.sha256(lines[-1].encode()).hexdigest()
    return lines


def ledger_signing() -> dict:
    """Ed25519 under the first 32 of an identity's private bytes, over a label and the message; and a ledger."""
    alder, message = person("alder"), b"securepfl ledger line"
    return {
        "private": alder.private.hex(),
        "algorithm": "Ed25519",
        "public_key": alder.public[6:38].hex(),
        "message": message.hex(),
        "signature": alder.classical(_LABEL + message).hex(),
        "lines": _lines(),
    }


def _snapshot(number: int, shared: list[float], aggregate: list[float] | None) -> dict:
    body = struct.pack(f"<{len(shared)}f", *shared) + struct.pack(f"<{len(aggregate or [])}d", *(aggregate or []))
    numbers = (number, len(shared), aggregate is not None)
    head = b"SPSN" + bytes((2,)) + b"".join(n.to_bytes(4, "big") for n in numbers[:2]) + bytes(numbers[2:]) + SESSION
    head += RUN
    nonce = named(f"nonce of snapshot {number}", 12)
    message = SESSION + number.to_bytes(4, "big") + body
    return {
        "round": number,
        "shared": exact(shared),
        "aggregate": None if aggregate is None else exact(aggregate),
        "digest": hmac.new(derive_key(KEY, "snapshot digest"), message, hashlib.sha256).hexdigest(),
        "nonce": nonce.hex(),
        "sealed": (head + nonce + gcm_seal(derive_key(KEY, "snapshot"), nonce, body, head)).hex(),
    }


def snapshot() -> dict:
    """A state before any sum, and one after: a head, a nonce, then AES-256-GCM over little-endian floats."""
    shared = [1.5, -2.25, float.fromhex("0x1.99999ap-4")]
    return {
        "key": KEY.hex(),
        "session": SESSION.hex(),
        "run": RUN.hex(),
        "snapshots": [_snapshot(2, shared, None), _snapshot(5, shared, [0.5, -1e-3, 2.0**-40])],
    }
