"""worker.destinations.folder: durable files, never overwritten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from limen.errors import OutOfSpace, Rejected, Transient
from worker.destinations.archive import Content
from worker.destinations.folder import FolderArchive


@pytest.fixture
def folder(tmp_path: Path) -> FolderArchive:
    return FolderArchive(tmp_path / "archive")


def test_the_same_object_again_changes_nothing(folder: FolderArchive, tmp_path: Path) -> None:
    folder.put("a/b.json", Content(b"one"))
    before = (tmp_path / "archive/a/b.json").stat().st_mtime_ns
    folder.put("a/b.json", Content(b"one"))
    assert (tmp_path / "archive/a/b.json").stat().st_mtime_ns == before
    assert [p.name for p in (tmp_path / "archive/a").iterdir()] == ["b.json"]


def test_other_bytes_under_the_same_name_are_rejected(
    folder: FolderArchive, tmp_path: Path
) -> None:
    folder.put("a/b.json", Content(b"one"))
    with pytest.raises(Rejected, match="other bytes"):
        folder.put("a/b.json", Content(b"two"))
    assert (tmp_path / "archive/a/b.json").read_bytes() == b"one"
    assert [p.name for p in (tmp_path / "archive/a").iterdir()] == ["b.json"]


def test_file_and_every_folder_on_the_way_are_on_the_disk(
    folder: FolderArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder.put("a/b/c.json", Content(b"one"))
    root = tmp_path / "archive"
    assert synced[0].endswith(".part")
    assert {str(root / "a/b"), str(root / "a"), str(root)} <= set(synced[1:])


def test_an_archive_folder_that_is_full_leaves_no_part_file(
    folder: FolderArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutOfSpace, match="full"):
            folder.put("a/b.json", Content(b"one"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    folder.put("a/b.json", Content(b"one"))


def test_nobody_else_may_read_the_archive(folder: FolderArchive, tmp_path: Path) -> None:
    folder.put("a/b/c.json", Content(b"one"))
    assert (tmp_path / "archive").stat().st_mode & 0o077 == 0
    assert (tmp_path / "archive/a/b").stat().st_mode & 0o077 == 0


def test_a_file_is_copied_and_found_again(folder: FolderArchive, tmp_path: Path) -> None:
    source = tmp_path / "original.dcm"
    source.write_bytes(bytes(range(256)) * 10_000)  # more than one block
    for _ in range(2):
        folder.put("a/b.dcm", Content(source))
    assert (tmp_path / "archive/a/b.dcm").read_bytes() == source.read_bytes()


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_is_other_bytes(
    folder: FolderArchive, tmp_path: Path, change: int
) -> None:
    body = bytes(2 << 20)
    folder.put("a/b.dcm", Content(body))
    with pytest.raises(Rejected, match="other bytes"):
        folder.put("a/b.dcm", Content(bytes(len(body) + change)))


def test_a_source_that_is_gone_is_not_blamed_on_the_archive(
    folder: FolderArchive, tmp_path: Path
) -> None:
    with pytest.raises(Transient, match="a file of the parcel cannot be read"):
        folder.put("a/b.dcm", Content(tmp_path / "gone"))
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
