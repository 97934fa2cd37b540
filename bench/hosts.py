"""One host against several: ``python -m bench.hosts [--quick]``; as root, in network namespaces.

Two nodes with one RabbitMQ and one PostgreSQL, in turns. One host: receiver and worker with one
folder. Several: receiver and a worker that delivers on the first, a worker that predicts and
explains on the second, and an archive that both have mounted. The study is one series of 28 slices
of 512 x 512.

Without ``ip netns`` and a data set beside the checkout there is nothing to measure.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from bench.goal import at_most, tell
from tests.support.node import Node, copy_study, until
from tests.support.services import SHARED_DATA
from tests.support.site import Services, Site, services

ROUNDS = 5
GOAL = 1.3
"""From the last image to the prediction: several hosts, of one."""
SECOND = "second"


def main() -> int:
    """Measure, and print what it comes to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="one round")
    args = parser.parse_args()
    sources = sorted((SHARED_DATA / "headct_ge").glob("*.dcm"))
    if not sources:
        raise SystemExit(f"no study at {SHARED_DATA}/headct_ge")
    rounds = 1 if args.quick else ROUNDS
    with tempfile.TemporaryDirectory(prefix="limen-") as name, ExitStack() as stack:
        folder = Path(name)
        on = stack.enter_context(services(folder, SECOND, databases=("one", "several")))
        bench = _Bench(on, folder, sources, stack)
        ratio = bench.latency(rounds)
    tell([at_most("x of one host, from the last image to the prediction", GOAL, ratio)], args.quick)
    return 0


class _Bench:
    """Both nodes, started."""

    def __init__(
        self, on: Services, folder: Path, sources: Sequence[Path], stack: ExitStack
    ) -> None:
        self._on, self._folder, self._sources = on, folder, sources
        self._sent = 0
        shared = {
            "LIMEN_LOG__LEVEL": "debug",
            "LIMEN_DESTINATION__ARCHIVE__FOLDER": str(folder / "archive"),
        }
        self._one = Node(
            folder / "one",
            quick=False,
            LIMEN_QUEUE__BROKER=on.broker_url,
            LIMEN_QUEUE__PREFIX="one",
            LIMEN_JOURNAL__URL=on.database.url("one"),
            **shared | {"LIMEN_DESTINATION__ARCHIVE__FOLDER": str(folder / "archive-of-one")},
        )
        stack.callback(self._one.close)
        others: dict[str, dict[str, str]] = {SECOND: {}}
        self._site = Site(on, folder / "several", "several", others, quick=False, **shared)
        stack.callback(self._site.close)
        self._several = self._site.node
        self._one.start()
        self._several.start()
        self._site.start(SECOND)

    def latency(self, rounds: int) -> float:
        """Measure from the last image to the prediction, in turns; return the ratio of medians."""
        took: dict[str, list[float]] = {"one": [], "several": []}
        for _ in range(rounds):
            for name, node in (("one", self._one), ("several", self._several)):
                took[name].append(self._predicted_s(node, self._send(node)))
        for name, seconds in took.items():
            each = ", ".join(f"{s:.2f}" for s in seconds)
            print(f"last image to prediction, {name}: {statistics.median(seconds):.2f} s ({each})")
        ratio = statistics.median(took["several"]) / statistics.median(took["one"])
        print(f"several hosts take {ratio:.2f} x of one", flush=True)
        return ratio

    def _send(self, node: Node) -> str:
        self._sent += 1
        uid, files = copy_study(self._sources, self._folder / "sent" / str(self._sent))
        node.send(files)
        return uid

    def _predicted_s(self, node: Node, uid: str) -> float:
        def predicted() -> float:
            for row in node.rows(uid):
                if row.predicted_at is not None:
                    return (row.predicted_at - row.last_instance_at).total_seconds()
            return 0.0

        return until(predicted, 600, "the prediction", node.tell)


if __name__ == "__main__":
    raise SystemExit(main())
