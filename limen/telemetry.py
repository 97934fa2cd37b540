"""Structured logs with an allow-list of fields, and the metrics in one table.

No PHI in logs (invariant I8): a field that is not on the list is withheld, the text of an
exception that Limen did not raise itself is withheld (it may quote a data element), and so is
whatever a library logs or warns, unless that library never sees a data set.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import structlog
from amqp.exceptions import AMQPError
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
)
from prometheus_client.registry import Collector
from structlog.typing import EventDict, WrappedLogger

from limen.errors import LimenError
from logs import lines

__all__ = ["ALLOWED_FIELDS", "METRICS", "configure", "serve_metrics"]

# fmt: off
ALLOWED_FIELDS = frozenset(
    {
        "event", "level", "timestamp", "logger", "study", "job", "peer",
        "address", "status", "attempt", "reason", "error", "stage", "seconds", "count", "port",
        "host", "path", "version", "bundle", "backend", "process", "state", "revision", "queue",
        "where", "code", "called", "proposed", "accepted", "refused", "classes", "implementation",
        "identity", "association", "delivery", "destination", "phase", "outcome", "again",
    }
)
# fmt: on
# Libraries that handle keys, queues and sockets, never a data set.
_TRUSTED_LOGGERS = ("limen", "logs", "scp", "worker", "celery", "kombu", "amqp", "alembic")
# What Celery puts into the message of a task that failed (celery.app.trace), as text.
_QUOTING = frozenset({"exc", "traceback", "args", "kwargs", "return_value"})
_WITHHELD = "(withheld)"

_LONG = (0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600, 14400)


class METRICS:  # noqa: N801 - a table, read as one
    """Every metric, in one table."""

    instances = Counter("limen_instances_total", "Instances by C-STORE status", ["status"])
    instances_refused = Counter(
        "limen_instances_refused_total", "Instances that were not kept", ["reason"]
    )
    store_seconds = Histogram(
        "limen_store_seconds",
        "C-STORE: seconds that the data set came, and from its last byte to the answer",
        ["part"],
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    )
    received_bytes = Counter("limen_received_bytes_total", "Bytes kept in the spool")
    set_aside = Counter(
        "limen_instances_set_aside_total", "Instances whose row the journal does not take"
    )
    associations = Gauge("limen_associations", "Associations open now")
    rejected = Counter("limen_associations_rejected_total", "Associations refused", ["reason"])
    certificate_expiry = Gauge(
        "limen_tls_certificate_expiry_seconds", "When the receiver's certificate ends (Unix time)"
    )
    jobs = Counter("limen_jobs_total", "Jobs by phase and how they ended", ["phase", "end"])
    job_seconds = Histogram("limen_job_seconds", "Seconds a job ran", ["phase"], buckets=_LONG)
    outcomes = Counter("limen_outcomes_total", "Predictions by outcome", ["outcome"])
    lime_seconds = Histogram(
        "limen_lime_seconds",
        "Seconds that the explanation of one slice took; several take turns",
        buckets=_LONG,
    )
    to_prediction_seconds = Histogram(
        "limen_last_image_to_prediction_seconds",
        "Seconds from the last instance of a study to its committed prediction",
        buckets=_LONG,
    )
    to_explanation_seconds = Histogram(
        "limen_last_image_to_explanation_seconds",
        "Seconds from the last instance of a study to its committed explanation",
        buckets=_LONG,
    )
    to_delivered_seconds = Histogram(
        "limen_last_image_to_delivered_seconds",
        "Seconds from the last instance of a study to the arrival of a result",
        ["destination", "phase"],
        buckets=_LONG,
    )
    deliveries = Counter(
        "limen_deliveries_total", "Deliveries by destination and end", ["destination", "end"]
    )
    engine_waiting = Gauge("limen_engine_waiting", "Items that wait for the model", ["lane"])
    engine_wait_seconds = Histogram(
        "limen_engine_wait_seconds",
        "Seconds from a request to its first batch",
        ["lane"],
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10, 60),
    )
    engine_batch_seconds = Histogram(
        "limen_engine_batch_seconds",
        "Seconds that the model took for a batch of a size",
        ["size"],
        buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10),
    )
    engine_batch_fill = Histogram(
        "limen_engine_batch_fill",
        "Share of a batch that is no padding",
        buckets=(0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1),
    )
    audit_waiting = Gauge("limen_audit_waiting", "Audit messages that the collector has not yet")
    audit_sent = Counter("limen_audit_sent_total", "Audit messages that the collector has")
    audit_dropped = Counter("limen_audit_dropped_total", "Audit messages that found no room")
    notices = Counter("limen_alarm_notices_total", "Notices of alarms, by how they ended", ["end"])
    notices_waiting = Gauge(
        "limen_alarm_notices_waiting", "Notices of alarms that the webhook has not yet"
    )
    published = Counter("limen_published_total", "Messages the broker confirmed", ["queue"])


def configure(level: str = "info", form: str = "text", name: str = "limen") -> None:
    """Send every log line of this process one way, through the allow-list.

    Parameters
    ----------
    level
        ``debug``, ``info``, ``warning`` or ``error``.
    form
        ``text`` for people, ``json`` for a log collector, ``journald`` for the journal of systemd.
    name
        Of this program, in the journal of systemd.
    """
    lines.configure(level, form, name, foreign=[_withhold_foreign], every=[_allow_listed])
    for chatty in ("pydicom", "pynetdicom", "py.warnings"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    for chatty in ("celery", "kombu", "amqp", "alembic", "urllib3", "highdicom", "dicomweb_client"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    structlog.configure(
        processors=[*lines.SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def serve_metrics(host: str, port: int, *collectors: Collector) -> None:
    """Serve ``/metrics`` of this process in a thread of its own; port 0 serves nothing.

    Parameters
    ----------
    collectors
        What is asked anew at each scrape, beside what this process counts.

    Raises
    ------
    LimenError
        The address is in use or not of this machine.
    """
    if not port:
        return
    registry = CollectorRegistry()
    for collector in (REGISTRY, *collectors):
        registry.register(collector)
    try:
        start_http_server(port, addr=host, registry=registry)
    except OSError as exc:
        raise LimenError(
            f"cannot serve metrics on {host}:{port} ({exc.strerror}); set metrics.scp_port or "
            "metrics.worker_port, or 0 for none"
        ) from exc


def _allow_listed(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    return {
        key: _value(value) if key in ALLOWED_FIELDS else _WITHHELD
        for key, value in event.items()
        if value is not None
    }


def _value(value: object) -> object:
    """An exception is shown with its text only when that text is our own."""
    if isinstance(value, LimenError):
        return str(value)
    if isinstance(value, BaseException):
        return type(value).__name__
    return value


def _withhold_foreign(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Withhold the text of who may have seen a data set; of others, what an exception says.

    Celery quotes what a task of ours raised, in the arguments of its message.
    """
    name = str(event.get("logger", ""))
    arguments = event.pop("positional_args", None)
    template = event["_record"].msg
    if name.split(".", maxsplit=1)[0] not in _TRUSTED_LOGGERS:
        event["event"] = "log.withheld"
    elif isinstance(arguments, Mapping):
        named = {k: _WITHHELD if k in _QUOTING else _told(v) for k, v in arguments.items()}
        event["event"] = template % named
    elif arguments:
        event["event"] = template % tuple(_told(value) for value in arguments)
    return event


def _told(value: object) -> object:
    """An exception of the network says what is wrong with it; any other may quote a value."""
    if isinstance(value, BaseException) and not isinstance(value, OSError | AMQPError):
        return _value(value)
    return value
