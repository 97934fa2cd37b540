"""How fast instances are received: ours, durable, against DCMTK, Orthanc and pynetdicom.

``python -m bench.receive [--quick] [--json] [--folder DIR]``. Every run sends new instances (no
receiver has seen their UIDs), the receivers take turns, and each cell is the median of its runs.
The senders' files are in memory (/dev/shm, where there is one): only the receivers use the disk.
``--json``: the last line is one object ``{"goals": [{"name", "goal", "measured", "ok"}, ...]}``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from bench import receivers
from bench.goal import Goal, at_least, at_most, tell
from bench.instances import CT, KINDS, Kind, data_set, new_uid, write
from bench.receivers import AE_TITLE, Running
from tests.support.wire import (
    EXPLICIT,
    IMPLICIT,
    VERIFICATION,
    Context,
    RawPeer,
    associate,
    message,
    p_data,
    pdu,
    store_rq,
    value,
)

MIB = 1 << 20
OURS = ("limen-1", "limen-2")
UNTUNED, ALONE = "storescp, untuned", "storescp, one process"
_IDLE = 200


@dataclass(frozen=True, slots=True)
class Case:
    """A way to send.

    Attributes
    ----------
    sender
        ``storescu`` or ``dcmsend`` of DCMTK.
    nagle
        Whether the sender leaves Nagle's algorithm on, which is DCMTK's default since 3.6.2.
    senders
        How many processes send at once, one association each.
    count, quick_count
        Instances in all.
    """

    name: str
    kind: Kind
    count: int
    quick_count: int
    senders: int = 1
    nagle: bool = False
    sender: str = "storescu"


CASES = (
    Case("CT x1", KINDS["CT"], 300, 30),
    Case("CT x4", KINDS["CT"], 600, 40, senders=4),
    Case("CT x8", KINDS["CT"], 800, 40, senders=8),
    Case("CR x1", KINDS["CR"], 40, 4),
    Case("10 KB x1", KINDS["10 KB"], 1000, 100),
    Case("10 KB x4", KINDS["10 KB"], 2000, 100, senders=4),
    Case("CT x1, Nagle", KINDS["CT"], 40, 10, nagle=True),
    Case("10 KB x1, Nagle", KINDS["10 KB"], 40, 10, nagle=True),
    Case("CT x1, dcmsend", KINDS["CT"], 300, 30, sender="dcmsend"),
    Case("10 KB x1, dcmsend", KINDS["10 KB"], 1000, 100, sender="dcmsend"),
)


def main(argv: list[str] | None = None) -> int:
    """Run, print the tables, save them; return 0."""
    parser = argparse.ArgumentParser(prog="python -m bench.receive", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="does it work; no numbers to quote")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each cell (default 5)")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of goals")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write everything as JSON too")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="limen-bench-", dir=args.folder) as name:
        rates = _rates(Path(name), args.quick, args.rounds)
        sizes = _sizes(Path(name), args.quick)
    goals = _goals(rates, sizes)
    _print_rates(rates)
    tell(goals, args.quick)
    result = {
        "quick": args.quick,
        "cores": os.cpu_count(),
        "instances_per_s": rates,
        "sizes": sizes,
        "goals": [asdict(g) for g in goals],
    }
    if args.save:
        args.save.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    if args.json:
        print(json.dumps(result), flush=True)
    return 0


# -- instances per second --------------------------------------------------------------------------


Rates = dict[str, dict[str, float]]


def _rates(folder: Path, quick: bool, rounds: int) -> Rates:
    """Return the median instances per second by case and receiver."""
    seen: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with ExitStack() as stack:
        stack.enter_context(_awake())
        outgoing = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_memory())))
        running = [stack.enter_context(start) for start in _all(folder)]
        for round_ in range(1 if quick else rounds):
            for case in CASES:
                turn = round_ % len(running)
                for receiver in running[turn:] + running[:turn]:
                    if receiver.name == UNTUNED and not case.nagle:
                        continue
                    if receiver.name == ALONE and case.senders == 1:
                        continue
                    rate = _rate(case, receiver, outgoing, quick)
                    if rate is None:
                        continue
                    seen[case.name][receiver.name].append(rate)
                    _say(f"{case.name:<20} {receiver.name:<12} {rate:9.1f}/s")
    return {
        case: {name: statistics.median(runs) for name, runs in by_name.items()}
        for case, by_name in seen.items()
    }


def _all(folder: Path) -> Iterator[contextlib.AbstractContextManager[Running]]:
    starts: list[tuple[str, Callable[[Path], contextlib.AbstractContextManager[Running]]]] = [
        ("storescp", receivers.storescp),
        ("storescp-untuned", lambda f: receivers.storescp(f, tuned=False)),
        ("storescp-alone", lambda f: receivers.storescp(f, fork=False)),
        ("orthanc", receivers.orthanc),
        ("pynetdicom", receivers.pynetdicom),
        ("limen-1", lambda f: receivers.limen(f, 1)),
        ("limen-2", lambda f: receivers.limen(f, 2)),
    ]
    for name, start in starts:
        own = folder / name
        own.mkdir()
        yield start(own)


@contextlib.contextmanager
def _awake() -> Iterator[None]:
    """Keep the processors from sleeping, at idle priority.

    On a virtual machine one that sleeps takes milliseconds to come back, and who waits for a disk
    or a peer, and lets it sleep, would be measured by that.
    """
    idle = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"
    spinning = [subprocess.Popen([sys.executable, "-c", idle]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for process in spinning:
            process.kill()
            process.wait()


def _memory() -> Path | None:
    memory = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
    return memory if memory.is_dir() else None


def _rate(case: Case, receiver: Running, outgoing: Path, quick: bool) -> float | None:
    """Send new instances; return how many were received a second, None when a peer lost some."""
    each = (case.quick_count if quick else case.count) // case.senders
    for n in range(case.senders):
        write(case.kind, each, outgoing / str(n))
    began = time.monotonic()
    processes = [_send(case, receiver, outgoing / str(n)) for n in range(case.senders)]
    ended = [(process.communicate(timeout=300)[1], process.returncode) for process in processes]
    seconds = time.monotonic() - began
    for n in range(case.senders):
        shutil.rmtree(outgoing / str(n))
    receiver.empty()
    if faults := [err.decode("utf-8", "replace") for err, code in ended if code]:
        _say(f"{case.name:<20} {receiver.name:<12} not all were stored: {faults[0].strip()}")
        if receiver.name in OURS:
            raise SystemExit(1)
        return None
    return each * case.senders / seconds


def _send(case: Case, receiver: Running, files: Path) -> subprocess.Popen[bytes]:
    options = ["-R"] if case.sender == "storescu" else []  # dcmsend proposes what it sends anyway
    program = shutil.which(case.sender)
    if program is None:
        raise SystemExit(f"{case.sender} is not installed (DCMTK)")
    env = {k: v for k, v in os.environ.items() if k != "TCP_NODELAY"}
    if not case.nagle:
        env["TCP_NODELAY"] = "1"
    return subprocess.Popen(
        [program, "--quiet", *options, "-aec", AE_TITLE, "+sd", "127.0.0.1", str(receiver.port)]
        + [str(files)],
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


# -- milliseconds and bytes ------------------------------------------------------------------------


def _sizes(folder: Path, quick: bool) -> dict[str, float]:
    """Return what associations cost our receiver."""
    own = folder / "sizes"
    own.mkdir()
    wide = {"max_associations": 2 * _IDLE, "max_associations_per_address": 2 * _IDLE}
    with receivers.limen(own, 1, **wide) as receiver:
        found = {
            "set-up with 128 contexts, ms": _set_up_ms(receiver, 20 if quick else 200),
            "10 KB durable p50, ms": _durable_ms(receiver, 50 if quick else 500),
        }
        found |= _idle(receiver, 2.0 if quick else 10.0)
    large = folder / "large"
    large.mkdir()
    with receivers.limen(large, 1) as receiver:
        size_bytes = (20 if quick else 500) * MIB
        found["resident under 8 large instances, MiB"] = _large(receiver, size_bytes) / MIB
    return found


def _set_up_ms(receiver: Running, times: int) -> float:
    """From the connection to the A-ASSOCIATE-AC, median."""
    contexts = [Context(2 * n + 1, CT, (EXPLICIT, IMPLICIT)) for n in range(128)]
    request = associate(contexts, called=AE_TITLE, calling="BENCH")
    seen = []
    for _ in range(times):
        began = time.perf_counter()
        with RawPeer(receiver.port) as peer:
            peer.open(request)
            seen.append(time.perf_counter() - began)
            peer.release()
    return statistics.median(seen) * 1e3


def _durable_ms(receiver: Running, times: int) -> float:
    """From the first byte of a C-STORE to its Success, median."""
    pixels, study, seen = bytes(KINDS["10 KB"].size_bytes), new_uid(), []
    with RawPeer(receiver.port) as peer:
        peer.open(_request())
        for _ in range(times):
            sop = new_uid()
            whole = message(3, store_rq(sop), data_set(KINDS["10 KB"], study, sop, pixels))
            began = time.perf_counter()
            peer.send(whole)
            status = peer.answer().status
            seen.append(time.perf_counter() - began)
            if status != 0:
                raise SystemExit(f"C-STORE was answered 0x{status:04X}")
        peer.release()
    return statistics.median(seen) * 1e3


def _request() -> bytes:
    contexts = (Context(1, VERIFICATION, (IMPLICIT,)), Context(3, CT, (EXPLICIT,)))
    return associate(contexts, called=AE_TITLE, calling="BENCH")


def _idle(receiver: Running, seconds: float) -> dict[str, float]:
    """What associations cost that say nothing."""
    before = receiver.rss_bytes()
    with ExitStack() as stack:
        for _ in range(_IDLE):
            stack.enter_context(RawPeer(receiver.port)).open(_request())
        grown = receiver.rss_bytes() - before
        cpu, began = receiver.cpu_s(), time.monotonic()
        time.sleep(seconds)
        share = (receiver.cpu_s() - cpu) / (time.monotonic() - began)
    return {
        "200 idle associations, % of a core": share * 100,
        "an idle association, KiB": grown / _IDLE / 1024,
    }


def _large(receiver: Running, size_bytes: int) -> float:
    """Send eight large instances at once, made as they go; return the most resident memory."""
    faults: list[BaseException] = []

    def send() -> None:
        try:
            _send_large(receiver, size_bytes)
        except BaseException as exc:  # told below
            faults.append(exc)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    most = 0
    while any(thread.is_alive() for thread in threads):
        most = max(most, receiver.rss_bytes())
        time.sleep(0.02)
    if faults:
        raise SystemExit(f"a large instance was not received: {faults[0]!r}")
    return most


def _send_large(receiver: Running, size_bytes: int) -> None:
    kind = Kind("large", CT, 0, 0)
    sop = new_uid()
    head = data_set(kind, new_uid(), sop, b"")[:-4] + size_bytes.to_bytes(4, "little")
    with RawPeer(receiver.port) as peer:
        peer.sock.settimeout(300)
        chunk = peer.open(_request()).max_length - 6
        peer.send(message(3, store_rq(sop)))
        peer.send(p_data(value(3, head, command=False, last=False)))
        middle = p_data(value(3, bytes(chunk), command=False, last=False))
        for _ in range(size_bytes // chunk):
            peer.send(middle)
        peer.send(p_data(value(3, bytes(size_bytes % chunk), command=False, last=True)))
        status = peer.answer().status
        if status != 0:
            raise OSError(f"C-STORE was answered 0x{status:04X}")
        peer.send(pdu(5, bytes(4)))


# -- goals -----------------------------------------------------------------------------------------


def _goals(rates: Rates, sizes: dict[str, float]) -> list[Goal]:
    def ratio(case: str, ours: str, theirs: str) -> float:
        return rates[case][ours] / rates[case][theirs]

    best = {case: max(OURS, key=lambda name: by_name[name]) for case, by_name in rates.items()}
    goals = [
        at_least("CT x1, against storescp", 0.7, ratio("CT x1", "limen-1", "storescp")),
        at_least(
            "CT x4, 2 processes, against storescp", 1.3, ratio("CT x4", "limen-2", "storescp")
        ),
        at_least("CR x1, against storescp", 1.1, ratio("CR x1", "limen-1", "storescp")),
        at_least("10 KB x1, against storescp", 0.6, ratio("10 KB x1", "limen-1", "storescp")),
    ]
    goals += [
        at_least(f"{case}, against {UNTUNED}", 10, ratio(case, "limen-1", UNTUNED))
        for case in ("10 KB x1, Nagle", "CT x1, Nagle")
    ]
    goals += [
        at_least(f"{case}, {best[case]}, against Orthanc", 2, ratio(case, best[case], "orthanc"))
        for case in rates
    ]
    limits = {
        "set-up with 128 contexts, ms": 3,
        "10 KB durable p50, ms": 2.5,
        "200 idle associations, % of a core": 5,
        "an idle association, KiB": 64,
        "resident under 8 large instances, MiB": 80,
    }
    return goals + [at_most(name, limit, sizes[name]) for name, limit in limits.items()]


def _print_rates(rates: Rates) -> None:
    names = list(dict.fromkeys(name for by_name in rates.values() for name in by_name))
    _say("\ninstances a second, and the ratio to DCMTK storescp")
    _say(f"{'':<20}" + "".join(f"{name:>20}" for name in names))
    for case, by_name in rates.items():
        cells = [
            f"{by_name[n]:.1f} ({by_name[n] / by_name['storescp']:.2f})" if n in by_name else "-"
            for n in names
        ]
        _say(f"{case:<20}" + "".join(f"{cell:>20}" for cell in cells))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
