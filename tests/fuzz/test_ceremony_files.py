"""Mutated files of the key ceremony: each gives a typed error, also where the steward signed nonsense."""

from collections.abc import Callable

import msgspec
import pytest
from fuzz.mutator import Mutator, fingerprint
from fuzz.stage import Tally

from securepfl.crypto.keys.card import MAX_CARD_BYTES, IdentityCard
from securepfl.crypto.keys.grant import MAX_GRANT_BYTES, Grant, Notice
from securepfl.crypto.keys.identity import PublicIdentity
from securepfl.crypto.keys.keys import FederationKey, Identity
from securepfl.crypto.keys.pair import open_pair, seal_pair
from securepfl.crypto.keys.roster import Roster
from securepfl.errors import MessageError

SEED, EACH, SIGNED = 20240608, 260, 200
STEWARD, HOSPITAL, THIRD, SERVER = map(Identity.generate, ("alder", "birch", "cedar", "server"))
ROSTER = Roster.of("alder", SERVER.public, [STEWARD.public, HOSPITAL.public, THIRD.public])
DIGEST, EPOCH = b"d" * 32, 3
GRANT = Grant(FederationKey.generate(encrypted=True, epoch=EPOCH), ROSTER, predecessor=b"p" * 32)

FILES: dict[str, tuple[bytes, Callable[[bytes], object]]] = {
    "card": (IdentityCard.make(HOSPITAL, coordinator=False).to_text().encode(), IdentityCard.from_text),
    "grant": (
        GRANT.seal_for(HOSPITAL.public, STEWARD, DIGEST),
        lambda data: Grant.open(data, HOSPITAL, STEWARD.public, DIGEST, oldest=EPOCH),
    ),
    "pair": (
        seal_pair(b"s" * 32, HOSPITAL, THIRD.public, federation_digest=DIGEST, epoch=EPOCH),
        lambda data: open_pair(data, THIRD, HOSPITAL.public, federation_digest=DIGEST, epoch=EPOCH),
    ),
    "notice": (
        GRANT.notice(DIGEST).sign(STEWARD),
        lambda data: Notice.open(data, STEWARD.public, DIGEST, oldest=EPOCH),
    ),
}


def opened(name, data, tally):
    """What a file gives; a refusal is counted, anything but a MessageError is a fault."""
    try:
        found = FILES[name][1](data)
    except MessageError:
        tally.outcomes["MessageError"] += 1
        return None
    except Exception as error:  # noqa: BLE001 (finding these is what a fuzzer is for)
        tally.outcomes[f"crash {type(error).__name__}"] += 1
        tally.faults.append(f"{name}: {error!r}")
        return None
    tally.outcomes["accepted"] += 1
    return found


@pytest.mark.parametrize("name", FILES)
def test_altered_files_are_refused(name, capsys, record_property):
    genuine, tally, mutator = FILES[name][0], Tally(), Mutator(SEED + list(FILES).index(name))
    material = [data for data, _ in FILES.values()]
    whole = opened(name, genuine, Tally())
    for _ in range(EACH):
        operation, data = mutator.file(genuine, material)
        found = opened(name, data, tally)
        # A card may come with other line ends or blanks around it: it is the same card.
        if found is not None and not (name == "card" and found == whole and data.strip() == genuine.strip()):
            tally.faults.append(f"{name} {operation}: accepted")
    assert whole is not None and tally.faults == [] and tally.count == EACH
    assert tally.outcomes["MessageError"] > EACH - 10
    record_property(name, tally.line())
    with capsys.disabled():
        print(f"\naltered {name}s: {tally.count}: {tally.line()}")


@pytest.mark.parametrize("name", ["grant", "notice"])
def test_what_the_steward_signs_is_refused_where_it_is_no_roster(name, monkeypatch):
    """Behind valid signatures: MessagePack of other forms, other names, other lengths."""
    mutator, tally = Mutator(SEED + 50), Tally()
    statement = GRANT.notice(DIGEST).statement()
    genuine = opened(name, FILES[name][0], Tally())
    for _ in range(SIGNED):
        _, details = mutator.body(
            statement[32:], ["alder", "birch", "server", HOSPITAL.public.fingerprint], [statement]
        )
        other = statement[:32] + details if mutator.random.random() < 0.9 else mutator.random.randbytes(20)
        with monkeypatch.context() as patch:
            patch.setattr(Notice, "statement", lambda self, other=other: other)
            data = (
                GRANT.seal_for(HOSPITAL.public, STEWARD, DIGEST)
                if name == "grant"
                else GRANT.notice(DIGEST).sign(STEWARD)
            )
        found = opened(name, data, tally)
        # The steward approves whom it likes: what was taken is what it signed.
        if found is not None and fingerprint(signed_roster(details)) != fingerprint(dict(found.roster.fingerprints)):
            tally.faults.append(f"{name}: not what was signed")
    assert genuine is not None and tally.faults == [] and tally.count == SIGNED
    assert tally.outcomes["MessageError"] > SIGNED // 2


def signed_roster(details):
    return msgspec.msgpack.decode(details)["fingerprints"]


def test_the_fuzzer_finds_files_whose_signatures_nobody_checks(monkeypatch):
    monkeypatch.setattr(PublicIdentity, "verify", lambda *_: None)
    mutator, found = Mutator(SEED), 0
    for _ in range(100):
        try:
            Notice.open(mutator.file(FILES["notice"][0], [b"x" * 500])[1], STEWARD.public, DIGEST)
        except MessageError:
            continue
        found += 1
    assert found > 10


def test_oversized_files_are_refused_before_they_are_parsed():
    for name, most in (("card", MAX_CARD_BYTES), ("grant", MAX_GRANT_BYTES)):
        genuine, read = FILES[name]
        with pytest.raises(MessageError):
            read(genuine + bytes(most))
