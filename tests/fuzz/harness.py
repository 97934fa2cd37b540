"""What must hold whatever bytes arrive; ``run`` takes the bytes and raises when it does not.

``READERS`` read the bytes as a request for an association, a command set, the beginning of a data
set, or a request for storage commitment. ``TALKS`` put them into what a peer says to a whole
``Association`` with its own spool (in memory where the machine has such a folder).
"""

from __future__ import annotations

import errno
import os
import shutil
import socket
import struct
import tempfile
import threading
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path

import structlog

from limen.config import Scp
from limen.errors import Unreadable
from limen.instance import CommitmentReport, NewCommitment, NewInstance
from limen.uids import is_uid
from scp.association import Association
from scp.commitment_messages import Report, instances_of
from scp.connection import Connection
from scp.dimse import N_ACTION_RQ, Answer, Command, NotACommand
from scp.guard import Guard
from scp.handlers import Handlers
from scp.header import Elements, Identity
from scp.negotiation import Request, Unsupported, negotiate
from scp.pdu import Malformed
from scp.service import Service
from scp.sop_classes import COMMITMENT, COMMITMENT_INSTANCE, served_by
from scp.spool import Spool
from tests.support.samples import data_set, encode
from tests.support.siege import open_files
from tests.support.wire import (
    Context,
    Response,
    associate,
    command,
    echo_rq,
    message,
    p_data,
    store_rq,
    ui,
    us,
    value,
)

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
READERS = ("negotiation", "command", "header", "commitment")
TALKS = ("raw", "requested", "fragments", "stored", "commanded", "asked")
WAYS = READERS + TALKS
_STORED_LIMIT = 500
_SERVE_EVERY = 100
_ITEM, _PDU = struct.Struct(">BxH"), struct.Struct(">BxI")
_CPU_S = 5.0
_A_DAY_S = 86400
_INSTANCE_BYTES = 100_000
_STREAMED_BYTES = 66_000  # more than the spool keeps in memory
_PAIR_BYTES = 60_000  # what a connection of the kernel takes without anybody reading
_MEMORY = Path("/dev/shm")


class Broken(AssertionError):
    """Something that has to hold does not."""


class Harness:
    """Runs inputs; ``close`` removes what they left.

    Attributes
    ----------
    kept
        Instances that were answered Success so far.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(dir=_MEMORY if os.access(_MEMORY, os.W_OK) else None))
        self._settings = Scp(
            # The peer has said everything and hung up: none of these is ever waited for, but a
            # machine that stands still for an hour must not make them pass.
            handshake_timeout_s=_A_DAY_S,
            pdu_timeout_s=_A_DAY_S,
            idle_timeout_s=_A_DAY_S,
            association_timeout_s=_A_DAY_S,
            min_free_bytes=0,
        )
        self._served, self._storage = served_by(self._settings)
        self._spool = _Counted(self._folder / "spool", 0)
        self._parts = self._spool.new_part().parent
        self._line = _Line()
        self.kept = self._forgotten = self._runs = self._looked = 0
        self._faults: list[str] = []
        handlers = Handlers(self._spool, self, _INSTANCE_BYTES)
        self._service = Service(
            self._settings, Guard(self._settings), handlers, self._served, self._storage, None
        )
        self._ways: dict[str, Callable[[bytes], None]] = {
            "negotiation": self._negotiation,
            "command": self._command,
            "header": self._header,
            "commitment": self._commitment,
        }
        structlog.configure(processors=[self._listen], cache_logger_on_first_use=False)

    def close(self) -> None:
        """Remove the spool and give the logs back."""
        structlog.reset_defaults()
        self._line.end()
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, way: str, data: bytes) -> None:
        """Run one input in one of ``WAYS``.

        Raises
        ------
        Broken
            A property does not hold.
        """
        began = time.process_time()
        if way in TALKS:
            heard = self._converse(said(way, data))
            _hold(way == "raw" or heard[:1] == b"\2", "a good request was not accepted")
        else:
            self._ways[way](data)
        _hold(time.process_time() - began < _CPU_S, "it takes too long")
        self._runs += 1
        if self._runs % _SERVE_EVERY == 0:
            self._serve()

    def parts(self) -> list[Path]:
        """Return the part files in the spool."""
        return [self._parts / name for name in os.listdir(self._parts)]

    def leaks(self) -> tuple[int, int, int]:
        """Return open files, threads, and resident bytes of this process."""
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
        return (
            open_files(os.getpid(), self._spool.root),
            threading.active_count(),
            pages * os.sysconf("SC_PAGE_SIZE"),
        )

    # -- scp.intake.Intake ---------------------------------------------------------------------

    def add(self, instance: NewInstance, association: int) -> None:
        """Take a kept instance."""
        _hold(is_uid(instance.sop_uid) and is_uid(instance.study_uid), "a UID that is none")
        folder, _, name = instance.path.partition("/")
        _hold(f"{folder}{name}".replace(".dcm", "").replace("-", "").isalnum(), "received text")
        _hold((self._spool.root / folder / name).is_file(), "kept, but not there")
        self.kept += 1

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Take a request for storage commitment."""
        uids = [asked.transaction_uid, *(uid for pair in asked.instances for uid in pair)]
        _hold(len(uids) > 2 and all(map(is_uid, uids)), "a UID that is none")

    def reported(self, report: CommitmentReport) -> bool:
        """Take a report of storage commitment."""
        uids = [report.transaction_uid, *report.kept, *(uid for uid, _ in report.failed)]
        _hold(len(uids) > 1 and all(map(is_uid, uids)), "a UID that is none")
        return True

    def refused(self, status: int, reason: str) -> None:
        """Count a C-STORE that failed."""

    def took(self, receiving_s: float, keeping_s: float) -> None:
        """Measure a C-STORE."""

    def not_kept(self, association: int, status: int, comment: str) -> None:
        """Note what an association was refused."""
        _hold(comment.isprintable(), "received text")

    def rejected(self, reason: str, peer: str, address: str) -> None:
        """Count a refusal."""

    # -- readers -----------------------------------------------------------------------------------

    def _negotiation(self, data: bytes) -> None:
        try:
            request = Request.parse(data)
        except (Malformed, Unsupported):
            return
        agreement = negotiate(
            request,
            self._served,
            self._storage,
            max_contexts=self._settings.max_contexts,
            max_pdu_bytes=self._settings.max_pdu_bytes,
            implementation=("1.2.3", "FUZZ"),
        )
        answer = agreement.answer
        _hold(len(answer) == 6 + int.from_bytes(answer[2:6], "big"), "A-ASSOCIATE-AC length")
        kinds = [kind for kind, _ in _items(answer[74:])]
        _hold(kinds[0] == 0x10 and kinds[-1] == 0x50, "items of A-ASSOCIATE-AC")
        _hold(len(kinds) - 2 == len(request.proposals), "one answer for each proposal")
        _hold(all(n % 2 for n in agreement.contexts), "an even context id")

    def _command(self, data: bytes) -> None:
        try:
            command = Command.parse(data)
        except NotACommand:
            return
        response = Response.decode(command.answered(Answer(0xC000, "why\u00e9" * 40)))
        _hold(response.number(0x0120) == command.message_id, "message id")
        _hold(response.status == 0xC000 and len(response.comment) <= 64, "status and comment")

    def _header(self, data: bytes) -> None:
        for syntax in (EXPLICIT, IMPLICIT):
            try:
                found = Identity.of(data, syntax)
            except Unreadable:
                continue
            uids = (found.sop_class_uid, found.sop_uid, found.study_uid, found.series_uid)
            _hold(all(map(is_uid, uids)), "a UID that is none")

    def _commitment(self, data: bytes) -> None:
        for syntax in (EXPLICIT, IMPLICIT):
            try:
                transaction, pairs = instances_of(data, syntax)
            except Unreadable:
                continue
            again = instances_of(Report(transaction, pairs, ()).encode(syntax), syntax)
            _hold(again == (transaction, pairs), "a report names something else")
            failed = Report(transaction, (), tuple((c, i, 0x0112) for c, i in pairs))
            tags = [tag for tag, _, _ in Elements(failed.encode(syntax), syntax == IMPLICIT)]
            _hold(tags == [0x00081195, 0x00081198], "elements of a report")

    # -- a whole association -------------------------------------------------------------------

    def _serve(self) -> None:
        """Whatever came before, the next association is served."""
        heard = _pdus(self._converse(said("commanded", echo_rq())))
        _hold([kind for kind, _ in heard] == [2, 4, 4, 6], "a good peer is not served")
        statuses = [Response.decode(body[6:]).status for kind, body in heard if kind == 4]
        _hold(statuses == [0, 0], "a good peer is not served")

    def _converse(self, said: bytes) -> bytes:
        """Let a peer say everything and hang up; return what it heard. It has to end in order."""
        seed = zlib.crc32(said)
        if seed % 8 or len(said) > _PAIR_BYTES:
            heard, is_open = self._over_line(said, seed)
        else:
            heard, is_open = self._over_pair(said)
        _hold(not is_open, "the connection stayed open")
        faults, self._faults = self._faults, []
        _hold(not faults, "a fault of ours: " + "; ".join(faults))
        for kind, body in _pdus(heard):
            _hold(2 <= kind <= 7 and kind != 5, f"PDU of type {kind}")
            if kind == 4:
                Response.decode(body[6:])
        if self._spool.parts > self._looked:
            self._looked = self._spool.parts
            _hold(not self.parts(), "a part file stayed")
        if self.kept - self._forgotten >= _STORED_LIMIT:
            self._forget()
        return heard

    def _over_line(self, said: bytes, seed: int) -> tuple[bytes, bool]:
        line = self._line
        line.begin(said, seed >> 3)
        Association(Connection(1, line, "127.0.0.1", secure=False), self._service).run()
        return bytes(line.heard), line.is_open

    def _over_pair(self, said: bytes) -> tuple[bytes, bool]:
        """The same over sockets of the kernel."""
        near, theirs = socket.socketpair()
        ours = _Pipe(fileno=near.detach())
        with theirs:
            theirs.sendall(said)
            theirs.shutdown(socket.SHUT_WR)
            Association(Connection(1, ours, "127.0.0.1", secure=False), self._service).run()
            return _hear(theirs), ours.fileno() != -1

    def _forget(self) -> None:
        for path in self._spool.root.rglob("*.dcm"):
            path.unlink()
        self._forgotten = self.kept

    def _listen(self, _: object, __: str, event: dict[str, object]) -> dict[str, object]:
        """Processor of structlog: nothing is written; a fault, or odd text, is kept."""
        if event.get("exc_info"):
            self._faults.append(f"{event.get('event')}: {traceback.format_exc()}")
        for key, logged in event.items():
            if isinstance(logged, str) and not (logged.isascii() and logged.isprintable()):
                self._faults.append(f"{event.get('event')}: {key} is {logged!r}")
        raise structlog.DropEvent


class _Counted(Spool):
    """A spool that counts its part files, so that their folder is looked at when it can have any.

    Attributes
    ----------
    parts
        How many there were so far.
    """

    parts = 0

    def new_part(self) -> Path:
        self.parts += 1
        return super().new_part()


class _Line(socket.socket):
    """Our end of a connection that is all in memory; what the peer says, and how, is given.

    It is its pieces, or its end by a reset, or that it no longer listens, that the kernel's sockets
    would not show. One serves for all associations: making it is what takes time.

    Attributes
    ----------
    heard
        What was sent to the peer.
    is_open
        Nobody has closed it.
    """

    def __init__(self) -> None:
        near, theirs = socket.socketpair()
        theirs.close()  # whoever polls the descriptor finds it readable
        super().__init__(fileno=near.detach())
        self.heard = bytearray()
        self.is_open = False

    def begin(self, said: bytes, seed: int) -> None:
        """Connect a peer."""
        self.heard = bytearray()
        self.is_open = True
        self._said, self._at = memoryview(said), 0
        self._step = max(1 + (seed >> 3) % 64, len(said) // 50) if seed % 8 == 0 else len(said)
        self._resets, self._deaf = seed % 8 == 1, seed % 8 == 2

    def end(self) -> None:
        """Close what is below."""
        super().close()

    def fileno(self) -> int:
        return super().fileno() if self.is_open else -1

    def settimeout(self, value: float | None) -> None:
        _hold(value is not None and 0 < value <= _A_DAY_S, f"a wait of {value} s")

    def setblocking(self, flag: bool) -> None:
        _hold(not flag, "a socket that waits by itself")

    def setsockopt(self, level: int, *rest: int) -> None:  # type: ignore[override]
        """Leave the options of TCP aside."""

    def recv_into(self, buffer: memoryview, *_: int) -> int:  # type: ignore[override]
        if not self.is_open:
            raise OSError(errno.EBADF, "closed")
        _hold(len(buffer) > 0, "nowhere to receive to")
        piece = self._said[self._at : self._at + min(self._step, len(buffer))]
        if not piece and self._resets:
            raise ConnectionResetError(errno.ECONNRESET, "reset")
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def send(self, data: memoryview, *_: int) -> int:  # type: ignore[override]
        if not self.is_open:
            raise OSError(errno.EBADF, "closed")
        if self._deaf and self.heard:
            raise BrokenPipeError(errno.EPIPE, "nobody listens")
        self.heard += data
        return len(data)

    def close(self) -> None:
        self.is_open = False


class _Pipe(socket.socket):
    """One end of a pair without TCP: ten thousand connections a second would use up its ports."""

    def setsockopt(self, level: int, *rest: int) -> None:  # type: ignore[override]
        """Leave the options of TCP aside."""
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *rest)


def said(way: str, data: bytes) -> bytes:
    """Return what a peer says when an input is used in one of ``TALKS``."""
    return _SAYING[way](data)


def _requested(data: bytes) -> bytes:
    return _REQUEST + data


def _fragments(data: bytes) -> bytes:
    """Bytes as values of P-DATA-TF: context, control and length from the input."""
    said = bytearray(_REQUEST)
    while len(data) >= 3:
        context, control, length = data[0] % 8, data[1], data[2]
        fragment = data[3 : 3 + length]
        said += p_data(value(context, fragment, command=bool(control & 1), last=bool(control & 2)))
        data = data[3 + length :]
    return bytes(said)


def _stored(data: bytes) -> bytes:
    """A C-STORE whose data set is the input, or has it in its middle; some are long."""
    flags, at, data = *(data[:2].ljust(2, b"\0")), data[2:]
    if not flags & 1:
        data = _CONTENT[:at] + data + _CONTENT[at:]
    if flags & 6 == 6:
        data += b"\x7f" * (_INSTANCE_BYTES if flags & 8 else _STREAMED_BYTES)
    return _REQUEST + message(3, store_rq(_SOP), data, 1 + len(data) // 2) + _RELEASE


def _commanded(data: bytes) -> bytes:
    return _REQUEST + message(1, data) + message(1, echo_rq()) + _RELEASE


def _asked(data: bytes) -> bytes:
    """An N-ACTION whose data set is the input."""
    return _REQUEST + message(7, _ACTION, data, 1 + len(data) // 2) + _RELEASE


def _piece(context: int, control: int, fragment: bytes) -> bytes:
    """Return what ``_fragments`` makes a fragment of."""
    return bytes([context, control, len(fragment)]) + fragment


def _pieces(context: int, data: bytes) -> bytes:
    starts = range(0, len(data), 255)
    return b"".join(_piece(context, 2 * (n == starts[-1]), data[n : n + 255]) for n in starts)


def seeds() -> list[tuple[str, bytes]]:
    """Return a few inputs for every way; a fuzzer begins with them."""
    stored = message(3, store_rq(_SOP), _CONTENT)
    return [
        ("negotiation", _REQUEST[6:]),
        ("command", echo_rq()),
        ("command", store_rq(_SOP)),
        ("command", _ACTION),
        ("header", _CONTENT),
        ("header", _CONTENT_IMPLICIT),
        ("commitment", _ASKED),
        ("commitment", _ASKED_IMPLICIT),
        ("raw", associate(called="OTHER")),
        ("raw", _REQUEST + stored + message(1, echo_rq()) + _RELEASE),
        ("requested", stored + _RELEASE),
        ("requested", message(1, echo_rq()) + _RELEASE),
        ("requested", message(7, _ACTION, _ASKED_IMPLICIT) + _RELEASE),
        ("fragments", _piece(1, 3, echo_rq())),
        ("fragments", _piece(3, 3, store_rq(_SOP)) + _pieces(3, _CONTENT)),
        ("stored", b"\1\0" + _CONTENT),
        ("stored", b"\7\0" + _CONTENT),
        ("stored", b"\x0f\0" + _CONTENT),
        ("stored", b"\0\x20" + b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff"),
        ("commanded", echo_rq()),
        ("asked", _ASKED_IMPLICIT),
    ]


def _hold(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


def _items(raw: bytes) -> list[tuple[int, bytes]]:
    return _framed(raw, _ITEM, "an item is cut off", "an item is longer than what holds it")


def _pdus(raw: bytes) -> list[tuple[int, bytes]]:
    return _framed(raw, _PDU, "a PDU is cut off", "a PDU is shorter than it says")


def _framed(raw: bytes, head: struct.Struct, cut: str, short: str) -> list[tuple[int, bytes]]:
    """Return kind and body of each: ``head`` is a kind and the length of what follows."""
    found = []
    while raw:
        _hold(len(raw) >= head.size, cut)
        kind, length = head.unpack_from(raw)
        _hold(len(raw) >= head.size + length, short)
        found.append((kind, raw[head.size : head.size + length]))
        raw = raw[head.size + length :]
    return found


def _hear(sock: socket.socket) -> bytes:
    heard = bytearray()
    try:
        while chunk := sock.recv(1 << 16):
            heard += chunk
    except OSError:
        pass
    return bytes(heard)


_STUDY = "1.2.826.0.1.3680043.10.99.1"
_SOP = f"{_STUDY}.1.1"
_CONTENT = encode(data_set(1, _STUDY))
_CONTENT_IMPLICIT = encode(data_set(1, _STUDY), IMPLICIT)
_RELEASE = b"\5\0\0\0\0\4\0\0\0\0"
_ACTION = command(
    {
        0x00000003: ui(COMMITMENT),
        0x00000100: us(N_ACTION_RQ),
        0x00000110: us(1),
        0x00000800: us(1),
        0x00001001: ui(COMMITMENT_INSTANCE),
        0x00001008: us(1),
    }
)
_REQUESTED = Report("1.2.3", (("1.2.840.10008.5.1.4.1.1.2", _SOP), ("1.2", "1.2.4")), ())
_ASKED, _ASKED_IMPLICIT = _REQUESTED.encode(EXPLICIT), _REQUESTED.encode(IMPLICIT)
_REQUEST = associate(
    (
        Context(1, "1.2.840.10008.1.1", (IMPLICIT,)),
        Context(3, transfer=(EXPLICIT,)),
        Context(5, transfer=(IMPLICIT,)),
        Context(7, COMMITMENT, (IMPLICIT,)),
    )
)
_SAYING: dict[str, Callable[[bytes], bytes]] = {
    "raw": bytes,
    "requested": _requested,
    "fragments": _fragments,
    "stored": _stored,
    "commanded": _commanded,
    "asked": _asked,
}
