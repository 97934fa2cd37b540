"""The studies that the phantom writes: valid DICOM, the same each time, clearly TEST."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, MRImageStorage

from models.ich import phantom
from models.ich.phantom import DemoStudy, Kind, Lesion, Truth, Vendor
from tests.support.services import program


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> list[DemoStudy]:
    return phantom.demo_studies(tmp_path_factory.mktemp("demo"))


def read(study: DemoStudy) -> list[pydicom.FileDataset]:
    return [pydicom.dcmread(study.folder / name) for name in study.files]


def test_the_demo_has_four_bleeds_one_clean_head_and_one_study_without_route(
    demo: list[DemoStudy],
) -> None:
    assert [s.truth for s in demo] == [Truth.POSITIVE] * 4 + [Truth.NEGATIVE, Truth.NO_ROUTE]
    assert {s.lesion for s in demo[:3]} == {Kind.INTRAPARENCHYMAL, Kind.SUBDURAL}
    assert all(s.positive_slices > 0 and s.size_ml > 0 for s in demo[:4])
    assert all(s.positive_slices == 0 and s.size_ml == 0 for s in demo[4:])
    assert len({s.study_uid for s in demo}) == 6


def test_each_study_is_one_axial_series_in_geometric_order(demo: list[DemoStudy]) -> None:
    for study in demo:
        instances = read(study)
        assert {str(i.StudyInstanceUID) for i in instances} == {study.study_uid}
        assert len({i.SeriesInstanceUID for i in instances}) == 1
        assert len({i.SOPInstanceUID for i in instances}) == len(instances)
        heights = [float(i.ImagePositionPatient[2]) for i in instances]
        assert heights == sorted(heights)
        assert np.allclose(np.diff(heights), float(instances[0].SpacingBetweenSlices), atol=1e-3)


def test_classes_and_syntax_are_as_promised(demo: list[DemoStudy]) -> None:
    for study in demo:
        for instance in read(study):
            mr = study.truth is Truth.NO_ROUTE
            assert instance.SOPClassUID == (MRImageStorage if mr else CTImageStorage)
            assert instance.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian
            assert instance.BodyPartExamined == "HEAD"


def test_nobody_can_take_the_patient_for_a_real_one(demo: list[DemoStudy]) -> None:
    for study in demo:
        instance = read(study)[0]
        assert str(instance.PatientName).startswith("TEST^")
        assert "TEST" in instance.PatientID
        assert "TEST" in instance.StudyDescription


@pytest.mark.parametrize("vendor", list(Vendor))
def test_the_stored_pixels_give_the_hu_of_the_head(vendor: Vendor, tmp_path: Path) -> None:
    head = phantom.volume(2, Lesion(Kind.SUBDURAL, 20), slices=3, size=96)
    for k, path in enumerate(phantom.write_study(head, tmp_path, vendor=vendor)):
        ds = pydicom.dcmread(path)
        hu = ds.pixel_array.astype(int) * int(ds.RescaleSlope) + int(ds.RescaleIntercept)
        shown = ds.pixel_array != ds.get("PixelPaddingValue")
        assert np.array_equal(hu[shown], head.hu[k][shown])
        assert np.abs(hu[~shown] + 3024).sum() == 0
        assert shown.all() == (vendor is not Vendor.PADDED)


def test_the_same_study_is_the_same_bytes(tmp_path: Path) -> None:
    head = phantom.volume(2, slices=2, size=64)
    first = phantom.write_study(head, tmp_path / "a")
    second = phantom.write_study(head, tmp_path / "b")
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def test_a_head_and_its_twin_are_two_studies(tmp_path: Path) -> None:
    pair = phantom.pair(2, Lesion(Kind.SUBDURAL, 20), slices=6, size=96)
    uids = {
        pydicom.dcmread(phantom.write_study(h, tmp_path / str(i))[0]).StudyInstanceUID
        for i, h in enumerate(pair)
    }
    assert len(uids) == 2


def test_an_unknown_modality_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    head = phantom.volume(2, slices=1, size=64)
    with pytest.raises(ValueError, match="CT or MR"):
        phantom.write_study(head, tmp_path / "new", modality="US")
    assert not (tmp_path / "new").exists()


def test_the_command_prints_what_it_wrote(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert phantom.main(["-o", str(tmp_path), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [r["truth"] for r in rows] == ["positive"] * 4 + ["negative", "no route"]
    assert rows[4]["lesion"] is None
    assert all((Path(r["folder"]) / name).is_file() for r in rows for name in r["files"])


def test_an_independent_validator_finds_no_error(demo: list[DemoStudy]) -> None:
    validator = program("dciodvfy", "dicom3tools")
    for study in demo:
        for name in (study.files[0], study.files[-1]):
            run = subprocess.run(
                [validator, str(study.folder / name)],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
            said = run.stdout + run.stderr
            assert "Image" in said
            assert "Error" not in said, said
