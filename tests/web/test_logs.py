"""web.logs: what gunicorn and Django say, without a word of a client."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from tests.support.logs import logging_put_back


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log of the results server, in JSON."""
    from web import logs

    with logging_put_back(monkeypatch) as stream:
        logs.configure({"level": "info", "format": "json"})
        yield stream


def one(stderr: io.StringIO) -> dict[str, object]:
    """Return the one line that was written."""
    (line,) = stderr.getvalue().splitlines()
    assert "Doe" not in line
    return dict(json.loads(line))


def test_gunicorn_quotes_no_address_of_a_request(stderr):
    try:
        raise RuntimeError("Doe^Jane")
    except RuntimeError:
        logging.getLogger("gunicorn.error").exception("Error handling request %s", "/?q=Doe")
    said = one(stderr)
    assert said["event"] == "Error handling request (withheld)"
    assert said["error"] == "RuntimeError"


def test_gunicorn_says_which_process_was_ended_and_how(stderr):
    logging.getLogger("gunicorn.error").error("Worker (pid:%s) was sent %s!", 7, "SIGKILL")
    assert one(stderr)["event"] == "Worker (pid:7) was sent SIGKILL!"


@pytest.mark.parametrize("name", ["django.db", "django.template", "PIL", "rest_framework"])
def test_what_a_library_says_of_a_page_is_withheld(stderr, name):
    logging.getLogger(name).error("bad value %s", "Doe^Jane")
    assert one(stderr)["event"] == "log.withheld"


def test_an_event_of_ours_has_its_fields_and_no_other(stderr):
    extra = {"id": "a1", "patient": "Doe^Jane"}
    logging.getLogger("web.results").error("result.not_stored", extra=extra)
    said = one(stderr)
    assert (said["event"], said["id"]) == ("result.not_stored", "a1")
