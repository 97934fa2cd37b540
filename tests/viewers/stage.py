"""OHIF in front of Orthanc, on loopback: what a hospital would have behind us."""

from __future__ import annotations

import contextlib
import http.client
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.ports import free_ports
from tests.support.services import answers, program, require_service

__all__ = ["Stage", "stage"]

OHIF = Path(__file__).parent / "node_modules/@ohif/app/dist"
DICOM_WEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
START_S = 60.0

SETTINGS = {
    "routerBasename": None,
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 1,
    "showLoadingIndicator": False,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "orthanc",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "orthanc",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "qidoRoot": "/dicom-web",
                "wadoRoot": "/dicom-web",
                "wadoUriRoot": "/wado",
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "qidoSupportsIncludeField": False,
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "omitQuotationForMultipartRequest": True,
            },
        }
    ],
}


class Stage:
    """A viewer and the archive that it looks into."""

    def __init__(self, archive_port: int, viewer_port: int) -> None:
        self._archive_port = archive_port
        self.url = f"http://127.0.0.1:{viewer_port}"

    def store(self, body: bytes) -> None:
        """Put a file into the archive."""
        peer = http.client.HTTPConnection("127.0.0.1", self._archive_port, timeout=60)
        peer.request("POST", "/instances", body, {"Content-Type": "application/dicom"})
        answer = peer.getresponse()
        said = answer.read()
        assert answer.status == 200, said
        peer.close()

    def study_url(self, study_uid: str) -> str:
        return f"{self.url}/viewer?StudyInstanceUIDs={study_uid}"


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """Run Orthanc with DICOMweb, and OHIF before it; skip where one is not installed."""
    orthanc = program("Orthanc", "orthanc")
    require_service(DICOM_WEB.exists(), "Orthanc has no DICOMweb (Debian package orthanc-dicomweb)")
    require_service(OHIF.is_dir(), "OHIF is not installed (tests/viewers/install.sh)")
    archive_port, viewer_port, dicom_port = free_ports(3)
    (folder / "orthanc.json").write_text(
        json.dumps(
            {
                "Name": "VIEWERS",
                "StorageDirectory": str(folder / "archive"),
                "IndexDirectory": str(folder / "archive"),
                "Plugins": [str(DICOM_WEB)],
                "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
                "HttpPort": archive_port,
                "DicomPort": dicom_port,
                "RemoteAccessAllowed": False,
                "AuthenticationEnabled": False,
                "OverwriteInstances": True,
            }
        )
    )
    with open(folder / "stage.log", "wb") as log:
        archive = subprocess.Popen([orthanc, str(folder / "orthanc.json")], stdout=log, stderr=log)
        viewer = subprocess.Popen(
            [sys.executable, "-m", __name__, str(viewer_port), str(archive_port)], stderr=log
        )
    started = {archive_port: archive, viewer_port: viewer}
    try:
        deadline = time.monotonic() + START_S
        for port, process in started.items():
            while not answers(port):
                assert process.poll() is None, (folder / "stage.log").read_text()
                assert time.monotonic() < deadline, f"nothing answers on {port}"
                time.sleep(0.1)
        yield Stage(archive_port, viewer_port)
    finally:
        for process in started.values():
            process.terminate()
            process.wait(30)


class _Viewer(SimpleHTTPRequestHandler):
    """Serves the files of OHIF, and hands what is for the archive on to it."""

    protocol_version = "HTTP/1.1"

    def __init__(self, archive_port: int, *args: object, **kwargs: object) -> None:
        self._archive_port = archive_port
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith(("/dicom-web", "/wado")):
            self._archive()
        elif path == "/app-config.js":
            body = f"window.config = {json.dumps(SETTINGS)};".encode()
            self._answer(200, "text/javascript", body)
        else:
            if not (OHIF / path.lstrip("/")).is_file():
                self.path = "/index.html"  # every address is a page of the one application
            super().do_GET()

    def _archive(self) -> None:
        peer = http.client.HTTPConnection("127.0.0.1", self._archive_port, timeout=120)
        kept = {k: v for k, v in self.headers.items() if k.lower() in {"accept", "range"}}
        peer.request("GET", self.path, headers=kept)
        answer = peer.getresponse()
        kind = answer.getheader("Content-Type", "application/octet-stream")
        self._answer(answer.status, kind, answer.read())
        peer.close()

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """Five, the default, drops connections of a browser that asks for everything at once."""


if __name__ == "__main__":
    # A process of its own: whatever the tests before it left running cannot hold the viewer up.
    port, archive_port = map(int, sys.argv[1:])
    handler = partial(_Viewer, archive_port, directory=str(OHIF))
    with _Server(("127.0.0.1", port), handler) as server:
        server.serve_forever()
