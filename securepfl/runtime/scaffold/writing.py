"""The folder of a new federation, written whole or not at all."""

import shlex
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from securepfl.errors import StorageError
from securepfl.runtime.scaffold.patients import prevalence_of, table_of
from securepfl.runtime.scaffold.pictures import images_of
from securepfl.runtime.scaffold.wanted import Wanted
from securepfl.settings.effective import key_of, text_of
from securepfl.settings.federation import Federation
from securepfl.settings.reading import read_toml
from securepfl.storage.folder import new_folder

_UNITS: Final = {"table": 70, "images": 100}
_SHARE: Final = 0.5
"""Of the made-up images, those that are a yes."""
_PLAIN: Final = ("README.md", "settings.sh")
_SCRIPTS: Final = ("hospital.sh", "coordinator.sh", "rehearse.sh")
_EXAMPLE: Final = {
    "table": "example tables, `NAME.csv`: **made-up patients**, to be replaced by your own",
    "images": "example images, in `NAME/images`, and `NAME/index.csv`: **made up**, to be replaced by your own",
}
_OWN: Final = {
    "table": "Put each hospital's table into `data/NAME.csv` (or `.parquet`), in place of the example.",
    "images": "Put each hospital's images into `data/NAME/images`, and their labels into `data/NAME/index.csv`.",
}


class _Text(Template):
    """A template whose places are %%{name}: shells and Markdown have their own use for $."""

    delimiter = "%%"


def write_scaffold(wanted: Wanted, path: Path) -> None:
    """Write the folder of a new federation to `path`, which must not be there.

    Raises StorageError where it is, or cannot be written; ExtraError where images are wanted and their library is
    missing. Nothing is left then.
    """
    if path.exists() or path.is_symlink():
        raise StorageError(f"{path}: is there already, and nothing of it was touched; name a folder that isn't")
    words = _words(wanted)
    with new_folder(path) as folder:
        (folder / "federation.toml").write_text(_filled("federation.toml", words), encoding="utf-8")
        Federation.from_mapping(read_toml(folder / "federation.toml"), "federation.toml")
        for name in _PLAIN:
            (folder / name).write_text(_filled(name, words), encoding="utf-8")
        (folder / ".gitignore").write_text(_filled("gitignore", words), encoding="utf-8")
        for name in _SCRIPTS:
            (folder / name).write_text(_filled(name, words), encoding="utf-8")
            (folder / name).chmod(0o755)
        _write_data(wanted, folder / "data")
        folder.chmod(0o755)


def _write_data(wanted: Wanted, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for number, name in enumerate(wanted.hospitals):
        if wanted.kind == "table":
            (folder / f"{name}.csv").write_text(table_of(number, wanted.outcome), encoding="utf-8")
            continue
        index = [f"file,patient,{_quoted(wanted.outcome)}"]
        (folder / name / "images").mkdir(parents=True)
        for place, (file, image, found) in enumerate(images_of(number), start=1):
            (folder / name / "images" / file).write_bytes(image)
            index.append(f"{file},{1000 * (number + 1) + place},{'yes' if found else 'no'}")
        (folder / name / "index.csv").write_text("\n".join([*index, ""]), encoding="utf-8")


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"') else cell


def _words(wanted: Wanted) -> Mapping[str, str]:
    """What stands in the templates' places."""
    sites = [
        f"[sites.{key_of(name)}]\nunits = {_UNITS[wanted.kind]}\n"
        f"prevalence = {_SHARE if wanted.kind == 'images' else prevalence_of(number)}"
        for number, name in enumerate(wanted.hospitals)
    ]
    first = wanted.hospitals[0]
    data = "data" if wanted.kind == "images" else f"data/{first}.csv"
    outcome = {"outcome": text_of(wanted.outcome)}
    return {
        "name": text_of(wanted.name),
        "title": wanted.name,
        "count": str(len(wanted.hospitals)),
        "names": ", ".join(wanted.hospitals),
        "quoted": shlex.join(wanted.hospitals),
        "steward": shlex.quote(first),
        "steward_name": first,
        "unit": 'unit = "patient"           # all of a patient\'s rows together; "record" where nobody has two',
        "model": _filled(f"{wanted.kind}.model", {}).rstrip(),
        "sites": "\n\n".join(sites),
        "data": _filled(f"{wanted.kind}.data", outcome).rstrip(),
        "example": _EXAMPLE[wanted.kind],
        "own": _OWN[wanted.kind],
        "ranges": f"securepfl data ranges {shlex.quote(data)} --site {shlex.quote(first)}",
    }


def _filled(name: str, words: Mapping[str, str]) -> str:
    text = (files("securepfl.runtime.scaffold") / "templates" / name).read_text(encoding="utf-8")
    return _Text(text).substitute(words)
