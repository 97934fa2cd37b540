"""limen.qa: what is compared with what, what moves, and what is kept of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from limen.alarms import Kind, of_qa
from limen.collectors import QaCollector
from limen.config import Qa
from limen.errors import LimenError
from limen.qa import history as kept_in
from limen.qa.history import Baseline, History, Run, Verdict, history_file
from limen.qa.judgement import judge, same_of_everything
from tests.support.samples import settings

LIMITS = Qa()
BEGAN = datetime(2026, 11, 29, 12, tzinfo=UTC)


def measured(number: int = 0, **more: Any) -> Run:
    """Return a run as it comes in, the ``number``-th hour."""
    values: dict[str, Any] = {
        "at": BEGAN + timedelta(hours=number),
        "head": "bleed",
        "verdict": Verdict.OK,
        "text": "",
        "pixels_sha256": "aa",
        "bundle": "ich",
        "bundle_sha256": "bb" * 32,
        "outcome": "positive",
        "probability": 0.95,
        "latency_s": 3.0,
    }
    return Run(**values | more)


def ran(*latencies_s: float, **more: Any) -> History:
    """Return the history of runs that took so long, one after the other."""
    history = History()
    for n, latency_s in enumerate(latencies_s):
        run = judge(measured(n, latency_s=latency_s, **more), history, LIMITS)
        history = History([*history.runs, run])
    return history


def test_the_first_run_of_a_bundle_is_its_baseline() -> None:
    run = judge(measured(), ran(3.0, 3.0, bundle_sha256="cc" * 32), LIMITS)
    assert (run.verdict, run.baseline) == (Verdict.OK, Baseline.FIRST)
    assert "bbbbbbbbbbbb" in run.text


@pytest.mark.parametrize("other", ["pixels_sha256", "bundle_version", "head"])
def test_other_pixels_and_another_version_begin_a_baseline_of_their_own(other: str) -> None:
    assert judge(measured(**{other: "bb"}), ran(3.0), LIMITS).baseline is Baseline.FIRST


def test_what_is_not_the_truth_is_no_baseline_and_fails_each_time() -> None:
    first = judge(measured(outcome="negative"), History(), LIMITS, "positive")
    again = judge(measured(1, outcome="negative"), History([first]), LIMITS, "positive")
    for run in (first, again):
        assert (run.verdict, run.baseline) == (Verdict.FAILED, Baseline.NO)
        assert "it should be positive" in run.text
        assert "limen model check ich" in run.next
    accepted = judge(measured(2, outcome="negative"), History(), LIMITS, "positive", accept=True)
    assert accepted.verdict is Verdict.FAILED, "the truth is not a matter of what somebody accepts"


@pytest.mark.parametrize(
    ("moved", "verdict"),
    [
        ({"probability": 0.9401}, Verdict.OK),
        ({"probability": 0.92}, Verdict.FAILED),
        ({"probability": None}, Verdict.FAILED),
        ({"outcome": "partial"}, Verdict.FAILED),
    ],
)
def test_the_same_bundle_that_says_something_else_has_failed(
    moved: dict[str, Any], verdict: Verdict
) -> None:
    run = judge(measured(5, **moved), ran(3.0, 3.0), LIMITS)
    assert run.verdict is verdict
    assert verdict is Verdict.OK or "limen qa --accept" in run.next


@pytest.mark.parametrize(
    ("usual", "now", "slow"),
    [
        ([3.0, 3.2, 2.8], 8.0, False),  # more than twice as long, within the slack
        ([3.0, 3.2, 2.8], 9.1, True),
        ([20.0, 20.0, 20.0], 59.0, False),  # more than the slack, within the factor
        ([20.0, 20.0, 20.0], 61.0, True),
        ([3.0, 3.0, 40.0, 3.0], 9.1, True),  # one slow run makes slow not usual
    ],
)
def test_slow_is_what_is_over_the_factor_and_over_the_slack(
    usual: list[float], now: float, slow: bool
) -> None:
    run = judge(measured(9, latency_s=now), ran(*usual), LIMITS)
    assert (run.slow, run.verdict) == (slow, Verdict.WARNING if slow else Verdict.OK)
    assert run.latency_limit_s is not None
    assert (now > run.latency_limit_s) is slow


def test_slow_runs_stay_slow_until_somebody_accepts_them() -> None:
    history = ran(3.0, 3.0, *[30.0] * 40)
    assert all(run.slow for run in history.runs[2:])
    accepted = judge(measured(50, latency_s=30.0), history, LIMITS, accept=True)
    assert (accepted.verdict, accepted.baseline) == (Verdict.OK, Baseline.ACCEPTED)
    after = judge(measured(51, latency_s=31.0), History([*history.runs, accepted]), LIMITS)
    assert after.verdict is Verdict.OK


def test_only_the_last_runs_count_as_usual() -> None:
    history = ran(*[1.0] * 30, *[5.0] * 20)
    assert history.latencies_s(measured(60), LIMITS.compare_runs) == [5.0] * 20


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"outcome": "negative", "probability": 0.05}, False),
        ({"probability": 0.5}, False),
        ({"probability": 0.951}, True),
    ],
)
def test_a_bundle_that_says_the_same_of_every_head_is_told_until_that_is_accepted(
    other: dict[str, Any], told: bool
) -> None:
    heads = [measured(), measured(head="no-bleed", **other)]
    first = [judge(run, History(), LIMITS) for run in heads]
    assert bool(same_of_everything(first, History(), LIMITS)) is told
    later = [judge(run, History(first), LIMITS) for run in heads]
    assert bool(same_of_everything(later, History(first), LIMITS)) is told
    accepted = [judge(run, History(first), LIMITS, accept=True) for run in heads]
    assert same_of_everything(accepted, History(first), LIMITS) == ""
    later = [judge(run, History(accepted), LIMITS) for run in heads]
    assert same_of_everything(later, History(accepted), LIMITS) == ""


# -- what is kept ----------------------------------------------------------------------------------


def test_a_history_comes_back_as_it_was_written_and_is_the_owners_alone(tmp_path: Path) -> None:
    history = ran(3.0, 4.0)
    history.write(tmp_path)
    assert History.read(tmp_path).runs == history.runs
    assert history_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["qa-history.json"]


def test_old_runs_go_and_baselines_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_in, "_KEPT", 3)
    ran(*[3.0] * 10).write(tmp_path)
    back = History.read(tmp_path)
    assert [run.baseline for run in back.runs] == [Baseline.FIRST, *[Baseline.NO] * 3]
    assert back.baseline(measured()) == back.runs[0]


def test_a_file_that_is_none_is_an_alarm_and_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    config = settings(tmp_path)
    history_file(config.data_dir).parent.mkdir(parents=True, exist_ok=True)
    history_file(config.data_dir).write_text('{"runs": [{"at": "yesterday"}]}')
    with pytest.raises(LimenError, match="move it away"):
        History.read(config.data_dir)
    assert [(one.kind, one.about) for one in of_qa(config)] == [(Kind.QA, "history")]


def test_a_host_that_sends_no_test_studies_has_no_alarm(tmp_path: Path) -> None:
    assert list(of_qa(settings(tmp_path))) == []


def test_metrics_tell_the_last_runs_and_the_last_success(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config.data_dir.mkdir(parents=True, exist_ok=True)
    failed = Run(at=BEGAN + timedelta(hours=7), head="bleed", verdict="failed", text="away")
    History([*ran(3.0, 30.0).runs, failed]).write(config.data_dir)
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in QaCollector(config).collect()
        for sample in family.samples
    }
    success = BEGAN + timedelta(hours=1)
    assert told == {
        ("limen_qa_last_success_timestamp_seconds",): success.timestamp(),
        ("limen_qa_outcome_ok", "bleed"): 0,
    }
    History(ran(3.0, 30.0).runs).write(config.data_dir)
    told = {
        (sample.name, *sample.labels.values()): sample.value
        for family in QaCollector(config).collect()
        for sample in family.samples
    }
    assert told["limen_qa_outcome_ok", "bleed"] == 1
    assert told["limen_qa_latency_seconds", "bleed"] == 30.0
    assert told["limen_qa_latency_limit_seconds", "bleed"] == 9.0
