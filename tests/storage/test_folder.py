import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from securepfl.errors import StorageError
from securepfl.storage.folder import (
    lock_folder,
    new_folder,
    read_arrays,
    remove_left,
    write_arrays,
    write_bytes,
    write_json,
)


def test_arrays_and_meta_come_back_as_written(tmp_path):
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "empty": np.zeros(0)}
    write_arrays(tmp_path / "x.safetensors", arrays, {"round": 3, "text": 'quote " and ü'})
    read, meta = read_arrays(tmp_path / "x.safetensors")
    assert meta == {"round": 3, "text": 'quote " and ü'}
    assert all(np.array_equal(read[name], arrays[name]) for name in arrays)


def test_files_are_for_their_owner_only(tmp_path):
    write_json(tmp_path / "deep" / "x.json", {"a": 1})
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == {"a": 1}
    assert (tmp_path / "deep" / "x.json").stat().st_mode & 0o077 == 0


def test_nan_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="Out of range"):
        write_json(tmp_path / "x.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_earlier_file_and_nothing_else(tmp_path, monkeypatch):
    write_bytes(tmp_path / "x", b"before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        write_bytes(tmp_path / "x", b"after")
    assert (tmp_path / "x").read_bytes() == b"before"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("damage", [b"", b"\xff" * 40, None])
def test_a_damaged_file_is_a_storage_error(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    write_arrays(path, {"a": np.ones(4)}, {})
    path.write_bytes(path.read_bytes()[:-3] if damage is None else damage)
    with pytest.raises(StorageError, match="wrote whole"):
        read_arrays(path)


def test_a_new_folder_appears_whole_or_not_at_all(tmp_path):
    with new_folder(tmp_path / "run") as folder:
        (folder / "a").write_text("x")
        assert not (tmp_path / "run").exists()
    assert (tmp_path / "run" / "a").read_text() == "x"
    with pytest.raises(RuntimeError), new_folder(tmp_path / "other") as folder:
        (folder / "a").write_text("x")
        raise RuntimeError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text("{}")
    with pytest.raises(StorageError, match="already holds"), new_folder(tmp_path / "run"):
        pass
    assert (tmp_path / "run" / "result.json").read_text() == "{}"


def test_what_was_written_stays_where_its_name_was_taken_meanwhile(tmp_path):
    with (
        pytest.raises(StorageError, match="what belongs there lies in") as error,
        new_folder(tmp_path / "run") as folder,
    ):
        (folder / "a").write_text("x")
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "b").write_text("another's")
    assert str(folder) in str(error.value) and (folder / "a").read_text() == "x"
    assert (tmp_path / "run" / "b").read_text() == "another's"


def test_a_lock_empties_no_file_that_it_is_a_link_to(tmp_path):
    precious, folder = tmp_path / "precious", tmp_path / "folder"
    precious.write_text("kept")
    folder.mkdir()
    (folder / "lock").symlink_to(precious)
    lock_folder(folder).close()
    assert precious.read_text() == "kept"


LEFT = """
import sys, time
from pathlib import Path
from securepfl.storage.folder import new_folder
with new_folder(Path(sys.argv[1])) as folder:
    for name in sys.argv[2:]:
        (folder / name).write_text("part")
    print(folder, flush=True)
    time.sleep(600)
"""


def writer(path, *names):
    """A process that is in the middle of writing `path`, and its folder."""
    process = subprocess.Popen([sys.executable, "-c", LEFT, path, *names], stdout=subprocess.PIPE, text=True)
    return process, Path(process.stdout.readline().strip())


def killed(process):
    process.kill()
    process.wait()
    process.stdout.close()


def test_what_a_killed_process_left_goes_and_what_another_writes_stays(tmp_path):
    out = tmp_path / "out"
    (dead, left), (busy, theirs) = writer(out, "a.csv"), writer(out, "a.csv")
    try:
        (left / "masks").mkdir()
        (left / "masks" / "a.png").write_text("part")
        (left / "elsewhere").symlink_to(theirs, target_is_directory=True)
        killed(dead)
        other = [tmp_path / name for name in (".out.partial-mine", ".output.partial-abcdefgh", ".out.partial-aaaaaaa1")]
        for folder in other[:2]:
            folder.mkdir()
        other[2].symlink_to(theirs, target_is_directory=True)
        remove_left(out)
        assert not left.exists() and all(path.exists() for path in (theirs / "a.csv", *other))
    finally:
        killed(busy)
    remove_left(out)
    assert not theirs.exists()


def test_what_only_lacks_its_name_stays(tmp_path):
    out = tmp_path / "out"
    with pytest.raises(StorageError, match="what belongs there lies in"), new_folder(out) as folder:
        (folder / "card.md").write_text("whole")
        out.write_text("in the way")
    remove_left(out)
    assert [path.name for path in folder.iterdir()] == ["card.md"]


def test_no_folder_goes_for_its_name_alone(tmp_path):
    """Whoever may write in the folder around `out` can give another's folder that name."""
    mine = tmp_path / ".out.partial-abcdefgh"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    remove_left(tmp_path / "out")
    assert (mine / "thesis.txt").exists()


def test_a_folder_that_may_not_be_read_is_left_alone(tmp_path):
    """Another user's, in a folder that both write to."""
    closed = tmp_path / ".out.partial-abcdefgh"
    closed.mkdir(mode=0)
    tmp_path.chmod(0o777)
    code = "import os; from pathlib import Path; from securepfl.storage.folder import remove_left; "
    code += "os.geteuid() or os.setuid(1); remove_left(Path('out'))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and closed.exists(), done.stderr
