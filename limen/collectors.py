"""What Prometheus is told that no process counts: it is asked of the journal and of the disk.

The journal is one for all processes of a node, so one of them tells what it says: the receiver.
What a process does itself (answers, batches, seconds) each process counts, in
``limen.telemetry.METRICS``.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from limen.alarms import Kind, alarms
from limen.config import Config
from limen.errors import LimenError
from limen.journal import Delivery, Journal, Lane, Shadow, WorkerRow, kind_of
from limen.qa.history import History, Verdict
from limen.states import WorkState

__all__ = ["DiskCollector", "JournalCollector", "QaCollector"]

log = structlog.get_logger("limen.collectors")

_SIZE_EVERY_S = 300.0  # the only question whose cost grows with what is kept
_COUNTED = (WorkState.QUEUED, WorkState.RUNNING, WorkState.SENT, WorkState.DEAD)


class JournalCollector(Collector):
    """Lanes, workers, destinations and ages, asked of the journal at each scrape.

    A journal that is away is told as ``limen_journal_up`` 0 and as an alarm, and everything else is
    left out: an old number would look like a good one.
    """

    def __init__(self, config: Config, journal: Journal) -> None:
        self._config = config
        self._destinations = config.destinations
        self._lanes = config.lanes
        self._journal = journal
        self._spool_bytes = 0
        self._sized_s = float("-inf")

    def collect(self) -> Iterator[Metric]:
        """Return every family; each lane and destination of the settings has its number."""
        up = GaugeMetricFamily("limen_journal_up", "Whether the journal answers")
        try:
            families = list(self._families())
        except LimenError as exc:
            log.warning("metrics.no_journal", error=exc)
            up.add_metric([], 0)
            yield up
            unwell = _alarms()
            unwell.add_metric([Kind.JOURNAL.value], 1)
            yield unwell
            return
        up.add_metric([], 1)
        yield up
        yield from families

    def _families(self) -> Iterator[Metric]:
        known, seen = self._journal.status.queues(), self._journal.status.workers()
        deployed, off_s = self._journal.deployments.standing(), self._journal.database.clock_off_s
        found = alarms(self._config, known, seen, off_s, deployed)
        unwell = _alarms()
        for kind in Kind:
            unwell.add_metric([kind.value], sum(alarm.kind is kind for alarm in found))
        yield unwell
        lanes = dict.fromkeys(self._lanes, Lane()) | known
        yield from _work(lanes)
        yield from _destinations(dict.fromkeys(self._destinations, Lane()) | _away(lanes))
        yield from _workers(self._lanes, seen)
        gauges = self._journal.gauges
        last = gauges.last_instance_at()
        received = GaugeMetricFamily(
            "limen_last_instance_timestamp_seconds", "When the last new instance came (Unix time)"
        )
        received.add_metric([], last.timestamp() if last else 0)
        yield received
        waiting = GaugeMetricFamily(
            "limen_positive_waiting_seconds",
            "Since the last image of the oldest positive study that is not there",
            labels=["destination"],
        )
        for name, age_s in (
            dict.fromkeys(self._destinations, 0.0) | gauges.positive_waiting_s()
        ).items():
            waiting.add_metric([name], age_s)
        yield waiting
        size = GaugeMetricFamily("limen_spool_bytes", "Size of the instances that the spool keeps")
        size.add_metric([], self._size())
        yield size

    def _size(self) -> int:
        if time.monotonic() - self._sized_s >= _SIZE_EVERY_S:
            self._spool_bytes = self._journal.retention.kept_bytes()
            self._sized_s = time.monotonic()
        return self._spool_bytes


class DiskCollector(Collector):
    """What is free where this process writes."""

    def __init__(self, config: Config) -> None:
        self._folders: dict[str, Path] = {"data": config.data_dir}
        archive = config.destination.archive
        if archive.enabled and not archive.bucket:
            self._folders["archive"] = config.archive_dir
        self._watermark_bytes = config.scp.min_free_bytes

    def collect(self) -> Iterator[Metric]:
        """Return what is free, and the watermark; a folder that is not there yet is left out."""
        free = GaugeMetricFamily(
            "limen_disk_free_bytes", "Free on the disk of a folder", labels=["folder"]
        )
        for name, path in self._folders.items():
            try:
                free.add_metric([name], shutil.disk_usage(path).free)
            except OSError:
                continue
        yield free
        mark = GaugeMetricFamily(
            "limen_disk_watermark_bytes", "Below it C-STORE is answered 0xA700"
        )
        mark.add_metric([], self._watermark_bytes)
        yield mark


class QaCollector(Collector):
    """What the last test studies of this host came to (``limen qa``)."""

    def __init__(self, config: Config) -> None:
        self._data_dir = config.data_dir

    def collect(self) -> Iterator[Metric]:
        """Return every family; without a test study only the last success has a number, 0."""
        success = GaugeMetricFamily(
            "limen_qa_last_success_timestamp_seconds", "When limen qa last succeeded (Unix time)"
        )
        fine = GaugeMetricFamily(
            "limen_qa_outcome_ok",
            "Whether the last test study came to its outcome",
            labels=["head"],
        )
        took = GaugeMetricFamily(
            "limen_qa_latency_seconds", "From its last image to its arrival", labels=["head"]
        )
        limit = GaugeMetricFamily(
            "limen_qa_latency_limit_seconds", "Above that it is slow", labels=["head"]
        )
        try:
            history = History.read(self._data_dir)
        except LimenError as exc:
            log.warning("metrics.no_qa", error=exc)
            history = History()
        last = history.last_success
        success.add_metric([], last.timestamp() if last else 0)
        for head, run in history.last.items():
            fine.add_metric([head], run.verdict is not Verdict.FAILED)
            if run.latency_s is not None:
                took.add_metric([head], run.latency_s)
            if run.latency_limit_s is not None:
                limit.add_metric([head], run.latency_limit_s)
        yield from (success, fine, took, limit)


def _alarms() -> GaugeMetricFamily:
    return GaugeMetricFamily("limen_alarms", "What limen status tells as not well", labels=["kind"])


def _work(lanes: dict[str, Lane]) -> Iterator[Metric]:
    work = GaugeMetricFamily(
        "limen_work", "Work that has not ended well, by state", labels=["kind", "lane", "state"]
    )
    oldest = GaugeMetricFamily(
        "limen_work_oldest_seconds",
        "Age of the oldest work that waits or runs",
        labels=["kind", "lane"],
    )
    for name, lane in lanes.items():
        kind = _kind(name)
        for state in _COUNTED:
            if state is not WorkState.SENT or kind == "delivery":
                work.add_metric([kind, name, state.value], getattr(lane, state.value))
        oldest.add_metric([kind, name], lane.oldest_s)
    yield work
    yield oldest


def _destinations(lanes: dict[str, Lane]) -> Iterator[Metric]:
    away = GaugeMetricFamily(
        "limen_destination_away_seconds",
        "How long a destination has been away",
        labels=["destination"],
    )
    rejects = GaugeMetricFamily(
        "limen_destination_rejects", "Whether a PACS rejects this node", labels=["destination"]
    )
    for name, lane in lanes.items():
        away.add_metric([name], lane.away_s or 0.0)
        rejects.add_metric([name], bool(lane.unwelcome))
    yield away
    yield rejects


def _workers(lanes: Iterable[str], seen: Iterable[WorkerRow]) -> Iterator[Metric]:
    workers = GaugeMetricFamily(
        "limen_workers",
        "Workers that take work of a lane; late: their sign of life is overdue",
        labels=["lane", "state"],
    )
    off = GaugeMetricFamily(
        "limen_worker_clock_off_seconds", "The largest error of the clock of a worker's host"
    )
    rows = list(seen)
    for lane in lanes:
        for state, late in (("alive", False), ("late", True)):
            count = sum(1 for row in rows if lane in row.lanes and row.late is late)
            workers.add_metric([lane, state], count)
    off.add_metric([], max((abs(row.clock_off_s) for row in rows), default=0.0))
    yield workers
    yield off


def _away(lanes: dict[str, Lane]) -> dict[str, Lane]:
    return {name: lane for name, lane in lanes.items() if kind_of(name) is Delivery}


def _kind(lane: str) -> str:
    kind = kind_of(lane)
    if kind is Shadow:
        return "shadow"
    return "delivery" if kind is Delivery else "job"
