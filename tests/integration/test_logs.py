"""The log of a node, as people and collectors read it: a study is a story, whoever writes it."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from limen import telemetry
from limen.uids import key_of
from models.ich.phantom import DemoStudy
from tests.support import wire
from tests.support.associations import associate
from tests.support.node import Node, copy_study, until
from tests.support.pages import ROOT, blocks
from tests.support.samples import STUDY_UID, data_set, encode
from web.logs import FIELDS

Line = dict[str, Any]
_TEXT = re.compile(r"^(?P<timestamp>\S+Z) \[(?P<level>\w+) *\] (?P<event>\S+)(?P<fields> .*)?$")
_FIELD = re.compile(r"(\w+)=('[^']*'|\S+)")


def read(text: str, form: str) -> list[Line]:
    """Return the lines of a log; one that is no event in this format is an error."""
    return [_line(line, form) for line in text.splitlines()]


def _line(line: str, form: str) -> Line:
    if form == "json":
        return dict(json.loads(line))
    found = _TEXT.match(re.sub(r"\x1b\[\d*m", "", line))
    assert found, f"no event: {line!r}"
    named = found.groupdict()
    fields = named.pop("fields") or ""
    return {**named, **{key: value.strip("'") for key, value in _FIELD.findall(fields)}}


def test_a_positive_study_is_a_story_of_at_most_eight_lines(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(sorted(Path(phantoms["subdural"].folder).glob("*.dcm")), tmp_path)
    node.send(files)
    assert node.finished(uid).outcome == "positive"
    _tell_the_story(node, "text", key_of(uid), len(files))


def test_every_line_of_every_process_is_json_where_that_is_asked_for(
    phantoms: dict[str, DemoStudy], tmp_path: Path
) -> None:
    uid, files = copy_study(sorted(Path(phantoms["subdural"].folder).glob("*.dcm")), tmp_path)
    node = Node(tmp_path / "node", LIMEN_LOG__FORMAT="json")
    try:
        node.start()
        node.send(files)
        assert node.finished(uid).outcome == "positive"
        _tell_the_story(node, "json", key_of(uid), len(files))
    finally:
        node.close()
    assert {"web.listening", "worker.drained", "scp.draining"} <= {
        one["event"] for one in read(node.logs(), "json")
    }


def _tell_the_story(node: Node, form: str, key: str, instances: int) -> None:
    def told() -> list[Line]:
        lines = sorted(read(node.logs(), form), key=lambda one: str(one["timestamp"]))
        over = [x for x in lines if x.get("study") == key and x["event"] == "study.delivered"]
        return lines if len(over) == 4 else []  # a row is written before its line

    log = until(told, 10, "the last line", node.tell)
    story = [one for one in log if one.get("study") == key]
    events = [one["event"] for one in story]
    assert len(events) <= 8, events
    assert set(events[:2]) == {"study.received", "study.complete"}
    assert events[2] == "study.predicted"
    assert sorted(events[3:]) == ["study.delivered"] * 4 + ["study.explained"]
    assert {one["level"] for one in story} == {"info"}
    _follow(story, log, key, instances)
    _compare_with_the_documentation(story, log)


def _follow(story: list[Line], log: list[Line], key: str, instances: int) -> None:
    """Go from the association to the outcome by the fields of the lines."""
    by_event = {one["event"]: one for one in story}
    received = by_event["study.received"]
    assert (received["peer"], str(received["count"])) == ("TESTSCU", str(instances))
    association = [one for one in log if one.get("association") == received["association"]]
    assert [one["event"] for one in association if "study" not in one] == [
        "association.open",
        "association.ended",
    ]
    predicted, explained = by_event["study.predicted"], by_event["study.explained"]
    assert (predicted["job"], predicted["outcome"]) == (f"{key}-1-prediction", "positive")
    assert (explained["job"], explained["outcome"]) == (f"{key}-1-explanation", "positive")
    assert int(explained["count"]) > 0
    delivered = [one for one in story if one["event"] == "study.delivered"]
    assert {one["delivery"] for one in delivered} == {
        f"{key}-1-{phase}-{destination}"
        for phase in ("prediction", "explanation")
        for destination in ("django", "archive")
    }
    for one in delivered:
        assert one["delivery"] == f"{key}-1-{one['phase']}-{one['destination']}"
        assert (one["outcome"], one["state"]) == ("positive", "done")
        assert float(one["seconds"]) > 0
    assert all(str(one["revision"]) == "1" for one in story)


def test_an_association_that_is_refused_hundreds_of_instances_is_told_in_one_line(
    node: Node,
) -> None:
    contexts = [wire.Context(1, wire.CT, (wire.EXPLICIT,))]
    command = wire.store_rq(f"{STUDY_UID}.1.1")
    with wire.RawPeer(node.peer.port) as peer:
        peer.open(wire.associate(contexts, calling="REFUSED"))
        for _ in range(300):
            assert peer.ask(1, command, encode(data_set(2))).status == 0xA900
        for _ in range(20):
            assert peer.ask(1, command, b"\xff" * 300).status == 0xC000
        peer.release()
    lines = _of_peer(node, "REFUSED", 3)
    assert [one["event"] for one in lines] == [
        "association.open",
        "store.refused",
        "association.ended",
    ]
    assert len({one["association"] for one in lines}) == 1
    told = lines[1]
    assert (told["level"], told["count"], told["status"]) == ("warning", "320", "0xA900 0xC000")
    assert "SOP Instance UID differs between command and data set (300)" in told["reason"]


def test_each_association_that_is_rejected_is_one_line_that_says_why(node: Node) -> None:
    for _ in range(3):
        assert not associate(replace(node.peer, ae_title="OTHER"), "STRANGER").is_established
    lines = _of_peer(node, "STRANGER", 3)
    assert [one["event"] for one in lines] == ["association.rejected"] * 3
    assert {one["reason"] for one in lines} == {"called AE title is not ours"}
    assert len({one["association"] for one in lines}) == 3


def _compare_with_the_documentation(story: list[Line], log: list[Line]) -> None:
    """The example of docs/logs.md has the lines of this study, each with the same fields."""
    (block,) = [b for b in blocks(ROOT / "docs/logs.md") if "study.received" in b.text]
    shown = read(block.text, "text")
    number = story[[one["event"] for one in story].index("study.received")]["association"]
    association = [x for x in log if x.get("association") == number and "study" not in x]
    assert _shapes(shown) == _shapes([*association, *story])
    assert len([one for one in shown if "study" in one]) <= 8


def _shapes(lines: list[Line]) -> list[tuple[str, tuple[str, ...]]]:
    return sorted((str(one["event"]), tuple(sorted(one))) for one in lines)


@pytest.mark.parametrize("module", ["scp", "web"])
def test_why_a_service_does_not_start_is_an_event_of_its_log(module: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        env = {k: v for k, v in os.environ.items() if not k.startswith("LIMEN_")} | {
            "LIMEN_LOG__FORMAT": "json",
            "LIMEN_NODE__DATA_DIR": str(tmp_path / "data"),
            f"LIMEN_{module.upper()}__PORT": str(taken.getsockname()[1]),
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-m", "limen", module],
            env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3
    last = read(done.stderr, "json")[-1]
    assert (last["event"], last["level"], last["code"]) == ("process.failed", "error", 3)
    assert "cannot listen on" in last["reason"]


def test_every_field_is_in_the_table_of_the_documentation() -> None:
    page = (ROOT / "docs/logs.md").read_text("utf-8")
    table = page.partition("## Fields")[2].partition("## The journal")[0]
    told = {
        name
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    }
    assert told == telemetry.ALLOWED_FIELDS | FIELDS


def _of_peer(node: Node, calling: str, count: int) -> list[Line]:
    def told() -> list[Line]:
        lines = [one for one in read(node.logs(), "text") if one.get("peer") == calling]
        return lines if len(lines) >= count else []

    lines = until(told, 10, f"{count} lines of {calling}", node.tell)
    assert len(lines) == count
    return lines
