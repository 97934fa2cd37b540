"""limen.purge: what was delivered and is old goes, and nothing else does."""

from __future__ import annotations

import gzip
import json
import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from limen.config import Config
from limen.errors import OutOfSpace
from limen.journal import Delivery, Journal, Purgeable
from limen.purge import Purge
from limen.states import WorkState
from limen.uids import key_of
from tests.support.journals import claimed
from tests.support.samples import START, SUMMARY, Clock, new_instance

DAY_S = 86400
SIZE = 1000


@pytest.fixture
def config(tmp_path: Path) -> Config:
    found = Config(node={"data_dir": tmp_path})
    for folder in (found.spool_dir, found.results_dir, found.archive_dir):
        folder.mkdir()
    return found


def with_(config: Config, **retention: float) -> Config:
    return Config(node={"data_dir": config.data_dir}, retention=retention)


def kept(config: Config, journal: Journal, n: int, *, delivered: bool = True) -> str:
    """Receive a study of two instances and predict it; return its key."""
    uid = f"1.2.{n}"
    key = key_of(uid)
    journal.receiving.record([new_instance(k, uid, at=journal.clock()) for k in (1, 2)])
    assert journal.receiving.complete(key, 1)
    for row in journal.receiving.instances(key, 1):
        path = config.spool_dir / row.path
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(bytes(SIZE))
    result = config.results_dir / key / "1" / "prediction"
    result.mkdir(parents=True)
    (result / "result.json").write_bytes(bytes(SIZE))
    job = claimed(journal, f"{key}-1-prediction")
    assert journal.work.commit(job, "a", SUMMARY, ("django", "archive"))
    for name in ("django", "archive") if delivered else ("archive",):
        end(journal, f"{key}-1-prediction-{name}")
    return key


def end(journal: Journal, key: str, state: WorkState = WorkState.DONE) -> None:
    delivery = journal.work.claim(Delivery, key, "a", 30)
    assert delivery is not None
    if state is WorkState.DEAD:
        assert journal.work.bury(delivery, "a", "answered 409")
    else:
        assert journal.work.delivered(delivery, "a", state, wait_s=3600)


def archived(config: Config, key: str, at_s: float) -> Path:
    folder = config.archive_dir / key
    (folder / "results").mkdir(parents=True)
    (folder / "results" / "result.json").write_bytes(bytes(SIZE))
    for path in (folder / "results", folder):
        os.utime(path, (at_s, at_s))
    return folder


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_a_delivered_study_goes_when_it_is_old_and_its_row_stays(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1)
    clock.forward(29 * DAY_S)
    assert Purge(config, journal).sweep().nothing
    clock.forward(2 * DAY_S)
    gone = Purge(config, journal).sweep()
    assert (gone.studies, gone.size_bytes) == (1, 3 * SIZE)
    assert not list(config.spool_dir.iterdir())
    assert not list(config.results_dir.iterdir())
    assert journal.retention.purged_at(key) == clock.now
    assert [row.outcome for row in journal.status.studies(key)] == ["positive"]
    assert Purge(config, journal).sweep().nothing


def test_what_has_not_arrived_everywhere_stays_whatever_its_age(
    config: Config, journal: Journal, clock: Clock
) -> None:
    waits = kept(config, journal, 1, delivered=False)
    dead = kept(config, journal, 2, delivered=False)
    end(journal, f"{dead}-1-prediction-django", WorkState.DEAD)
    unvouched = kept(config, journal, 3, delivered=False)
    end(journal, f"{unvouched}-1-prediction-django", WorkState.SENT)
    clock.forward(1000 * DAY_S)
    assert Purge(config, journal).sweep().nothing
    assert len(files(config.spool_dir)) == 6
    for key in (waits, dead, unvouched):
        assert journal.retention.begin(Purgeable(key, 1, START), "age") is None


def test_what_is_being_received_or_analysed_again_stays(
    config: Config, journal: Journal, clock: Clock
) -> None:
    coming, again = kept(config, journal, 1), kept(config, journal, 2)
    clock.forward(1000 * DAY_S)
    journal.receiving.record([new_instance(3, "1.2.1", at=clock.now)])
    assert journal.receiving.replay(again) == 2
    assert Purge(config, journal).sweep().nothing
    assert journal.retention.purged_at(coming) is None


def test_a_dead_delivery_that_a_newer_revision_replaced_keeps_nothing(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1, delivered=False)
    end(journal, f"{key}-1-prediction-django", WorkState.DEAD)
    assert journal.receiving.replay(key) == 2
    job = claimed(journal, f"{key}-2-prediction")
    assert journal.work.commit(job, "a", SUMMARY, ("django",))
    end(journal, f"{key}-2-prediction-django")
    clock.forward(31 * DAY_S)
    assert Purge(config, journal).sweep().studies == 1


def test_an_instance_that_comes_while_its_study_is_chosen_saves_it(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1)
    clock.forward(31 * DAY_S)
    (chosen,) = journal.retention.oldest(clock.now)
    journal.receiving.record([new_instance(3, "1.2.1", at=clock.now)])
    assert journal.retention.begin(chosen, "age") is None
    assert journal.retention.purged_at(key) is None


def test_a_purge_that_was_cut_off_is_ended_by_the_next_round(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1)
    clock.forward(31 * DAY_S)
    (chosen,) = journal.retention.oldest(clock.now)
    assert journal.retention.begin(chosen, "age") is not None
    assert len(files(config.spool_dir)) == 2
    Purge(config, journal).sweep()
    assert not files(config.spool_dir)
    assert not journal.retention.unfinished()
    assert journal.retention.purged_at(key) is not None


def test_a_purge_that_was_cut_off_is_given_up_where_the_study_goes_on(
    config: Config, journal: Journal, clock: Clock
) -> None:
    kept(config, journal, 1)
    clock.forward(31 * DAY_S)
    (chosen,) = journal.retention.oldest(clock.now)
    assert journal.retention.begin(chosen, "age") is not None
    journal.receiving.record([new_instance(3, "1.2.1", at=clock.now)])
    assert Purge(config, journal).sweep().nothing
    assert len(files(config.spool_dir)) == 2


def test_results_that_came_back_go_with_their_study_and_after_it(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1)

    def came_back(number: int) -> None:
        result = replace(new_instance(number, "1.2.1", at=clock.now), is_result=True)
        journal.receiving.record([result])
        (config.spool_dir / result.path).parent.mkdir(exist_ok=True)
        (config.spool_dir / result.path).write_bytes(bytes(SIZE))

    came_back(3)
    clock.forward(31 * DAY_S)
    assert Purge(config, journal).sweep().size_bytes == 4 * SIZE
    came_back(4)
    Purge(config, journal).sweep()
    assert not files(config.spool_dir)
    assert journal.retention.purged_at(key) is not None


def test_what_is_sent_again_after_a_purge_is_purged_again(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1)
    clock.forward(31 * DAY_S)
    Purge(config, journal).sweep()
    (recorded,) = journal.receiving.record([new_instance(1, "1.2.1", at=clock.now)])
    assert not recorded.new
    assert journal.retention.purged_at(key) is None
    path = config.spool_dir / journal.receiving.instances(key, 1)[0].path
    path.parent.mkdir()
    path.write_bytes(bytes(SIZE))
    assert Purge(config, journal).sweep().size_bytes == SIZE


def test_the_oldest_go_first_until_the_spool_is_small_enough(
    config: Config, journal: Journal, clock: Clock
) -> None:
    keys = []
    for n in range(4):
        keys.append(kept(config, journal, n))
        clock.forward(7200)
    size = journal.retention.kept_bytes()
    assert Purge(with_(config, max_bytes=size), journal).sweep().nothing
    assert Purge(with_(config, max_bytes=size - 1), journal).sweep().studies == 1
    assert journal.retention.purged_at(keys[0]) is not None
    assert journal.retention.purged_at(keys[1]) is None


def test_a_disk_that_fills_up_is_relieved_of_the_oldest_first_and_no_more_than_needed(
    config: Config, journal: Journal, clock: Clock
) -> None:
    keys = []
    for n in range(4):
        keys.append(kept(config, journal, n))
        clock.forward(7200)
    wanted = config.free_bytes

    def free() -> int:
        return (
            wanted
            - 2 * 3 * SIZE
            + 12 * SIZE
            - (len(files(config.spool_dir)) + len(files(config.results_dir))) * SIZE
        )

    gone = Purge(config, journal, free_bytes=free).relieve()
    assert gone.studies == 2
    assert [journal.retention.purged_at(k) is not None for k in keys] == [True, True, False, False]


def test_what_ended_within_the_hour_stays_also_on_a_full_disk(
    config: Config, journal: Journal, clock: Clock
) -> None:
    kept(config, journal, 1)
    clock.forward(3500)
    assert Purge(config, journal, free_bytes=lambda: 0).relieve().nothing


def test_the_archive_folder_goes_last_and_not_at_all_where_it_is_kept_for_ever(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1)
    folder = archived(config, key, START.timestamp())
    clock.forward(7200)
    for_ever = with_(config, archive_days=0)
    assert Purge(for_ever, journal, free_bytes=lambda: 0).relieve().archived == 0
    assert folder.exists()
    assert Purge(config, journal, free_bytes=lambda: 0).relieve().archived == 1
    assert not folder.exists()


def test_the_archive_folder_keeps_what_is_young_or_still_worked_on(
    config: Config, journal: Journal, clock: Clock
) -> None:
    open_, young = kept(config, journal, 1, delivered=False), kept(config, journal, 2)
    at_work = archived(config, open_, START.timestamp())
    lately = archived(config, young, (START + timedelta(days=300)).timestamp())
    clock.forward(400 * DAY_S)
    assert Purge(config, journal).sweep().archived == 0
    assert at_work.exists()
    assert lately.exists()


def test_what_was_set_aside_goes_by_its_age(config: Config, journal: Journal, clock: Clock) -> None:
    folder = config.spool_dir / key_of("1.2.9")
    folder.mkdir()
    for name, days in (("a.torn", 0), ("b.refused", 0), ("c.torn", 80)):
        (folder / name).write_bytes(bytes(SIZE))
        at = (START + timedelta(days=days)).timestamp()
        os.utime(folder / name, (at, at))
    clock.forward(91 * DAY_S)
    assert Purge(config, journal).sweep().aside == 2
    assert [path.name for path in folder.iterdir()] == ["c.torn"]


def test_a_dry_run_counts_the_same_and_removes_nothing(
    config: Config, journal: Journal, clock: Clock
) -> None:
    for n in range(3):
        kept(config, journal, n)
    clock.forward(31 * DAY_S)
    tight = with_(config, max_bytes=1)
    would = Purge(tight, journal, dry_run=True).sweep()
    assert len(files(config.spool_dir)) == 6
    assert Purge(tight, journal).sweep() == would
    assert not files(config.spool_dir)


def test_more_studies_than_one_question_returns_all_go(
    config: Config, journal: Journal, clock: Clock
) -> None:
    for n in range(205):
        kept(config, journal, n)
    clock.forward(31 * DAY_S)
    assert Purge(config, journal, dry_run=True).sweep().studies == 205
    assert Purge(config, journal).sweep().studies == 205


def test_events_of_a_study_go_as_a_whole_when_all_of_them_are_old(
    config: Config, journal: Journal, clock: Clock
) -> None:
    old, asked_again, waits = (kept(config, journal, n, delivered=n < 3) for n in (1, 2, 3))
    clock.forward(1000 * DAY_S)
    assert journal.receiving.replay(asked_again) == 2
    job = claimed(journal, f"{asked_again}-2-prediction")
    assert journal.work.commit(job, "a", SUMMARY, ())
    clock.forward(96 * DAY_S)
    many = len(journal.events.of(old))
    assert many == 3
    assert Purge(config, journal, dry_run=True).sweep().events == many
    assert Purge(with_(config, event_days=0), journal).sweep().events == 0
    assert Purge(config, journal).sweep().events == many
    assert journal.events.of(old) == []
    assert [row.outcome for row in journal.status.studies(old)] == ["positive"]
    assert all(journal.events.of(key) for key in (asked_again, waits))
    clock.forward(1000 * DAY_S)
    assert Purge(config, journal).sweep().events > 0
    assert journal.events.of(asked_again) == []
    assert journal.events.of(waits), "something is left to do for it"


def test_rows_of_a_study_are_put_away_long_after_it_was_purged_and_it_is_found_as_before(
    config: Config, journal: Journal, clock: Clock
) -> None:
    old, waits = kept(config, journal, 1), kept(config, journal, 2, delivered=False)
    clock.forward(40 * DAY_S)
    Purge(config, journal).sweep()
    young = kept(config, journal, 3)
    clock.forward(360 * DAY_S)
    assert Purge(config, journal).sweep().put_away == 0  # as it ships
    purge, dry = (
        Purge(with_(config, row_days=300), journal, dry_run=dry_run) for dry_run in (False, True)
    )
    assert dry.sweep().put_away == 1
    assert purge.sweep().put_away == 1
    (name,) = journal.shelf.files_of(old)
    (line,) = gzip.decompress((config.shelf_dir / name).read_bytes()).splitlines()
    told = json.loads(line)
    assert told["study_key"] == old
    assert {table: len(rows) for table, rows in told["rows"].items()} == {
        "study": 1,
        "instance": 2,
        "job": 1,
        "delivery": 2,
        "event": 3,
    }
    assert {row["digest"] for row in told["rows"]["instance"]} == {
        new_instance(n, "1.2.1").digest for n in (1, 2)
    }
    (row,) = journal.status.studies(old)
    assert (row.outcome, row.jobs, row.deliveries) == ("positive", (), ())
    for key in (waits, young):
        assert journal.receiving.instances(key, 1)
        assert journal.shelf.files_of(key) == []
    assert purge.sweep().put_away == 0
    assert (config.shelf_dir / name).stat().st_mode & 0o077 == 0


def test_what_is_sent_again_after_its_rows_were_put_away_is_a_revision_of_its_own(
    config: Config, journal: Journal, clock: Clock
) -> None:
    key = kept(config, journal, 1)
    clock.forward(40 * DAY_S)
    Purge(config, journal).sweep()
    clock.forward(400 * DAY_S)
    purge = Purge(with_(config, days=30, row_days=300), journal)
    assert purge.sweep().put_away == 1
    (first,) = journal.shelf.files_of(key)
    (again,) = journal.receiving.record([new_instance(1, "1.2.1", at=clock())])
    assert (again.revision, again.new) == (2, True)
    assert journal.receiving.complete(key, 2)
    assert journal.work.commit(claimed(journal, f"{key}-2-prediction"), "a", SUMMARY, ())
    assert [i.sop_key for i in journal.receiving.instances(key, 2)] == [
        new_instance(1, "1.2.1").sop_key
    ]
    clock.forward(40 * DAY_S)
    assert purge.sweep().studies == 1
    clock.forward(400 * DAY_S)
    assert purge.sweep().put_away == 1
    assert journal.shelf.files_of(key)[0] == first
    assert len(journal.shelf.files_of(key)) == 2


def test_rows_that_cannot_be_put_away_stay(config: Config, journal: Journal, clock: Clock) -> None:
    key = kept(config, journal, 1)
    clock.forward(40 * DAY_S)
    Purge(config, journal).sweep()
    clock.forward(400 * DAY_S)
    config.shelf_dir.write_bytes(b"in the way")
    with pytest.raises(OutOfSpace, match="cannot be put away"):
        Purge(with_(config, row_days=300), journal).sweep()
    assert len(journal.receiving.instances(key, 1)) == 2
    assert journal.shelf.files_of(key) == []
