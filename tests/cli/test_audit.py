"""`securepfl audit` as its users run it, on ledgers of real rounds; in processes of their own where exits matter."""

import json
import re
import subprocess

import msgspec
import pytest
from click.testing import CliRunner
from forked import python
from parties import close_all, exchange, federation_of, parties

from securepfl.cli.main import cli
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.errors import ConfigError
from securepfl.privacy.accounting.accounting import epsilon
from securepfl.privacy.accounting.calibration import noise_multiplier_for
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms

ROUNDS = 3
RELEASE = Release(noise_multiplier=4.0, sample_rate=1.0, steps=3)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(ledger of alder, heads.json, alder's public key) after a whole run."""
    folder = tmp_path_factory.mktemp("run")
    coordinator, clients = parties(federation_of(rounds=ROUNDS, privacy={"budget": 8.0}), folder)
    for _ in range(ROUNDS):
        exchange(coordinator, clients)
    close_all(clients)
    heads = folder / "heads.json"
    heads.write_text(json.dumps(coordinator.heads))
    key = clients["alder"].session.keyring.identity.public.ed25519.hex()
    return folder / "ledgers" / "alder" / "alder.simulated.jsonl", heads, key


def invoke(*arguments):
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], catch_exceptions=True)


def in_a_process(*arguments):
    command = [*python(), "-m", "securepfl", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def altered(path, folder, change):
    lines = path.read_bytes().splitlines(keepends=True)
    copy = folder / "altered.jsonl"
    copy.write_bytes(b"".join(change(lines)))
    return copy


def test_budget_says_what_each_round_cost_and_what_is_left(run):
    found = json.loads(invoke("audit", "budget", run[0], "--json").stdout)["result"]
    assert (found["site"], found["unit"], found["budget"], found["unsettled"]) == ("alder", "record", 8.0, 0)
    assert [entry["round"] for entry in found["rounds"]] == [1, 2, 3]
    spends = [entry["epsilon"] for entry in found["rounds"]]
    assert spends == sorted(spends) and spends[0] > 0
    assert found["spent"] == spends[-1] == pytest.approx(4.0, rel=1e-3)
    assert found["left"] == pytest.approx(8.0 - found["spent"])
    noise = noise_multiplier_for(4.0, 1e-5, 1.0, ROUNDS)
    assert all(entry["release"]["noise_multiplier"] == pytest.approx(noise) for entry in found["rounds"])


def test_budget_prints_a_table_a_person_can_read(run):
    output = invoke("audit", "budget", run[0]).stdout
    for text in (
        "alder",
        "spent",
        "left",
        "one record was in the data (zero-out)",
        "(replace-one)",
        "full batch",
        "simulation",
    ):
        assert text in output


def test_budget_draws_a_plot(run, tmp_path):
    pytest.importorskip("matplotlib", reason="drawn with the optional matplotlib")
    assert invoke("audit", "budget", run[0], "--plot", tmp_path / "spent.png").exit_code == 0
    assert (tmp_path / "spent.png").read_bytes().startswith(b"\x89PNG")
    wrong = invoke("audit", "budget", run[0], "--plot", tmp_path / "spent.nonsense")
    assert isinstance(wrong.exception, ConfigError) and "--plot" in str(wrong.exception)


def test_a_whole_ledger_verifies(run):
    ledger, heads, key = run
    done = in_a_process("audit", "verify", ledger, "--heads", heads, "--key", key)
    assert done.returncode == 0, done.stderr
    assert "each epsilon recomputed" in done.stdout
    assert "none up to there is missing" in done.stdout


def test_without_heads_or_key_verify_says_what_it_could_not_see(run):
    output = invoke("audit", "verify", run[0]).stdout
    assert "--heads" in output and "--key" in output


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda lines: [*lines[:2], lines[2].replace(b'"steps":1', b'"steps":0'), *lines[3:]], 3),
        (lambda lines: [*lines[:3], *lines[4:]], 4),
        (lambda lines: [*lines[:1], lines[2], lines[1], *lines[3:]], 2),
    ],
    ids=["altered", "left out", "swapped"],
)
def test_the_first_wrong_line_is_named_and_the_exit_is_one(run, tmp_path, change, line):
    done = in_a_process("audit", "verify", altered(run[0], tmp_path, change))
    assert done.returncode == 1
    assert f"line {line} " in done.stderr and done.stderr.count("\n") == 1


def test_lines_cut_off_show_against_the_heads_and_only_against_them(run, tmp_path):
    ledger, heads, _ = run
    short = altered(ledger, tmp_path, lambda lines: lines[:-2])
    assert in_a_process("audit", "verify", short).returncode == 0
    done = in_a_process("audit", "verify", short, "--heads", heads)
    assert done.returncode == 1 and "head" in done.stderr


@pytest.mark.parametrize("keeper", ["birch", "damson"])
def test_lines_cut_off_show_against_any_hospitals_record(run, tmp_path, keeper):
    ledger, record = run[0], run[1].parent / keeper / "statements.json"
    whole = in_a_process("audit", "verify", ledger, "--heads", record)
    assert whole.returncode == 0 and "none up to there is missing" in whole.stdout
    short = altered(ledger, tmp_path, lambda lines: lines[:-4])
    done = in_a_process("audit", "verify", short, "--heads", record)
    assert done.returncode == 1 and "cut off or replaced since others saw head" in done.stderr


def written(path, *sessions):
    """A ledger of the sessions given: (epsilon, delta, what each of its rounds is settled for)."""
    signer = LedgerSigner(Identity.generate("north"), trusting=True)
    for number, (most, delta, settled) in enumerate(sessions):
        terms = Terms("north", "rows", Budget(most, delta), simulation=True, seeded=False, raise_budget=True)
        with Ledger.open(path, terms, signer) as ledger:
            for round_, steps in enumerate(settled, start=10 * number):
                id_ = ledger.reserve(RELEASE, federation="ab" * 32, round=round_, attempt=0)
                ledger.reduce(id_, msgspec.structs.replace(RELEASE, steps=steps), reason="the rest failed")
    return path


def test_what_rests_on_the_hospitals_word_is_said(tmp_path):
    ledger = written(tmp_path / "ledger.jsonl", (10.0, 1e-5, [0, 3]))
    reserved = epsilon([RELEASE, RELEASE], 1e-5)
    for command in ("verify", "budget"):
        output = invoke("audit", command, ledger).stdout
        assert "1 round(s) were settled for less than they reserved" in output and f"{reserved:.6g}" in output


def test_a_budget_that_was_moved_is_said_and_all_rounds_are_at_its_delta(tmp_path):
    ledger = written(tmp_path / "ledger.jsonl", (10.0, 1e-5, [3]), (100.0, 1e-3, [3]))
    assert "went from epsilon 10 at delta 1e-05 to 100 at 0.001" in invoke("audit", "verify", ledger).stdout
    found = json.loads(invoke("audit", "budget", ledger, "--json").stdout)["result"]
    assert [entry["epsilon"] for entry in found["rounds"]] == [
        pytest.approx(epsilon([RELEASE] * count, 1e-3)) for count in (1, 2)
    ]


def test_an_unfinished_line_that_was_dropped_is_said(tmp_path):
    ledger = written(tmp_path / "ledger.jsonl", (10.0, 1e-5, [3]))
    ledger.write_bytes(ledger.read_bytes()[:-40])
    written(ledger, (10.0, 1e-5, []))
    assert "bytes of an unfinished line were dropped" in invoke("audit", "verify", ledger).stdout


def test_names_cannot_write_to_the_terminal(tmp_path):
    for name in ("north\x1b[2Jsouth", "north\nspent epsilon 0", "\u202enorth"):
        terms = Terms(name, "rows", Budget(1.0, 1e-5), simulation=True, seeded=False)
        with pytest.raises(ValueError, match="schema 1"):
            Ledger.open(tmp_path / "ledger.jsonl", terms, LedgerSigner(Identity.generate("north"), trusting=True))


def test_another_key_is_not_trusted(run):
    done = in_a_process("audit", "verify", run[0], "--key", "00" * 32)
    assert done.returncode == 1 and "no --key given" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "heads.json of a run"),
        ('{"alder": []}', "hexadecimal"),
        ('{"alder": "00", "alder": []}', "twice"),
        ('{"birch": "00"}', "no head of 'alder'"),
        ('{"alder": "xyz"}', "hexadecimal"),
    ],
)
def test_heads_of_another_form_are_the_users_to_mend(run, tmp_path, content, message):
    heads = tmp_path / "heads.json"
    heads.write_text(content)
    done = in_a_process("audit", "verify", run[0], "--heads", heads)
    assert done.returncode == 2 and message in done.stderr


def test_a_key_that_is_none_is_refused(run):
    assert "64 hexadecimal digits" in str(invoke("audit", "budget", run[0], "--key", "abc").exception)


def test_attack_finds_nothing_against_a_correct_build():
    # A correct build is accused once in a hundred times; four times in a row is no chance.
    for _ in range(4):
        result = invoke("audit", "attack", "--canaries", 60, "--runs", 5, "--json", "-v")
        report = json.loads(result.stdout)["result"]
        if not report["accused"]:
            break
    assert result.exit_code == 0 and not report["accused"]
    assert report["claimed_epsilon"] == pytest.approx(4.0, rel=1e-3)
    assert report["lower_bound"] <= report["claimed_epsilon"] and report["canaries"] == 60
    assert len(report["verdicts"]) == 5
    assert re.search(r"^(\d+) of \1 rehearsals$", result.stderr, re.MULTILINE), "a log hears that it goes on"


def test_attack_accuses_noise_of_half_the_size_and_exits_with_one(monkeypatch):
    from securepfl.randomness import RandomStream

    gaussian = RandomStream.gaussian
    monkeypatch.setattr(RandomStream, "gaussian", lambda self, count: gaussian(self, count) / 2)
    result = invoke("audit", "attack", "--canaries", 60, "--runs", 5)
    assert result.exit_code == 1
    assert "less private than its claim" in result.stdout


def test_attack_refuses_what_it_cannot_rehearse(tmp_path):
    config = tmp_path / "federation.toml"
    config.write_text('[model]\nkind = "own"\npersonal = []\n')
    (tmp_path / "rows.csv").write_text("a\n1\n")
    result = invoke("audit", "attack", config, "--data", tmp_path / "rows.csv")
    assert "securepfl.runtime.client_rounds.rehearsed" in str(result.exception)


def test_ledgers_are_listed_with_what_they_spent_and_where_they_lie(run, tmp_path):
    place = run[0].parent.parent
    found = json.loads(invoke("audit", "ledgers", "--ledgers", place, "--json").stdout)["result"]
    assert [(one["site"], one["data_set"], one["kind"]) for one in found] == [
        (name, name, "simulated") for name in ("alder", "birch", "cedar", "damson")
    ]
    assert found[0]["ledger"] == str(run[0]) and 0 < found[0]["spent"] <= found[0]["budget"] == 8.0
    shown = invoke("audit", "ledgers", "--ledgers", place, "--site", "alder").stdout
    assert str(run[0]) in shown and "birch" not in shown
    assert "no ledgers in" in invoke("audit", "ledgers", "--ledgers", tmp_path).stdout


def test_a_snapshot_is_called_one_by_both_commands(run, tmp_path):
    copy = tmp_path / "alder.snapshot.jsonl"
    copy.write_bytes(run[0].read_bytes())
    for command in ("budget", "verify"):
        assert "a snapshot: what was spent since" in " ".join(invoke("audit", command, copy).stdout.split())
        assert "a snapshot" not in invoke("audit", command, run[0]).stdout
