"""worker.work.sendable: objects are built once, and never change under one who sends them."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import cast

import pytest

from limen.errors import OutOfSpace
from limen.result import Phase
from tests.support.samples import result
from worker.dicom.decoder import Decoder
from worker.objects import Built, Kind, Objects, Reference
from worker.work import sendable as module
from worker.work.outbox import Outbox
from worker.work.sendable import Sendable

KEY = "ab" * 16
SR = frozenset({"sr"})


class Builder:
    """Stands for ``worker.objects.build``; each call gives other bytes."""

    def __init__(self) -> None:
        self.calls = 0
        self.kind = Kind.SR
        self.replaces: list[tuple[Reference, ...]] = []
        self.together: threading.Barrier | None = None

    def __call__(self, *_: object, replaces: tuple[Reference, ...]) -> Objects:
        self.calls += 1
        self.replaces.append(replaces)
        if self.together is not None:
            self.together.wait(10)
        uid = f"1.2.{self.calls}"
        return Objects((Built(self.kind, "1.2", uid, "1.3", b"%d" % self.calls),), ())


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch) -> Builder:
    made = Builder()
    monkeypatch.setattr(module, "build", made)
    return made


def make(root: Path) -> Sendable:
    return Sendable(Outbox(root), cast(Decoder, None))


def ask(sendable: Sendable, phase: Phase = Phase.PREDICTION, revision: int = 1) -> bytes:
    (one,) = sendable.of(KEY, result(phase, revision), {}, (), SR)
    assert one.path is not None
    return one.path.read_bytes()


def test_two_that_ask_at_the_same_moment_get_the_same_bytes(
    tmp_path: Path, builder: Builder
) -> None:
    sendable, bodies = make(tmp_path), []
    threads = [threading.Thread(target=lambda: bodies.append(ask(sendable))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (builder.calls, bodies) == (1, [b"1"] * 8)


def test_of_two_processes_the_faster_one_stays(tmp_path: Path, builder: Builder) -> None:
    builder.together, bodies = threading.Barrier(2), []
    threads = [threading.Thread(target=lambda: bodies.append(ask(make(tmp_path)))) for _ in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert builder.calls == 2
    assert len(set(bodies)) == 1
    assert [p.name for p in (tmp_path / KEY / "1" / "objects-prediction").iterdir()] == ["sr"]


def test_what_comes_later_names_what_it_takes_the_place_of(
    tmp_path: Path, builder: Builder
) -> None:
    sendable = make(tmp_path)
    ask(sendable)
    ask(sendable, Phase.EXPLANATION)
    ask(sendable, revision=2)
    told = [[r.sop_uid for r in named] for named in builder.replaces]
    assert told == [[], ["1.2.1"], ["1.2.2"]]


def test_the_predecessor_is_a_report_whatever_else_was_built_before(
    tmp_path: Path, builder: Builder
) -> None:
    sendable = make(tmp_path)
    builder.kind = Kind.KO
    sendable.of(KEY, result(), {}, (), frozenset({"ko"}))  # sorted before that of the report
    builder.kind = Kind.SR
    ask(sendable)
    ask(sendable, Phase.EXPLANATION)
    assert [r.sop_uid for r in builder.replaces[-1]] == ["1.2.2"]


class Rejecter:
    """Stands for ``worker.objects.build.build_rejection``."""

    def __init__(self) -> None:
        self.named: list[set[str]] = []

    def __call__(self, *given: object) -> Objects:
        references = cast(list[Reference], given[-1])
        self.named.append({one.sop_uid for one in references})
        uid = f"1.9.{len(self.named)}"
        return Objects((Built(Kind.KO, "1.8", uid, "1.3", b"note"),), ())


@pytest.fixture
def rejecter(monkeypatch: pytest.MonkeyPatch) -> Rejecter:
    made = Rejecter()
    monkeypatch.setattr(module, "build_rejection", made)
    return made


def test_what_a_pacs_has_of_earlier_revisions_is_rejected_once(
    tmp_path: Path, builder: Builder, rejecter: Rejecter
) -> None:
    sendable = make(tmp_path)
    ask(sendable)
    ask(sendable, Phase.EXPLANATION)
    ask(sendable, revision=2)
    held = {"1.2.1", "1.2.3"}  # not the explanation of the first revision
    assert sendable.rejection(KEY, result(), (), held) == []
    (note,) = sendable.rejection(KEY, result(revision=2), (), held)
    assert (note.kind, rejecter.named) == ("ko", [{"1.2.1"}])
    assert sendable.rejection(KEY, result(revision=2), (), held) == [note]  # not sent yet
    held |= {note.sop_uid, "1.2.2"}
    (later,) = sendable.rejection(KEY, result(Phase.EXPLANATION, 2), (), held)
    assert rejecter.named[1:] == [{"1.2.2"}]
    held.add(later.sop_uid)
    assert sendable.rejection(KEY, result(Phase.EXPLANATION, 2), (), held) == []
    sendable.rejection(KEY, result(revision=3), (), held)
    assert rejecter.named[2:] == [{"1.2.3"}]


def test_a_full_disk_says_so_and_leaves_nothing(
    tmp_path: Path, builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(module, "write_new", full)
    with pytest.raises(OutOfSpace, match="No space left"):
        ask(make(tmp_path))
    assert list((tmp_path / KEY / "1" / "objects-prediction").iterdir()) == []
