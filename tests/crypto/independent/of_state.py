"""What ledger_signing.json and snapshot.json (of the client) hold."""

import hashlib
import hmac
import struct

from aes import gcm_seal
from inputs import KEY, named
from of_protocol import RUN, SESSION
from people import person
from streams import derive_key
from text import exact


def ledger_signing() -> dict:
    """Ed25519 under the first 32 of an identity's private bytes, over a label and the message."""
    alder, message = person("alder"), b"securepfl ledger line"
    return {
        "private": alder.private.hex(),
        "algorithm": "Ed25519",
        "public_key": alder.public[6:38].hex(),
        "message": message.hex(),
        "signature": alder.classical(b"securepfl ledger signature 1" + message).hex(),
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
