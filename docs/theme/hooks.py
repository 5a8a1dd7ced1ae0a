"""Hooks of mkdocs (see mkdocs.yml): the site needs no network and no other copy of the repository."""

import re
import shutil
import tomllib
from pathlib import Path
from posixpath import relpath
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
# Where mkdocstrings finds the packages: privacy/ and crypto/ stand at the top, and are imported from securepfl.
PACKAGES = ROOT / "build" / "packages"
_RUN_BY = re.compile(r'^( *```\w+) title="Run by [^"]*"$', re.MULTILINE)
_OUTPUT = re.compile(r'<span class="go">(\w+\$ )?([^<]*)</span>')
_EMPTY = re.compile("<th([^>]*)></th>")
_LINK = re.compile(r"\]\(((?:\.\./)+[^)#\s]+)(#[^)\s]*)?\)")


def on_startup(command: str, dirty: bool) -> None:
    """Lays the packages out in build/ as their import names say: mkdocstrings follows no links, and looks for them as
    soon as it is configured.
    """
    shutil.rmtree(PACKAGES, ignore_errors=True)
    folders = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-dir"]
    for name, folder in folders.items():
        shutil.copytree(
            ROOT / folder, PACKAGES.joinpath(*name.split(".")), ignore=shutil.ignore_patterns("__pycache__")
        )


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """The page, with its links out of docs/ (../examples/NAME) turned to copies as text, in source/ of the site.
    Which test runs a block is for who reads the source; what none runs says so here too.
    """
    docs = Path(config.docs_dir).resolve()
    folder = (docs / page.file.src_uri).parent

    def turned(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        if target.is_relative_to(docs) or not target.is_file():
            return match[0]
        copy = f"source/{target.relative_to(ROOT).as_posix()}.txt"
        if files.get_file_from_path(copy) is None:
            files.append(File.generated(config, copy, content=target.read_bytes()))
        return f"]({relpath(copy, folder.relative_to(docs).as_posix())})"

    return _LINK.sub(turned, _RUN_BY.sub(r"\1", markdown))


class _Prompts:
    """Turns `hub$ COMMAND`, which the highlighter takes for an output, into a prompt and a command over its lines."""

    def __init__(self) -> None:
        self._goes_on = False

    def __call__(self, line: re.Match[str]) -> str:
        prompt, command = line[1] or "", line[2]
        if not prompt and not self._goes_on:
            return line[0]
        self._goes_on = command.endswith("\\")
        return f'<span class="gp">{prompt}</span>{command}' if prompt else command


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """The page, whose commands look like commands whosever machine they are for."""
    return _OUTPUT.sub(_Prompts(), html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The page, with a name for its search that a screen reader can say, and no head of a column that says nothing."""
    return _EMPTY.sub(r"<td\1></td>", output.replace('role="dialog"', 'role="dialog" aria-label="Search"'))
