"""limen.doctor: each service that a node needs, broken on purpose; what is told, and what to do."""

from __future__ import annotations

import datetime as dt
import http.server
import shutil
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
import trustme

from limen.config import SHIPPED_BUNDLES
from limen.doctor.check import Finding, Node, Verdict
from limen.doctor.children import ask
from limen.doctor.peers import OBJECT_CLASSES
from limen.doctor.registry import chosen
from limen.errors import LimenError
from limen.journal import Holding, Journal, WorkerSign
from limen.journal.tables import VERSION
from limen.states import HoldingState
from tests.support.doctor import fault, findings, node_of
from tests.support.pacs import CLASSES
from tests.support.ports import free_ports
from tests.support.tiny_models import write_version

# pynetdicom leaves the socket of a connection that was refused to the collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


@pytest.fixture
def migrated(tmp_path: Path, migrated_file: Path) -> Node:
    """A node with a journal of this version."""
    node = node_of(tmp_path, "[destination.django]\nenabled = false\n")
    shutil.copyfile(migrated_file, node.settings.data_dir / "journal.db")
    return node


@contextmanager
def opened(node: Node) -> Iterator[Journal]:
    journal = Journal(node.settings.journal_url)
    yield journal
    journal.close()


def version(node: Node, number: str) -> None:
    with opened(node) as journal, journal.database.writing() as db:
        db.execute(sa.update(VERSION).values(version_num=number))


# -- journal, migrations, workers ------------------------------------------------------------------


def test_a_journal_that_is_not_there_is_told_and_not_made(tmp_path: Path) -> None:
    node = node_of(tmp_path)
    assert "limen up" in fault(node, "journal")
    assert not (node.settings.data_dir / "journal.db").exists()
    (workers,) = findings(node, "workers")
    assert workers.verdict is Verdict.SKIPPED
    assert "comes first" in workers.text


def test_a_database_that_is_away_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    node = node_of(tmp_path, f'[journal]\nurl = "postgresql://limen:geheim@127.0.0.1:{port}/x"\n')
    told = fault(node, "journal")
    assert f"127.0.0.1:{port}" in told
    assert "geheim" not in told


def test_a_newer_journal_is_told(migrated: Node) -> None:
    version(migrated, "9999")
    assert "newer Limen" in fault(migrated, "migrations")


def test_an_older_journal_is_told_and_not_migrated(migrated: Node) -> None:
    version(migrated, "0003")
    assert "older version" in fault(migrated, "migrations")
    with opened(migrated) as journal:
        assert not journal.is_current()


def test_a_results_server_without_its_database_is_told(tmp_path: Path, migrated_file: Path) -> None:
    node = node_of(tmp_path)
    shutil.copyfile(migrated_file, node.settings.data_dir / "journal.db")
    assert "limen web" in fault(node, "migrations")
    assert not (node.settings.data_dir / "web.db").exists()


def test_a_newer_database_of_the_results_server_is_told(
    tmp_path: Path, migrated_file: Path
) -> None:
    node = node_of(tmp_path)
    shutil.copyfile(migrated_file, node.settings.data_dir / "journal.db")
    with sqlite3.connect(node.settings.data_dir / "web.db") as db:
        db.execute(
            "create table django_migrations (id integer, app text, name text, applied datetime)"
        )
        db.execute(
            "insert into django_migrations values (1, 'results', '0999_later', '2030-01-01')"
        )
    db.close()
    assert "newer Limen" in fault(node, "migrations")


def test_a_process_of_ours_that_does_not_answer_is_told(tmp_path: Path) -> None:
    with pytest.raises(LimenError, match="the results server did not answer within 0.3 s"):
        ask(node_of(tmp_path), ["http.server", "0"], "the results server", 0.3)


def sign(journal: Journal, lanes: tuple[str, ...], number: str = "0.1.0", s: float = 30) -> None:
    journal.workers.seen(WorkerSign("abcdef01" * 4, "host-a", number, lanes), s)


def test_a_node_without_a_worker_is_told(migrated: Node) -> None:
    assert "no worker is alive -> start one: `limen worker`" in fault(migrated, "workers")


def test_a_lane_that_no_worker_takes_is_told_by_name(migrated: Node) -> None:
    with opened(migrated) as journal:
        sign(journal, ("prediction", "archive"))
    assert "no worker takes explanation" in fault(migrated, "workers")


def test_a_worker_of_another_version_is_a_warning(migrated: Node) -> None:
    with opened(migrated) as journal:
        sign(journal, ("prediction", "explanation", "archive"), "9.9")
    assert "version 9.9" in fault(migrated, "workers", Verdict.WARNING)


def test_a_worker_that_is_silent_beside_one_that_lives_is_a_warning(migrated: Node) -> None:
    lanes = ("prediction", "explanation", "archive")
    with opened(migrated) as journal:
        sign(journal, lanes)
        journal.workers.seen(WorkerSign("01" * 16, "host-b", "0.1.0", lanes), -1)
    told = fault(migrated, "workers", Verdict.WARNING)
    assert "is dead or cut off" in told
    assert "it is forgotten after an hour" in told


def test_a_worker_that_is_silent_is_not_alive(migrated: Node) -> None:
    with opened(migrated) as journal:
        sign(journal, ("prediction", "explanation", "archive"), s=-1)
    assert "1 were seen within the hour" in fault(migrated, "workers")


@pytest.mark.parametrize(("off_s", "verdict"), [(5.0, Verdict.WARNING), (-300.0, Verdict.FAILED)])
def test_the_clock_of_a_worker_that_is_off_is_told(
    migrated: Node, off_s: float, verdict: Verdict
) -> None:
    with opened(migrated) as journal:
        journal.database.clock_off_s = off_s
        sign(journal, ("prediction",))
    told = fault(migrated, "clock", verdict)
    assert "host-a" in told
    assert ("ahead of" if off_s > 0 else "behind") in told
    assert "NTP" in told


@pytest.mark.parametrize(("off_s", "verdict"), [(5.0, Verdict.WARNING), (-300.0, Verdict.FAILED)])
def test_a_host_whose_clock_is_not_that_of_the_shared_journal_is_told(
    tmp_path: Path,
    postgres_url: str,
    monkeypatch: pytest.MonkeyPatch,
    off_s: float,
    verdict: Verdict,
) -> None:
    def off(journal: Journal) -> dt.datetime:
        journal.database._host_clock = lambda: dt.datetime.now(dt.UTC) + dt.timedelta(seconds=off_s)
        return journal.database.clock()

    monkeypatch.setattr(Journal, "clock", off)
    text = f'[journal]\nurl = "{postgres_url}"\n[destination.django]\nenabled = false\n'
    told = fault(node_of(tmp_path, text), "clock", verdict)
    assert "the clock of this host" in told
    assert ("ahead of" if off_s > 0 else "behind") in told
    assert "NTP" in told


# -- model, archive --------------------------------------------------------------------------------


def test_a_bundle_whose_weights_are_others_is_told(tmp_path: Path) -> None:
    shutil.copytree(SHIPPED_BUNDLES / "ich", tmp_path / "mine")
    weights = tmp_path / "mine" / "model-fp32.bin"
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\1\0")
    route = '[[route]]\nname = "r"\nmodality = "CT"\nbundle = "mine"\n'
    told = fault(node_of(tmp_path, route), "model")
    assert "model-fp32.bin" in told
    assert "limen model check" in told


def test_a_bundle_that_is_not_there_is_told(tmp_path: Path) -> None:
    route = '[[route]]\nname = "r"\nmodality = "CT"\nbundle = "nowhere"\n'
    told = fault(node_of(tmp_path, route), "model")
    assert "nowhere" in told
    assert "limen model check" in told


def test_an_archive_is_written_read_and_tidied_up(tmp_path: Path) -> None:
    node = node_of(tmp_path)
    (found,) = findings(node, "archive")
    assert found.verdict is Verdict.OK, found
    assert "removed again" in found.text
    assert list(node.settings.archive_dir.iterdir()) == []


def test_an_archive_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    told = fault(node_of(tmp_path, '[destination.archive]\nfolder = "file"\n'), "archive")
    assert "cannot be written" in told


# -- results server --------------------------------------------------------------------------------


@contextmanager
def server(
    ready: int, post: int, tls: ssl.SSLContext | None = None, kind: str = "application/json"
) -> Iterator[int]:
    """Serve what answers a GET and a POST with these statuses; yield its port."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, status: int) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if not status:  # it hangs up
                return
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.answer(ready)

        def do_POST(self) -> None:
            self.answer(post)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        httpd.socket = tls.wrap_socket(httpd.socket, server_side=True)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield httpd.server_address[1]
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def web_findings(folder: Path, url: str, more: str = "", token: str = "t" * 43) -> list[Finding]:
    node = node_of(folder, f'[destination.django]\nurl = "{url}"\n{more}')
    secrets = node.settings.data_dir / "secrets"
    secrets.mkdir(mode=0o700, exist_ok=True)
    if token:
        (secrets / "web-token").write_text(token, "ascii")
    return findings(node, "web")


def told_of_web(found: list[Finding]) -> str:
    (one,) = [f for f in found if f.verdict is Verdict.FAILED]
    return f"{one.text} -> {one.next}"


@pytest.mark.parametrize(
    ("ready", "post", "why"),
    [
        (200, 401, "does not know the token"),
        (200, 403, "may not post results"),
        (503, 422, "its database does not"),
        (404, 422, "as no results server does"),
        (200, 500, "a post is answered 500"),
        (200, 0, "does not answer a post"),
    ],
)
def test_a_results_server_that_is_not_well_is_told_why(
    tmp_path: Path, ready: int, post: int, why: str
) -> None:
    with server(ready, post) as port:
        assert why in told_of_web(web_findings(tmp_path, f"http://127.0.0.1:{port}"))


def test_another_program_in_place_of_the_results_server_is_told(tmp_path: Path) -> None:
    with server(200, 422, kind="text/html") as port:
        told = told_of_web(web_findings(tmp_path, f"http://127.0.0.1:{port}"))
    assert "as no results server does" in told
    assert "destination.django.url" in told


def test_a_results_server_that_is_away_and_a_token_that_is_not_there_are_told(
    tmp_path: Path,
) -> None:
    (port,) = free_ports(1)
    told = told_of_web(web_findings(tmp_path, f"http://127.0.0.1:{port}"))
    assert "Connection refused" in told
    assert "limen web" in told
    with server(200, 422) as port:
        found = web_findings(tmp_path / "data", f"http://127.0.0.1:{port}", token="")
        assert "there is no token" in told_of_web(found)


def serving(authority: trustme.CA, **more: dt.datetime) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", **more).configure_cert(context)
    return context


def test_a_certificate_that_nobody_we_trust_has_signed_is_told(tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with server(200, 422, serving(trustme.CA())) as port:
        found = web_findings(tmp_path, f"https://localhost:{port}", 'ca_file = "other.pem"\n')
        told = told_of_web(found)
    assert "certificate" in told
    assert "destination.django.ca_file" in told


@pytest.mark.parametrize(
    ("name", "begins", "ends", "why"),
    [
        ("localhost", -20, -2, "certificate has expired"),
        ("elsewhere.example.org", -2, 90, "localhost"),
    ],
)
def test_a_certificate_that_has_expired_or_is_of_another_host_is_told(
    tmp_path: Path, name: str, begins: int, ends: int, why: str
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    now = dt.datetime.now(dt.UTC)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(
        name,
        not_before=now + dt.timedelta(days=begins),
        not_after=now + dt.timedelta(days=ends),
    ).configure_cert(context)
    with server(200, 422, context) as port:
        found = web_findings(tmp_path, f"https://localhost:{port}", 'ca_file = "ca.pem"\n')
    told = told_of_web(found)
    assert why in told
    assert "renew the certificate" in told


def test_a_results_server_without_tls_and_a_file_of_authorities_that_is_none_are_told(
    tmp_path: Path,
) -> None:
    with server(200, 422) as port:
        found = web_findings(tmp_path, f"https://localhost:{port}")
        assert "it speaks no TLS there" in told_of_web(found)
    (tmp_path / "ca.pem").write_text("none")
    found = web_findings(tmp_path, "https://localhost", 'ca_file = "ca.pem"\n')
    assert "ca.pem cannot be read, or has no certificate" in told_of_web(found)


def test_a_certificate_that_ends_soon_is_a_warning(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    soon = dt.datetime.now(dt.UTC) + dt.timedelta(days=9, hours=1)
    with server(200, 422, serving(authority, not_after=soon)) as port:
        found = web_findings(tmp_path, f"https://localhost:{port}", 'ca_file = "ca.pem"\n')
    (one,) = [f for f in found if f.verdict is not Verdict.OK]
    assert one.verdict is Verdict.WARNING
    assert "expires in 9 days" in one.text


# -- DICOM -----------------------------------------------------------------------------------------


def test_a_receiver_that_does_not_listen_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    told = fault(node_of(tmp_path, f"[scp]\nport = {port}\n"), "receiver")
    assert "does not answer" in told
    assert "limen scp" in told


def test_pacs_that_are_dead_are_told_each_by_name_and_hold_no_other_up(tmp_path: Path) -> None:
    ports = free_ports(2)
    text = "".join(
        f'[[destination.pacs]]\nname = "pacs{n}"\nae_title = "PACS"\nhost = "127.0.0.1"\n'
        f"port = {port}\n"
        for n, port in enumerate(ports)
    )
    found = findings(node_of(tmp_path, text), "pacs")
    assert [f.text.partition(":")[0] for f in found] == ["pacs0", "pacs1"]
    assert {f.verdict for f in found} == {Verdict.FAILED}


def test_the_classes_that_a_pacs_is_asked_for_are_those_of_our_objects() -> None:
    assert OBJECT_CLASSES == CLASSES


@pytest.mark.parametrize(
    ("days", "verdict", "why"),
    [(-1, Verdict.FAILED, "has expired"), (10, Verdict.WARNING, "expires in")],
)
def test_a_certificate_of_ours_that_ends_is_told(
    tmp_path: Path, days: int, verdict: Verdict, why: str
) -> None:
    ends = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    ours = trustme.CA().issue_cert("localhost", not_after=ends)
    ours.cert_chain_pems[0].write_to_path(tmp_path / "limen.crt")
    ours.private_key_pem.write_to_path(tmp_path / "limen.key")
    text = '[scp.tls]\nport = 2762\ncertificate_file = "limen.crt"\nkey_file = "limen.key"\n'
    assert why in fault(node_of(tmp_path, text), "certificates", verdict)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("audit", '[audit]\nhost = "collector"\nca_file = "ca"\n'),
        ("ris", '[[destination.hl7]]\nname = "ris"\nhost = "h"\nport = 2575\ntls = true\n'),
    ],
)
def test_a_certificate_that_any_destination_is_shown_is_looked_at(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / "me.crt").write_text("none")
    files = 'certificate_file = "me.crt"\nkey_file = "me.key"\n'
    told = fault(node_of(tmp_path, text + files), "certificates")
    assert f"the certificate of {name}" in told


def test_a_certificate_of_ours_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "me.crt").write_text("none")
    text = (
        '[[destination.pacs]]\nname = "main"\nae_title = "PACS"\nhost = "127.0.0.1"\ntls = true\n'
        'certificate_file = "me.crt"\n'
    )
    told = fault(node_of(tmp_path, text), "certificates")
    assert "the certificate of main" in told
    assert "is none in PEM" in told


def test_a_host_without_deliveries_is_not_asked_for_what_stands_beside_the_receiver(
    tmp_path: Path,
) -> None:
    node = node_of(tmp_path, '[node]\ndata_dir = "data"\n[worker]\nlanes = ["predict"]\n')
    for name in ("receiver", "web", "pacs", "senders"):
        (check,) = [one for one in chosen([name]) if one.name == name]
        (found,) = check.run(node)
        assert found.verdict is Verdict.SKIPPED
        assert "on the host of the receiver" in found.text


def test_of_a_folder_of_versions_the_one_that_serves_is_looked_at(
    tmp_path: Path, migrated_file: Path
) -> None:
    folder = tmp_path / "heads"
    for version in ("1.0", "2.0"):
        write_version(folder, version)
    route = f'[[route]]\nname = "a"\nmodality = "CT"\nbundle = "{folder}"\n'
    node = node_of(tmp_path, route)
    shutil.copyfile(migrated_file, node.settings.data_dir / "journal.db")
    assert "is a folder of versions (1.0, 2.0)" in fault(node, "model")
    with node.journal() as journal:
        journal.workers.seen(WorkerSign("a", "host-a", "0.1.0", ("prediction",)), 30)
        made = journal.deployments.ask("heads", "2.0", "b" * 64, 100, "anna")
        journal.deployments.report("a", [Holding("a", "heads", made.id, HoldingState.READY)])
    assert "heads 2.0 answers its golden tensors" in fault(node, "model", Verdict.OK)


def test_the_model_is_not_looked_at_where_a_worker_only_delivers(tmp_path: Path) -> None:
    node = node_of(tmp_path, '[node]\ndata_dir = "data"\n[worker]\nlanes = ["deliver"]\n')
    assert "loads no model" in fault(node, "model", Verdict.SKIPPED)
