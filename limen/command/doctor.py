"""``limen doctor``: what works, what does not, and what to do about it."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from limen import config, telemetry
from limen.command.begin import act_as_owner
from limen.command.edge import FAILED, OK
from limen.command.screen import doing, say
from limen.command.supervisor import environment
from limen.doctor.check import Check, Finding, Node, Verdict
from limen.doctor.examination import Examined, examine
from limen.doctor.registry import CHECKS, chosen
from limen.errors import ConfigError

__all__ = ["doctor"]

_WIDTH = max(len(check.name) for check in CHECKS)


def doctor(args: argparse.Namespace) -> int:
    """Look at everything, or at what was named.

    Returns
    -------
    int
        0 when all is well or there are only warnings, 1 when something has failed.
    """
    if args.repair or args.dry_run:
        return _repair(args)
    checks = _wanted(args.check, study=not args.no_study)
    telemetry.configure("error")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # a peer that is away is told below
    began_s = time.monotonic()
    try:
        file = config.find(args.config)
        settings = config.load(args.config)
    except ConfigError as exc:
        if args.json:
            finding = Finding(Verdict.FAILED, str(exc), "put the settings right")
            _print_json([Examined(CHECKS[0], (finding,), 0.0)], began_s)
        raise
    act_as_owner(settings)
    node = Node(settings, file, environment(settings, file))
    if args.json:
        examined = examine(node, checks)
        _print_json(examined, began_s)
    else:
        examined = _shown(node, checks)
        _summarise(examined, time.monotonic() - began_s)
    return FAILED if any(one.has_failed for one in examined) else OK


def _repair(args: argparse.Namespace) -> int:
    """Become the tool of the worker that rebuilds a journal: it reads spool, results, archive."""
    if args.check or not args.repair:
        raise ConfigError(
            "--repair makes no check, and --dry-run goes with it: `limen doctor --repair --dry-run`"
        )
    if find_spec("pydicom") is None:
        raise ConfigError("the worker is not installed here; run this where it is")
    settings = config.load(args.config)
    act_as_owner(settings)
    env = environment(settings, config.find(args.config))
    asked = {"--json": args.json, "--dry-run": args.dry_run, "--debug": args.debug}
    words = [option for option, is_set in asked.items() if is_set]
    os.execve(sys.executable, [sys.executable, "-m", "worker", "repair", *words], env)  # noqa: S606


def _wanted(names: Sequence[str], *, study: bool) -> list[Check]:
    known = {check.name for check in CHECKS}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(
            f"there is no check {', '.join(unknown)}; there are {', '.join(c.name for c in CHECKS)}"
        )
    return [check for check in chosen(names) if study or check.name != "study"]


def _print_json(examined: Sequence[Examined], began_s: float) -> None:
    tree = {
        "ok": not any(one.has_failed for one in examined),
        "seconds": round(time.monotonic() - began_s, 2),
        "checks": [_tree(one) for one in examined],
    }
    say(json.dumps(tree))


def _tree(one: Examined) -> dict[str, Any]:
    return {
        "name": one.check.name,
        "seconds": one.seconds,
        "findings": [
            {"verdict": f.verdict.value, "text": f.text, "next": f.next} for f in one.findings
        ],
    }


# -- for people ------------------------------------------------------------------------------------


def _shown(node: Node, checks: Sequence[Check]) -> list[Examined]:
    """Examine, and say of each check what it found as soon as all before it have been told."""
    ended: dict[str, Examined] = {}
    left = [check.name for check in checks]

    def tell(one: Examined) -> None:
        ended[one.check.name] = one
        while left and left[0] in ended:
            for line in _lines(ended[left.pop(0)]):
                say(line)
        waiting = [name for name in left if name not in ended]
        show(f"looking at {', '.join(waiting)}")

    with doing() as show:
        show("looking")
        return examine(node, checks, tell)


def _lines(one: Examined) -> list[str]:
    lines = []
    for n, finding in enumerate(one.findings):
        name = one.check.name if n == 0 else ""
        lines.append(f"{finding.verdict.value:<7}  {name:<{_WIDTH}}  {finding.text}")
        if finding.next:
            lines.append(f"{'':7}  {'':{_WIDTH}}  -> {finding.next}")
    return lines


def _summarise(examined: Sequence[Examined], seconds: float) -> None:
    counted = Counter(f.verdict for one in examined for f in one.findings)
    parts = [f"{counted[v]} {v.value}" for v in reversed(Verdict) if counted[v]]
    say(f"{', '.join(parts)} in {seconds:.1f} s")
