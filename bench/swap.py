"""A new version under load: ``python -m bench.swap [--quick]``.

A receiver and a worker, whose route names a folder with three versions of the shipped bundle. Two
senders each send a head, wait for its prediction, and send the next; explanations are off. First
nothing changes; then one version after the other is deployed without a pause. A study is of a swap
when somebody has asked for a version, and it does not serve yet, at any moment between the last
image of the study and its prediction. Then versions are taken back, in turns with deployments: from
the command to the first prediction by the version before.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from bench.goal import at_most, tell
from limen.config import SHIPPED_BUNDLES
from models.ich.phantom import demo_studies
from tests.support.node import Node, copy_study, until
from tests.support.services import SHARED_DATA

SENDERS = 2
STUDIES, QUICK_STUDIES = 60, 8
BACK, QUICK_BACK = 5, 2
VERSIONS = ("1.0.0", "2.0.0", "3.0.0")
GOAL_P95, GOAL_FAILED, GOAL_BACK_S = 1.5, 0, 10.0
_FILES = ("model.keras", "model-fp32.xml", "model-fp32.bin", "golden.npz")


def main() -> int:
    """Measure, and print what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="few studies")
    args = parser.parse_args()
    studies, back = (QUICK_STUDIES, QUICK_BACK) if args.quick else (STUDIES, BACK)
    with tempfile.TemporaryDirectory(prefix="limen-") as name, ExitStack() as stack:
        bench = _Bench(Path(name), stack)
        alone = bench.measure(studies, swapping=False)
        swapped = bench.measure(studies, swapping=True)
        back_s = [bench.take_back() for _ in range(back)]
        failed = bench.failed()
    for title, seconds in (("alone", alone), ("while a version is swapped", swapped)):
        print(
            f"last image to prediction, {title}: {len(seconds)} studies, "
            f"median {statistics.median(seconds):.2f} s, p95 {_p95(seconds):.2f} s"
        )
    print(f"rollback to the first prediction: {', '.join(f'{s:.1f}' for s in back_s)} s")
    ratio = _p95(swapped) / _p95(alone)
    goals = [
        at_most("x p95 alone, from the last image to the prediction", GOAL_P95, ratio),
        at_most("jobs that failed or were tried again", GOAL_FAILED, failed),
        at_most("s from a rollback to a prediction by the one before", GOAL_BACK_S, max(back_s)),
    ]
    tell(goals, args.quick)
    return 0


def _p95(seconds: Sequence[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


class _Bench:
    """A node with three versions of a model, the first of which serves."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._sent = folder, 0
        self._naming = threading.Lock()
        self._turn = 0
        heads = folder / "heads"
        for version in VERSIONS:
            _copy_bundle(heads, version)
        self._sources = sorted((SHARED_DATA / "headct_ge").glob("*.dcm"))
        if not self._sources:
            demo = next(s for s in demo_studies(folder / "phantoms") if s.truth == "negative")
            self._sources = [demo.folder / name for name in demo.files]
        self._node = Node(
            folder / "node",
            quick=False,
            LIMEN_ROUTE=json.dumps([{"name": "ct", "modality": "CT", "bundle": str(heads)}]),
            LIMEN_DESTINATION__DJANGO__ENABLED="false",
            LIMEN_EXPLAIN__MAX_EXPLAINED="0",
        )
        stack.callback(self._node.close)
        self._node.start("scp", "worker")
        self._deploy()
        self._one()

    def measure(self, count: int, *, swapping: bool) -> list[float]:
        """Return seconds from the last image to the prediction, of so many studies or more."""
        found: list[float] = []
        enough = threading.Event()

        def send() -> None:
            while not enough.is_set():
                began, ended = self._one()
                if not swapping or self._is_of_a_swap(began, ended):
                    found.append((ended - began).total_seconds())

        senders = [threading.Thread(target=send) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        while len(found) < count:
            if swapping:
                self._deploy()
            else:
                time.sleep(0.2)
        enough.set()
        for sender in senders:
            sender.join()
        return found

    def take_back(self) -> float:
        """Deploy a version and take it back; return seconds until one before has predicted."""
        self._deploy()
        self._one()
        before = self._node.journal.deployments.serving("heads")[0].version
        began = time.monotonic()
        self._limen("model", "rollback", "heads")
        now = self._node.journal.deployments.serving("heads")[0].version
        assert now != before
        self._one()
        return time.monotonic() - began

    def failed(self) -> int:
        """Return how many jobs did not end at the first attempt."""
        rows = self._node.journal.status.studies(limit=100_000)
        jobs = [job for row in rows for job in row.jobs]
        return sum(job.attempts > 1 or job.state == "dead" for job in jobs)

    def _deploy(self) -> None:
        """Deploy the next version, in turns, that does not serve."""
        serving = {one.version for one in self._node.journal.deployments.serving("heads")}
        while (version := VERSIONS[self._turn % len(VERSIONS)]) in serving:
            self._turn += 1
        self._turn += 1
        self._limen("model", "deploy", "heads", version)

    def _limen(self, *words: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", "limen", *words],
            env=self._node.env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(f"limen {' '.join(words)}: {done.stdout}{done.stderr}")

    def _one(self) -> tuple[datetime, datetime]:
        """Send a study; return when its last image came, and when it was predicted."""
        with self._naming:
            self._sent += 1
            folder = self._folder / "sent" / str(self._sent)
        uid, files = copy_study(self._sources, folder)
        self._node.send(files)
        shutil.rmtree(folder)

        def predicted() -> tuple[datetime, datetime] | None:
            for row in self._node.rows(uid):
                if row.predicted_at is not None:
                    return row.last_instance_at, row.predicted_at
            return None

        return until(predicted, 600, "the prediction", self._node.tell)

    def _is_of_a_swap(self, began: datetime, ended: datetime) -> bool:
        return any(
            one.asked_at <= ended and (one.served_at is None or one.served_at >= began)
            for one in self._node.journal.deployments.all("heads")
        )


def _copy_bundle(heads: Path, version: str) -> None:
    """Copy the shipped bundle as a version of another name; its answers stay what they are."""
    folder = heads / version
    folder.mkdir(parents=True)
    shipped = SHIPPED_BUNDLES / "ich"
    for name in _FILES:
        shutil.copy(shipped / name, folder / name)
    text = (shipped / "bundle.toml").read_text("utf-8")
    for key, value in (("name", "heads"), ("version", version)):
        text = re.sub(rf'^{key} = ".*"$', f'{key} = "{value}"', text, count=1, flags=re.MULTILINE)
    (folder / "bundle.toml").write_text(text, "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
