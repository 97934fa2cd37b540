"""The dispatcher: due jobs and deliveries -> broker, and the sweep of what got lost.

It asks the journal what is due (queued and never published, published long ago, or running
under a lease that has ended) and publishes the keys. A broker that is away costs latency only.
"""

from __future__ import annotations

import threading

import structlog
from celery import Celery
from kombu.exceptions import KombuError, OperationalError

from limen.broker import DELIVER, LANE_TASKS, declare_dead_letters, queue_names
from limen.config import Config
from limen.errors import LimenError, Unreachable
from limen.journal import Delivery, Journal, Work
from limen.telemetry import METRICS

__all__ = ["Dispatcher", "lane_of"]

log = structlog.get_logger("limen.dispatch")
_RETRY_S = 2.0


def lane_of(work: Work) -> str:
    """Return the lane that work waits in: its phase, or its destination."""
    return work.destination if isinstance(work, Delivery) else work.phase.value


class Dispatcher:
    """Publishes what is due, from a thread of its own.

    Every process that creates work runs one; they may overlap without harm.
    """

    def __init__(self, config: Config, journal: Journal, app: Celery) -> None:
        self._config = config
        self._journal = journal
        self._app = app
        self._queues = queue_names(config)
        self._bell = threading.Event()
        self._stopping = False
        self._reachable = True
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; what is not published yet stays due."""
        self._stopping = True
        self._bell.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def ring(self) -> None:
        """Look at once: something became due."""
        self._bell.set()

    def sweep(self) -> int:
        """Publish everything that is due, once.

        Returns
        -------
        int
            Messages that the broker confirmed.

        Raises
        ------
        Unreachable
            The journal or the broker does not answer.
        """
        published = 0
        for work in self._journal.due():
            if self._stopping:
                break
            self.publish(work)
            published += 1
        return published

    def publish(self, work: Work) -> None:
        """Send the message of one piece of work and wait for the broker's confirm.

        Raises
        ------
        Unreachable
            No confirm within ``queue.confirm_timeout_s``; the work stays due.
        """
        lane = lane_of(work)
        task = LANE_TASKS.get(lane, DELIVER)
        queue = self._queues[task]
        self._journal.publishing(work, self._config.queue.republish_s)
        try:
            self._app.send_task(
                f"limen.{task}",
                args=[work.key, lane],
                queue=queue,
                retry=False,
                ignore_result=True,
                confirm_timeout=self._config.queue.confirm_timeout_s,
            )
        except (OSError, KombuError, OperationalError, *self._connection_errors()) as exc:
            self._journal.unpublished(work, _RETRY_S)
            raise Unreachable(
                f"the broker did not take a message ({type(exc).__name__}); check that RabbitMQ "
                "runs at queue.broker; nothing is lost, it is sent again when the broker is back"
            ) from exc
        METRICS.published.labels(queue).inc()

    def _connection_errors(self) -> tuple[type[Exception], ...]:
        transport = self._app.connection_for_write().transport
        return (*transport.connection_errors, *transport.channel_errors)

    def _run(self) -> None:
        prepared = False
        while not self._stopping:
            self._bell.wait(self._config.queue.dispatch_s)
            self._bell.clear()
            try:
                if not prepared:
                    declare_dead_letters(self._app, self._config)
                    prepared = True
                self.sweep()
                self._note_reachable(True, None)
            except LimenError as exc:
                self._note_reachable(False, exc)
            except Exception as exc:  # the dispatcher must outlive any fault of a library
                self._note_reachable(False, exc)

    def _note_reachable(self, reachable: bool, error: Exception | None) -> None:
        """Log the change, not every failed round."""
        if reachable and not self._reachable:
            log.info("dispatch.recovered")
        elif not reachable and self._reachable:
            log.warning("dispatch.waiting", error=error)
        self._reachable = reachable
