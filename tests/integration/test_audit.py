"""The audit trail of a whole node, at collectors that speak syslog over TLS."""

from __future__ import annotations

import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest
import requests

from limen.audit.notes import Notes
from models.ich.phantom import DemoStudy
from tests.support.audit_messages import faults_of, parse
from tests.support.collector import Collector
from tests.support.node import Node, copy_study, until
from tests.support.ports import free_ports
from tests.support.results_server import log_in
from tests.support.services import answers, program, require_service

PATIENT, ACCESSION = "AUDIT-PID-4711", "AUDIT-ACC-42"


def codes(root: ElementTree.Element, path: str) -> tuple[str, ...]:
    return tuple(element.attrib["csd-code"] for element in root.findall(path))


def what(root: ElementTree.Element) -> tuple[str, ...]:
    """EventID and EventTypeCode."""
    path = "EventIdentification/"
    return codes(root, f"{path}EventID") + codes(root, f"{path}EventTypeCode")


def about(root: ElementTree.Element) -> list[str]:
    return [
        element.attrib["ParticipantObjectID"]
        for element in root.findall("ParticipantObjectIdentification")
    ]


def audited(folder: Path, collector_port: int, certificates: Path, **more: str) -> Node:
    return Node(
        folder,
        LIMEN_AUDIT__HOST="localhost",
        LIMEN_AUDIT__PORT=str(collector_port),
        LIMEN_AUDIT__CA_FILE=str(certificates / "ca.pem"),
        LIMEN_AUDIT__CERTIFICATE_FILE=str(certificates / "client.pem"),
        LIMEN_AUDIT__KEY_FILE=str(certificates / "client.key"),
        LIMEN_AUDIT__SOURCE_ID="limen-test",
        **more,
    )


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    folder = tmp_path / "collector"
    folder.mkdir()
    made = Collector(folder)
    yield made
    made.stop()


def test_a_study_leaves_its_trail_from_the_sender_to_who_looks_at_it(
    collector: Collector,
    phantoms: dict[str, DemoStudy],
    own_folder: Path,
    tmp_path: Path,
) -> None:
    phantom = phantoms["no-bleed"]
    study_uid, files = copy_study(
        [phantom.folder / name for name in phantom.files],
        tmp_path / "study",
        PatientID=PATIENT,
        AccessionNumber=ACCESSION,
    )
    node = audited(own_folder, collector.port, tmp_path / "collector", LIMEN_SCP__PROCESSES="2")
    try:
        node.start()  # the collector is away
        assert not node.send(files).failed
        row = node.finished(study_uid)
        with socket.create_connection(("127.0.0.1", node.config.scp.port), 5):
            pass  # no association: nothing to tell
        rejected = subprocess.run(
            [program("echoscu", "dcmtk"), "-aet", "STRANGER", "-aec", "OTHER", "localhost"]
            + [str(node.config.scp.port)],
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert rejected.returncode != 0
        _look_at(node, row.study_key)
        folder = node.config.audit_dir
        waiting = sorted(path for path in folder.iterdir() if path.suffix == ".json")
        assert len(waiting) >= 7
        assert {stat.S_IMODE(path.stat().st_mode) for path in waiting} == {0o600}
        collector.start()
        until(lambda: not [p for p in folder.iterdir() if p.suffix == ".json"], 60, "all to leave")
        node.stop()
        roots = [parse(message.body) for message in collector.messages]
        logs = node.logs()
    finally:
        node.close()
    assert collector.faults == []
    assert [fault for root in roots for fault in faults_of(root)] == []
    assert {(m.priority, m.app, m.message_id) for m in collector.messages} <= {
        (85, "limen-test", "DICOM+RFC3881"),
        (84, "limen-test", "DICOM+RFC3881"),
    }
    times = [root[0].attrib["EventDateTime"] for root in roots]
    assert times == sorted(times)
    said = [what(root) for root in roots]
    assert said.count(("110100", "110120")) == 2  # receiver and worker start ...
    # ... and stop: what one says after the other has hung up is sent at the next start.
    assert said.count(("110100", "110121")) + len(Notes(folder, 1).waiting()) == 2
    received = [root for root in roots if what(root) == ("110104",)]
    assert [about(root) for root in received] == [[study_uid, PATIENT]]
    description = received[0].find(".//ParticipantObjectDescription")
    assert description is not None
    assert description[0].attrib == {"Number": ACCESSION}
    assert description[1].attrib["NumberOfInstances"] == str(len(files))
    sender = received[0].findall("ActiveParticipant")[0].attrib
    assert (sender["UserID"], sender["NetworkAccessPointID"]) == ("TESTSCU", "127.0.0.1")
    exported = [root for root in roots if what(root) == ("110106",)]
    assert [about(root) for root in exported] == [[study_uid, PATIENT]]
    viewed = [root for root in roots if what(root) == ("110103",)]
    assert [about(root) for root in viewed] == [[study_uid, PATIENT]]
    assert viewed[0].findall("ActiveParticipant")[0].attrib["UserName"] == "admin"
    assert said.count(("110114", "110122")) == 2  # a wrong password, and the link
    alerts = [root for root in roots if what(root) == ("110113", "110126")]
    assert [about(root) for root in alerts] == [["STRANGER"]]
    # It is in the messages, and nowhere that anybody else reads.
    assert PATIENT not in logs
    assert ACCESSION not in logs


def _look_at(node: Node, key: str) -> None:
    """Log in, once with a wrong password, and open the page of a study."""
    base = node.config.web_url
    with requests.Session() as browser:
        page = browser.get(f"{base}/login/", timeout=10)
        token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)
        assert token
        form = {"csrfmiddlewaretoken": token[1], "username": "admin", "password": "wrong"}
        browser.post(f"{base}/login/", form, headers={"Referer": f"{base}/login/"}, timeout=10)
        assert log_in(browser, _login_link(node)).status_code == 200
        assert browser.get(f"{base}/studies/{key}/", timeout=10).status_code == 200


def _login_link(node: Node) -> str:
    if node.login_url:
        return node.login_url
    made = subprocess.run(
        [sys.executable, "-m", "web", "link", "admin"],
        env=node.env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found = re.search(r"https?://\S+", made.stdout)
    assert found, made.stderr
    return found[0]


def test_rsyslog_writes_down_every_message_whole_and_in_order(
    phantoms: dict[str, DemoStudy], own_folder: Path, tmp_path: Path
) -> None:
    """A collector that others wrote, and that is away for a while."""
    rsyslogd = program("rsyslogd", "rsyslog")
    modules = list(Path("/usr/lib").glob("**/rsyslog/lmnsd_gtls.so"))
    require_service(modules, "rsyslog speaks no TLS (Debian package rsyslog-gnutls)")
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    Collector(certificates)  # only its certificates are used
    (port,) = free_ports(1)
    written = tmp_path / "audit.log"
    settings = tmp_path / "rsyslog.conf"
    settings.write_text(
        f"""global(workDirectory="{tmp_path}" maxMessageSize="64k"
  defaultNetstreamDriver="gtls"
  defaultNetstreamDriverCAFile="{certificates}/ca.pem"
  defaultNetstreamDriverCertFile="{certificates}/server.pem"
  defaultNetstreamDriverKeyFile="{certificates}/server.key")
module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1"
  streamDriver.authMode="x509/certvalid")
template(name="whole" type="string" string="%pri% %app-name% %msgid% %msg%\\n")
input(type="imtcp" port="{port}" address="127.0.0.1")
action(type="omfile" file="{written}" template="whole")
""",
        "utf-8",
    )

    def run() -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [rsyslogd, "-n", "-f", str(settings), "-i", str(tmp_path / "rsyslog.pid")],
            stderr=subprocess.DEVNULL,
        )
        until(lambda: answers(port), 20, "rsyslogd to listen")
        return process

    def lines() -> list[str]:
        if not written.exists():
            return []
        return [line for line in written.read_text("utf-8").splitlines() if "limen-test" in line]

    phantom = phantoms["no-bleed"]
    sources = [phantom.folder / name for name in phantom.files[:2]]
    node = audited(own_folder, port, certificates)
    collector = run()
    try:
        node.start("scp")
        studies = []
        for n in range(6):
            study_uid, files = copy_study(sources, tmp_path / f"study-{n}")
            studies.append(study_uid)
            if n == 2:
                until(lambda: any(studies[1] in line for line in lines()), 20, "the second study")
                collector.send_signal(signal.SIGKILL)
                collector.wait(10)
            node.send(files)
        collector = run()
        until(lambda: any(studies[-1] in line for line in lines()), 60, "the last study")
        node.stop()
    finally:
        node.close()
        collector.terminate()
        collector.wait(10)
    told = []
    for line in lines():
        priority, app, message_id, body = line.split(" ", 3)
        assert (priority, app, message_id) == ("85", "limen-test", "DICOM+RFC3881")
        root = parse(body.lstrip("\ufeff").encode())
        assert faults_of(root) == []
        if what(root) == ("110104",):
            told.append(about(root)[0])
    assert list(dict.fromkeys(told)) == studies  # some may come twice, none not at all
