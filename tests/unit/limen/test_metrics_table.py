"""docs/metrics.md and the code say the same; what the journal says is what it holds."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from prometheus_client import Counter
from prometheus_client.metrics_core import Metric

from limen.alarms import Kind
from limen.collectors import DiskCollector, JournalCollector, QaCollector
from limen.config import Config
from limen.journal import Delivery, Journal, WorkerSign
from limen.telemetry import METRICS
from tests.support.journals import PREDICTION, predicted
from tests.support.services import REPOSITORY
from web.results import metrics as of_web

ROW = re.compile(r"^\| `(limen_\w+)` \| (\w+) \| ([^|]*) \|", re.MULTILINE)
Described = dict[str, tuple[str, tuple[str, ...]]]


def config(folder: Path) -> Config:
    return Config.model_validate({"node": {"data_dir": folder}})


def journal(folder: Path) -> Journal:
    made = Journal(f"sqlite:///{folder}/journal.db")
    made.migrate()
    return made


def described(metrics: Iterable[object]) -> Described:
    """Return name -> type and labels, as Prometheus shows them."""
    found = {}
    for metric in metrics:
        (family,) = metric.describe()  # type: ignore[attr-defined]
        name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
        found[name] = (family.type, tuple(metric._labelnames))  # type: ignore[attr-defined]
    return found


def collected(families: Iterable[Metric]) -> Described:
    return {f.name: (f.type, f._labelnames) for f in families}  # type: ignore[attr-defined]


def values(families: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    """Return (name, label values...) -> value."""
    return {(s.name, *s.labels.values()): s.value for f in families for s in f.samples}


def test_every_metric_stands_in_the_table_with_its_type_and_labels_and_no_other(
    tmp_path: Path,
) -> None:
    ours = [value for name, value in vars(METRICS).items() if not name.startswith("_")]
    webs = [getattr(of_web, name) for name in of_web.__all__ if name != "REGISTRY"]
    in_code = (
        described([*ours, *webs])
        | collected(JournalCollector(config(tmp_path), journal(tmp_path)).collect())
        | collected(DiskCollector(config(tmp_path)).collect())
        | collected(QaCollector(config(tmp_path)).collect())
    )
    text = (REPOSITORY / "docs/metrics.md").read_text("utf-8")
    in_docs = {m[1]: (m[2], tuple(re.findall(r"`(\w+)`", m[3]))) for m in ROW.finditer(text)}
    assert in_docs == in_code


def test_a_node_without_work_has_a_number_for_each_lane_and_destination(tmp_path: Path) -> None:
    told = values(JournalCollector(config(tmp_path), journal(tmp_path)).collect())
    assert told["limen_journal_up",] == 1
    assert told["limen_work", "job", "prediction", "queued"] == 0
    assert told["limen_work", "delivery", "archive", "dead"] == 0
    assert told["limen_workers", "explanation", "alive"] == 0
    assert told["limen_destination_away_seconds", "django"] == 0
    assert told["limen_positive_waiting_seconds", "django"] == 0
    assert told["limen_last_instance_timestamp_seconds",] == 0


def test_a_positive_study_that_is_not_delivered_has_an_age_until_it_arrives(tmp_path: Path) -> None:
    at = journal(tmp_path)
    predicted(at)
    at.workers.seen(WorkerSign("w", "host", "1", ("prediction", "django")), 30.0)
    collector = JournalCollector(config(tmp_path), at)
    told = values(collector.collect())
    assert told["limen_work", "delivery", "django", "queued"] == 1
    assert told["limen_workers", "prediction", "alive"] == 1
    assert told["limen_workers", "explanation", "alive"] == 0
    assert told["limen_positive_waiting_seconds", "django"] > 0
    assert told["limen_last_instance_timestamp_seconds",] > 0
    assert told["limen_spool_bytes",] == at.retention.kept_bytes() > 0
    delivery = at.work.claim(Delivery, f"{PREDICTION}-django", "w", 30.0)
    assert delivery is not None
    assert at.work.delivered(delivery, "w")
    told = values(collector.collect())
    assert told["limen_positive_waiting_seconds", "django"] == 0
    assert told["limen_positive_waiting_seconds", "archive"] > 0


def test_a_journal_that_is_away_says_so_and_nothing_old(tmp_path: Path) -> None:
    away = Journal("postgresql+psycopg://limen@127.0.0.1:1/limen")
    told = values(JournalCollector(config(tmp_path), away).collect())
    assert told == {("limen_journal_up",): 0.0, ("limen_alarms", "journal"): 1.0}


def test_each_kind_of_alarm_has_a_number_and_a_word_in_the_table(tmp_path: Path) -> None:
    told = values(JournalCollector(config(tmp_path), journal(tmp_path)).collect())
    assert {key[1] for key in told if key[0] == "limen_alarms"} == {kind.value for kind in Kind}
    text = (REPOSITORY / "docs/metrics.md").read_text("utf-8")
    (row,) = [line for line in text.splitlines() if line.startswith("| `limen_alarms`")]
    assert set(re.findall(r"\w+", row)) >= {kind.value for kind in Kind}
