"""How soon a result is in the PACS: ``python -m bench.pacs [--quick] [--json]``.

A node with the settings as they ship, and a real Orthanc as its PACS. Studies with a bleed are sent
one after the other, each when the one before has ended; noted is when the last instance was
answered Success, when the prediction was committed, and when Orthanc had the report.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import requests

from bench.goal import at_most, tell
from limen.journal import StudyRow
from models.ich.phantom import demo_studies
from tests.support.node import Node, copy_study, until
from tests.support.orthanc import Orthanc
from tests.support.ports import free_ports

ROUNDS = 20
GOAL_S = 0.5
"""From the prediction to the report in the PACS."""

_SR = "1.2.840.10008.5.1.4.1.1.88.34"
_POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Times:
    """One study: seconds from its last instance, and what it brought.

    Attributes
    ----------
    predicted_s, report_s
        Until the prediction was committed, and until Orthanc had the report.
    after_s
        From the one to the other.
    """

    predicted_s: float
    report_s: float
    after_s: float
    objects: int
    size_bytes: int


def main() -> int:
    """Run the rounds, print each and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    (port,) = free_ports(1)
    here = {"name": "orthanc", "ae_title": "ORTHANC", "host": "127.0.0.1", "port": port}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        studies = {s.name: s for s in demo_studies(root / "studies")}
        sources = sorted(Path(studies["subdural"].folder).glob("*.dcm"))
        node = Node(root / "node", quick=False, LIMEN_DESTINATION__PACS=json.dumps([here]))
        ours = ["LIMEN", "127.0.0.1", node.config.scp.port]
        try:
            with Orthanc(root / "orthanc", {"limen": ours}, dicom_port=port) as orthanc:
                node.start()
                _round(node, orthanc, sources, root / "warm")
                times = [
                    _round(node, orthanc, sources, root / str(number))
                    for number in range(2 if args.quick else ROUNDS)
                ]
        finally:
            node.close()
    for name in ("predicted_s", "report_s", "after_s"):
        values = [getattr(t, name) for t in times]
        print(f"{name:<12} p50 {_quantile(values, 50):.2f} s, p95 {_quantile(values, 95):.2f} s")
    print(f"objects a study {times[0].objects}, {times[0].size_bytes / 1e6:.2f} MB")
    after = _quantile([t.after_s for t in times], 95)
    tell(
        [at_most("s from the prediction to the report in the PACS, p95", GOAL_S, after)], args.quick
    )
    if args.json:
        print(json.dumps([asdict(t) for t in times]))
    return 0


def _round(node: Node, orthanc: Orthanc, sources: Sequence[Path], folder: Path) -> Times:
    uid, files = copy_study(sources, folder)
    seen = _changes(orthanc, 0)[1]
    node.send(files)
    last = datetime.now(UTC)
    deadline = time.monotonic() + 120
    while not any(orthanc_class == _SR for orthanc_class in _new(orthanc, seen)):
        if time.monotonic() > deadline:
            raise SystemExit(f"no report came\n{node.tell()}")
        time.sleep(_POLL_S)
    there = datetime.now(UTC)
    row = until(lambda: _ended(node, uid), 300, "the study to end", node.tell)
    predicted = row.predicted_at
    assert predicted is not None
    kept = [one for d in row.deliveries for one in d.objects]
    built = (node.config.results_dir / row.study_key).rglob("objects-*/**/*.dcm")
    size = sum(path.stat().st_size for path in built)
    return Times(
        round((predicted - last).total_seconds(), 3),
        round((there - last).total_seconds(), 3),
        round((there - predicted).total_seconds(), 3),
        len(kept),
        size,
    )


def _changes(orthanc: Orthanc, since: int) -> tuple[list[str], int]:
    """Return the instances that came since, by Orthanc's own names, and the last change."""
    found: list[str] = []
    while True:
        said = requests.get(
            f"{orthanc.url}/changes", params={"since": since, "limit": 100}, timeout=10
        ).json()
        found += [c["ID"] for c in said["Changes"] if c["ChangeType"] == "NewInstance"]
        since = said["Last"]
        if said["Done"]:
            return found, since


def _new(orthanc: Orthanc, seen: int) -> list[str]:
    return [
        requests.get(f"{orthanc.url}/instances/{one}/metadata/SopClassUid", timeout=10).text
        for one in _changes(orthanc, seen)[0]
    ]


def _ended(node: Node, uid: str) -> StudyRow | None:
    """Return the row of a study that has ended and whose deliveries all arrived."""
    for row in node.rows(uid):
        arrived = all(d.state in {"done", "sent", "committed"} for d in row.deliveries)
        if row.state == "done" and row.explained_at is not None and arrived:
            return row
    return None


def _quantile(values: Sequence[float], percent: int) -> float:
    if len(values) < 2:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    raise SystemExit(main())
