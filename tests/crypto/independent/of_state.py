"""What ledger_signing.json, snapshot.json (of the client) and contexts.json (of the protocol) hold."""

import hashlib
import hmac
import struct

from aes import gcm_seal
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from inputs import KEY, named
from streams import derive_key
from text import exact

_SESSION, _RUN = bytes((9,)) * 32, bytes((5,)) * 16


def ledger_signing() -> dict:
    """Ed25519 under the first 32 of an identity's private bytes, over a label and the message."""
    private = named("private keys of alder", 160)
    key, message = Ed25519PrivateKey.from_private_bytes(private[:32]), b"securepfl ledger line"
    return {
        "private": private.hex(),
        "algorithm": "Ed25519",
        "public_key": key.public_key().public_bytes_raw().hex(),
        "message": message.hex(),
        "signature": key.sign(b"securepfl ledger signature 1" + message).hex(),
    }


def _snapshot(number: int, shared: list[float], aggregate: list[float] | None) -> dict:
    body = struct.pack(f"<{len(shared)}f", *shared) + struct.pack(f"<{len(aggregate or [])}d", *(aggregate or []))
    numbers = (number, len(shared), aggregate is not None)
    head = b"SPSN" + bytes((2,)) + b"".join(n.to_bytes(4, "big") for n in numbers[:2]) + bytes(numbers[2:]) + _SESSION
    head += _RUN
    nonce = named(f"nonce of snapshot {number}", 12)
    message = _SESSION + number.to_bytes(4, "big") + body
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
        "session": _SESSION.hex(),
        "run": _RUN.hex(),
        "snapshots": [_snapshot(2, shared, None), _snapshot(5, shared, [0.5, -1e-3, 2.0**-40])],
    }


def contexts() -> dict:
    """Session digest, then kind/round/attempt in text; for masks a slash and the round's salt after that."""
    cases, salt = (("update", 3, 0), ("personal", 12, 1), ("similarity", 2, 0)), b"s" * 16
    return {
        "session": _SESSION.hex(),
        "round": [
            {"kind": k, "round": r, "attempt": a, "context": (_SESSION + f"{k}/{r}/{a}".encode()).hex()}
            for k, r, a in cases
        ],
        "mask": {
            "round": 3,
            "attempt": 0,
            "salt": salt.hex(),
            "context": (_SESSION + b"update/3/0/" + salt).hex(),
        },
    }
