"""A real Orthanc on loopback, with DICOMweb where that is installed."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import requests

from tests.support.node import until
from tests.support.ports import free_ports
from tests.support.services import answers, program, require_service

_DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")


class Orthanc:
    """An Orthanc; it may be stopped and started again, with all that it keeps.

    Parameters
    ----------
    modalities
        Name -> AE title, address and port, of those that may call it and that it calls.
    settings
        On top of its own.
    """

    def __init__(
        self,
        folder: Path,
        modalities: dict[str, list[Any]] | None = None,
        *,
        dicom_port: int = 0,
        dicomweb: bool = False,
        **settings: Any,
    ) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        free = free_ports(2)
        self.dicom_port, self.http_port = dicom_port or free[0], free[1]
        self.url = f"http://127.0.0.1:{self.http_port}"
        if dicomweb:
            require_service(_DICOMWEB.is_file(), "no DICOMweb for Orthanc (orthanc-dicomweb)")
        self._settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "index"),
            "HttpPort": self.http_port,
            "DicomPort": self.dicom_port,
            "DicomAet": "ORTHANC",
            "RemoteAccessAllowed": False,
            "Plugins": [str(_DICOMWEB)] if dicomweb else [],
            "DicomModalities": modalities or {},
            **settings,
        }

    def __enter__(self) -> Orthanc:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start it and wait until it answers."""
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / "orthanc.json").write_text(json.dumps(self._settings))
        path = self._folder / "orthanc.log"
        with path.open("ab") as log:
            self._process = subprocess.Popen(
                [program("Orthanc", "orthanc"), str(self._folder / "orthanc.json")],
                stdout=log,
                stderr=log,
            )
        until(lambda: answers(self.http_port), 60, "Orthanc", path.read_text)

    def stop(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None

    def kill(self) -> None:
        """SIGKILL it: no chance to say goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)
        self._process = None

    def find(self, study_uid: str, level: str = "Instance", **query: str) -> list[dict[str, Any]]:
        """Return what it keeps of a study, each with its tags by keyword."""
        answer = requests.post(
            f"{self.url}/tools/find",
            json={
                "Level": level,
                "Expand": True,
                "Query": {"StudyInstanceUID": study_uid, **query},
            },
            timeout=30,
        )
        assert answer.ok, answer.text
        found: list[dict[str, Any]] = answer.json()
        return found

    def instances(self, study_uid: str) -> list[dict[str, str]]:
        """Return the tags of every instance of a study, by keyword."""
        found = []
        for one in self.find(study_uid):
            tags = requests.get(f"{self.url}/instances/{one['ID']}/simplified-tags", timeout=30)
            found.append(tags.json())
        return found
