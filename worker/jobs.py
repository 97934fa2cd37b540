"""What a worker does with one message: claim, call one function, commit.

A message names a piece of work and its lane. Each lane has a fixed number of slots, so that a
backlog of explanations or a destination that hangs never holds up a prediction. A message that
finds no free slot is dropped: whoever frees the slot rings for the next piece of that lane, and
the sweep rings for whatever was missed.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from limen import __version__
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import LimenError, Permanent, Transient
from limen.journal import (
    Delivery,
    Instance,
    Job,
    Journal,
    StudyRow,
    Summary,
    Work,
    backoff_s,
    host_name,
)
from limen.result import Outcome, Phase, Provenance, Result, Timings
from limen.telemetry import METRICS
from worker import analysis, routes, shadow
from worker.destinations import Destination, Original, Parcel
from worker.models import Models
from worker.outbox import Outbox
from worker.pixels import Decoder

__all__ = ["ARCHIVE", "Jobs"]

ARCHIVE = "gcs"
"""The destination that gets the results of bundles that run in shadow; no other does."""

log = structlog.get_logger("worker.jobs")


class Jobs:
    """The work of one process; ``handle`` may be called from many threads.

    Parameters
    ----------
    owner
        Name under which this process holds leases.
    models
        Bundles with their engines: one model per process, shared by every thread.
    destinations
        Name -> destination, for deliveries.
    """

    def __init__(
        self,
        config: Config,
        owner: str,
        journal: Journal,
        dispatcher: Dispatcher,
        outbox: Outbox,
        decoder: Decoder,
        models: Models,
        destinations: Mapping[str, Destination],
    ) -> None:
        self._config = config
        self._owner = owner
        self._journal = journal
        self._dispatcher = dispatcher
        self._outbox = outbox
        self._decoder = decoder
        self._models = models
        self._destinations = destinations
        self._idle = threading.Condition()
        self._running = 0
        self._held: Counter[str] = Counter()
        self._draining = False
        sizes = config.worker
        self._slots = {
            Phase.PREDICTION.value: threading.BoundedSemaphore(sizes.predict_slots),
            Phase.EXPLANATION.value: threading.BoundedSemaphore(sizes.explain_slots),
            **{n: threading.BoundedSemaphore(sizes.deliver_slots) for n in destinations},
        }

    @staticmethod
    def threads(config: Config) -> int:
        """Return the threads that all slots together can keep busy, and one to drop messages."""
        sizes = config.worker
        deliver = sizes.deliver_slots * len(config.destinations)
        return sizes.predict_slots + sizes.explain_slots + deliver + 1

    def handle(self, key: str, lane: str) -> None:
        """Do the work that a message names, unless it is done, taken, or its lane is full."""
        slot = self._slots.get(lane)
        if slot is None:
            log.warning("work.unknown_lane", queue=lane)
            return
        if not self._enter(slot):
            return
        try:
            kind = Job if lane in set(Phase) else Delivery
            work = self._journal.claim(kind, key, self._owner, self._config.queue.lease_s)
            if work is not None:
                with self._holding(key):
                    self._attempt(work)
        except Exception as exc:  # the edge: the journal says what happens to this work next
            log.error("work.fault", job=key, error=exc, exc_info=not isinstance(exc, LimenError))
        finally:
            self._leave(slot)
        self._ring_next(lane)

    def held(self) -> list[str]:
        """Return the keys of what is being worked on now: the leases to renew.

        An attempt that could not even tell the journal how it ended is not among them: its lease
        ends, and the sweep starts it again.
        """
        with self._idle:
            return list(self._held)

    @contextmanager
    def _holding(self, key: str) -> Iterator[None]:
        with self._idle:
            self._held[key] += 1
        try:
            yield
        finally:
            with self._idle:
                self._held[key] -= 1
                self._held += Counter()  # forgets what is at 0

    def drain(self, timeout_s: float) -> bool:
        """Take no more work and wait for what runs; return whether it ended in time."""
        with self._idle:
            self._draining = True
            return self._idle.wait_for(lambda: self._running == 0, timeout_s)

    def _enter(self, slot: threading.BoundedSemaphore) -> bool:
        with self._idle:
            if self._draining or not slot.acquire(blocking=False):
                return False
            self._running += 1
            return True

    def _leave(self, slot: threading.BoundedSemaphore) -> None:
        with self._idle:
            slot.release()
            self._running -= 1
            self._idle.notify_all()

    def _ring_next(self, lane: str) -> None:
        try:
            waiting = self._journal.next_waiting(lane)
            if waiting is not None:
                self._dispatcher.publish(waiting)
        except LimenError as exc:
            log.warning("work.not_rung", queue=lane, error=exc)
        self._dispatcher.ring()

    def _attempt(self, work: Work) -> None:
        began = time.monotonic()
        try:
            self._refuse_exhausted(work)
            self._run(work)
        except Exception as exc:
            if not isinstance(exc, LimenError):
                log.error("work.fault", job=work.key, attempt=work.attempts, exc_info=True)
            self._failed(work, exc)
            return
        seconds = round(time.monotonic() - began, 3)
        log.info("work.done", job=work.key, attempt=work.attempts, seconds=seconds)
        if isinstance(work, Delivery):
            METRICS.deliveries.labels(work.destination, "done").inc()
        else:
            METRICS.jobs.labels(work.phase.value, "done").inc()
            METRICS.job_seconds.labels(work.phase.value).observe(seconds)

    def _run(self, work: Work) -> None:
        if isinstance(work, Delivery):
            self._deliver(work)
        elif work.phase is Phase.PREDICTION:
            self._predict(work)
        else:
            self._explain(work)

    # -- the three kinds of work ---------------------------------------------------------------

    def _predict(self, job: Work) -> None:
        study = self._journal.study(job.study_key, job.revision)
        instances = self._instances(job)
        read = analysis.read_headers(instances, self._decoder)
        stamp = self._stamp(study)
        route = routes.choose(self._config.route, read.headers)
        if route is None:
            reason = routes.why_none(self._config.route, read.headers)
            prediction = analysis.not_analysed(study.study_uid, read, reason, stamp)
        else:
            bundle, engine = self._models.get(route.bundle)
            prediction = analysis.predict_study(
                study.study_uid, read, self._decoder, engine, bundle, stamp
            )
        # Also where none is to be explained: the explanation is what says so.
        positive = any(image.positive for image in prediction.result.images)
        self._finish(job, prediction, explain=positive)

    def _explain(self, job: Work) -> None:
        study = self._journal.study(job.study_key, job.revision)
        predicted, _ = self._outbox.read(job.study_key, job.revision, Phase.PREDICTION)
        bundle, engine = self._models.matching(predicted)
        explanation = analysis.explain_study(
            predicted,
            self._instances(job),
            self._decoder,
            engine,
            bundle,
            self._config.explain,
            self._stamp(study),
        )
        self._finish(job, explanation)

    def _deliver(self, delivery: Delivery) -> None:
        where = (delivery.study_key, delivery.revision, delivery.phase)
        result, document = self._outbox.read(*where)
        parcel = Parcel(
            *where,
            document=document,
            files={name: self._image(delivery, name) for name in result.file_names()},
            originals=tuple(
                Original(self._config.spool_dir / i.path, i.sop_key, i.digest)
                for i in self._journal.instances(delivery.study_key, delivery.revision)
            ),
        )
        self._destinations[delivery.destination].deliver(parcel)
        if delivery.destination == ARCHIVE and delivery.phase is Phase.PREDICTION:
            self._deliver_shadows(delivery)
        self._journal.delivered(delivery, self._owner)

    def _deliver_shadows(self, delivery: Delivery) -> None:
        """Run the bundles in shadow and archive what they say.

        Part of the delivery of a prediction to the archive: the study has its finding by then,
        and lease, retries and the record of a failure are those of the delivery.
        """
        if not any(route.shadow for route in self._config.route):
            return
        study = self._journal.study(delivery.study_key, delivery.revision)
        read = analysis.read_headers(self._instances(delivery), self._decoder)
        for route in routes.shadows(self._config.route, read.headers):
            bundle, engine = self._models.get(route.bundle)
            where = (delivery.study_key, delivery.revision)
            document = self._outbox.shadow(*where, bundle.name)
            if document is None:
                result = shadow.run(
                    study.study_uid, read, self._decoder, engine, bundle, self._stamp(study)
                )
                document = result.to_json()
                self._outbox.write(delivery.study_key, result, {}, bundle.name)
            parcel = Parcel(*where, Phase.PREDICTION, document, {}, (), shadow=bundle.name)
            self._destinations[delivery.destination].deliver(parcel)

    def _image(self, delivery: Delivery, name: str) -> Path:
        """An explanation names the slices that were rendered with the prediction."""
        path = self._outbox.file(delivery.study_key, delivery.revision, delivery.phase, name)
        if path.is_file():
            return path
        return self._outbox.file(delivery.study_key, delivery.revision, Phase.PREDICTION, name)

    # -- endings ---------------------------------------------------------------------------------

    def _finish(
        self, job: Work, output: analysis.StudyOutput, *, explain: bool = False, failed: str = ""
    ) -> None:
        """Write the result files, then commit what they say and all that follows from it."""
        if not self._journal.holds(job, self._owner):  # another run may have committed its files
            log.warning("work.lease_lost", job=job.key)
            return
        now = _time(self._journal.clock())
        field = "predicted" if job.phase is Phase.PREDICTION else "explained"
        timings = replace(output.result.timings, **{field: now})
        result = replace(output.result, timings=timings)
        self._outbox.write(job.study_key, result, output.files)
        finding = result.finding
        summary = Summary(
            outcome=result.outcome,
            reason=result.reason,
            probability=finding.probability if finding else None,
            positive_images=finding.positive_slices if finding else None,
        )
        won = self._journal.commit(
            job, self._owner, summary, self._config.destinations, explain=explain, failed=failed
        )
        if not won:
            log.warning("work.lease_lost", job=job.key)
        self._dispatcher.ring()

    def _refuse_exhausted(self, work: Work) -> None:
        """A job that keeps killing its worker never reaches an exception: count the claims."""
        limit = self._config.queue.max_attempts
        if not isinstance(work, Delivery) and work.attempts > limit:
            raise Permanent(f"the worker died in each of {limit} attempts")

    def _failed(self, work: Work, error: Exception) -> None:
        text = str(error) if isinstance(error, LimenError) else f"{type(error).__name__} (see log)"
        if self._may_try_again(work, error):
            queue = self._config.queue
            wait_s = backoff_s(work.attempts, queue.retry_base_s, queue.retry_max_s)
            log.warning(
                "work.postponed", job=work.key, attempt=work.attempts, reason=text, seconds=wait_s
            )
            self._journal.postpone(work, self._owner, wait_s, text)
            return
        log.error("work.dead", job=work.key, attempt=work.attempts, reason=text)
        if isinstance(work, Delivery):
            METRICS.deliveries.labels(work.destination, "dead").inc()
            self._journal.bury(work, self._owner, text)
        else:
            METRICS.jobs.labels(work.phase.value, "dead").inc()
            self._give_up(work, text)

    def _may_try_again(self, work: Work, error: Exception) -> bool:
        if isinstance(error, Permanent):
            return False
        if isinstance(work, Delivery) and isinstance(error, Transient):
            # A destination that is away over a long weekend needs no operator afterwards.
            age_s = (self._journal.clock() - work.created_at).total_seconds()
            return age_s < self._config.queue.delivery_give_up_s
        return work.attempts < self._config.queue.max_attempts

    def _give_up(self, job: Work, reason: str) -> None:
        """End a job for good: its study says "not analysed" or "not explained", and why."""
        study = self._journal.study(job.study_key, job.revision)
        stamp = self._stamp(study)
        text = f"{job.phase.value} failed: {reason}"
        if job.phase is Phase.PREDICTION:
            # Built from the journal alone: reading the study is what may have failed.
            empty = analysis.Read((), ())
            ended = analysis.not_analysed(study.study_uid, empty, text, stamp)
        else:
            ended = analysis.not_explained(self._predicted(study, stamp), text, stamp)
        self._finish(job, ended, failed=text)

    def _predicted(self, study: StudyRow, stamp: analysis.Stamp) -> Result:
        """Return the prediction, or what the journal knows of it when its files are lost."""
        try:
            return self._outbox.read(study.study_key, study.revision, Phase.PREDICTION)[0]
        except LimenError:
            empty = analysis.Read((), ())
            known = analysis.not_analysed(study.study_uid, empty, study.reason, stamp).result
            return replace(known, outcome=Outcome(study.outcome or Outcome.NOT_ANALYSED))

    # -- what every result carries -----------------------------------------------------------------

    def _instances(self, job: Work) -> list[analysis.Instance]:
        def one(row: Instance) -> analysis.Instance:
            return analysis.Instance(self._config.spool_dir / row.path, row.sop_uid, row.series_uid)

        return [one(row) for row in self._journal.instances(job.study_key, job.revision)]

    def _stamp(self, study: StudyRow) -> analysis.Stamp:
        predicted = study.predicted_at
        return analysis.Stamp(
            revision=study.revision,
            timings=Timings(
                received=_time(study.last_instance_at),
                complete=_time(study.complete_at or study.last_instance_at),
                predicted=None if predicted is None else _time(predicted),
            ),
            provenance=Provenance(__version__, host_name(), self._config.sha256()),
        )


def _time(at: datetime) -> str:
    """Return a time as RFC 3339 in UTC, to the millisecond."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
