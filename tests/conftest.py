import contextlib
import itertools
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

# Threads cost more than they save on arrays this small, most of all on a busy machine. Libraries ask when imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest

if TYPE_CHECKING:  # xdist's controller runs no test, and begins seconds earlier without
    import torch

with contextlib.suppress(ImportError):
    import readline  # noqa: F401 - pytest may load it, and then child processes inherit a COLUMNS that nobody set

    os.unsetenv("COLUMNS")

# No clock decides a test. The same commit gives the same verdict; HYPOTHESIS=exploring draws other examples each time.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("exploring", deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS", "repeatable"))

# Runs write through to the disk some hundred times each, which on one of memory costs nothing.
_MEMORY = Path("/dev/shm")  # noqa: S108
if _MEMORY.is_dir() and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free > 8 * 2**30:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(_MEMORY))


@pytest.fixture(params=["cpu", "cuda"])
def device(request: pytest.FixtureRequest) -> "torch.device":
    import torch

    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def fresh_ledgers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A new folder each time. mktemp reads all folders beside its own: of thousands, that takes milliseconds."""
    root = tmp_path_factory.mktemp("ledgers")

    def made() -> Iterator[Path]:
        for number in itertools.count():
            folder = root / str(number)
            folder.mkdir()
            yield folder

    return made()


@pytest.fixture(scope="module", autouse=True)
def ledgers_of_module(fresh_ledgers: Iterator[Path]) -> Iterator[None]:
    """Tests use the same rows again and again: what they spend belongs in no ledger of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SECUREPFL_LEDGERS", str(next(fresh_ledgers)))
        yield


@pytest.fixture(autouse=True)
def ledgers_of_test(fresh_ledgers: Iterator[Path], monkeypatch: pytest.MonkeyPatch, ledgers_of_module: None) -> None:
    """Nor does one test spend what another has."""
    monkeypatch.setenv("SECUREPFL_LEDGERS", str(next(fresh_ledgers)))


@pytest.fixture(autouse=True)
def no_width() -> None:
    """readline, which libraries import, tells the processes that tests start that a terminal is 80 columns wide."""
    for name in ("COLUMNS", "LINES"):
        if name not in os.environ:
            os.unsetenv(name)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Also where OMP_NUM_THREADS says otherwise: sums in another order round otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """One more than there are cores: some tests wait for other processes, for networks and for clocks."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Iterator[object]:
    """A process that a test kills may leave half a file of what coverage measured, and one may stop the sum of all."""
    result = yield
    if session.config.getoption("cov_source", None) and not hasattr(session.config, "workerinput"):
        for path in broken_measures(session.config.rootpath):
            session.config.get_terminal_writer().line(f"\nkilled while coverage wrote, not counted: {path.name}")
            path.unlink()
    return result


def broken_measures(folder: Path) -> list[Path]:
    """Files of coverage, which keeps no journal, that SQLite can't read to their end."""
    broken = []
    for path in folder.glob(".coverage.*"):
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as file:
            try:
                whole = file.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                if not whole or not file.execute("SELECT version FROM coverage_schema").fetchall():
                    broken.append(path)
            except sqlite3.DatabaseError:
                broken.append(path)
    return broken


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that take minutes run where they are asked for."""
    if os.environ.get("SECUREPFL_LONG") != "1":
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes; SECUREPFL_LONG=1 runs it"))
