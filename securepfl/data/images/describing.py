"""Help for writing `[data]` for images: kinds of files and folders of a hospital, and nothing of what pixels hold."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from securepfl.data.images.folders import Files, images_in, is_hospital
from securepfl.data.images.opening import ending_of, kind_of_file, read_file
from securepfl.data.images.picture import Picture, UnfitError
from securepfl.data.images.spec import ImageSpec
from securepfl.data.ranges import key_of, names_of, sites_lines
from securepfl.data.reading import has_reader
from securepfl.errors import DataError
from securepfl.spelling import composed

_IMAGES: Final = ("images", "image", "imgs", "img")
_MASKS: Final = ("masks", "mask", "labels", "label", "manual", "segmentations")
_FIELDS: Final = ("fov", "fields", "field", "fovs")
"""Words that name no patient: a folder of any other name is not shown."""
_INDEX: Final = "index.csv"
_LOOKED_AT: Final = 50
_Seen = TypeVar("_Seen", bound=Hashable)

_PREFACE = """\
# Images of hospital {site}: {kinds}{colours}, to be declared for all hospitals alike.
# Pixels' values, names of files and how many there are stay unsaid on purpose: what is declared here is seen by every
# party. Sizes and spacings are those of most images. Take ranges from the device's specification.
"""


def holds_images(path: Path, site: str) -> bool:
    """Whether a path is a hospital's folder of images, or one that `site`'s lies in."""
    return any(_folder_of(folder) is not None for folder in (path / site, path) if folder.is_dir())


def describe_images(path: Path, site: str, *, header: bool | None = None) -> str:
    """The images of `site` as a TOML skeleton of `[data]`, to be filled in from public knowledge.

    `path` is the hospital's folder, or one that it lies in. `header` says whether an index's first line holds names, as
    `describe_columns` of tables. Raises DataError.
    """
    site = composed(site)
    hospital = path / site if (path / site).is_dir() else path
    name = _folder_of(hospital)
    if name is None:
        raise DataError(f"{path}: holds no images of {site}; name the hospital's folder, or the one it lies in")
    images = images_in(hospital / name, hospital)
    seen = list(_seen(images))
    kinds = " and ".join(sorted({kind_of_file(file.name) for file in images.found.values()}))
    colours = {1: ", grey", 3: ", in colours"}.get(_most(seen, lambda picture: picture.values.shape[2]) or 0, "")
    masks, fields = (_named(hospital, words) for words in (_MASKS, _FIELDS))
    lines = [*_folder_lines(name, masks, fields), *_size_lines(seen), *_other_lines(colours)]
    index = next((place for place in (hospital / _INDEX, path / _INDEX) if place.is_file()), None)
    lines += _patient_lines(images, index, header)
    preface = _PREFACE.format(site=site, kinds=kinds, colours=colours)
    return preface + "\n".join(["", "[data]", 'kind = "images"', *lines]) + "\n\n" + sites_lines(site)


def _folder_of(hospital: Path) -> str | None:
    """The name of the folder of images in a hospital's; "." where they lie in it, None where there are none."""
    name = _named(hospital, _IMAGES)
    if name is not None:
        return name
    tables = any(has_reader(file) and file.name != _INDEX for file in hospital.iterdir())
    return "." if not tables and is_hospital(hospital, ImageSpec(size=(1, 1), images=".", label="any")) else None


def _named(hospital: Path, words: Iterable[str]) -> str | None:
    return next((word for word in words if (hospital / word).is_dir()), None)


def _seen(images: Files) -> Iterable[Picture]:
    for file in list(images.found.values())[:_LOOKED_AT]:
        try:
            yield read_file(file)[0]
        except UnfitError:
            continue


def _most(seen: Iterable[Picture], of: Callable[[Picture], _Seen]) -> _Seen | None:
    """What most images have, None where no more than half agree: no single one decides."""
    counts = Counter(map(of, seen))
    value, count = counts.most_common(1)[0] if counts else (None, 0)
    return value if 2 * count > counts.total() else None


def _line(entry: str, said: str) -> str:
    return f"{entry:<26}# {said}"


def _folder_lines(images: str, masks: str | None, fields: str | None) -> list[str]:
    lines = [f"images = {json.dumps(images)}"]
    if masks is None:
        lines += [
            _line('# label = "..."', "a column of the index; for labels other than 0 and 1: `positive`, `classes`")
        ]
    else:
        lines += [_line(f"masks = {json.dumps(masks)}", "learned where no `label` is declared")]
    if fields is None:
        return [*lines, _line('# fields = "fov"', "where only a part of each image counts")]
    return [*lines, _line(f"fields = {json.dumps(fields)}", "the part of each image that counts")]


def _size_lines(seen: list[Picture]) -> list[str]:
    size = _most(seen, lambda picture: picture.size)
    spacing = _most(seen, lambda picture: picture.spacing)
    lines = [_line("# size = [..., ...]", "[height, width] that the network sees; images differ in it")]
    if size is not None:
        lines = [_line(f"size = {list(size)}", "[height, width] of most images")]
    lines += [_line('fit = "resize"', 'or "pad": pixels stay, and no image may be larger')]
    if spacing is not None:
        steps = [round(step, 4) for step in spacing]
        lines += [_line(f"# spacing = {steps}", "mm a row and a column; any other is then refused")]
    return lines


def _other_lines(colours: str) -> list[str]:
    return [
        _line('colour = "grey"', 'or "green", "rgb"') if "colours" in colours else 'colour = "grey"',
        _line('intensity = "image"', 'or "range" with range = [darkest, brightest], "local" with window = ...'),
        _line("# structures = ...", "of a structure, the most regions it has; holes = false where it has none"),
        _line("# prevalence = ...", "its share of the field of view in published atlases, or of label 1 in cohorts"),
    ]


def _patient_lines(images: Files, index: Path | None, header: bool | None) -> list[str]:
    lines = [_line('# patient = "..."', '"pattern:REGEX" over names of files, "file", or a column of the index')]
    if any(ending_of(file.name) in (None, ".dcm") for file in images.found.values()):
        lines = ['# patient = "dicom:PatientID"']
    if index is None:
        return lines
    names = names_of(index, header)
    if names is None:
        return [*lines, f"# {index.name}: its first line may be a patient's; where it holds names: --header"]
    return [
        *lines,
        _line('# file = "file"', f"the column of {index.name} that names images (`site`: hospitals, if it is for all)"),
        f"# columns of {index.name}: {', '.join(key_of(name) for name in names)}",
    ]
