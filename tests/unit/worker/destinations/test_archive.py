"""worker.destinations.archive: what a parcel becomes."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from limen.errors import Transient
from limen.result import Phase
from tests.support.pacs import dicom_object
from tests.support.samples import data_set, result, write_file
from worker.destinations import DicomObject, Original, Parcel
from worker.destinations.archive import ArchiveDestination, Content
from worker.destinations.folder import FolderArchive

KEY, SOP_KEY = "ab" * 16, "cd" * 16
DATA_SET = b"instance"
RECEIVED = bytes(144) + DATA_SET
"""A file as the receiver writes it: a head without elements of its own, then the data set."""

DIGEST = hashlib.sha256(DATA_SET).hexdigest()


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    (tmp_path / "a-1.png").write_bytes(b"picture")
    (tmp_path / "original.dcm").write_bytes(RECEIVED)
    return Parcel(
        KEY,
        2,
        Phase.PREDICTION,
        result().to_json(),
        {"a-1.png": tmp_path / "a-1.png"},
        (Original(tmp_path / "original.dcm", SOP_KEY, DIGEST),),
    )


def test_names_are_keys_and_digests_and_the_document_comes_last(
    parcel: Parcel, tmp_path: Path
) -> None:
    ArchiveDestination(FolderArchive(tmp_path / "archive"), originals=True).deliver(parcel)
    archive = tmp_path / "archive"
    found = sorted(str(p.relative_to(archive)) for p in archive.rglob("*") if p.is_file())
    folder = f"{KEY}/results/2-prediction"
    assert found[0] == f"{KEY}/instances/{SOP_KEY}-{DIGEST[:16]}.dcm"
    assert re.fullmatch(rf"{folder}/a-1-[0-9a-f]{{16}}\.png", found[1])
    assert re.fullmatch(rf"{folder}/result-[0-9a-f]{{16}}\.json", found[2])
    assert (archive / found[0]).read_bytes() == RECEIVED
    assert (archive / found[2]).read_bytes() == parcel.document


def test_the_document_is_stored_after_everything_it_names(parcel: Parcel) -> None:
    names: list[str] = []

    class Archive:
        def put(self, name: str, content: Content) -> None:
            names.append(name)

        def get(self, name: str, path: Path) -> bool:
            return False

    ArchiveDestination(Archive(), originals=True).deliver(parcel)
    assert [Path(n).suffix for n in names] == [".dcm", ".png", ".json"]


def test_originals_stay_here_when_only_results_are_wanted(parcel: Parcel, tmp_path: Path) -> None:
    ArchiveDestination(FolderArchive(tmp_path / "archive"), originals=False).deliver(parcel)
    assert not (tmp_path / "archive" / KEY / "instances").exists()


@pytest.mark.parametrize("lost", ["a-1.png", "original.dcm"])
def test_a_file_that_cannot_be_read_may_come_back(
    parcel: Parcel, tmp_path: Path, lost: str
) -> None:
    (tmp_path / lost).unlink()
    with pytest.raises(Transient, match="cannot be read"):
        ArchiveDestination(FolderArchive(tmp_path / "archive"), originals=True).deliver(parcel)


def test_the_objects_of_a_pacs_lie_beside_the_result_each_once(
    parcel: Parcel, tmp_path: Path
) -> None:
    report = dicom_object("sr", tmp_path)
    unsound = DicomObject("seg", "", "", None, "it lacks Modality")
    parcel = replace(parcel, objects=lambda _: [report, unsound])
    kinds = [frozenset({"sr"}), frozenset({"sr", "seg"})]
    archive = tmp_path / "archive"
    ArchiveDestination(FolderArchive(archive), originals=False, kinds=kinds).deliver(parcel)
    (kept,) = archive.glob(f"{KEY}/results/2-prediction/sr-*.dcm")
    assert report.path is not None
    assert kept.read_bytes() == report.path.read_bytes()
    assert report.sop_uid not in kept.name


# -- from the archive ------------------------------------------------------------------------------


@pytest.fixture
def received(tmp_path: Path) -> Original:
    """An instance as the receiver keeps it."""
    path = tmp_path / "spool" / KEY / f"{SOP_KEY}.dcm"
    encoded = write_file(path, data_set())
    return Original(path, SOP_KEY, hashlib.sha256(encoded).hexdigest())


def test_an_instance_that_is_lost_comes_back_byte_for_byte(
    parcel: Parcel, received: Original, tmp_path: Path
) -> None:
    archive = ArchiveDestination(FolderArchive(tmp_path / "archive"), originals=True)
    archive.deliver(replace(parcel, originals=(received,)))
    before = received.path.read_bytes()
    shutil.rmtree(received.path.parent)
    assert archive.restore(KEY, received)
    assert received.path.read_bytes() == before
    assert archive.restore(KEY, received)
    assert [p.name for p in received.path.parent.iterdir()] == [received.path.name]


@pytest.mark.parametrize("how", ["never archived", "other bytes"])
def test_what_is_not_what_was_received_is_not_brought_back(
    parcel: Parcel, received: Original, tmp_path: Path, how: str
) -> None:
    archive = ArchiveDestination(FolderArchive(tmp_path / "archive"), originals=True)
    if how == "other bytes":
        archive.deliver(replace(parcel, originals=(received,)))
        (kept,) = (tmp_path / "archive").glob(f"{KEY}/instances/*.dcm")
        kept.write_bytes(kept.read_bytes()[:-1] + b"x")
    received.path.unlink()
    assert not archive.restore(KEY, received)
    assert list(received.path.parent.iterdir()) == []
