"""What messages.json, contexts.json and statements.json of the protocol hold."""

import hashlib

from packs import pack
from people import person

SCHEMA = 7
_SETTINGS, _COMMITMENT, RUN = bytes((9,)) * 32, bytes((7,)) * 32, bytes((5,)) * 16
BASE = hashlib.sha256(b"securepfl session 1" + _SETTINGS + _COMMITMENT).digest()
"""What messages are bound to: the settings' digest and the key's commitment."""

SESSION = hashlib.sha256(b"securepfl run 1" + BASE + RUN).digest()
"""What a run is bound to: settings and key, and its identifier."""

_SALT = b"s" * 16
_STATE, _HEAD = "ab" * 32, "cd" * 32


def contexts() -> dict:
    """The run's digest, then kind/round/attempt in text; for masks a slash and the round's salt after that."""
    cases = (("update", 3, 0), ("personal", 12, 1), ("similarity", 2, 0))
    return {
        "settings": _SETTINGS.hex(),
        "commitment": _COMMITMENT.hex(),
        "base": BASE.hex(),
        "run": RUN.hex(),
        "session": SESSION.hex(),
        "round": [
            {"kind": k, "round": r, "attempt": a, "context": (SESSION + f"{k}/{r}/{a}".encode()).hex()}
            for k, r, a in cases
        ],
        "mask": {"round": 3, "attempt": 0, "salt": _SALT.hex(), "context": (SESSION + b"update/3/0/" + _SALT).hex()},
    }


def _statement() -> dict:
    alder, number = person("alder"), 3
    signed = SESSION + number.to_bytes(4, "big") + bytes.fromhex(_STATE + _HEAD) + b"alder"
    signature = alder.classical(b"securepfl statement 1" + signed)
    return {"round": number, "state": _STATE, "head": _HEAD, "signature": signature}


def statements() -> dict:
    """A hospital's statement: Ed25519 over a label, the run's digest, round (4 bytes), state, head and name."""
    return {
        "private": person("alder").private.hex(),
        "name": "alder",
        "session": SESSION.hex(),
        "statement": _shown(_statement()),
    }


_MASKS = {"blobs": [b"one", b"two"], "commitments": b"c" * 64}
_DIGESTS = {"update": hashlib.sha256(b"u").digest(), "commitments": hashlib.sha256(b"c" * 32).digest()}


def standing() -> dict:
    """A hospital's signature over its parts' digests, 32 zeros for one it lacks, and another's verdict."""
    alder, birch, round_ = person("alder"), person("birch"), (3).to_bytes(4, "big")
    listed = b"".join(_DIGESTS.get(part, bytes(32)) for part in ("update", "personal", "sketch", "commitments"))
    parts = b"securepfl parts 1" + SESSION + round_ + listed + b"alder"
    # Shown were update and sketch, of these three in order, and the sketch breaks the rules.
    flags = bytes((1, 0, 1, 0, 0, 1))
    names = b"".join(len(name).to_bytes(4, "big") + name for name in (b"birch", b"alder"))
    verdict = b"securepfl verdict 1" + SESSION + hashlib.sha256(parts).digest() + flags + names
    return {
        "private": {"alder": alder.private.hex(), "birch": birch.private.hex()},
        "session": SESSION.hex(),
        "round": 3,
        "digests": {part: digest.hex() for part, digest in _DIGESTS.items()},
        "stands": alder.classical(parts).hex(),
        "shown": ["update", "sketch"],
        "broken": ["sketch"],
        "verdict": birch.classical(verdict).hex(),
    }


def _bodies() -> list[tuple[str, dict]]:
    """Every body's fields in their order; "schema" comes after them, as it does in bodies within bodies."""
    statement = _statement()
    contribution = {"update": b"\0\1", "personal": None, "sketch": b"sk", "neighbours": {"birch": 2}, "head": _HEAD}
    contribution |= {"nonce": b"n" * 16, "state": _STATE, "masks": None, "stands": b"st", "evaluation": b"keys"}
    masked = {"update": b"u", "personal": b"p", "sketch": None, "neighbours": {}, "head": "", "nonce": b"", "state": ""}
    masked |= {"masks": _body(_MASKS), "stands": b"", "evaluation": None}
    answer = {"survivors": ["alder"], "aggregate": b"agg", "products": {"birch": b"p" * 24}, "neighbourhood": None}
    answer |= {"neighbours": ["birch"], "consensus": b"con", "named": {"cedar": "a wrong tag"}}
    invitation = {"round": 3, "nonces": {"alder": b"n" * 16}}
    invitation |= {"salt": _SALT, "statements": {"alder": statement}, "held": True, "named": {"cedar": "silent"}}
    many = [f"hospital {number}" for number in range(16)]
    evidence = {"sender": "cedar", "salt": _SALT, "parts": {"update": b"u"}, "digests": _DIGESTS, "stands": b"st"}
    evidence |= {"commitments": b"c" * 32, "secrets": b"m" * 32, "evaluation": None}
    return [
        ("Invitation", invitation),
        *(("Invitation", _without_words(invitation, number)) for number in (127, 128, 70_000)),
        ("Invitation", _without_words(invitation, 4) | {"nonces": dict.fromkeys(many, b"n" * 16)}),
        ("MaskShares", _MASKS),
        ("Contribution", contribution),
        ("Contribution", masked),
        ("Decline", {}),
        ("Survivors", {"survivors": ["alder", "birch"], "salt": _SALT}),
        ("Agreement", {"signature": b"sig"}),
        ("Unmask", {"signatures": {"alder": b"sig"}, "blobs": {"birch": b"blob"}}),
        ("Reveal", {"shares": b"sh" * 150}),
        ("Answer", answer),
        ("Receipt", {"statement": statement, "refused": []}),
        ("Receipt", {"statement": None, "refused": ["update", "sketch"]}),
        ("Opening", {}),
        ("Opened", {"secrets": b"m" * 32}),
        ("Evidence", evidence),
        ("Evidence", evidence | {"commitments": b"", "secrets": b"", "evaluation": b"keys"}),
        ("Verdict", {"sender": "cedar", "broken": ["update"], "signature": b"one"}),
        ("Ended", {"reason": "a sum was wrong"}),
        ("SnapshotWanted", {}),
        ("SnapshotSent", {"snapshot": b"sn" * 150}),
        ("Rejoin", {"snapshot": b"sn", "statements": {"alder": statement}}),
    ]


def _without_words(invitation: dict, number: int) -> dict:
    return invitation | {"round": number, "statements": {}, "held": False, "named": {}}


def _body(fields: dict) -> dict:
    return fields | {"schema": SCHEMA}


def _shown(value: object) -> object:
    """Bytes as {"hex": ...}; bodies within bodies without their schema."""
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    if isinstance(value, dict):
        return {name: _shown(part) for name, part in value.items() if name != "schema"}
    return [_shown(part) for part in value] if isinstance(value, list) else value


def messages() -> list:
    """A MessagePack map by field name."""
    return [{"body": n, "fields": _shown(fields), "encoded": pack(_body(fields)).hex()} for n, fields in _bodies()]
