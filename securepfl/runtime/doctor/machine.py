"""The machine: Python and libraries, the device, disks, the clock."""

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import securepfl
from securepfl.runtime.doctor.finding import Finding

_LIBRARIES: Final = ("torch", "opacus", "tenseal")
_EXTRAS: Final = {"https": ("httpx", "starlette", "uvicorn"), "imaging": ("PIL", "monai"), "nvflare": ("nvflare",)}
_LEAST_FREE, _LITTLE_FREE = 100 * 2**20, 2 * 2**30
_DAY: Final = 86400.0


def check_python() -> Iterator[Finding]:
    """Python, and what securepfl rests on."""
    yield Finding("python", "ok", f"{platform.python_version()} at {sys.executable}; securepfl {version('securepfl')}")
    for name in _LIBRARIES:
        try:
            __import__(name)
            yield Finding(name, "ok", version(name))
        except Exception as error:  # noqa: BLE001 - whatever a broken wheel raises
            reason = "is not installed" if isinstance(error, PackageNotFoundError | ModuleNotFoundError) else "broken"
            yield Finding(name, "failed", f"{reason}: {error}", "pip install --force-reinstall securepfl")
    for extra, modules in _EXTRAS.items():
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            remedy = f"where it is needed: pip install 'securepfl[{extra}]'"
            yield Finding(f"[{extra}]", "note", f"{', '.join(missing)} not installed", remedy)
        else:
            yield Finding(f"[{extra}]", "ok", "installed")


def check_device(asked: str) -> Iterator[Finding]:
    """Where training would run, and that records have gradients of their own there."""
    import torch  # noqa: PLC0415 - it may be broken, which check_python says

    from securepfl.tasks.device import resolve_device  # noqa: PLC0415

    if asked == "cuda" and not torch.cuda.is_available():
        mend = "use --device cpu, or install a driver and a torch built for CUDA"
        yield Finding("device", "failed", f"torch {torch.__version__} finds no CUDA device", mend)
        return
    device = resolve_device(asked)
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
        yield Finding("device", "ok", f"{torch.cuda.get_device_name(device)}, {memory / 2**30:.0f} GiB")
    else:
        cores = len(os.sched_getaffinity(0))
        yield Finding("device", "ok", f"{cores} CPU cores, torch threads: {torch.get_num_threads()}; no GPU is used")
    _check_gradients(device.type)
    yield Finding("private gradients", "ok", "each record's own, as torch's (self-test)")


def _check_gradients(device: str) -> None:
    """Raises ModelError where Opacus and torch disagree on a small network."""
    import torch  # noqa: PLC0415
    from torch import nn  # noqa: PLC0415
    from torch.utils.data import TensorDataset  # noqa: PLC0415

    from securepfl.privacy.training.probe import check_independence  # noqa: PLC0415

    draw = torch.Generator().manual_seed(0)
    rows, labels = torch.randn(8, 4, generator=draw), torch.tensor([0.0, 1.0] * 4)
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1), nn.Flatten(0))
    loss = nn.BCEWithLogitsLoss(reduction="none")
    check_independence(model, TensorDataset(rows, labels), loss, device=device)


def check_disks(places: Iterable[tuple[str, Path]]) -> Iterator[Finding]:
    """Whether each place (what for, where) can be written, and how much is free."""
    for what, place in places:
        there = next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
            free = shutil.disk_usage(there).free
        except OSError as error:
            told = f"{place}: cannot be written ({error.strerror})"
            yield Finding(what, "failed", told, f"choose another folder, or mend the rights of {there}")
            continue
        told = f"{place}: {free / 2**30:.1f} GiB free"
        if free < _LEAST_FREE:
            yield Finding(what, "failed", told, "make room: a run needs 100 MiB at least, and images more")
        elif free < _LITTLE_FREE:
            yield Finding(what, "note", told, "make room for larger models and many rounds")
        else:
            yield Finding(what, "ok", told)


def check_clock(files: Iterable[Path]) -> Iterator[Finding]:
    """That the clock is not behind what was written already: this program, and `files`."""
    now = time.time()
    told = f"{datetime.fromtimestamp(now, UTC):%Y-%m-%d %H:%M} UTC"
    for path in (Path(securepfl.__file__), *files):
        with suppress(OSError):
            if path.stat().st_mtime > now + _DAY:
                yield Finding("clock", "failed", f"{told}, and {path} is from later", "set the clock (timedatectl)")
                return
    yield Finding("clock", "ok", told)
