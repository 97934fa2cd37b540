"""The archive: originals and results in Google Cloud Storage, or in a local folder.

Names are content-addressed and every object is created once (``if_generation_match=0``): a retry
after a lost answer finds its own object there and is done. CRC32C is checked on the way.
"""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import google_crc32c
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from limen.durable import sync_folder, write_new
from limen.errors import OutOfSpace, Rejected, Transient, Unreachable
from worker.destinations import Parcel

__all__ = ["Archive", "BucketArchive", "FolderArchive", "GcsDestination"]

_DIGEST_LENGTH = 16
_TYPES = {".json": "application/json", ".png": "image/png", ".dcm": "application/dicom"}


class Archive(Protocol):
    """Objects that are created once and never changed."""

    def put(self, name: str, body: bytes) -> None:
        """Store ``body`` as ``name``; the same again changes nothing.

        Raises
        ------
        Rejected
            ``name`` is there with other content.
        Transient
            It may work later.
        """


class GcsDestination:
    """Stores a parcel object by object; the document last, so that it proves the rest."""

    def __init__(self, archive: Archive, *, originals: bool) -> None:
        self._archive = archive
        self._originals = originals

    def deliver(self, parcel: Parcel) -> None:
        """Store originals, images and document. See ``Destination``."""
        for name, body in self._objects(parcel):
            self._archive.put(name, body)

    def _objects(self, parcel: Parcel) -> Iterator[tuple[str, bytes]]:
        if self._originals:
            for original in parcel.originals:
                digest = original.digest[:_DIGEST_LENGTH]
                name = f"{original.sop_key}-{digest}.dcm"
                yield f"instances/{parcel.study_key}/{name}", _read(original.path)
        part = f"shadow-{parcel.shadow}" if parcel.shadow else parcel.phase.value
        folder = f"results/{parcel.study_key}/{parcel.revision}-{part}"
        for name, path in parcel.files.items():
            body = _read(path)
            yield f"{folder}/{_addressed(name, body)}", body
        yield f"{folder}/{_addressed('result.json', parcel.document)}", parcel.document


class FolderArchive:
    """An archive in a local folder: durable files, never overwritten."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, name: str, body: bytes) -> None:
        """Write a file and its folder to the disk. See ``Archive``."""
        path = self._root / name
        part = path.parent / f".{uuid.uuid4().hex}.part"
        here = len(self._root.parts)
        folders = [Path(*path.parts[:n]) for n in range(here, len(path.parts))]
        try:
            self._root.parent.mkdir(parents=True, exist_ok=True)
            for folder in folders:
                folder.mkdir(exist_ok=True, mode=0o700)
            try:
                write_new(part, body)
                os.link(part, path)
            except FileExistsError:
                if path.read_bytes() != body:
                    raise Rejected("the archive holds other bytes under the same name") from None
            finally:
                part.unlink(missing_ok=True)
            for folder in reversed(folders):
                sync_folder(folder)
        except OSError as exc:
            raise OutOfSpace(f"the archive folder cannot be written ({exc.strerror})") from exc


class BucketArchive:
    """An archive in a bucket of Google Cloud Storage.

    Parameters
    ----------
    bucket
        Its name. ``STORAGE_EMULATOR_HOST`` in the environment points to an emulator.
    prefix
        Put before every object name.
    credentials_file
        Service account file; without one, the default credentials of the host.
    timeout_s
        For one upload.
    """

    def __init__(
        self, bucket: str, prefix: str, credentials_file: Path | None, timeout_s: float
    ) -> None:
        self._name = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._credentials_file = credentials_file
        self._timeout_s = timeout_s
        self._client: storage.Client | None = None

    def put(self, name: str, body: bytes) -> None:
        """Upload an object unless it is there. See ``Archive``."""
        blob = self._bucket().blob(self._prefix + name)
        try:
            blob.upload_from_string(
                body,
                content_type=_TYPES.get(Path(name).suffix, "application/octet-stream"),
                if_generation_match=0,
                checksum="crc32c",
                timeout=self._timeout_s,
                retry=None,  # retries live in the journal
            )
        except google_errors.PreconditionFailed:
            self._same_or_rejected(blob, body)
        except google_errors.BadRequest as exc:
            raise Rejected(f"bucket {self._name} refused an object (400)") from exc
        except DataCorruption as exc:  # the library compares what it sends in parts by itself
            raise Transient(f"bucket {self._name} received other bytes than were sent") from exc
        except (google_errors.GoogleAPIError, auth_errors.GoogleAuthError, OSError) as exc:
            raise self._unreachable(exc) from exc
        if blob.crc32c not in {None, _crc32c(body)}:
            raise Transient(f"bucket {self._name} reports another CRC32C than was sent")

    def _same_or_rejected(self, blob: storage.Blob, body: bytes) -> None:
        """A 412 after a lost answer is our own object: compare, do not guess."""
        try:
            blob.reload(timeout=self._timeout_s, retry=None)
        except (google_errors.GoogleAPIError, auth_errors.GoogleAuthError, OSError) as exc:
            raise self._unreachable(exc) from exc
        if blob.crc32c != _crc32c(body):
            raise Rejected(f"bucket {self._name} holds other bytes under the same name")

    def _bucket(self) -> storage.Bucket:
        if self._client is None:
            self._client = self._connect()
        return self._client.bucket(self._name)

    def _connect(self) -> storage.Client:
        if os.environ.get("STORAGE_EMULATOR_HOST"):
            return storage.Client(project="limen", credentials=AnonymousCredentials())
        try:
            if self._credentials_file is not None:
                return storage.Client.from_service_account_json(str(self._credentials_file))
            return storage.Client()
        except (auth_errors.GoogleAuthError, OSError, ValueError) as exc:
            raise Unreachable(
                f"no credentials for bucket {self._name} ({type(exc).__name__}); "
                "set destination.gcs.credentials_file to a service account file"
            ) from exc

    def _unreachable(self, error: Exception) -> Unreachable:
        code = getattr(error, "code", None)
        detail = f"{type(error).__name__}{f', {int(code)}' if isinstance(code, int) else ''}"
        return Unreachable(f"bucket {self._name} cannot be written now ({detail})")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        raise Transient(f"a file of the parcel cannot be read ({exc.strerror})") from exc


def _addressed(name: str, body: bytes) -> str:
    stem, dot, suffix = name.rpartition(".")
    digest = hashlib.sha256(body).hexdigest()[:_DIGEST_LENGTH]
    return f"{stem}-{digest}{dot}{suffix}"


def _crc32c(body: bytes) -> str:
    """Return the CRC32C as GCS reports it: base64 of the big-endian value."""
    return base64.b64encode(google_crc32c.Checksum(body).digest()).decode("ascii")
