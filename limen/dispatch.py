"""The dispatcher: due jobs and deliveries -> broker, and the sweep of what got lost.

It asks the journal what is due (queued and never published, published long ago, or running
under a lease that has ended) and publishes the keys. A broker that is away costs latency only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from celery import Celery
from kombu import Producer
from kombu.exceptions import KombuError, OperationalError

from limen.broker import DELIVER, LANE_TASKS, declare_dead_letters, queue_names
from limen.config import Config
from limen.errors import Unreachable
from limen.journal import Journal, Work
from limen.rounds import Rounds
from limen.telemetry import METRICS

__all__ = ["Dispatcher"]

_RETRY_S = 2.0


class Dispatcher:
    """Publishes what is due, from a thread of its own.

    Every process that creates work runs one; they may overlap without harm.
    """

    def __init__(self, config: Config, journal: Journal, app: Celery) -> None:
        self._config = config
        self._journal = journal
        self._app = app
        self._queues = queue_names(config)
        self._prepared = False
        self._rounds = Rounds("dispatcher", self._round, config.queue.dispatch_s)

    def start(self) -> None:
        """Start the thread."""
        self._rounds.start()

    def stop(self, timeout_s: float = 5.0) -> None:
        """End the thread; what is not published yet stays due."""
        self._rounds.stop(timeout_s)

    def silent_s(self) -> float:
        """Return the seconds since the thread last came round."""
        return self._rounds.sign.silent_s()

    def ring(self) -> None:
        """Look at once: something became due."""
        self._rounds.ring()

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
        for work in self._journal.publishing.due():
            if self._rounds.stopping:
                break
            published += self._publish(work)
            self._rounds.sign.show()
        return published

    def ring_for(self, lane: str, count: int = 1) -> None:
        """Publish what has waited longest in a lane: a worker has room for ``count``.

        Raises
        ------
        Unreachable
            The journal or the broker does not answer.
        """
        for work in self._journal.publishing.waiting(lane, count):
            self._publish(work, anew=True)

    def _publish(self, work: Work, *, anew: bool = False) -> bool:
        """Send the message of one piece of work and wait for the broker's confirm.

        Returns
        -------
        bool
            False when another process sent it, or a worker has claimed the work.

        Raises
        ------
        Unreachable
            No confirm within ``queue.confirm_timeout_s``; the work stays due.
        """
        task = LANE_TASKS.get(work.lane, DELIVER)
        queue = self._queues[task]
        publishing = self._journal.publishing
        sent = publishing.sending(work, self._config.queue.republish_s, anew=anew)
        if sent is None:
            return False
        try:
            with self._producer() as producer:
                self._app.send_task(
                    f"limen.{task}",
                    args=[work.key, work.lane],
                    queue=queue,
                    producer=producer,
                    retry=False,
                    ignore_result=True,
                    confirm_timeout=self._config.queue.confirm_timeout_s,
                )
        except (OSError, KombuError, OperationalError, *self._connection_errors()) as exc:
            publishing.not_sent(sent, _RETRY_S)
            raise Unreachable(
                f"the broker did not take a message ({type(exc).__name__}); check that RabbitMQ "
                "runs at queue.broker; nothing is lost, it is sent again when the broker is back"
            ) from exc
        METRICS.published.labels(queue).inc()
        return True

    @contextmanager
    def _producer(self) -> Iterator[Producer]:
        """Yield a producer; after a fault its connection is dropped, and the next one is new.

        A firewall that has forgotten a connection tells neither side: it is silent for ever.
        """
        with self._app.producer_or_acquire() as producer:
            try:
                yield producer
            except Exception:
                producer.connection.collect()
                raise

    def _connection_errors(self) -> tuple[type[Exception], ...]:
        transport = self._app.connection_for_write().transport
        return (*transport.connection_errors, *transport.channel_errors)

    def _round(self) -> None:
        if not self._prepared:
            declare_dead_letters(self._app, self._config)
            self._prepared = True
        self.sweep()
