"""What operators read of a run: every line whole, bounded, and without a secret."""

import base64
import io
import json
import re

from enrolled import PASSPHRASE, enrol_all

from securepfl.errors import StorageError
from securepfl.runtime.hub import HubSession
from securepfl.runtime.logs import LOG, failed, open_log
from securepfl.runtime.visits import HospitalSession


def lines_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_a_line_has_its_fields_in_order_and_a_short_one_goes_to_the_console(tmp_path):
    console = io.StringIO()
    log = open_log(tmp_path, "hub", console)
    log.info("came", seconds=0.25, bytes=1200, hospital="north", kind="CONTRIBUTION", round=3)
    (line,) = lines_of(tmp_path)
    assert list(line) == ["time", "level", "event", "party", "round", "hospital", "kind", "bytes", "seconds"]
    assert re.fullmatch(
        r"\d\d:\d\d:\d\d round 3 north: came \(kind CONTRIBUTION, 1,200 B, 0.25 s\)\n", console.getvalue()
    )


def test_a_large_figure_has_no_exponent_on_the_console(tmp_path):
    console = io.StringIO()
    open_log(tmp_path, "hub", console).info("asks", deadline_seconds=3600.0, away_seconds=0.25)
    assert "(deadline seconds 3,600, away seconds 0.25)" in console.getvalue()


def test_what_a_value_may_be(tmp_path):
    log = open_log(tmp_path, "hub")
    log.info("values", a=b"key", b=bytearray(2), c={"x"}, d=object(), e=float("nan"), f="two\nlines\x1b[31m", g=[b"z"])
    (line,) = lines_of(tmp_path)
    assert line["a"] == "3 bytes" and line["b"] == "2 bytes" and line["c"] == ["x"] and line["d"] == "object"
    assert line["f"] == "two?lines?[31m" and line["g"] == ["1 bytes"] and line["e"] is None


def test_an_error_is_one_line_and_a_defect_has_its_traceback(tmp_path):
    console = io.StringIO()
    log = open_log(tmp_path, "north", console)
    failed(log, "could not", StorageError("disk: full\nmore"), round=2)
    secret = b"a secret value"
    try:
        raise ValueError(len(secret))
    except ValueError as defect:
        failed(log, "could not", defect)
    first, second = lines_of(tmp_path)
    assert (first["level"], first["error"], "traceback" in first) == ("error", "disk: full", False)
    assert second["error"] == "ValueError: 14" and "raise ValueError(len(secret))" in second["traceback"]
    assert "a secret value" not in (tmp_path / LOG).read_text().replace('secret = b"a secret value"', "")
    assert len(console.getvalue().splitlines()) == 2


def test_a_log_never_grows_beyond_two_pieces(tmp_path):
    log = open_log(tmp_path, "hub", most_bytes=5000)
    for number in range(500):
        log.info("line", round=number)
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOG, f"{LOG}.1"]
    assert all(path.stat().st_size <= 5000 for path in tmp_path.iterdir())
    assert lines_of(tmp_path)[-1]["round"] == 499


def test_a_log_that_cannot_be_written_ends_nothing_and_says_so_later(tmp_path):
    (tmp_path / LOG).mkdir()
    log = open_log(tmp_path, "hub")
    log.info("lost")
    log.info("lost too")
    (tmp_path / LOG).rmdir()
    log.info("written")
    assert [line["event"] for line in lines_of(tmp_path)] == ["log lines lost", "written"]
    assert lines_of(tmp_path)[0]["lost"] == 2


def test_a_log_is_its_owners_alone_and_follows_no_link(tmp_path):
    open_log(tmp_path, "hub").info("line")
    assert (tmp_path / LOG).stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    other.mkdir()
    (other / LOG).symlink_to(tmp_path / "elsewhere")
    open_log(other, "hub").info("line")
    assert not (tmp_path / "elsewhere").exists()


def secrets_of(world):
    """Everything secret that the test knows: passphrase, private keys, the federation's keys, pairs' secrets."""
    found = {PASSPHRASE}
    for name in (*world.names, "hub"):
        holdings = world.holdings(name)
        epoch = holdings.epoch()
        found |= {bytes(holdings.identity.to_private_bytes()), *map(bytes, epoch.pair_secrets.values())}
        if epoch.key is not None:
            found |= {bytes(getattr(epoch.key, its)) for its in dir(epoch.key) if its.endswith("_key")}
    return {secret for secret in found if len(secret) >= 16}


def spellings(secret):
    """Pieces of 12 bytes at several places, as a log could hold them."""
    for place in {0, len(secret) // 3, len(secret) // 2, len(secret) - 12}:
        piece = secret[place : place + 12]
        if len(set(piece)) < 4:
            continue  # zeros of a header are no secret
        yield from (piece.hex(), piece.hex().upper(), repr(piece)[2:-1], piece.decode("latin-1"))
        for shift in range(3):
            whole = base64.b64encode(secret[max(0, place - shift) : place + 12]).decode()
            yield from (whole[4:-4], whole[4:-4].replace("+", "-").replace("/", "_"))
        yield base64.b32encode(piece).decode()[:16]


def test_no_secret_and_no_cell_of_a_table_is_in_logs_and_status_of_a_run_with_faults(tmp_path):
    world = enrol_all(tmp_path, masking="pairwise", rounds=1)
    console, seen = io.StringIO(), []
    options = {"console": console}
    hub = HubSession.open(world.config, world.folder("hub"), PASSPHRASE, world.out("hub"), **options)
    hospitals = [
        HospitalSession.open(
            world.config, world.data(name), world.folder(name), PASSPHRASE, world.out(name),
            ledgers=tmp_path / f"{name}-ledgers", device="cpu", **options,
        )
        for name in world.names
    ]  # fmt: skip
    hospitals[0].exchange([b"garbage", bytes(300)])
    hub.took("alder", 0, [b"garbage"], told=[])
    hospitals[1].problem("defect", ValueError("of ours"))
    for hospital in hospitals:
        hub.visit(hospital.name, 0)
    for _ in range(8):
        for hospital in hospitals:
            told = hub.visit(hospital.name, hospital.at)
            done = hospital.exchange([message for _, message in told])
            hub.took(hospital.name, done.at, done.replies, told=told)
            seen += [path.read_text() for path in tmp_path.glob("*/run/status.json")]
    assert hub.finished
    for session in (hub, *hospitals):
        session.stop()
    seen += [console.getvalue(), *(path.read_text() for path in tmp_path.glob("*/run/log.jsonl"))]
    seen += [path.read_text() for path in tmp_path.glob("*/run/status.json")]
    text = "\n".join(seen)
    assert "receipts" in text and "refused" in text and "CONTRIBUTION" in text
    secrets = secrets_of(world)
    assert len(secrets) > 12
    for secret in secrets:
        for spelling in spellings(secret):
            assert len(spelling) < 8 or spelling not in text
    for name in world.names:
        ages = [row.split(",")[0] for row in world.data(name).read_text().splitlines()[1:]]
        assert len(ages) == 60 and not [age for age in ages if re.search(rf"(?<![\d.]){re.escape(age)}(?!\d)", text)]


def test_the_search_for_secrets_finds_one_that_is_there():
    secret = bytes(range(100, 148))
    texts = (secret.hex(), f"x {secret.hex().upper()}", base64.b64encode(secret).decode(), repr(secret))
    texts += (base64.b64encode(b"a" + secret).decode(), base64.urlsafe_b64encode(b"ab" + secret + b"c").decode())
    for text in texts:
        assert any(len(spelling) >= 8 and spelling in text for spelling in spellings(secret)), text
