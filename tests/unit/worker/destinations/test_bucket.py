"""worker.destinations.bucket: what each answer of Google Cloud Storage means."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import google_crc32c
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from gcp_storage_emulator.server import create_server
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from limen.errors import LimenError, Rejected, Transient, Unreachable
from limen.result import Phase
from tests.support.ports import free_ports
from tests.support.samples import result
from worker.destinations import Original, Parcel
from worker.destinations.archive import ArchiveDestination, Content
from worker.destinations.bucket import BucketArchive

KEY, SOP_KEY = "ab" * 16, "cd" * 16
DATA_SET = b"instance"
RECEIVED = bytes(144) + DATA_SET
"""A file as the receiver writes it: a head without elements of its own, then the data set."""

DIGEST = hashlib.sha256(DATA_SET).hexdigest()
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
    (tmp_path / "original.dcm").write_bytes(RECEIVED)
    return Parcel(
        KEY,
        2,
        Phase.PREDICTION,
        result().to_json(),
        {"a-1.png": tmp_path / "a-1.png"},
        (Original(tmp_path / "original.dcm", SOP_KEY, DIGEST),),
    )


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
    ArchiveDestination(archive, originals=True).deliver(parcel)
    found = {b.name: b for b in bucket.list_blobs(prefix="site1/")}
    assert len(found) == 3
    original = found[f"site1/{KEY}/instances/{SOP_KEY}-{DIGEST[:16]}.dcm"]
    assert original.download_as_bytes() == RECEIVED
    assert original.content_type == "application/dicom"
    (document,) = [b for n, b in found.items() if n.endswith(".json")]
    assert document.download_as_bytes() == parcel.document
    assert document.crc32c == crc32c(parcel.document)


def test_an_object_of_many_megabytes_arrives_whole(bucket: storage.Bucket) -> None:
    body = bytes(range(256)) * (9 << 12)  # 9 MiB: the library uploads in parts above 8
    BucketArchive(BUCKET, "", None, 30.0).put("large.dcm", Content(body))
    assert bucket.blob("large.dcm").download_as_bytes() == body


def test_studies_and_their_objects_are_listed_without_the_prefix(
    bucket: storage.Bucket, parcel: Parcel
) -> None:
    archive = BucketArchive(BUCKET, "listed", None, 5.0)
    assert list(archive.studies()) == []
    ArchiveDestination(archive, originals=True).deliver(parcel)
    assert list(archive.studies()) == [KEY]
    names = [one.name for one in archive.below(KEY)]
    assert len(names) == 3
    assert f"{KEY}/instances/{SOP_KEY}-{DIGEST[:16]}.dcm" in names


# -- a bucket that misbehaves on command -----------------------------------------------------------


@dataclass
class ScriptedBucket:
    """The JSON API for uploads and metadata, with answers as told."""

    status: int = 200
    part_status: int = 200
    parts: int = 0
    said: str = ""
    page: bool = False
    silences_checksum: bool = False
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
                sent = b"".join(body.split(b"\r\n\r\n")[2:]).rsplit(b"\r\n--", 1)[0]
                self._answer(script.status, script.crc32c or crc32c(sent))

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                script.parts += 1
                self._answer(script.part_status, "")

            def do_GET(self) -> None:  # the library also asks for the bucket, in a thread
                script.reads.append(urlsplit(self.path).path)
                if script.stored is None:
                    self._answer(404, "")
                else:
                    self._answer(200, crc32c(script.stored))

            def _answer(self, status: int, checksum: str) -> None:
                tree = {"name": "a.json", "bucket": BUCKET}
                if not script.silences_checksum:
                    tree["crc32c"] = checksum
                error = {"error": {"code": status, "message": script.said}}
                body = json.dumps(tree if status == 200 else error).encode()
                if script.page:
                    body = b"<h1>Sign in</h1>"
                self.send_response(status)
                self.send_header("Content-Type", "text/html" if script.page else "application/json")
                self.send_header("Content-Length", str(len(body)))
                if not script.page:
                    self.send_header("Location", f"http://{self.headers['Host']}/session")
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        return Handler

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Answer until the block ends; yield the address."""
        http = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_address[1]}"
        finally:
            http.shutdown()
            thread.join()
            http.server_close()


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedBucket]:
    script = ScriptedBucket()
    with script.serving() as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield script


def put(body: bytes = b"one", timeout_s: float = 5.0) -> None:
    BucketArchive(BUCKET, "", None, timeout_s).put("a.json", Content(body))


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


# status, what it says (None: with a page of a proxy), what it means, what the operator is told
ANSWERS = [
    # The bucket says that it cannot take this object: it never will.
    (400, "Invalid object name", Rejected, "answered 400: it cannot take it"),
    (413, "Too large", Rejected, "answered 413"),
    (422, "Unprocessable", Rejected, "answered 422"),
    # Everything else can be put right, and the object then arrives without anybody's help.
    (400, "Invalid bucket name: 'x'", Unreachable, "answered 400"),
    (400, "Provided CRC32C does not match", Unreachable, "answered 400"),
    (400, "User project specified is invalid", Unreachable, "answered 400"),
    (400, None, Unreachable, "something is in between"),
    (401, "Invalid", Unreachable, "credentials .* look at destination.archive.credentials_file"),
    (403, "Forbidden", Unreachable, "Storage Object Creator and Storage Object Viewer"),
    (403, None, Unreachable, "Storage Object Creator"),
    (404, "Not Found", Unreachable, "no such bucket; make it, or put destination.archive.bucket"),
    (405, "Not Allowed", Unreachable, "something is in between"),
    (408, "Timeout", Unreachable, "not now"),
    (409, "Conflict", Unreachable, "not now"),
    (413, None, Unreachable, "something is in between"),
    (429, "Slow down", Unreachable, "fewer requests"),
    (500, "Backend error", Unreachable, "not now"),
    (503, "Backend error", Unreachable, "not now"),
    (304, "", Unreachable, "something is in between"),
    (200, None, Unreachable, "something in between answers with a page"),
]


@pytest.mark.parametrize(
    ("status", "said", "error", "told"), ANSWERS, ids=[f"{a[0]}-{a[1]}" for a in ANSWERS]
)
def test_only_what_says_that_the_object_is_wrong_is_final(
    scripted: ScriptedBucket, status: int, said: str | None, error: type[LimenError], told: str
) -> None:
    scripted.status, scripted.said, scripted.page = status, said or "", said is None
    with pytest.raises(error, match=f"{BUCKET}.*{told}"):
        put()
    assert len(scripted.queries) == 1  # retries live in the journal


@pytest.mark.parametrize(
    ("status", "part_status", "page", "error", "told"),
    [
        (403, 0, False, Unreachable, "Storage Object Creator"),
        (404, 0, False, Unreachable, "no such bucket"),
        (200, 0, True, Unreachable, "answered 200: not now, or something is in between"),
        (200, 400, False, Rejected, "answered 400"),
        (200, 403, False, Unreachable, "Storage Object Creator"),
        (200, 503, False, Unreachable, "not now"),
    ],
)
def test_a_large_object_meets_the_same_answers_at_its_beginning_and_at_a_part(
    scripted: ScriptedBucket,
    status: int,
    part_status: int,
    page: bool,
    error: type[LimenError],
    told: str,
) -> None:
    scripted.status, scripted.part_status, scripted.page = status, part_status, page
    with pytest.raises(error, match=told):
        put(bytes(20 << 20), 30.0)
    assert scripted.parts == (1 if part_status else 0)


def test_an_answer_without_a_checksum_proves_nothing(scripted: ScriptedBucket) -> None:
    scripted.silences_checksum = True
    with pytest.raises(Transient, match="CRC32C"):
        put()


def test_another_checksum_in_the_answer_is_tried_again(scripted: ScriptedBucket) -> None:
    scripted.crc32c = crc32c(b"damaged")
    with pytest.raises(Transient, match="CRC32C"):
        put()


def test_a_bucket_that_does_not_answer_in_time_is_unreachable(scripted: ScriptedBucket) -> None:
    scripted.silent = threading.Event()
    with pytest.raises(Unreachable, match="cannot be written now: no answer"):
        put(timeout_s=0.2)
    scripted.silent.set()


def test_credentials_that_have_expired_are_read_again_at_the_next_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token server says that the account's key is no longer good (RFC 6749 5.2)."""
    refused = ScriptedBucket(status=400)
    with refused.serving() as url:
        monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
        path = tmp_path / "account.json"
        path.write_text(account(f"{url}/token"))
        archive = BucketArchive(BUCKET, "", path, 5.0)
        with pytest.raises(Unreachable, match=r"have expired \(RefreshError\); look at"):
            archive.put("a.json", Content(b"one"))
        path.unlink()
        with pytest.raises(Unreachable, match="no credentials for bucket"):
            archive.put("a.json", Content(b"one"))


def account(token_url: str) -> str:
    """Return a service account file with a key of its own."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    fields = {"client_email": "limen@example.org", "token_uri": token_url}
    return json.dumps({**fields, "type": "service_account", "private_key": key.decode()})


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
        BucketArchive(BUCKET, "", path, 1.0).put("a.json", Content(b"one"))


def test_a_corruption_that_the_library_finds_is_tried_again(
    emulator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload in parts is checked by the library itself, which raises an error of its own."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", emulator)
    real: Callable[..., object] = storage.Blob.upload_from_file

    def corrupted(*args: object, **more: object) -> object:
        from google.cloud.storage.exceptions import DataCorruption

        real(*args, **more)
        raise DataCorruption(None, "checksum mismatch")

    monkeypatch.setattr(storage.Blob, "upload_from_file", corrupted)
    with pytest.raises(Transient):
        BucketArchive(BUCKET, "", None, 5.0).put("corrupt.json", Content(b"one"))


def test_what_was_stored_comes_back_and_what_was_not_is_not_there(
    bucket: storage.Bucket, tmp_path: Path
) -> None:
    archive = BucketArchive(BUCKET, "node-1", None, 10)
    archive.put("a/b.dcm", Content(b"instance"))
    assert archive.get("a/b.dcm", tmp_path / "back.dcm")
    assert (tmp_path / "back.dcm").read_bytes() == b"instance"
    assert not archive.get("a/c.dcm", tmp_path / "none.dcm")
