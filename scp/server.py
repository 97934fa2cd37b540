"""The receiver put together: AE, guard, handlers, spool, assembler, dispatcher."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

import structlog
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.sop_class import Verification

from limen.broker import make_app
from limen.config import Config
from limen.dispatch import Dispatcher
from limen.errors import LimenError
from limen.journal import Journal
from limen.readiness import say_ready
from limen.telemetry import METRICS
from scp.assembler import Assembler
from scp.association import GuardedServer, on_connection, on_requested
from scp.guard import Guard
from scp.handlers import StoreHandler
from scp.spool import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, Spool

__all__ = ["TRANSFER_SYNTAXES", "CannotBind", "Receiver"]

log = structlog.get_logger("scp")

TRANSFER_SYNTAXES = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    JPEG2000Lossless,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    HTJ2K,
    RLELossless,
]
"""What is accepted for every storage SOP class. Deflated is not: it hides its size."""

_DRAIN_S = 20.0
_POLL_S = 0.05


class CannotBind(LimenError):
    """Address or port cannot be used (exit code 3)."""


class Receiver:
    """One receiving process, from ``start`` to ``stop``."""

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
        self._server: GuardedServer | None = None
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
        self._server = self._listen()
        self._assembler.start()
        self._dispatcher.start()
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="acceptor", daemon=True
        ).start()
        return int(self._server.server_address[1])

    def stop(self) -> None:
        """Refuse new associations, let the open ones end, write everything down."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            deadline = time.monotonic() + _DRAIN_S
            # One that is not established (a handshake that never ended) has nothing to lose.
            while time.monotonic() < deadline and any(
                a.is_established for a in server.active_associations
            ):
                time.sleep(_POLL_S)
            for association in server.active_associations:
                association.abort()
        self._assembler.stop()
        self._dispatcher.stop()
        self.journal.close()

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        port = self.start()
        scp = self._config.scp
        log.info(
            "scp.listening",
            host=scp.host,
            port=port,
            peer=scp.ae_title,
            path=str(self._config.data_dir),
            count=len(scp.peer),
        )
        say_ready()
        self._stop.wait()
        log.info("scp.draining")
        self.stop()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._stop.set()

    def _listen(self) -> GuardedServer:
        settings = self._config.scp
        guard = Guard(settings)
        ae = AE(ae_title=settings.ae_title)
        ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        ae.maximum_pdu_size = settings.max_pdu_bytes
        ae.maximum_associations = settings.max_associations
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = settings.pdu_timeout_s
        ae.add_supported_context(Verification)
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, TRANSFER_SYNTAXES)
        store = StoreHandler(self.spool, self._assembler, settings.max_instance_bytes)
        handlers = [
            (evt.EVT_CONN_OPEN, on_connection, [settings]),
            (evt.EVT_REQUESTED, on_requested, [guard]),
            (evt.EVT_C_STORE, store),
            (evt.EVT_ESTABLISHED, self._on_established),
            (evt.EVT_RELEASED, self._on_ended),
            (evt.EVT_ABORTED, self._on_ended),
            (evt.EVT_CONN_CLOSE, self._on_ended),
        ]
        try:
            server: GuardedServer = ae.make_server(
                (settings.host, settings.port),
                evt_handlers=handlers,
                server_class=GuardedServer,
            )
        except OSError as exc:
            raise CannotBind(
                f"cannot listen on {settings.host}:{settings.port} ({exc.strerror}); "
                "is another receiver running? Set scp.port or LIMEN_SCP__PORT"
            ) from exc
        server.guard, server.settings = guard, settings
        ae._servers.append(server)  # what AE.start_server does; shutdown() takes it off again
        return server

    def _on_established(self, event: evt.Event) -> None:
        METRICS.associations.set(len(event.assoc.ae.active_associations))
        log.info(
            "association.open",
            peer=str(event.assoc.requestor.ae_title).strip(),
            address=event.assoc.requestor.address,
            count=len(event.assoc.accepted_contexts),
        )

    def _on_ended(self, event: evt.Event) -> None:
        METRICS.associations.set(len(event.assoc.ae.active_associations))
        self._assembler.ended(id(event.assoc))
