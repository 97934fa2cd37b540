"""A test study on its way: made, sent to our own receiver, followed until its result has arrived.

It is marked as ``limen.selftest`` says: no reader and no PACS is shown it, and it goes after a day.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from limen.doctor.check import Node
from limen.doctor.children import ask
from limen.doctor.peers import LISTED, our_receiver
from limen.errors import LimenError
from limen.journal import Journal, StudyRow, WorkRow
from limen.result import Phase
from limen.scu import EXPLICIT, Requestor
from limen.selftest import AE_TITLE, DESTINATION, new_uid
from limen.states import ARRIVED, StudyState, WorkState

__all__ = ["Arrived", "Head", "NotArrived", "Sent", "cannot", "follow", "knows_the_truth", "send"]

_CT = "1.2.840.10008.5.1.4.1.1.2"
_TIMEOUT_S = 10.0
_POLL_S = 0.1


class Head(StrEnum):
    """What a test study shows, as ``models.ich.phantom`` calls it."""

    BLEED = "bleed"
    """A large bleed: a model that looks for blood says positive."""
    NO_BLEED = "no-bleed"
    """None."""


class NotArrived(LimenError):
    """A test study was not stored, not predicted or not delivered.

    Attributes
    ----------
    next
        What to do about it.
    """

    def __init__(self, text: str, todo: str) -> None:
        super().__init__(text)
        self.next = todo


@dataclass(frozen=True, slots=True)
class Sent:
    """A test study that our receiver has stored.

    Attributes
    ----------
    pixels_sha256
        The same each time, until a release of Limen changes the head.
    at_s
        When, on the monotonic clock.
    """

    study_uid: str
    pixels_sha256: str
    at_s: float


@dataclass(frozen=True, slots=True)
class Arrived:
    """What a node said of a test study.

    Attributes
    ----------
    predicted_s, delivered_s
        From its last image to its prediction, and to the arrival of that at the results server
        (where there is none, to the prediction), by the clock of the journal.
    bundle, bundle_version, bundle_sha256
        What looked at it; empty where nothing did.
    """

    study_key: str
    outcome: str
    reason: str
    probability: float | None
    predicted_s: float
    delivered_s: float
    bundle: str
    bundle_version: str
    bundle_sha256: str


def cannot(node: Node) -> tuple[str, str] | None:
    """Return why this host can send itself no test study, and what to do; None: it can."""
    if find_spec("numpy") is None or find_spec("scipy") is None:
        return "no worker is installed on this host, which makes the test study", ""
    scp = node.settings.scp
    listed = scp.allow_any_peer or any(peer.ae_title == AE_TITLE for peer in scp.peer)
    if scp.peer and not listed:
        return "the receiver lets in listed senders alone", f"list our own title: {LISTED}"
    return None


def send(node: Node, head: Head) -> Sent:
    """Make a test study and send it to our receiver.

    Raises
    ------
    NotArrived
        The receiver does not store it.
    LimenError
        It cannot be made, or the receiver is not there or rejects us.
    """
    uid = new_uid()
    with tempfile.TemporaryDirectory(prefix="limen-") as folder:
        words = ["models.ich.phantom", "-o", folder, "--self-test", uid, "--head", head.value]
        made = ask(node, words, "the phantom")
        _store(node, [Path(name) for name in made["files"]])
    return Sent(uid, str(made["sha256"]), time.monotonic())


def _store(node: Node, files: list[Path]) -> None:
    with Requestor(our_receiver(node), AE_TITLE, [(_CT, EXPLICIT)], _TIMEOUT_S) as line:
        for number, path in enumerate(files, start=1):
            answer = line.store(path, number)
            if not answer.stored:
                raise NotArrived(
                    f"our receiver did not store the test study: {answer}",
                    "look at the log of `limen scp`",
                )


def follow(
    node: Node,
    journal: Journal,
    sent: Sent,
    timeout_s: float,
    on_look: Callable[[str], None] = lambda _: None,
) -> Arrived:
    """Wait until the prediction of a test study is on the results server.

    Parameters
    ----------
    timeout_s
        From when it was sent.
    on_look
        Called with what it waits for, each time that was looked for.

    Raises
    ------
    NotArrived
        It has failed, or is late.
    LimenError
        The journal is away.
    """
    while True:
        rows = journal.status.studies(sent.study_uid)
        row = rows[0] if rows else None
        waits_for = _waits_for(node, row)
        if row is not None and row.predicted_at is not None and not waits_for:
            return _arrived(journal, row, row.predicted_at)
        over = row is not None and (row.state == StudyState.FAILED or _is_dead(row))
        seconds = time.monotonic() - sent.at_s
        if over or seconds > timeout_s:
            raise _why_late(row, waits_for, seconds)
        on_look(waits_for)
        time.sleep(_POLL_S)


def _waits_for(node: Node, row: StudyRow | None) -> str:
    """Return what comes next; "" when the prediction is where people read it."""
    if row is None:
        return "a row in the journal"
    if row.complete_at is None:
        return "the end of the study"
    if row.predicted_at is None:
        return "its prediction"
    there = not node.settings.destination.django.enabled or all(
        d.state in ARRIVED for d in _deliveries(row)
    )
    return "" if there else "the results server"


def _deliveries(row: StudyRow) -> list[WorkRow]:
    """Return those of the prediction; the explanation comes when it comes."""
    phase = Phase.PREDICTION.value
    return [d for d in row.deliveries if (d.destination, d.phase) == (DESTINATION, phase)]


def _is_dead(row: StudyRow) -> bool:
    return any(d.state == WorkState.DEAD for d in _deliveries(row))


def _why_late(row: StudyRow | None, waits_for: str, seconds: float) -> NotArrived:
    if row is None:
        return NotArrived(
            "the receiver stored the test study, and the journal has no row of it after "
            f"{seconds:.0f} s",
            "look at the log of `limen scp`: does it write to this journal?",
        )
    where = f"test study {row.study_key[:12]}"
    if row.state == StudyState.FAILED:
        return NotArrived(
            f"{where} failed: {row.reason}", f"`limen status {row.study_key}` says more"
        )
    if row.predicted_at is None:
        return NotArrived(
            f"{where} waits for {waits_for} after {seconds:.0f} s",
            "see `limen doctor workers broker`, and `limen status`",
        )
    late = next(d for d in _deliveries(row) if d.state not in ARRIVED)
    return NotArrived(
        f"{where} was predicted, and has not arrived at the results server: "
        f"{late.last_error or late.state}",
        "see `limen doctor web`; it is delivered when that is mended",
    )


def _arrived(journal: Journal, row: StudyRow, predicted_at: datetime) -> Arrived:
    """Say what came of it; how it ended is told by the events of its work."""
    keys = {d.key for d in _deliveries(row)}
    ended = [e for e in journal.events.of(row.study_key) if e.how == WorkState.DONE.value]
    delivered = [e.until for e in ended if e.subject in keys and e.until is not None]
    said = next((e.detail for e in ended if e.detail.get("outcome")), {})
    return Arrived(
        study_key=row.study_key,
        outcome=row.outcome or "",
        reason=row.reason,
        probability=row.probability,
        predicted_s=(predicted_at - row.last_instance_at).total_seconds(),
        delivered_s=(max([predicted_at, *delivered]) - row.last_instance_at).total_seconds(),
        bundle=str(said.get("bundle") or ""),
        bundle_version=str(said.get("bundle_version") or ""),
        bundle_sha256=str(said.get("bundle_sha256") or ""),
    )


def knows_the_truth(node: Node) -> bool:
    """Return whether a head CT is looked at by the bundle that ships with Limen."""
    return any(r.bundle == "ich" and not (r.shadow or r.where) for r in node.settings.route)
