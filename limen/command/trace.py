"""``limen trace``: everything that happened to a study, in order, and whether it happens again."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from limen import config
from limen.command.begin import open_journal, read_settings
from limen.command.edge import FAILED, OK, PARTIAL
from limen.command.screen import number, say
from limen.command.supervisor import environment
from limen.config import Config
from limen.errors import ConfigError, LimenError
from limen.journal import Event, Journal, StudyRow, WorkRow
from limen.states import WorkState

__all__ = ["trace"]

_REVISIONS = 10_000
_REPRODUCE_S = 3600.0
_NO_EVENTS = "attempts and associations are no longer kept (retention.event_days)"
_CODES = {"reproduced": OK, "differs": FAILED, "cannot": PARTIAL}


@dataclass(frozen=True, slots=True)
class _Step:
    """Something that happened: when, to which revision, by whom, and what came of it."""

    at: datetime
    until: datetime | None
    revision: int
    kind: str
    subject: str
    who: str
    text: str
    detail: dict[str, Any] = field(default_factory=dict)


def trace(args: argparse.Namespace) -> int:
    """Tell what happened to a study, and make its newest result again.

    Returns
    -------
    int
        0: reproduced, or not asked for; 1: it differs; 5: it cannot be made again.
    """
    journal, settings = open_journal(args), read_settings(args)
    rows = journal.status.studies(args.study, _REVISIONS)
    keys = {row.study_key for row in rows}
    if len(keys) != 1:
        raise ConfigError(f"{args.study} matches {len(keys)} studies; see `limen status`")
    (key,) = keys
    rows.sort(key=lambda row: row.revision)
    steps = sorted(_steps(journal, key, rows), key=lambda step: step.at)
    events_kept = bool(journal.events.of(key)) or rows[-1].predicted_at is None
    shelf = journal.shelf.files_of(key)
    again = None if args.no_reproduce else _reproduced(args, settings, rows)
    if args.json:
        tree = {
            "study_key": key,
            "study_uid": rows[0].study_uid,
            "steps": [asdict(step) for step in steps],
            "events_kept": events_kept,
            "shelf": shelf,
            "deliveries": [asdict(d) for row in rows for d in row.deliveries],
            "reproduced": again,
        }
        say(json.dumps(tree, default=datetime.isoformat))
    else:
        say(f"study {key}, {rows[0].study_uid}")
        for step in steps:
            say(_line(step))
        if not events_kept and not shelf:
            say(_NO_EVENTS)
        for name in shelf:
            say(f"instances and work: a line of {settings.shelf_dir / name} (zgrep {key})")
        for line in _standing(rows):
            say(line)
        if again is not None:
            _tell(again)
    return OK if again is None else _CODES[again["state"]]


# -- what happened ---------------------------------------------------------------------------------


def _steps(journal: Journal, key: str, rows: Sequence[StudyRow]) -> Iterator[_Step]:
    for came in journal.events.arrived(key):
        size = f"{came.size_bytes / 1e6:.1f} MB"
        text = f"{came.instances} instances, {came.series} series, {size}"
        span = (came.first_at, came.last_at, came.revision)
        yield _Step(*span, "received", "", came.peer, text)
    for row in rows:
        yield from _milestones(row)
    works = {w.key: w for row in rows for w in (*row.jobs, *row.shadows, *row.deliveries)}
    events = journal.events.of(key)
    last = {event.subject: n for n, event in enumerate(events)}
    for n, event in enumerate(events):
        yield _of_event(event, works.get(event.subject), taken_over=last[event.subject] > n)
        yield from _deployed(journal, event)
    for asked in journal.events.asked(key):
        revision = int(asked.delivery.split("-")[1])
        text = f"asked to vouch for it, transaction {asked.transaction_uid}"
        where = works.get(asked.delivery)
        who = where.destination if where else ""
        yield _Step(asked.at, asked.at, revision, "commitment", asked.delivery, who, text)
    purged_at = journal.retention.purged_at(key)
    if purged_at is not None:
        text = "instances and result files were removed from this host"
        yield _Step(purged_at, purged_at, rows[-1].revision, "purged", "", "retention", text)


def _milestones(row: StudyRow) -> Iterator[_Step]:
    """Yield what the row of a revision says of it."""
    outcome = (row.outcome or "").replace("_", " ")
    shown = f"{outcome}, probability {number(row.probability, '{:.6f}')}: {row.reason}"
    for at, kind, text in (
        (row.complete_at, "complete", f"{row.instances} instances" if row.instances else ""),
        (row.predicted_at, "predicted", shown),
        (row.explained_at, "explained", row.state),
    ):
        if at is not None:
            yield _Step(at, at, row.revision, kind, "", "", text)


def _of_event(event: Event, work: WorkRow | None, *, taken_over: bool) -> _Step:
    span = (event.at, event.until, event.revision)
    if event.kind == "association":
        who = f"{event.who} at {event.detail['address'] or 'an unknown address'}"
        text = f"{event.detail['kept']} kept, {event.detail['again']} there already"
        for reason, count in event.detail["refused"].items():
            text += f"; the association was refused {count}: {reason}"
        return _Step(*span, event.kind, event.subject, f"{who}, limen {event.version}", text)
    if event.kind != "attempt":
        who = f"{event.who or 'somebody'} on {event.host}"
        return _Step(*span, event.kind, event.subject, who, event.text)
    who = f"worker {event.who[:8]} on {event.host}, limen {event.version}"
    text = _how(event, work, taken_over=taken_over)
    return _Step(*span, event.kind, event.subject, who, text, event.detail)


def _deployed(journal: Journal, event: Event) -> Iterator[_Step]:
    """Yield by whose word the version that gave a result looked at studies then."""
    name, version = event.detail.get("bundle"), event.detail.get("bundle_version")
    if not name or event.until is None:
        return
    for one in journal.deployments.all(name):
        if one.version == version and one.served_at is not None and one.served_at <= event.until:
            text = f"looks at {one.percent} % of studies" if one.is_canary else "looks at studies"
            ended = f", until it was {one.state.value}" if one.ended_at else ""
            by = f" by {one.ended_by}" if one.ended_by else ""
            text = f"{text}{ended}{by}{f': {one.note}' if one.note else ''}"
            span = (one.served_at, one.ended_at, event.revision)
            yield _Step(*span, "deployment", f"{name} {version}", one.asked_by, text)
            return


def _how(event: Event, work: WorkRow | None, *, taken_over: bool) -> str:
    """Return how an attempt ended, in words."""
    if event.until is None:
        running = work is not None and work.state == WorkState.RUNNING
        if not taken_over and running:
            return "under way"
        return "its worker died"
    words = {"queued": "failed, to be tried again", "lost": "its worker died"}
    text = words.get(event.how, event.how)
    text += f", {event.times} times" if event.times > 1 else ""
    text += f" after {(event.until - event.at).total_seconds():.1f} s"
    text += f": {event.text}" if event.text else ""
    said = event.detail
    if said.get("outcome"):
        text += f"; {str(said['outcome']).replace('_', ' ')}"
        text += f", probability {number(said.get('probability'), '{:.6f}')}"
    if said.get("bundle"):
        text += f"; bundle {said['bundle']} {said['bundle_version']} {said['bundle_sha256']}"
    if said.get("document_sha256"):
        text += f"; document {said['document_sha256']}"
    return text


def _line(step: _Step) -> str:
    about = f" {step.subject}" if step.subject else ""
    who = f", {step.who}" if step.who else ""
    text = f": {step.text}" if step.text else ""
    at = step.at.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]
    return f"{at}  revision {step.revision}  {step.kind}{about}{who}{text}"


def _standing(rows: Sequence[StudyRow]) -> Iterator[str]:
    """Yield how each delivery stands, and each DICOM object of it."""
    for row in rows:
        for delivery in row.deliveries:
            why = f": {delivery.last_error}" if delivery.last_error else ""
            yield f"now  {delivery.key}: {delivery.state} after {delivery.attempts}{why}"
            for one in delivery.objects:
                reason = f": {one.reason}" if one.reason else ""
                yield f"     {one.kind} {one.sop_uid}: {one.state}{reason}"


# -- whether it happens again ----------------------------------------------------------------------


def _reproduced(
    args: argparse.Namespace, settings: Config, rows: Sequence[StudyRow]
) -> dict[str, Any]:
    """Have a process of the worker make the newest result again, and return what it says."""
    made = [row for row in rows if row.predicted_at is not None]
    if not made:
        why = "there is no result yet"
        return {"state": "cannot", "phases": [], "notes": [why], "revision": None}
    newest = made[-1]
    words = ["reproduce", newest.study_key, "--revision", str(newest.revision)]
    done = subprocess.run(
        [sys.executable, "-m", "worker", *words, *(["--debug"] if args.debug else [])],
        env=environment(settings, config.find(args.config)),
        stdout=subprocess.PIPE,
        timeout=_REPRODUCE_S,
        text=True,
        check=False,
    )
    if done.returncode:
        raise LimenError("the result could not be made again; the reason is above")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return said | {"revision": newest.revision}


def _tell(again: dict[str, Any]) -> None:
    words = {"reproduced": "reproduced", "differs": "differs", "cannot": "cannot be made again"}
    for phase in again["phases"]:
        reason = f": {phase['reason']}" if phase["reason"] else ""
        same = f", document and {phase['files']} pictures, byte for byte"
        same = same if phase["state"] == "reproduced" else ""
        say(
            f"revision {again['revision']}, {phase['phase']}: {words[phase['state']]}{same}{reason}"
        )
    if not again["phases"]:
        say("cannot be made again")
    for note in again["notes"]:
        say(f"  {note}")
