"""``make fuzz``: atheris (libFuzzer) over ``tests.fuzz.harness``, and over a receiver's socket.

``python -m tests.fuzz.run CORPUS [--runs N] [--seconds S] [--socket]``. An input that breaks a
property is written to the corpus folder as ``crash-...``; every 100,000 runs open files, threads
and memory are compared with what they were.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scp", "limen.uids"], enable_loader_override=False):
    import scp.association
    import scp.dimse
    import scp.handlers
    import scp.header
    import scp.negotiation
    import scp.pdu  # noqa: F401 - imported here to be instrumented

from tests.attacks.siege import Receiver
from tests.attacks.wire import RawPeer
from tests.fuzz.harness import Broken, Harness, leaks, seeds

_CHECK_EVERY = 100_000
_SETTLED = 20_000
_MEMORY_BYTES = 512 << 20
_SERVE_EVERY = 200


class _Watched:
    """A harness whose process must not grow."""

    def __init__(self) -> None:
        self._harness = Harness()
        self._runs = 0
        self._before = leaks()

    def __call__(self, data: bytes) -> None:
        self._harness.one(data)
        self._runs += 1
        if self._runs == _SETTLED:
            self._before = leaks()
        if self._runs % _CHECK_EVERY == 0:
            self._check()

    def _check(self) -> None:
        files, threads, memory = leaks()
        said = f"{self._runs} runs: {files} files, {threads} threads, {memory >> 20} MiB"
        print(said, flush=True)  # noqa: T201
        if files > self._before[0] or threads > self._before[1]:
            raise Broken(f"{(files, threads)} files and threads, {self._before[:2]} before")
        if memory > self._before[2] + _MEMORY_BYTES:
            raise Broken(f"{memory} bytes resident, {self._before[2]} before")


class _Socket:
    """A receiver in a process of its own, and a good peer now and then."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._pid = receiver.pid
        self._before = receiver.usage()
        self._runs = 0

    def __call__(self, data: bytes) -> None:
        with contextlib.suppress(OSError), RawPeer(self._receiver.port) as peer:
            peer.send(data[1:])
            peer.sock.shutdown(1)
            peer.end()
        self._runs += 1
        if self._runs % _SERVE_EVERY:
            return
        self._receiver.serves()
        now = self._receiver.usage()
        if self._receiver.pid != self._pid:
            raise Broken("the receiver died")
        if now.files > self._before.files + 10 or now.threads > self._before.threads + 5:
            raise Broken(f"before {self._before}, now {now}")


def main() -> None:
    """Fuzz until the runs or the seconds are over, or something breaks."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--runs", type=int, default=-1)
    parser.add_argument("--seconds", type=int, default=0)
    parser.add_argument("--socket", action="store_true", help="over TCP to a process of its own")
    args = parser.parse_args()
    args.corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()):
        (args.corpus / f"seed-{number:02d}").write_bytes(seed)
    options = [f"-runs={args.runs}", f"-max_total_time={args.seconds}", "-max_len=8192"]
    # The harness looks at processor time itself; the clock on the wall says little at low priority.
    options += ["-timeout=3600", "-rss_limit_mb=4096", f"-artifact_prefix={args.corpus}/"]
    options += ["-print_final_stats=1", "-len_control=20"]
    with contextlib.ExitStack() as stack:
        target: _Watched | _Socket = _Watched()
        if args.socket:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            target = _Socket(
                stack.enter_context(
                    Receiver(folder, handshake_timeout_s=1, pdu_timeout_s=1, idle_timeout_s=1)
                )
            )
        atheris.Setup([sys.argv[0], *options, str(args.corpus)], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
