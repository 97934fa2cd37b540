"""What an explanation costs: ``python -m bench.explain [--quick] [--json] [--xplique PYTHON]``.

CPU seconds of this process (wall seconds beside them), every contender of a model
in turn, round by round, medians. Compared with: the lime package as its README calls it
(``model.predict`` as classifier, quick shift, batches of 10), the lime package on the
same forward pass as Limen, samples times the fastest forward pass of any backend and size of
batch (below which nothing can go), and xplique, which wants an environment of its own
(bench/xplique_peer.py).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench import forward
from bench.explainers import lime_package, ours
from bench.forward import Forward
from bench.goal import Goal, at_least, at_most, tell
from worker.bundles import bundle as bundles
from worker.lime.explain import ROUND, Mode, Settings

ICH = Path(__file__).resolve().parent.parent / "models" / "ich"
PEER = Path(__file__).with_name("xplique_peer.py")
NETWORKS = ("ich", "MobileNetV2", "InceptionV3")

BATCHES = (4, 8, 16, 32)
"""Sizes of batches among which the fastest forward pass is sought."""

FASTER = {"MobileNetV2": 2.2, "InceptionV3": 1.5}
"""The reference mode against the lime package, same samples."""
ABOVE_FLOOR = {"MobileNetV2": 1.3, "InceptionV3": 1.15}
"""The reference mode as a multiple of samples times the fastest forward pass."""
CHEAPER = {"fp32": 20, "int8": 40}
"""The lime package with its 1000 samples as a multiple of the default mode."""
FASTER_THAN_XPLIQUE = 1.5

Run = Callable[[], int]
"""Does the work, returns the samples it took."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the rounds."""

    cpu_s: float
    wall_s: float
    samples: float

    @property
    def per_sample_s(self) -> float:
        return self.cpu_s / self.samples


@dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured."""

    rounds: int
    samples: int
    networks: tuple[str, ...]


def measured(contenders: dict[str, Run], rounds: int) -> dict[str, Cost]:
    """Run all contenders once each round."""
    found: dict[str, list[tuple[float, float, int]]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            cpu, wall = time.process_time(), time.perf_counter()
            samples = run()
            found[name].append((time.process_time() - cpu, time.perf_counter() - wall, samples))
    return {
        name: Cost(*(statistics.median(part) for part in zip(*rows, strict=True)))
        for name, rows in found.items()
    }


def picture(rows: int, columns: int) -> NDArray[np.float32]:
    """Return the bundle's surest golden slice at this size: (rows, columns, 3) float32, 0..1."""
    with np.load(ICH / "golden.npz") as golden:
        tensor = golden["tensor"][golden["probability"][:, 0].argmax()]
    grey = Image.fromarray(np.rint(tensor * 255).astype(np.uint8))
    return np.asarray(grey.resize((columns, rows), Image.Resampling.BILINEAR), np.float32) / 255


def costs(name: str, scale: Scale, peer: Xplique | None) -> dict[str, Cost]:
    """Return what every contender costs on this network."""
    bundle = bundles.load(ICH)
    network = forward.keras_model(name, bundle.weights)
    tensor = picture(*network.input_shape[1:3])
    models = {"TensorFlow": forward.tensorflow(network)}
    if forward.has_openvino():
        models["OpenVINO"] = forward.openvino(network)
    batch = np.repeat(tensor[None], ROUND, axis=0)
    answers = models["TensorFlow"](batch[:1])[0]
    label = bundle.decision_index if name == "ich" else int(answers.argmax())
    ways = {
        f"{k}, {size} at once": (size, _in_batches(m, size))
        for k, m in models.items()
        for size in BATCHES
    }
    for _, model in ways.values():
        model(batch)
    first = measured({way: _forwards(m, batch, ROUND) for way, (_, m) in ways.items()}, 3)
    fastest = min(first, key=lambda way: first[way].cpu_s)
    size, best = ways[fastest]
    print(f"{name}: fastest forward pass: {fastest}", file=sys.stderr)
    asked = bundle.explain
    default = Settings(Mode(asked.mode), asked.samples, asked.superpixels)
    reference = Settings(Mode.REFERENCE, scale.samples)

    def predict(images: NDArray[np.float64]) -> NDArray[np.float32]:
        answer: NDArray[np.float32] = network.predict(np.asarray(images), verbose=0)
        return answer

    def by(explainer: Any, model: Forward) -> Run:
        return lambda: int(explainer(tensor, model, label, 0).samples)

    contenders = {
        "lime, model.predict": by(lime_package(scale.samples), predict),
        "lime, same forward": by(lime_package(scale.samples), best),
        "LIME, reference": by(ours(reference), best),
        "LIME, settled, fp32": by(ours(default), best),
        "forward": _forwards(best, batch, scale.samples),
    }
    if forward.has_openvino() and name == "ich" and "int8" in bundle.converted:
        int8 = _in_batches(forward.of_bundle(bundle, "int8"), size)
        contenders["LIME, settled, int8"] = by(ours(default), int8)
    for run in (contenders["LIME, settled, fp32"], contenders.get("LIME, settled, int8")):
        if run:
            run()  # imports, first batches
    predict(tensor[None])
    found = measured(contenders, scale.rounds)
    if peer is not None and name != "ich":
        found["xplique"] = peer.cost(name, tensor, scale)
    return found


def _in_batches(model: Forward, size: int) -> Forward:
    """Return the model asked in batches of this size, as the engine does."""

    def forward(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [model(batch[start : start + size]) for start in range(0, len(batch), size)]
        return np.concatenate(parts)

    return forward


def _forwards(model: Forward, batch: NDArray[np.float32], samples: int) -> Run:
    def run() -> int:
        for start in range(0, samples, len(batch)):
            model(batch[: min(len(batch), samples - start)])
        return samples

    return run


class Xplique:
    """xplique's Lime in a Python of its own: one request and one answer a line, in JSON."""

    def __init__(self, python: Path) -> None:
        self._process = subprocess.Popen(
            [python, PEER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        )

    def __enter__(self) -> Xplique:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)

    def cost(self, network: str, tensor: NDArray[np.float32], scale: Scale) -> Cost:
        """Return what an explanation costs there: medians over the rounds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile(suffix=".npy") as file:
            np.save(file, tensor)
            file.flush()
            asked = {"network": network, "image": file.name, "samples": scale.samples}
            self._process.stdin.write(json.dumps(asked | {"rounds": scale.rounds}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"the peer in {self._process.args} ended; run it by hand to see why")
        answer = json.loads(line)
        return Cost(answer["cpu_s"], answer["wall_s"], scale.samples)


def goals(name: str, found: dict[str, Cost], samples: int) -> list[Goal]:
    """Return each goal and what was measured for it; all of them ratios of CPU times."""
    reached = []
    lime, reference = found["lime, model.predict"], found["LIME, reference"]
    if name in FASTER:
        what = f"{name}: lime / reference, {samples} samples"
        reached.append(at_least(what, FASTER[name], lime.cpu_s / reference.cpu_s))
        above = reference.cpu_s / found["forward"].cpu_s
        what = f"{name}: reference / (samples x forward)"
        reached.append(at_most(what, ABOVE_FLOOR[name], above))
    for kind, times in CHEAPER.items():
        if cost := found.get(f"LIME, settled, {kind}"):
            what = f"{name}: lime, {samples} samples / settled, {kind}"
            reached.append(at_least(what, times, lime.cpu_s / cost.cpu_s))
    if peer := found.get("xplique"):
        faster = peer.per_sample_s / reference.per_sample_s
        what = f"{name}: xplique / reference, a sample"
        reached.append(at_least(what, FASTER_THAN_XPLIQUE, faster))
    return reached


def table(name: str, found: dict[str, Cost]) -> list[str]:
    """Return the rows of a table in Markdown."""
    floor = found["forward"].per_sample_s
    return [
        f"| {name} | {contender} | {cost.samples:.0f} | {cost.cpu_s:.3f} | {cost.wall_s:.3f} | "
        f"{1000 * cost.per_sample_s:.2f} | {cost.per_sample_s / floor:.2f} |"
        for contender, cost in found.items()
    ]


def main(argv: list[str] | None = None) -> int:
    """Measure and print; the last line with ``--json`` is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench.explain", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only to see that it works")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--samples", type=int, default=1000, help="of lime and the reference")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default 5)")
    parser.add_argument(
        "--network", action="append", choices=NETWORKS, help="only this one; may be repeated"
    )
    parser.add_argument("--xplique", type=Path, metavar="PYTHON", help="a Python with xplique")
    args = parser.parse_args(argv)
    scale = (
        Scale(1, 32, tuple(args.network or NETWORKS[:2]))
        if args.quick
        else Scale(args.rounds, args.samples, tuple(args.network or NETWORKS))
    )
    print("| network | explainer | samples | CPU s | wall s | CPU ms a sample | of forward |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    reached: list[Goal] = []
    peer = Xplique(args.xplique) if args.xplique else None
    try:
        for name in scale.networks:
            found = costs(name, scale, peer)
            print("\n".join(table(name, found)), flush=True)
            reached += goals(name, found, scale.samples)
    finally:
        if peer is not None:
            peer.__exit__()
    tell(reached, args.quick)
    if args.json:
        print(json.dumps({"goals": [asdict(goal) for goal in reached]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
