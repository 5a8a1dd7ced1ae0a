"""The machines of a page, whose commands stand behind `north$`: here each is a folder, and what root does we do.

Whole paths lie in the machine's folder. An address, a port or a fingerprint is what it is here. Passphrases and answers
are typed where no file has them; that they are asked for at a terminal is tests/cli/test_keys.py.
"""

import os
import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import Block
from reader import form

from securepfl.cli import asking
from securepfl.cli.main import cli
from securepfl.crypto.keys import keystore

_ABSOLUTE = re.compile(r"(?<![\w.])/(?=(?:etc|opt|run|srv|var/lib)/)")
_FINGERPRINT = re.compile(r"\b(\w+)(?: \(\w+\): |=)([A-Z2-7]{4}(?:-[A-Z2-7]{4}){7})")
_PROGRAMS = ("securepfl", "/opt/securepfl/bin/securepfl")


def cheap_keys(patch: pytest.MonkeyPatch) -> None:
    """Passphrases cost the least that is read, and are typed; what they cost is tested elsewhere."""
    patch.setattr(keystore, "LOG_N", 14)
    patch.setattr(asking, "_at_terminal", lambda: True)


class Machines:
    """Runs lines of pages on machines. `root` holds all of them, or is the folder that they share."""

    def __init__(self, root: Path, *, shared: bool = False, changed: Mapping[str, str] | None = None) -> None:
        self.root, self.shared, self.changed = root, shared, dict(changed or {})
        self.heard: dict[str, str] = {}
        self.aliases: dict[str, str] = {}

    def at(self, machine: str, path: str = "/") -> Path:
        """Where a whole path of this machine lies."""
        return Path(self.here(machine, path)) if path != "/" else self.root / ("" if self.shared else machine)

    def here(self, machine: str, text: str) -> str:
        """A page's text as it is on this machine."""
        text = _FINGERPRINT.sub(lambda found: found[0].replace(found[2], self.heard.get(found[1], found[2])), text)
        for old, new in self.changed.items():
            text = text.replace(old, new)
        if self.shared:
            return text
        text = text.replace("/var/lib/securepfl/exchange", f"{self.root}/exchange")
        return _ABSOLUTE.sub(f"{self.at(machine)}/", text)

    def words(self, machine: str, line: str) -> list[str]:
        """Of a command of ours, as it is here; none of another program's."""
        name, _, rest = line.partition(" ")
        line = f"{self.aliases.get(name, name)} {rest}"
        line = re.sub(r"^sudo (?:-u \w+ )?(?:-H )?", "", line)
        program, _, rest = line.partition(" ")
        return shlex.split(self.here(machine, rest), comments=True) if program in _PROGRAMS else []

    def run(self, machine: str, line: str, *more: str) -> str:
        """What a line prints there; it must succeed."""
        if alias := re.fullmatch(r"alias (\w+)='(.*)'", line):
            self.aliases[alias[1]] = alias[2]
            return ""
        if words := self.words(machine, line):
            return self._ours(machine, [*words, *more])
        owner = f"-o {os.getuid()} -g {os.getgid()}"
        command = re.sub("^sudo ", "", line).replace("-o securepfl -g securepfl", owner)
        done = subprocess.run(
            ["bash", "-c", self.here(machine, command)],
            cwd=self.at(machine),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, (machine, line, done.stderr)
        return done.stdout

    def _ours(self, machine: str, words: list[str]) -> str:
        secret = f"five words drawn at random for {machine}\n"
        typed = secret * 2 if words[:2] == ["keys", "create"] else secret + 9 * "y\n"
        typed = 9 * "y\n" if "--passphrase-file" in words else typed
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.at(machine))
            done = CliRunner().invoke(cli, words, input=typed)
        assert done.exit_code == 0, (machine, words, done.output, done.exception)
        self.heard |= {name: read for name, read in _FINGERPRINT.findall(done.output) if "create" in words}
        return done.output

    def block(self, block: Block, machines: Iterable[str] = (), of: str = "north") -> str:
        """Each line on its own machine; lines of `of`, or of no machine, on each of `machines`. What all printed."""
        printed = ""
        for name, line in block.lines():
            for machine in machines if name in ("", of) and machines else (name,):
                printed += self.run(machine, re.sub(rf"\b{of}\b", machine, line) if name == of else line)
        return printed


def shows(printed: str, lines: Iterable[str]) -> None:
    """Each line that a page shows is of the form that was printed; figures, fingerprints and digests are others."""
    printed = _plain(printed)
    for line in lines:
        for part in _plain(line).split("..."):
            assert part.strip() in printed, f"{line}\nis not in\n{printed}"


def _plain(text: str) -> str:
    text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "IDENTIFIER", text)
    text = re.sub(r"[A-Z2-7]{4}(-[A-Z2-7]{4})+(-\.\.\.)?", "FINGERPRINT", text)
    text = re.sub(r"\b[0-9a-f]{4}( [0-9a-f]{4}){3,}|\b[0-9A-F]{2}(:[0-9A-F]{2})+(:\.\.\.:[0-9A-F]{2})?", "DIGEST", text)
    return form(re.sub(r"(?<=signs its ledger with: )\w+", "DIGEST", text))
