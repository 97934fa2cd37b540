"""What must hold whatever bytes arrive; ``one`` takes the bytes and raises when it does not.

The first byte chooses how the rest is used: as a request for an association, as a command set, as
the beginning of a data set, or as what a peer sends over a connection to a whole ``Association``
with its own spool (in memory where the machine has such a folder).
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from limen.config import Scp
from limen.errors import Unreadable
from limen.instance import NewInstance
from limen.uids import is_uid
from scp.association import Association, Connection, House
from scp.dimse import Answer, Command, NotACommand
from scp.guard import Guard
from scp.handlers import Handlers
from scp.header import Identity
from scp.negotiation import Request, Unsupported, negotiate
from scp.pdu import Malformed
from scp.sop_classes import served_by
from scp.spool import Spool
from tests.attacks.wire import (
    Context,
    Response,
    associate,
    echo_rq,
    message,
    p_data,
    store_rq,
    value,
)
from tests.samples import data_set, encode

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
_STORED_LIMIT = 500
_ITEM, _PDU = struct.Struct(">BxH"), struct.Struct(">BxI")
_CPU_S = 5.0
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
            # machine that is busy must not make them pass.
            handshake_timeout_s=600,
            pdu_timeout_s=600,
            idle_timeout_s=600,
            max_instance_bytes=1 << 20,
            min_free_bytes=0,
        )
        self._served, self._storage = served_by(self._settings)
        self._spool = Spool(self._folder / "spool", 0)
        self._parts = self._spool.new_part().parent
        self.kept = self._forgotten = 0
        self._faults: list[str] = []
        handlers = Handlers(self._spool, self, self._settings.max_instance_bytes)
        self._house = House(
            self._settings, Guard(self._settings), handlers, self._served, self._storage, None
        )
        self._ways: tuple[Callable[[bytes], None], ...] = (
            self._negotiation,
            self._command,
            self._header,
            self._raw,
            self._after_request,
            self._as_fragments,
            self._as_data_set,
            self._as_command,
        )
        structlog.configure(processors=[self._listen], cache_logger_on_first_use=False)

    def close(self) -> None:
        """Remove the spool and give the logs back."""
        structlog.reset_defaults()
        shutil.rmtree(self._folder, ignore_errors=True)

    def one(self, data: bytes) -> None:
        """Run one input.

        Raises
        ------
        Broken
            A property does not hold.
        """
        if not data:
            return
        began = time.process_time()
        self._ways[data[0] % len(self._ways)](data[1:])
        _hold(time.process_time() - began < _CPU_S, "it takes too long")

    # -- scp.handlers.Intake -------------------------------------------------------------------

    def add(self, instance: NewInstance, association: int) -> None:
        """Take a kept instance."""
        _hold(is_uid(instance.sop_uid) and is_uid(instance.study_uid), "a UID that is none")
        folder, _, name = instance.path.partition("/")
        _hold(f"{folder}{name}".replace(".dcm", "").replace("-", "").isalnum(), "received text")
        _hold((self._spool.root / folder / name).is_file(), "kept, but not there")
        self.kept += 1

    def ask(self, asked: object, association: int) -> None:
        """Take a request for storage commitment."""

    def answered(self, status: int, size_bytes: int) -> None:
        """Count an answer."""

    def rejected(self, reason: str) -> None:
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

    # -- a whole association -------------------------------------------------------------------

    def _raw(self, data: bytes) -> None:
        self._converse(data)

    def _after_request(self, data: bytes) -> None:
        self._serve(data)

    def _as_fragments(self, data: bytes) -> None:
        """Bytes as values of P-DATA-TF: context, control and length from the input."""
        said = bytearray()
        while len(data) >= 3:
            context, control, length = data[0] % 8, data[1], data[2]
            fragment = data[3 : 3 + length]
            said += p_data(
                value(context, fragment, command=bool(control & 1), last=bool(control & 2))
            )
            data = data[3 + length :]
        self._serve(bytes(said))

    def _as_data_set(self, data: bytes) -> None:
        """A C-STORE whose data set is the input, or has it in its middle."""
        if data[:1] < b"\x80":
            at = data[0] if data else 0
            data = _CONTENT[:at] + data[1:] + _CONTENT[at:]
        else:
            data = data[1:]
        self._serve(message(3, store_rq(_SOP), data, 1 + len(data) // 2))

    def _as_command(self, data: bytes) -> None:
        self._serve(message(1, data) + message(1, echo_rq()))

    def _serve(self, said: bytes) -> None:
        """What a peer says within an association; that it gets one is part of what holds."""
        heard = self._converse(_REQUEST + said)
        _hold(heard[:1] == b"\2", "a good request was not accepted")

    def _converse(self, said: bytes) -> bytes:
        """Let a peer say everything and hang up; return what it heard. It has to end in order."""
        near, theirs = socket.socketpair()
        ours = _Pipe(fileno=near.detach())
        with theirs:
            writing = (
                threading.Thread(target=_say, args=(theirs, said)) if len(said) > 60000 else None
            )
            if writing is not None:
                writing.start()
            else:
                _say(theirs, said)
            association = Association(Connection(1, ours, "127.0.0.1", secure=False), self._house)
            association.run()
            if writing is not None:
                writing.join()
            heard = _hear(theirs)
        _hold(ours.fileno() == -1, "the connection stayed open")
        if self._faults:
            raise Broken(f"a fault of ours: {self._faults.pop()}")
        for kind, body in _pdus(heard):
            _hold(2 <= kind <= 7 and kind != 5, f"PDU of type {kind}")
            if kind == 4:
                Response.decode(body[6:])
        _hold(not os.listdir(self._parts), "a part file stayed")
        if self.kept - self._forgotten >= _STORED_LIMIT:
            self._forget()
        return heard

    def _forget(self) -> None:
        for path in self._spool.root.rglob("*.dcm"):
            path.unlink()
        self._forgotten = self.kept

    def _listen(self, _: object, __: str, event: dict[str, object]) -> dict[str, object]:
        """Processor of structlog: nothing is written, a fault is kept."""
        if event.get("exc_info"):
            import traceback  # noqa: PLC0415

            self._faults.append(f"{event.get('event')}: {traceback.format_exc()}")
        raise structlog.DropEvent


class _Pipe(socket.socket):
    """One end of a pair without TCP: ten thousand connections a second would use up its ports."""

    def setsockopt(self, level: int, *rest: int) -> None:  # type: ignore[override]
        """Leave the options of TCP aside."""
        if level != socket.IPPROTO_TCP:
            super().setsockopt(level, *rest)


def leaks() -> tuple[int, int, int]:
    """Return open files, threads, and resident bytes of this process."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return (
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
        pages * os.sysconf("SC_PAGE_SIZE"),
    )


def seeds() -> list[bytes]:
    """Return inputs that every way understands; a fuzzer begins with them."""
    stored = message(3, store_rq(_SOP), _CONTENT)
    release = b"\5\0\0\0\0\4\0\0\0\0"
    return [
        b"\0" + _REQUEST[6:],
        b"\1" + echo_rq(),
        b"\1" + store_rq(_SOP),
        b"\2" + _CONTENT,
        b"\2" + _CONTENT_IMPLICIT,
        b"\3" + associate(called="OTHER"),
        b"\3" + _REQUEST + stored + message(1, echo_rq()) + release,
        b"\4" + stored + release,
        b"\4" + message(1, echo_rq()) + release,
        b"\5" + b"\1\3" + bytes([len(echo_rq())]) + echo_rq(),
        b"\6" + b"\x80" + _CONTENT,
        b"\6" + b"\x20" + b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff",
        b"\7" + echo_rq(),
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


def _say(sock: socket.socket, said: bytes) -> None:
    try:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
    except OSError:  # the receiver has had enough
        pass


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
_REQUEST = associate(
    (
        Context(1, "1.2.840.10008.1.1", (IMPLICIT,)),
        Context(3, transfer=(EXPLICIT,)),
        Context(5, transfer=(IMPLICIT,)),
        Context(7, "1.2.840.10008.1.20.1", (IMPLICIT,)),
    )
)
