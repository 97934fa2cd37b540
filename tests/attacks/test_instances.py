"""Attacks 4, 6 to 11 and 18: instances that nobody should have to keep."""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from limen.uids import key_of
from tests.attacks.conftest import SOON_S
from tests.support.node import until
from tests.support.samples import data_set, encode
from tests.support.siege import Receiver, Siege
from tests.support.wire import (
    ABORT,
    ABORTION,
    CT,
    IMPLICIT,
    NO_DATA_SET,
    P_DATA,
    VERIFICATION,
    Context,
    RawPeer,
    Response,
    associate,
    echo_rq,
    message,
    p_data,
    store_rq,
    us,
    value,
)

SUCCESS, NO_SPACE, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000
MR = "1.2.840.10008.5.1.4.1.1.4"
RLE, JPEG = "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
MIB = 1 << 20


_numbers = itertools.count(1)


def new_uid() -> str:
    """Return a UID that is short enough to have others below it."""
    return f"1.2.826.0.1.3680043.10.77.{os.getpid()}.{next(_numbers)}"


def instance(**elements: object) -> tuple[str, bytes]:
    """Return a new SOP Instance UID and its data set, explicit little endian."""
    study = new_uid()
    ds = data_set(1, study, **elements)
    return str(ds.get("SOPInstanceUID", new_uid())), encode(ds)


def store(receiver: Receiver, command_set: bytes, content: bytes | None) -> Response:
    """Send one instance; return what was answered."""
    with RawPeer(receiver.port) as peer:
        peer.open()
        response = peer.ask(3, command_set, content)
        assert peer.ask(1, echo_rq()).status == 0  # the association goes on
        peer.release()
    return response


def kept_digests(receiver: Receiver) -> set[str]:
    """Return the SHA-256 of the data set of every kept instance."""
    return {hashlib.sha256(_data_set_of(p)).hexdigest() for p in receiver.instances()}


def _data_set_of(path: Path) -> bytes:
    raw = path.read_bytes()
    assert raw[:132] == bytes(128) + b"DICM"
    return raw[144 + int.from_bytes(raw[140:144], "little") :]


# -- the fields of the command ---------------------------------------------------------------------


def test_an_instance_with_priority_and_move_originator_is_kept(
    receiver: Receiver, siege: Siege
) -> None:
    """PS3.7 9.1.1.1: Move Originator AE title and message id come with a C-MOVE sub-operation."""
    uid, content = instance()
    rq = store_rq(uid, t00000700=us(1), t00001030=b"MOVER ", t00001031=us(7))
    response = store(receiver, rq, content)
    assert response.status == SUCCESS
    assert response.number(0x00000120) == 1
    assert hashlib.sha256(content).hexdigest() in kept_digests(receiver)


@pytest.mark.parametrize(
    ("command_set", "elements", "status"),
    [
        (lambda uid: store_rq("1.2.3.4"), {}, MISMATCH),
        (store_rq, {"SOPClassUID": MR}, MISMATCH),
        (lambda uid: store_rq(uid, MR), {"SOPClassUID": MR}, MISMATCH),
        (store_rq, {"SOPInstanceUID": None}, None),
        (store_rq, {"SOPClassUID": None}, None),
        (store_rq, {"StudyInstanceUID": None}, CANNOT_UNDERSTAND),
        (store_rq, {"SeriesInstanceUID": None}, CANNOT_UNDERSTAND),
        (store_rq, {"StudyInstanceUID": "../../etc/x"}, CANNOT_UNDERSTAND),
        (store_rq, {"StudyInstanceUID": "1." * 40 + "1"}, CANNOT_UNDERSTAND),
    ],
    ids=["instance", "class", "context", "no-instance", "no-class", "no-study", "no-series"]
    + ["path", "long"],
)  # fmt: skip
def test_a_data_set_that_is_not_what_was_announced_is_refused_with_a_comment(
    receiver: Receiver, siege: Siege, command_set, elements: dict[str, str], status: int | None
) -> None:
    uid, content = instance(**elements)
    before = receiver.instances()
    response = store(receiver, command_set(uid), content)
    assert response.status in ({status} if status else {MISMATCH, CANNOT_UNDERSTAND})
    assert 0 < len(response.comment) <= 64
    assert receiver.instances() == before


@pytest.mark.parametrize(
    "uid",
    ["../../../../tmp/limen-was-here", "/etc/passwd", "1.2.3\n4", "1..2", "", "1" * 65, "a.b"]
    + ["1.2.3/../../x"],
)
def test_an_instance_uid_that_is_none_never_becomes_a_path(
    receiver: Receiver, siege: Siege, uid: str
) -> None:
    _, content = instance(SOPInstanceUID=uid)
    before = receiver.instances()
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(message(3, store_rq(uid), content))
        heard = peer.hear()
        if heard.kind != ABORT:
            assert Response.decode(heard.body[6:]).status in {MISMATCH, CANNOT_UNDERSTAND, 0x0117}
    assert receiver.instances() == before
    assert not Path("/tmp/limen-was-here").exists()
    assert not any("here" in p.name for p in receiver.node.folder.rglob("*"))


def test_an_instance_without_a_data_set_is_refused(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(message(3, store_rq("1.2.3", t00000800=us(NO_DATA_SET))))
        heard = peer.hear()
        if heard.kind == P_DATA:
            assert Response.decode(heard.body[6:]).status in {MISMATCH, CANNOT_UNDERSTAND, 0x0115}
        else:
            assert heard.kind == ABORT


def test_a_data_set_of_no_byte_is_refused(receiver: Receiver, siege: Siege) -> None:
    response = store(receiver, store_rq("1.2.3"), b"")
    assert response.status in {MISMATCH, CANNOT_UNDERSTAND}
    assert response.comment


def test_a_store_on_the_context_of_verification_is_refused(
    receiver: Receiver, siege: Siege
) -> None:
    uid, content = instance()
    before = receiver.instances()
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(message(1, store_rq(uid), content))
        heard = peer.hear()
        if heard.kind == P_DATA:
            assert Response.decode(heard.body[6:]).status != SUCCESS
        else:
            assert heard.kind == ABORT
    assert receiver.instances() == before


# -- what is in it ---------------------------------------------------------------------------------


def test_a_patient_id_never_becomes_a_path(receiver: Receiver, siege: Siege) -> None:
    uid, content = instance(
        PatientID="../../../../tmp/limen-was-here", PatientName="..\\..\\x^$(touch here)"
    )
    assert store(receiver, store_rq(uid), content).status == SUCCESS
    assert not any(
        word in p.name for p in receiver.node.folder.rglob("*") for word in ("here", "..", "touch")
    )
    assert "limen-was-here" not in receiver.node.logs()


def test_a_whole_file_with_a_program_in_its_preamble_is_no_data_set(
    receiver: Receiver, siege: Siege
) -> None:
    """Attack 7 (CVE-2019-11687). C-STORE carries no preamble; what is kept has a zeroed one."""
    uid, content = instance()
    polyglot = b"MZ".ljust(128, b"\x90") + b"DICM" + content
    before = receiver.instances()
    assert store(receiver, store_rq(uid), polyglot).status == CANNOT_UNDERSTAND
    assert receiver.instances() == before
    assert store(receiver, store_rq(uid), content).status == SUCCESS
    kept_digests(receiver)  # looks at the preamble of each


def sequence(depth: int) -> bytes:
    """Return ``depth`` sequences of undefined length within one another, explicit little endian."""
    opening = struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
    opening += struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHI", 0xFFFE, 0xE00D, 0) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    return opening * depth + closing * depth


def with_sequence(content: bytes, raw: bytes) -> bytes:
    """Put an encoded (0008,1140) where the order of tags wants it: before group 0010."""
    at = content.index(b"\x10\x00\x10\x00PN")
    return content[:at] + raw + content[at:]


@pytest.mark.parametrize("depth", [1, 20, 500, 50_000])
def test_sequences_within_sequences_do_not_use_up_the_stack(
    receiver: Receiver, siege: Siege, depth: int
) -> None:
    uid, content = instance()
    response = store(receiver, store_rq(uid), with_sequence(content, sequence(depth)))
    assert response.status in ({SUCCESS} if depth <= 20 else {SUCCESS, CANNOT_UNDERSTAND})
    assert response.status == SUCCESS or response.comment


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
        + struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 100_000
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF)
        + (struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE00D, 0))
        * 60_000
        + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
        struct.pack("<HH2sH", 0x0008, 0x1030, b"LO", 2) + b"aa" * 1,
    ],
    ids=["empty-items", "undefined-items", "one-more-element"],
)
def test_a_hundred_thousand_items_are_walked_in_time(
    receiver: Receiver, siege: Siege, raw: bytes
) -> None:
    uid, content = instance()
    began = time.monotonic()
    response = store(receiver, store_rq(uid), with_sequence(content, raw))
    assert response.status in {SUCCESS, CANNOT_UNDERSTAND}
    assert time.monotonic() - began < 10


def test_headers_as_long_as_they_may_be_at_once_keep_nobody_waiting(receiver: Receiver) -> None:
    uid, content = instance()
    items = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 200_000
    content = with_sequence(content, sequence(1)[:12] + items)
    with Siege(receiver, memory_bytes=96 << 20), ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(receiver.port)) for _ in range(25)]
        for peer in peers:
            peer.open()
        for peer in peers:
            peer.send(message(3, store_rq(uid), content, 60_000))
        assert {peer.answer().status for peer in peers} == {CANNOT_UNDERSTAND}


@pytest.mark.parametrize(
    "raw",
    [
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF),
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0x7FFFFFFF),
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"UN", 0, 0xFFFFFFFE),
        struct.pack("<HH2sHI", 0x0008, 0x1140, b"OB", 0, 0xFFFFFFFF),
        struct.pack("<HH2sH", 0x0008, 0x1140, b"??", 0xFFFF),
        struct.pack("<HHI", 0xFFFE, 0xE0DD, 0) * 1000,
        b"\xff" * 10_000,
    ],
    ids=["no-end", "2-GiB", "4-GiB", "pixels", "no-vr", "delimiters", "ones"],
)
def test_lengths_within_a_data_set_are_not_believed(
    receiver: Receiver, siege: Siege, raw: bytes
) -> None:
    uid, content = instance()
    before = receiver.instances()
    response = store(receiver, store_rq(uid), with_sequence(content, raw))
    assert response.status in {MISMATCH, CANNOT_UNDERSTAND}, response.comment
    assert response.comment
    assert receiver.instances() == before


def test_huge_rows_and_columns_are_never_allocated_here(receiver: Receiver, siege: Siege) -> None:
    uid, content = instance(
        Rows=65535, Columns=65535, NumberOfFrames=2**31 - 1, SamplesPerPixel=3, BitsAllocated=64
    )
    assert store(receiver, store_rq(uid), content).status == SUCCESS


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (
            RLE,
            struct.pack("<16I", 15, *range(64, 15 << 26, 1 << 26)) + b"\x81\0" * 30000,
        ),
        (JPEG_2000, b"\xff\x4f\xff\x51\0\x2f\0\0" + b"\xff\xff\xff\xff" * 8 + bytes(100)),
        (JPEG, b"\xff\xd8\xff\xc0\0\x0b\x08\xff\xff\xff\xff\1\1\x11\0" + b"\xff\xd9"),
    ],
    ids=["rle", "jpeg-2000", "jpeg"],
)
def test_a_compressed_bomb_is_kept_as_it_came_and_never_unpacked_here(
    receiver: Receiver, siege: Siege, syntax: str, frame: bytes
) -> None:
    """Attack 8: what a frame would become is for the process that has limits to find out."""
    uid, content = instance(PixelData=None, Rows=65535, Columns=65535, NumberOfFrames=2**31 - 1)
    content += struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OB", 0, 0xFFFFFFFF)
    for fragment in (b"", frame):
        content += struct.pack("<HHI", 0xFFFE, 0xE000, len(fragment)) + fragment
    content += struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    with RawPeer(receiver.port) as peer:
        peer.open(associate([Context(3, CT, (syntax,))]))
        assert peer.ask(3, store_rq(uid), content).status == SUCCESS
        peer.release()
    assert hashlib.sha256(content).hexdigest() in kept_digests(receiver)


def test_a_deflated_data_set_is_not_inflated(receiver: Receiver, siege: Siege) -> None:
    """Its transfer syntax is refused; on another context it is bytes that nobody understands."""
    uid, content = instance(PixelData=bytes(2 * MIB))
    before = receiver.instances()
    deflated = zlib.compress(content, wbits=-15)
    assert store(receiver, store_rq(uid), deflated).status == CANNOT_UNDERSTAND
    assert receiver.instances() == before


@pytest.mark.parametrize("cut", [1, 7, 30, 100])
def test_a_data_set_that_is_cut_off_in_its_header_is_refused(
    receiver: Receiver, siege: Siege, cut: int
) -> None:
    uid, content = instance()
    assert store(receiver, store_rq(uid), content[:cut]).status in {MISMATCH, CANNOT_UNDERSTAND}


def test_the_same_uid_with_other_bytes_is_kept_beside_the_first(
    receiver: Receiver, siege: Siege
) -> None:
    """Attack 11: the newest does not silently win, and nothing is lost."""
    study = new_uid()
    first = encode(data_set(1, study, PixelData=b"\1" * 32))
    second = encode(data_set(1, study, PixelData=b"\2" * 32))
    uid = str(data_set(1, study).SOPInstanceUID)
    for content in (first, second, first):
        assert store(receiver, store_rq(uid), content).status == SUCCESS
    folder = receiver.spool / key_of(study)
    kept = sorted(folder.glob("*.dcm"))
    assert len(kept) == 2
    assert {_data_set_of(p) for p in kept} == {first, second}
    until(lambda: "instance.conflict" in receiver.node.logs(), 10, "a warning", receiver.node.tell)


def test_the_same_instance_over_many_associations_at_once_is_kept_once(
    receiver: Receiver, siege: Siege
) -> None:
    uid, content = instance(PixelData=bytes(200_000))
    peers = [RawPeer(receiver.port) for _ in range(8)]
    for peer in peers:
        peer.open()
    for peer in peers:
        peer.send(message(3, store_rq(uid), content)[:-10])
    for peer in peers:
        peer.send(message(3, store_rq(uid), content)[-10:])
    assert [peer.answer().status for peer in peers] == [SUCCESS] * 8
    for peer in peers:
        peer.release()
        peer.sock.close()
    assert len([p for p in receiver.instances() if _data_set_of(p) == content]) == 1


def test_other_bytes_under_one_uid_from_two_associations_at_once_are_both_kept(
    receiver: Receiver, siege: Siege
) -> None:
    study = new_uid()
    contents = [encode(data_set(1, study, PixelData=bytes([n]) * 200_000)) for n in range(4)]
    uid = str(data_set(1, study).SOPInstanceUID)
    with ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(receiver.port)) for _ in contents]
        for peer, content in zip(peers, contents, strict=True):
            peer.open()
            peer.send(message(3, store_rq(uid), content)[:-10])
        for peer, content in zip(peers, contents, strict=True):
            peer.send(message(3, store_rq(uid), content)[-10:])
        assert [peer.answer().status for peer in peers] == [SUCCESS] * len(peers)
        for peer in peers:
            peer.release()
    kept = [_data_set_of(p) for p in (receiver.spool / key_of(study)).glob("*.dcm")]
    assert sorted(kept) == contents


# -- too much, or not all of it --------------------------------------------------------------------


def test_fragments_without_end_are_cut_off_at_the_largest_instance(
    receiver: Receiver, siege: Siege
) -> None:
    """Attack 4. The receiver takes 4 MiB; memory stays flat and the spool gets no more."""
    uid, content = instance()
    fragment = p_data(value(3, bytes(60_000), command=False, last=False))
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(
            message(3, store_rq(uid), content)[:-100]
        )  # the header, for who looks at it early
        peer.send(p_data(value(3, bytes(100), command=False, last=False)))
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.sock.settimeout(10)
        peer.send(p_data(value(3, store_rq(uid), command=True, last=True)))
        peer.send(p_data(value(3, content, command=False, last=False)))
        for _ in range(3000):  # 180 MB
            peer.send(fragment)
        written = sum(p.stat().st_size for p in receiver.parts())
        said, seconds = peer.end()
    assert written < 8 * MIB
    for heard in said:
        assert heard.kind == ABORT or Response.decode(heard.body[6:]).status != SUCCESS
    assert seconds < SOON_S + 4


def test_an_instance_over_the_limit_that_ends_is_refused_and_not_kept(
    receiver: Receiver, siege: Siege
) -> None:
    uid, content = instance(PixelData=bytes(5 * MIB))
    before = receiver.instances()
    with RawPeer(receiver.port) as peer:
        peer.open()
        peer.send(message(3, store_rq(uid), content, chunk=60_000))
        heard = peer.hear()
        assert heard.kind in {0, ABORT} or Response.decode(heard.body[6:]).status != SUCCESS
    assert receiver.instances() == before


@pytest.mark.parametrize("goodbye", [ABORTION, b"", b"\4\0\0"], ids=["abort", "close", "half-pdu"])
def test_an_instance_that_breaks_off_leaves_no_part_file(
    receiver: Receiver, siege: Siege, goodbye: bytes
) -> None:
    uid, content = instance(PixelData=bytes(2 * MIB))
    before = receiver.instances()
    for _ in range(10):
        with RawPeer(receiver.port) as peer:
            peer.open()
            whole = message(3, store_rq(uid), content, chunk=60_000)
            peer.send(whole[: len(whole) // 2] + goodbye)
    until(lambda: not receiver.parts(), 10, "part files to be gone")
    assert receiver.instances() == before


def test_many_instances_that_stop_halfway_leave_no_part_file(
    receiver: Receiver, siege: Siege
) -> None:
    uid, content = instance(PixelData=bytes(MIB))
    whole = message(3, store_rq(uid), content, chunk=60_000)
    peers = [RawPeer(receiver.port) for _ in range(10)]
    for peer in peers:
        peer.open()
        peer.send(whole[: len(whole) // 2])
    for peer in peers:
        said, _ = peer.end()
        assert [h.kind for h in said] == [ABORT]
        peer.sock.close()
    until(lambda: not receiver.parts(), 10, "part files to be gone")


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver whose disk is always under the watermark."""
    with Receiver(tmp_path_factory.mktemp("full"), min_free_bytes=1 << 60) as receiver:
        yield receiver


def test_under_the_watermark_nothing_is_written(full: Receiver) -> None:
    """Attack 18: 0xA700 before the write, and echoes are still answered."""
    with Siege(full):
        for size in (32, 3 * MIB):
            uid, content = instance(PixelData=bytes(size))
            response = store(full, store_rq(uid), content)
            assert response.status == NO_SPACE
            assert "space" in response.comment or "min_free" in response.comment
        assert full.instances() == []


def test_an_instance_in_implicit_little_endian_is_kept_as_it_came(
    receiver: Receiver, siege: Siege
) -> None:
    study = new_uid()
    ds = data_set(1, study)
    content = encode(ds, IMPLICIT)
    with RawPeer(receiver.port) as peer:
        peer.open(associate([Context(1, VERIFICATION, (IMPLICIT,)), Context(3, CT, (IMPLICIT,))]))
        assert peer.ask(3, store_rq(str(ds.SOPInstanceUID)), content).status == SUCCESS
        peer.release()
    assert hashlib.sha256(content).hexdigest() in kept_digests(receiver)


def test_an_implicit_data_set_on_an_explicit_context_is_kept_as_it_came(
    receiver: Receiver, siege: Siege
) -> None:
    """Careless devices send those; nothing is encoded anew, so nothing gets worse."""
    ds = data_set(1, new_uid())
    content = encode(ds, IMPLICIT)
    assert store(receiver, store_rq(str(ds.SOPInstanceUID)), content).status == SUCCESS
    assert hashlib.sha256(content).hexdigest() in kept_digests(receiver)


def test_unknown_elements_of_a_command_are_ignored(receiver: Receiver, siege: Siege) -> None:
    uid, content = instance()
    rq = store_rq(uid, t00005010=b"private!", t00009000=bytes(2000))
    assert store(receiver, rq, content).status == SUCCESS
