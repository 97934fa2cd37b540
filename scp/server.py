"""The receiver put together: acceptor, guard, handlers, spool, assembler, dispatcher, retention."""

from __future__ import annotations

import contextlib
import queue
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime
from types import FrameType

import structlog

from limen import bulletin, notices
from limen.audit import Trail
from limen.broker import make_app
from limen.collectors import DiskCollector, JournalCollector, QaCollector
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import AnotherSpool, ConfigError, LostJournal
from limen.instance import CommitmentReport, NewCommitment, NewInstance
from limen.journal import REPAIR, Journal, host_name
from limen.purge import ROUND_S, Purge
from limen.readiness import Sign, Watchdog, say_ready, say_stopping
from limen.rounds import Rounds
from limen.telemetry import METRICS, serve_metrics
from scp.acceptor import Acceptor, CannotBind
from scp.assembler import Assembler
from scp.audited import Audited
from scp.commitments import Commitments
from scp.guard import Guard
from scp.processes.parent import ReceivingProcesses
from scp.roster import Roster
from scp.service import Service
from scp.spool import Spool
from scp.tls import Credentials

__all__ = ["CannotBind", "Receiver"]

log = structlog.get_logger("scp")

_DRAIN_S = 20.0
_EXPIRY_CHECK_S = 3600.0
_SIGNAL_S = 1.0
_MIGRATE_S = 300.0
_EXPIRY_WARNING_DAYS = 30
_LATELY_S = 3600.0
_LOOK_AT = 20
"""Of so many instances one at least is there, whatever is set aside or purged meanwhile."""


class Receiver:
    """The receiver, from ``start`` to ``stop``."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._name = f"{host_name()}:{config.scp.port}"
        self.journal = Journal(config.journal_url)
        self.spool = Spool(config.spool_dir, config.scp.min_free_bytes)
        self._dispatcher = Dispatcher(config, self.journal, make_app(config))
        self._assembler = Assembler(
            self.journal,
            self.spool,
            config.scp.quiet_s,
            config.scp.release_quiet_s,
            self._dispatcher.ring,
            name=self._name,
            originals_first=config.originals_first,
        )
        self._credentials = Credentials(config.scp.tls) if config.scp.tls.port else None
        self._serving = self._serve_here() if config.scp.processes == 1 else self._serve_beside()
        self._commitments = Commitments(config, self.journal, self._assembler.flush, self._serving)
        self._purge = Rounds("retention", Purge(config, self.journal).round, ROUND_S)
        self._bulletin = Rounds(
            "bulletin", bulletin.Bulletin(config, self.journal).round, bulletin.ROUND_S
        )
        self._notices = (
            Rounds("notices", notices.Notices(config, self.journal).round, notices.ROUND_S)
            if config.alarm.webhook
            else None
        )
        self._trail = Trail(config, "scp")
        self._audited = Audited(self._trail, config.spool_dir)
        self._acceptor = Acceptor(
            config.scp,
            Guard(config.scp),
            self._serving.serve,
            lambda reason, address: self._audited.rejected(reason, "", address),
        )
        self._kept = METRICS.instances.labels("0x0000")
        self._receiving_s = METRICS.store_seconds.labels("receiving")
        self._keeping_s = METRICS.store_seconds.labels("keeping")
        self._started = False
        # No Event: one that a signal sets while its own waiter holds its lock waits for ever.
        self._stop: queue.SimpleQueue[int] = queue.SimpleQueue()

    def start(self) -> int:
        """Open the port and return it.

        Raises
        ------
        CannotBind
            The address is in use or not of this machine.
        Unreachable
            The journal does not answer.
        LostJournal
            It is damaged, or empty although there are results.
        AnotherSpool
            Another receiver writes into it what it keeps in a spool of its own.
        """
        self.journal.check()
        self.journal.migrate()
        self._refuse_lost()
        self._refuse_another_spool()
        port, self.tls_port = self._acceptor.bind()
        if isinstance(self._serving, ReceivingProcesses):
            self._serving.start()
        self._assembler.start()
        self._dispatcher.start()
        self._commitments.start()
        self._purge.start()
        if self._config.destination.django.enabled:
            self._bulletin.start()
        if self._notices is not None:
            self._notices.start()
        self._trail.start()
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
        self._purge.stop()
        self._bulletin.stop()
        if self._notices is not None:
            self._notices.stop()
        self._trail.stop()
        self._assembler.stop()
        self._dispatcher.stop()
        self.journal.close()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        metrics = self._config.metrics
        serve_metrics(
            metrics.host,
            metrics.scp_port,
            DiskCollector(self._config),
            JournalCollector(self._config, self.journal),
            QaCollector(self._config),
        )
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
        self._wait()
        say_stopping()
        log.info("scp.draining")
        self.stop()

    def _wait(self) -> None:
        """Wait for a signal; meanwhile tell that all lives, and look at the certificate."""
        watchdog = Watchdog(
            {
                "acceptor": self._acceptor.silent_s,
                "assembler": self._assembler.silent_s,
                "dispatcher": self._dispatcher.silent_s,
            }
        )
        every_s = min(watchdog.every_s or _EXPIRY_CHECK_S, _EXPIRY_CHECK_S)
        checked = Sign()
        while not self._told_to_stop(every_s):
            watchdog.look()
            if checked.silent_s() >= _EXPIRY_CHECK_S:
                checked.show()
                self._check_expiry()

    @property
    def open_associations(self) -> int:
        """Connections that are open now."""
        return self._acceptor.open_count

    def _migrate_beside(self) -> None:
        """Migrate in a process of its own: what that loads would stay in this one for ever.

        Whether it worked is seen by ``start``, which migrates what is left to migrate.
        """
        if not self.journal.is_current():
            self.journal.check()
            subprocess.run(
                [sys.executable, "-m", "limen.journal"],
                input=self.journal.url,
                text=True,
                stderr=subprocess.DEVNULL,
                timeout=_MIGRATE_S,
                check=False,
            )

    def _refuse_lost(self) -> None:
        """Results that an empty journal does not know would all be made and shown again."""
        if self.journal.receiving.knows_any():
            return
        with contextlib.suppress(FileNotFoundError):
            if any(one.is_dir() for one in self._config.results_dir.iterdir()):
                raise LostJournal(
                    f"the journal {self.journal.database.name} is empty, and there are results in "
                    f"{self._config.results_dir}: it was lost, or this is another one; put "
                    f"journal.url right, or: {REPAIR}"
                )

    def _refuse_another_spool(self) -> None:
        """A study with halves in two spools would be analysed without one of them."""
        paths = self.journal.receiving.kept_elsewhere(self._name, _LATELY_S, _LOOK_AT)
        if paths and not any((self.spool.root / path).exists() for path in paths):
            raise AnotherSpool(
                f"another receiver with the journal {self.journal.database.name} has kept "
                f"instances that are not in {self.spool.root}: receivers that share a journal "
                "share node.data_dir; mount it here, put journal.url or node.data_dir right, or "
                f"begin {_LATELY_S / 3600:.0f} h after that receiver has ended"
            )

    def _serve_here(self) -> Roster:
        service = Service.of(self._config.scp, self.spool, self, self._credentials)
        return Roster(service, self._on_end)

    def _serve_beside(self) -> ReceivingProcesses:
        return ReceivingProcesses(
            self._config, self.spool, self, self._on_end, self._assembler.look_again
        )

    # -- what associations report (scp.intake.Intake) ------------------------------------------

    def add(self, instance: NewInstance, association: int) -> None:
        """Take a kept instance, and count its Success."""
        self._assembler.add(instance, association)
        self._audited.came(instance, association, self._acceptor.address_of(association))
        self._kept.inc()
        METRICS.received_bytes.inc(instance.size_bytes)

    def ask(self, asked: NewCommitment, association: int) -> None:
        """Take a request for storage commitment."""
        self._commitments.ask(asked, association)

    def reported(self, report: CommitmentReport) -> bool:
        """Take what a PACS says to a request of ours: the delivery that asked is due."""
        known = self.journal.objects.reported(report)
        if known:
            self._dispatcher.ring()
        return known

    def refused(self, status: int, reason: str) -> None:
        """Count an answer to C-STORE that is not Success."""
        METRICS.instances.labels(f"0x{status:04X}").inc()
        METRICS.instances_refused.labels(reason).inc()

    def took(self, receiving_s: float, keeping_s: float) -> None:
        """Measure an answer to C-STORE."""
        self._receiving_s.observe(receiving_s)
        self._keeping_s.observe(keeping_s)

    def not_kept(self, association: int, status: int, comment: str) -> None:
        """Note what an association was refused, beside what it brings."""
        self._assembler.refused(association, f"0x{status:04X} {comment}")

    def rejected(self, reason: str, peer: str, address: str) -> None:
        """Count an association that was refused."""
        METRICS.rejected.labels(reason).inc()
        self._audited.rejected(reason, peer, address)

    def _on_end(self, number: int) -> None:
        address = self._acceptor.address_of(number)
        self._audited.ended(number, address)
        self._acceptor.ended(number)
        self._assembler.ended(number, address)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.put(number)  # reentrant, as a handler of signals needs it

    def _told_to_stop(self, within_s: float) -> bool:
        """Return whether a signal came; in short waits.

        The handler of one that comes in the instant before a wait runs after it, and not before.
        """
        deadline_s = time.monotonic() + within_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            try:
                self._stop.get(timeout=min(left_s, _SIGNAL_S))
            except queue.Empty:
                continue
            return True
        return False

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
