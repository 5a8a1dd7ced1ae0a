"""A page written to its file: never over anything but an earlier page."""

from pathlib import Path
from typing import Final

from securepfl.errors import StorageError
from securepfl.report.pages.page import GENERATOR, PAGE, Page, read_page
from securepfl.storage.folder import write_bytes

_HEAD: Final = 1000


def write_page(page: Page, out: Path) -> None:
    """Write it, whole or not at all. Raises StorageError where `out` is something else, or can't be written."""
    if out.is_dir():
        raise StorageError(f"{out}: is a folder; name a file with --out")
    if out.exists() and not _is_page(out):
        raise StorageError(f"{out}: exists, and is no page of `{GENERATOR}`; name another file with --out")
    if not out.parent.is_dir():
        raise StorageError(f"{out}: {out.parent} is no folder; make it first, or name another place with --out")
    write_bytes(out, page.html().encode())


def write_own_page(folder: Path, name: str | None = None) -> None:
    """The page of the run or answer in `folder`, into it. `name`: what the folder is to be called."""
    write_bytes(folder / PAGE, read_page([folder], name).html().encode())


def _is_page(out: Path) -> bool:
    try:
        with out.open("rb") as file:
            return f'content="{GENERATOR}"'.encode() in file.read(_HEAD)
    except OSError:
        return False
