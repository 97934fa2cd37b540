"""The receiver put together: acceptor, guard, handlers, spool, assembler, dispatcher."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime
from types import FrameType

import structlog

from limen.broker import make_app
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import ConfigError
from limen.instance import NewCommitment, NewInstance
from limen.journal import Journal
from limen.readiness import say_ready
from limen.telemetry import METRICS, serve_metrics
from scp.acceptor import Acceptor, CannotBind
from scp.assembler import Assembler
from scp.association import House
from scp.commitment import Commitments
from scp.crew import Crew
from scp.guard import Guard
from scp.roster import Roster
from scp.spool import Spool
from scp.tls import Credentials

__all__ = ["CannotBind", "Receiver"]

log = structlog.get_logger("scp")

_DRAIN_S = 20.0
_EXPIRY_CHECK_S = 3600.0
_MIGRATE_S = 300.0
_EXPIRY_WARNING_DAYS = 30


class Receiver:
    """The receiver, from ``start`` to ``stop``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self.journal = Journal(config.journal_url)
        self.spool = Spool(config.spool_dir, config.scp.min_free_bytes)
        self._dispatcher = Dispatcher(config, self.journal, make_app(config))
        self._assembler = Assembler(
            self.journal,
            self.spool,
            config.scp.quiet_s,
            config.scp.release_quiet_s,
            self._dispatcher.ring,
        )
        self._credentials = Credentials(config.scp.tls) if config.scp.tls.port else None
        self._serving = self._serve_here() if config.scp.processes == 1 else self._serve_beside()
        self._commitments = Commitments(config, self.journal, self._assembler.flush, self._serving)
        self._acceptor = Acceptor(config.scp, Guard(config.scp), self._serving.serve)
        self._kept = METRICS.instances.labels("0x0000")
        self._started = False
        self._stop = threading.Event()

    def start(self) -> int:
        """Open the port and return it.

        Raises
        ------
        CannotBind
            The address is in use or not of this machine.
        Unreachable
            The journal does not answer.
        """
        self.journal.migrate()
        port, self.tls_port = self._acceptor.bind()
        if isinstance(self._serving, Crew):
            self._serving.start()
        self._assembler.start()
        self._dispatcher.start()
        self._commitments.start()
        self._acceptor.start()
        self._check_expiry()
        self._started = True
        return port

    def stop(self) -> None:
        """Refuse new associations, let the open ones end, write everything down."""
        self._acceptor.stop()
        if self._started:
            self._serving.drain(_DRAIN_S)
            self._started = False
        self._commitments.stop()
        self._assembler.stop()
        self._dispatcher.stop()
        self.journal.close()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        metrics = self._config.metrics
        serve_metrics(metrics.host, metrics.scp_port)
        self._migrate_beside()
        port = self.start()
        scp = self._config.scp
        log.info(
            "scp.listening",
            host=scp.host,
            port=port,
            peer=scp.ae_title,
            path=str(self._config.data_dir),
            count=len(scp.peer),
            process=scp.processes,
        )
        say_ready()
        while not self._stop.wait(_EXPIRY_CHECK_S):
            self._check_expiry()
        log.info("scp.draining")
        self.stop()

    @property
    def open_associations(self) -> int:
        """Connections that are open now."""
        return self._acceptor.open_count

    def _migrate_beside(self) -> None:
        """Migrate in a process of its own: what that loads would stay in this one for ever.

        Whether it worked is seen by ``start``, which migrates what is left to migrate.
        """
        if not self.journal.is_current():
            subprocess.run(
                [sys.executable, "-m", "limen.migrations"],
                input=self.journal.url,
                text=True,
                stderr=subprocess.DEVNULL,
                timeout=_MIGRATE_S,
                check=False,
            )

    def _serve_here(self) -> Roster:
        house = House.of(self._config.scp, self.spool, self, self._credentials)
        return Roster(house, self._on_end)

    def _serve_beside(self) -> Crew:
        return Crew(self._config, self.spool, self, self._on_end, self._assembler.look_again)

    # -- what associations report (scp.handlers.Intake) ------------------------------------------

    def add(self, instance: NewInstance, association: int) -> None:
        """Take a kept instance, and count its Success."""
        self._assembler.add(instance, association)
        self._kept.inc()
        METRICS.received_bytes.inc(instance.size_bytes)

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Take a request for storage commitment."""
        self._commitments.ask(asked, association)

    def refused(self, status: int) -> None:
        """Count an answer to C-STORE that is not Success."""
        METRICS.instances.labels(f"0x{status:04X}").inc()

    def rejected(self, reason: str) -> None:
        """Count an association that was refused."""
        METRICS.rejected.labels(reason).inc()

    def _on_end(self, number: int) -> None:
        self._acceptor.ended(number)
        self._assembler.ended(number)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _check_expiry(self) -> None:
        """Put the end of the certificate into the metrics, and warn before it."""
        if self._credentials is None:
            return
        try:
            ends = self._credentials.expires_at()
        except ConfigError as exc:
            log.error("tls.unreadable", error=exc)
            return
        METRICS.certificate_expiry.set(ends.timestamp())
        left = ends - datetime.now(UTC)
        if left.days < _EXPIRY_WARNING_DAYS:
            log.warning("tls.expires", reason=f"{ends:%Y-%m-%d}", seconds=left.total_seconds())
