"""Python programs in processes of their own that cost no import: a process that has imported all forks one for each.

    subprocess.run([*python(), "-m", "securepfl", "run"], ...)
    subprocess.run([*python(), "examples/embed_in_pipeline.py"], ...)

What is started is a launcher of some milliseconds. It hands its words, folder, environment and open files to the one
process that has imported all, forwards signals to what that forks, dies as that dies, and takes it along when it is
killed. Where the start of Python itself is what a test is about, `sys.executable` is the program to start.
"""

import atexit
import contextlib
import fcntl
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from functools import cache
from pathlib import Path

MODULES = (
    "bench.measure",
    "outside.unseen",
    "outside.writing",
    "report.console",
    "report.ledger",
    "runtime.execution",
    "runtime.https.hospital",
    "runtime.https.serving",
    "runtime.hub",
    "runtime.opening",
    "runtime.suggesting",
    "runtime.visits",
)
"""What commands import when they run, and takes seconds."""
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_HIGH = 500  # file descriptors are moved up to here before they take their places


@cache
def python() -> tuple[str, ...]:
    """The first words of a command that runs a module or script of Python, instead of `sys.executable`."""
    folder = tempfile.mkdtemp(prefix="forked-")
    place = str(Path(folder) / "socket")
    process = subprocess.Popen(
        [sys.executable, __file__, "--serve", place],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    atexit.register(_end, process, Path(folder))
    process.stdout.readline()
    return (sys.executable, "-I", "-S", __file__, place)


def _end(process: subprocess.Popen, folder: Path) -> None:
    process.stdin.close()
    process.wait(30)
    for path in (folder / "socket", folder):
        path.unlink() if path.is_socket() else path.rmdir()


# The launcher


def _inherited() -> list[int]:
    """The open files that a program started here would have."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found += [int(path.name)] if os.get_inheritable(int(path.name)) else []
    return sorted(found)


def launch(place: str, words: list[str]) -> int:
    """The exit code of the process that ran `words`."""
    told = {"words": words, "folder": str(Path.cwd()), "environment": dict(os.environ), "umask": os.umask(0)}
    files = _inherited()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
        server.connect(place)
        socket.send_fds(server, [json.dumps(told | {"files": files}).encode()], files)
        process = int(server.recv(64))
        for number in FORWARDED:
            signal.signal(number, lambda number, _: os.kill(process, number))
        return int(server.recv(64))


def die_as(code: int) -> None:
    """End with an exit code, or (negative) by a signal."""
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code & 255)


# The process that has imported all


def serve(place: str) -> dict | None:
    """Fork a process for each launcher, until stdin ends. Comes back in each of them, with what it is to run."""
    for name in MODULES:
        importlib.import_module(f"securepfl.{name}")
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(place)
        listener.listen(64)
        print(flush=True)
        return _fork(listener)


def _fork(listener: socket.socket) -> dict | None:
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lives: dict[int, socket.socket] = {}
    while 0 not in (ready := select.select([0, read, listener, *lives.values()], [], [])[0]):
        if listener in ready:
            launcher, _ = listener.accept()
            message, files, _, _ = socket.recv_fds(launcher, 2**18, 64)
            process = os.fork()
            if process == 0:
                for other in (launcher, *lives.values()):
                    other.close()
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number in FORWARDED:  # a shell's background jobs ignore some
                    signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
                os.close(read)
                os.close(write)
                return json.loads(message) | {"received": files}
            for file in files:
                os.close(file)
            launcher.send(str(process).encode())
            lives[process] = launcher
        if read in ready:
            os.read(read, 4096)
        _bury(lives, ready)
    for process in lives:
        os.kill(process, signal.SIGKILL)
    return None


def _bury(lives: dict[int, socket.socket], ready: list[object]) -> None:
    """Kill those whose launchers are gone, and tell launchers of those that have ended."""
    for process, launcher in tuple(lives.items()):
        if launcher in ready:
            os.kill(process, signal.SIGKILL)
        found, status = os.waitpid(process, 0 if launcher in ready else os.WNOHANG)
        if found:
            with lives.pop(process), contextlib.suppress(OSError):
                launcher.send(str(os.waitstatus_to_exitcode(status)).encode())


# What it forks


def settle(told: dict) -> None:
    """Take on the launcher's folder, environment, files and streams."""
    high = [fcntl.fcntl(file, fcntl.F_DUPFD, _HIGH) for file in told["received"]]
    for file in told["received"]:
        os.close(file)
    for number in (0, 1, 2):
        if number not in told["files"]:
            os.close(number)
    for file, number in zip(high, told["files"], strict=True):
        os.dup2(file, number)
        os.close(file)
    os.umask(told["umask"])
    os.chdir(told["folder"])
    os.environ.clear()
    os.environ.update(told["environment"])
    said = os.environ.get("PYTHONIOENCODING", "").partition(":")
    encoding, errors = said[0] or sys.stdout.encoding, said[2] or sys.stdout.errors
    sys.stdin = _stream(0, "r", encoding, errors)
    sys.stdout = _stream(1, "w", encoding, errors)
    sys.stderr = _stream(2, "w", encoding, "backslashreplace")
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr


def _stream(number: int, mode: str, encoding: str, errors: str) -> io.TextIOWrapper | None:
    """As Python opens it at its start: None where it is closed."""
    try:
        os.fstat(number)
    except OSError:
        return None
    at_once = mode == "w" and bool(os.environ.get("PYTHONUNBUFFERED"))
    binary = open(number, f"{mode}b", buffering=0 if at_once else -1, closefd=False)  # noqa: SIM115
    lines = number == 2 or os.isatty(number)
    return io.TextIOWrapper(binary, encoding, errors, line_buffering=lines, write_through=at_once)


def run(words: list[str]) -> None:
    sys.path[:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path.insert(0, str(Path.cwd()))
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words
        sys.path.insert(0, str(Path(words[0]).resolve().parent))
        runpy.run_path(words[0], run_name="__main__")


def status_of(words: list[str]) -> int:
    """What the interpreter would make of the end of this program: its exit status, having printed what is to say."""
    try:
        run(words)
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:  # noqa: BLE001
        traceback.print_exc()
        return 1
    return 0


def end(code: int) -> None:
    """The interpreter's end, but for taking down all that was imported: a second of CPU."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        try:
            stream.flush()
        except (OSError, ValueError) as error:
            os.write(2, f"Exception ignored in: {stream}\n{type(error).__name__}: {error}\n".encode())
            code = code or 120
    die_as(code)


if __name__ == "__main__":
    if sys.argv[1] == "--serve":
        asked = serve(sys.argv[2])
        if asked is not None:
            settle(asked)
            end(status_of(asked["words"]))
    else:
        die_as(launch(sys.argv[1], sys.argv[2:]))
