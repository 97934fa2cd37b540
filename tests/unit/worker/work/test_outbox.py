"""worker.work.outbox: result files, whole and durable or not there."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from limen.errors import OutOfSpace, Permanent, Transient
from limen.result import Phase
from tests.support.samples import result
from worker.work.outbox import Outbox

KEY = "ab" * 16
FILES = {"a-1.png": b"one"}


def file_of(outbox: Outbox, name: str) -> Path:
    return outbox.objects(KEY) / "1" / "prediction" / name


@pytest.fixture
def outbox(tmp_path: Path) -> Outbox:
    return Outbox(tmp_path / "results")


def test_a_document_is_read_back_with_its_bytes(outbox: Outbox) -> None:
    outbox.write(KEY, result(), FILES)
    document, body = outbox.read(KEY, 1, Phase.PREDICTION)
    assert (document, body) == (result(), result().to_json())
    assert file_of(outbox, "a-1.png").read_bytes() == b"one"


def test_revisions_and_phases_lie_side_by_side(outbox: Outbox, tmp_path: Path) -> None:
    for revision in (1, 2):
        for phase in Phase:
            outbox.write(KEY, result(phase, revision), {})
    found = sorted(
        str(p.parent.relative_to(tmp_path / "results")) for p in tmp_path.rglob("result.json")
    )
    assert found == [f"{KEY}/{n}/{p}" for n in (1, 2) for p in ("explanation", "prediction")]


def test_what_an_attempt_left_is_replaced_whole(outbox: Outbox) -> None:
    outbox.write(KEY, result(), {**FILES, "old.png": b"old"})
    outbox.write(KEY, result(reason="second"), {"a-1.png": b"two"})
    assert outbox.read(KEY, 1, Phase.PREDICTION)[0].reason == "second"
    folder = file_of(outbox, "x").parent
    assert sorted(p.name for p in folder.iterdir()) == ["a-1.png", "result.json"]


def test_nothing_is_to_be_seen_before_everything_is_there(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename
    seen: list[list[str]] = []

    def rename(self: Path, target: Path) -> Path:
        seen.append(sorted(p.name for p in self.iterdir()))
        assert not target.exists()
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    outbox.write(KEY, result(), FILES)
    assert seen == [["a-1.png", "result.json"]]


def test_files_and_every_folder_on_the_way_are_on_the_disk(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    outbox.write(KEY, result(), FILES)
    root = tmp_path / "results"
    assert {Path(s).name for s in synced[:2]} == {"a-1.png", "result.json"}
    # The phase is an entry of the revision, that one of the study, and the study one of the root.
    assert {str(root), str(root / KEY), str(root / KEY / "1")} <= set(synced[3:])


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fails_is_out_of_space_and_leaves_nothing(
    outbox: Outbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fsync(_: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutOfSpace, match="cannot be written"):
            outbox.write(KEY, result(), FILES)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    outbox.write(KEY, result(), FILES)


def test_a_failed_rewrite_leaves_the_first_result(
    outbox: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox.write(KEY, result(), FILES)

    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutOfSpace):
            outbox.write(KEY, result(reason="second"), {})
    assert outbox.read(KEY, 1, Phase.PREDICTION)[0] == result()


def test_files_that_are_not_here_may_come_later(outbox: Outbox) -> None:
    with pytest.raises(Transient, match=KEY):
        outbox.read(KEY, 1, Phase.PREDICTION)


@pytest.mark.parametrize("damage", [lambda b: b[:-5], lambda _: b""])
def test_a_damaged_document_is_never_delivered(
    outbox: Outbox, damage: Callable[[bytes], bytes]
) -> None:
    outbox.write(KEY, result(), {})
    path = file_of(outbox, "result.json")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Permanent):
        outbox.read(KEY, 1, Phase.PREDICTION)


def test_nobody_else_may_read_results(outbox: Outbox, tmp_path: Path) -> None:
    outbox.write(KEY, result(), FILES)
    assert (tmp_path / "results").stat().st_mode & 0o077 == 0
    folder = file_of(outbox, "x").parent
    assert folder.stat().st_mode & 0o077 == 0
