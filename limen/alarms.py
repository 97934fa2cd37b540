"""Alarms: the one place that knows what is dead, late, missing or full.

`limen status`, the metrics and whoever watches a node ask here, so that all of them say the same.
An alarm names its kind and what it is about, and says in words what is wrong and what to do.
"""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path

from limen.certificate import ends_at, ours
from limen.config import Config
from limen.errors import LimenError
from limen.journal import Deployed, Lane, WorkerRow
from limen.qa.history import History, Verdict
from limen.states import DeploymentState, HoldingState

__all__ = [
    "Alarm",
    "Kind",
    "age",
    "alarms",
    "clock_off",
    "of_broker",
    "of_certificates",
    "of_disk",
    "of_models",
    "of_qa",
]

_LATE_S = 900.0
"""Work that waits longer than the longest wait between two attempts is late."""

_CLOCK_OFF_S = 2.0
"""So far the clock of a host may be from that of the journal."""

_NO_MESSAGE_S = 60.0
"""Work is due for so long and no message of it went out: the broker takes none."""

_LOADS_S = 600.0
"""So long a version that was asked for may be loaded and tried."""

_CONNECT_S = 2.0
_EXPIRES_DAYS = 14


class Kind(StrEnum):
    """What is wrong."""

    DEAD = "dead"
    """Work was given up."""
    LATE = "late"
    """Work has waited for too long."""
    MISSING = "missing"
    """No worker gives a sign of life, or none takes a queue."""
    AWAY = "away"
    """A destination, or what work needs, does not answer."""
    REJECTED = "rejected"
    """A PACS rejects this node."""
    DISK = "disk"
    """The spool is full, or about to be."""
    BROKER = "broker"
    """The broker does not answer, or takes no message."""
    JOURNAL = "journal"
    """The journal does not answer: what else is not well is not known."""
    CERTIFICATE = "certificate"
    """A certificate of ours is about to end, or has."""
    CLOCK = "clock"
    """A host does not know the time."""
    QA = "qa"
    """The last test study of this host did not come to what it should, or was slow."""
    MODEL = "model"
    """A version of a model does not serve that should, or a worker cannot run the one that does."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something that is not well.

    Attributes
    ----------
    about
        Which lane, worker, host or folder; nothing that a patient is known by.
    """

    kind: Kind
    about: str
    text: str


def alarms(
    config: Config,
    lanes: Mapping[str, Lane],
    workers: Sequence[WorkerRow],
    clock_off_s: float = 0.0,
    deployed: Deployed | None = None,
) -> list[Alarm]:
    """Return all that is not well, by journal and broker, and by what there is of this host.

    Parameters
    ----------
    lanes, workers
        From ``Journal.status``.
    clock_off_s
        How far the clock of this host is ahead of that of the journal, in seconds:
        ``Database.clock_off_s``.
    deployed
        From ``Journal.deployments``; None where there is nothing to say of versions.
    """
    return [
        *_of_lanes(lanes, workers),
        *_of_workers(workers),
        *_of_clocks(workers, clock_off_s),
        *of_broker(config, lanes),
        *of_disk(config),
        *of_certificates(config),
        *of_qa(config),
        *(of_models(deployed) if deployed is not None else ()),
    ]


def _of_lanes(lanes: Mapping[str, Lane], workers: Sequence[WorkerRow]) -> Iterator[Alarm]:
    """Yield what is wrong with the queues and the destinations."""
    served = {lane for worker in workers if not worker.late for lane in worker.lanes}
    for name, lane in lanes.items():
        if lane.dead:
            text = f"{name}: {lane.dead} dead; `limen status --dead` says which"
            yield Alarm(Kind.DEAD, name, text)
        if lane.unwelcome:
            yield Alarm(Kind.REJECTED, name, f"{name}: {lane.unwelcome}")
        elif lane.away_s is not None:
            text = f"{name}: away for {age(lane.away_s)}; deliveries wait for it"
            yield Alarm(Kind.AWAY, name, text)
        elif lane.waits_for:
            text = f"{name}: {lane.queued} wait, and nothing is lost: {lane.waits_for}"
            yield Alarm(Kind.AWAY, name, text)
        elif lane.oldest_s > _LATE_S:
            text = f"{name}: late, the oldest has waited for {age(lane.oldest_s)}"
            yield Alarm(Kind.LATE, name, text)
        if lane.queued and served and name not in served:
            yield Alarm(Kind.MISSING, name, f"{name}: no worker takes it")


def _of_workers(workers: Sequence[WorkerRow]) -> Iterator[Alarm]:
    """Yield which workers are missing."""
    if not workers:
        text = "no worker has given a sign of life within the hour; start one: limen worker"
        yield Alarm(Kind.MISSING, "worker", text)
    for worker in workers:
        name = worker.name
        if worker.late:
            text = f"worker {name}: dead or cut off, last seen {age(worker.seen_s)} ago"
            yield Alarm(Kind.MISSING, name, text)


def _of_clocks(workers: Sequence[WorkerRow], here_off_s: float) -> Iterator[Alarm]:
    """Yield which hosts do not know the time: this one, and those of workers."""
    hosts = {w.host: w.clock_off_s for w in workers if not w.late}
    for host, off_s in (hosts | {socket.gethostname(): here_off_s}).items():
        if off := _off(host, off_s):
            yield Alarm(Kind.CLOCK, host, f"{off}; set it right (NTP)")


def clock_off(worker: WorkerRow) -> str:
    """Return how far the clock of a worker's host is off, in words; "" where it is right."""
    return _off(worker.host, worker.clock_off_s)


def _off(host: str, off_s: float) -> str:
    if abs(off_s) <= _CLOCK_OFF_S:
        return ""
    return f"the clock of {host} is {age(abs(off_s))} {'ahead' if off_s > 0 else 'behind'}"


def of_broker(config: Config, lanes: Mapping[str, Lane]) -> Iterator[Alarm]:
    """Yield whether the broker takes messages, and where none are to be sent whether it is there.

    Asked of the journal first: RabbitMQ that is short of memory or disk answers, and takes nothing.
    """
    waits_s = max((lane.unsent_s for lane in lanes.values()), default=0.0)
    if waits_s > _NO_MESSAGE_S:
        text = (
            f"no message has gone out for work that was due {age(waits_s)} ago: the broker is away "
            "or takes none (memory or disk alarm), or no receiver and no worker runs; "
            "`limen doctor broker` says which, and nothing is lost"
        )
        yield Alarm(Kind.BROKER, "broker", text)
        return
    if config.queue.address is None:
        return
    host, port = config.queue.address
    try:
        socket.create_connection((host, port), _CONNECT_S).close()
    except OSError as exc:
        why = exc.strerror or type(exc).__name__
        text = (
            f"the broker at {host}:{port} does not answer ({why}); start RabbitMQ, or put "
            "queue.broker right; nothing is lost meanwhile"
        )
        yield Alarm(Kind.BROKER, "broker", text)


def of_certificates(config: Config) -> Iterator[Alarm]:
    """Yield which certificates of ours end within two weeks; what is not here says nothing."""
    for name, path in ours(config).items():
        if text := _ends_soon(path):
            yield Alarm(Kind.CERTIFICATE, name, f"the certificate of {name}, {path}, {text}")


def _ends_soon(path: Path) -> str:
    """Return when a certificate ends, where that is soon, in words; "" where it is not."""
    if find_spec("cryptography") is None:
        return ""
    try:
        ends = ends_at(path)
    except OSError:  # another host has it, or this account may not read it
        return ""
    except ValueError:
        return "is none in PEM; put the file right"
    left_s = (ends - datetime.now(UTC)).total_seconds()
    if left_s <= 0:
        return f"has expired on {ends:%Y-%m-%d}; renew it"
    soon = left_s < _EXPIRES_DAYS * 86400
    return f"expires in {age(left_s)}, on {ends:%Y-%m-%d}; renew it" if soon else ""


def of_disk(config: Config) -> Iterator[Alarm]:
    """Yield whether the disk of the spool is full; what is not of this host says nothing."""
    try:
        free = shutil.disk_usage(config.spool_dir).free
    except OSError:
        return
    if free < config.scp.min_free_bytes:
        text = (
            f"the disk of the spool is full: {_size(free)} are free, and senders get 0xA700 below "
            f"{_size(config.scp.min_free_bytes)} (scp.min_free_bytes); `limen purge`, or make space"
        )
        yield Alarm(Kind.DISK, "spool", text)
    elif free < config.free_bytes:
        text = (
            f"the disk of the spool fills up: {_size(free)} are free, less than "
            f"{_size(config.free_bytes)} (retention.free_bytes), and nothing delivered is left to "
            "purge; make space"
        )
        yield Alarm(Kind.DISK, "spool", text)


def of_qa(config: Config) -> Iterator[Alarm]:
    """Yield what is wrong with the last test studies; a host that sends none says nothing."""
    try:
        last = History.read(config.data_dir).last
    except LimenError as exc:
        yield Alarm(Kind.QA, "history", str(exc))
        return
    for head, run in last.items():
        if run.verdict is not Verdict.OK:
            when = age((datetime.now(UTC) - run.at).total_seconds())
            todo = f"; {run.next}" if run.next else ""
            yield Alarm(Kind.QA, head, f"test study, {when} ago: {run.text}{todo}")


def of_models(deployed: Deployed) -> Iterator[Alarm]:
    """Yield what is wrong with the versions of each model: one that should serve and does not."""
    for name in deployed.names:
        if wrong := [*_of_model(deployed, name)]:
            yield Alarm(Kind.MODEL, name, "; ".join(wrong))


def _of_model(deployed: Deployed, name: str) -> Iterator[str]:
    serving = deployed.serving(name)
    goes_on = f"{name} {serving[0].version} goes on" if serving else "none serves"
    if not serving:
        yield f"no version of {name} serves, its studies wait: limen model deploy {name} VERSION"
    for one in (d for d in deployed.deployments if d.name == name):
        about = [h for h in deployed.holdings if h.deployment == one.id]
        if one.state is DeploymentState.REFUSED:
            yield (
                f"{name} {one.version} does not serve, {goes_on}: {one.note}; deploy one that is "
                f"right, or `limen model rollback {name}` to do without"
            )
        elif one.state is DeploymentState.SERVING:
            for held in (h for h in about if h.state is HoldingState.FAILED):
                yield f"worker {held.who} cannot run {name} {one.version}: {held.text}"
        elif (waits_s := (deployed.at - one.asked_at).total_seconds()) > _LOADS_S:
            slow = [h.who for h in about if h.state is HoldingState.LOADING]
            on = f"; not ready on {', '.join(slow)}" if slow else "; no worker has it"
            yield f"{name} {one.version} was asked for {age(waits_s)} ago, {goes_on}{on}"


def age(seconds: float) -> str:
    """Return a time in the largest unit that says enough."""
    for unit, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
