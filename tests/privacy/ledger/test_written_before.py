"""simulated_demo.jsonl is, byte for byte, the ledger of one simulated hospital that the version before the move into
folders wrote: `securepfl run --rounds 3`. Nobody's data are in it. What that version said of it stands below."""

import hashlib
import json
import math
from pathlib import Path

import pytest
import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from scipy.optimize import brentq
from scipy.special import ndtr

from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner, ledger_verifier
from securepfl.errors import BudgetError, LedgerError
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.history import History, replay
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.lines import decode_line, encode_line, reservation_id
from securepfl.privacy.ledger.summary import against_heads, verify_ledger

DEMO = Path(__file__).with_name("simulated_demo.jsonl")
CONTENT = DEMO.read_bytes()
LINES = CONTENT.splitlines()
SITE, RUN, FEDERATION = (
    "simulated-north",
    "6a5d4df888f1a579",
    "e072f6c46217564de36ba593b299332306dff129eec502b6a7cfe5d80daf1320",
)
KEY = bytes.fromhex("31cad6adf5dbb152e260215b342b05ac0629baecba095e119e0fe48d59ea4c19")
HASHES = (
    "f18aa34d8d43ab46815848f13464985c0b87c329a6bee52f9100f0cd9e461243",
    "beeca8a110f73687c565544f2cd3f40e13c09de33e09a189ab1d6868bc2f7892",
    "22c67ebc07afa557d6ffe18787ac2e62fa7f0a67529cface3e32d05a83a6b41b",
    "c9402f21e97ff8ede8f7c87098d20a3caf2f81d534e01c75432a1f50a2844feb",
    "894c0df926c6c30cfbef6b779b2a8afd5eb7c67efcff5a04cb310c1dccea44ee",
    "728f84bc6005e36ae429d3ba47231fbaa2b41b9adb69361dfbcf6fc61ba46ab4",
    "cc02563eae3af86254f7ddb0e3406a5db69ef80eeadbc78ce293f24fac1bb83f",
    "745079745f5becf082738fba51ff246cb924cb9fe5ebf738a4412cbc9a1bd7d0",
    "dda783f57a27efff70cf4bb863a819ba0d99b766d3ea963c19eaba24978ac303",
)
SPENT = (2.145260218864653, 3.1716445836181797, 3.999999995393002)
RELEASE = Release(steps=1, noise_multiplier=1.8726272564468476, sample_rate=1.0, unit="record")
trusted = ledger_verifier([KEY])


@pytest.fixture
def path(tmp_path):
    copy = tmp_path / "ledger.jsonl"
    copy.write_bytes(CONTENT)
    return copy


def terms(epsilon=4.0, **changes):
    fields = {"site": SITE, "data_set": SITE, "simulation": True, "seeded": False, "budget": Budget(epsilon, 1e-5)}
    return Terms(**fields | changes)


def signer():
    return LedgerSigner(Identity.generate(SITE), trusting=True)


def test_it_verifies_and_says_what_the_version_before_said_of_it():
    summary = verify_ledger(DEMO, trusted)
    assert (summary.epsilon, summary.epsilon_reserved, summary.epsilon_replace_one) == (
        SPENT[-1],
        SPENT[-1],
        pytest.approx(9.084731291898947, rel=1e-9),
    )
    assert (summary.budget, summary.unit, summary.releases) == (Budget(4.0, 1e-5), "record", (RELEASE,) * 3)
    assert [(spend.run, spend.federation, spend.round, spend.epsilon) for spend in summary.rounds] == [
        (RUN, FEDERATION, number, spent) for number, spent in enumerate(SPENT, start=1)
    ]
    assert (summary.lines, summary.public_keys, summary.unsettled, summary.settled_below) == (9, (KEY,), 0, 0)
    assert (summary.simulation, summary.seeded) == (True, False)
    assert summary.hashes == HASHES
    assert against_heads(DEMO, summary, [HASHES[6]]).seen == 7


def test_its_bytes_are_what_would_be_written_today():
    assert b"".join(encode_line(decode_line(line)) + b"\n" for line in LINES) == CONTENT
    assert tuple(hashlib.sha256(line).hexdigest() for line in LINES) == HASHES
    lines = [json.loads(line) for line in LINES]
    assert [line["previous"] for line in lines] == ["0" * 64, *HASHES[:-1]]
    assert [line["id"] for line in lines if line["kind"] == "reservation"] == [
        reservation_id(RUN, FEDERATION, number, 0) for number in (1, 2, 3)
    ]


def test_every_byte_of_it_counts():
    """One bit of each byte, another one from byte to byte. The lines before are intact, so replay goes on from them."""
    for number, data in enumerate(LINES, start=1):
        for position in range(len(data)):
            changed = bytearray(data)
            changed[position] ^= 1 << position % 8
            history = History()
            list(replay("ledger.jsonl", LINES[: number - 1], lambda *line: None, history))
            with pytest.raises(LedgerError, match=f"ledger.jsonl: line {number} "):
                list(replay("ledger.jsonl", [bytes(changed).split(b"\n")[0]], trusted, history, number))


def test_a_line_fewer_anywhere_is_found_but_at_the_end_only_by_its_head(path):
    for gone in range(len(LINES) - 1):
        path.write_bytes(b"".join(line + b"\n" for at, line in enumerate(LINES) if at != gone))
        with pytest.raises(LedgerError, match=f"line {gone + 1} "):
            verify_ledger(path, trusted)
    path.write_bytes(b"".join(line + b"\n" for line in LINES[:-1]))
    assert verify_ledger(path, trusted).lines == 8
    with pytest.raises(LedgerError, match=f"cut off or replaced since others saw head {HASHES[-1]}"):
        verify_ledger(path, trusted, [HASHES[-1]])


def test_a_later_run_goes_on_from_what_it_spent(path):
    with Ledger.open(path, terms(), signer()) as ledger:
        assert ledger.spent() == SPENT[-1]
        with pytest.raises(BudgetError, match=f"{SITE}: round 1 "):
            ledger.reserve(RELEASE, federation=FEDERATION, round=1, attempt=0)
    with Ledger.open(path, terms(5.0, raise_budget=True), signer()) as ledger:
        ledger.settle(ledger.reserve(RELEASE, federation=FEDERATION, round=1, attempt=0), RELEASE)
    assert path.read_bytes().startswith(CONTENT)
    summary = verify_ledger(path, ledger_verifier(None))
    assert (summary.lines, len(summary.releases), len(summary.public_keys)) == (13, 4, 3)
    assert SPENT[-1] < summary.epsilon <= 5.0


def test_the_run_that_wrote_it_reserves_no_round_a_second_time(path):
    with Ledger.open(path, terms(9.0, raise_budget=True), signer(), run=RUN) as ledger:
        assert ledger.knows_run
        for number in (1, 2, 3):
            assert ledger.has_reserved(federation=FEDERATION, round=number, attempt=0)
            with pytest.raises(LedgerError, match=f"round {number}, attempt 0 is already reserved"):
                ledger.reserve(RELEASE, federation=FEDERATION, round=number, attempt=0)
        ledger.reserve(RELEASE, federation=FEDERATION, round=4, attempt=0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"site": "simulated-south"}, "site"),
        ({"data_set": "biopsies"}, "data set"),
        ({"simulation": False}, "real runs"),
    ],
)
def test_it_serves_no_other_hospital_data_or_kind_of_run(path, changes, named):
    with pytest.raises(LedgerError, match=named):
        Ledger.open(path, terms(**changes), signer())
    assert path.read_bytes() == CONTENT


def test_a_stranger_recomputes_it_from_the_file_and_the_documentation_alone():
    """By docs/ledger.md: hash chain, signatures, and epsilon by the Gaussian mechanism's own formula."""
    previous, squares = "0" * 64, 0.0
    for raw in LINES:
        line = json.loads(raw)
        assert line["previous"] == previous and rfc8785.dumps(line) == raw
        previous, signature = hashlib.sha256(raw).hexdigest(), bytes.fromhex(line.pop("signature"))
        signed = b"securepfl ledger signature 1securepfl ledger line, schema 1\n" + rfc8785.dumps(line)
        Ed25519PublicKey.from_public_bytes(KEY).verify(signature, signed)
        if line["kind"] == "reservation":
            squares += line["release"]["steps"] / line["release"]["noise_multiplier"] ** 2
            mu = math.sqrt(squares)
            assert line["epsilon"] == pytest.approx(_gaussian(mu, 1e-5), rel=1e-6)
    assert previous == HASHES[-1] and mu > 0


def _gaussian(mu, delta):
    return brentq(lambda e: ndtr(mu / 2 - e / mu) - math.exp(e) * ndtr(-mu / 2 - e / mu) - delta, 0, 100)
