"""`securepfl evidence`, and its archives in strangers' hands: real runs, and a script that has no securepfl."""

import ast
import hashlib
import io
import json
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from evidence_kit import SCRIPT, Opened, Stranger, ledgers_of, written_again
from scipy.stats import norm
from small_run import prepare

from securepfl.cli.main import cli
from securepfl.crypto.keys.identity import Identity
from securepfl.crypto.keys.signing import LedgerSigner
from securepfl.privacy.accounting import gaussian
from securepfl.privacy.accounting.events import Release
from securepfl.privacy.ledger.ledger import Budget, Ledger, Terms
from securepfl.privacy.ledger.lines import DeclaredSession, Reduction, Settlement, decode_line, encode_line
from securepfl.report.evidence.archive import packed
from securepfl.report.evidence.verify_evidence import HEADING, delta_of, read_ledger, words
from securepfl.settings.federation import Federation

DOCS = Path(__file__).parents[2] / "docs"


def invoke(*words, **options):
    return CliRunner().invoke(cli, [str(word) for word in words], catch_exceptions=True, **options)


@pytest.fixture(scope="session")
def alder(world):
    return world.holdings("alder").identity


def archived(world, name, path, *words):
    folder = ("--folder", world.folder(name), "--passphrase-file", world.secret)
    return invoke("evidence", world.out(name), *folder, "--out", path, *words)


@pytest.fixture(scope="session")
def archive(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("archive") / "alder.zip"
    done = archived(world, "alder", path, "--purpose", "Triage of <b>charts</b>, by a nurse")
    assert done.exit_code == 0, done.output
    return path.read_bytes()


@pytest.fixture(scope="session")
def opened(archive):
    return Opened.of(archive)


@pytest.fixture(scope="session")
def stranger(tmp_path_factory):
    return Stranger(tmp_path_factory.mktemp("stranger"))


@pytest.fixture(scope="session")
def heads(world):
    """What the coordinator saw of all ledgers."""
    return world.root / "heads.json"


@pytest.fixture(scope="session")
def key(alder):
    return ("--key", alder.public.ed25519.hex())


# What a stranger does with it.


def test_the_stranger_has_no_securepfl_and_the_script_asks_for_none(stranger):
    assert "No module named 'securepfl'" in stranger.runs("import securepfl").stderr
    tree = ast.parse(SCRIPT.read_text())
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported - sys.stdlib_module_names == {"cryptography"}
    assert len([line for line in SCRIPT.read_text().splitlines() if line.strip()]) < 150


def test_a_stranger_with_the_key_and_others_heads_checks_all_of_it(stranger, archive, alder, heads, world):
    stated = world.out("birch") / "state" / "statements.json"
    cases = [(archive, "--key", alder.public.fingerprint, "--heads", its) for its in (heads, stated)]
    done, by_hospital = stranger.checks_all(*cases)
    assert by_hospital.code == 0 and "none is missing up to line 3" in by_hospital.out
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Signed by alder, fingerprint " + alder.public.fingerprint)
    assert "guesses right with probability" in done.out
    assert "none is missing up to line 5" in done.out
    assert done.out.endswith("The archive holds this script.\n")


def test_without_a_key_it_says_first_that_the_signer_is_not_verified(stranger, archive):
    assert stranger.checks(archive).out.startswith("THE SIGNER IS NOT VERIFIED")


def test_the_ledgers_key_will_do_and_another_will_not(stranger, archive, key, world):
    assert stranger.checks(archive, *key).code == 0
    other = world.holdings("birch").identity.public
    cases = [(archive, "--key", given) for given in (other.fingerprint, other.ed25519.hex(), "no key")]
    assert all("by no --key" in told for told in stranger.refuses_all(*cases))


def test_an_archive_that_is_not_there_is_something_to_mend(stranger, archive, tmp_path):
    (tmp_path / "no.json").write_text("[1")
    (tmp_path / "twice.json").write_text('{"alder": "a", "alder": "b"}')
    for name in ("none.json", "no.json", "twice.json"):
        done = stranger.checks(archive, "--heads", tmp_path / name)
        assert (done.code, done.out) == (2, "") and name in done.err and "Traceback" not in done.err, done


def test_heads_that_say_nothing_of_the_hospital_confirm_nothing(stranger, archive, tmp_path):
    for number, said in enumerate(({}, {"birch": "ab"}, {"alder": []}, {"schema": 1, "heads": {}})):
        (path := tmp_path / f"{number}.json").write_text(json.dumps(said))
        assert "says nothing of its ledger" in stranger.refuses(archive, "--heads", path)


def test_libraries_are_not_taken_from_beside_the_script(tmp_path, archive):
    (tmp_path / "verify_evidence.py").write_bytes(SCRIPT.read_bytes())
    (tmp_path / "json.py").write_text("raise SystemExit('taken over')")
    (tmp_path / "archive.zip").write_bytes(archive)
    command = [sys.executable, str(tmp_path / "verify_evidence.py"), str(tmp_path / "archive.zip")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_without_its_one_library_it_says_what_to_install():
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "a.zip"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr == "verify_evidence: first do `pip install 'cryptography>=50'`\n"


def test_the_docs_name_the_scripts_digest():
    assert hashlib.sha256(SCRIPT.read_bytes()).hexdigest() in (DOCS / "evidence.md").read_text()


# What is in it.


def test_the_archive_says_what_the_ledger_says(opened, world):
    readme = opened.files["README.md"].decode()
    said = r"alder had spent epsilon \d+\.?\d* of 40 at delta 1e-05, counted for one record of data set alder\."
    assert re.search(said, readme)
    settings = opened.files["settings.json"]
    assert (
        Federation.from_told(json.loads((world.out("alder") / "result.json").read_text())["federation"], "").canonical
        == settings
    )
    card = opened.files[next(name for name in opened.files if "/" in name)].decode()
    file = world.out("alder") / "experts" / "alder.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() in card
    assert "Triage of &lt;b>charts" in card and "None. What was measured" in card
    for heading in ("Article 35(7)", "Annex IV", "SP 800-226"):
        assert heading in opened.files["headings.md"].decode()
    named = {name for name in ("models/", "audit.json") if any(f.startswith(name) for f in opened.files)}
    lacking = {"models/": "there is no models/", "audit.json": "there is no audit.json"}
    for name, told in lacking.items():
        assert (told in opened.files["headings.md"].decode()) == (name not in named)


def test_nothing_private_is_in_it(opened, world):
    """No metric, no count of rows, no row, no key and no other hospital's budget."""
    whole = b"\n".join(opened.files.values())
    result = json.loads((world.out("alder") / "result.json").read_text())["sites"]["alder"]
    measured = [v for kind in result["metrics"].values() if kind for v in kind.values() if isinstance(v, float)]
    secrets = [repr(v) for v in measured if len(repr(v)) > 6]
    assert secrets
    secrets += [*world.data("alder").read_text().splitlines()[1:], str(world.root)]
    secrets += [world.holdings("alder").identity.to_private_bytes().hex()[:64], '"budget"']
    found = [
        secret
        for secret in secrets
        if secret.encode()
        in whole.replace(opened.files["ledger.jsonl"], b"").replace(opened.files["verify_evidence.py"], b"")
    ]
    assert found == []


def test_it_is_the_same_to_the_byte_but_for_the_signature(world, archive, tmp_path):
    archived(world, "alder", tmp_path / "again.zip", "--purpose", "Triage of <b>charts</b>, by a nurse")
    one, two = Opened.of(archive).files, Opened.of((tmp_path / "again.zip").read_bytes()).files
    assert {name for name in one if one[name] != two[name]} == {"signature.json"} and one.keys() == two.keys()


def test_a_simulations_archive_says_so_and_names_nobody_real(stranger, tmp_path, monkeypatch):
    prepare(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert invoke("run", "federation.toml", "--data", "rows.csv", "--out", "run").exit_code == 0
    done = invoke("evidence", "run", "--site", "Mainz", "--out", "mainz.zip")
    assert done.exit_code == 0 and done.stdout.startswith("**A simulation"), done.output
    data = Path("mainz.zip").read_bytes()
    assert "A simulation" in stranger.checks(data).out
    assert Opened.of(data).files["README.md"].startswith(b"# Privacy evidence\n\n**A simulation")
    assert "One process made all parties" in Opened.of(data).files["README.md"].decode()
    for asked, told in (
        (("run",), "give --site: run has"),
        (("run", "--site", "Bonn"), "--site 'Bonn': run has"),
        (("run", "--site", "Mainz", "--ledger", "rows.csv"), "rows.csv"),
        (("run", "--site", "Mainz", "--ledger", "run/ledger/Köln.snapshot.jsonl"), "is Köln's ledger, not Mainz's"),
        (("run", "--site", "Mainz", "--audit", "run/result.json"), "an audit with no site"),
        (("run", "--site", "Mainz", "--purpose", "a\nb"), "--purpose"),
        (("rows.csv",), "cannot be read"),
        ((), "name a RUN"),
    ):
        done = invoke("evidence", *asked, "--out", "none.zip")
        assert done.exit_code != 0 and told in str(done.exception or done.output) + done.output, (asked, done.output)
    assert not Path("none.zip").exists()


def test_an_audit_of_these_settings_is_taken_in_and_another_is_not(world, tmp_path, opened):
    noise = float(re.search(rb'"noise_multiplier":([0-9.]+)', opened.files["ledger.jsonl"])[1])
    report = {"site": "alder", "unit": "record", "units": 40, "rounds": 2, "delta": 1e-5, "accused": False}
    report |= {"noise_multiplier": noise, "sample_rate": 1.0}
    path = tmp_path / "audit.json"
    said = report | {"sentence": "Nothing contradicts the claim.", "rows": ["a patient's"], "accused": True}
    path.write_text(json.dumps({"schema": 1, "command": "audit attack", "error": None, "result": said}))
    assert archived(world, "alder", tmp_path / "one.zip", "--audit", path).exit_code == 0
    files = Opened.of((tmp_path / "one.zip").read_bytes()).files
    assert b"Nothing contradicts" in files["audit.json"] and b"a patient's" not in files["audit.json"]
    assert b"less private than it claims" in files["README.md"]
    for other, told in (
        ({"rounds": 3}, "rounds 3"),
        ({"noise_multiplier": noise * 4}, "noise_multiplier"),
        ({"sample_rate": 0.5}, "sample_rate 0.5"),
        ({"lower_bound": float("nan")}, "no JSON"),
    ):
        path.write_text(json.dumps(said | {"accused": False} | other))
        done = archived(world, "alder", tmp_path / "two.zip", "--audit", path)
        assert done.exit_code != 0 and told in str(done.exception), (told, done.output)
    assert not (tmp_path / "two.zip").exists()


def test_only_the_hospitals_own_keys_sign(world, tmp_path):
    words = ("--out", tmp_path / "none.zip", "--passphrase-file", world.secret)
    for folder, told in (((), "signs its evidence"), (("--folder", world.folder("birch")), "keys of birch")):
        done = invoke("evidence", world.out("alder"), *words, *folder)
        assert done.exit_code != 0 and told in str(done.exception), done.output


def test_what_the_script_would_refuse_is_never_written(world, alder, tmp_path):
    live = next(ledgers_of(world, "alder").glob("alder/*.jsonl"))
    (ledger := tmp_path / "alder.jsonl").write_bytes(live.read_bytes())
    terms = Terms("alder", "alder", Budget(40.0, 1e-5), simulation=False, seeded=False)
    with Ledger.open(ledger, terms, LedgerSigner(alder, trusting=False)) as opened:
        opened.record("audit", {"notes": "long " * 2**19})
    done = archived(world, "alder", tmp_path / "none.zip", "--ledger", ledger)
    assert done.exit_code != 0 and "would refuse an archive" in str(done.exception)
    assert not (tmp_path / "none.zip").exists()


# Hands that are not the hospital's.


def test_any_file_that_was_changed_is_named(stranger, opened):
    changed = {}
    for name, data in opened.files.items():
        place = len(data) // 2
        changed[name] = packed(opened.files | {name: data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]})
    told = stranger.refuses_all(*((data,) for data in changed.values()))
    for name, line in zip(changed, told, strict=True):
        assert name in line or name in ("manifest.json", "signature.json"), (name, line)


def test_nobody_adds_to_the_signatures_file_or_puts_other_keys_into_it(stranger, opened, alder, key):
    """The last two keys of an identity sign nothing, and what is sealed to the hospital is sealed to them."""
    sheet = json.loads(opened.files["signature.json"])
    other = Identity.generate("alder").public.to_bytes()
    own = alder.public.to_bytes()
    at = 1 + own[0] + 32 + 1952
    cases = (
        sheet | {"note": "checked by the authority"},
        sheet | {"identity": sheet["identity"].upper()},
        sheet | {"identity": sheet["identity"] + "00"},
        sheet | {"identity": (own[:at] + other[at:]).hex()},
    )
    written = [json.dumps(its, indent=1, sort_keys=True).encode() + b"\n" for its in cases]
    written.append(opened.files["signature.json"].replace(b"{", b"{ "))
    told = stranger.refuses_all(*((packed(opened.files | {"signature.json": its}), *key) for its in written))
    assert all("signature.json" in line for line in told), told


def test_files_that_were_added_or_taken_away_are_named(stranger, opened):
    assert "extra.md" in stranger.refuses(packed(opened.files | {"extra.md": b"hello"}))
    assert "threats.md" in stranger.refuses(packed({n: d for n, d in opened.files.items() if n != "threats.md"}))


def test_who_signs_anew_under_the_hospitals_name_is_found_with_and_without_a_key(stranger, opened, key):
    forged = opened.signed(Identity.generate("alder"))
    assert "other signers" in stranger.refuses(forged)
    assert "by no --key" in stranger.refuses(forged, *key)


def _entry(name, data, kind=zipfile.ZIP_STORED):
    entry = zipfile.ZipInfo(name)
    entry.create_system, entry.external_attr, entry.compress_type = 3, 0o100644 << 16, kind
    return entry, data


def _zipped(*entries, comment=b""):
    with zipfile.ZipFile(held := io.BytesIO(), "w") as file:
        for entry, data in entries:
            file.writestr(entry, data)
        file.comment = comment
    return held.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_tricks_with_the_container_are_refused(stranger, archive, opened):
    plain = [_entry(name, data) for name, data in sorted(opened.files.items())]
    bomb = _zipped(_entry("README.md", b"0" * 2**26, zipfile.ZIP_DEFLATED))
    lying = bytearray(archive)
    lying[22:26] = struct.pack("<I", 2**32 - 1)
    tricks = (
        b"junk" + archive,
        archive + b"junk",
        archive[:-1],
        archive[: len(archive) // 2],
        b"",
        b"PK\3\4",
        bytes(lying),
        bomb,
        _zipped(*plain, _entry("README.md", b"another")),
        _zipped(*plain, _entry("../outside.md", b"another")),
        _zipped(*plain, _entry("/etc/passwd", b"another")),
        _zipped(*plain, _entry("models/", b"")),
        _zipped(*plain, comment=b"hidden"),
        _zipped(*plain[::-1]),
        json.dumps({"README.md": 1}).encode(),
    )
    stranger.refuses_all(*((data,) for data in tricks))
    assert _zipped(*plain) == archive


# A hospital that would show less than it spent: it has its own key.


def test_a_smaller_epsilon_on_the_front_page_is_refused(stranger, opened, alder, key):
    readme = opened.files["README.md"].replace(b"had spent epsilon ", b"had spent epsilon 0.")
    assert "README.md says other" in stranger.refuses(opened.signed(alder, README=readme), *key)


def test_smaller_epsilons_on_every_line_are_found_from_the_noise(stranger, opened, alder, key):
    honest = opened.files["ledger.jsonl"]
    cases = []
    for part in (0.999, 0.5, 0.0):
        ledger = written_again(honest, alder, lambda line, part=part: {"epsilon": line.epsilon * part})
        told = read_ledger(honest)
        readme = f"{HEADING}{words(told | {'epsilon': told['epsilon'] * part})}".encode()
        cases.append((opened.signed(alder, ledger=ledger, README=readme), *key))
    assert not any(words(told) in case[0].decode("latin-1") for case in cases)
    assert all("spent more than the epsilon" in line for line in stranger.refuses_all(*cases))


def test_lines_cut_off_show_against_what_others_saw_and_only_so(stranger, opened, alder, key, heads):
    lines = opened.files["ledger.jsonl"].splitlines(keepends=True)
    short = opened.told_anew(alder, b"".join(lines[:3]), without="models/")
    done = stranger.checks(short, *key)
    assert done.code == 0 and "ines cut off at the end do not show" in done.out
    assert "others saw lines that its ledger lacks" in stranger.refuses(short, *key, "--heads", heads)


def test_rounds_reduced_to_nothing_are_told_as_its_word(stranger, opened, alder, key):
    """The last settlement becomes a reduction to no step at all."""
    raw = opened.files["ledger.jsonl"].removesuffix(b"\n").split(b"\n")
    at = max(n for n, line in enumerate(raw) if isinstance(decode_line(line), Settlement))
    line = decode_line(raw[at])
    fields = {name: getattr(line, name) for name in line.__struct_fields__}
    fields["actual"] = msgspec.structs.replace(line.actual, steps=0)
    raw[at] = encode_line(Reduction(**fields, reason="the machine failed"))
    ledger = written_again(b"\n".join(raw) + b"\n", alder, lambda line: {})
    done = stranger.checks(opened.told_anew(alder, ledger), *key)
    assert done.code == 0 and "1 releases count for less than was reserved, on its word" in done.out


def test_another_hospitals_ledger_is_refused(stranger, opened, world, alder, key):
    birch = next(ledgers_of(world, "birch").glob("birch/*.jsonl")).read_bytes()
    swapped = opened.told_anew(alder, birch)
    theirs = world.holdings("birch").identity.public.ed25519.hex()
    assert "another hospital's" in stranger.refuses(swapped, *key)
    assert "another hospital's" in stranger.refuses(swapped, *key, "--key", theirs)


def test_a_released_model_without_a_card_and_other_settings_are_refused(stranger, opened, alder, key):
    first = next(name for name in opened.files if "/" in name)
    assert "no card" in stranger.refuses(opened.signed(alder, without=first), *key)
    raw = opened.files["ledger.jsonl"]
    other_run = _signed_raw(re.sub(rb'("expert":"shared".*?"run":")[0-9a-f]*', rb"\g<1>ab", raw), alder)
    hidden = max(name for name in opened.files if "/" in name)
    assert "no card" in stranger.refuses(opened.told_anew(alder, other_run, without=hidden), *key)
    other = opened.files["settings.json"].replace(b'"rounds":2', b'"rounds":1')
    assert "settings.json" in stranger.refuses(opened.signed(alder, settings=other), *key)


def test_impossible_releases_hide_nothing(stranger, opened, alder, key):
    lines = opened.files["ledger.jsonl"]
    broken = lines.replace(b'"sample_rate":1,', b'"sample_rate":1.5,')
    assert "no real release" in stranger.refuses(opened.signed(alder, ledger=_signed_raw(broken, alder)), *key)


def _signed_raw(ledger, identity, previous="0" * 64):
    """Lines that securepfl would not write, chained and signed anew."""
    made = []
    for line in ledger.removesuffix(b"\n").split(b"\n"):
        raw = re.sub(rb'"previous":"[0-9a-f]*"', b'"previous":"%s"' % previous.encode(), line)
        bare = re.sub(rb'"signature":"[0-9a-f]*",', b"", raw)
        signature = LedgerSigner(identity, trusting=True).sign(b"securepfl ledger line, schema 1\n" + bare).hex()
        made.append(re.sub(rb'"signature":"[0-9a-f]*"', b'"signature":"%s"' % signature.encode(), raw))
        previous = hashlib.sha256(made[-1]).hexdigest()
    return b"\n".join(made) + b"\n"


def test_a_kind_of_line_that_the_script_does_not_know_is_refused(stranger, opened, alder, key):
    strange = opened.files["ledger.jsonl"].replace(b'"kind":"settlement"', b'"kind":"gift"', 1)
    told = stranger.refuses(opened.signed(alder, ledger=_signed_raw(strange, alder)), *key)
    assert "take a newer one" in told


def _told(tmp_path, *releases, budget=1e6):
    """What the script reads off a ledger of these releases, and its bytes."""
    path, signer = tmp_path / "north.jsonl", LedgerSigner(Identity.generate("north"), trusting=True)
    terms = Terms("north", "biopsies", Budget(budget, 1e-5), simulation=False, seeded=False)
    with Ledger.open(path, terms, signer) as ledger:
        for number, release in enumerate(releases, 1):
            ledger.settle(ledger.reserve(release, federation="ab" * 32, round=number, attempt=0), release)
    return path.read_bytes(), signer.identity


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(2.0, 0.1, 200), (5.0, 0.2, 500), (1.5, 0.25, 40), (1.0, 0.01, 1000)]
)
def test_of_sampled_steps_the_script_accuses_gross_lies_and_no_truth(tmp_path, noise, rate, steps):
    ledger, identity = _told(tmp_path, Release(noise_multiplier=noise, sample_rate=rate, steps=steps))
    told = read_ledger(ledger)
    assert told["mu"] is None and "by the noise on its lines" not in words(told)
    with pytest.raises(ValueError, match="spent more"):
        read_ledger(written_again(ledger, identity, lambda line: {"epsilon": line.epsilon / 5}))


def test_several_kinds_are_told_as_the_budget_at_twice_its_delta(tmp_path):
    kinds = [Release(noise_multiplier=noise, sample_rate=0.1, steps=20) for noise in (3.0, 2.0)]
    ledger, _ = _told(tmp_path, *kinds, budget=4.0)
    assert read_ledger(ledger)["mixed"] and "what holds is epsilon 4 at delta 2e-05" in words(read_ledger(ledger))


@pytest.mark.parametrize("mu", [0.05, 0.9, 3.0, 12.0, 29.0, 31.0, 33.0, 1000.0])
def test_the_scripts_formula_is_the_accountants(mu):
    for delta in (1e-3, 1e-5, 1e-9):
        epsilon = gaussian.epsilon_of(mu, delta)
        assert delta_of(epsilon, mu) == pytest.approx(delta, rel=4e-4)


def test_no_private_mechanism_lets_anybody_guess_better_than_the_words_say():
    """Over all tests of a Gaussian: the best guess, and the bound from (epsilon, delta) above it."""
    for mu in (0.3, 1.0, 2.5):
        cuts = np.linspace(-4, 8, 4001)
        best = float(((norm.cdf(cuts) + norm.sf(cuts - mu)) / 2).max())
        assert best == pytest.approx(norm.cdf(mu / 2), abs=1e-6)
        for delta in (1e-2, 1e-5):
            epsilon = gaussian.epsilon_of(mu, delta)
            assert best <= 1 - (1 - delta) / (1 + np.exp(epsilon))


def test_the_session_of_the_ledger_is_by_the_key_that_signs(opened, alder):
    first = decode_line(opened.files["ledger.jsonl"].split(b"\n")[0])
    assert isinstance(first, DeclaredSession) and first.public_key == alder.public.ed25519.hex()


# What a hospital could write into a ledger of its own hands, that securepfl never writes.


def test_one_line_that_reads_in_two_ways_is_refused(stranger, opened, alder, key):
    twice = opened.files["ledger.jsonl"].replace(b'"epsilon":', b'"epsilon":99,"epsilon":')
    assert "says one thing twice" in stranger.refuses(opened.signed(alder, ledger=_signed_raw(twice, alder)), *key)


def test_units_and_numbers_that_are_none_are_refused(stranger, opened, alder, key):
    raw = opened.files["ledger.jsonl"]
    first = re.search(rb'"id":"([0-9a-f]+)"', raw)[1]
    named = _signed_raw(raw.replace(first, b"patient"), alder)
    assert "counted for one record" in words(read_ledger(named))
    cases = {
        "several units": raw.replace(b'"unit":"record"', b'"unit":"patient"', 2),
        "holds no real release": raw.replace(b'"steps":1', b'"steps":0.5'),
        "epsilon or delta that is none": raw.replace(b'"delta":0.00001', b'"delta":1.5'),
        "name that hides something": raw.replace(b'"data_set":"alder"', b'"data_set":"alder\\nAll was verified."'),
        "settles what was not reserved": raw.replace(first, b"ab", 1),
        "mixes hospitals": raw.replace(b'"site":"alder"', b'"site":"birch"', 1),
    }
    archives = [(opened.signed(alder, ledger=_signed_raw(its, alder)), *key) for its in cases.values()]
    for told, line in zip(cases, stranger.refuses_all(*archives), strict=True):
        assert told in line, line


def test_another_script_in_the_archive_is_told(stranger, opened, alder, key):
    done = stranger.checks(opened.signed(alder, verify_evidence=b"print('all holds')"), *key)
    assert done.code == 0 and done.out.endswith("The archive holds ANOTHER script.\n")


def test_nothing_goes_on_in_the_paragraph_that_is_checked(stranger, opened, alder, key):
    more = opened.files["README.md"].replace(b"mere guess.\n", b"mere guess.\nAudited: it is 0.5.\n")
    assert "README.md says other" in stranger.refuses(opened.signed(alder, README=more), *key)


def test_an_earlier_key_of_the_hospitals_signs_no_later_ledger(stranger, opened, alder):
    """Who got hold of keys that the hospital gave up could otherwise write its cards."""
    earlier = Identity.generate("alder")
    raw = opened.files["ledger.jsonl"].splitlines(keepends=True)
    old = written_again(raw[0], earlier, lambda line: {"public_key": earlier.public.ed25519.hex()})
    both = old + _signed_raw(b"".join(raw), alder, hashlib.sha256(old.rstrip()).hexdigest())
    named = [word for one in (earlier, alder) for word in ("--key", one.public.ed25519.hex())]
    assert stranger.checks(opened.told_anew(alder, both, without="models/"), *named).err.endswith("no model\n")
    assert "sign by the last" in stranger.refuses(opened.told_anew(earlier, both), *named)


def test_steps_of_many_kinds_hide_no_epsilon(tmp_path):
    """Each round's noise a little other, so that no kind shows anything alone."""
    kinds = [Release(noise_multiplier=1 + n / 1e6, sample_rate=0.999, steps=1) for n in range(8)]
    ledger, identity = _told(tmp_path, *kinds, budget=100.0)
    read_ledger(ledger)
    with pytest.raises(ValueError, match="spent more"):
        read_ledger(written_again(ledger, identity, lambda line: {"epsilon": line.epsilon / 10}))


@pytest.mark.parametrize("seed", range(6))
def test_no_honest_mixture_is_accused(tmp_path, seed):
    draw = np.random.default_rng(seed)
    kinds = [
        Release(noise_multiplier=float(draw.uniform(0.8, 6)), sample_rate=float(draw.choice([0.01, 0.3, 1])), steps=n)
        for n in (1, 7, 40)
    ]
    read_ledger(_told(tmp_path, *kinds, budget=1e4)[0])


def test_a_budget_lowered_below_what_was_spent_is_not_what_holds(tmp_path):
    kinds = [Release(noise_multiplier=noise, sample_rate=0.1, steps=20) for noise in (1.5, 1.0)]
    ledger, identity = _told(tmp_path, *kinds, budget=40.0)
    terms = Terms("north", "biopsies", Budget(0.5, 1e-5), simulation=False, seeded=False, raise_budget=True)
    path = tmp_path / "north.jsonl"
    Ledger.open(path, terms, LedgerSigner(identity, trusting=True)).close()
    assert "of 0.5 at delta" in words(read_ledger(path.read_bytes()))
    assert "what holds is epsilon 40 at delta 2e-05" in words(read_ledger(path.read_bytes()))
    assert "largest budget, epsilon 40, at delta 2e-05" in invoke("audit", "verify", path).stdout
    low = written_again(ledger, identity, _lowered)
    with pytest.raises(ValueError, match="spent more"):
        read_ledger(low)


def _lowered(line):
    """All its budgets are said to have been next to nothing: of a mixture the budget is what is told."""
    return {"budget": Budget(0.01, 1e-5)} if isinstance(line, DeclaredSession) else {}
