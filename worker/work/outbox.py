"""The outbox: the result files of every phase, on the disk before the journal commits them.

``<root>/<study key>/<revision>/<phase>/result.json`` and the images it names; what a bundle says
that runs in shadow is beside it, in ``shadow-<bundle name>/result.json``.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from limen.durable import beside, sync_folder, write_new
from limen.errors import OutOfSpace, Transient
from limen.result import Phase, Result

__all__ = ["DOCUMENT", "Outbox"]

DOCUMENT = "result.json"
"""The name of the document of each phase."""


class Outbox:
    """The folder of result files, which every worker here shares. See ``ResultStore``.

    Parameters
    ----------
    durable
        Whether what is written outlives a power cut.
    """

    def __init__(self, root: Path, *, durable: bool = True) -> None:
        self._root = root
        self._durable = durable
        root.mkdir(parents=True, exist_ok=True, mode=0o700)

    def write(
        self, study_key: str, result: Result, files: dict[str, bytes], shadow: str = ""
    ) -> str:
        """Write document and images as one folder, durable; what an attempt left is replaced.

        Parameters
        ----------
        shadow
            Name of the bundle when it ran in shadow.

        Returns
        -------
        str
            The SHA-256 of the document, in hexadecimal digits.

        Raises
        ------
        OutOfSpace
            The disk is full or failed.
        """
        document = result.to_json()
        self.put(study_key, result, document, files, shadow)
        return hashlib.sha256(document).hexdigest()

    def put(
        self,
        study_key: str,
        result: Result,
        document: bytes,
        files: dict[str, bytes],
        shadow: str = "",
    ) -> None:
        """Write a document that is there in bytes, and its images, as ``write`` does.

        Raises
        ------
        OutOfSpace
            The disk is full or failed.
        """
        final = self._folder(study_key, result.revision, result.phase, shadow)
        try:
            with beside(final) as part:
                part.mkdir(parents=True, mode=0o700)
                for name, body in {**files, DOCUMENT: document}.items():
                    self._write_new(part / name, body)
                if self._durable:
                    sync_folder(part)
            for folder in (final.parent, final.parent.parent, self._root):
                if self._durable:
                    sync_folder(folder)
        except OSError as exc:
            raise OutOfSpace(f"result files cannot be written ({exc.strerror})") from exc

    def read(self, study_key: str, revision: int, phase: Phase) -> tuple[Result, bytes]:
        """Return a document, parsed and as its bytes.

        Raises
        ------
        Transient
            The files are not here: written by another host, or removed.
        """
        path = self._folder(study_key, revision, phase) / DOCUMENT
        try:
            body = path.read_bytes()
        except OSError as exc:
            raise Transient(f"result files of {study_key} cannot be read ({exc.strerror})") from exc
        return Result.from_json(body), body

    def shadow(self, study_key: str, revision: int, name: str) -> bytes | None:
        """Return the document of a bundle that ran in shadow, or None when it did not yet."""
        try:
            path = self._folder(study_key, revision, Phase.PREDICTION, name) / DOCUMENT
            return path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise Transient(f"result files of {study_key} cannot be read ({exc.strerror})") from exc

    def files(self, study_key: str, result: Result) -> dict[str, Path]:
        """Return where each image is that a document names.

        An explanation names the slices that were rendered with the prediction.
        """
        found = {}
        for name in result.file_names():
            path = self._folder(study_key, result.revision, result.phase) / name
            if not path.is_file():
                path = self._folder(study_key, result.revision, Phase.PREDICTION) / name
            found[name] = path
        return found

    def objects(self, study_key: str) -> Path:
        """Return the folder with the DICOM objects of a study: see ``Sendable``."""
        return self._root / study_key

    def share(self, study_key: str, folder: Path) -> None:
        """Do nothing: who shares the root has it."""

    def _write_new(self, path: Path, body: bytes) -> None:
        if self._durable:
            write_new(path, [body])
        else:
            path.write_bytes(body)

    def _folder(self, study_key: str, revision: int, phase: Phase, shadow: str = "") -> Path:
        part = f"shadow-{shadow}" if shadow else phase.value
        return self._root / study_key / str(revision) / part
