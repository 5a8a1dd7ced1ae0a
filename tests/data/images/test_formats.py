"""One image is one image, whatever file holds it; and what a file can't be read as."""

import gzip
import io
import struct
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from image_folders import SHAPE, box, noise, save
from PIL import Image, ImageOps

from securepfl.data.images.intensity import coloured
from securepfl.data.images.masks import structure_of
from securepfl.data.images.opening import READERS, read_file
from securepfl.data.images.picture import Picture, UnfitError, imported, upright
from securepfl.data.images.reading import _read
from securepfl.data.images.spec import ImageSpec
from securepfl.errors import ConfigError

GREY16 = noise(1, most=65536, kind=np.uint16)
GREY8 = noise(2)
RGB = noise(3, (*SHAPE, 3))


def nifti(values: np.ndarray, path: Path, kind: Any = nibabel.Nifti1Image, zooms: tuple = (0.5, 0.75, 1)) -> Path:
    nibabel.save(kind(values, np.diag([*zooms, 1])), path)
    return path


def written(path: Path, values: np.ndarray, **options: Any) -> Path:
    tifffile.imwrite(path, values, **options)
    return path


SAME = {
    "PNG": lambda folder: save(GREY16, folder / "a.png"),
    "TIFF": lambda folder: written(folder / "a.tif", GREY16),
    "TIFF, deflated": lambda folder: written(folder / "a.tiff", GREY16, compression="zlib"),
    "TIFF, LZW": lambda folder: save(GREY16, folder / "a.tif", compression="tiff_lzw"),
    "TIFF, white is 0": lambda folder: written(folder / "a.tif", 65535 - GREY16, photometric="miniswhite"),
    "TIFF, equal colours": lambda folder: written(folder / "a.tif", np.stack([GREY16] * 3, 2), photometric="rgb"),
    "TIFF, float": lambda folder: written(folder / "a.tif", GREY16.astype(np.float32)),
    "NIfTI": lambda folder: nifti(GREY16.T, folder / "a.nii"),
    "NIfTI, a volume of one slice": lambda folder: nifti(GREY16.T[:, :, None], folder / "a.nii"),
    "NIfTI, a slice along x": lambda folder: nifti(GREY16.T[None], folder / "a.nii.gz"),
    "NIfTI-2, zipped": lambda folder: nifti(GREY16.T.astype(np.float64), folder / "a.nii.gz", nibabel.Nifti2Image),
}


@pytest.mark.parametrize("how", SAME)
def test_an_image_is_the_same_in_every_file(tmp_path: Path, how: str):
    picture, _ = read_file(SAME[how](tmp_path))
    np.testing.assert_array_equal(picture.values[:, :, 0], GREY16)
    assert picture.values.shape == (*SHAPE, 1)


def test_pixels_are_held_as_stored_and_known_again_as_numbers(tmp_path: Path):
    """Float64 takes eight times the room; the digest, by which a split may go, is the same for every format."""
    high = np.tile(RGB, (40, 1, 1))  # more rows than are looked at at once
    read = ImageSpec(size=(64, 64), label="ill")
    image = _read(save(high, tmp_path / "a.png"), None, None, read)
    assert read_file(tmp_path / "a.png")[0].values.dtype == np.uint8
    exact = high.astype("<f8")
    assert image.pixels == blake2b(repr(exact.shape).encode() + exact.tobytes(), digest_size=32).digest()
    np.testing.assert_allclose(coloured(high, read), exact @ np.array([[0.299], [0.587], [0.114]]), rtol=1e-15)


@pytest.mark.parametrize("size", [(8192, 8192), (2049, 4096)])
def test_a_declared_size_that_no_machine_gets_through_is_refused(size: tuple[int, int]):
    with pytest.raises(ValueError, match="more than 8,388,608 pixels; declare fewer"):
        ImageSpec(size=size)


def test_colours_and_palettes_are_read_as_they_look(tmp_path: Path):
    for file in (
        save(RGB, tmp_path / "a.png"),
        written(tmp_path / "a.tif", RGB, photometric="rgb"),
        written(tmp_path / "b.tif", np.moveaxis(RGB, 2, 0), photometric="rgb", planarconfig="separate"),
        save(np.dstack([RGB, np.full(SHAPE, 255, np.uint8)]), tmp_path / "b.png"),
    ):
        np.testing.assert_array_equal(read_file(file)[0].values, RGB)
    few = Image.fromarray(RGB).quantize(8)
    few.save(tmp_path / "c.png")
    np.testing.assert_array_equal(read_file(tmp_path / "c.png")[0].values, np.asarray(few.convert("RGB")))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_stand_upright(tmp_path: Path, orientation: int):
    exif = Image.Exif()
    exif[0x0112] = orientation
    looked_at = np.asarray(ImageOps.exif_transpose(_tagged(GREY8, exif)))
    np.testing.assert_array_equal(upright(GREY8, orientation), looked_at)
    for name in ("a.png", "a.tif", "b.tif"):
        options = {"compression": "tiff_lzw"} if name == "b.tif" else {}
        file = save(GREY8, tmp_path / name, exif=exif, **options)
        np.testing.assert_array_equal(read_file(file)[0].values[:, :, 0], looked_at)


def _tagged(values: np.ndarray, exif: Image.Exif) -> Image.Image:
    stored = io.BytesIO()
    Image.fromarray(values).save(stored, "PNG", exif=exif)
    return Image.open(stored)


def test_nifti_and_dicom_say_their_spacing(tmp_path: Path):
    assert read_file(nifti(GREY8.T, tmp_path / "a.nii"))[0].spacing == (0.75, 0.5)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(height: int, width: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


def huge_nifti(dtype: type = np.uint8) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape((20000, 20000))
    header.set_data_dtype(dtype)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return header.binaryblock + bytes(4)


def huge_tiff() -> bytes:
    stored = io.BytesIO()
    tifffile.imwrite(stored, np.zeros((8, 8), np.uint8))
    data = stored.getvalue()
    one_tag = struct.pack("<HHI", 257, 4, 1)
    assert one_tag in data
    place = data.index(one_tag)
    return data[:place] + struct.pack("<HHII", 257, 4, 1, 2**31) + data[place + 12 :]


def bomb_tiff(compression: int, strip: bytes, tile: int | None = None) -> bytes:
    """A TIFF of 16 x 16 pixels whose only strip, or tile of that side, unpacks to `strip`'s content."""
    place = (273, 279) if tile is None else (324, 325)
    numbers = {256: 16, 257: 16, 258: 8, 259: compression, 262: 1, 277: 1, place[0]: 8, place[1]: len(strip)}
    numbers |= {278: 16} if tile is None else {322: tile, 323: tile}
    tags = [struct.pack("<HHII", tag, 4, 1, number) for tag, number in sorted(numbers.items())]
    return (
        b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    )


def far_nifti() -> bytes:
    header = bytearray(huge_nifti())
    header[42:46] = struct.pack("<HH", 8, 8)
    header[108:112] = struct.pack("<f", 3e7)
    return gzip.compress(bytes(header) + bytes(30_000_100))


REFUSED: dict[str, tuple[str, Any, str]] = {
    "huge PNG": ("a.png", lambda: huge_png(15000, 10000), "more than 40,000,000 pixels"),
    "larger than Pillow reads": ("a.png", lambda: huge_png(60000, 60000), "more than 40,000,000 pixels"),
    "huge NIfTI": ("a.nii", huge_nifti, "more than 40,000,000 pixels"),
    "huge zipped NIfTI": ("a.nii.gz", lambda: gzip.compress(huge_nifti()), "more than 40,000,000 pixels"),
    "huge TIFF": ("a.tif", huge_tiff, "more than 40,000,000 pixels"),
    "NIfTI far behind": ("a.nii.gz", far_nifti, "begin far behind its header"),
    "deflated bomb": ("a.tif", lambda: bomb_tiff(8, zlib.compress(bytes(10**6))), "far more than its pixels"),
    "deflated bomb in a tile": ("a.tif", lambda: bomb_tiff(8, zlib.compress(b"0"), 10**5), "more than 40,000,000"),
    "packed bomb": ("a.tif", lambda: bomb_tiff(32773, b"\x81\0" * 10**5), "far more than its pixels"),
    "complex NIfTI": ("a.nii", lambda: huge_nifti(np.complex64), "several numbers a pixel"),
    "nothing": ("a.tif", bytes, "is empty"),
    "other bytes": ("a.nii", lambda: b"\0" * 400, "no NIfTI file"),
    "other bytes, zipped": ("a.nii.gz", lambda: b"\x1f\x8b" + bytes(50), "no NIfTI file"),
    "no DICOM": ("a.dcm", lambda: bytes(200), "no DICOM file"),
}


@pytest.mark.parametrize("wrong", REFUSED)
def test_what_stands_for_too_much_or_for_nothing_is_refused(tmp_path: Path, wrong: str):
    name, make, said = REFUSED[wrong]
    (tmp_path / name).write_bytes(make())
    with pytest.raises(UnfitError, match=said):
        read_file(tmp_path / name)


def test_what_holds_more_than_an_image_is_refused(tmp_path: Path):
    pages = np.stack([GREY8, GREY8 + 1])
    with pytest.raises(UnfitError, match="several pages"):
        read_file(written(tmp_path / "a.tif", pages, photometric="minisblack"))
    with pytest.raises(UnfitError, match="holds a volume"):
        read_file(nifti(np.zeros((4, 5, 6), np.uint8), tmp_path / "a.nii"))
    Image.fromarray(GREY8).save(tmp_path / "a.png", save_all=True, append_images=[Image.fromarray(GREY8 + 1)])
    with pytest.raises(UnfitError, match="several frames"):
        read_file(tmp_path / "a.png")


def test_what_would_lose_or_lack_values_is_refused(tmp_path: Path):
    clear = np.dstack([RGB, box()])
    with pytest.raises(UnfitError, match="partly transparent"):
        read_file(save(clear, tmp_path / "a.png"))
    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    deep = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(7))), chunk(b"IEND", b"")]
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(deep))
    with pytest.raises(UnfitError, match="16 bits a colour"):
        read_file(tmp_path / "b.png")
    with pytest.raises(UnfitError, match="no finite numbers"):
        read_file(nifti(np.full(SHAPE, np.nan, np.float32), tmp_path / "a.nii"))
    Image.fromarray(RGB).convert("CMYK").save(tmp_path / "c.jpg")
    with pytest.raises(UnfitError, match="colour mode CMYK"):
        read_file(tmp_path / "c.jpg")


@pytest.mark.parametrize(("values", "stored"), [(255, bool), (255, np.uint8), (1, np.uint8), (1, np.float32)])
def test_a_mask_is_read_by_its_two_values(tmp_path: Path, values: int, stored: type):
    image = Picture(values=np.zeros((*SHAPE, 1)))
    mask = box(values).astype(stored)
    file = nifti(mask.T, tmp_path / "m.nii") if stored is np.float32 else save(mask, tmp_path / "m.png")
    np.testing.assert_array_equal(structure_of(read_file(file)[0], image), box(1))


def test_masks_in_another_place_are_refused(tmp_path: Path):
    image, _ = read_file(nifti(GREY8.T, tmp_path / "a.nii"))
    moved, _ = read_file(nifti(box().T, tmp_path / "m.nii", zooms=(-0.5, 0.75, 1)))
    with pytest.raises(UnfitError, match="lies elsewhere in space"):
        structure_of(moved, image)


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_bytes_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    folder = tmp_path_factory.mktemp("damaged")
    how = data.draw(st.sampled_from(sorted(SAME)))
    file = SAME[how](folder)
    content = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        picture, _ = read_file(file)
    except UnfitError as error:
        assert "\n" not in str(error)
    else:
        assert picture.values.ndim == 3


def test_every_ending_has_a_reader_that_refuses_text(tmp_path: Path):
    for ending in READERS:
        (tmp_path / f"a{ending}").write_text("no image")
        with pytest.raises(UnfitError, match=r"no .* file; replace it"):
            read_file(tmp_path / f"a{ending}")


def test_a_missing_library_is_told_with_what_installs_it():
    with pytest.raises(ConfigError, match=r"^nopixels is not installed; run: pip install 'securepfl\[imaging\]'$"):
        imported("nopixels.reading")
