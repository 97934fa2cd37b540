"""How long the results server takes for a page of the worklist, with many studies.

    python -m bench.worklist [--studies N] [--url postgresql://...] [--quick]

Fills a database of its own (SQLite in a folder that is removed; or the empty one that ``--url``
names), reads most of it as one reader, and asks for pages in process, through the whole of Django:
medians of five, in milliseconds by the clock and, for when other work runs beside it, of the
processor: of this process and, where it is on this host, of PostgreSQL's.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import sys
import tempfile
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

_ROUNDS = 5
_BATCH = 2000
_OUTCOMES = ("positive", "undetermined", "partial", "not_analysed", "negative")
_NAMES = (
    "Doe^Jane",
    "Kim^Minjun=金^民俊=김^민준",
    "Yamada^Tarou=山田^太郎=やまだ^たろう",
    "Müller^François",
)
_Times = tuple[float, float]
# Who asks, and what: one who has read nothing, one who has read all but one in fifty, and one who
# has read all but three.
_PAGES = {
    "first page, nothing read": ("fresh", "/"),
    "last 24 hours, nothing read": ("fresh", "/?received=24h"),
    "first page, all but three read": ("careful", "/"),
    "unread, all but three read": ("careful", "/?unread=1"),
    "mine, nothing read": ("fresh", "/?mine=1"),
    "first page": ("reader", "/"),
    "unread": ("reader", "/?unread=1"),
    "mine": ("reader", "/?mine=1"),
    "positive": ("reader", "/?outcome=positive"),
    "not analysed, unread": ("reader", "/?outcome=not_analysed&unread=1"),
    "negative, read by the reader": ("reader", "/?outcome=negative"),
    "explained": ("reader", "/?state=explanation"),
    "predicted only": ("reader", "/?state=prediction"),
    "without a result": ("reader", "/?state=waiting"),
    "modality": ("reader", "/?modality=MR"),
    "a day": ("reader", "/?date={day}"),
    "last 24 hours": ("reader", "/?received=24h"),
    "last 7 days": ("reader", "/?received=7d"),
    "last 30 days": ("reader", "/?received=30d"),
    "a name": ("reader", "/?q=김민준"),
    "a name, in kana": ("reader", "/?q=やまだたろう"),
    "a name and a number": ("reader", "/?q=doe+A099"),
    "an accession number": ("reader", "/?q=A000042"),
    "nothing found": ("reader", "/?q=nobody"),
    "many of these": ("reader", "/?q=müller&received=30d&outcome=negative&modality=CT&mine=1"),
    "every few seconds, something new": ("reader", "/#poll"),
    "API": ("reader", "/api/v1/studies"),
    "API, an outcome": ("reader", "/api/v1/studies?outcome=not_analysed"),
    "API, a modality": ("reader", "/api/v1/studies?modality=MR"),
    "API, a name": ("reader", "/api/v1/studies?q=김민준"),
    "API, nothing found": ("reader", "/api/v1/studies?q=nobody"),
    "API, the last page": ("reader", "/api/v1/studies?page={last}"),
    "API, what changed": ("reader", "/api/v1/studies?changed_since=2020-01-01T00:00:00Z"),
    "API, what changed, a name": (
        "reader", "/api/v1/studies?changed_since=2020-01-01T00:00:00Z&q=김민준",
    ),
    "API, what changed, nothing found": (
        "reader", "/api/v1/studies?changed_since=2020-01-01T00:00:00Z&q=nobody",
    ),
    "metrics": ("admin", "/metrics"),
    "who saw what": ("admin", "/audit/"),
    "operations": ("admin", "/operations/"),
}  # fmt: skip


def main() -> int:
    """Fill, measure, print."""
    parser = argparse.ArgumentParser(prog="python -m bench.worklist", description=__doc__)
    parser.add_argument("--studies", type=int, default=100_000)
    parser.add_argument("--url", default="", help="an empty PostgreSQL database")
    parser.add_argument("--quick", action="store_true", help="1,000 studies: does it work?")
    wanted = parser.parse_args()
    number = 1000 if wanted.quick else wanted.studies
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as folder:
        os.environ |= {
            "LIMEN_NODE__DATA_DIR": folder,
            "DJANGO_SETTINGS_MODULE": "web.settings",
            **({"LIMEN_WEB__DATABASE_URL": wanted.url} if wanted.url else {}),
        }
        import django  # noqa: PLC0415 - its settings are in the environment only now
        from django.core.management import call_command  # noqa: PLC0415

        django.setup()
        call_command("migrate", verbosity=0)
        readers = _fill(number)
        sys.stdout.write(f"{'':32} {'page':>16} {'next page':>16}\n")
        for what, (wall, cpu), (next_wall, next_cpu) in _measure(readers, number):
            sys.stdout.write(
                f"{what:32} {wall:7.1f} {cpu:7.1f}   {next_wall:7.1f} {next_cpu:7.1f}\n"
            )
    return 0


def _fill(number: int) -> dict[str, Any]:
    """Make studies, one in ten of them positive, and a reader who has read all but one in fifty."""
    from django.contrib.auth.models import User  # noqa: PLC0415
    from django.db import connection  # noqa: PLC0415

    from web.results.models import ReadMark, Study, Vote  # noqa: PLC0415
    from web.results.names import searchable  # noqa: PLC0415
    from web.results.summary import RANKS  # noqa: PLC0415

    names = ("reader", "fresh", "careful", "admin")
    readers = {name: User.objects.create(username=name) for name in names}
    User.objects.filter(username="admin").update(is_superuser=True, is_staff=True)
    now = datetime.now(UTC)
    for first in range(0, number, _BATCH):
        rows = []
        for n in range(first, min(first + _BATCH, number)):
            came = now - timedelta(minutes=5 * n)
            outcome = _OUTCOMES[0 if n % 10 == 0 else 1 + n % 3 if n % 10 < 3 else 4]
            name, accession, patient_id = _NAMES[n % len(_NAMES)], f"A{n:06d}", f"P{n // 3:06d}"
            rows.append(Study(
                key=hashlib.sha256(str(n).encode()).hexdigest()[:32],
                study_uid=f"1.2.826.0.1.3680043.10.{n}", revision=1, phase="explanation",
                outcome=outcome, urgency=RANKS[outcome], reason="28 of 30 slices: 2 cannot be read",
                label="Intracranial hemorrhage", probability=n % 1000 / 1000, positive_slices=3,
                analysed_slices=28, slices=30, patient_name=name, patient_id=patient_id,
                accession=accession, modality="MR" if n % 50 == 0 else "CT",
                description="CT HEAD W/O", study_date=came.strftime("%Y%m%d"),
                study_time="081500", search=searchable(name, accession, patient_id),
                received_at=came, complete_at=came, predicted_at=came, changed_at=came,
            ))  # fmt: skip
        made = Study.objects.bulk_create(rows)
        unread = {"reader": {row.pk for row in made if row.pk % 50 == 0}, "careful": {11, 500, 813}}
        ReadMark.objects.bulk_create(
            ReadMark(reader=readers[name], study=row, current=True, urgency=row.urgency,
                     received_at=row.received_at, at=now)
            for name in unread for row in made if row.pk not in unread[name]
        )  # fmt: skip
        Vote.objects.bulk_create(
            Vote(study=row, revision=1, reader=readers["reader"], verdict="agree")
            for row in made if row.pk % 20 == 1
        )  # fmt: skip
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")
    return readers


def _measure(readers: dict[str, Any], number: int) -> list[tuple[str, _Times, _Times]]:
    from django.test import Client  # noqa: PLC0415
    from django.test.utils import setup_test_environment  # noqa: PLC0415

    setup_test_environment()  # answers have their context
    clients = {name: Client(headers={"host": "localhost"}) for name in readers}
    for name, client in clients.items():
        client.force_login(readers[name])
    words = {
        "last": number // 50,
        "day": (datetime.now(UTC) - timedelta(minutes=2.5 * number)).strftime("%Y-%m-%d"),
    }
    taken: dict[str, tuple[list[_Times], list[_Times]]] = {what: ([], []) for what in _PAGES}
    for _ in range(_ROUNDS + 1):
        for what, (name, address) in _PAGES.items():
            asked = quote(address.format(**words), safe="/?&=#+:")
            times, following = _ask(clients[name], asked)
            taken[what][0].append(times)
            taken[what][1].append(_ask(clients[name], following)[0] if following else (0.0, 0.0))
    # The first round warms up.
    return [(what, _medians(a[1:]), _medians(b[1:])) for what, (a, b) in taken.items()]


def _ask(client: Any, address: str) -> tuple[_Times, str]:
    headers = {"X-Limen-Poll": "1"} if address.endswith("#poll") else {}
    begun, begun_cpu = time.perf_counter(), _cpu_s()
    answer = client.get(address, headers=headers)
    times = time.perf_counter() - begun, _cpu_s() - begun_cpu
    if answer.status_code != 200:
        raise SystemExit(f"{address} is answered {answer.status_code}")
    if answer.headers["Content-Type"] == "application/json":
        return times, answer.json().get("next") or ""
    return times, (answer.context or {}).get("next_address", "")


def _cpu_s() -> float:
    """Return the processor time of this process and of its PostgreSQL."""
    from django.db import connection  # noqa: PLC0415

    spent = time.process_time()
    if connection.vendor == "postgresql":
        with connection.cursor():  # connected
            server = connection.connection.info.backend_pid
        with suppress(OSError):  # on another host
            spent += int(Path(f"/proc/{server}/schedstat").read_text("ascii").split()[0]) / 1e9
    return spent


def _medians(times: list[_Times]) -> _Times:
    wall, cpu = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    return wall, cpu


if __name__ == "__main__":
    sys.exit(main())
