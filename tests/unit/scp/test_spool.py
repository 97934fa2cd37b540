"""scp.spool: bytes in, the same bytes on the disk, or nothing at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from limen.errors import OutOfSpace, Unreadable
from limen.implementation import IMPLEMENTATION_CLASS_UID
from limen.uids import key_of
from scp import spool as module
from scp.header import Identity
from scp.spool import TORN, Kept, Spool, examine
from tests.support import samples
from tests.support.samples import SERIES_UID, STUDY_UID, data_set, encode

EXPLICIT, IMPLICIT = str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian)
ONE = Identity(str(CTImageStorage), f"{STUDY_UID}.1.1", STUDY_UID, SERIES_UID)
BODY = encode(data_set(1))


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spool", 0)


def keep(spool: Spool, body: bytes = BODY, identity: Identity = ONE) -> Kept:
    return samples.keep(spool, identity, body)


def files(spool: Spool) -> list[str]:
    return sorted(p.name for p in spool.root.rglob("*") if p.is_file())


# -- identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_the_uids_are_read_from_the_beginning_of_a_data_set(syntax: str) -> None:
    assert Identity.of(encode(data_set(1), syntax), syntax) == ONE


def test_what_follows_the_series_uid_is_not_even_looked_at() -> None:
    end = BODY.rindex(SERIES_UID.encode()) + len(SERIES_UID)
    rest = b"\xe0\x7f\x10\x00" + random.Random(1).randbytes(1000)
    assert Identity.of(BODY[:end] + rest, EXPLICIT) == ONE


@pytest.mark.parametrize(
    "keyword", ["SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"]
)
@pytest.mark.parametrize("value", [None, "", "../../etc/passwd", "1.2/3", "1" * 65, "1..2", "1.2x"])
def test_a_uid_that_is_missing_or_malformed_is_refused(keyword: str, value: str | None) -> None:
    with pytest.raises(Unreadable) as caught:
        Identity.of(encode(data_set(1, **{keyword: value})), EXPLICIT)
    assert not value or value not in str(caught.value)


def test_two_values_are_not_a_uid() -> None:
    with pytest.raises(Unreadable):
        Identity.of(encode(data_set(1, StudyInstanceUID=["1.2", "1.3"])), EXPLICIT)


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_a_leading_zero_of_a_careless_device_is_accepted() -> None:
    ds = data_set(1, StudyInstanceUID="1.2.007")
    assert Identity.of(encode(ds), EXPLICIT).study_uid == "1.2.007"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_a_data_set_cut_anywhere_is_read_or_refused(syntax: str) -> None:
    body = encode(data_set(1), syntax)
    enough = body.rindex(SERIES_UID.encode()) + len(SERIES_UID)
    for length in range(len(body)):
        if length >= enough:
            assert Identity.of(body[:length], syntax) == ONE
        else:
            with pytest.raises(Unreadable):
                Identity.of(body[:length], syntax)


def test_noise_is_refused() -> None:
    noise = random.Random(2)
    for size in (0, 1, 8, 100, 5000):
        with pytest.raises(Unreadable):
            Identity.of(noise.randbytes(size), EXPLICIT)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_deep_nesting_is_read_or_refused_but_never_fatal(syntax: str) -> None:
    short = b"\x08\x00\x40\x11"
    head = short + (b"SQ\0\0" if syntax == EXPLICIT else b"") + b"\xff" * 4
    item = b"\xfe\xff\x00\xe0" + b"\xff" * 4
    end = b"\xfe\xff\x0d\xe0" + bytes(4) + b"\xfe\xff\xdd\xe0" + bytes(4)
    whole = encode(data_set(1), syntax)
    at = whole.index(b"\x10\x00\x10\x00")  # (0010,0010)
    nested = whole[:at] + (head + item) * 500 + end * 500 + whole[at:]
    try:
        found: Identity | None = Identity.of(nested, syntax)
    except Unreadable:
        found = None
    assert found in {ONE, None}


def test_a_sequence_with_uids_of_others_does_not_count() -> None:
    other = Dataset()
    other.StudyInstanceUID = "1.2.3"
    other.ReferencedSOPInstanceUID = "1.2.3.4"
    ds = data_set(1)
    ds.ReferencedStudySequence = Sequence([other])
    assert Identity.of(encode(ds), EXPLICIT) == ONE


# -- keeping ---------------------------------------------------------------------------------------


def test_the_data_set_is_kept_byte_for_byte(spool: Spool) -> None:
    kept = keep(spool)
    raw = (spool.root / kept.path).read_bytes()
    assert raw[:128] == bytes(128)
    assert raw[128:132] == b"DICM"
    assert raw.endswith(BODY)
    assert kept.size_bytes == len(raw)
    assert kept.digest == hashlib.sha256(BODY).hexdigest()
    assert kept.new


def test_the_file_is_a_dicom_file_of_our_own(spool: Spool) -> None:
    ds = dcmread(spool.root / keep(spool).path)
    assert ds.file_meta.TransferSyntaxUID == EXPLICIT
    assert ds.file_meta.MediaStorageSOPInstanceUID == ONE.sop_uid
    assert ds.file_meta.SourceApplicationEntityTitle == "CT1"
    assert ds.file_meta.ImplementationClassUID == IMPLEMENTATION_CLASS_UID
    assert ds.PatientID == "P-4711"


def test_received_text_never_reaches_a_path(spool: Spool) -> None:
    kept = keep(spool)
    assert kept.path == f"{key_of(STUDY_UID)}/{key_of(ONE.sop_uid)}.dcm"
    assert files(spool) == [f"{key_of(ONE.sop_uid)}.dcm"]


def test_nobody_else_may_read_it(spool: Spool) -> None:
    path = spool.root / keep(spool).path
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert spool.root.stat().st_mode & 0o777 == 0o700


def test_the_same_bytes_are_kept_once(spool: Spool) -> None:
    first, second = keep(spool), keep(spool)
    assert (second.path, second.digest, second.new) == (first.path, first.digest, False)
    assert len(files(spool)) == 1


def test_other_bytes_are_kept_beside_and_the_first_are_untouched(spool: Spool) -> None:
    first = keep(spool)
    other = encode(data_set(1, PatientName="Roe^Richard"))
    for new in (True, False):
        second = keep(spool, other)
        assert (second.new, second.path != first.path) == (new, True)
    assert (spool.root / first.path).read_bytes().endswith(BODY)
    assert (spool.root / second.path).read_bytes().endswith(other)
    assert len(files(spool)) == 2


def test_two_threads_with_the_same_instance_keep_one(spool: Spool) -> None:
    together = threading.Barrier(8)
    kept: list[Kept] = []

    def send() -> None:
        together.wait()
        kept.append(keep(spool))

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(k.new for k in kept) == 1
    assert len({k.path for k in kept}) == 1
    assert len(files(spool)) == 1


def test_file_folder_and_root_are_on_the_disk_before_it_returns(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    keep(spool)
    folder = str(spool.root / key_of(STUDY_UID))
    assert synced[0] == str(spool.root)
    assert synced[1].startswith(str(spool.root / "incoming"))
    assert synced[1].endswith(".part (deleted)")  # it has its other name by then
    assert synced[2:] == [folder]


def test_nobody_is_told_success_while_the_folder_itself_is_not_on_the_disk(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two senders open a study at once: the second must not overtake the fsync of the first."""
    at_root, go_on = threading.Event(), threading.Event()
    real: Callable[[Path], None] = module.sync_folder

    def slow(folder: Path) -> None:
        if folder == spool.root and threading.current_thread().name == "first":
            at_root.set()
            go_on.wait(10)
        real(folder)

    monkeypatch.setattr(module, "sync_folder", slow)
    two = Identity(ONE.sop_class_uid, f"{STUDY_UID}.1.2", STUDY_UID, SERIES_UID)
    first = threading.Thread(target=keep, args=(spool,), name="first")
    second = threading.Thread(target=keep, args=(spool, BODY, two), name="second")
    first.start()
    assert at_root.wait(10)
    second.start()
    second.join(0.3)
    overtook = not second.is_alive()
    go_on.set()
    first.join()
    second.join()
    assert not overtook


# -- disks -----------------------------------------------------------------------------------------


def test_under_the_watermark_nothing_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 1 << 60)
    with pytest.raises(OutOfSpace, match="watermark"):
        keep(spool)
    assert files(spool) == []


def test_the_instance_itself_counts_against_the_watermark(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": 500})
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage)
    spool = Spool(spool.root, 100)
    spool.check_space(400)
    with pytest.raises(OutOfSpace):
        spool.check_space(401)


def failing(code: int, only: str = "") -> Callable[..., Any]:
    def fail(descriptor: int, *_: object) -> None:
        name = os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
        if name.endswith(only):
            raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("where", ["", ".part"])
def test_a_write_that_fails_leaves_no_part_file(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int, where: str
) -> None:
    monkeypatch.setattr(os, "fsync", failing(code, where))
    with pytest.raises(OutOfSpace, match="cannot be written"):
        keep(spool)
    assert files(spool) == []


def test_a_full_disk_recovers_by_itself(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.ENOSPC))
        with pytest.raises(OutOfSpace):
            keep(spool)
    assert keep(spool).new


def test_a_disk_that_failed_takes_nothing_more_until_the_next_start(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", failing(errno.EIO))
        with pytest.raises(OutOfSpace):
            keep(spool)
    with pytest.raises(OutOfSpace, match="restart"):
        keep(spool)
    assert keep(Spool(spool.root, 0)).new


def test_a_full_disk_does_not_make_a_failed_one_good_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two instances in flight: one meets EIO, the other, a moment later, ENOSPC."""
    codes = iter([errno.EIO, errno.ENOSPC])
    two = Identity(ONE.sop_class_uid, f"{STUDY_UID}.1.2", STUDY_UID, SERIES_UID)

    def write(*_: object) -> None:
        code = next(codes)
        if code == errno.EIO:
            with pytest.raises(OutOfSpace):
                keep(spool, identity=two)
        code = errno.ENOSPC if code == errno.EIO else errno.EIO
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "_write", write)
    with pytest.raises(OutOfSpace):
        keep(spool)
    with pytest.raises(OutOfSpace, match="restart"):
        spool.check_space()


def test_a_disk_that_refuses_even_the_cleaning_up_is_out_of_space(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO, ".part"))

    def unlink(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(OutOfSpace):
        keep(spool)
    with pytest.raises(OutOfSpace, match="restart"):
        spool.check_space()


# -- after a crash ---------------------------------------------------------------------------------


def test_what_a_crash_left_half_written_is_removed(spool: Spool) -> None:
    kept = keep(spool)
    part = spool.new_part()
    part.write_bytes(b"half")
    long_ago = time.time() - 60
    os.utime(part, (long_ago, long_ago))
    assert spool.remove_parts() == 1
    assert spool.remove_parts() == 0
    assert spool.paths(spool.studies()[0]) == [kept.path]


def test_what_is_being_written_now_is_left_alone(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., None] = module._write

    def write(descriptor: int, body: memoryview) -> None:
        real(descriptor, body)
        assert spool.remove_parts() == 0

    monkeypatch.setattr(module, "_write", write)
    assert keep(spool).new


def test_every_kept_instance_is_listed_and_nothing_else(spool: Spool) -> None:
    first = keep(spool)
    second = keep(spool, encode(data_set(1, PatientName="Roe^Richard")))
    (spool.root / "notes.txt").write_text("left by a person")
    (spool.root / "folder").mkdir()
    (study,) = spool.studies()
    assert spool.paths(study) == sorted([first.path, second.path])
    assert spool.paths("0" * 32) == []


def test_studies_are_listed_the_one_that_changed_last_first(spool: Spool) -> None:
    keys = [key_of(f"1.2.{n}") for n in range(3)]
    for key, at in zip(keys, (2, 3, 1), strict=True):
        (spool.root / key).mkdir()
        os.utime(spool.root / key, (at, at))
    assert spool.studies() == [keys[1], keys[0], keys[2]]


def test_a_kept_instance_says_all_that_its_row_needs(spool: Spool) -> None:
    kept = keep(spool)
    found = examine(spool.root / kept.path)
    assert (found.identity, found.digest, found.size_bytes) == (ONE, kept.digest, kept.size_bytes)
    assert (found.transfer_syntax, found.peer) == (EXPLICIT, "CT1")
    assert abs(found.received_s - time.time()) < 60


@pytest.mark.parametrize("size", [100, 200_000])
def test_a_file_says_the_digest_of_its_own_data_set(spool: Spool, size: int) -> None:
    body = encode(data_set(1, PixelData=random.Random(4).randbytes(size)))
    meta = dcmread(spool.root / stream(spool, body).path).file_meta
    assert meta.PrivateInformation == hashlib.sha256(body).digest()
    assert meta.PrivateInformationCreatorUID == IMPLEMENTATION_CLASS_UID


def torn(whole: bytes, way: str) -> bytes:
    """What a power cut may leave of a file that was not synced."""
    if way == "short":
        return whole[:-1]
    if way == "empty":
        return b""
    return bytes(len(whole)) if way == "all zeros" else whole[:-2048] + bytes(2048)


@pytest.mark.parametrize("way", ["short", "empty", "all zeros", "zeros at its end"])
@pytest.mark.parametrize("seen", [False, True])
def test_a_torn_instance_is_never_taken_for_a_whole_one(spool: Spool, way: str, seen: bool) -> None:
    body = encode(data_set(1, PixelData=random.Random(5).randbytes(100_000)))
    path = spool.root / stream(spool, body).path
    path.write_bytes(torn(path.read_bytes(), way))
    if seen:
        with pytest.raises(Unreadable):
            examine(path)
        spool.set_aside(str(path.relative_to(spool.root)), TORN)
    again = stream(spool, body)
    assert again.new
    assert (spool.root / again.path == path) is seen
    assert examine(spool.root / again.path).digest == again.digest


@contextlib.contextmanager
def kept_meanwhile(spool: Spool, path: Path) -> Iterator[list[Kept]]:
    """Keep the instance of ``path`` again in a thread, while its writer is not done in the block.

    The list has what came of it, once there is something.
    """
    kept: list[Kept] = []
    second = threading.Thread(target=lambda: kept.append(keep(spool)))
    with path.open("rb") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        second.start()
        second.join(0.2)
        yield kept
    second.join()


def test_who_finds_the_name_taken_waits_for_its_writer(spool: Spool) -> None:
    path = spool.root / keep(spool).path
    with kept_meanwhile(spool, path) as kept:
        overtook = bool(kept)
    assert not overtook
    assert [k.new for k in kept] == [False]


def test_who_waited_for_a_writer_that_failed_keeps_the_instance_itself(spool: Spool) -> None:
    path = spool.root / keep(spool).path
    with kept_meanwhile(spool, path) as kept:
        path.unlink()
    assert [(k.new, spool.root / k.path) for k in kept] == [(True, path)]
    assert examine(path).digest == kept[0].digest


def test_who_waited_is_not_deceived_by_a_part_that_could_not_be_removed(spool: Spool) -> None:
    """The name is gone, but the file still has another one."""
    path = spool.root / keep(spool).path
    with kept_meanwhile(spool, path) as kept:
        path.rename(spool.root / "incoming" / "left.part")
    assert [(k.new, spool.root / k.path) for k in kept] == [(True, path)]


def test_the_same_bytes_are_synced_again_for_whoever_sends_them_again(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first writer may have been killed between the name and the sync."""
    path = spool.root / keep(spool).path
    monkeypatch.setattr(os, "fsync", failing(errno.EIO, path.name))
    with pytest.raises(OutOfSpace):
        keep(spool)


@pytest.mark.parametrize("body", [b"", b"DICM", bytes(128) + b"DICM", bytes(500), b"x" * 200])
def test_a_foreign_file_is_refused(tmp_path: Path, body: bytes) -> None:
    path = tmp_path / "x.dcm"
    path.write_bytes(body)
    with pytest.raises(Unreadable):
        examine(path)


def test_a_kept_implicit_data_set_is_read_back_as_implicit(spool: Spool) -> None:
    body = encode(data_set(1), IMPLICIT)
    kept = samples.keep(spool, ONE, body, IMPLICIT)
    assert examine(spool.root / kept.path).identity == ONE
    assert dcmread(BytesIO((spool.root / kept.path).read_bytes())).PatientID == "P-4711"


# -- streaming -------------------------------------------------------------------------------------


def stream(spool: Spool, body: bytes, piece: int = 10_000) -> Kept:
    part = spool.begin(ONE.sop_class_uid, ONE.sop_uid, EXPLICIT, "CT1")
    for start in range(0, len(body), piece):
        part.write(memoryview(body)[start : start + piece])
    assert len(part._head) <= 64 * 1024
    return part.keep(part.identity(EXPLICIT))


@pytest.mark.parametrize("size", [0, 63_000, 65_536, 66_000, 1 << 20])
def test_what_arrives_in_pieces_is_kept_as_what_arrives_at_once(spool: Spool, size: int) -> None:
    body = encode(data_set(1, PixelData=random.Random(3).randbytes(size + size % 2)))
    kept = stream(spool, body)
    assert (spool.root / kept.path).read_bytes().endswith(body)
    assert kept.digest == hashlib.sha256(body).hexdigest()
    assert examine(spool.root / kept.path).identity == ONE
    assert keep(spool, body).new is False


def test_uids_behind_a_large_element_are_read_from_the_part_file(spool: Spool) -> None:
    at = BODY.index(b"\x10\x00\x10\x00")
    blob = b"\x09\x00\x01\x10OB\0\0" + (300_000).to_bytes(4, "little") + bytes(300_000)
    kept = stream(spool, BODY[:at] + blob + BODY[at:])
    assert examine(spool.root / kept.path).identity == ONE


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_disk_that_fills_while_an_instance_arrives_leaves_nothing(
    spool: Spool, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    part = spool.begin(ONE.sop_class_uid, ONE.sop_uid, EXPLICIT, "CT1")
    part.write(memoryview(bytes(100_000)))
    assert len(files(spool)) == 1

    def full(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OutOfSpace):
            part.write(memoryview(bytes(100_000)))
    assert files(spool) == []


def test_the_watermark_holds_while_an_instance_arrives(
    spool: Spool, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = spool.begin(ONE.sop_class_uid, ONE.sop_uid, EXPLICIT, "CT1")
    monkeypatch.setattr(module, "_CHECK_SPACE_BYTES", 1 << 20)
    monkeypatch.setattr(spool, "_min_free_bytes", 1 << 60)

    def arrive() -> None:
        for _ in range(30):
            part.write(memoryview(bytes(100_000)))

    with pytest.raises(OutOfSpace, match="watermark"):
        arrive()
    assert files(spool) == []


def test_a_discarded_part_leaves_nothing(spool: Spool) -> None:
    part = spool.begin(ONE.sop_class_uid, ONE.sop_uid, EXPLICIT, "CT1")
    part.write(memoryview(bytes(100_000)))
    part.discard()
    part.discard()
    assert files(spool) == []


def test_a_study_that_is_purged_while_an_instance_arrives_is_made_again(spool: Spool) -> None:
    import shutil

    keep(spool)
    shutil.rmtree(spool.root / key_of(STUDY_UID))
    assert keep(spool).new
