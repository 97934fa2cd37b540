"""Sending DICOM objects to a PACS, whichever way leads there: what is not there yet, and only that.

How each object stands is in the journal, noted as it is sent. Whoever takes a delivery over goes
on from there: what was stored is not sent again, what the PACS does not vouch for is.

A report that the PACS refuses is replaced by a secondary capture, which every PACS takes. An
object that made trouble before is sent last, so that it holds up no other.

What rejects the objects of earlier revisions, where that is asked for, goes when the new ones are
there: nobody is left without a result.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Literal, Protocol

from limen.dimse import Kind
from limen.errors import OutOfSpace, Rejected, Transient, Unreachable
from limen.instance import CommitmentReport
from limen.journal import Objects, SentObject
from limen.scu import LOST, NOT_ACCEPTED, Answer, NothingAccepted
from limen.states import ObjectState, WorkState
from worker.destinations import DicomObject, Parcel, Receipt
from worker.destinations.sequence import is_urgent

__all__ = ["Line", "ObjectDestination", "Way"]

_TRIES = 5
"""So often one object is answered "not now", or told not to be kept, until it is given up."""

_REPORT, _PICTURE = "sr", "sc"
_REPORT_ON_LINE_S = 1.0
"""How long the answer to a request for commitment is waited for where it was asked."""
_LOOK_S = 0.1

REPORT_S = 3600.0
"""How long a report of storage commitment is waited for; a PACS that asks its archive is slow."""

_STORED = frozenset({ObjectState.SENT, ObjectState.COMMITTED})
_OVER = _STORED | {ObjectState.REFUSED}


class Line(Protocol):
    """An open way to a PACS."""

    @property
    def is_open(self) -> bool:
        """Whether it still is."""

    def store(self, one: DicomObject) -> Answer:
        """Send an object, and return what the PACS says."""

    def ask_commitment(self, transaction_uid: str, objects: Sequence[tuple[str, str]]) -> Answer:
        """Ask the PACS to vouch for pairs of SOP class and instance."""

    def report(self, timeout_s: float) -> CommitmentReport | None:
        """Wait for what it says to that."""


class Way(Protocol):
    """A way to a PACS."""

    def open(self, sop_classes: Collection[str], *, ask: bool) -> AbstractContextManager[Line]:
        """Open it for these SOP classes, and for storage commitment where it is to be asked.

        Raises
        ------
        NothingAccepted
            It takes none of these.
        Unwelcome
            It rejects this node.
        Unreachable
            It does not answer.
        """


class ObjectDestination:
    """A place that takes DICOM objects.

    Parameters
    ----------
    name
        What people call it.
    way
        How to get there.
    journal
        Where it is noted how each object stands.
    kinds
        Which objects it gets.
    only_positive
        Whether it gets only studies with a positive slice, and what came of them later.
    commitment
        Whether the PACS has to vouch for what it has (PS3.4 J): ``ask`` takes one that says
        nothing at its word.
    report_s
        How long it may take to do so.
    reject_replaced
        Whether a key object selection rejects what it has of earlier revisions (113037, DCM).
    """

    def __init__(
        self,
        name: str,
        way: Way,
        journal: Objects,
        kinds: Iterable[str],
        *,
        only_positive: bool = False,
        commitment: Literal["required", "ask", "off"] = "off",
        report_s: float = REPORT_S,
        reject_replaced: bool = False,
    ) -> None:
        self._name = name
        self._way = way
        self._journal = journal
        self._kinds = frozenset(kinds)
        self._only_positive = only_positive
        self._commitment = commitment
        self._report_s = report_s
        self._reject_replaced = reject_replaced

    def deliver(self, parcel: Parcel) -> Receipt:
        """Send the objects that are not there. See ``Destination``."""
        if not self._is_wanted(parcel):
            note = "not sent: no slice is positive, and only such studies go there"
            return Receipt(note=note, reached=False)
        sending = _Sending(self._name, self._journal, parcel.delivery)
        sending.add(parcel.objects(self._kinds))
        expired = sending.is_waiting_for_word
        if self._reject_replaced and sending.todo() and self._has_a_later_one(parcel):
            note = "not sent: a later revision of the study is there already"
            return Receipt(note=note, reached=False)
        self._send(sending)
        if sending.needs_a_picture(self._kinds):
            sending.add(parcel.objects(frozenset({_PICTURE})))
            self._send(sending)
        self._raise_what_is_not_there(sending)
        if self._reject_replaced and sending.stored():
            sending.add(parcel.rejection([uid for _, uid in self._held(parcel)]))
            self._send(sending)
            self._raise_what_is_not_there(sending)
        return replace(self._receipt(sending, expired=expired), reached=sending.reached)

    def _held(self, parcel: Parcel) -> list[tuple[int, str]]:
        return self._journal.held(parcel.study_key, self._name)

    def _has_a_later_one(self, parcel: Parcel) -> bool:
        """Whether what is sent now would come after what rejects it."""
        return any(revision > parcel.revision for revision, _ in self._held(parcel))

    def _raise_what_is_not_there(self, sending: _Sending) -> None:
        sending.raise_what_waits()
        sending.raise_what_is_refused(must_keep=self._commitment == "required")

    def _is_wanted(self, parcel: Parcel) -> bool:
        """Whether it goes there: what was sent before is followed by what came of it."""
        result = parcel.result
        if not self._only_positive or result is None:
            return True
        if is_urgent(result):
            return True
        return self._journal.knows(parcel.study_key, self._name)

    def _send(self, sending: _Sending) -> None:
        """Open the way, send what is to be sent, and ask for commitment."""
        todo = sending.todo()
        ask = self._commitment != "off" and (bool(todo) or bool(sending.unasked()))
        if not todo and not ask:
            return
        sending.reached = True  # or an error says that it was not
        try:
            with self._way.open({one.sop_class_uid for one in todo}, ask=ask) as line:
                for one in todo:
                    sending.took(one, line.store(one))
                if ask:
                    self._ask(line, sending)
        except NothingAccepted as exc:
            for one in todo:
                sending.took(one, NOT_ACCEPTED)
            if not todo:
                sending.no_word = str(exc)

    def _ask(self, line: Line, sending: _Sending) -> None:
        objects = sending.unasked()
        if not objects:
            return
        transaction = f"2.25.{uuid.uuid4().int}"
        sending.asks(transaction, objects)
        answer = line.ask_commitment(transaction, [(o.sop_class_uid, o.sop_uid) for o in objects])
        answer = replace(answer, comment="")
        if not answer.stored:
            sending.asks("", objects)
            if answer.may_pass_later and answer is not LOST:
                raise Transient(f"{self._name} does not take the request to vouch: {answer}")
            if answer is LOST:
                raise Unreachable(f"{self._name}: {answer}")
            sending.no_word = str(answer)
            return
        deadline = time.monotonic() + _REPORT_ON_LINE_S
        while line.is_open and sending.is_waiting_for_word and time.monotonic() < deadline:
            report = line.report(_LOOK_S)
            if report is not None:
                self._journal.reported(report)
            sending.read()  # a report may also have come to the receiver

    def _receipt(self, sending: _Sending, *, expired: bool) -> Receipt:
        note = sending.note
        if self._commitment == "off" or not sending.stored():
            return Receipt(note=note)
        if not sending.is_waiting_for_word and not sending.unasked():
            return Receipt(WorkState.COMMITTED, note)
        if sending.no_word:
            fault = f"it does not say that it keeps them ({sending.no_word})"
            if self._commitment == "required":
                raise Rejected(
                    f"{self._name} has the objects, but {fault}; have storage commitment switched "
                    f'on there, or set commitment = "ask", then `limen retry {sending.key}`'
                )
            return Receipt(note=_joined(note, fault))
        if not expired:
            return Receipt(WorkState.SENT, note, self._report_s)
        if self._commitment == "ask":
            return Receipt(
                note=_joined(note, "it was asked whether it keeps them, and said nothing")
            )
        sending.asks("", sending.waiting())
        raise Transient(
            f"{self._name} has not said whether it keeps the objects; it is asked again"
        )


class _Sending:
    """One delivery under way: its objects, and how each stands."""

    def __init__(self, name: str, journal: Objects, key: str) -> None:
        self.key = key
        self.no_word = ""
        self.reached = False
        self._name = name
        self._journal = journal
        self._objects: dict[str, DicomObject] = {}
        self._tried: set[str] = set()
        self._known: dict[str, SentObject] = {}
        self.read()

    def read(self) -> None:
        """Read again how all of them stand."""
        self._known = {one.sop_uid: one for one in self._journal.of(self.key)}

    def add(self, objects: Iterable[DicomObject]) -> None:
        """Take objects into account; one that must not leave is noted with its reason."""
        for one in objects:
            uid = one.sop_uid or f"none-{one.kind}"
            if one.path is not None:
                self._objects.setdefault(uid, one)
            elif uid not in self._known:
                fault = f"not sent, it is not sound: {one.fault}"
                self._put(_unsent(one, uid, ObjectState.REFUSED, fault))

    def todo(self) -> list[DicomObject]:
        """Return what is to be sent now: what made trouble before comes last."""
        for one in list(self._known.values()):
            if one.state is ObjectState.LOST and one.attempts >= _TRIES:
                self._put(replace(one, state=ObjectState.REFUSED))
        left = [
            one
            for uid, one in self._objects.items()
            if uid not in self._tried and self._state(uid) not in _OVER
        ]
        return sorted(left, key=lambda one: self._attempts(one.sop_uid))

    def took(self, one: DicomObject, answer: Answer) -> None:
        """Note what the PACS said to an object.

        Raises
        ------
        Unreachable
            It said nothing: nothing else can be sent.
        OutOfSpace
            It has no room: nothing else need be sent.
        """
        # What a PACS adds in its own words may name the patient, and reasons are logged.
        answer = replace(answer, comment="")
        self._tried.add(one.sop_uid)
        attempts = self._attempts(one.sop_uid)
        if answer.stored or answer.kind is Kind.PRESENT:
            reason = "" if answer.kind is Kind.SUCCESS else str(answer)
            self._put(_unsent(one, one.sop_uid, ObjectState.SENT, reason, attempts))
            return
        if answer.kind is Kind.PERMANENT:
            self._put(_unsent(one, one.sop_uid, ObjectState.REFUSED, str(answer), attempts + 1))
            return
        full = answer.kind is Kind.FULL
        spent = attempts + (not full) >= _TRIES and answer.status.startswith("0x") and not full
        reason = f"{answer}, {attempts + 1} times" if spent else str(answer)
        state = ObjectState.REFUSED if spent else ObjectState.WAITING
        self._put(_unsent(one, one.sop_uid, state, reason, attempts + (not full)))
        if full:
            raise OutOfSpace(f"{self._name} takes nothing now: {answer}")
        if not answer.status.startswith("0x"):
            raise Unreachable(f"{self._name}: {answer}")

    def asks(self, transaction_uid: str, objects: Sequence[SentObject]) -> None:
        """Note under which transaction the PACS is asked to vouch; "": none any more."""
        if transaction_uid:
            self._journal.ask(self.key, transaction_uid, [one.sop_uid for one in objects])
            self.read()
            return
        for one in objects:
            self._put(replace(self._known[one.sop_uid], transaction_uid=""))

    def stored(self) -> list[SentObject]:
        """Return what the PACS has."""
        return [one for one in self._known.values() if one.state in _STORED]

    def unasked(self) -> list[SentObject]:
        """Return what it has and has not been asked about."""
        return [one for one in self.waiting() if not one.transaction_uid]

    def waiting(self) -> list[SentObject]:
        """Return what it has, and does not vouch for yet."""
        return [one for one in self._known.values() if one.state is ObjectState.SENT]

    @property
    def is_waiting_for_word(self) -> bool:
        """Whether it was asked to vouch for something that it has not answered."""
        return any(one.transaction_uid for one in self.waiting())

    def needs_a_picture(self, kinds: Collection[str]) -> bool:
        """Whether the report is refused, and no picture of it is there yet."""
        return _REPORT in kinds and any(
            one.kind == _REPORT and one.state is ObjectState.REFUSED for one in self._known.values()
        )

    def raise_what_waits(self) -> None:
        """Raise ``Transient`` where something is to be sent again."""
        again = {ObjectState.WAITING: "not now", ObjectState.LOST: "not kept"}
        for one in self._known.values():
            if one.state in again:
                words = one.reason or again[one.state]
                raise Transient(f"{self._name}: {_NAMES[one.kind]} {words}")

    def raise_what_is_refused(self, *, must_keep: bool) -> None:
        """Raise ``Rejected`` where nobody would find the result in the PACS."""
        refused = [one for one in self._known.values() if one.state is ObjectState.REFUSED]
        stored = {one.kind for one in self.stored()}
        reports = [one for one in refused if one.kind == _REPORT]
        lost = [one for one in refused if one.reason.startswith("not kept")]
        if not refused:
            return
        if not stored or (reports and not stored & {_REPORT, _PICTURE}) or (must_keep and lost):
            raise Rejected(f"{self._name}: {self.note}")

    @property
    def note(self) -> str:
        """What people should know: what is refused, and why."""
        said: dict[str, list[str]] = {}
        for one in self._known.values():
            if one.state is ObjectState.REFUSED:
                said.setdefault(one.reason, []).append(_NAMES[one.kind])
        words = [f"{' and '.join(dict.fromkeys(v))} refused ({k})" for k, v in said.items()]
        refused = {one.kind for one in self._known.values() if one.state is ObjectState.REFUSED}
        if _REPORT in refused and _PICTURE in {one.kind for one in self.stored()}:
            words.append("a secondary capture says it instead")
        return "; ".join(words)

    def _state(self, uid: str) -> ObjectState | None:
        return self._known[uid].state if uid in self._known else None

    def _attempts(self, uid: str) -> int:
        return self._known[uid].attempts if uid in self._known else 0

    def _put(self, one: SentObject) -> None:
        self._journal.note(self.key, [one])
        self._known[one.sop_uid] = one


_NAMES = {
    "sr": "report",
    "seg": "segmentation",
    "sc": "secondary capture",
    "ko": "key objects",
    "pm": "parametric map",
    "pr": "presentation state",
}


def _unsent(
    one: DicomObject, uid: str, state: ObjectState, reason: str, attempts: int = 0
) -> SentObject:
    return SentObject(uid, one.sop_class_uid, one.kind, state, reason, attempts)


def _joined(*texts: str) -> str:
    return "; ".join(text for text in texts if text)
