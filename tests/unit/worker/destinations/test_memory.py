"""worker.destinations: what a delivery takes of memory does not grow with what is delivered."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import google_crc32c
import pytest

from tests.support.services import REPOSITORY

ORIGINAL_BYTES = 600 << 20
IMAGES, IMAGE_BYTES = 100, 4 << 20
MOST_BYTES = 64 << 20
BLOCK_BYTES = 1 << 20

DELIVERS = """
import re, sys, warnings
from dataclasses import replace
from pathlib import Path
warnings.simplefilter("ignore")
from limen.config import load
from limen.result import Phase
from worker.destinations import Original, Parcel
from worker.destinations.archive import digest_of
from worker.destinations.registry import destinations

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) << 10

name, folder, original, images = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
destination = destinations(load(), None)[name]  # none of these keeps notes of its objects
small = Parcel("ab" * 16, 1, Phase.PREDICTION, b"{}", {}, ())
destination.deliver(small)  # libraries are loaded
before = peak()
path = folder / "original"
originals = (Original(path, "cd" * 16, digest_of(path)),) if original else ()
files = {f"{n}.png": folder / "image" for n in range(images)}
destination.deliver(replace(small, revision=2, files=files, originals=originals))
print(peak() - before)
"""


class Sink(BaseHTTPRequestHandler):
    """A results server, and a bucket of the JSON API, that keep nothing of what they take."""

    taken_bytes = 0
    crc = google_crc32c.Checksum()

    def do_POST(self) -> None:
        if "uploadType=resumable" in self.path:
            self._read()
            type(self).crc = google_crc32c.Checksum()
            self._answer(200, {}, Location=f"http://{self.headers['Host']}/session")
        elif "uploadType=multipart" in self.path:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sent = body.split(b"\r\n\r\n")[2].rsplit(b"\r\n--", 1)[0]
            self._created(google_crc32c.Checksum(sent))
        else:
            self._read()
            self._answer(201, {"status": "created"})

    def do_PUT(self) -> None:
        for block in self._blocks():
            self.crc.update(block)
        _, last, whole = map(int, re.findall(r"\d+", self.headers["Content-Range"]))
        if last + 1 == whole:
            self._created(self.crc)
        else:
            self._answer(308, {}, Range=f"bytes=0-{last}")

    def do_GET(self) -> None:  # the library asks for the bucket
        self._answer(404, {})

    def _created(self, crc: google_crc32c.Checksum) -> None:
        self._answer(200, {"crc32c": base64.b64encode(crc.digest()).decode("ascii")})

    def _blocks(self) -> Iterator[bytes]:
        left = int(self.headers["Content-Length"])
        while left:
            block = self.rfile.read(min(left, BLOCK_BYTES))
            left -= len(block)
            type(self).taken_bytes += len(block)
            yield block

    def _read(self) -> None:
        for _ in self._blocks():
            pass

    def _answer(self, status: int, tree: dict[str, str], **headers: str) -> None:
        body = json.dumps(tree).encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def sink() -> Iterator[str]:
    Sink.taken_bytes = 0
    http = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    thread = threading.Thread(target=http.serve_forever, args=(0.02,))
    thread.start()
    yield f"http://127.0.0.1:{http.server_address[1]}"
    http.shutdown()
    thread.join()
    http.server_close()


def peak_bytes(
    folder: Path, destination: str, *, original: bool = False, images: int = 0, **env: str
) -> int:
    """Deliver from a process of its own, with the shipped settings; return what its peak grew."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LIMEN_", "STORAGE_"))}
    data = {"LIMEN_NODE__DATA_DIR": str(folder / "data"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", DELIVERS, destination, folder, str(int(original)), str(images)],
        env=kept | data | env,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.fixture
def original(tmp_path: Path) -> Iterator[Path]:
    """A large file, most of it a hole: a folder of the results of this test is not to fill up."""
    path = tmp_path / "original"
    with path.open("wb") as file:
        file.truncate(ORIGINAL_BYTES)
    yield path
    for left in (tmp_path / "data").rglob("*.dcm"):
        left.unlink()


def test_a_large_original_goes_to_a_folder_in_blocks(original: Path) -> None:
    assert peak_bytes(original.parent, "archive", original=True) < MOST_BYTES
    (kept,) = (original.parent / "data/archive").rglob("*.dcm")
    assert kept.stat().st_size == ORIGINAL_BYTES


def test_a_large_original_goes_to_a_bucket_in_blocks(original: Path, sink: str) -> None:
    grown = peak_bytes(
        original.parent,
        "archive",
        original=True,
        STORAGE_EMULATOR_HOST=sink,
        LIMEN_DESTINATION__ARCHIVE__BUCKET="limen",
    )
    assert grown < MOST_BYTES
    assert ORIGINAL_BYTES <= Sink.taken_bytes < ORIGINAL_BYTES + BLOCK_BYTES


def test_a_large_result_goes_to_the_results_server_in_blocks(tmp_path: Path, sink: str) -> None:
    with (tmp_path / "image").open("wb") as file:
        file.truncate(IMAGE_BYTES)
    secrets = tmp_path / "data/secrets"
    secrets.mkdir(parents=True)
    (secrets / "web-token").write_text("s3cret")
    grown = peak_bytes(tmp_path, "django", images=IMAGES, LIMEN_DESTINATION__DJANGO__URL=sink)
    assert grown < MOST_BYTES
    assert Sink.taken_bytes > IMAGES * IMAGE_BYTES
