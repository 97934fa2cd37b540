"""What the shared model costs: waiting, throughput, memory, start.

``python -m bench.serve [--quick] [--soak] [--json] [--bundle B]``. Both backends take turns; every
number is a median over rounds, and every ratio is of two numbers of the same round. ``--soak``
sends 1,000 studies through a real worker; without it some dozens. ``--quick`` shows that all of
it runs, and measures nothing that counts. ``--json``: the last line is one object
``{"goals": [{"name", "goal", "measured", "ok"}, ...]}``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.goal import Goal, at_least, at_most, tell
from limen import config
from limen.command.supervisor import Supervisor
from limen.result import Provenance, Result, Timings
from models.ich.phantom import Kind, Lesion, Patient, Vendor, volume, write_study
from tests.support.node import Node, copy_study, until
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder, Header
from worker.serving.engine import Engine, Lane
from worker.study.explanation import explain_study
from worker.study.parts import Instance, Stamp, read_headers
from worker.study.prediction import predict_study
from worker.study.tensors import to_tensor, upright

SLICES = 32
"""Slices of a study, and the largest batch."""

EXPLANATIONS = 50
AT_ONCE = 8
MIB = 1 << 20

Tensor = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything is run."""

    rounds: int
    studies: int
    whole_studies: int
    soak: int
    starts: int
    explain: config.Explain = config.Explain(max_explained=EXPLANATIONS)


QUICK = Size(rounds=1, studies=3, whole_studies=1, soak=2, starts=0,
             explain=config.Explain(max_explained=EXPLANATIONS, samples=20))  # fmt: skip
FULL = Size(rounds=5, studies=40, whole_studies=12, soak=60, starts=5)


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend with the numbers that it is to reach."""

    name: str
    precision: str
    memory_mib: float
    ready_s: float

    @property
    def settings(self) -> config.Engine:
        return config.Engine(backend=self.name, precision=self.precision)

    @property
    def label(self) -> str:
        return f"{self.name} {self.precision}"


BACKENDS = (
    Backend("openvino", "fp32", memory_mib=500, ready_s=2),
    Backend("tensorflow", "fp32", memory_mib=1200, ready_s=12),
)


def main(argv: list[str] | None = None) -> int:
    """Run all of it; return 0 even where a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m bench.serve", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under 50 s, to see that it runs")
    parser.add_argument("--soak", action="store_true", help="1,000 studies through each worker")
    parser.add_argument("--json", action="store_true", help="end with one JSON object of goals")
    parser.add_argument("--bundle", default="ich", help="name or folder (default ich)")
    args = parser.parse_args(argv)
    size = QUICK if args.quick else FULL
    soak = 1000 if args.soak else size.soak
    with tempfile.TemporaryDirectory(prefix="limen-bench-") as scratch:
        folder = _converted(config.Config().bundle_dir(args.bundle), Path(scratch) / "bundle")
        study = _study(Path(scratch) / "study")
        goals = _engines(bundles.load(folder), study, size)
        goals += _workers(folder, study, size, soak, Path(scratch))
    tell(goals, args.quick)
    if args.json:
        print(json.dumps({"goals": [asdict(goal) for goal in goals]}), flush=True)
    return 0


# -- what is worked on -----------------------------------------------------------------------------


def _converted(folder: Path, copy: Path) -> Path:
    """Return a bundle with OpenVINO files: this one, or a copy that gets them."""
    if bundles.load(folder).converted:
        return folder
    _say(f"{folder} has no OpenVINO files; converting a copy")
    shutil.copytree(folder, copy)
    command = [sys.executable, "-m", "worker", "model", "convert", str(copy), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=600)
    return copy


def _study(folder: Path) -> list[Path]:
    """Write a study of 32 slices of 512 x 512 with a bleed."""
    head = volume(4242, Lesion(Kind.INTRAPARENCHYMAL, 35, 66), slices=SLICES)
    patient = Patient("TEST^BENCH", "LIMEN-BENCH")
    return write_study(head, folder, patient=patient, vendor=Vendor.SIGNED)


def _tensors(headers: Sequence[Header], decoder: Decoder, bundle: Bundle) -> Tensor:
    frames = decoder.hounsfield_many((header.path, 1) for header in headers)
    shown = [
        upright(hu, header.frames[0])
        for header, hu in zip(headers, frames, strict=True)
        if isinstance(hu, np.ndarray)
    ]
    return np.stack([to_tensor(one.hu, bundle, one.pixel_mm) for one in shown])


# -- the engine in this process --------------------------------------------------------------------


def _engines(bundle: Bundle, files: list[Path], size: Size) -> list[Goal]:
    """Measure waiting and throughput, the backends in turns."""
    found: dict[str, list[Round]] = {backend.label: [] for backend in BACKENDS}
    with ExitStack() as stack:
        decoder = stack.enter_context(Decoder(processes=2, timeout_s=60))
        engines = {b.label: stack.enter_context(Engine(bundle, b.settings)) for b in BACKENDS}
        benches = {n: EngineBench(e, bundle, files, decoder, size) for n, e in engines.items()}
        for number in range(size.rounds):
            for name, bench in benches.items():
                _say(f"round {number + 1} of {size.rounds}: {name}")
                found[name].append(bench.round())
    goals = []
    for name, rounds in found.items():
        _tell(name, rounds)
        goals += [
            _most(f"{name}: study p95, explanations waiting / none", 1.3,
                  [r.loaded_p95_s / r.idle_p95_s for r in rounds]),
            _most(f"{name}: study from its files p95, explanations waiting / none", 1.3,
                  [r.whole_loaded_p95_s / r.whole_idle_p95_s for r in rounds]),
            _most(f"{name}: study alone / the best batches for it", 1.15,
                  [r.idle_s / r.best_s for r in rounds]),
            _least(f"{name}: {AT_ONCE} studies at once, throughput / best batch", 0.95,
                   [r.throughput * r.best_s / SLICES for r in rounds]),
        ]  # fmt: skip
    return goals


@dataclass(frozen=True, slots=True)
class Round:
    """Seconds for a study of 32 slices, and slices a second of many studies."""

    best_s: float
    idle_s: float
    idle_p95_s: float
    loaded_p95_s: float
    whole_idle_p95_s: float
    whole_loaded_p95_s: float
    throughput: float
    explained: int


class EngineBench:
    """One engine, and a study for it as files and as tensors."""

    def __init__(
        self, engine: Engine, bundle: Bundle, files: list[Path], decoder: Decoder, size: Size
    ) -> None:
        self.engine, self.bundle, self.decoder, self.size = engine, bundle, decoder, size
        self.instances = [Instance(path, "", "") for path in files]
        self.read = read_headers(self.instances, decoder)
        self.instances = [Instance(h.path, h.sop_uid, h.series_uid) for h in self.read.headers]
        self.tensors = _tensors(self.read.headers, decoder, bundle)
        self.prediction = self._whole()

    def round(self) -> Round:
        """Measure everything once."""
        best_s = self._best_s()
        idle = [self._predict() for _ in range(self.size.studies)]
        whole_idle = [_timed(self._whole) for _ in range(self.size.whole_studies)]
        with self._explaining() as explained:
            loaded = [self._predict() for _ in range(self.size.studies)]
            whole_loaded = [_timed(self._whole) for _ in range(self.size.whole_studies)]
        return Round(
            best_s=best_s,
            idle_s=statistics.median(idle),
            idle_p95_s=_p95(idle),
            loaded_p95_s=_p95(loaded),
            whole_idle_p95_s=_p95(whole_idle),
            whole_loaded_p95_s=_p95(whole_loaded),
            throughput=self._throughput(),
            explained=explained[0],
        )

    def _best_s(self) -> float:
        """Return the least that 32 slices take in batches of any allowed size, called directly."""
        predict = self.engine.chosen.backend.predict
        found = []
        for size in self.engine.seconds:
            batches = [self.tensors[i : i + size] for i in range(0, SLICES, size)]
            runs = [
                _timed(lambda batches=batches: [predict(b) for b in batches])  # type: ignore[misc]
                for _ in range(max(3, self.size.studies // 4))
            ]
            found.append(statistics.median(runs))
        return min(found)

    def _predict(self) -> float:
        """Return the seconds of a study whose tensors are ready, slice by slice."""
        began_s = time.perf_counter()
        with self.engine.expecting():
            futures = [self.engine.submit(t[np.newaxis], Lane.PREDICT) for t in self.tensors]
            for future in futures:
                future.result(120)
        return time.perf_counter() - began_s

    def _whole(self) -> Result:
        """Predict the study from its files: headers, decoding, model, pictures."""
        read = read_headers(self.instances, self.decoder)
        uid = read.headers[0].study_uid
        stamp = Stamp(1, Timings("", ""), Provenance("bench", "bench", ""))
        return predict_study(uid, read, self.decoder, self.engine, self.bundle, stamp).result

    @contextmanager
    def _explaining(self) -> Iterator[list[int]]:
        """Keep explanations waiting, as many as a worker runs side by side.

        The rest of a backlog waits in the journal. The list counts the studies explained.
        """
        done, stop, began = [0], threading.Event(), threading.Event()
        stamp = Stamp(1, Timings("", ""), Provenance("bench", "bench", ""))

        def progress(_: int, __: int) -> None:
            if stop.is_set():
                raise _Stopped

        def explain() -> None:
            submit = self.engine.submit(self.tensors, Lane.EXPLAIN)
            submit.result(120)
            began.set()
            try:
                while not stop.is_set():
                    explain_study(
                        self.prediction, self.instances, self.decoder, self.engine, self.bundle,
                        self.size.explain, stamp, progress=progress,
                    )  # fmt: skip
                    done[0] += 1
            except _Stopped:
                done[0] += 1

        slots = config.Worker().explain_slots
        threads = [threading.Thread(target=explain) for _ in range(slots)]
        for thread in threads:
            thread.start()
        began.wait(120)
        try:
            yield done
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _throughput(self) -> float:
        """Return slices a second while eight studies at a time are sent, as jobs send them."""
        each = max(2, self.size.studies // AT_ONCE)

        def send() -> None:
            for _ in range(each):
                self._predict()

        threads = [threading.Thread(target=send) for _ in range(AT_ONCE)]
        began_s = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return AT_ONCE * each * SLICES / (time.perf_counter() - began_s)


class _Stopped(Exception):
    """The measurement is over."""


def _tell(name: str, rounds: list[Round]) -> None:
    def middle(of: Callable[[Round], float]) -> str:
        return f"{statistics.median(of(r) for r in rounds) * 1000:.0f} ms"

    _say(
        f"\n{name}\n"
        f"  32 slices in the best batches     {middle(lambda r: r.best_s)}\n"
        f"  a study, tensors ready            {middle(lambda r: r.idle_s)}, "
        f"p95 {middle(lambda r: r.idle_p95_s)}, "
        f"p95 while explaining {middle(lambda r: r.loaded_p95_s)}\n"
        f"  a study from its files            p95 {middle(lambda r: r.whole_idle_p95_s)}, "
        f"while explaining {middle(lambda r: r.whole_loaded_p95_s)}\n"
        f"  {AT_ONCE} studies at once               "
        f"{statistics.median(r.throughput for r in rounds):.0f} slices/s"
    )


# -- real workers ----------------------------------------------------------------------------------


def _workers(folder: Path, files: list[Path], size: Size, soak: int, scratch: Path) -> list[Goal]:
    """Measure start and memory of ``python -m worker``, the backends in turns."""
    ready: dict[str, list[float]] = {backend.label: [] for backend in BACKENDS}
    for number in range(size.starts):
        for backend in BACKENDS:
            node = _node(folder, backend, scratch / f"start-{backend.name}-{number}")
            try:
                ready[backend.label].append(_start(node, "worker"))
            finally:
                node.close()
    goals = []
    for backend in BACKENDS:
        name, seconds = backend.label, ready[backend.label]
        beside_s, memory = _memory_mib(
            _node(folder, backend, scratch / f"soak-{backend.name}"), files, soak
        )
        seconds = seconds or [beside_s]
        _say(f"{name}: ready in {statistics.median(seconds):.2f} s; memory after each tenth of "
             f"{soak} studies, MiB: {', '.join(f'{m:.0f}' for m in memory)}")  # fmt: skip
        settled = memory[len(memory) // 5]
        goals += [
            _most(f"{name}: seconds until a worker is ready", backend.ready_s, seconds),
            _most(f"{name}: MiB of a worker after {soak} studies", backend.memory_mib, memory[-1:]),
            _most(f"{name}: memory at the end / after a fifth of {soak} studies", 1.05,
                  [memory[-1] / settled]),
        ]  # fmt: skip
    return goals


def _node(folder: Path, backend: Backend, place: Path) -> Node:
    place.mkdir(parents=True)
    routes = [{"name": "bench", "modality": "CT", "bundle": str(folder)}]
    return Node(
        place,
        LIMEN_ROUTE=json.dumps(routes),
        LIMEN_ENGINE__BACKEND=backend.name,
        LIMEN_ENGINE__PRECISION=backend.precision,
        LIMEN_DESTINATION__DJANGO__ENABLED="false",
        LIMEN_DESTINATION__ARCHIVE__ENABLED="false",
        LIMEN_SCP__RELEASE_QUIET_S="0.1",
        LIMEN_EXPLAIN__MAX_EXPLAINED="1",
        LIMEN_EXPLAIN__SAMPLES="100",
    )


def _start(node: Node, *names: str) -> float:
    """Start processes; return the seconds until the worker said that it is ready."""
    node.journal.migrate()
    node.supervisor = Supervisor(node.env, node.folder / "logs")
    found: dict[str, float] = {}
    node.supervisor.start(names, on_ready=found.__setitem__)
    return found["worker"]


def _memory_mib(node: Node, files: list[Path], studies: int) -> tuple[float, list[float]]:
    """Send studies through receiver and worker; return the worker's memory after each tenth.

    The first value is the start, seconds, beside that of the receiver.
    """
    found = []
    try:
        ready_s = _start(node, "scp", "worker")
        assert node.supervisor is not None
        pid = node.supervisor.pid("worker")
        steps = min(10, studies)
        for step in range(steps):
            uids = []
            for number in range(studies * step // steps, studies * (step + 1) // steps):
                # Every fourth slice: what is held for a study must be let go after each.
                uid, paths = copy_study(files[::4], node.folder / "sent" / str(number))
                node.send(paths)
                shutil.rmtree(paths[0].parent)
                uids.append(uid)
            for uid in uids:
                until(lambda u=uid: _explained(node, u), 300, "the studies", node.tell)  # type: ignore[misc]
            found.append(_resident_mib(pid))
    finally:
        node.close()
        shutil.rmtree(node.folder / "data", ignore_errors=True)
    return ready_s, found


def _explained(node: Node, uid: str) -> bool:
    return any(row.state in {"done", "failed"} for row in node.rows(uid))


def _resident_mib(pid: int) -> float:
    """Return VmRSS of a process, proc(5)."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / MIB
    raise RuntimeError(f"process {pid} is gone")


# -- numbers ---------------------------------------------------------------------------------------


def _timed(run: Callable[[], object]) -> float:
    began_s = time.perf_counter()
    run()
    return time.perf_counter() - began_s


def _p95(values: Sequence[float]) -> float:
    return float(np.quantile(values, 0.95))


def _most(name: str, goal: float, values: Sequence[float]) -> Goal:
    return at_most(name, goal, round(statistics.median(values), 3))


def _least(name: str, goal: float, values: Sequence[float]) -> Goal:
    return at_least(name, goal, round(statistics.median(values), 3))


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    raise SystemExit(main())
