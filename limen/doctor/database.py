"""The databases: the journal, the clock that decides, the tables of both."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from limen.doctor.check import Finding, Node, failed, ok, skipped, warning
from limen.doctor.children import ask

__all__ = ["clock", "journal", "migrations"]

_CLOCK_OFF_S = 2.0
_CLOCK_LOST_S = 60.0
_NTP = "set it right (NTP: chrony or systemd-timesyncd)"


def journal(node: Node) -> Iterator[Finding]:
    """Reach the journal, and look whether its file is whole."""
    with node.journal() as opened:
        opened.check()
        opened.clock()
        kind = opened.database.engine.dialect.name
    yield ok(f"{'SQLite' if kind == 'sqlite' else 'PostgreSQL'} answers")


def migrations(node: Node) -> Iterator[Finding]:
    """Compare the tables of journal and results server with those of this version."""
    with node.journal() as opened:
        if opened.is_current():
            yield ok("the tables of the journal are those of this version")
        else:
            yield failed(
                "the tables of the journal are of an older version",
                "start Limen once: each of its processes migrates them",
            )
    settings = node.settings
    if not settings.destination.django.enabled:
        return
    if settings.django_url != settings.web_url or find_spec("django") is None:
        yield skipped("the results server runs elsewhere: its tables are looked at there")
        return
    said = ask(node, ["web", "check", "--json"], "the results server")
    if said["ok"]:
        yield ok("the tables of the results server are those of this version")
    else:
        yield failed(str(said["error"]), "")


def clock(node: Node) -> Iterator[Finding]:
    """Compare the clocks of this host and of the workers with that of the journal."""
    with node.journal() as opened:
        opened.clock()
        off_s = opened.database.clock_off_s
        workers = opened.status.workers()
        shared = opened.database.engine.dialect.name == "postgresql"
    if shared:
        yield _judge("this host", off_s)
    for worker in workers:
        if abs(worker.clock_off_s) > _CLOCK_OFF_S:
            yield _judge(f"{worker.host}, as its worker {worker.id[:8]} says,", worker.clock_off_s)
    if not shared:
        yield ok("the clock of this host decides; no other host shares the journal")


def _judge(whose: str, off_s: float) -> Finding:
    way = "ahead of" if off_s > 0 else "behind"
    if abs(off_s) <= _CLOCK_OFF_S:
        return ok(f"the clock of {whose} is that of the journal, to {abs(off_s):.1f} s")
    text = f"the clock of {whose} is {abs(off_s):.0f} s {way} that of the journal"
    return failed(text, _NTP) if abs(off_s) > _CLOCK_LOST_S else warning(text, _NTP)
