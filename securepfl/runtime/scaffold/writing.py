"""The folder of a new federation, written whole or not at all."""

import shlex
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

from securepfl.errors import StorageError
from securepfl.runtime.scaffold.patients import prevalence_of, table_of
from securepfl.runtime.scaffold.pictures import COVERED, images_of, outlined_of
from securepfl.runtime.scaffold.wanted import Wanted
from securepfl.settings.effective import key_of, text_of
from securepfl.settings.federation import Federation
from securepfl.settings.reading import read_toml
from securepfl.storage.folder import new_folder

_UNITS: Final = {"table": 70, "images": 100, "segmentation": 80}
_SHARE: Final = 0.5
"""Of the made-up images, those that are a yes."""
_PLAIN: Final = ("README.md", "settings.sh")
_SCRIPTS: Final = ("hospital.sh", "coordinator.sh", "rehearse.sh")
_EXAMPLE: Final = {
    "table": "example tables, `NAME.csv`: **made-up patients**, to be replaced by your own",
    "images": "example images, in `NAME/images`, and `NAME/index.csv`: **made up**, to be replaced by your own",
    "segmentation": "example images, masks and `index.csv` of each hospital: **made up**, to be replaced by your own",
}
_OWN: Final = {
    "table": "Put each hospital's table into `data/NAME.csv` (or `.parquet`), in place of the example.",
    "images": "Put each hospital's images into `data/NAME/images`, and their labels into `data/NAME/index.csv`.",
    "segmentation": (
        "Put each hospital's images into `data/NAME/images`, masks of the same names into `data/NAME/masks`, and\n"
        "   whose image each is into `data/NAME/index.csv`. docs/imaging.md says what few patients need: a start."
    ),
}
_PREVALENCE: Final = {
    "table": "the share of them whose outcome is yes",
    "images": "the share of them whose outcome is yes",
    "segmentation": "the share of an image that the structure covers",
}
_UNSEEN: Final = 6
"""Made-up images of a hospital that takes no part."""


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
        if wanted.kind == "segmentation":
            _write_outlined(folder / "unseen", outlined_of(len(wanted.hospitals), _UNSEEN))
        folder.chmod(0o755)


def _write_data(wanted: Wanted, folder: Path) -> None:
    folder.mkdir(mode=0o700)
    for number, name in enumerate(wanted.hospitals):
        if wanted.kind == "table":
            (folder / f"{name}.csv").write_text(table_of(number, wanted.outcome), encoding="utf-8")
        elif wanted.kind == "images":
            _write_images(folder / name, number, wanted.outcome)
        else:
            files = _write_outlined(folder / name, outlined_of(number))
            index = [
                "file,patient",
                *(f"{file},{_patient(number, place)}" for place, file in enumerate(files, start=1)),
            ]
            (folder / name / "index.csv").write_text("\n".join([*index, ""]), encoding="utf-8")


def _write_images(folder: Path, hospital: int, outcome: str) -> None:
    (folder / "images").mkdir(parents=True)
    index = [f"file,patient,{_quoted(outcome)}"]
    for place, (file, image, found) in enumerate(images_of(hospital), start=1):
        (folder / "images" / file).write_bytes(image)
        index.append(f"{file},{_patient(hospital, place)},{'yes' if found else 'no'}")
    (folder / "index.csv").write_text("\n".join([*index, ""]), encoding="utf-8")


def _write_outlined(folder: Path, found: Iterable[tuple[str, bytes, bytes]]) -> list[str]:
    """Images and masks under the same names, which it gives."""
    names = []
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for file, image, mask in found:
        (folder / "images" / file).write_bytes(image)
        (folder / "masks" / file).write_bytes(mask)
        names.append(file)
    return names


def _patient(hospital: int, place: int) -> int:
    return 1000 * (hospital + 1) + place


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if set(cell) & set(',"') else cell


def _words(wanted: Wanted) -> Mapping[str, str]:
    """What stands in the templates' places."""
    sites = [
        f"[sites.{key_of(name)}]\nunits = {_UNITS[wanted.kind]}\nprevalence = {_share(wanted, number)}"
        for number, name in enumerate(wanted.hospitals)
    ]
    first = wanted.hospitals[0]
    data = f"data/{first}.csv" if wanted.kind == "table" else "data"
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
        "epsilon": "8.0" if wanted.kind == "segmentation" else "4.0",
        "release": _filled(f"{'masks' if wanted.kind == 'segmentation' else 'no'}.release", {}).rstrip(),
        "prevalence": _PREVALENCE[wanted.kind],
        "pictures": _filled("pictures.md", {}) if wanted.kind == "segmentation" else "",
        "sites": "\n\n".join(sites),
        "data": _filled(f"{wanted.kind}.data", outcome).rstrip(),
        "example": _EXAMPLE[wanted.kind],
        "own": _OWN[wanted.kind],
        "ranges": f"securepfl data ranges {shlex.quote(data)} --site {shlex.quote(first)}",
    }


def _share(wanted: Wanted, hospital: int) -> float:
    """What the hospital declares as its prevalence."""
    return {"images": _SHARE, "segmentation": COVERED}.get(wanted.kind, prevalence_of(hospital))


def _filled(name: str, words: Mapping[str, str]) -> str:
    text = (files("securepfl.runtime.scaffold") / "templates" / name).read_text(encoding="utf-8")
    return _Text(text).substitute(words)
