"""The worker put together: journal, models, decoder, destinations, Celery."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

import structlog
from celery import Celery, signals
from celery.worker.consumer import Consumer

from limen import __version__
from limen.audit import Trail
from limen.broker import DELIVER, EXPLAIN, PREDICT, make_app, queue_names
from limen.collectors import DiskCollector
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import LimenError
from limen.journal import Journal, WorkerSign, host_name
from limen.readiness import Sign, Watchdog, say_ready, say_stopping
from limen.telemetry import serve_metrics
from worker.destinations import Destination
from worker.destinations.audited import audited
from worker.destinations.registry import archive, archive_destination, destinations
from worker.dicom.decoder import Decoder
from worker.serving.repository import Repository
from worker.work.cache import Cache
from worker.work.instances import ArchivedInstances, InstanceStore, SpooledInstances
from worker.work.jobs import Jobs
from worker.work.lease import Heartbeat, Presence
from worker.work.memory import Memory
from worker.work.models import Models
from worker.work.outbox import Outbox
from worker.work.results import ArchivedResults, ResultStore

__all__ = ["run", "stores"]

log = structlog.get_logger("worker")

_DAY_S = 86400
_DRAIN_S = 25.0
_LOST_CODE = 70  # sysexits EX_SOFTWARE: a supervisor starts the worker again


class _Consumer(Consumer):  # type: ignore[misc]
    """Celery's, without the 28 queues that it makes for messages with an ETA: ours have none.

    Their names are not ours either: a RabbitMQ that gives us ``limen.*`` alone refuses them.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        default_steps = tuple(s for s in Consumer.Blueprint.default_steps if "delayed" not in s)


def run(config: Config) -> int:
    """Work until SIGTERM; return an exit code.

    Raises
    ------
    BundleError
        A model must not be loaded.
    LimenError
        The port of the metrics is taken.
    Unreachable
        The journal does not answer.
    """
    began = time.monotonic()
    metrics = config.metrics
    serve_metrics(metrics.host, metrics.worker_port, DiskCollector(config))
    journal = Journal(config.journal_url)
    journal.migrate()
    presence = Presence(config.data_dir / "workers")
    released = presence.release_the_dead(journal)
    app = make_app(config)
    app.conf.worker_consumer = _Consumer
    dispatcher = Dispatcher(config, journal, app)
    sizes = config.worker
    decoder = Decoder(
        sizes.decode_processes,
        sizes.decode_timeout_s,
        sizes.decode_memory_bytes,
        sizes.max_pixels,
        runs_code=config.engine.allow_code,
    )
    instances, results = stores(config, journal)
    trail = Trail(config, "worker")
    places = _places(config, journal, trail)
    owner = presence.owner
    models = _models(config, owner, journal)
    jobs = Jobs(config, owner, journal, dispatcher, instances, results, decoder, models, places)
    _register(app, jobs)
    sign = WorkerSign(owner, host_name(), __version__, tuple(jobs.slots))
    heartbeat = Heartbeat(journal, presence, sign, config.queue.lease_s, jobs.held)

    memory = Memory(sizes.max_memory_bytes)

    def ready(sender: Any, **_: object) -> None:
        seconds = round(time.monotonic() - began, 1)
        log.info("worker.ready", seconds=seconds, count=released)
        say_ready()
        _watch(sender, heartbeat, dispatcher)
        jobs.ring()
        models.start()
        memory.start()

    signals.worker_ready.connect(ready, weak=False, dispatch_uid="limen")
    signals.worker_shutting_down.connect(
        lambda **_: _drain(jobs, heartbeat, journal, presence, decoder, trail),
        weak=False,
        dispatch_uid="limen",
    )
    # Celery configures no logging while someone listens here: the allow-list stays in charge.
    signals.setup_logging.connect(lambda **_: None, weak=False, dispatch_uid="limen")
    # And it says goodbye on standard output, past every log: that is no event of ours.
    sys.__stdout__ = Path(os.devnull).open("w", encoding="utf-8")  # type: ignore[misc] # noqa: SIM115
    heartbeat.start()
    dispatcher.start()
    trail.start()
    try:
        app.worker_main(
            [
                "--quiet",
                "worker",
                "--pool=threads",
                f"--concurrency={sum(jobs.slots.values()) + 1}",
                f"--queues={','.join(_queues(config))}",
                f"--hostname=limen@{owner}",
                "--loglevel=WARNING",
                "--without-gossip",
                "--without-mingle",
                # An event every two seconds, which waits for its confirm without an end: a broker
                # that is blocked, or a firewall that has forgotten us, would stop the whole loop.
                "--without-heartbeat",
            ]
        )
    finally:  # Celery gave up by itself
        dispatcher.stop()
        trail.stop()
        heartbeat.stop()
        _give_back(journal, presence)
        models.close()
        decoder.close()
        journal.close()
    return 0


def stores(config: Config, journal: Journal) -> tuple[InstanceStore, ResultStore]:
    """Return where a worker finds instances and keeps results: see ``worker.source``."""
    if not config.originals_first:
        archived = archive_destination(config) if config.destination.archive.enabled else None
        return SpooledInstances(config.spool_dir, archived), Outbox(config.results_dir)
    days = config.retention.days
    cache = Cache(config.cache_dir, config.worker.cache_bytes, days * _DAY_S)
    return (
        ArchivedInstances(cache, archive_destination(config), config.spool_dir),
        ArchivedResults(cache, archive(config), journal.events.committed),
    )


def _places(config: Config, journal: Journal, trail: Trail) -> dict[str, Destination]:
    """Return where this worker delivers to: nowhere, without that lane."""
    delivers = DELIVER in config.worker.lanes
    found = destinations(config, journal.objects) if delivers else {}
    return audited(found, config, journal.objects, trail)


def _models(config: Config, owner: str, journal: Journal) -> Models:
    """Load the models of this worker, before its first sign of life: who counts knows of it."""
    repository = Repository(_with_models_it_needs(config), on_lost=_leave_for_a_new_process)
    models = Models(config, owner, journal, repository)
    models.begin()
    return models


def _with_models_it_needs(config: Config) -> Config:
    """Return settings without routes for a worker that only delivers: it loads no model."""
    runs_models = {PREDICT, EXPLAIN} & set(config.worker.lanes)
    return config if runs_models else config.model_copy(update={"route": ()})


def _queues(config: Config) -> list[str]:
    """Return the queues of the lanes that this worker takes; it asks for no other message."""
    return [name for lane, name in queue_names(config).items() if lane in config.worker.lanes]


def _watch(consumer: Any, heartbeat: Heartbeat, dispatcher: Dispatcher) -> None:
    """Tell a supervisor that this worker lives while it would take a message and run it.

    Celery's loop and its threads are asked each time. While the broker is away the loop waits for
    it: a new process would not do better. One thread is more than the lanes have slots, so that
    long studies keep nobody from answering.
    """
    loop, threads = Sign(), Sign()

    def ask() -> None:
        if consumer.connection is None:
            loop.show()
        else:
            consumer.call_soon(loop.show)
        consumer.pool.apply_async(threads.show, callback=lambda _: None)

    parts = {
        "heartbeat": heartbeat.silent_s,
        "dispatcher": dispatcher.silent_s,
        "consumer": loop.silent_s,
        "threads": threads.silent_s,
    }
    Watchdog(parts, ask).start()


def _register(app: Celery, jobs: Jobs) -> None:
    """Give ``app`` its tasks: each hands its message to ``Jobs.handle``."""
    for name in (PREDICT, EXPLAIN, DELIVER):
        app.task(jobs.handle, name=f"limen.{name}", acks_late=True, ignore_result=True)


def _give_back(journal: Journal, presence: Presence) -> int:
    """Put back what could not be finished, without an attempt counted; return how much."""
    try:
        count = journal.work.release(presence.owner)
        journal.workers.gone(presence.owner)
    except LimenError as exc:  # the leases end by themselves
        log.warning("worker.gave_nothing_back", error=exc)
        return 0
    presence.leave()
    return count


def _drain(
    jobs: Jobs,
    heartbeat: Heartbeat,
    journal: Journal,
    presence: Presence,
    decoder: Decoder,
    trail: Trail,
) -> None:
    """On SIGTERM: let what runs end, at most 25 s, then go; the rest returns to the journal.

    The process ends here, not where Celery's loop would get to: that takes seconds when nothing
    runs at all, and has no end when something hangs. Messages that were not acknowledged are
    sent again, and TensorFlow's long tear-down is left to the system.
    """
    say_stopping()
    log.info("worker.draining")

    def leave() -> None:
        try:
            in_time = jobs.drain(_DRAIN_S)
            heartbeat.stop()
            count = _give_back(journal, presence)
            trail.stop()
            log.info("worker.drained" if in_time else "worker.drain_cut_short", count=count)
            if in_time:
                decoder.close()
            sys.stderr.flush()
        finally:  # whatever happened: who was told to end must not stay
            os._exit(0)

    threading.Thread(target=leave, name="drain", daemon=True).start()


def _leave_for_a_new_process() -> None:
    """End at once: only a new process gets the device back, if anything does.

    The leases of what runs here stay with the name of this process. The worker that the
    supervisor starts in its place returns them at its start, and counts them as lost: a study
    that does this each time is given up.
    """
    log.error("worker.lost_its_device", code=_LOST_CODE)
    sys.stderr.flush()
    os._exit(_LOST_CODE)
