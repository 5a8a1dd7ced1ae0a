"""Which files of a folder are hospitals, and that nothing else in it is passed over in silence.

Without [data.files], every table counts, so whatever might be one and isn't read is refused: a hospital left out would
change the result. With it, the declaration says which files count, and the others are named in a note.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from securepfl.data.reading import SUFFIXES_IN_WORDS, has_reader
from securepfl.errors import DataError
from securepfl.spelling import alike, composed, shown, spelled_out

_NO_TABLE = re.compile(
    r"(readme|licen[cs]e|copying|notice|source|changelog|citation|makefile|thumbs|_success)(\..*)?"
    r"|.*\.(md|rst|html?|pdf|docx?|toml|ya?ml|ini|cfg|py|ipynb|r|sh|png|jpe?g|svg|log|sha1|sha256|sha512|md5|crc|names|safetensors)",
    re.IGNORECASE,
)
_TABLES = re.compile(
    r".*\.(csv|tsv|tab|dat|data|parquet|pq|feather|arrow|orc|avro|xlsx?|xlsm|xlsb|ods|numbers|z?sav|por|dta|sas7bdat|xpt"
    r"|rds|rda|rdata|db|sqlite3?|mdb|accdb|h5|hdf5|gz|bz2|xz|zst|zip|7z|tar|tgz|rar)",
    re.IGNORECASE,
)
"""What tables are kept in, as far as a name tells; a folder that holds such a file is not passed over."""

_NAMED = 8


def hospital_files(folder: Path, declared: Mapping[str, str]) -> dict[str, Path]:
    """Each hospital's file, by its name: as `declared`, or by the names of all tables in the folder.

    Raises DataError for a file that no reader takes, and for two files whose names look alike.
    """
    if declared:
        here = {composed(file.name): file for file in _listed(folder)}
        return {site: here.get(composed(name), folder / name) for site, name in declared.items()}
    listed = _listed(folder)
    taken = [file for file in listed if _is_table(file)]
    other = [file.name for file in listed if file not in taken and not _passed_over(file)]
    if other:
        raise DataError(
            f"{folder}: no reader takes {_in_words(other)}; save each as {SUFFIXES_IN_WORDS}, move it, or name "
            "every hospital's file in [data.files]"
        )
    return _by_site(folder, taken)


def left_out(folder: Path, declared: Mapping[str, str]) -> list[str]:
    """One line that names what in the folder is no hospital's file; none where there is nothing, or no folder."""
    if not folder.is_dir():
        return []
    read = set(hospital_files(folder, declared).values())
    other = [file.name for file in _listed(folder) if file not in read]
    return [f"{folder.name}: no hospital's file, and not read: {_in_words(other)}"] if other else []


def _by_site(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for file in files:
        site = composed(file.stem)
        if site in found:
            raise DataError(
                f"{folder}: two files for site {site} ({spelled_out(found[site].name)} and {spelled_out(file.name)}); "
                "remove one"
            )
        found[site] = file
    if not found:
        raise DataError(f"{folder}: has no {SUFFIXES_IN_WORDS} file; add one a site, or declare [data.files]")
    if pair := alike(found):
        files_of = " and ".join(spelled_out(found[site].name) for site in pair)
        raise DataError(f"{folder}: {files_of} name hospitals that look alike; rename or remove one")
    return found


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from None


def _is_table(file: Path) -> bool:
    """Whether a file counts as a hospital's. A broken link does: reading it says what is wrong."""
    return has_reader(file) and not _hidden(file) and (file.is_file() or file.is_symlink())


def _passed_over(file: Path) -> bool:
    """Whether a note is enough: what is hidden, plainly no table, or a folder without any."""
    if _hidden(file):
        return True
    if file.is_dir():
        return not _like_table(file) and not _holds_tables(file)
    return _NO_TABLE.fullmatch(file.name) is not None


def _hidden(file: Path) -> bool:
    return file.name.startswith((".", "~$"))


def _holds_tables(folder: Path) -> bool:
    try:
        return any(_like_table(file) for file in folder.rglob("*"))
    except OSError:
        return True


def _like_table(file: Path) -> bool:
    return has_reader(file) or _TABLES.fullmatch(file.name) is not None


def _in_words(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(shown(name) for name in names[:_NAMED])}{more}"
