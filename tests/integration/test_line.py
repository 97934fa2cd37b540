"""The straight line, on a node without broker or database server: C-STORE in, pages out."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from limen.result import Phase, Result
from limen.uids import key_of
from models.ich.phantom import DemoStudy
from tests.support.broken_files import store
from tests.support.node import Node, copy_study, until
from tests.support.services import program, shared_data


def _files(study: DemoStudy) -> list[Path]:
    return sorted(Path(study.folder).glob("*.dcm"))


def test_a_bleeding_head_sent_with_storescu_comes_back_positive_with_an_explanation(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    storescu = program("storescu", "dcmtk")
    uid, files = copy_study(_files(phantoms["subdural"]), tmp_path)
    subprocess.run(
        [storescu, "-aec", node.peer.ae_title, "127.0.0.1", str(node.peer.port), *map(str, files)],
        check=True,
        timeout=60,
    )
    row = node.finished(uid)
    assert (row.state, row.outcome) == ("done", "positive")
    assert {(d.destination, d.phase) for d in row.deliveries} == {
        (d, p) for d in ("django", "archive") for p in ("prediction", "explanation")
    }
    shown = node.on_web(uid)
    assert shown["outcome"] == "positive"
    result = _document(node, uid, Phase.EXPLANATION)
    assert result.explanations
    for image in result.images:
        for kind in ("original", "explanation"):
            if getattr(image, kind) is None:
                continue
            got = node.page(f"/api/v1/studies/{uid}/images/{image.sop_uid}/{kind}")
            assert got.status_code == 200
            starts = {"original": b"\xff\xd8\xff", "explanation": b"\x89PNG\r\n\x1a\n"}
            assert got.content.startswith(starts[kind])
    assert any(image.explanation for image in result.images)


def test_a_head_without_a_bleed_comes_back_negative_and_is_not_explained(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(_files(phantoms["no-bleed"]), tmp_path)
    assert node.send(files).sent == len(files)
    row = node.finished(uid)
    assert (row.state, row.outcome) == ("done", "negative")
    assert {d.phase for d in row.deliveries} == {"prediction"}


def test_a_modality_that_no_route_takes_ends_not_analysed_with_the_reason(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(_files(phantoms["mr-not-routed"]), tmp_path)
    node.send(files)
    row = node.finished(uid)
    assert (row.state, row.outcome) == ("done", "not_analysed")
    assert row.reason == "no route takes modality MR (routes take CT)"
    assert node.on_web(uid)["reason"] == row.reason


def test_the_real_head_ct_reaches_the_worklist_with_every_slice_in_order(
    node: Node, tmp_path: Path
) -> None:
    storescu = program("storescu", "dcmtk")
    uid, files = copy_study(sorted(shared_data("headct_ge").glob("*.dcm")), tmp_path)
    subprocess.run(
        [storescu, "-aec", node.peer.ae_title, "127.0.0.1", str(node.peer.port), *map(str, files)],
        check=True,
        timeout=60,
    )
    row = node.finished(uid)
    assert row.outcome in {"positive", "undetermined", "negative"}
    result = _document(node, uid, Phase.PREDICTION)
    assert len(result.images) == 28
    positions = [i.position_mm for i in result.images]
    assert positions == sorted(positions, key=float)  # type: ignore[arg-type]
    assert all(i.probability is not None and i.original for i in result.images)
    assert [s.selected for s in result.series] == [True]


def test_the_same_study_sent_twice_is_one_study_with_one_result(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(_files(phantoms["no-bleed"]), tmp_path)
    node.send(files)
    first = node.finished(uid)
    assert node.send(files, "OTHERSCU").sent == len(files)
    # A marker study behind it: when it is through, the second sending has been seen for good.
    marker, more = copy_study(_files(phantoms["mr-not-routed"])[:1], tmp_path / "marker")
    node.send(more)
    node.finished(marker)
    assert node.rows(uid) == [first]
    assert len(list((node.config.spool_dir / key_of(uid)).iterdir())) == len(files)


def test_a_late_slice_makes_revision_two(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(_files(phantoms["no-bleed"]), tmp_path)
    node.send(files[:-1])
    assert node.finished(uid, 1).instances == len(files) - 1
    node.send(files[-1:])
    second = node.finished(uid, 2)
    assert second.instances == len(files)
    assert node.on_web(uid)["revision"] == 2
    result = _document(node, uid, Phase.PREDICTION, 2)
    assert len(result.images) == len(files)


def test_a_non_image_object_is_kept_and_ends_not_analysed(node: Node, tmp_path: Path) -> None:
    path = tmp_path / "sr.dcm"
    ds = Dataset()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.88.11"  # Basic Text SR
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID = generate_uid()
    ds.SeriesInstanceUID = generate_uid()
    ds.Modality = "SR"
    ds.PatientName = "TEST^REPORT"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.save_as(path, enforce_file_format=True)
    assert node.send([path]).sent == 1
    row = node.finished(ds.StudyInstanceUID)
    assert row.outcome == "not_analysed"
    assert "SR" in row.reason


def test_a_slice_that_cannot_be_decoded_is_said_and_its_neighbours_go_on(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(_files(phantoms["no-bleed"]), tmp_path)
    broken = dcmread(files[3])
    broken.PixelData = broken.PixelData[: len(broken.PixelData) // 2]
    broken.save_as(files[3])
    assert node.send(files).sent == len(files)
    row = node.finished(uid)
    assert row.outcome == "partial"
    assert f"{len(files) - 1} of {len(files)} slices analysed" in row.reason
    result = _document(node, uid, Phase.PREDICTION)
    lost = [i for i in result.images if i.probability is None]
    assert [i.sop_uid for i in lost] == [broken.SOPInstanceUID]
    assert lost[0].reason


def test_a_head_whose_bleeding_slices_were_lost_is_partial_and_the_page_says_why(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(_files(phantoms["intraparenchymal-large"]), tmp_path)
    node.send(files)
    node.finished(uid)
    found = _document(node, uid, Phase.PREDICTION).images
    bleeding = {image.sop_uid for image in found if image.positive}
    rest = [file for file in files if dcmread(file).SOPInstanceUID not in bleeding]
    assert len(rest) < len(files)
    uid, files = copy_study(rest, tmp_path / "rest")
    node.send(files)
    row = node.finished(uid)
    assert row.outcome == "partial"
    assert f"none of {len(rest)} slices" in row.reason
    assert "gap between slices" in row.reason
    assert node.on_web(uid)["reason"] == row.reason


def test_two_series_that_share_their_sop_instance_uids_are_both_kept_analysed_and_told(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(_files(phantoms["no-bleed"]), tmp_path / "one")
    again = []
    series_uid = generate_uid()
    for file, other in zip(files, _files(phantoms["subdural"]), strict=True):
        one, two = dcmread(file), dcmread(other)
        two.StudyInstanceUID, two.SeriesInstanceUID = uid, series_uid
        two.SOPInstanceUID = two.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        two.PatientID, two.PatientName = one.PatientID, one.PatientName
        again.append(tmp_path / f"again-{file.name}")
        two.save_as(again[-1])
    assert node.send([*files, *again]).sent == 2 * len(files)
    row = node.finished(uid)
    assert row.outcome == "positive"
    assert f"{len(files)} SOP Instance UIDs stand for several contents" in row.reason
    result = _document(node, uid, Phase.EXPLANATION)
    assert len(result.images) == len(result.file_names()) - len(result.explanations) == 24
    assert [(s.selected, s.slices) for s in result.series] == [(True, 12), (True, 12)]
    archived = list(node.config.archive_dir.rglob("*.dcm"))
    assert len([f for f in archived if key_of(uid) in str(f)]) == 24


def test_a_study_with_no_usable_series_says_why_on_its_page(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(
        _files(phantoms["no-bleed"])[:3], tmp_path, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    node.send(files)
    row = node.finished(uid)
    assert row.outcome == "not_analysed"
    assert row.reason
    page = node.on_web(uid)
    assert page["reason"] == row.reason


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("chrKoreanMulti", "김희중"),
        ("chrSQEncoding1", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"),
        ("chrFren", "Buc^Jérôme"),
    ],
)
def test_a_name_in_its_own_character_set_reads_right(
    node: Node, tmp_path: Path, source: str, shown: str
) -> None:
    """The file is sent as it is; its name must come back in Unicode (PS3.5 6.1)."""
    found = next(shared_data("variety").glob(f"*_{source}.dcm"))
    uid, files = _as_image_of_new_study(found, tmp_path)
    node.send(files)
    node.finished(uid)
    assert shown in _document(node, uid, Phase.PREDICTION).study.patient_name
    assert shown in json.dumps(node.on_web(uid), ensure_ascii=False)


def _as_image_of_new_study(source: Path, folder: Path) -> tuple[str, list[Path]]:
    """Give a character set sample the UIDs that C-STORE needs; its name stays as encoded."""
    ds = dcmread(source, force=True)
    if "PatientName" not in ds:  # the sample that holds its name in a sequence item
        ds.PatientName = ds.RequestedProcedureCodeSequence[0].PatientName
        del ds.RequestedProcedureCodeSequence
    encoded = ds.PatientName.original_string
    uid = generate_uid()
    ds.StudyInstanceUID = uid
    ds.SeriesInstanceUID = generate_uid()
    ds.SOPInstanceUID = generate_uid()
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    ds.Modality = "OT"
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path = folder / "name.dcm"
    ds.save_as(path, enforce_file_format=True, implicit_vr=False, little_endian=True)
    assert encoded in path.read_bytes()
    return uid, [path]


def test_the_malformed_files_leave_the_node_serving(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    files = sorted(shared_data("malformed").iterdir())
    assert len(files) == 200
    statuses = Counter(store(node.peer, files).values())
    assert statuses[0x0000] > 0
    assert set(statuses) <= {0x0000, 0xA900, 0xC000, None}, statuses
    uid, good = copy_study(_files(phantoms["no-bleed"]), tmp_path)
    assert node.send(good).sent == len(good)
    assert node.finished(uid).outcome == "negative"
    until(
        lambda: all(r.state in {"done", "failed"} for r in node.journal.status.studies(limit=1000)),
        120,
        "every malformed study to reach an end",
        node.tell,
    )


def _document(node: Node, uid: str, phase: Phase, revision: int = 1) -> Result:
    folder = node.config.results_dir / key_of(uid) / str(revision) / phase.value
    return Result.from_json((folder / "result.json").read_bytes())
