"""What a worker does with one message: claim, call one function, commit.

A message names a piece of work and its lane. A message that finds no free slot in its lane is
dropped: whoever frees the slot rings for the next piece of that lane, and the sweep rings for
whatever was missed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import structlog
from prometheus_client import Histogram

from limen import __version__, selftest
from limen.broker import EXPLAIN, PREDICT
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import (
    Delayed,
    JournalAway,
    LimenError,
    OutOfSpace,
    Permanent,
    Transient,
    Unreachable,
    Unwelcome,
)
from limen.journal import (
    AnyWork,
    Delivery,
    Instance,
    Job,
    Journal,
    Shadow,
    StudyRow,
    Summary,
    Work,
    backoff_s,
    host_name,
    kind_of,
)
from limen.result import Outcome, Phase, Provenance, Result, Timings
from limen.states import ARCHIVE, SHADOW_LANE, WorkState
from limen.telemetry import METRICS
from worker.destinations import Destination, DicomObject, Parcel, Receipt
from worker.dicom.decoder import Decoder
from worker.objects.wording import sentences
from worker.study import parts, routes, shadow
from worker.study.explanation import explain_study, not_explained
from worker.study.parts import Read, Stamp, StudyOutput, read_headers
from worker.study.prediction import not_analysed, predict_study
from worker.work.instances import InstanceStore
from worker.work.lanes import Lanes
from worker.work.models import Chosen, Models
from worker.work.results import ResultStore
from worker.work.sendable import Sendable

__all__ = ["Jobs", "lanes"]

PAGE = "django"
"""The destination that shows people how the deliveries to a PACS stand."""

log = structlog.get_logger("worker.work.jobs")

_T = TypeVar("_T")

_SHADOW_SLOTS = 1
_TOLD_LENGTH = 2000
_SUSPECT_WAIT_S = 2.0
_JOURNAL_RETRY_S = 0.5
_SOONEST = 0.8
"""Of the wait for a destination that is away: drawn anew each time, from this to all of it."""


def lanes(config: Config, destinations: Iterable[str]) -> dict[str, int]:
    """Return lane -> slots of a process that takes the lanes of the settings.

    Parameters
    ----------
    destinations
        Those that it delivers to; none without the lane ``deliver``.
    """
    sizes = config.worker
    found: dict[str, int] = {}
    if PREDICT in sizes.lanes:
        found[Phase.PREDICTION.value] = sizes.predict_slots
    if EXPLAIN in sizes.lanes:
        found[Phase.EXPLANATION.value] = sizes.explain_slots
    if PREDICT in sizes.lanes and any(route.shadow for route in config.route):
        found[SHADOW_LANE] = _SHADOW_SLOTS
    return found | dict.fromkeys(destinations, sizes.deliver_slots)


class Jobs:
    """The work of one process; ``handle`` may be called from many threads.

    Parameters
    ----------
    owner
        Name under which this process holds leases.
    instances, results
        Where the instances of studies are, and where results are kept.
    models
        Which bundle looks at a study, with its engine: one per process, shared by every thread.
    destinations
        Name -> destination, for deliveries.
    """

    def __init__(
        self,
        config: Config,
        owner: str,
        journal: Journal,
        dispatcher: Dispatcher,
        instances: InstanceStore,
        results: ResultStore,
        decoder: Decoder,
        models: Models,
        destinations: Mapping[str, Destination],
    ) -> None:
        self._config = config
        self._owner = owner
        self._journal = journal
        self._dispatcher = dispatcher
        self._instances = instances
        self._results = results
        self._decoder = decoder
        self._models = models
        self._destinations = destinations
        self._sendable = Sendable(results, decoder)
        self._lanes = Lanes(lanes(config, destinations))
        self.slots = self._lanes.slots
        self.held = self._lanes.held
        self.drain = self._lanes.drain

    def handle(self, key: str, lane: str) -> None:
        """Do the work that a message names, unless it is done, taken, or its lane is full."""
        if lane not in self._lanes.slots:
            log.warning("work.unknown_lane", queue=lane)
            return
        with self._lanes.slot(lane) as free:
            if not free:
                return
            try:
                self._claim_and_attempt(key, lane)
            except Exception as exc:  # the edge: the journal says what happens to this work next
                known = isinstance(exc, LimenError)
                log.error("work.fault", job=key, error=exc, exc_info=not known)
        self._ring_next(lane)

    def ring(self) -> None:
        """Ask for work for every slot: what a process that died was sent may be lost."""
        for lane, slots in self._lanes.slots.items():
            self._ring_next(lane, slots)

    def _claim_and_attempt(self, key: str, lane: str) -> None:
        lease_s, kind = self._config.queue.lease_s, kind_of(lane)
        try:
            work = self._journal.work.claim(kind, key, self._owner, lease_s)
        except JournalAway:  # which may have written the claim before it went
            self._give_back(kind, key, 0)
            raise
        if work is None:
            return
        with self._lanes.holding(key):
            if not work.losses:
                self._attempt(work)
                return
            with self._lanes.suspect(lane) as alone:
                if alone:
                    self._attempt(work)
                else:
                    self._give_back(kind, key, _SUSPECT_WAIT_S)

    def _give_back(self, kind: type[AnyWork], key: str, wait_s: float, error: str = "") -> None:
        owner = self._owner
        self._surely(lambda: self._journal.work.give_back(kind, key, owner, wait_s, error))

    def _surely(self, tell: Callable[[], _T]) -> _T:
        """Tell the journal, as soon as it answers: a claim is kept while its work waits here.

        Raises
        ------
        JournalAway
            It did not answer before this process was told to end.
        """
        while True:
            try:
                return tell()
            except JournalAway:
                if self._lanes.ends_within(_JOURNAL_RETRY_S):
                    raise

    def _ring_next(self, lane: str, count: int = 1) -> None:
        try:
            self._dispatcher.ring_for(lane, count)
        except LimenError as exc:
            log.warning("work.not_rung", queue=lane, error=exc)
        self._dispatcher.ring()

    def _attempt(self, work: AnyWork) -> None:
        began = time.monotonic()
        try:
            self._refuse_exhausted(work)
            self._run(work)
        except Exception as exc:
            if not isinstance(exc, LimenError):
                _about(work).error("work.fault", exc_info=True)
            self._failed(work, exc)
            return
        seconds = round(time.monotonic() - began, 3)
        _about(work).debug("work.done", seconds=seconds)
        if isinstance(work, Delivery):
            METRICS.deliveries.labels(work.lane, "done").inc()
        else:
            METRICS.jobs.labels(work.lane, "done").inc()
            METRICS.job_seconds.labels(work.lane).observe(seconds)

    def _run(self, work: AnyWork) -> None:
        with self._instances.using(work.study_key):
            if isinstance(work, Delivery):
                self._deliver(work)
            elif isinstance(work, Shadow):
                self._look_in_shadow(work)
            elif work.phase is Phase.PREDICTION:
                self._predict(work)
            else:
                self._explain(work)

    # -- the kinds of work --------------------------------------------------------------------

    def _predict(self, job: Job) -> None:
        study = self._journal.status.study(job.study_key, job.revision)
        read = read_headers(self._instances_of(job), self._decoder)
        stamp = self._stamp(study)
        route = routes.choose(self._config.route, read.headers)
        deployment = 0
        if route is None:
            reason = routes.why_none(self._config.route, read.headers)
            prediction = not_analysed(study.study_uid, read, reason, stamp)
        else:
            # One model for all slices of this revision, whatever is deployed meanwhile.
            with self._models.for_study(route.bundle, job.study_key) as model:
                uid, by = study.study_uid, (model.engine, model.bundle)
                prediction = predict_study(uid, read, self._decoder, *by, stamp)
                deployment = model.deployment
        # Also where none is to be explained: the explanation is what says so.
        due = prediction.result.wants_explanation
        in_shadow = [r.name for r in routes.shadows(self._config.route, read.headers)]
        if selftest.is_test(study.study_uid):
            in_shadow = []
        self._finish(job, prediction, explain=due, shadows=in_shadow, deployment=deployment)

    def _explain(self, job: Job) -> None:
        study = self._journal.status.study(job.study_key, job.revision)
        predicted, _ = self._results.read(job.study_key, job.revision, Phase.PREDICTION)
        with self._models.that_made(predicted) as (bundle, engine):
            explanation = explain_study(
                predicted,
                self._instances_of(job),
                self._decoder,
                engine,
                bundle,
                self._config.explain,
                self._stamp(study),
            )
        self._finish(job, explanation)

    def _look_in_shadow(self, work: Shadow) -> None:
        """Let the bundle of a route in shadow look at a study, and archive what it says."""
        found = [r for r in self._config.route if r.shadow and r.name == work.route]
        if not found:
            raise Permanent(f"no route in shadow is called {work.route} any more")
        with self._models.for_study(found[0].bundle, work.study_key) as model:
            summary = self._shadowed(work, model)
        owner = self._owner
        self._surely(lambda: self._journal.work.commit_shadow(work, owner, summary, ARCHIVE))
        self._dispatcher.ring()

    def _shadowed(self, work: Shadow, model: Chosen) -> Summary:
        """Write what a bundle in shadow says, unless an attempt that was cut off did; return it."""
        where = (work.study_key, work.revision)
        bundle = model.bundle
        kept = self._results.shadow(*where, bundle.name)
        result = Result.from_json(kept) if kept is not None else self._look(work, model)
        if kept is None:
            kept = result.to_json()
            self._results.write(work.study_key, result, {}, bundle.name)
        # Also where its model failed, and the document names none.
        return replace(
            Summary.of(result, hashlib.sha256(kept).hexdigest()),
            bundle=bundle.name,
            bundle_version=bundle.version,
            bundle_sha256=bundle.sha256,
        )

    def _look(self, work: Shadow, model: Chosen) -> Result:
        where = (work.study_key, work.revision)
        study = self._journal.status.study(*where)
        read = read_headers(self._instances_of(work), self._decoder)
        by, stamp = (model.engine, model.bundle), self._stamp(study)
        return shadow.run(study.study_uid, read, self._decoder, *by, stamp)

    def _deliver(self, delivery: Delivery) -> None:
        parcel = self._parcel_of(delivery)
        receipt = self._destinations[delivery.destination].deliver(parcel)
        arrived = self._surely(
            lambda: self._journal.work.delivered(
                delivery,
                self._owner,
                receipt.state,
                note=receipt.note,
                wait_s=receipt.wait_s,
                reached=receipt.reached,
                tell=self._told_of(delivery),
            )
        )
        if arrived and delivery.originals:
            _about(delivery).info("study.archived", count=len(parcel.originals))
        elif arrived and not delivery.about:
            self._tell_delivered(delivery, parcel, receipt)
        self._dispatcher.ring()

    def _parcel_of(self, delivery: Delivery) -> Parcel:
        """Return what a delivery brings: a result, or one of the other three."""
        if delivery.about:
            return self._update(delivery)
        if delivery.originals:
            where = (delivery.study_key, delivery.revision, delivery.phase)
            return Parcel(*where, b"", {}, self._instances.originals(self._rows_of(delivery)))
        return self._shadow_parcel(delivery) if delivery.shadow else self._parcel(delivery)

    def _tell_delivered(self, delivery: Delivery, parcel: Parcel, receipt: Receipt) -> None:
        age_s = None
        if not delivery.shadow:
            where = (delivery.destination, delivery.phase.value)
            age_s = self._measure_age(METRICS.to_delivered_seconds.labels(*where), delivery)
        _about(delivery).info(
            "study.delivered",
            state=receipt.state.value,
            outcome=parcel.result.outcome.value if parcel.result else None,
            seconds=age_s,
        )

    def _told_of(self, delivery: Delivery) -> str:
        """Return the destination that is told how a delivery stands; "": none."""
        takes_objects = {entry.name for entry in self._config.object_destinations}
        told = delivery.destination in takes_objects and PAGE in self._destinations
        return PAGE if told else ""

    def _update(self, delivery: Delivery) -> Parcel:
        """Return how another delivery stands now, for people to see."""
        study = self._journal.status.study(delivery.study_key, delivery.revision)
        (row,) = [
            d
            for d in study.deliveries
            if d.destination == delivery.about and d.phase == delivery.phase.value
        ]
        lane = self._journal.status.queues().get(delivery.about)
        rejected = row.state == WorkState.QUEUED and lane is not None and bool(lane.unwelcome)
        body = {
            "study_uid": study.study_uid,
            "revision": delivery.revision,
            "phase": delivery.phase.value,
            "destination": delivery.about,
            "state": "rejected" if rejected else row.state,
            "reason": row.last_error[:_TOLD_LENGTH],
            "objects": [
                {"kind": o.kind, "state": o.state.value, "reason": o.reason[:_TOLD_LENGTH]}
                for o in row.objects
            ],
        }
        where = (delivery.study_key, delivery.revision, delivery.phase)
        return Parcel(*where, b"", {}, (), update=json.dumps(body).encode())

    def _parcel(self, delivery: Delivery) -> Parcel:
        where = (delivery.study_key, delivery.revision, delivery.phase)
        result, document = self._results.read(*where)
        files = self._results.files(delivery.study_key, result)
        # Else this delivery brings them. No other needs the spool, which a worker may not have.
        archived = self._config.originals_first or delivery.destination != ARCHIVE
        return Parcel(
            *where,
            document=document,
            files=files,
            originals=() if archived else self._instances.originals(self._rows_of(delivery)),
            delivery=delivery.key,
            result=result,
            objects=lambda kinds: self._objects(delivery, result, files, kinds),
            sentences=lambda: sentences(result),
            rejection=lambda held: self._sendable.rejection(
                delivery.study_key, result, self._instances_of(delivery), held
            ),
        )

    def _objects(
        self,
        delivery: Delivery,
        result: Result,
        files: Mapping[str, Path],
        kinds: frozenset[str],
    ) -> list[DicomObject]:
        """Return the objects of a result.

        Those of the prediction are built before those of its explanation, whose report names that
        of the prediction as its predecessor: a PACS that was away may be sent either first.
        """
        key, instances = delivery.study_key, self._instances_of(delivery)
        if result.phase is Phase.EXPLANATION and "sr" in kinds:
            predicted, _ = self._results.read(key, delivery.revision, Phase.PREDICTION)
            self._sendable.of(key, predicted, files, instances, kinds)
        return self._sendable.of(key, result, files, instances, kinds)

    def _shadow_parcel(self, delivery: Delivery) -> Parcel:
        where = (delivery.study_key, delivery.revision)
        document = self._results.shadow(*where, delivery.shadow)
        if document is None:
            raise Transient(f"result files of {delivery.study_key} are not here")
        return Parcel(*where, delivery.phase, document, {}, (), shadow=delivery.shadow)

    # -- endings ---------------------------------------------------------------------------------

    def _finish(
        self,
        job: Job,
        output: StudyOutput,
        *,
        explain: bool = False,
        shadows: Sequence[str] = (),
        failed: str = "",
        deployment: int = 0,
    ) -> None:
        """Write the result files, then commit what they say and all that follows from it."""
        # Another run may have committed its files.
        if not self._surely(lambda: self._journal.work.holds(job, self._owner)):
            _about(job).warning("work.lease_lost")
            return
        now = _time(self._surely(self._journal.clock))
        field = "predicted" if job.phase is Phase.PREDICTION else "explained"
        timings = replace(output.result.timings, **{field: now})
        result = replace(output.result, timings=timings)
        document_sha256 = self._results.write(job.study_key, result, output.files)
        summary = Summary.of(result, document_sha256)
        won = self._surely(
            lambda: self._journal.work.commit(
                job,
                self._owner,
                summary,
                self._destinations_of(result),
                explain=explain,
                shadows=shadows,
                failed=failed,
                deployment=deployment,
            )
        )
        if won:
            self._tell_finished(job, summary, result)
        else:
            _about(job).warning("work.lease_lost")
        self._dispatcher.ring()

    def _destinations_of(self, result: Result) -> Sequence[str]:
        """A test study of ours is shown to nobody but the results server, which keeps it apart."""
        names = self._config.destinations
        if not selftest.is_test(result.study.study_uid):
            return names
        return [name for name in names if name == selftest.DESTINATION]

    def _tell_finished(self, job: Job, summary: Summary, result: Result) -> None:
        """Count an outcome, and tell how long after the last instance it was committed."""
        if job.phase is Phase.PREDICTION:
            METRICS.outcomes.labels(summary.outcome.value).inc()
            _about(job).info(
                "study.predicted",
                outcome=summary.outcome.value,
                bundle=summary.bundle or None,
                version=summary.bundle_version or None,
                seconds=self._measure_age(METRICS.to_prediction_seconds, job),
            )
        else:
            _about(job).info(
                "study.explained",
                outcome=summary.outcome.value,
                count=len(result.explanations),
                seconds=self._measure_age(METRICS.to_explanation_seconds, job),
            )

    def _measure_age(self, where: Histogram, work: AnyWork) -> float | None:
        """Measure and return the seconds since the last instance; what is done stays done."""
        with contextlib.suppress(LimenError):
            age_s = self._journal.gauges.age_s(work.study_key, work.revision)
            if age_s is not None:
                where.observe(max(0.0, age_s))
                return round(max(0.0, age_s), 3)
        return None

    def _refuse_exhausted(self, work: AnyWork) -> None:
        """Work that keeps killing its worker never reaches an exception: count what was lost."""
        limit = self._config.queue.max_attempts
        if work.losses >= limit:
            raise Permanent(f"the worker died in each of {work.losses} attempts")
        if isinstance(work, Job) and work.attempts > limit:
            raise Permanent(f"{limit} attempts failed; the worker died in {work.losses} of them")

    def _failed(self, work: AnyWork, error: Exception) -> None:
        text = str(error) if isinstance(error, LimenError) else f"{type(error).__name__} (see log)"
        if isinstance(error, JournalAway):
            wait_s = self._config.queue.retry_base_s
            _about(work).warning("work.postponed", reason=text, seconds=wait_s)
            self._give_back(type(work), work.key, wait_s)
            return
        if isinstance(work, Delivery) and isinstance(error, Unwelcome):
            _about(work).error("work.rejected", reason=text)
            METRICS.deliveries.labels(work.lane, "rejected").inc()
            tell = self._told_of(work)
            self._surely(lambda: self._journal.work.reject(work, self._owner, text, tell=tell))
            return
        if self._may_try_again(work, error):
            if isinstance(error, Delayed):
                self._delay(work, text, error.wait_s)
            else:
                self._postpone(work, error, text)
            return
        _about(work).error("work.dead", reason=text)
        if isinstance(work, Job):
            METRICS.jobs.labels(work.lane, "dead").inc()
            self._give_up(work, text)
            return
        metric = METRICS.deliveries if isinstance(work, Delivery) else METRICS.jobs
        metric.labels(work.lane, "dead").inc()
        told = self._told_of(work) if isinstance(work, Delivery) else ""
        self._surely(lambda: self._journal.work.bury(work, self._owner, text, tell=told))

    def _postpone(self, work: AnyWork, error: Exception, text: str) -> None:
        queue = self._config.queue
        wait_s = backoff_s(work.attempts, queue.retry_base_s, queue.retry_max_s)
        _about(work).warning("work.postponed", reason=text, seconds=round(wait_s, 3))
        if isinstance(work, Delivery) and isinstance(error, Unreachable | OutOfSpace):
            # Nodes that share a bucket or a PACS must not all come back at the same moment.
            part = random.uniform(_SOONEST, 1.0)  # noqa: S311 - no secret
            probe_s = (queue.retry_base_s * part, queue.probe_s * part)
            if isinstance(error, Unreachable) and error.wait_s:
                wait_s, probe_s = max(wait_s, error.wait_s / part), (error.wait_s, error.wait_s)
            self._surely(
                lambda: self._journal.work.postpone_until_there(
                    work, self._owner, wait_s * part, text, probe_s=probe_s
                )
            )
        else:
            self._surely(lambda: self._journal.work.postpone(work, self._owner, wait_s, text))

    def _delay(self, work: AnyWork, text: str, wait_s: float | None) -> None:
        """Put work back that waits for what it needs, as long as one that waits for its end."""
        if wait_s is None:
            wait_s = self._config.queue.probe_s * random.uniform(_SOONEST, 1.0)  # noqa: S311 - as above
        _about(work).warning("work.delayed", reason=text, seconds=round(wait_s, 3))
        self._give_back(type(work), work.key, wait_s, text)

    def _may_try_again(self, work: AnyWork, error: Exception) -> bool:
        if isinstance(error, Permanent):
            return False
        is_delivery = isinstance(work, Delivery) and isinstance(error, Transient)
        if is_delivery or isinstance(error, Delayed):
            # A destination that is away over a long weekend needs no operator afterwards; neither
            # does an archive that is worked from.
            age_s = (self._surely(self._journal.clock) - work.created_at).total_seconds()
            return age_s < self._config.queue.delivery_give_up_s
        return work.attempts < self._config.queue.max_attempts

    def _give_up(self, job: Job, reason: str) -> None:
        """End a job for good: its study says "not analysed" or "not explained", and why."""
        study = self._surely(lambda: self._journal.status.study(job.study_key, job.revision))
        stamp = self._stamp(study)
        text = f"{job.phase.value} failed: {reason}"
        with self._instances.using(job.study_key):
            if job.phase is Phase.PREDICTION:
                # Built from the journal alone: reading the study is what may have failed.
                empty = Read((), ())
                ended = not_analysed(study.study_uid, empty, text, stamp)
            else:
                ended = not_explained(self._predicted(study, stamp), text, stamp)
            self._finish(job, ended, failed=text)

    def _predicted(self, study: StudyRow, stamp: Stamp) -> Result:
        """Return the prediction, or what the journal knows of it when its files are lost."""
        try:
            return self._results.read(study.study_key, study.revision, Phase.PREDICTION)[0]
        except LimenError:
            empty = Read((), ())
            known = not_analysed(study.study_uid, empty, study.reason, stamp).result
            return replace(known, outcome=Outcome(study.outcome or Outcome.NOT_ANALYSED))

    # -- what every result carries -----------------------------------------------------------------

    def _rows_of(self, work: Work) -> list[Instance]:
        return self._journal.receiving.instances(work.study_key, work.revision)

    def _instances_of(self, work: Work) -> list[parts.Instance]:
        return self._instances.of(work.study_key, self._rows_of(work))

    def _stamp(self, study: StudyRow) -> Stamp:
        predicted = study.predicted_at
        return Stamp(
            revision=study.revision,
            timings=Timings(
                received=_time(study.last_instance_at),
                complete=_time(study.complete_at or study.last_instance_at),
                predicted=None if predicted is None else _time(predicted),
            ),
            provenance=Provenance(__version__, host_name(), self._config.sha256()),
        )


def _about(work: AnyWork) -> Any:
    """Return a log that says of each line which work it is about."""
    about = log.bind(
        study=work.study_key,
        revision=work.revision,
        phase=work.phase.value,
        attempt=work.attempts,
    )
    if isinstance(work, Delivery):
        bundle = work.shadow or None
        return about.bind(delivery=work.key, destination=work.destination, bundle=bundle)
    return about.bind(job=work.key)


def _time(at: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
