"""Attacks 5, 6 and 12: requests for associations that no well-behaved peer sends."""

from __future__ import annotations

import struct
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from pynetdicom import AllStoragePresentationContexts

from tests.attacks.conftest import IDLE_S, SOON_S
from tests.support.node import until
from tests.support.siege import SERVED_S, Receiver, Siege
from tests.support.wire import (
    ABORT,
    ASSOCIATE_AC,
    ASSOCIATE_RJ,
    BIG_ENDIAN,
    CT,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Context,
    Heard,
    RawPeer,
    associate,
    echo_rq,
    item,
    message,
    user_information,
)

ACCEPTED, REFUSED_ABSTRACT, REFUSED_TRANSFER = 0, 3, 4  # PS3.8 Table 9-18
STORAGE = [str(c.abstract_syntax) for c in AllStoragePresentationContexts]


def refused(receiver: Receiver, request: bytes, address: str = "127.0.0.1") -> Heard:
    """Send a request that is rejected or aborted, with nothing behind that, and soon."""
    began = time.monotonic()
    with RawPeer(receiver.port, address) as peer:
        peer.send(request)
        heard = peer.hear()
        assert heard.kind in {ASSOCIATE_RJ, ABORT}, heard
        assert peer.ends(SOON_S) == []
    assert time.monotonic() - began < SOON_S
    return heard


def rejected(receiver: Receiver, request: bytes, address: str = "127.0.0.1") -> tuple[int, ...]:
    """Return result, source and reason of the rejection."""
    return refused(receiver, request, address).rejection


def test_every_context_of_a_full_request_is_answered(receiver: Receiver, siege: Siege) -> None:
    contexts = [
        Context(2 * n + 1, STORAGE[n % len(STORAGE)], (IMPLICIT, EXPLICIT)) for n in range(128)
    ]
    with RawPeer(receiver.port) as peer:
        results = peer.open(associate(contexts)).results
        peer.release()
    assert sorted(results) == [c.id for c in contexts]
    assert all(result in {ACCEPTED, REFUSED_ABSTRACT} for result, _ in results.values())
    assert sum(result == ACCEPTED for result, _ in results.values()) > 100


def test_contexts_with_hundreds_of_transfer_syntaxes_are_answered_or_refused(
    receiver: Receiver, siege: Siege
) -> None:
    syntaxes = tuple(f"1.2.840.99.{n}" for n in range(300)) + (EXPLICIT,)
    contexts = [Context(2 * n + 1, CT, syntaxes) for n in range(128)]
    began = time.monotonic()
    with RawPeer(receiver.port) as peer:
        peer.send(associate(contexts))
        assert peer.hear().kind in {ASSOCIATE_AC, ASSOCIATE_RJ, ABORT}
    assert time.monotonic() - began < SERVED_S


def test_a_request_that_fills_its_limit_with_contexts_is_answered_or_refused(
    receiver: Receiver, siege: Siege
) -> None:
    flood = [Context(1, CT)] * ((1 << 20) // len(Context(1, CT).encode()) - 10)
    refused(receiver, associate(flood))


def filled(one: bytes) -> bytes:
    """Repeat an item until the request is as long as any may be."""
    return one * (((1 << 20) - 500) // len(one))


HOLLOW = item(0x20, b"\1\0\0\0")
SYNTAXES = item(0x20, b"\1\0\0\0" + item(0x40, b"") * 16_000)
EXTENDED = item(0x50, item(0x56, b"\0\0") * 10_900)
ROLES = item(0x50, b"".join(item(0x54, b"\0\4%04x\1\1" % n) for n in range(5_400)))


@pytest.mark.parametrize(
    "request_",
    [
        associate([filled(Context(1, CT).encode())]),
        associate([filled(HOLLOW)]),
        associate([filled(SYNTAXES)]),
        associate([filled(item(0x99, b""))]),
        associate(user=filled(EXTENDED)),
        associate(user=filled(ROLES)),
    ],
    ids=["contexts", "hollow", "syntaxes", "unknown", "extended", "roles"],
)
def test_requests_full_of_items_at_once_keep_nobody_waiting(
    receiver: Receiver, request_: bytes
) -> None:
    """Each is a megabyte of the shortest items: reading all of them took a good peer 5.5 s."""
    with Siege(receiver, memory_bytes=96 << 20), ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(receiver.port)) for _ in range(25)]
        began = time.monotonic()
        for peer in peers:
            peer.send(request_)
        for peer in peers:
            peer.ends(SOON_S + IDLE_S)
        assert time.monotonic() - began < SERVED_S + IDLE_S


@pytest.mark.parametrize("ids", [(2,), (0,), (1, 1), (1, 2), (255, 255, 255)])
def test_context_ids_that_are_even_or_double_give_no_way_in(
    receiver: Receiver, siege: Siege, ids: tuple[int, ...]
) -> None:
    """PS3.8 9.3.2.2: odd integers between 1 and 255, each once."""
    refused(receiver, associate([Context(n, VERIFICATION, (IMPLICIT,)) for n in ids]))


@pytest.mark.parametrize(
    "broken",
    [
        Context(1, b"", (IMPLICIT,)),
        Context(1, VERIFICATION, ()),
        Context(1, VERIFICATION, (b"",)),
        Context(1, b"\xff\xfe\0", (IMPLICIT,)),
        Context(1, "1." * 40 + "1", (IMPLICIT,)),
        Context(1, "../../etc/passwd", (IMPLICIT,)),
        item(0x20, b""),
        item(0x20, b"\1\0\0\0"),
        item(0x99, b"unknown"),
    ],
    ids=[
        "empty",
        "no-syntax",
        "empty-syntax",
        "bytes",
        "long",
        "path",
        "hollow",
        "bare",
        "unknown",
    ],
)
def test_a_context_that_says_nothing_gives_no_way_in(
    receiver: Receiver, siege: Siege, broken: Context | bytes
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate([broken]))
        heard = peer.hear()
        if heard.kind == ASSOCIATE_AC:
            assert all(result != ACCEPTED for result, _ in heard.results.values())
            peer.send(message(1, echo_rq()))
        said = peer.ends(SOON_S)
    assert all(h.kind in {ABORT, ASSOCIATE_RJ} for h in said)


def test_what_hides_its_size_or_its_order_is_refused(receiver: Receiver, siege: Siege) -> None:
    """Attack 8: a deflated data set of 486 kB was 950 MiB in the parser."""
    with RawPeer(receiver.port) as peer:
        answer = peer.open(
            associate([Context(1, CT, (DEFLATED,)), Context(3, CT, (BIG_ENDIAN,)), Context(5)])
        )
        peer.release()
    assert answer.results[1][0] == REFUSED_TRANSFER
    assert answer.results[3][0] == REFUSED_TRANSFER
    assert answer.results[5] == (ACCEPTED, EXPLICIT)


def test_a_wrong_called_title_is_rejected_for_good(receiver: Receiver, siege: Siege) -> None:
    for called in ("OTHER", "limen", b"LIMEN\0\0\0\0\0", b"", b"\xff" * 16):
        heard = refused(receiver, associate(called=called))
        if called in {"OTHER", "limen"}:
            assert heard.rejection == (1, 1, 7)


@pytest.mark.parametrize("calling", [b"", b"\xff\xfe", b"A\0B", b"A\\B", b"A\nB", b"\x1b[2J"])
def test_a_calling_title_that_is_none_is_rejected(
    receiver: Receiver, siege: Siege, calling: bytes
) -> None:
    """PS3.5 6.2, VR AE: printable, no backslash, not only spaces."""
    refused(receiver, associate(calling=calling))
    log = receiver.node.logs()
    assert "\x1b[2J" not in log
    assert "A\nB" not in log


def test_another_protocol_version_is_rejected(receiver: Receiver, siege: Siege) -> None:
    """PS3.8 9.3.4: source 2 (ACSE), reason 2; only bit 0 is looked at (9.3.2)."""
    assert rejected(receiver, associate(version=2)) == (1, 2, 2)
    with RawPeer(receiver.port) as peer:
        peer.open(associate(version=3))
        peer.release()


def test_another_application_context_is_rejected(receiver: Receiver, siege: Siege) -> None:
    assert rejected(receiver, associate(application=item(0x10, b"1.2.3"))) == (1, 1, 2)


@pytest.mark.parametrize(
    "application", [b"", item(0x10, b"")], ids=["no-application", "hollow-application"]
)
def test_a_request_without_its_application_context_is_refused(
    receiver: Receiver, siege: Siege, application: bytes
) -> None:
    refused(receiver, associate(application=application))


@pytest.mark.parametrize("user", [b"", item(0x50, b"")], ids=["no-user", "hollow-user"])
def test_a_request_without_user_information_has_no_largest_pdu(
    receiver: Receiver, siege: Siege, user: bytes
) -> None:
    """PS3.8 9.3.2 wants the item; pynetdicom and DCMTK let its absence pass, and so do we."""
    with RawPeer(receiver.port) as peer:
        peer.open(associate(user=user))
        assert peer.ask(1, echo_rq()).status == 0
        peer.release()


@pytest.mark.parametrize("max_length", [0, 1, 6, 7, 128, 0xFFFFFFFF])
def test_any_maximum_length_of_the_peer_is_kept_to(
    receiver: Receiver, siege: Siege, max_length: int
) -> None:
    """PS3.8 D.1: 0 is no limit. One that has no room for a value item cannot be kept to."""
    with RawPeer(receiver.port) as peer:
        peer.send(associate(user=user_information(max_length)))
        heard = peer.hear()
        if 0 < max_length < 7:
            assert heard.kind in {ASSOCIATE_RJ, ABORT, ASSOCIATE_AC}
            return
        assert heard.kind == ASSOCIATE_AC
        peer.send(message(1, echo_rq()))
        heard = peer.hear()
        assert max_length == 0 or len(heard.body) <= max_length
        peer.send(bytes([5, 0, 0, 0, 0, 4, 0, 0, 0, 0]))


@pytest.mark.parametrize(
    "extra",
    [
        item(0x58, b"\1\1" + struct.pack(">H", 60000) + b"u" * 60000 + b"\0\0"),
        item(0x58, b"\2\1" + struct.pack(">H", 65535) + b"u"),
        item(0x53, struct.pack(">HH", 0, 0)),
        item(0x53, b""),
        item(0x54, struct.pack(">H", 999)),
        item(0x56, struct.pack(">H", len(CT)) + CT.encode() + b"\2\0\2\0" * 100),
        item(0x57, b"\xff" * 50),
        item(0x59, b"server response from a requestor"),
        item(0x7F, bytes(60000)),
        item(0x56, struct.pack(">H", len(CT)) + CT.encode()) * 2000,
        item(0x54, struct.pack(">H", len(CT)) + CT.encode() + b"\1\1") * 1900,
    ],
    ids=["user", "user-overrun", "async", "async-hollow", "role-overrun", "extended", "common"]
    + ["server", "unknown", "extended-2000", "role-1900"],
)  # fmt: skip
def test_negotiation_items_of_any_kind_leave_the_receiver_whole(
    receiver: Receiver, siege: Siege, extra: bytes
) -> None:
    with RawPeer(receiver.port) as peer:
        peer.send(associate(user=user_information(16384, extra)))
        heard = peer.hear()
        assert heard.kind in {ASSOCIATE_AC, ASSOCIATE_RJ, ABORT}
        if heard.kind == ASSOCIATE_AC:
            assert peer.ask(1, echo_rq()).status == 0
            peer.release()


@pytest.fixture(scope="module")
def choosy(tmp_path_factory: pytest.TempPathFactory):
    """A receiver that knows two peers."""
    folder = tmp_path_factory.mktemp("choosy")
    (folder / "config.toml").write_text(
        '[[scp.peer]]\nae_title = "CT1"\naddress = "127.0.0.2"\n'
        '[[scp.peer]]\nae_title = "ATTACKER"\naddress = "127.0.0.9"\n'
        '[[scp.peer]]\nae_title = "ATTACKER"\naddress = "127.0.0.1"\n'
    )
    with Receiver(folder, config=folder / "config.toml") as receiver:
        yield receiver


def test_only_a_listed_title_from_its_address_is_let_in(choosy: Receiver) -> None:
    with Siege(choosy):
        with RawPeer(choosy.port, "127.0.0.2") as peer:
            peer.open(associate(calling="CT1"))
            peer.release()
        for calling, address in (("CT1", "127.0.0.9"), ("CT2", "127.0.0.2"), ("ct1", "127.0.0.2")):
            assert rejected(choosy, associate(calling=calling), address) == (1, 1, 3)


def test_an_address_that_is_not_listed_gets_no_association(choosy: Receiver) -> None:
    with Siege(choosy), RawPeer(choosy.port, "127.0.0.77") as peer:
        peer.send(associate(calling="CT1"))
        said, seconds = peer.end()
    assert [h.kind for h in said] in ([], [ASSOCIATE_RJ])
    assert seconds < 2


def test_a_rejection_is_logged_with_who_why_and_what_was_proposed(
    receiver: Receiver, siege: Siege
) -> None:
    contexts = [Context(1, CT), Context(3, "1.2.3.4"), Context(5, "../../etc/passwd")]
    assert rejected(receiver, associate(contexts, called="OTHER", calling="WHO")) == (1, 1, 7)
    line = logged(receiver, "association.rejected", "peer=WHO")
    for told in ("called AE title is not ours", "called=OTHER", "code=1/1/7", "127.0.0.1"):
        assert told in line
    assert "proposed=3" in line
    assert f"{CT} 1.2.3.4 (not a UID)" in line
    assert "implementation=ATTACK" in line


def test_what_was_proposed_and_refused_is_one_line_of_an_association(
    receiver: Receiver, siege: Siege
) -> None:
    contexts = [Context(1, CT), Context(3, "1.2.3.4"), Context(5, "1.2.3.5"), Context(7, b"\xff")]
    with RawPeer(receiver.port) as peer:
        peer.open(associate(contexts, calling="PARTLY"))
        peer.release()
    line = logged(receiver, "association.open", "peer=PARTLY")
    assert "proposed=4" in line
    assert "accepted=1" in line
    assert "1.2.3.4 1.2.3.5 (not a UID)" in line


def logged(receiver: Receiver, *words: str) -> str:
    """Return the one log line with these words."""

    def find() -> list[str]:
        lines = receiver.node.logs().splitlines()
        return [line for line in lines if all(word in line for word in words)]

    (line,) = until(find, 5, f"a log line with {words}", receiver.node.tell)
    return line


def test_nothing_that_was_proposed_became_a_path(receiver: Receiver, siege: Siege) -> None:
    with RawPeer(receiver.port) as peer:
        peer.open(associate(calling="../../../etc/x"))
        peer.release()
    names = {p.name for p in Path(receiver.node.folder).rglob("*")}
    assert not any("etc" in name or ".." in name for name in names)
