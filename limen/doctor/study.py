"""A test study, sent to our own receiver and followed to the results server.

It is marked as ``limen.selftest`` says: no reader and no PACS is shown it, and it goes after a day.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from limen.doctor.check import Finding, Node, failed, ok, skipped, warning
from limen.doctor.children import ask
from limen.doctor.peers import LISTED, our_receiver
from limen.journal import Journal, StudyRow
from limen.scu import EXPLICIT, Requestor
from limen.selftest import AE_TITLE, DESTINATION, new_uid
from limen.states import ARRIVED, StudyState, WorkState

__all__ = ["study"]

_CT = "1.2.840.10008.5.1.4.1.1.2"
_TIMEOUT_S = 10.0
_FOLLOWED_S = 40.0
_POLL_S = 0.1
_EXPECTED = "positive"


def study(node: Node) -> Iterator[Finding]:
    """Send a synthetic head that bleeds; follow it to its prediction and its delivery."""
    if find_spec("numpy") is None or find_spec("scipy") is None:
        yield skipped("no worker is installed on this host, which makes the test study")
        return
    if node.settings.scp.peer and not _is_let_in(node):
        yield skipped("the receiver lets in listed senders alone", f"list our own title: {LISTED}")
        return
    uid = new_uid()
    with tempfile.TemporaryDirectory(prefix="limen-") as folder:
        words = ["models.ich.phantom", "-o", folder, "--self-test", uid]
        files = [Path(name) for name in ask(node, words, "the phantom")]
        refused = _send(node, files)
    if refused:
        yield failed(
            f"our receiver did not store the test study: {refused}",
            "look at the log of `limen scp`",
        )
        return
    sent_s = time.monotonic()
    with node.journal() as journal:
        row = _followed(node, journal, uid, sent_s + _FOLLOWED_S)
    yield _judge(node, row, time.monotonic() - sent_s)


def _is_let_in(node: Node) -> bool:
    scp = node.settings.scp
    return scp.allow_any_peer or any(peer.ae_title == AE_TITLE for peer in scp.peer)


def _send(node: Node, files: list[Path]) -> str:
    """Send the files; return what the first one that was not stored was answered, else ""."""
    with Requestor(our_receiver(node), AE_TITLE, [(_CT, EXPLICIT)], _TIMEOUT_S) as line:
        for number, path in enumerate(files, start=1):
            answer = line.store(path, number)
            if not answer.stored:
                return str(answer)
    return ""


def _followed(node: Node, journal: Journal, uid: str, deadline_s: float) -> StudyRow | None:
    """Return the study when its prediction has arrived or failed, or as it stands at the end."""
    while True:
        rows = journal.status.studies(uid)
        row = rows[0] if rows else None
        if (row is not None and _has_arrived(node, row)) or time.monotonic() > deadline_s:
            return row
        time.sleep(_POLL_S)


def _has_arrived(node: Node, row: StudyRow) -> bool:
    if row.state == StudyState.FAILED:
        return True
    if row.predicted_at is None:
        return False
    ended = {*ARRIVED, WorkState.DEAD}
    mine = [d for d in row.deliveries if d.destination == DESTINATION]
    return all(d.state in ended for d in mine) or not node.settings.destination.django.enabled


def _judge(node: Node, row: StudyRow | None, seconds: float) -> Finding:
    if row is None:
        return failed(
            f"the receiver stored the test study, and the journal has no row of it after "
            f"{seconds:.0f} s",
            "look at the log of `limen scp`: does it write to this journal?",
        )
    where = f"test study {row.study_key[:12]}"
    if row.state == StudyState.FAILED:
        return failed(f"{where} failed: {row.reason}", f"`limen status {row.study_key}` says more")
    if row.predicted_at is None:
        what = "is not complete" if row.complete_at is None else "waits for its prediction"
        return failed(
            f"{where} {what} after {seconds:.0f} s", "see `workers` and `broker`; `limen status`"
        )
    late = [d for d in row.deliveries if d.destination == DESTINATION and d.state not in ARRIVED]
    if late:
        return failed(
            f"{where} was predicted, and has not arrived at the results server: "
            f"{late[0].last_error or late[0].state}",
            "see `web`; it is delivered when that is mended",
        )
    took = f"{(row.predicted_at - row.last_instance_at).total_seconds():.1f}"
    said = f"{where}: {row.outcome} {took} s after its last image, delivered in {seconds:.1f} s"
    if row.outcome == _EXPECTED or not _looks_for_blood(node):
        return ok(said)
    return warning(
        f"{said}; it shows a large bleed, and should be {_EXPECTED}: {row.reason}",
        "look whether a [[route]] takes CT heads, and at the bundle: `limen model check ich`",
    )


def _looks_for_blood(node: Node) -> bool:
    """Return whether a head CT is looked at by the bundle that ships with Limen."""
    return any(r.bundle == "ich" and not (r.shadow or r.where) for r in node.settings.route)
