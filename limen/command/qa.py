"""``limen qa``: test studies with and without a bleed, compared with those before."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from limen import config, telemetry
from limen.command.begin import act_as_owner
from limen.command.edge import FAILED, OK, PARTIAL
from limen.command.screen import doing, number, say, table
from limen.command.supervisor import environment
from limen.doctor import trial
from limen.doctor.check import Node
from limen.doctor.trial import Head, NotArrived
from limen.errors import ConfigError, LimenError
from limen.qa.history import History, Run, Verdict, alone
from limen.qa.judgement import judge, same_of_everything

__all__ = ["qa"]

_TRUTH: Final = {Head.NO_BLEED: "negative", Head.BLEED: "positive"}
"""In the order in which they are sent: what is explained comes last, and holds nothing up."""

_CODES: Final = {Verdict.OK: OK, Verdict.WARNING: PARTIAL, Verdict.FAILED: FAILED}
_SHOWN = 20


def qa(args: argparse.Namespace) -> int:
    """Send a test study of each head, compare, and remember.

    Returns
    -------
    int
        0 when all is as it was, 5 when something is slow or says the same of every head, 1 when
        a study did not come through or is called otherwise.
    """
    settings = config.load(args.config)
    telemetry.configure("error")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # what is away is told below
    act_as_owner(settings)
    node = Node(settings, config.find(args.config), environment(settings, config.find(args.config)))
    if args.history:
        return _show(History.read(settings.data_dir), as_json=args.json)
    why_not = trial.cannot(node)
    if why_not is not None:
        raise ConfigError("; ".join(filter(None, why_not)))
    with alone(settings.data_dir):
        history = History.read(settings.data_dir)
        with doing(silent=args.json) as tell:
            runs = _runs(node, history, tell, accept=args.accept)
        runs = _of_all(runs, history, node)
        History([*history.runs, *runs]).write(settings.data_dir)
    if args.json:
        say(json.dumps(_tree(runs)))
    else:
        for run in runs:
            _tell(run)
    return _CODES[_worst(runs)]


def _runs(node: Node, history: History, tell: Callable[[str], None], *, accept: bool) -> list[Run]:
    """Send one head after the other, so that none waits for another; judge each."""
    at = datetime.now(UTC)
    truths = _TRUTH if trial.knows_the_truth(node) else {}
    runs = []
    for head in _TRUTH:
        try:
            came = _sent(node, head, at, tell)
        except NotArrived as exc:
            runs.append(_lost(head, at, str(exc), exc.next))
        except LimenError as exc:
            runs.append(_lost(head, at, str(exc), "`limen doctor` says more"))
        else:
            limits = node.settings.qa
            runs.append(judge(came, history, limits, truths.get(head, ""), accept=accept))
    return runs


def _sent(node: Node, head: Head, at: datetime, tell: Callable[[str], None]) -> Run:
    """Return what a head came to; what is said of it comes later."""
    tell(f"{head}: sending")
    sent = trial.send(node, head)
    with node.journal() as journal:
        arrived = trial.follow(
            node,
            journal,
            sent,
            node.settings.qa.timeout_s,
            lambda what: tell(f"{head}: waiting for {what}"),
        )
    return Run(
        at=at,
        head=head.value,
        verdict=Verdict.OK,
        text="",
        pixels_sha256=sent.pixels_sha256,
        bundle=arrived.bundle,
        bundle_version=arrived.bundle_version,
        bundle_sha256=arrived.bundle_sha256,
        outcome=arrived.outcome,
        probability=arrived.probability,
        latency_s=arrived.delivered_s,
    )


def _lost(head: Head, at: datetime, text: str, todo: str) -> Run:
    return Run(at=at, head=head.value, verdict=Verdict.FAILED, text=f"{head}: {text}", next=todo)


def _of_all(runs: list[Run], history: History, node: Node) -> list[Run]:
    """Return the runs with what only all of them together show."""
    same = same_of_everything(runs, history, node.settings.qa)
    if not same:
        return runs
    todo = "look at the bundle; where heads are not what it is for: `limen qa --accept`"
    return [
        run.model_copy(update={"verdict": Verdict.WARNING, "text": same, "next": todo})
        if run.verdict is Verdict.OK
        else run
        for run in runs
    ]


def _worst(runs: list[Run]) -> Verdict:
    order = list(Verdict)
    return max((run.verdict for run in runs), key=order.index)


def _tree(runs: list[Run]) -> dict[str, Any]:
    worst = _worst(runs)
    return {
        "ok": worst is Verdict.OK,
        "verdict": worst.value,
        "runs": [run.model_dump(mode="json") for run in runs],
    }


def _tell(run: Run) -> None:
    say(f"{run.verdict.value:<7}  {run.text}")
    if run.next:
        say(f"{'':7}  -> {run.next}")


def _show(history: History, *, as_json: bool) -> int:
    """Show the last runs."""
    if as_json:
        say(json.dumps([run.model_dump(mode="json") for run in history.runs]))
        return OK
    if not history.runs:
        say("No test study yet; `limen qa` sends one.")
        return OK
    table(
        ["at", "head", "verdict", "outcome", "prob.", "latency", "limit", "bundle"],
        [_line(run) for run in history.runs[-_SHOWN:]],
    )
    return OK


def _line(run: Run) -> tuple[str, ...]:
    return (
        run.at.strftime("%Y-%m-%d %H:%M"),
        run.head,
        run.verdict.value,
        run.outcome.replace("_", " ") or "-",
        number(run.probability, "{:.3f}"),
        number(run.latency_s, "{:.1f} s"),
        number(run.latency_limit_s, "{:.1f} s"),
        run.bundle_sha256[:12] or "-",
    )
