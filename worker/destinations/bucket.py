"""An archive in a bucket of Google Cloud Storage.

Every object is created once (``if_generation_match=0``), and its CRC32C is compared on the way.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import google_crc32c
from google.api_core import exceptions as google_errors
from google.auth import exceptions as auth_errors
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage
from google.cloud.storage.exceptions import DataCorruption

from limen.errors import LimenError, Rejected, Transient, Unreachable
from worker.destinations.archive import Content, Stored

__all__ = ["BucketArchive"]

_PART_BYTES = 8 << 20  # what is larger is uploaded in parts, one of them in memory at a time
_TYPES = {
    ".json": "application/json",
    ".png": "image/png",
    ".jls": "image/jls",
    ".dcm": "application/dicom",
}
_FAULTS = (google_errors.GoogleAPIError, auth_errors.GoogleAuthError, OSError)

_WRONG = {400: "cannot take it as it is", 413: "says it is too large", 422: "cannot take it"}
"""What is said of this object, and stays true."""

_LOOK_AT = {
    401: "it does not take the credentials; look at destination.archive.credentials_file",
    403: "the account may not write there; it needs the roles Storage Object Creator and Storage "
    "Object Viewer for this bucket, and a project whose billing is in order",
    404: "there is no such bucket; make it, or put destination.archive.bucket right",
    429: "it asks for fewer requests",
}
"""What can be put right, after which the object must arrive without anybody's help."""

_SETTINGS = re.compile(r"bucket|project|billing|crc32c|checksum|credential|grant", re.IGNORECASE)
"""A refusal that speaks of these speaks of the settings, or of the way, not of the object."""


class BucketArchive:
    """An archive in a bucket.

    Parameters
    ----------
    bucket
        Its name. ``STORAGE_EMULATOR_HOST`` in the environment points to an emulator.
    prefix
        Put before every object name.
    credentials_file
        Service account file; without one, the default credentials of the host.
    timeout_s
        For the connection, and for each read of an answer.
    """

    def __init__(
        self, bucket: str, prefix: str, credentials_file: Path | None, timeout_s: float
    ) -> None:
        self._name = bucket
        self._prefix = f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self._credentials_file = credentials_file
        self._timeout_s = timeout_s
        self._client: storage.Client | None = None

    def put(self, name: str, content: Content) -> None:
        """Upload an object unless it is there. See ``Archive``."""
        crc32c = _crc32c(content)
        blob = self._bucket().blob(self._prefix + name, chunk_size=_PART_BYTES)
        try:
            self._upload(blob, content)
        except google_errors.PreconditionFailed:
            self._same_or_rejected(blob, crc32c)
        except DataCorruption as exc:  # the library compares what it sends in parts by itself
            raise Transient(f"bucket {self._name} received other bytes than were sent") from exc
        except _FAULTS as exc:
            raise self._fault(exc) from exc
        if blob.crc32c != crc32c:
            raise Transient(
                f"bucket {self._name} reports another CRC32C than was sent, or none; if it stays "
                "so, something else answers in its place"
            )

    def get(self, name: str, path: Path) -> bool:
        """Download an object; its CRC32C is compared on the way. See ``Archive``."""
        blob = self._bucket().blob(self._prefix + name)
        try:
            with path.open("wb") as file:
                blob.download_to_file(file, checksum="crc32c", timeout=self._timeout_s, retry=None)
        except google_errors.NotFound:
            return False
        except DataCorruption as exc:
            raise Transient(f"bucket {self._name} sent other bytes than it holds") from exc
        except _FAULTS as exc:
            raise self._fault(exc) from exc
        return True

    def studies(self) -> Iterator[str]:
        """Yield the folders, page by page. See ``Archive``."""
        start = len(self._prefix)
        try:
            listed = self._list(self._prefix, delimiter="/")
            for page in listed.pages:
                list(page)  # the folders of a page are known when it was read
                yield from (found[start:].rstrip("/") for found in sorted(page.prefixes))
        except _FAULTS as exc:
            raise self._fault(exc) from exc

    def below(self, study_key: str) -> Iterator[Stored]:
        """Yield the objects of a folder. See ``Archive``."""
        try:
            for blob in self._list(f"{self._prefix}{study_key}/"):
                at_s = blob.time_created.timestamp()
                yield Stored(blob.name.removeprefix(self._prefix), at_s)
        except _FAULTS as exc:
            raise self._fault(exc) from exc

    def _list(self, prefix: str, **more: str) -> Any:
        bucket = self._bucket()
        return bucket.list_blobs(prefix=prefix, timeout=self._timeout_s, retry=None, **more)

    def remove(self, name: str) -> bool:
        """Remove an object. See ``Archive``."""
        blob = self._bucket().blob(self._prefix + name)
        try:
            blob.delete(timeout=self._timeout_s, retry=None)
        except google_errors.NotFound:
            return True
        except google_errors.Forbidden:
            return False
        except _FAULTS as exc:
            raise self._fault(exc) from exc
        return True

    def _upload(self, blob: storage.Blob, content: Content) -> None:
        with content.open() as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(0)
            blob.upload_from_file(
                stream,
                size=size,
                content_type=_TYPES.get(Path(blob.name).suffix, "application/octet-stream"),
                if_generation_match=0,
                checksum="crc32c",
                timeout=self._timeout_s,
                retry=None,  # retries live in the journal
            )

    def _same_or_rejected(self, blob: storage.Blob, crc32c: str) -> None:
        """A 412 after a lost answer is our own object: compare, do not guess."""
        try:
            blob.reload(timeout=self._timeout_s, retry=None)
        except _FAULTS as exc:
            raise self._fault(exc) from exc
        if blob.crc32c != crc32c:
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
                "set destination.archive.credentials_file to a service account file"
            ) from exc

    def _fault(self, error: Exception) -> LimenError:
        """Return what a failed request means."""
        code = getattr(error, "code", None)
        if isinstance(error, auth_errors.GoogleAuthError) or code in {401, 403}:
            self._client = None  # the next attempt reads the credentials again
        if not isinstance(error, google_errors.GoogleAPIError) or not isinstance(code, int):
            return Unreachable(f"bucket {self._name} cannot be written now: {_cause(error)}")
        said = f"bucket {self._name} answered {int(code)}"
        if code in _WRONG and _is_about_the_object(error):
            return Rejected(f"{said}: it {_WRONG[code]}")
        return Unreachable(f"{said}: {_LOOK_AT.get(code, 'not now, or something is in between')}")


def _cause(error: Exception) -> str:
    kind = type(error).__name__
    if isinstance(error, auth_errors.TransportError):
        return f"nobody confirms its credentials ({kind}); does the way out lead to Google?"
    if isinstance(error, auth_errors.GoogleAuthError):
        return (
            f"its credentials are not taken, or have expired ({kind}); look at "
            "destination.archive.credentials_file, or at the default credentials of this host"
        )
    if isinstance(error, ValueError):
        return f"something in between answers with a page ({kind})"
    if "SSL" in kind:
        return f"TLS failed ({kind}); something in between shows a certificate of its own"
    return f"no answer ({kind}); does the way out lead to it?"


def _is_about_the_object(error: google_errors.GoogleAPIError) -> bool:
    """Return whether the bucket itself refuses the object; a proxy speaks no JSON."""
    try:
        message = error.response.json()["error"].get("message", "")
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    return not _SETTINGS.search(str(message))


def _crc32c(content: Content) -> str:
    """Return the CRC32C as the bucket reports it: base64 of the big-endian value."""
    checksum = google_crc32c.Checksum()
    for block in content.blocks():
        checksum.update(block)
    return base64.b64encode(checksum.digest()).decode("ascii")
