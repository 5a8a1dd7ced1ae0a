"""`securepfl audit withdraw` at a hospital that took part in a real run, as docs/evidence.md has it."""

import json

import pytest
from click.testing import CliRunner
from enrolled import PASSPHRASE
from evidence_kit import ledgers_of

from securepfl.cli.main import cli
from securepfl.crypto.keys.signing import ledger_verifier
from securepfl.errors import LedgerError
from securepfl.privacy.ledger.summary import verify_ledger
from securepfl.runtime.opening import open_client

SITE = "cedar"


def invoke(*words, **options):
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=True, **options)


def test_a_hospital_withdraws_a_patient_and_trains_on_without(world, tmp_path, monkeypatch):
    header, *rows = world.data(SITE).read_text().splitlines()
    ledger = ledgers_of(world, SITE) / SITE / f"{SITE}.jsonl"
    key = frozenset({world.holdings(SITE).identity.public.ed25519})
    before = verify_ledger(ledger, ledger_verifier(key))
    gone, rest = tmp_path / "gone.csv", tmp_path / "rest.csv"
    gone.write_text("\n".join([header, *rows[:4]]) + "\n")
    rest.write_text("\n".join([header, *rows[4:]]) + "\n")
    asked = ("audit", "withdraw", world.config, "--data", gone, "--site", SITE, "--ledgers", ledgers_of(world, SITE))
    own = ("--folder", world.folder(SITE), "--passphrase-file", world.secret)
    others = ("--folder", world.folder("birch"), "--passphrase-file", world.secret)

    bytes_before = ledger.read_bytes()
    for words, told in (
        ((*asked, "--yes"), "name its folder with --folder"),
        ((*asked, "--yes", *others), "keys of birch"),
        ((*asked, *own), "no terminal to ask whether it is meant; give --yes"),
    ):
        done = invoke(*words, input="n\n")
        assert done.exit_code != 0 and told in f"{done.exception}{done.output}", done.output
        assert ledger.read_bytes() == bytes_before

    done = invoke(*asked, *own, "--yes")
    assert done.exit_code == 0 and "4 records withdrew consent; up to 2 releases" in done.stdout, done.output
    head = done.stdout.split("head ")[1].strip()
    after = verify_ledger(ledger, ledger_verifier(key))
    assert (after.epsilon, after.budget, after.head) == (before.epsilon, before.budget, head)
    (tmp_path / "heads.json").write_text(json.dumps({SITE: [head]}))
    (cut := tmp_path / "cut.jsonl").write_bytes(bytes_before)
    done = invoke("audit", "verify", cut, "--heads", tmp_path / "heads.json")
    assert done.exit_code == 1 and "cut off" in done.stderr

    with pytest.raises(LedgerError, match="cedar: 4 of these records or patients withdrew their consent") as refused:
        _opened(world, world.data(SITE), tmp_path / "run")
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(ledgers_of(world, SITE)))
    with pytest.raises(LedgerError, match="withdrew their consent"):  # a rehearsal trains on patients too
        _opened(world, world.data(SITE), tmp_path / "seeded", ledgers=None, seed=1)
    _opened(world, rest, tmp_path / "rehearsed", ledgers=None, seed=1).client.close()
    assert not any(row.split(",")[1] in str(refused.value) for row in rows[:4])
    _opened(world, rest, tmp_path / "without").client.close()
    assert verify_ledger(ledger, ledger_verifier(key)).epsilon == before.epsilon
    assert "4 records withdrew" in invoke("audit", "verify", ledger, "--key", next(iter(key)).hex()).stdout


@pytest.mark.parametrize(("patient", "lost"), [("id", "1 patient(s)"), (None, "2 row(s)")])
def test_nobody_is_left_out_of_a_withdrawal_unseen(tmp_path, patient, lost):
    """Of b no row is complete: as rows are dropped, b's withdrawal would be forgotten, and b's next record train."""
    named = 'drop = ["id"]\n' if patient is None else f'patient = "{patient}"\n'
    settings = (
        f'[data]\nlabel = "ill"\nmissing = "drop-rows"\n{named}[data.ranges]\nage = {{ centre = 50.0, spread = 9.0 }}\n'
    )
    (tmp_path / "federation.toml").write_text(settings + "[sites]\nnorth = { units = 3 }\n")
    (tmp_path / "gone.csv").write_text("id,age,ill\na,40,1\na,,0\nb,,1\n")
    asked = ("--data", tmp_path / "gone.csv", "--site", "north", "--ledgers", tmp_path / "ledgers", "--yes")
    done = invoke("audit", "withdraw", tmp_path / "federation.toml", *asked)
    assert done.exit_code != 0 and f"{lost} would be left out" in str(done.exception), done.output


def _opened(world, data, out, **options):
    options = {"ledgers": ledgers_of(world, SITE), "device": "cpu"} | options
    return open_client(world.config, data, world.folder(SITE), PASSPHRASE, out, **options)
