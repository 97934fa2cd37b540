"""limen.telemetry: nothing of a patient reaches a log line."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
import socket
import sys
import urllib.request
import warnings
from collections.abc import Callable, Iterator

import pytest
import structlog

from limen import telemetry
from limen.errors import Unreachable
from tests.support.logs import logging_put_back
from tests.support.services import REPOSITORY

PHI = "Doe^Jane"
Lines = Callable[[], list[dict[str, object]]]


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Logging configured as in a process, written to a string; put back afterwards."""
    with logging_put_back(monkeypatch) as stream:
        telemetry.configure("debug", "json")
        yield stream


@pytest.fixture
def lines(stderr: io.StringIO) -> Lines:
    return lambda: [json.loads(line) for line in stderr.getvalue().splitlines()]


def test_a_field_that_is_not_listed_is_withheld(stderr: io.StringIO, lines: Lines) -> None:
    structlog.get_logger("scp").info("study.complete", study="abc", patient_name=PHI)
    assert lines()[0]["study"] == "abc"
    assert lines()[0]["patient_name"] == "(withheld)"
    assert PHI not in stderr.getvalue()


def test_an_empty_field_is_left_out(lines: Lines) -> None:
    structlog.get_logger("scp").info("study.complete", study="abc", reason=None)
    assert "reason" not in lines()[0]


def test_the_text_of_an_error_of_ours_is_shown(lines: Lines) -> None:
    structlog.get_logger("scp").warning("journal.waiting", error=Unreachable("it is away"))
    assert lines()[0]["error"] == "it is away"


def test_the_text_of_a_foreign_exception_is_withheld(stderr: io.StringIO, lines: Lines) -> None:
    structlog.get_logger("scp").warning("store.fault", error=ValueError(PHI))
    assert lines()[0]["error"] == "ValueError"
    assert PHI not in stderr.getvalue()


def test_a_traceback_becomes_type_and_place(stderr: io.StringIO, lines: Lines) -> None:
    try:
        raise ValueError(PHI)
    except ValueError:
        structlog.get_logger("scp").error("store.fault", exc_info=True)
    assert lines()[0]["error"] == "ValueError"
    assert re.search(r"test_telemetry\.py:\d+", str(lines()[0]["where"]))
    assert PHI not in stderr.getvalue()
    assert "Traceback" not in stderr.getvalue()


def test_a_traceback_of_a_library_becomes_type_and_place(stderr: io.StringIO, lines: Lines) -> None:
    try:
        raise ValueError(PHI)
    except ValueError:
        logging.getLogger("celery.worker").exception("task failed")
    assert lines()[0]["error"] == "ValueError"
    assert PHI not in stderr.getvalue()


@pytest.mark.parametrize("name", ["pydicom", "pynetdicom.dimse", "PIL", "limens"])
def test_what_a_library_that_sees_data_sets_says_is_withheld(
    name: str, stderr: io.StringIO
) -> None:
    logging.getLogger(name).critical("bad value %s", PHI)
    assert PHI not in stderr.getvalue()
    assert "log.withheld" in stderr.getvalue()


def test_what_the_broker_library_says_is_shown(lines: Lines) -> None:
    logging.getLogger("kombu.connection").error("connection refused")
    assert lines()[0]["event"] == "connection refused"


def test_a_warning_never_reaches_the_log_as_text(stderr: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn(f"invalid value {PHI}", UserWarning, stacklevel=1)
    assert PHI not in stderr.getvalue()


def test_text_for_people_is_one_line_an_event(
    stderr: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stderr)  # pytest puts its own back between phases
    telemetry.configure("info", "text")
    log = structlog.get_logger("scp")
    log.debug("too.fine")
    log.info("scp.listening", port=11112, patient_name=PHI)
    assert stderr.getvalue().count("\n") == 1
    assert "port=11112" in stderr.getvalue()
    assert PHI not in stderr.getvalue()


def test_the_list_has_every_field_that_the_code_logs_and_no_other() -> None:
    levels = {"debug", "info", "warning", "error", "exception", "bind"}
    used = {
        word.arg
        for package in ("limen", "logs", "scp", "worker")
        for path in (REPOSITORY / package).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in levels
        for word in call.keywords
    }
    assert "study" in used
    of_the_chain = {"event", "level", "timestamp", "logger", "error", "where"}
    assert used - {None, "exc_info", "extra"} | of_the_chain == telemetry.ALLOWED_FIELDS


def test_metrics_are_served_in_the_text_format() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    telemetry.METRICS.instances.labels("0x0000").inc()
    telemetry.serve_metrics("127.0.0.1", port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        assert b'limen_instances_total{status="0x0000"}' in answer.read()


def test_port_0_serves_no_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("started")

    monkeypatch.setattr(telemetry, "start_http_server", never)
    telemetry.serve_metrics("127.0.0.1", 0)
