"""Which folders are hospitals, and which files in them are images: all of them, or none is read.

Names of files may be patients', so messages count images in the order of their names, from 1.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from securepfl.data.images.opening import KINDS_IN_WORDS, ending_of
from securepfl.data.images.spec import ImageSpec
from securepfl.errors import DataError
from securepfl.spelling import alike, composed, shown, spelled_out

_NO_IMAGE: Final = re.compile(
    r"(readme|licen[cs]e|notice|source|changelog|citation|thumbs|dicomdir)(\..*)?"
    r"|.*\.(txt|csv|tsv|parquet|json|xml|md|rst|html?|pdf|docx?|xlsx?|toml|ya?ml|ini|py|log|sha1|sha256|sha512|md5)",
    re.IGNORECASE,
)
_NAMED: Final = 3


@dataclass(frozen=True)
class Files:
    """The images of one folder, by id, sorted: an id is a path in it without its ending, with `/`."""

    folder: Path
    found: Mapping[str, Path]

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids, in order."""
        return tuple(self.found)


def check_folder(path: Path) -> None:
    """Raise DataError for a path that is no folder."""
    if not path.is_dir():
        raise DataError(f"{path}: is no folder; images lie in folders, one for each hospital")


def hospital_folders(path: Path, spec: ImageSpec) -> dict[str, Path]:
    """Each hospital's folder in `path`, by its name. Raises DataError for a folder that holds no images and isn't
    listed in `without`, and for names that look alike.
    """
    if is_hospital(path, spec):
        raise DataError(f"{path}: is one hospital's folder; name the folder that all hospitals' folders lie in")
    found: dict[str, Path] = {}
    for entry in _entries(path):
        site = composed(entry.name)
        if site in spec.without or not entry.is_dir():
            continue
        if not holds_images(entry, spec):
            holds = "images" if spec.images == "." else f"folder `{spec.images}`"
            raise DataError(f"{path}: folder {shown(site)} has no {holds}; add it, or list it in [data] without")
        if site in found:
            raise DataError(f"{path}: two folders for site {shown(site)}; remove one")
        found[site] = entry
    if not found:
        raise DataError(f"{path}: holds no hospital's folder; give each hospital one, with a folder `{spec.images}`")
    if pair := alike(found):
        raise DataError(f"{path}: sites {' and '.join(map(spelled_out, pair))} look alike; rename or remove one")
    return found


def is_hospital(path: Path, spec: ImageSpec) -> bool:
    """Whether a folder is one hospital's: it holds the folder of images, or, where they lie in it, images."""
    if spec.images != ".":
        return (path / spec.images).is_dir()
    return path.is_dir() and any(ending_of(entry.name) for entry in _entries(path))


def holds_images(path: Path, spec: ImageSpec) -> bool:
    """Whether a folder can only be a hospital's: as `is_hospital`, or with images in folders of its own."""
    nested = (
        spec.images == "." and path.is_dir() and any(ending_of(name) for *_, names in os.walk(path) for name in names)
    )
    return nested or is_hospital(path, spec)


def images_in(folder: Path, hospital: Path) -> Files:
    """All images in a folder and the folders in it.

    Raises DataError for a file that no reader takes, for a link that leads out of the `hospital`'s folder, a name that
    can't be an id, two images with one id, and where there is none.
    """
    listed = sorted((_id_of(folder, file), file.name, file) for file in _walked(folder))
    home = hospital.resolve()
    problems: dict[str, list[int]] = {}
    for number, (name, _, file) in enumerate(listed, start=1):
        problem = _fault(name, file, home)
        if problem is not None:
            problems.setdefault(problem, []).append(number)
    if problems:
        raise DataError(f"{folder}: {in_words(problems)}")
    seen: dict[str, int] = {}
    for number, (name, _, _) in enumerate(listed, start=1):
        other = seen.setdefault(name.casefold(), number)
        if other != number:
            raise DataError(
                f"{folder}: images {other} and {number} in order of names have one name but for ending or case; "
                "rename or remove one"
            )
    if not listed:
        raise DataError(f"{folder}: holds no image; add {KINDS_IN_WORDS} files")
    return Files(folder, {name: file for name, _, file in listed})


def hospital_around(image: Path, spec: ImageSpec) -> Path:
    """The hospital's folder among whose images an image lies; the folder that it lies in where there is none."""
    within = (up for up in image.parents if is_hospital(up, spec) and image.is_relative_to(up / spec.images))
    return next(within, image.parent)


def one_image(image: Path, folder: Path, hospital: Path) -> Files:
    """One image of a folder alone. Raises DataError as `images_in` does of it."""
    if ending_of(image.name) is None and not _is_dicom(image):
        raise DataError(f"{folder}: the file named is no image; name a {KINDS_IN_WORDS} file")
    name = _id_of(folder, image)
    problem = _fault(name, image, hospital.resolve())
    if problem is not None:
        raise DataError(f"{folder}: the image named {problem}")
    return Files(folder, {name: image})


def in_words(problems: Mapping[str, Sequence[int]]) -> str:
    """Images by number, with what is wrong with them.

    >>> in_words({"is empty": [2], "is grey": [1, 4, 5, 9, 10]})
    'image 2 in order of names is empty; each of images 1, 4, 5 and 2 more in order of names is grey'
    """
    return "; ".join(f"{_numbered(numbers)} {problem}" for problem, numbers in problems.items())


def _numbered(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return f"image {numbers[0]} in order of names"
    more = f" and {len(numbers) - _NAMED} more" if len(numbers) > _NAMED else ""
    return f"each of images {', '.join(map(str, numbers[:_NAMED]))}{more} in order of names"


def _walked(folder: Path) -> Iterator[Path]:
    """Every file that may be an image. Raises DataError for one that no reader takes."""
    other: Counter[str] = Counter()
    for entry in _entries(folder):
        if entry.is_dir() and not entry.is_symlink():
            yield from _walked(entry)
        elif entry.is_dir():
            raise DataError(f"{folder}: holds a link to a folder; put the folder in its place")
        elif ending_of(entry.name) is not None or _is_dicom(entry):
            yield entry
        elif _NO_IMAGE.fullmatch(entry.name) is None:
            other[entry.suffix.lower() if len(entry.suffix) <= 5 else ""] += 1
    if other:
        endings = ", ".join(sorted(ending or "none" for ending in other))
        raise DataError(
            f"{folder}: no reader takes {other.total()} file(s) (by their ending: {endings}); save each as "
            f"{KINDS_IN_WORDS}, or move it"
        )


def _is_dicom(file: Path) -> bool:
    """Whether a file is DICOM by its content: scanners name them without an ending."""
    if _NO_IMAGE.fullmatch(file.name) or not file.is_file():
        return False
    try:
        with file.open("rb") as opened:
            return opened.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _fault(name: str, file: Path, home: Path) -> str | None:
    """What keeps a file from being an image by its place and name, or None."""
    if not file.exists():
        return "is a link to nothing; replace it"
    if not file.is_file():
        return "is no plain file; replace it"
    if not file.resolve().is_relative_to(home):
        return "is a link out of its hospital's folder; put the file in its place"
    if "\\" in name or not name.isprintable() or any(part != part.strip() for part in name.split("/")):
        return "has a name with a backslash, an end in blanks, or marks that are not seen; rename it"
    return None


def _id_of(folder: Path, file: Path) -> str:
    name = file.relative_to(folder).as_posix()
    return composed(name[: len(name) - len(ending_of(name) or "")])


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder and isn't hidden, sorted."""
    try:
        return sorted(folder / entry.name for entry in os.scandir(folder) if not entry.name.startswith((".", "~$")))
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror}); make it readable") from None


def partners(images: Files, others: Files, what: str) -> list[Path]:
    """The mask or field of each image, in order. Raises DataError for an image without, and for one without image."""
    without = _places(images.ids, others.found)
    if without:
        mend = f"add one of the same name to {others.folder}, or remove the image"
        raise DataError(f"{images.folder}: {in_words({f'has no {what}; {mend}': without})}")
    alone = _places(others.ids, images.found)
    if alone:
        mend = "add its image, or remove it"
        raise DataError(f"{others.folder}: {in_words({f'is a {what} of no image; {mend}': alone})}")
    return [others.found[name] for name in images.ids]


def _places(names: Iterable[str], others: Mapping[str, Path]) -> list[int]:
    return [number for number, name in enumerate(names, start=1) if name not in others]
