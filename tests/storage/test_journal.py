"""A journal keeps every record that it gave a place, through kills and full disks; what was damaged is refused."""

import os
import tracemalloc

import pytest

from securepfl.errors import StorageError
from securepfl.storage.journal import Journal

RECORDS = (b"first", b"", b"x" * 5000, bytes(300))
HEAD = 40


def read(path):
    journal = Journal.open(path)
    found = [record for _, record in journal.records()]
    journal.close()
    return found


@pytest.fixture
def path(tmp_path):
    journal = Journal.create(tmp_path / "journal", RECORDS[0])
    for record in RECORDS[1:]:
        journal.append(record)
    journal.close()
    return tmp_path / "journal"


def ends_of(path):
    """Where each record ends in the file."""
    journal = Journal.open(path)
    places = [place for place, _ in journal.records()]
    journal.close()
    return [*places[1:], path.stat().st_size]


def test_records_come_back_in_order_and_by_place(path):
    journal = Journal.open(path)
    places = dict(journal.records())
    assert tuple(places.values()) == RECORDS
    assert all(journal.read(place) == record for place, record in places.items())
    (place,) = journal.append(b"one more", sync=False)
    assert journal.read(place) == b"one more"
    journal.close()
    assert read(path) == [*RECORDS, b"one more"]
    assert path.stat().st_mode & 0o077 == 0


def test_a_tail_torn_anywhere_is_cut_and_the_journal_goes_on(path):
    whole, ends = path.read_bytes(), ends_of(path)
    for cut in [*range(ends[0], ends[1]), *range(ends[1], ends[2], 97), *range(ends[2], len(whole))]:
        path.write_bytes(whole[:cut])
        journal = Journal.open(path)
        left = sum(end <= cut for end in ends)
        assert path.stat().st_size == ends[left - 1]
        journal.append(b"after")
        journal.close()
        assert read(path) == [*RECORDS[:left], b"after"]


def test_what_appeared_whole_is_damaged_where_it_is_shorter(tmp_path):
    """No kill does that: to go on without it would be to forget in silence what was told."""
    path = tmp_path / "journal"
    Journal.create(path, *RECORDS[:2]).close()
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(StorageError, match="damaged"):
            read(path)
    path.write_bytes(whole)
    assert read(path) == list(RECORDS[:2])


def test_zeros_of_any_length_are_cut_without_holding_them(path):
    whole = path.stat().st_size
    os.truncate(path, whole + (64 << 20))
    tracemalloc.start()
    assert read(path) == list(RECORDS)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    assert path.stat().st_size == whole


@pytest.mark.parametrize("left", [0, 3, 8, 200])
def test_zeros_where_a_write_lost_power_are_cut(path, left):
    """A file system may have made room that it never filled."""
    whole, frame = path.read_bytes(), Journal.create(path.with_name("other"), b"y" * 200)
    frame.close()
    lost = path.with_name("other").read_bytes()[HEAD:]
    path.write_bytes(whole + lost[:left] + bytes(len(lost) - left))
    assert read(path) == list(RECORDS)


def test_any_damage_is_refused_by_name(path):
    """Also in the last record: it was acknowledged, so it may not be forgotten in silence."""
    whole = path.read_bytes()
    step = [*range(60), *range(60, len(whole), 131), *range(len(whole) - 340, len(whole))]
    for place in step:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        with pytest.raises(StorageError, match=r"journal: damaged.*restore its folder from a copy"):
            read(path)


def test_a_record_damaged_while_the_journal_is_open_is_refused(path):
    journal = Journal.open(path)
    places = [place for place, _ in journal.records()]
    with path.open("r+b") as file:
        file.seek(places[2] + 100)
        file.write(b"!")
    with pytest.raises(StorageError, match="damaged"):
        journal.read(places[2])
    journal.close()


def test_nothing_follows_a_write_that_anything_else_ended(path, monkeypatch):
    journal = Journal.open(path)

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "pwrite", interrupted)
        journal.append(b"lost")
    with pytest.raises(StorageError, match="an earlier write failed"):
        journal.append(b"after")
    journal.close()
    assert read(path) == list(RECORDS)


@pytest.mark.parametrize("failing", ["pwrite", "fsync"])
def test_a_failed_write_is_told_and_nothing_follows_it(path, monkeypatch, failing):
    journal = Journal.open(path)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, full)
        with pytest.raises(StorageError, match="No space left"):
            journal.append(b"lost")
    with pytest.raises(StorageError, match="an earlier write failed"):
        journal.append(b"after")
    journal.close()
    assert read(path)[: len(RECORDS)] == list(RECORDS)


def test_a_missing_journal_and_another_file_are_refused(tmp_path):
    with pytest.raises(StorageError, match="cannot be read"):
        Journal.open(tmp_path / "nothing")
    (tmp_path / "other").write_bytes(b"something else")
    with pytest.raises(StorageError, match="damaged"):
        Journal.open(tmp_path / "other")
