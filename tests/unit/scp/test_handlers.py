"""scp.handlers: every status of the table, over a real association."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import CTImageStorage, MRImageStorage
from pynetdicom.association import Association

from limen.uids import key_of
from scp.assembler import Assembler
from scp.spool import Part
from tests.support.associations import associate, kept_files, store
from tests.support.node import until
from tests.support.samples import STUDY_UID, data_set
from tests.unit.scp.conftest import Listening

SOP_UID = f"{STUDY_UID}.1.1"


@pytest.fixture
def assoc(listening: Listening) -> Iterator[Association]:
    assoc = associate(listening.peer)
    assert assoc.is_established
    yield assoc
    assoc.release()


def check(listening: Listening, answer: Dataset, status: int, comment: str = "") -> None:
    """An answer has its status and a short comment; unless it is 0x0000 nothing was kept."""
    assert f"0x{answer.Status:04X}" == f"0x{status:04X}"
    assert comment in answer.ErrorComment
    assert len(answer.ErrorComment) <= 64
    if status:
        assert answer.ErrorComment
        assert kept_files(listening.config.spool_dir) == []


def test_0x0000_means_that_the_bytes_are_kept(listening: Listening, assoc: Association) -> None:
    check(listening, store(assoc, data_set(), SOP_UID), 0x0000)
    (path,) = kept_files(listening.config.spool_dir)
    assert path.name == f"{key_of(SOP_UID)}.dcm"
    until(lambda: listening.receiver.journal.status.studies(STUDY_UID), 10, "the row")


def test_the_same_instance_again_is_0x0000_and_nothing_new(
    listening: Listening, assoc: Association
) -> None:
    for _ in range(2):
        check(listening, store(assoc, data_set(), SOP_UID), 0x0000)
    assert len(kept_files(listening.config.spool_dir)) == 1


@pytest.mark.parametrize(
    ("ds", "sop_class", "comment"),
    [
        (data_set(2), CTImageStorage, "SOP Instance UID differs"),
        (data_set(1, SOPClassUID=MRImageStorage), CTImageStorage, "SOP Class UID differs"),
        (data_set(1, SOPClassUID=MRImageStorage), MRImageStorage, "presentation context"),
    ],
)
def test_0xa900_means_that_it_is_not_what_the_command_named(
    listening: Listening, assoc: Association, ds: Dataset, sop_class: str, comment: str
) -> None:
    check(listening, store(assoc, ds, SOP_UID, sop_class), 0xA900, comment)


@pytest.mark.parametrize(
    ("ds", "comment"),
    [
        (data_set(1, StudyInstanceUID=None), "(0020,000D) is missing"),
        (data_set(1, SeriesInstanceUID=""), "(0020,000E)"),
        (data_set(1, StudyInstanceUID="../../etc/passwd"), ""),
        (b"\xff" * 300, ""),
        (b"\x08\x00", ""),
    ],
)
def test_0xc000_means_that_it_cannot_be_understood(
    listening: Listening, assoc: Association, ds: Dataset | bytes, comment: str
) -> None:
    check(listening, store(assoc, ds, SOP_UID), 0xC000, comment)


def test_an_instance_that_is_too_large_is_0xc000(listen: Callable[..., Listening]) -> None:
    listening = listen(max_instance_bytes=1 << 20)
    assoc = associate(listening.peer)
    ds = data_set(1, PixelData=bytes((1 << 20) + 2))
    check(listening, store(assoc, ds, SOP_UID), 0xC000, "max_instance_bytes")
    assoc.release()


def test_0xa700_means_that_there_is_no_space_and_ends_by_itself(
    listening: Listening, assoc: Association, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = listening.receiver.spool
    monkeypatch.setattr(spool, "_min_free_bytes", 1 << 60)
    check(listening, store(assoc, data_set(), SOP_UID), 0xA700, "watermark")
    monkeypatch.undo()
    check(listening, store(assoc, data_set(), SOP_UID), 0x0000)


def test_a_node_under_its_watermark_starts_and_answers_0xa700(
    listen: Callable[..., Listening],
) -> None:
    listening = listen(min_free_bytes=1 << 60)
    assoc = associate(listening.peer)
    check(listening, store(assoc, data_set(), SOP_UID), 0xA700)
    assoc.release()


def test_a_journal_that_cannot_keep_up_is_0xa700_although_the_bytes_are_kept(
    listening: Listening, assoc: Association, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limen.errors import Busy

    def busy(*_: object) -> None:
        raise Busy("the journal is not keeping up; send again later")

    monkeypatch.setattr(Assembler, "add", busy)
    answer = store(assoc, data_set(), SOP_UID)
    assert (answer.Status, "not keeping up" in answer.ErrorComment) == (0xA700, True)


def test_a_fault_of_ours_is_never_success(
    listening: Listening, assoc: Association, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise RuntimeError("Doe^Jane")

    monkeypatch.setattr(Part, "keep", bug)
    answer = store(assoc, data_set(), SOP_UID)
    assert answer.Status == 0xC000
    assert "Doe" not in answer.ErrorComment
    monkeypatch.undo()
    check(listening, store(assoc, data_set(), SOP_UID), 0x0000)


def test_a_refusal_leaves_the_association_open_for_the_next(
    listening: Listening, assoc: Association
) -> None:
    assert store(assoc, b"\x08\0", SOP_UID).Status == 0xC000
    check(listening, store(assoc, data_set(), SOP_UID), 0x0000)


def test_a_spool_that_is_gone_is_0xa700(listening: Listening, assoc: Association) -> None:
    import shutil

    shutil.rmtree(listening.config.spool_dir)
    assert store(assoc, data_set(), SOP_UID).Status == 0xA700


def test_an_operation_that_is_not_served_is_0x0211(listening: Listening) -> None:
    from tests.support.associations import connect
    from tests.unit.scp.test_reference import data, echo, receive, request, shape
    from tests.unit.scp.test_reference import store as command

    find = command().replace(b"\0\0\0\x01\x02\0\0\0\x01\0", b"\0\0\0\x01\x02\0\0\0\x20\0")
    assert find != command()
    with connect(listening.peer) as sock:
        sock.sendall(request())
        receive(sock)
        sock.sendall(data(3, 3, find) + data(3, 2, b"anything"))
        assert shape(receive(sock))[-1] == b"\x11\x02"
        sock.sendall(data(1, 3, echo()))
        assert shape(receive(sock))[-1] == b"\0\0"
