"""A reader who tries what a page shows: the commands of a page, run in a folder in their order."""

import contextlib
import io
import os
import pty
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from click.testing import CliRunner
from forked import python
from pages import ROOT, Block

from securepfl.cli.main import cli
from securepfl.errors import SecurePFLError
from securepfl.settings.federation import Federation


class Reader:
    """Runs blocks; what they print must be of the form that the page shows."""

    def __init__(self, folder: Path, words: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.names: dict[str, object] = {"__name__": "__main__"}
        self.words = dict(words or {})
        self.printed = ""

    def tries(self, block: Block) -> None:
        where = f"{block.page}:{block.line}"
        if block.language == "text":
            self._compare(where, block.text.splitlines())
        elif block.language == "toml":
            self._saves(block)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                code = compile("\n" * block.line + block.text, block.page, "exec")
                exec(code, self.names)  # noqa: S102 (our own page)
            self.printed = out.getvalue()
        else:
            lines = [line for command in block.commands() for line in command.split(" && ")]
            self.printed = "".join(self._runs(where, line) for line in lines)
            self._compare(where, block.said())

    def _saves(self, block: Block) -> None:
        """A federation under its title, as the page says; a part of one is read alone."""
        if block.title:
            (self.folder / block.title).write_text(block.text)
            Federation.read(self.folder / block.title)

    def _runs(self, where: str, line: str) -> str:
        for old, new in self.words.items():
            line = re.sub(rf"(?<![\w./]){re.escape(old)}(?![\w])", new, line)
        words = shlex.split(line, comments=True)
        if words[0] == "cd":
            self.folder /= words[1]
            os.chdir(self.folder)
            return ""
        if words[:2] == ["securepfl", "init"] and "--kind" not in words:
            printed, code = self._answers(words[1:])
        elif words[0] == "securepfl" and not {"|", ">", "&&"} & set(words):
            done = CliRunner().invoke(cli, words[1:])
            printed, code = done.output, done.exit_code
            if isinstance(done.exception, SecurePFLError):  # as `main` tells it
                printed, code = f"{printed}securepfl: {done.exception}\n", 2
            elif done.exception is not None and not isinstance(done.exception, SystemExit):
                raise done.exception
        else:
            path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
            shell = subprocess.run(
                ["bash", "-c", line],
                capture_output=True,
                text=True,
                cwd=self.folder,
                env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT / "tests")},
                check=False,
            )
            printed, code = shell.stdout + shell.stderr, shell.returncode
        expected = int(match[1]) if (match := re.search(r"# exit code (\d)$", line)) else 0
        assert code == expected, f"{where}: {line}: exit code {code}\n{printed}"
        return printed

    def _answers(self, words: list[str]) -> tuple[str, int]:
        """A command at a terminal, where all that it asks is answered by Enter."""
        ours, theirs = pty.openpty()
        command = [*python(), "-m", "securepfl", *words]
        streams = {"stdin": theirs, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        with subprocess.Popen(command, cwd=self.folder, text=True, **streams) as process:
            os.close(theirs)
            os.write(ours, b"\n" * 9)
            printed, _ = process.communicate(timeout=120)
        os.close(ours)
        return printed, process.returncode

    def _compare(self, where: str, lines: list[str]) -> None:
        printed = form(self.printed)
        for line in lines:
            assert line.strip() in ("", "...") or form(line) in printed, f"{where}: {line}\nis not in\n{self.printed}"


def form(text: str) -> str:
    """Without what differs from run to run and from machine to machine: figures, columns' widths, breaks."""
    return " ".join(re.sub(r"[-+]?\d[\d.,e-]*", "0", text).split())
