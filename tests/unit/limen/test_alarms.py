"""limen.alarms: what is dead, late, missing or full, said once for everyone who asks."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from limen.alarms import Kind, alarms, of_disk
from limen.config import Config
from limen.journal import Delivery, Journal
from tests.support.journals import KEY, predicted
from tests.support.samples import Clock, settings

GB = 10**9


def free_is(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil._ntuple_diskusage(100 * GB, 100 * GB - size, size)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return settings(tmp_path, scp={"min_free_bytes": 2 * GB})


@pytest.mark.parametrize(
    ("free", "told"),
    [(5 * GB, []), (3 * GB, ["fills up: 3.00 GB"]), (GB, ["is full: 1.00 GB", "0xA700"])],
)
def test_a_disk_is_told_before_it_is_full_and_when_it_is(
    free: int, told: list[str], config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_is(free, monkeypatch)
    found = list(of_disk(config))
    assert len(found) == bool(told)
    for words in told:
        assert words in found[0].text
        assert found[0].kind is Kind.DISK


def test_a_host_without_a_spool_says_nothing_of_its_disk(config: Config) -> None:
    assert list(of_disk(config)) == []


def test_everything_that_is_wrong_at_once_is_told_at_once(
    config: Config, journal: Journal, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_is(GB, monkeypatch)
    predicted(journal)
    for name in ("django", "archive"):
        key = f"{KEY}-1-prediction-{name}"
        delivery = journal.work.claim(Delivery, key, "a", 30)
        assert delivery is not None
        if name == "django":
            assert journal.work.bury(delivery, "a", "answered 409")
        else:
            assert journal.work.postpone_until_there(delivery, "a", 60, "away", probe_s=(1, 60))
    clock.forward(600)
    lanes, workers = journal.status.queues(), journal.status.workers()
    found = {(one.kind, one.about) for one in alarms(config, lanes, workers)}
    assert found == {
        (Kind.DEAD, "django"),
        (Kind.AWAY, "archive"),
        (Kind.MISSING, "worker"),
        (Kind.DISK, "spool"),
    }
