"""``limen status``: what there is, who works, and whether all is well."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from limen.alarms import Alarm, Kind, age, alarms, clock_off
from limen.command.begin import open_journal, read_settings
from limen.command.edge import FAILED, OK
from limen.command.screen import number, say, table
from limen.command.wanted import DEFAULT, wanted_of
from limen.errors import LimenError
from limen.journal import CommitmentRow, Deployed, Lane, StudyRow, WorkerRow, WorkRow
from limen.states import ARRIVED, NOT_ARRIVED, WorkState

__all__ = ["status"]

_DEAD = WorkState.DEAD.value
_NONE_YET = "No study yet. Send one: limen send FOLDER, or from any DICOM sender."
_NONE_WANTED = "No study is like that; `limen status` without filters shows what is there."


def status(args: argparse.Namespace) -> int:
    """Show what the journal holds: all of it, or one study.

    Returns
    -------
    int
        For a monitoring system: 0 when all is well, 1 when something is dead, late or missing.
    """
    settings = read_settings(args)
    journal = open_journal(args)
    wanted = wanted_of(args, journal.clock())
    studies = journal.status.studies(args.study, args.limit, wanted)
    more = max(0, journal.status.count(args.study, wanted) - len(studies))
    if args.study:
        if not studies:
            raise LimenError(
                f"no study {args.study} in the journal; `limen status` lists what is there"
            )
        seen = _Seen(studies, more, wanted != DEFAULT, {}, [], [], [*_dead_of(studies)], None)
    else:
        lanes, workers = journal.status.queues(), journal.status.workers()
        deployed = journal.deployments.standing()
        found = alarms(settings, lanes, workers, journal.database.clock_off_s, deployed)
        commitments = [c for c in journal.commitments.all() if c.state != WorkState.DONE.value]
        seen = _Seen(studies, more, wanted != DEFAULT, lanes, workers, commitments, found, deployed)
    if args.json:
        say(json.dumps(seen.tree(), default=datetime.isoformat))
    else:
        _tell(seen, one_study=bool(args.study))
    return FAILED if seen.alarms else OK


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is shown.

    Attributes
    ----------
    more
        How many studies are not shown.
    asked
        Whether some were asked for, not all.
    alarms
        What is dead, late, missing or full.
    """

    studies: Sequence[StudyRow]
    more: int
    asked: bool
    lanes: Mapping[str, Lane]
    workers: Sequence[WorkerRow]
    commitments: Sequence[CommitmentRow]
    alarms: Sequence[Alarm]
    deployed: Deployed | None

    def tree(self) -> dict[str, Any]:
        """Return it for a script."""
        return {
            "well": not self.alarms,
            "faults": [one.text for one in self.alarms],
            "alarms": [asdict(one) for one in self.alarms],
            "studies": [asdict(row) for row in self.studies],
            "more": self.more,
            "queues": {name: asdict(lane) for name, lane in self.lanes.items()},
            "workers": [asdict(row) for row in self.workers],
            "commitments": [asdict(row) for row in self.commitments],
            "models": [asdict(row) for row in self.deployed.deployments] if self.deployed else [],
        }


# -- what is not well ------------------------------------------------------------------------------


def _dead_of(studies: Sequence[StudyRow]) -> Iterator[Alarm]:
    """Yield what is dead of the newest revision of each study; earlier ones were replaced."""
    newest: dict[str, int] = {}
    for row in studies:
        newest[row.study_key] = max(row.revision, newest.get(row.study_key, 0))
    for row in studies:
        if row.revision == newest[row.study_key]:
            for work in _work(row):
                if work.state == _DEAD:
                    yield Alarm(Kind.DEAD, work.key, f"{work.key} is dead: {work.last_error}")


# -- for people ------------------------------------------------------------------------------------


def _tell(seen: _Seen, *, one_study: bool) -> None:
    if seen.alarms and not one_study:
        say("Not well:\n" + "\n".join(f"  {one.text}" for one in seen.alarms))
    _tell_studies(seen)
    for row in seen.studies:
        for what in _work(row):
            if what.last_error and (one_study or what.state == _DEAD):
                say(f"  {what.key}: {what.state} after {what.attempts}: {what.last_error}")
            if one_study:
                for line in _objects(what):
                    say(f"  {what.key}: {line}")
        for line in _waits(row):
            say(f"  {line}")
        if row.reason and one_study:
            say(f"  revision {row.revision}: {row.reason}")
    for name, lane in seen.lanes.items():
        sent = f", {lane.sent} sent and not yet committed" if lane.sent else ""
        away = "" if lane.away_s is None else f", away for {age(lane.away_s)}"
        away = ", rejects this node" if lane.unwelcome else away
        say(
            f"  {name}: {lane.queued} waiting, {lane.running} running, {lane.dead} dead, "
            f"oldest {age(lane.oldest_s)}{sent}{away}"
        )
    for worker in seen.workers:
        say(f"  worker {worker.name}: {', '.join(worker.lanes)}; {_signs(worker)}")
    for line in _versions(seen.deployed):
        say(f"  model {line}")
    for asked in seen.commitments:
        error = f": {asked.last_error}" if asked.last_error else ""
        say(
            f"  storage commitment {asked.transaction_uid}: {asked.state} "
            f"after {asked.attempts}{error}"
        )


def _tell_studies(seen: _Seen) -> None:
    if seen.studies:
        table(
            ["study", "rev", "state", "outcome", "prob.", "positive", "received", "deliveries"],
            [_line(row) for row in seen.studies],
        )
    else:
        say(_NONE_WANTED if seen.asked else _NONE_YET)
    if seen.more:
        say(f"  and {seen.more} more: --limit N shows more, --since, --outcome and --dead fewer")


def _waits(row: StudyRow) -> Iterator[str]:
    """Yield what a study that is complete waits for, where that is not a worker."""
    for what in row.deliveries:
        if what.originals and what.state in NOT_ARRIVED:
            why = f": {what.last_error}" if what.last_error else ""
            yield f"{what.key}: predicted when its originals are in the archive{why}"
    for job in row.jobs:
        if job.state == WorkState.QUEUED and job.last_error:
            yield f"{job.key}: waits: {job.last_error}"


def _objects(delivery: WorkRow) -> Iterator[str]:
    """Yield how the objects of a delivery to a PACS stand: ``committed: sr, seg``."""
    said: dict[tuple[str, str], list[str]] = {}
    for one in delivery.objects:
        said.setdefault((one.state.value, one.reason), []).append(one.kind)
    for (state, reason), kinds in sorted(said.items()):
        counted = Counter(kinds)
        names = ", ".join(kind if n == 1 else f"{n} {kind}" for kind, n in counted.items())
        yield f"{state}: {names}" + (f": {reason}" if reason else "")


def _line(row: StudyRow) -> tuple[str, ...]:
    done = sum(d.state in ARRIVED for d in row.deliveries)
    positive = "" if row.positive_slices is None else f"{row.positive_slices} of {row.slices}"
    return (
        row.study_key[:12],
        str(row.revision),
        row.state,
        (row.outcome or "").replace("_", " "),
        number(row.probability, "{:.3f}"),
        positive or f"{row.instances} instances",
        row.received_at.strftime("%Y-%m-%d %H:%M:%S"),
        f"{done} of {len(row.deliveries)}",
    )


def _signs(worker: WorkerRow) -> str:
    """Return how old a worker is, when it was seen, and whether its host knows the time."""
    old = f"seen {age(worker.seen_s)} ago, started {worker.started_at:%Y-%m-%d %H:%M:%S}"
    late = ", LATE" if worker.late else ""
    off = clock_off(worker)
    return f"{old}{late}; {off}, set it right (NTP)" if off else old + late


def _versions(deployed: Deployed | None) -> Iterator[str]:
    """Yield which versions of each model look at which studies, since when and by whose word."""
    if deployed is None:
        return
    for name in deployed.names:
        said = [
            f"{one.version}, {deployed.share(one)} since {one.served_at:%Y-%m-%d %H:%M:%S}, "
            f"by {one.asked_by}"
            for one in deployed.serving(name)
        ]
        yield f"{name}: {'; '.join(said) or 'no version serves'}"


def _work(row: StudyRow) -> tuple[WorkRow, ...]:
    return (*row.jobs, *row.shadows, *row.deliveries)
