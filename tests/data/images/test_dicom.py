"""DICOM: values as a reader sees them, the patient by a tag, and no identifier anywhere else."""

import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from image_folders import declare, noise
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from securepfl.data.images.opening import read_file
from securepfl.data.images.picture import UnfitError
from securepfl.data.loading import load_sites, load_unlabelled
from securepfl.errors import ConfigError, DataError

OWN = Path(pydicom.__file__).parent / "data" / "test_files"
SECRET = "DOE^JANE"  # noqa: S105 - a made-up name
PIXELS = noise(1, (12, 10), most=4096, kind=np.uint16)


def dicom(path: Path, pixels: np.ndarray = PIXELS, **elements: Any) -> Path:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = ExplicitVRLittleEndian, generate_uid()
    found = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    given = {
        "PatientName": SECRET,
        "PatientID": f"{SECRET}-17",
        "PatientBirthDate": "19500101",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": int(pixels.dtype == np.int16),
        "PixelData": pixels.tobytes(),
        **elements,
    }
    for keyword, value in given.items():
        setattr(found, keyword, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    found.save_as(path, enforce_file_format=False)
    return path


def test_values_are_rescaled(tmp_path: Path):
    file = dicom(tmp_path / "a.dcm", RescaleSlope=2, RescaleIntercept=-1024, PixelSpacing=[0.5, 0.25])
    picture, _ = read_file(file)
    np.testing.assert_array_equal(picture.values[:, :, 0], PIXELS * 2.0 - 1024)
    assert picture.spacing == (0.5, 0.25)


@pytest.mark.parametrize("pixels", [PIXELS, (PIXELS.astype(np.int64) - 2048).astype(np.int16)])
def test_white_is_large_in_either_photometric_interpretation(tmp_path: Path, pixels: np.ndarray):
    turned = (4095 - pixels) if pixels.dtype == np.uint16 else (-1 - pixels)
    file = dicom(tmp_path / "a.dcm", turned.astype(pixels.dtype), PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_file(file)[0].values[:, :, 0], pixels)


def test_pydicoms_own_files_are_read_or_refused():
    readable, refused = 0, 0
    for file in sorted(OWN.glob("*.dcm")):
        try:
            read_file(file)
            readable += 1
        except UnfitError:
            refused += 1
    assert readable >= 35 and readable + refused == len(list(OWN.glob("*.dcm")))
    for name, said in {
        "image_dfl.dcm": "deflated",
        "examples_palette.dcm": "neither grey nor RGB",
        "rtdose.dcm": "several frames",
        "rtplan.dcm": "holds no image",
        "MR_truncated.dcm": "truncated",
        "JPEG-lossy.dcm": "compression",
    }.items():
        with pytest.raises(UnfitError, match=said):
            read_file(OWN / name)


def test_what_a_file_says_of_itself_is_refused_where_it_must_be(tmp_path: Path):
    huge = dicom(tmp_path / "a.dcm", Rows=60000, Columns=60000)
    with pytest.raises(UnfitError, match="40,000,000"):
        read_file(huge)
    with pytest.raises(UnfitError, match="burned into"):
        read_file(dicom(tmp_path / "b.dcm", BurnedInAnnotation="YES"))


def folder(path: Path, **elements: Any) -> Path:
    """Two hospitals with two patients of two files each; named as a scanner would, with the patient's name in it."""
    for place, site in enumerate(("north", "south")):
        for number in range(4):
            pixels = noise(10 * place + number, (12, 10), most=4096, kind=np.uint16)
            patient = {"PatientID": f"{SECRET}-{site}-{number // 2}"}
            dicom(path / site / "images" / f"{SECRET} {number}", pixels, **patient, **elements)
        rows = "".join(f"{SECRET} {number},{number % 2}\n" for number in range(4))
        (path / site / "index.csv").write_text("file,ill\n" + rows)
    return path


def by_tag(**entries: Any) -> Any:
    return declare(size=[12, 12], label="ill", patient="dicom:PatientID", **entries)


def test_a_patient_is_known_by_a_tag(tmp_path: Path):
    tables = load_sites(folder(tmp_path), by_tag())
    assert tables["north"].patients.tolist() == [f"{SECRET}-north-{number}" for number in (0, 0, 1, 1)]


def test_outside_patients_of_a_tag_are_numbered(tmp_path: Path):
    clinic = folder(tmp_path) / "north"
    (clinic / "images" / "notes.bmp").write_text("no image, and no business of one image's")
    one = load_unlabelled(clinic / "images" / f"{SECRET} 3", by_tag())
    assert one.patients.tolist() == ["patient-1"] and one.labels.tolist() == [1]
    (clinic / "images" / "notes.bmp").unlink()
    whole = load_unlabelled(clinic, by_tag())
    assert whole.patients.tolist() == ["patient-1", "patient-1", "patient-2", "patient-2"]


def test_a_spacing_other_than_declared_is_refused(tmp_path: Path):
    folder(tmp_path, PixelSpacing=[0.5, 0.25])
    assert len(load_sites(tmp_path, by_tag(spacing=[0.501, 0.25]))) == 2
    with pytest.raises(
        DataError, match="each of images 1, 2, 3 and 1 more in order of names has another spacing"
    ) as caught:
        load_sites(tmp_path, by_tag(spacing=[0.25, 0.5]))
    assert SECRET not in str(caught.value)


WRONG = {
    "no such patient": {"PatientID": ""},
    "no birth date": {"PatientBirthDate": f"{SECRET} 1950"},
    "no number": {"RescaleSlope": "12345678"},
    "no count": {"NumberOfFrames": "12345678"},
    "no date": {"StudyDate": SECRET},
    "few pixels": {"PixelData": b"\0\0"},
    "other representation": {"PhotometricInterpretation": SECRET},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_no_identifier_is_said_warned_or_logged(
    tmp_path: Path, wrong: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        file = dicom(folder(tmp_path) / "north" / "images" / f"{SECRET} 0", **WRONG[wrong])
    file.write_bytes(file.read_bytes().replace(b"12345678", SECRET.encode()))
    capfd.readouterr()
    caplog.clear()
    caplog.set_level(logging.DEBUG)
    pydicom.config.debug(debug_on=True)
    said = ""
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            try:
                load_sites(tmp_path, by_tag())
            except DataError as error:
                said = str(error)
    finally:
        pydicom.config.debug(debug_on=False)
    output = capfd.readouterr()
    heard = [said, caplog.text, output.out, output.err, *(str(one.message) for one in warned)]
    assert not any("DOE" in text or "JANE" in text for text in heard)


def test_what_is_asked_of_pydicom_is_heard_again_afterwards(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    load_sites(folder(tmp_path), by_tag())
    logging.getLogger("pydicom").warning("heard")
    assert "heard" in caplog.text


def test_a_tag_that_dicom_does_not_know_and_files_that_have_none_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="DICOM has no such element"):
        load_sites(folder(tmp_path), declare(size=[12, 12], label="ill", patient="dicom:PatientHat"))
    with pytest.raises(DataError, match="has no patient by its DICOM element"):
        load_sites(tmp_path, declare(size=[12, 12], label="ill", patient="dicom:AccessionNumber"))
