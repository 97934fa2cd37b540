"""limen.durable: whole files and folders under their names, or the old ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from limen.durable import beside, write_new


def test_a_file_takes_the_place_of_the_old_one_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "manifest"
    path.write_text("old")
    with beside(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_one_that_holds_files(tmp_path: Path) -> None:
    path = tmp_path / "prediction"
    path.mkdir()
    (path / "left-over").touch()
    with beside(path) as part:
        part.mkdir()
        write_new(part / "result.json", [b"{}"])
    assert [p.name for p in path.iterdir()] == ["result.json"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("folder", [False, True])
def test_what_fails_leaves_the_old_one_and_nothing_else(tmp_path: Path, folder: bool) -> None:
    path = tmp_path / "manifest"
    path.write_text("old")

    def write() -> None:
        with beside(path) as part:
            if folder:
                part.mkdir()
            (part / "half" if folder else part).write_text("new")
            raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
