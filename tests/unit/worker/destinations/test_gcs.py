"""worker.destinations.gcs: objects that are created once, in a bucket or a folder."""

from __future__ import annotations

import base64
import errno
import json
import os
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import google_crc32c
import pytest
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from limen.errors import LimenError, OutOfSpace, Rejected, Transient, Unreachable
from limen.result import Phase
from tests.node import free_ports
from tests.samples import result
from worker.destinations import Original, Parcel
from worker.destinations.gcs import BucketArchive, FolderArchive, GcsDestination

KEY, SOP_KEY, DIGEST = "ab" * 16, "cd" * 16, "ef" * 32
BUCKET = "limen-archive"

# The client library leaves the sockets of its session to the garbage collector.
pytestmark = pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)


def crc32c(body: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(body).digest()).decode("ascii")


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    (tmp_path / "a-1.png").write_bytes(b"picture")
    (tmp_path / "original.dcm").write_bytes(b"instance")
    return Parcel(
        KEY,
        2,
        Phase.PREDICTION,
        result().to_json(),
        {"a-1.png": tmp_path / "a-1.png"},
        (Original(tmp_path / "original.dcm", SOP_KEY, DIGEST),),
    )


# -- what a parcel becomes -------------------------------------------------------------------------


def test_names_are_keys_and_digests_and_the_document_comes_last(
    parcel: Parcel, tmp_path: Path
) -> None:
    GcsDestination(FolderArchive(tmp_path / "archive"), originals=True).deliver(parcel)
    archive = tmp_path / "archive"
    found = sorted(str(p.relative_to(archive)) for p in archive.rglob("*") if p.is_file())
    folder = f"results/{KEY}/2-prediction"
    assert found[0] == f"instances/{KEY}/{SOP_KEY}-{DIGEST[:16]}.dcm"
    assert re.fullmatch(rf"{folder}/a-1-[0-9a-f]{{16}}\.png", found[1])
    assert re.fullmatch(rf"{folder}/result-[0-9a-f]{{16}}\.json", found[2])
    assert (archive / found[0]).read_bytes() == b"instance"
    assert (archive / found[2]).read_bytes() == parcel.document


def test_the_document_is_stored_after_everything_it_names(parcel: Parcel) -> None:
    names: list[str] = []

    class Archive:
        def put(self, name: str, body: bytes) -> None:
            names.append(name)

    GcsDestination(Archive(), originals=True).deliver(parcel)
    assert [Path(n).suffix for n in names] == [".dcm", ".png", ".json"]


def test_originals_stay_here_when_only_results_are_wanted(parcel: Parcel, tmp_path: Path) -> None:
    GcsDestination(FolderArchive(tmp_path / "archive"), originals=False).deliver(parcel)
    assert not (tmp_path / "archive" / "instances").exists()


@pytest.mark.parametrize("lost", ["a-1.png", "original.dcm"])
def test_a_file_that_cannot_be_read_may_come_back(
    parcel: Parcel, tmp_path: Path, lost: str
) -> None:
    (tmp_path / lost).unlink()
    with pytest.raises(Transient, match="cannot be read"):
        GcsDestination(FolderArchive(tmp_path / "archive"), originals=True).deliver(parcel)


# -- a folder --------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> FolderArchive:
    return FolderArchive(tmp_path / "archive")


def test_the_same_object_again_changes_nothing(folder: FolderArchive, tmp_path: Path) -> None:
    folder.put("a/b.json", b"one")
    before = (tmp_path / "archive/a/b.json").stat().st_mtime_ns
    folder.put("a/b.json", b"one")
    assert (tmp_path / "archive/a/b.json").stat().st_mtime_ns == before
    assert [p.name for p in (tmp_path / "archive/a").iterdir()] == ["b.json"]


def test_other_bytes_under_the_same_name_are_rejected(
    folder: FolderArchive, tmp_path: Path
) -> None:
    folder.put("a/b.json", b"one")
    with pytest.raises(Rejected, match="other bytes"):
        folder.put("a/b.json", b"two")
    assert (tmp_path / "archive/a/b.json").read_bytes() == b"one"
    assert [p.name for p in (tmp_path / "archive/a").iterdir()] == ["b.json"]


def test_file_and_every_folder_on_the_way_are_on_the_disk(
    folder: FolderArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    folder.put("a/b/c.json", b"one")
    root = tmp_path / "archive"
    assert synced[0].endswith(".part")
    assert {str(root / "a/b"), str(root / "a"), str(root)} <= set(synced[1:])


def test_an_archive_folder_that_is_full_leaves_no_part_file(
    folder: FolderArchive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fsync(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OutOfSpace, match="full"):
            folder.put("a/b.json", b"one")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
    folder.put("a/b.json", b"one")


def test_nobody_else_may_read_the_archive(folder: FolderArchive, tmp_path: Path) -> None:
    folder.put("a/b/c.json", b"one")
    assert (tmp_path / "archive").stat().st_mode & 0o077 == 0
    assert (tmp_path / "archive/a/b").stat().st_mode & 0o077 == 0


# -- a bucket, on the emulator ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def emulator() -> Iterator[str]:
    port = free_ports(1)[0]
    server = create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    server.start()
    url = f"http://127.0.0.1:{port}"
    deadline = threading.Event()
    while server._api._httpd is None and not deadline.wait(0.02):
        pass
    yield url
    server.stop()


@pytest.fixture
def bucket(emulator: str, monkeypatch: pytest.MonkeyPatch) -> storage.Bucket:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    return storage.Client(project="limen", credentials=AnonymousCredentials()).bucket(BUCKET)


def test_a_parcel_arrives_in_a_bucket(bucket: storage.Bucket, parcel: Parcel) -> None:
    archive = BucketArchive(BUCKET, "/site1/", None, 5.0)
    GcsDestination(archive, originals=True).deliver(parcel)
    found = {b.name: b for b in bucket.list_blobs(prefix="site1/")}
    assert len(found) == 3
    original = found[f"site1/instances/{KEY}/{SOP_KEY}-{DIGEST[:16]}.dcm"]
    assert original.download_as_bytes() == b"instance"
    assert original.content_type == "application/dicom"
    (document,) = [b for n, b in found.items() if n.endswith(".json")]
    assert document.download_as_bytes() == parcel.document
    assert document.crc32c == crc32c(parcel.document)


def test_an_object_of_many_megabytes_arrives_whole(bucket: storage.Bucket) -> None:
    body = bytes(range(256)) * (9 << 12)  # 9 MiB: the library uploads in parts above 8
    BucketArchive(BUCKET, "", None, 30.0).put("large.dcm", body)
    assert bucket.blob("large.dcm").download_as_bytes() == body


# -- a bucket that misbehaves on command -----------------------------------------------------------


@dataclass
class ScriptedBucket:
    """The JSON API for uploads and metadata, with answers as told."""

    status: int = 200
    stored: bytes | None = None
    crc32c: str | None = None
    silent: threading.Event | None = None
    queries: list[dict[str, list[str]]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        script = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                script.queries.append(parse_qs(urlsplit(self.path).query))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                script.bodies.append(body)
                if script.silent is not None:
                    script.silent.wait(10)
                    return
                sent = body.split(b"\r\n\r\n")[2].rsplit(b"\r\n--", 1)[0]
                self._answer(script.status, script.crc32c or crc32c(sent))

            def do_GET(self) -> None:  # the library also asks for the bucket, in a thread
                script.reads.append(urlsplit(self.path).path)
                if script.stored is None:
                    self._answer(404, "")
                else:
                    self._answer(200, crc32c(script.stored))

            def _answer(self, status: int, checksum: str) -> None:
                tree = {"name": "a.json", "bucket": BUCKET, "crc32c": checksum}
                body = json.dumps(tree if status == 200 else {"error": {"code": status}}).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBucket]:
    script = ScriptedBucket()
    http = ThreadingHTTPServer(("127.0.0.1", 0), script.handler())
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{http.server_address[1]}")
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield script
    http.shutdown()
    thread.join()
    http.server_close()


def put(body: bytes = b"one", timeout_s: float = 5.0) -> None:
    BucketArchive(BUCKET, "", None, timeout_s).put("a.json", body)


def test_an_object_is_only_ever_created(scripted: ScriptedBucket) -> None:
    put()
    (query,) = scripted.queries
    assert query["ifGenerationMatch"] == ["0"]
    assert crc32c(b"one").encode() in scripted.bodies[0]


def test_an_object_that_is_there_already_is_done(scripted: ScriptedBucket) -> None:
    scripted.status, scripted.stored = 412, b"one"
    put()
    assert len(scripted.queries) == 1
    assert f"/storage/v1/b/{BUCKET}/o/a.json" in scripted.reads


def test_another_object_under_the_same_name_is_rejected(scripted: ScriptedBucket) -> None:
    scripted.status, scripted.stored = 412, b"two"
    with pytest.raises(Rejected, match="other bytes"):
        put()


def test_an_object_that_vanished_meanwhile_may_be_created_later(scripted: ScriptedBucket) -> None:
    scripted.status = 412
    with pytest.raises(Unreachable):
        put()


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, Rejected),
        (401, Unreachable),
        (403, Unreachable),
        (404, Unreachable),
        (408, Unreachable),
        (429, Unreachable),
        (500, Unreachable),
        (503, Unreachable),
    ],
)
def test_a_refusal_is_final_or_may_change_and_is_asked_for_once(
    scripted: ScriptedBucket, status: int, error: type[LimenError]
) -> None:
    scripted.status = status
    with pytest.raises(error, match=BUCKET):
        put()
    assert len(scripted.queries) == 1  # retries live in the journal


def test_another_checksum_in_the_answer_is_tried_again(scripted: ScriptedBucket) -> None:
    scripted.crc32c = crc32c(b"damaged")
    with pytest.raises(Transient, match="CRC32C"):
        put()


def test_a_bucket_that_does_not_answer_in_time_is_unreachable(scripted: ScriptedBucket) -> None:
    scripted.silent = threading.Event()
    with pytest.raises(Unreachable, match="cannot be written now"):
        put(timeout_s=0.2)
    scripted.silent.set()


def test_a_bucket_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(Unreachable):
        put()


@pytest.mark.parametrize("content", [None, "no json", "{}"])
def test_credentials_that_cannot_be_used_may_be_put_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    path = tmp_path / "account.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(Unreachable, match="credentials_file"):
        BucketArchive(BUCKET, "", path, 1.0).put("a.json", b"one")


def test_a_corruption_that_the_library_finds_is_tried_again(
    emulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload in parts is checked by the library itself, which raises an error of its own."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    real: Callable[..., object] = storage.Blob.upload_from_string

    def corrupted(*args: object, **more: object) -> object:
        from google.cloud.storage.exceptions import DataCorruption

        real(*args, **more)
        raise DataCorruption(None, "checksum mismatch")

    monkeypatch.setattr(storage.Blob, "upload_from_string", corrupted)
    with pytest.raises(Transient):
        BucketArchive(BUCKET, "", None, 5.0).put("corrupt.json", b"one")
