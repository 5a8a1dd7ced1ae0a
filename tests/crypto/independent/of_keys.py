"""What keys.json and envelope.json hold."""

import base64
import hashlib

from aes import gcm_seal
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from inputs import KEY, OTHER_KEY, named
from layouts import STAMP
from of_protocol import RUN
from packs import pack
from people import SIGNATURE_BYTES, Person, person
from ring import packed_key, ternary
from streams import derive_key

_DIGEST, _EPOCH, _PREDECESSOR = bytes((9,)) * 32, 3, b"p" * 32
_EVERYONE = bytes(20)
_NAMES = ("alder", "birch", "cedar", "server")


def _key(epoch: int, root: bytes, *rings: bytes) -> bytes:
    """Stamp, magic, version 3, epoch (4 bytes), whether encrypted, root key, the two rings' keys."""
    head = b"SPFK" + bytes((3,)) + epoch.to_bytes(4, "big") + bytes((bool(rings),))
    return STAMP + head + root + b"".join(rings)


def _commitment(key: bytes) -> bytes:
    return hashlib.sha256(b"securepfl federation key 3" + key).digest()


def _place(kind: int, sender: Person, receiver: bytes) -> bytes:
    """Magic, version 1, kind, epoch, digest, both fingerprints."""
    numbers = bytes((1, kind)) + _EPOCH.to_bytes(4, "big")
    return b"SPKC" + numbers + _DIGEST + sender.fingerprint + receiver


def _statement(commitment: bytes, steward: Person, everyone: list[Person]) -> bytes:
    fingerprints = {who.name: who.text for who in everyone}
    details = {"schema": 1, "steward": steward.name, "coordinator": everyone[-1].name, "fingerprints": fingerprints}
    return commitment + pack(details | {"predecessor": _PREDECESSOR})


def _sealed(stored: bytes, receiver: Person, sender: Person, head: bytes, rest: bytes, signed: tuple) -> bytes:
    """Head, then sealed to the receiver: the sender's signature over `signed` (data, context), and the rest."""
    before = receiver.opened(stored[len(head) :], head)[:SIGNATURE_BYTES]
    signature = sender.signature(before, *signed)
    return head + receiver.sealed(stored[len(head) :], signature + rest, head)


def _card(stored: str, who: Person, role: int) -> str:
    """For people: lines to read, then version, role, signature over role and public bytes, public bytes, in base 64."""
    lines = stored.splitlines()
    before = base64.b64decode("".join(lines[5:-1]))[2 : 2 + SIGNATURE_BYTES]
    signature = who.signature(before, bytes((role,)) + who.public, b"identity card")
    text = base64.b64encode(bytes((1, role)) + signature + who.public).decode()
    head = f"securepfl identity\nname: {who.name}\nrole: {('hospital', 'coordinator')[role]}\nfingerprint: {who.text}\n"
    body = "\n".join(text[at : at + 76] for at in range(0, len(text), 76))
    return f"{head}-----BEGIN-----\n{body}\n-----END-----\n"


def _keyfile(passphrase: str, holdings: bytes) -> bytes:
    """Magic, version, log2 n, r, p, salt, nonce; then AES-256-GCM under scrypt's key, the header authenticated."""
    salt, nonce = named("salt", 16), named("nonce of a key file", 12)
    header = b"SPKS" + bytes((1, 14, 8, 1)) + salt + nonce
    key = hashlib.scrypt(passphrase.encode(), salt=salt, n=2**14, r=8, p=1, maxmem=2**26, dklen=32)
    return header + gcm_seal(key, nonce, holdings, header)


def _holdings(people: list[Person], key: bytes, pair: bytes) -> bytes:
    hospitals, coordinator = people[:-1], people[-1]
    epoch = {
        "number": _EPOCH,
        "federation_digest": _DIGEST,
        "predecessor": _PREDECESSOR,
        "steward": "alder",
        "coordinator": coordinator.public,
        "hospitals": [who.public for who in hospitals],
        "commitment": _commitment(key),
        "key": key,
        "pair_secrets": {"birch": pair},
    }
    held = {"name": "alder", "private": people[0].private, "coordinator": False}
    return pack({"schema": 1} | held | {"epochs": [epoch], "removed": ["gone"]})


def keys(stored: dict) -> dict:
    """Identities, the federation key and what derives from it, the files of the ceremony, a key file."""
    people = [person(name) for name in _NAMES]
    alder, birch, _, server = people
    plain = _key(_EPOCH, KEY)
    rings = [packed_key(ternary(named(name))) for name in ("ring key", "ring key of similarity")]
    encrypted = _key(_EPOCH, KEY, *rings)
    statement = _statement(_commitment(plain), alder, people)
    to_all, to_birch, pair = (_place(3, alder, _EVERYONE), _place(1, alder, birch.fingerprint), OTHER_KEY)
    paired = _place(2, alder, birch.fingerprint)

    def kept(name: str) -> bytes:
        return bytes.fromhex(stored.get(name, ""))

    signature = alder.signature(kept("signature"), b"data", b"test")
    noticed = alder.signature(kept("notice")[len(to_all) :][:SIGNATURE_BYTES], to_all + statement, b"roster")
    rest = len(statement).to_bytes(4, "big") + statement + plain
    grant = _sealed(kept("grant"), birch, alder, to_birch, rest, (to_birch + statement, b"grant"))
    proof = (paired + hashlib.sha256(pair).digest(), b"pair secret")
    holdings = _holdings(people, plain, pair)
    names = ("tag", "support", "similarity", "snapshot")
    return {
        "identities": {
            who.name: {"private": who.private.hex(), "public": who.public.hex(), "fingerprint": who.text}
            for who in people
        },
        "signed": {"by": "alder", "data": b"data".hex(), "context": b"test".hex()},
        "signature": signature.hex(),
        "sealed_to": {"to": "birch", "info": b"info".hex(), "plaintext": b"plain".hex()},
        "sealed": birch.sealed(kept("sealed"), b"plain", b"info").hex(),
        "federation_key": {
            "epoch": _EPOCH,
            "root_key": KEY.hex(),
            "plain": plain.hex(),
            "plain_commitment": _commitment(plain).hex(),
            "ring_keys": [ring.hex() for ring in rings],
            "encrypted_commitment": _commitment(encrypted).hex(),
            "encrypted_sha256": hashlib.sha256(encrypted).hexdigest(),
        },
        "derived": {f"{name}_key": derive_key(KEY, f"federation {name} key", _EPOCH).hex() for name in names},
        "digest": _DIGEST.hex(),
        "predecessor": _PREDECESSOR.hex(),
        "card": _card(stored.get("card", ""), server, 1),
        "notice": (to_all + noticed + statement).hex(),
        "grant": grant.hex(),
        "pair_secret": pair.hex(),
        "pair": _sealed(kept("pair"), birch, alder, paired, pair, proof).hex(),
        "holdings": holdings.hex(),
        "passphrase": "correct horse battery",
        "keyfile": _keyfile("correct horse battery", holdings).hex(),
    }


_KINDS = ("INVITATION", "CONTRIBUTION", "DECLINE", "ANSWER", "SURVIVORS", "AGREEMENT", "UNMASK", "REVEAL")
_KINDS += ("RECEIPT", "OPENING", "OPENED", "EVIDENCE", "VERDICT", "ENDED", "SNAPSHOT_WANTED", "SNAPSHOT", "REJOIN")


def envelope(stored: dict) -> dict:
    """A header of each kind, a whole message (header, then signatures and body, sealed with the header as info), and
    two of which a content of three chunks is the end: 2^20 zeros, 2^20 ones, and some text.
    """
    sender, receiver, body = person("alder"), person("server"), b"a body of bytes"
    key, text = named("content key", 32), b"the end"
    content = _content(key, [bytes(_CHUNK), bytes((1,)) * _CHUNK, text])
    before, tied = bytes.fromhex(stored.get("message", "")), bytes.fromhex(stored.get("with_content", ""))
    head, long = _header("CONTRIBUTION", sender, receiver), _header("CONTRIBUTION", sender, receiver, len(content))
    beginning = key + hashlib.sha256(content).digest() + body
    short = _content(key, [text])
    return {
        "sender": {"name": sender.name, "private": sender.private.hex()},
        "receiver": {"name": receiver.name, "private": receiver.private.hex()},
        "digest": _DIGEST.hex(),
        "run": RUN.hex(),
        "round": 3,
        "attempt": 1,
        "headers": {name: _header(name, sender, receiver).hex() for name in _KINDS},
        "body": body.hex(),
        "message": _sealed(before, receiver, sender, head, body, (head + body, b"envelope")).hex(),
        "content_key": key.hex(),
        "short": {"text": text.hex(), "content": short.hex(), "digest": hashlib.sha256(short).hexdigest()},
        "empty": _content(key, [b""]).hex(),
        "long_sha256": hashlib.sha256(content).hexdigest(),
        "with_content": _sealed(tied, receiver, sender, long, beginning, (long + beginning, b"envelope")).hex(),
    }


def _header(kind: str, sender: Person, receiver: Person, content: int = 0) -> bytes:
    """Magic, version, kind, settings and key, run, round 3, attempt 1, who to whom, and the content's length."""
    numbers = (3).to_bytes(4, "big") + (1).to_bytes(4, "big")
    places = _DIGEST + RUN + numbers + sender.fingerprint + receiver.fingerprint + content.to_bytes(8, "big")
    return b"SPFL" + bytes((3, _KINDS.index(kind) + 1)) + places


_CHUNK = 1 << 20


def _content(key: bytes, chunks: list[bytes]) -> bytes:
    """Each chunk under AES-256-GCM; its nonce is its number and whether it is the last. The long ones by the library,
    which gcm_seal agrees with on the short.
    """
    sealed = []
    for number, chunk in enumerate(chunks):
        nonce = bytes(3) + number.to_bytes(8, "big") + bytes((number == len(chunks) - 1,))
        made = AESGCM(key).encrypt(nonce, chunk, b"securepfl content 1")
        assert len(chunk) > 100 or made == gcm_seal(key, nonce, chunk, b"securepfl content 1")
        sealed.append(made)
    return b"".join(sealed)
