"""The pages that people read, and the blocks of code in them.

A block's language says what it is: `python` and `toml`; `console`, whose commands follow a `$`, with what they print;
`sh`, whose lines are all commands; `json`; `text`, which is no code: what the block before prints, where that is run. A
block's title says what no test runs and why, or which test runs it: readers see it.
"""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from securepfl.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Pages whose commands are tried in the folder that the tutorial leaves: tests/docs/test_walks.py.
AFTER_THE_TUTORIAL = (
    "docs/faq.md",
    "docs/paths/privacy-officer.md",
    "docs/planning.md",
    "docs/ledger.md",
    "docs/report.md",
    "docs/configuration.md",
)
# Pages whose blocks need nothing of it.
BY_THEMSELVES = ("README.md", "docs/embedding.md")
_FENCE = re.compile(r"^( *)```([\w-]*)(.*?)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^\w*\$ ")


@dataclass(frozen=True)
class Block:
    """One block of a page; `said` is what it shows of its commands' output."""

    page: str
    line: int
    language: str
    title: str
    text: str

    @property
    def elsewhere(self) -> str | None:
        """The file or folder of tests that run this block, as its title names it."""
        match = re.fullmatch(r"Run by (tests/\S+)", self.title)
        return match and match[1]

    @property
    def is_left_out(self) -> bool:
        return self.title.startswith("Not run by the tests: ")

    def commands(self) -> list[str]:
        """Each command, in one line."""
        lines = self.text.replace("\\\n", " ").splitlines()
        if self.language == "console":
            lines = [_PROMPT.sub("", line) for line in lines if _PROMPT.match(line)]
        return [line for line in lines if shlex.split(line, comments=True)]

    def lines(self) -> list[tuple[str, str]]:
        """(machine, command): what stands before and behind each prompt; no machine where there is no prompt."""
        if self.language == "sh":
            return [("", command) for command in self.commands()]
        return re.findall(r"^(\w*)\$ (.*)$", self.text.replace("\\\n", " "), re.MULTILINE)

    def said(self) -> list[str]:
        """The lines of a console block that are no command."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line for line in lines if not _PROMPT.match(line)] if self.language == "console" else []


def name_of(page: Path) -> str:
    """As tests and people call it: docs/tutorial.md."""
    return page.relative_to(ROOT).as_posix()


def blocks_of(page: Path) -> Iterator[Block]:
    """In the order of the page."""
    text = page.read_text()
    for match in _FENCE.finditer(text):
        title = re.search(r'title="([^"]*)"', match[3])
        body = re.sub(rf"^{match[1]}", "", match[4], flags=re.MULTILINE)
        line = text.count("\n", 0, match.start()) + 1
        yield Block(name_of(page), line, match[2], title[1] if title else "", body)


def prose_of(page: Path) -> str:
    """Without blocks, tables, drawings, comments and the addresses of links: what a reader reads."""
    text = _FENCE.sub("", page.read_text())
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^\|.*$", "", text, flags=re.MULTILINE)
    return re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)


def resolved(words: list[str]) -> click.Command:
    """The click command that these words call; its options are all known to it, and those it requires are there."""
    words = list(words)
    command, context = cli, click.Context(cli)
    while isinstance(command, click.Group):
        command = command.get_command(context, words.pop(0))
        assert command is not None
        context = click.Context(command, parent=context)
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.split("=")[0] in known, f"{command.name} has no {word}"
    required = {max(option.opts) for option in command.params if option.required and isinstance(option, click.Option)}
    assert required <= set(words), f"{command.name} also needs {required - set(words)}"
    return command
