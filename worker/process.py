"""The worker put together: journal, models, decoder, destinations, Celery."""

from __future__ import annotations

import os
import sys
import threading
import time

import structlog
from celery import signals

from limen.broker import make_app, queue_names
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import ConfigError
from limen.journal import Journal
from limen.readiness import say_ready
from limen.telemetry import serve_metrics
from worker import tasks
from worker.destinations import Destination
from worker.jobs import Jobs
from worker.lease import Heartbeat, new_owner, release_the_dead
from worker.models import Models
from worker.outbox import Outbox
from worker.pixels import Decoder

__all__ = ["destinations", "run"]

log = structlog.get_logger("worker")

_DRAIN_S = 25.0
_LOST_CODE = 70  # sysexits EX_SOFTWARE: a supervisor starts the worker again


def destinations(config: Config) -> dict[str, Destination]:
    """Return the enabled destinations by name.

    Raises
    ------
    ConfigError
        Settings of a destination contradict each other.
    """
    found: dict[str, Destination] = {}
    if config.destination.django.enabled:
        from worker.destinations.django import DjangoDestination  # noqa: PLC0415

        found["django"] = DjangoDestination(
            config.django_url, config.token_file, config.destination.django.timeout_s
        )
    if config.destination.gcs.enabled:
        found["gcs"] = _archive(config)
    return found


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
    serve_metrics(config.metrics.host, config.metrics.worker_port)
    journal = Journal(config.journal_url)
    journal.migrate()
    owner = new_owner()
    released = release_the_dead(journal)
    app = make_app(config)
    dispatcher = Dispatcher(config, journal, app)
    sizes = config.worker
    decoder = Decoder(
        sizes.decode_processes,
        sizes.decode_timeout_s,
        sizes.decode_memory_bytes,
        sizes.max_pixels,
    )
    outbox = Outbox(config.results_dir)
    models = Models(config, on_lost=_leave_for_a_new_process)
    jobs = Jobs(config, owner, journal, dispatcher, outbox, decoder, models, destinations(config))
    tasks.register(app, jobs)
    heartbeat = Heartbeat(journal, owner, config.queue.lease_s, jobs.held)
    signals.worker_ready.connect(
        lambda **_: _say_ready(began, released), weak=False, dispatch_uid="limen"
    )
    signals.worker_shutting_down.connect(
        lambda **_: _drain(jobs, journal, owner, decoder), weak=False, dispatch_uid="limen"
    )
    # Celery configures no logging while someone listens here: the allow-list stays in charge.
    signals.setup_logging.connect(lambda **_: None, weak=False, dispatch_uid="limen")
    heartbeat.start()
    dispatcher.start()
    try:
        app.worker_main(
            [
                "--quiet",
                "worker",
                "--pool=threads",
                f"--concurrency={jobs.threads(config)}",
                f"--queues={','.join(queue_names(config).values())}",
                f"--hostname=limen@{owner.replace(':', '.')}",
                "--loglevel=WARNING",
                "--without-gossip",
                "--without-mingle",
            ]
        )
    finally:  # Celery gave up by itself
        dispatcher.stop()
        heartbeat.stop()
        journal.release(owner)
        models.close()
        decoder.close()
        journal.close()
    return 0


def _say_ready(began: float, released: int) -> None:
    log.info("worker.ready", seconds=round(time.monotonic() - began, 1), count=released)
    say_ready()


def _drain(jobs: Jobs, journal: Journal, owner: str, decoder: Decoder) -> None:
    """On SIGTERM: let what runs end, at most 25 s, then go; the rest returns to the journal.

    The process ends here, not where Celery's loop would get to: that takes seconds when nothing
    runs at all, and has no end when something hangs. Messages that were not acknowledged are
    sent again, and TensorFlow's long tear-down is left to the system.
    """
    log.info("worker.draining")

    def leave() -> None:
        in_time = jobs.drain(_DRAIN_S)
        count = journal.release(owner)
        log.info("worker.drained" if in_time else "worker.drain_cut_short", count=count)
        if in_time:
            decoder.close()
        sys.stderr.flush()
        os._exit(0)

    threading.Thread(target=leave, name="drain", daemon=True).start()


def _leave_for_a_new_process() -> None:
    """End at once: only a new process gets the device back, if anything does.

    The leases of what runs here stay with the name of this process. The worker that the
    supervisor starts in its place returns them at its start, on other hosts they end by
    themselves.
    """
    log.error("worker.lost_its_device", code=_LOST_CODE)
    sys.stderr.flush()
    os._exit(_LOST_CODE)


def _archive(config: Config) -> Destination:
    from worker.destinations import gcs  # noqa: PLC0415 - google.cloud takes a second to import

    settings = config.destination.gcs
    if settings.bucket and settings.folder is not None:
        raise ConfigError("destination.gcs: set bucket or folder, not both")
    archive: gcs.Archive = gcs.FolderArchive(config.archive_dir)
    if settings.bucket:
        archive = gcs.BucketArchive(
            settings.bucket, settings.prefix, settings.credentials_file, settings.timeout_s
        )
    return gcs.GcsDestination(archive, originals=settings.originals)
