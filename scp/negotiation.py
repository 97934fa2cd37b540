"""Association negotiation, acceptor side: A-ASSOCIATE-RQ in, A-ASSOCIATE-AC out (PS3.8 9.3.2, D).

Of the transfer syntaxes of a presentation context the first one that we accept is taken: the sender
names first what its instances are kept in, and nothing has to be re-encoded.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field

from limen.uids import is_uid
from scp.header import IMPLICIT_VR
from scp.pdu import ASSOCIATE_AC, Malformed
from scp.rejections import NO_SUCH_CONTEXT, NO_SUCH_VERSION
from scp.sop_classes import COMMITMENT

__all__ = ["Agreement", "Context", "Request", "Unsupported", "negotiate"]

_APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"
_PROTOCOL_VERSION = 1
_FIXED_BYTES = 68  # protocol version to reserved, before the items
_CONTEXT_LIMIT = 128  # as many odd ids there are (PS3.8 9.3.2.2)
_ITEM_LIMIT = 8192  # 128 contexts with 60 transfer syntaxes each; a megabyte has room for 250,000

# Item types (PS3.8 9.3.2, PS3.7 D.3.3).
_APPLICATION, _PROPOSED, _ANSWERED, _ABSTRACT, _TRANSFER, _USER = 0x10, 0x20, 0x21, 0x30, 0x40, 0x50
_MAX_LENGTH, _CLASS_UID, _ASYNCHRONOUS, _ROLE, _VERSION = 0x51, 0x52, 0x53, 0x54, 0x55
_EXTENDED, _IDENTITY = 0x56, 0x58

ACCEPTED, NO_REASON, ABSTRACT_REFUSED, TRANSFER_REFUSED = 0, 2, 3, 4
# PS3.4 B.3.1: level 2 (everything is kept), signatures stay valid (bytes are), nothing is coerced.
_STORAGE_SUPPORT = bytes([2, 0, 3, 0, 0, 0])

_HEAD = struct.Struct(">BxH")


class Unsupported(Exception):
    """The request cannot be served; ``code`` is result, source, reason of A-ASSOCIATE-RJ."""

    def __init__(self, text: str, code: tuple[int, int, int]) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Context:
    """An accepted presentation context."""

    context_id: int
    abstract_syntax: str
    transfer_syntax: str


@dataclass(frozen=True, slots=True)
class _Proposal:
    context_id: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(slots=True)
class Request:
    """An A-ASSOCIATE-RQ.

    Attributes
    ----------
    called, calling
        AE titles, without the padding.
    max_pdu_bytes
        Largest PDU that the peer takes; 0: any.
    roles
        SCU and SCP role proposed by SOP class (PS3.7 D.3.3.4).
    extended
        SOP classes with extended negotiation (PS3.7 D.3.3.5).
    asynchronous
        Whether an asynchronous operations window was proposed (PS3.7 D.3.3.3).
    identity_type
        Kind of a user identity (PS3.7 D.3.3.7); what it says is not kept.
    """

    called: str
    calling: str
    raw_titles: bytes
    proposals: list[_Proposal] = field(default_factory=list)
    max_pdu_bytes: int = 0
    implementation_uid: str = ""
    implementation_version: str = ""
    roles: dict[str, tuple[int, int]] = field(default_factory=dict)
    extended: list[str] = field(default_factory=list)
    asynchronous: bool = False
    identity_type: int | None = None

    @classmethod
    def parse(cls, body: bytes) -> Request:
        """Read the body of an A-ASSOCIATE-RQ, behind the six bytes of its head.

        Raises
        ------
        Malformed
            It breaks PS3.8 9.3.2: answered with A-ABORT.
        Unsupported
            Another protocol version or application context: answered with A-ASSOCIATE-RJ.
        """
        if len(body) < _FIXED_BYTES:
            raise Malformed("A-ASSOCIATE-RQ is too short")
        if not int.from_bytes(body[:2], "big") & _PROTOCOL_VERSION:
            raise Unsupported("protocol version is not supported", NO_SUCH_VERSION)
        request = cls(_title(body[4:20]), _title(body[20:36]), body[4:36])
        application = b""
        items = _Items()
        for kind, value in items.of(body[_FIXED_BYTES:]):
            if kind == _APPLICATION:
                application = value.rstrip(b"\0 ")
            elif kind == _PROPOSED:
                request.proposals.append(_proposal(items, value))
                if len(request.proposals) > _CONTEXT_LIMIT:
                    raise Malformed("more presentation contexts than there are ids")
            elif kind == _USER:
                request._read_user(items, value)
        if application != _APPLICATION_CONTEXT:
            raise Unsupported("application context is not supported", NO_SUCH_CONTEXT)
        ids = [p.context_id for p in request.proposals]
        if not ids:
            raise Malformed("no presentation context is proposed")
        if len(set(ids)) < len(ids) or not all(i % 2 for i in ids):
            raise Malformed("presentation context ids are not odd and different")
        return request

    def _read_user(self, items: _Items, body: bytes) -> None:
        for kind, value in items.of(body):
            if kind == _MAX_LENGTH and len(value) == 4:
                self.max_pdu_bytes = int.from_bytes(value, "big")
            elif kind == _CLASS_UID:
                self.implementation_uid = _text(value)
            elif kind == _VERSION:
                self.implementation_version = _text(value)[:16]
            elif kind == _ASYNCHRONOUS:
                self.asynchronous = True
            elif kind == _ROLE:
                uid, rest = _uid_and_rest(value)
                if len(rest) != 2:
                    raise Malformed("a role selection item has no two roles")
                self.roles[uid] = (rest[0], rest[1])
            elif kind == _EXTENDED:
                self.extended.append(_uid_and_rest(value)[0])
            elif kind == _IDENTITY and value:
                self.identity_type = value[0]


@dataclass(frozen=True, slots=True)
class Agreement:
    """What was agreed on.

    Attributes
    ----------
    contexts
        Accepted presentation contexts by id.
    refused
        Abstract syntaxes of the others, as far as they are UIDs.
    answer
        The A-ASSOCIATE-AC, encoded.
    """

    contexts: Mapping[int, Context]
    refused: tuple[str, ...]
    answer: bytes


def negotiate(
    request: Request,
    abstract_syntaxes: Mapping[str, Container[str]],
    storage: Container[str],
    *,
    max_contexts: int,
    max_pdu_bytes: int,
    implementation: tuple[str, str],
) -> Agreement:
    """Answer a request.

    Parameters
    ----------
    abstract_syntaxes
        What is served, each with the transfer syntaxes it is taken in.
    storage
        Those that are storage SOP classes: they answer extended negotiation.
    max_contexts
        Presentation contexts that are looked at; the rest is refused.
    implementation
        Our implementation class UID and version name.
    """
    contexts: dict[int, Context] = {}
    refused: dict[str, None] = {}
    answers = bytearray()
    for number, proposal in enumerate(request.proposals):
        served = abstract_syntaxes.get(proposal.abstract_syntax)
        syntax = None
        if number >= max_contexts:
            result = NO_REASON
        elif served is None:
            result = ABSTRACT_REFUSED
        else:
            syntax = next((s for s in proposal.transfer_syntaxes if s in served), None)
            result = TRANSFER_REFUSED if syntax is None else ACCEPTED
        if syntax is not None:
            contexts[proposal.context_id] = Context(
                proposal.context_id, proposal.abstract_syntax, syntax
            )
        else:
            abstract = proposal.abstract_syntax
            refused[abstract if is_uid(abstract) else "not a UID"] = None
        # PS3.8 9.3.3.2: one transfer syntax is there whatever the result; it is not tested then.
        body = bytes([proposal.context_id, 0, result, 0])
        body += _item(_TRANSFER, (syntax or IMPLICIT_VR).encode("ascii"))
        answers += _item(_ANSWERED, body)
    user = _item(_MAX_LENGTH, max_pdu_bytes.to_bytes(4, "big"))
    user += _item(_CLASS_UID, implementation[0].encode("ascii"))
    if request.asynchronous:  # PS3.7 D.3.3.3: one operation at a time in both directions
        user += _item(_ASYNCHRONOUS, struct.pack(">HH", 1, 1))
    for uid, (scu, scp) in request.roles.items():
        if uid in abstract_syntaxes:
            # The requestor is the user, and the provider only where it reports to us (PS3.4 J.3.3).
            provider = min(scp, 1) if uid == COMMITMENT else 0
            user += _item(_ROLE, _with_length(uid) + bytes([min(scu, 1), provider]))
    user += _item(_VERSION, implementation[1].encode("ascii"))
    for uid in dict.fromkeys(request.extended):  # answered once, however often it was proposed
        if uid in storage:
            user += _item(_EXTENDED, _with_length(uid) + _STORAGE_SUPPORT)
    body = (
        struct.pack(">HH", _PROTOCOL_VERSION, 0)
        + request.raw_titles
        + bytes(32)
        + _item(_APPLICATION, _APPLICATION_CONTEXT)
        + bytes(answers)
        + _item(_USER, user)
    )
    pdu = struct.pack(">BxI", ASSOCIATE_AC, len(body)) + body
    return Agreement(contexts, tuple(refused), pdu)


class _Items:
    """Walks the items of one request, and no more of them than an honest one has."""

    def __init__(self) -> None:
        self._left = _ITEM_LIMIT

    def of(self, body: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield (type, value) of the items that follow each other in ``body``."""
        at, end = 0, len(body)
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise Malformed("too many items")
            if end - at < 4:
                raise Malformed("an item is cut off")
            kind, length = _HEAD.unpack_from(body, at)
            at += 4
            if length > end - at:
                raise Malformed("an item is longer than what holds it")
            yield kind, body[at : at + length]
            at += length


def _proposal(items: _Items, value: bytes) -> _Proposal:
    if len(value) < 4:
        raise Malformed("a presentation context is cut off")
    abstract, transfer = "", []
    for kind, text in items.of(value[4:]):
        if kind == _ABSTRACT:
            abstract = _text(text)
        elif kind == _TRANSFER:
            transfer.append(_text(text))
    return _Proposal(value[0], abstract, tuple(transfer))


def _uid_and_rest(value: bytes) -> tuple[str, bytes]:
    length = int.from_bytes(value[:2], "big")
    if len(value) < 2 + length:
        raise Malformed("a UID is cut off")
    return _text(value[2 : 2 + length]), value[2 + length :]


def _title(value: bytes) -> str:
    """Return an AE title; one that breaks PS3.5 6.2 (VR AE) cannot be answered."""
    title = value.decode("latin-1").strip(" ")
    if not title or not all(" " <= c <= "~" and c != "\\" for c in title):
        raise Malformed("an AE title is empty or not printable")
    return title


def _text(value: bytes) -> str:
    return value.decode("latin-1").strip("\0 ")


def _with_length(uid: str) -> bytes:
    encoded = uid.encode("ascii")
    return len(encoded).to_bytes(2, "big") + encoded


def _item(kind: int, value: bytes) -> bytes:
    return _HEAD.pack(kind, len(value)) + value
