"""`securepfl` with a life that ends: a process that forks one process a call, so that a start costs no import.

    python killed_run.py FOLDER

A line of JSON on stdin is a call: `arguments`, and when it is killed (SIGKILL): after `seconds`, or before its
`write`-th fsync or rename; with neither it ends by itself. The reply is a line: exit status (-9 where it was killed),
how many fsyncs and renames there were, what stood on stderr. stdout goes to /dev/null.
"""

import contextlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import securepfl.cli.run
import securepfl.runtime.execution  # noqa: F401
from securepfl.cli.main import main as command


def dying(write: int | None, counted: int) -> None:
    """Have this process die before its `write`-th fsync or rename, and note on `counted` that one came."""
    seen = 0

    def watched(act):
        def acting(*arguments, **options):
            nonlocal seen
            seen += 1
            os.pwrite(counted, seen.to_bytes(8, "big"), 0)
            if seen == write:
                os.kill(os.getpid(), signal.SIGKILL)
            return act(*arguments, **options)

        return acting

    os.fsync, os.replace = watched(os.fsync), watched(os.replace)


def live(call: dict, folder: Path, counted: int) -> None:
    status = 1
    try:
        err = os.open(folder / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(err, 2)
        sys.argv = ["securepfl", *call["arguments"]]
        dying(call.get("write"), counted)
        command()
    except SystemExit as stop:
        status = int(stop.code or 0)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    folder = Path(sys.argv[1])
    os.chdir(folder)
    counted = os.open(folder / "counted", os.O_RDWR | os.O_CREAT)
    for line in sys.stdin:
        call = json.loads(line)
        os.pwrite(counted, bytes(8), 0)
        life = os.fork()
        if life == 0:
            live(call, folder, counted)
        if (seconds := call.get("seconds")) is not None:
            time.sleep(seconds)
            with contextlib.suppress(ProcessLookupError):
                os.kill(life, call.get("signal", signal.SIGKILL))
        _, status = os.waitpid(life, 0)
        writes = int.from_bytes(os.pread(counted, 8, 0), "big")
        said = (folder / "stderr").read_text()
        print(json.dumps([os.waitstatus_to_exitcode(status), writes, said]), flush=True)


if __name__ == "__main__":
    main()
