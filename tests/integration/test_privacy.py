"""Metrics and health say nothing of patients, and the files of a node are open to nobody else."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from models.ich.phantom import DemoStudy
from tests.support.node import Node, copy_study, read_token
from tests.support.ports import free_ports

MARKS = {
    "PatientName": "ZZMARKEDNAME^PERSON",
    "PatientID": "ZZMARKEDID7788",
    "AccessionNumber": "ZZMARKEDACC",
    "StudyDescription": "ZZMARKEDDESCRIPTION",
    "InstitutionName": "ZZMARKEDPLACE",
}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    scp_port, worker_port = free_ports(2)
    node = Node(
        tmp_path_factory.mktemp("private"),
        LIMEN_METRICS__SCP_PORT=str(scp_port),
        LIMEN_METRICS__WORKER_PORT=str(worker_port),
        LIMEN_EXPLAIN__SAMPLES="100",
    )
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture(scope="module")
def study_uid(
    node: Node, phantoms: dict[str, DemoStudy], tmp_path_factory: pytest.TempPathFactory
) -> str:
    files = sorted(Path(phantoms["subdural"].folder).glob("*.dcm"))[8:16]
    uid, sent = copy_study(files, tmp_path_factory.mktemp("sent"), **MARKS)
    node.send(sent)
    node.finished(uid)
    return uid


def test_metrics_and_health_say_nothing_of_a_patient(node: Node, study_uid: str) -> None:
    shown = node.on_web(study_uid)
    assert shown["patient_id"] == MARKS["PatientID"]  # the marks did travel
    token = read_token(node.env, "metrics")
    metrics = node.config.metrics
    web = node.config.web_url
    texts = [
        requests.get(address, headers={"Authorization": f"Bearer {token}"}, timeout=10)
        for address in (
            f"http://127.0.0.1:{metrics.scp_port}/metrics",
            f"http://127.0.0.1:{metrics.worker_port}/metrics",
            f"{web}/metrics",
            f"{web}/healthz",
            f"{web}/readyz",
        )
    ]
    assert [t.status_code for t in texts] == [200] * 5
    assert all("limen_" in t.text for t in texts[:3])
    for text in texts:
        found = [
            m for m in (*MARKS.values(), "ZZMARKED", study_uid, shown["key"]) if m in text.text
        ]
        assert found == [], text.url


def test_no_file_and_no_folder_of_a_node_is_open_to_others(node: Node, study_uid: str) -> None:
    folder = node.config.data_dir
    open_ = [
        f"{stat.filemode(path.lstat().st_mode)} {path.relative_to(folder)}"
        for path in [folder, *folder.rglob("*")]
        if not path.is_symlink() and stat.S_IMODE(path.lstat().st_mode) & 0o027
    ]
    assert open_ == []
    names = {p.name for p in folder.rglob("*")}
    assert {"web.db", "secrets", "spool", "web-media"} <= names
    assert any(n.endswith(".dcm") for n in names)


def test_nothing_that_a_service_writes_is_open_where_its_umask_is(node: Node) -> None:
    """Set by each process, not by who starts it: a shell begins with 022."""
    assert node.supervisor is not None
    for name in ("web", "scp", "worker"):
        status = Path(f"/proc/{node.supervisor.pid(name)}/status").read_text("ascii")
        umask = next(line.split()[1] for line in status.splitlines() if line.startswith("Umask"))
        assert umask == "0077", name
