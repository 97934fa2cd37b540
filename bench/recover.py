"""How long a node takes to go on after a fault: ``python -m bench.recover [--fault NAME]``.

``limen up`` with the settings as they ship, RabbitMQ and PostgreSQL of its own. A study with a
bleed is on its way when something is killed, or goes away for half a minute; then a second one is
sent. Nobody helps. Measured from when the fault was mended, or from the kill of a process:

- until work goes on: of what the fault had stopped, the first attempt begins that ends well; after
  a receiver was killed, an instance is answered Success;
- until each of the two studies has ended, with all its deliveries.

Beside it the same study when nothing is wrong, from its last instance on. The last word has the
auditor of the fault tests: nothing is lost or doubled.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.goal import Goal, at_most, tell
from limen.config import Queue
from limen.journal import Event
from limen.result import Phase
from limen.states import WorkState
from limen.uids import key_of
from models.ich.phantom import demo_studies
from tests.faults.audit import Ledger, audit
from tests.support.node import copy_study, until
from tests.support.sabotage import Sabotage, running

AWAY_S, QUICK_AWAY_S = 30.0, 4.0
"""Long enough for every wait between two tries to have grown to its longest."""
ENDED_S = 900.0

_SHIPPED = Queue()
_SERVER_GOAL_S = 10.0
_DEAD_GOAL_S = _SHIPPED.lease_s + 5
_PROBED_GOAL_S = _SHIPPED.probe_s + 5
"""A destination that is away is asked every ``queue.probe_s``."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A fault.

    Attributes
    ----------
    rounds
        How often it is made.
    goal_s
        Until work goes on, at most.
    stopped
        The destination whose deliveries it stops; empty: all work.
    """

    make: Callable[[Sabotage], AbstractContextManager[None]]
    rounds: int
    goal_s: float
    stopped: str = ""


WORKER, RECEIVER = "worker killed", "receiver killed"
KINDS = {
    WORKER: Kind(Sabotage.worker_killed, 10, _DEAD_GOAL_S),
    RECEIVER: Kind(Sabotage.receiver_killed, 5, _SERVER_GOAL_S),
    "RabbitMQ stopped": Kind(Sabotage.broker_stopped, 5, _SERVER_GOAL_S),
    "RabbitMQ silent": Kind(Sabotage.broker_silent, 5, _SERVER_GOAL_S),
    "PostgreSQL killed": Kind(Sabotage.database_killed, 5, _SERVER_GOAL_S),
    "results server away": Kind(Sabotage.results_server_away, 5, _PROBED_GOAL_S, "django"),
    "archive away": Kind(Sabotage.archive_away, 5, _PROBED_GOAL_S, "archive"),
}
UNDISTURBED = "none"


@dataclass(frozen=True, slots=True)
class Times:
    """One round, in seconds from when the fault was mended.

    Attributes
    ----------
    during
        What the study on its way was at.
    goes_on_s
        Until work goes on; None where nothing was wrong.
    ended_s, sent_meanwhile_s
        Until the study on its way, and the one that was sent meanwhile, had ended.
    """

    fault: str
    during: str
    goes_on_s: float | None
    ended_s: float
    sent_meanwhile_s: float | None


def main() -> int:
    """Make the faults, print each round and what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--fault", choices=KINDS, action="append", help="only this one")
    parser.add_argument("--quick", action="store_true", help="one round each, of a few seconds")
    parser.add_argument("--json", action="store_true", help="the last line is one JSON object")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="limen-") as name:
        folder = Path(name)
        studies = {s.name: s for s in demo_studies(folder / "studies")}
        sources = sorted(Path(studies["subdural"].folder).glob("*.dcm"))
        (folder / "site").mkdir()
        with running(folder / "site") as sabotage:
            bench = _Bench(sabotage, sources, folder / "sent", args.quick)
            bench.undisturbed()
            for fault in args.fault or KINDS:
                bench.rounds(fault)
            broken = bench.audit()
    _table(bench.times)
    print("\n".join(["", *broken]) if broken else "\nnothing was lost or doubled")
    goals = _goals(bench.times)
    tell(goals, args.quick)
    if args.json:
        told = {"times": [asdict(t) for t in bench.times], "goals": [asdict(g) for g in goals]}
        print(json.dumps(told | {"broken": broken}))
    return 1 if broken else 0


class _Bench:
    """A node that runs, and what was measured of it."""

    def __init__(
        self, sabotage: Sabotage, sources: Sequence[Path], folder: Path, quick: bool
    ) -> None:
        self._sabotage = sabotage
        self._node = sabotage.node
        self._sources = sources
        self._folder = folder
        self._quick = quick
        self._sent = 0
        self._ledger = Ledger()
        self.times: list[Times] = []

    def undisturbed(self) -> None:
        """Measure what a study takes when nothing is wrong; the first one warms everything up."""
        self._ended(self._bring(), datetime.now(UTC))
        for _ in range(1 if self._quick else 5):
            uid = self._bring()
            self._note(Times(UNDISTURBED, "", None, self._ended(uid, datetime.now(UTC)), None))

    def rounds(self, fault: str) -> None:
        """Make a fault as often as it is to be made."""
        for number in range(1 if self._quick else KINDS[fault].rounds):
            if fault == WORKER:
                self._note(self._worker_killed(list(Phase)[number % 2]))
            elif fault == RECEIVER:
                self._note(self._receiver_killed())
            else:
                self._note(self._away(fault))

    def audit(self) -> list[str]:
        """Return every invariant that is broken."""
        return audit(self._node, self._ledger)

    def _note(self, times: Times) -> None:
        self.times.append(times)
        words = [f"{times.fault}:", f"during its {times.during}," if times.during else ""]
        if times.goes_on_s is not None:
            words.append(f"goes on after {times.goes_on_s:.1f} s,")
        words.append(f"ended after {times.ended_s:.1f} s")
        if times.sent_meanwhile_s is not None:
            words.append(f"(sent meanwhile: {times.sent_meanwhile_s:.1f} s)")
        print(*filter(None, words), flush=True)

    # -- faults --------------------------------------------------------------------------------

    def _worker_killed(self, phase: Phase) -> Times:
        uid = self._bring()
        self._until_running(uid, phase)
        with self._sabotage.worker_killed():
            killed = datetime.now(UTC)
        ended_s = self._ended(uid, killed)
        return Times(WORKER, phase.value, self._goes_on([uid], killed, killed, ""), ended_s, None)

    def _receiver_killed(self) -> Times:
        uid, files = self._files()
        killed: list[datetime] = []
        answered = 0

        def kill_in_the_middle(_: Path) -> None:
            nonlocal answered
            answered += 1
            if answered == len(files) // 2:
                with self._sabotage.receiver_killed():
                    killed.append(datetime.now(UTC))

        left = self._node.offer(files, on_file=kill_in_the_middle)
        begun = len(left)
        while len(left) == begun:
            left = self._node.offer(left)
        goes_on_s = (datetime.now(UTC) - killed[0]).total_seconds()
        self._until_there(left)
        self._ledger.note(files)
        return Times(RECEIVER, "arrival", goes_on_s, self._ended(uid, killed[0]), None)

    def _away(self, fault: str) -> Times:
        first = self._bring()
        self._until_running(first, Phase.EXPLANATION)
        second, files = self._files()
        sending = threading.Thread(target=self._until_there, args=(files,))
        with KINDS[fault].make(self._sabotage):
            sending.start()  # beside: a receiver may take nothing before the fault is mended
            time.sleep(QUICK_AWAY_S if self._quick else AWAY_S)
            mending = datetime.now(UTC)
        mended = datetime.now(UTC)
        sending.join()
        ended_s, meanwhile_s = self._ended(first, mended), self._ended(second, mended)
        goes_on_s = self._goes_on([first, second], mending, mended, KINDS[fault].stopped)
        return Times(fault, "explanation", goes_on_s, ended_s, meanwhile_s)

    # -- what is measured ----------------------------------------------------------------------

    def _files(self) -> tuple[str, list[Path]]:
        self._sent += 1
        return copy_study(self._sources, self._folder / str(self._sent))

    def _bring(self) -> str:
        """Send a study, and return its UID."""
        uid, files = self._files()
        self._until_there(files)
        return uid

    def _until_there(self, files: list[Path]) -> None:
        left = files
        while left:
            left = self._node.offer(left)
        self._ledger.note(files)

    def _until_running(self, uid: str, phase: Phase) -> None:
        """Wait until a job of a study runs."""
        key = key_of(uid)

        def runs() -> bool:
            return any(
                event.subject == f"{key}-1-{phase.value}" and event.until is None
                for event in self._attempts(uid)
            )

        _soon(runs)

    def _attempts(self, uid: str) -> list[Event]:
        events = self._node.journal.events.of(key_of(uid))
        return [event for event in events if event.kind == "attempt"]

    def _ended(self, uid: str, since: datetime) -> float:
        """Wait for the end of a study; return the seconds until its last attempt had ended."""
        until(lambda: self._node.at_rest(uid), ENDED_S, "the study to end", self._node.tell)
        ends = [event.until for event in self._attempts(uid) if event.until is not None]
        return max(0.0, (max(ends) - since).total_seconds())

    def _goes_on(
        self, studies: Sequence[str], mending: datetime, mended: datetime, stopped: str
    ) -> float:
        """Return the seconds until the first attempt began that ended well.

        A server may take requests before the command that starts it returns.
        """
        begun = [
            event.at
            for uid in studies
            for event in self._attempts(uid)
            if event.how in _WELL and event.at >= mending and event.subject.endswith(stopped)
        ]
        if not begun:
            raise SystemExit("the fault stopped nothing: it was over too soon")
        return max(0.0, (min(begun) - mended).total_seconds())


_WELL = frozenset({WorkState.DONE.value, WorkState.COMMITTED.value, WorkState.SENT.value})


def _soon(probe: Callable[[], bool]) -> None:
    """Poll more often than ``until``: a prediction takes less than a second."""
    deadline = time.monotonic() + 60
    while not probe():
        if time.monotonic() > deadline:
            raise SystemExit("no job of the study ran")
        time.sleep(0.02)


def _table(times: Sequence[Times]) -> None:
    """Print what the rounds come to, in seconds: median and longest."""
    print("\n| fault | rounds | goes on | on its way, ended | sent meanwhile, ended |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for fault in dict.fromkeys(one.fault for one in times):
        mine = [one for one in times if one.fault == fault]
        columns = (
            [one.goes_on_s for one in mine],
            [one.ended_s for one in mine],
            [one.sent_meanwhile_s for one in mine],
        )
        print(f"| {fault} | {len(mine)} | " + " | ".join(map(_median_and_longest, columns)) + " |")


def _median_and_longest(values: Sequence[float | None]) -> str:
    seconds = [value for value in values if value is not None]
    return f"{statistics.median(seconds):.1f}, {max(seconds):.1f}" if seconds else ""


def _goals(times: Sequence[Times]) -> list[Goal]:
    found = []
    for fault, kind in KINDS.items():
        seconds = [t.goes_on_s for t in times if t.fault == fault and t.goes_on_s is not None]
        if seconds:
            found.append(at_most(f"s until work goes on, {fault}", kind.goal_s, max(seconds)))
    return found


if __name__ == "__main__":
    raise SystemExit(main())
