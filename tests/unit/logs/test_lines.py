"""logs.lines: one line an event in each format, and what nobody caught is one too."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
import structlog
from celery import Celery

from limen import telemetry
from tests.support.logs import logging_put_back
from tests.support.services import REPOSITORY

PHI = "Doe^Jane\n1970"
FORMATS = ("text", "json")


@pytest.fixture(params=FORMATS)
def stderr(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[io.StringIO]:
    with logging_put_back(monkeypatch) as stream:
        telemetry.configure("info", request.param)
        yield stream


def test_no_value_breaks_a_line_or_paints_on_a_terminal(stderr: io.StringIO) -> None:
    structlog.get_logger("scp").warning("a\nb", reason="c\nd\x1b[2J\udc80", path="\u2028")
    (line,) = stderr.getvalue().splitlines()
    assert line.isprintable()


def test_what_is_longer_than_anybody_reads_is_cut(stderr: io.StringIO) -> None:
    structlog.get_logger("scp").warning("long", reason="x" * 100_000)
    assert len(stderr.getvalue()) < 2200


def test_a_task_of_celery_that_fails_is_one_line_without_its_values(stderr: io.StringIO) -> None:
    app = Celery("test", broker="memory://")

    @app.task(name="limen.predict")
    def fail(key: str) -> None:
        raise ValueError(PHI)

    fail.apply(args=[PHI])
    (line,) = stderr.getvalue().splitlines()
    assert "limen.predict" in line
    assert "ValueError" in line
    assert "test_lines.py:" in line
    assert "Doe" not in line


def test_a_broker_that_is_away_is_one_line_that_says_why(stderr: io.StringIO) -> None:
    fault = ConnectionRefusedError(111, "Connection refused")
    logging.getLogger("celery.worker.consumer.consumer").error(
        "consumer: Cannot connect to %s: %s.\n%s\n", "amqp://host//", fault, "Trying again."
    )
    (line,) = stderr.getvalue().splitlines()
    assert "Connection refused" in line


def test_a_record_that_cannot_be_formatted_is_told_without_its_text(stderr: io.StringIO) -> None:
    (handler,) = [h for h in logging.getLogger().handlers if type(h).__module__ == "logs.lines"]
    handler.handle(logging.LogRecord("kombu", logging.ERROR, "", 1, "%d of them", (PHI,), None))
    (line,) = stderr.getvalue().splitlines()
    assert "log.fault" in line
    assert "Doe" not in line


@pytest.mark.parametrize("form", FORMATS)
def test_what_nobody_caught_is_a_line_with_type_and_place_and_no_value(form: str) -> None:
    code = f"""
import threading
from limen import telemetry
telemetry.configure("info", {form!r})
class Leaves:
    def __del__(self):
        raise KeyError({PHI!r})
def fail():
    raise ValueError({PHI!r})
thread = threading.Thread(target=fail, name="retention")
thread.start()
thread.join()
Leaves()
fail()
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    lines = done.stderr.splitlines()
    told = [("thread.fault", "ValueError"), ("object.fault", "KeyError")]
    told.append(("process.fault", "ValueError"))
    assert len(lines) == len(told), done.stderr
    for line, (event, error) in zip(lines, told, strict=True):
        assert event in line
        assert error in line
        assert "<string>:" in line
        if form == "json":
            assert json.loads(line)["event"] == event
    assert "retention" in lines[0]
    assert "Doe" not in done.stderr
