"""``make fuzz``: atheris (libFuzzer) over ``tests.fuzz.harness``, and over a receiver's socket.

``python -m tests.fuzz.run CORPUS [--runs N] [--seconds S] [--socket]``. Every way of the harness
has a process, a corpus folder and an equal share of the runs; each leaves a line in
``CORPUS/executions.jsonl``. An input that breaks a property is written into the corpus of its way
as ``crash-...``; ``--again WAY FILE`` runs it once more. Every 100,000 runs open files, threads and
memory are compared with what they were.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import mmap
import os
import random
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["scp", "limen.uids"], enable_loader_override=False):
    import scp.association
    import scp.commitment_messages  # noqa: F401 - imported here to be instrumented

from tests.fuzz.harness import TALKS, WAYS, Broken, Harness, said, seeds
from tests.support.siege import Receiver, shaken, tls_settings
from tests.support.wire import RawPeer

_CHECK_EVERY = 100_000
_SETTLED = 20_000
_MEMORY_BYTES = 128 << 20
_SERVE_EVERY = 200
_A_WHILE_S = 600  # a process that is stopped for minutes has not hung
_INPUT_BYTES = 8192
_COUNT = struct.Struct("<Q")

Mutator = Callable[[bytes, int, int], bytes]


class _Watched:
    """One way of a harness, in a process that must not grow.

    Parameters
    ----------
    runs
        After so many the process is looked at a last time; -1: it has no end.
    count
        Where the runs are counted, for who survives this process.
    """

    def __init__(self, harness: Harness, way: str, runs: int, count: mmap.mmap) -> None:
        self._harness = harness
        self._way = way
        self._last = runs
        self._count = count
        self._runs = 0
        self._before = self._harness.leaks()

    def __call__(self, data: bytes) -> None:
        self._runs += 1
        _COUNT.pack_into(self._count, 0, self._runs)
        self._harness.run(self._way, data)
        if self._runs == _SETTLED:
            self._before = self._harness.leaks()
        if self._runs % _CHECK_EVERY == 0 or self._runs == self._last:
            self._check()

    def _check(self) -> None:
        files, threads, memory = self._harness.leaks()
        now = f"{files} files, {threads} threads, {memory >> 20} MiB"
        _say(f"{self._way}: {self._runs} runs, {self._harness.kept} instances kept, {now}")
        if files > self._before[0] or threads > self._before[1]:
            raise Broken(f"{(files, threads)} files and threads, {self._before[:2]} before")
        if memory > self._before[2] + _MEMORY_BYTES:
            raise Broken(f"{memory} bytes resident, {self._before[2]} before")


class _Socket:
    """A receiver in a process of its own, and a good peer now and then.

    One input in four is said over TLS, and one in four in place of TLS.
    """

    def __init__(self, receiver: Receiver, runs: int, count: mmap.mmap) -> None:
        self._receiver = receiver
        self._pid = receiver.pid
        self._last = runs
        self._count = count
        self._before = receiver.usage()
        self._runs = 0

    def __call__(self, data: bytes) -> None:
        """Run an input whose first byte says how the rest is used."""
        self._runs += 1
        _COUNT.pack_into(self._count, 0, self._runs)
        way = TALKS[data[0] % len(TALKS)] if data else "raw"
        try:
            self._converse(said(way, data[1:]))
        except TimeoutError as exc:
            raise Broken("the receiver hangs") from exc
        except OSError:  # it has had enough, of TLS too
            pass
        if self._runs % _SERVE_EVERY == 0 or self._runs == self._last:
            self._check()

    def _converse(self, data: bytes) -> None:
        with self._connected() as peer:
            peer.sock.settimeout(_A_WHILE_S)
            peer.send(data)
            socket.socket.shutdown(peer.sock, socket.SHUT_WR)  # below TLS: the answer is read
            peer.end()

    def _connected(self) -> RawPeer:
        if self._runs % 4 == 0:
            return shaken(self._receiver)
        return RawPeer(self._receiver.tls_port if self._runs % 4 == 2 else self._receiver.port)

    def _check(self) -> None:
        self._receiver.serves()
        now = self._receiver.usage()
        if self._runs % (_SERVE_EVERY * 25) == 0 or self._runs == self._last:
            _say(f"socket: {self._runs} runs, {now}")
        if self._receiver.pid != self._pid:
            raise Broken("the receiver died")
        if now.files > self._before.files + 10 or now.threads > self._before.threads + 5:
            raise Broken(f"before {self._before}, now {now}")
        if now.rss_bytes > self._before.rss_bytes + _MEMORY_BYTES:
            raise Broken(f"before {self._before}, now {now}")
        if faults := self._receiver.faults():
            raise Broken(f"a fault of ours: {faults[0]}")


def main() -> int:
    """Fuzz until the runs or the seconds are over, or something breaks; return 0 or not."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.run", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--runs", type=int, default=-1, help="in all ways together")
    parser.add_argument("--seconds", type=int, default=0, help="for all ways together")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS, metavar="WAY")
    parser.add_argument("--socket", action="store_true", help="over TCP to a process of its own")
    parser.add_argument("--again", nargs=2, metavar=("WAY", "FILE"), help="run one input")
    args = parser.parse_args()
    if args.runs < 0 and not args.seconds and not args.again:
        parser.error("say how long: --runs or --seconds")
    if args.again:
        way, file = args.again
        with contextlib.closing(Harness()) as harness:
            harness.run(way, Path(file).read_bytes())
        return 0
    for way, folder in ((way, args.corpus / way) for way in WAYS):
        folder.mkdir(parents=True, exist_ok=True)
        for number, (of, seed) in enumerate(seeds()):
            if of == way:
                (folder / f"seed-{number:02d}").write_bytes(seed)
    if args.socket:
        return _over_socket(args.corpus, args.runs, args.seconds)
    share = len(args.ways)
    runs = args.runs if args.runs < 0 else -(-args.runs // share)
    ended = [_in_process(args.corpus, way, runs, args.seconds // share) for way in args.ways]
    return int(any(ended))


def _in_process(corpus: Path, way: str, runs: int, seconds: int) -> int:
    with contextlib.closing(Harness()) as harness, mmap.mmap(-1, _COUNT.size) as count:
        watched = _Watched(harness, way, runs, count)
        options = [*_options(runs, seconds), "-len_control=20"]
        options += [f"-artifact_prefix={corpus / way}/", str(corpus / way)]
        began = time.monotonic()
        status = _fuzz(options, watched)
        _note(corpus, way, count, began, status)
    return status


def _over_socket(corpus: Path, runs: int, seconds: int) -> int:
    """Feed a receiver with altered inputs of the other corpora: its coverage is not known here."""
    inputs = [
        bytes([number]) + file.read_bytes()
        for number, way in enumerate(TALKS)
        for file in sorted((corpus / way).iterdir())
    ]

    def alter(_: bytes, most: int, seed: int) -> bytes:
        chance = random.Random(seed)
        data = chance.choice(inputs)
        altered = data[1:]
        for _round in range(chance.randrange(4)):
            altered = atheris.Mutate(altered, most - 1)
        return (data[:1] + altered)[:most]

    artifacts = corpus / "socket"
    artifacts.mkdir(exist_ok=True)
    patience = ("handshake_timeout_s", "pdu_timeout_s", "idle_timeout_s")
    with (
        tempfile.TemporaryDirectory() as name,
        Receiver(
            Path(name), **tls_settings(Path(name)), **dict.fromkeys(patience, _A_WHILE_S)
        ) as receiver,
        mmap.mmap(-1, _COUNT.size) as count,
    ):
        target = _Socket(receiver, runs, count)
        options = [*_options(runs, seconds), "-len_control=0", f"-artifact_prefix={artifacts}/"]
        began = time.monotonic()
        status = _fuzz(options, target, alter)
        _note(corpus, "socket", count, began, status)
    return status


def _options(runs: int, seconds: int) -> list[str]:
    return [
        f"-runs={runs}",
        f"-max_total_time={seconds}",
        f"-max_len={_INPUT_BYTES}",
        # The harness looks at processor time itself; the clock on the wall says little here.
        "-timeout=86400",
        "-report_slow_units=86400",
        "-rss_limit_mb=4096",
        "-print_final_stats=1",
    ]


def _fuzz(
    options: list[str], target: Callable[[bytes], None], mutator: Mutator | None = None
) -> int:
    """Run libFuzzer in a child: it ends its process outright, and somebody has to tidy up."""
    child = os.fork()
    if not child:
        how = {} if mutator is None else {"custom_mutator": mutator}
        atheris.Setup([sys.argv[0], *options], target, **how)
        atheris.Fuzz()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def _note(corpus: Path, way: str, count: mmap.mmap, began: float, status: int) -> None:
    """Add a line to the book of executions."""
    (runs,) = _COUNT.unpack_from(count)
    line = {
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "way": way,
        "runs": runs,
        "seconds": round(time.monotonic() - began),
        "exit": status,
    }
    with (corpus / "executions.jsonl").open("a", encoding="ascii") as book:
        book.write(json.dumps(line) + "\n")
    _say(f"{way}: {runs} executions, exit code {status}")


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
