"""limen.command.trace: what happened to a study, in order."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from limen.journal import Brought, Delivery, Holding, Journal, WorkerSign
from limen.states import HoldingState
from tests.support.command import run
from tests.support.journals import KEY, PREDICTION, claimed, predicted, receive
from tests.support.samples import START, STUDY_UID, SUMMARY

pytestmark = pytest.mark.usefixtures("quiet")
Captured = pytest.CaptureFixture[str]


def test_what_happened_is_told_in_order(kept: Journal, capsys: Captured) -> None:
    predicted(kept)
    brought = Brought(KEY, 1, 7, "CT1", "10.0.0.1", START, START, 3, 1, {"0xA900 other class": 2})
    kept.events.brought([brought])
    key = f"{PREDICTION}-archive"
    delivery = kept.work.claim(Delivery, key, "abcdef0123", 30)
    assert delivery is not None
    kept.work.bury(delivery, "abcdef0123", "answered 409")
    kept.work.discard(key, "discarded by jane: a phantom", by="jane")
    assert run("trace", KEY[:10], "--no-reproduce") == 0
    told = capsys.readouterr().out
    places = [
        told.index(text)
        for text in (
            "received, CT1: 3 instances, 1 series",
            "complete: 3 instances",
            "predicted: positive, probability 0.900000",
            f"attempt {PREDICTION}, worker a on ",
            f"attempt {key}, worker abcdef01 on ",
            "dead after 0.0 s: answered 409",
            "jane on ",
            f"now  {key}: discarded after 1: discarded by jane: a phantom",
        )
    ]
    assert places == sorted(places)
    assert "3 kept, 1 there already; the association was refused 2: 0xA900 other class" in told


def test_it_is_told_by_whose_word_a_version_looked_and_who_took_it_back(
    kept: Journal, capsys: Captured
) -> None:
    kept.workers.seen(WorkerSign("a", "host-a", "0.1.0", ("prediction",)), 30)
    made = None
    for version in ("1.0", "2.0"):
        made = kept.deployments.ask("heads", version, version * 21, 100, "anna@reading")
        kept.deployments.report("a", [Holding("a", "heads", made.id, HoldingState.READY)])
    receive(kept)
    said = replace(SUMMARY, bundle="heads", bundle_version="2.0")
    assert made is not None
    assert kept.work.commit(claimed(kept), "a", said, (), deployment=made.id)
    kept.deployments.take_back("heads", "ben@reading", "two bleeds were missed")
    assert run("trace", KEY, "--no-reproduce") == 0
    told = capsys.readouterr().out
    line = (
        "deployment heads 2.0, anna@reading: looks at studies, until it was withdrawn by "
        "ben@reading: two bleeds were missed"
    )
    assert line in told
    assert "heads 1.0" not in told


def test_what_happened_is_one_json_object(kept: Journal, capsys: Captured) -> None:
    predicted(kept)
    assert run("trace", STUDY_UID, "--no-reproduce", "--json") == 0
    tree = json.loads(capsys.readouterr().out)
    assert (tree["study_key"], tree["reproduced"]) == (KEY, None)
    kinds = [step["kind"] for step in tree["steps"]]
    assert kinds == ["received", "complete", "predicted", "attempt"]


def test_that_the_events_are_purged_is_told(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    assert kept.work.commit(claimed(kept), "a", SUMMARY, ())
    assert kept.retention.forget_events(kept.clock() + timedelta(days=1)) > 0
    assert run("trace", STUDY_UID, "--no-reproduce") == 0
    told = capsys.readouterr().out
    assert "predicted: positive" in told
    assert "no longer kept (retention.event_days)" in told


def test_where_its_rows_were_put_away_is_told_and_it_is_not_replayed(
    kept: Journal, capsys: Captured, tmp_path: Path
) -> None:
    receive(kept)
    assert kept.work.commit(claimed(kept), "a", SUMMARY, ())
    (one,) = kept.retention.oldest(kept.clock() + timedelta(days=1))
    kept.retention.begin(one, "age")
    kept.retention.finish(KEY, 3000)
    assert kept.shelf.put_away(kept.clock() + timedelta(days=1), tmp_path / "shelf") == 1
    (name,) = kept.shelf.files_of(KEY)
    assert run("trace", STUDY_UID, "--no-reproduce") == 0
    told = capsys.readouterr().out
    assert "predicted: positive" in told
    assert f"journal-shelf/{name} (zgrep {KEY})" in told
    assert "event_days" not in told
    assert run("trace", STUDY_UID, "--no-reproduce", "--json") == 0
    assert json.loads(capsys.readouterr().out)["shelf"] == [name]
    assert run("replay", KEY) == 1
    assert "have the study sent again" in capsys.readouterr().err


def test_without_a_result_nothing_can_be_made_again(kept: Journal, capsys: Captured) -> None:
    receive(kept)
    assert run("trace", KEY) == 5
    assert "there is no result yet" in capsys.readouterr().out


def test_a_study_that_is_not_there_is_a_wrong_word(kept: Journal, capsys: Captured) -> None:
    assert run("trace", "nothing") == 2
    assert "matches 0 studies" in capsys.readouterr().err
