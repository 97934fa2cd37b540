"""``limen model deploy``, ``rollback``, ``list``: which version of a model looks at which studies.

What is asked for is written into the journal, which every worker on every host reads; nothing is
restarted. The files are verified here and bound by their digest; whether the model still does what
it did when it was made each worker tries itself.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from limen import account, config
from limen.audit import Kind, Trail
from limen.audit.event import FAILED as SERIOUS
from limen.audit.event import SUCCEEDED
from limen.command.edge import FAILED, OK, PARTIAL
from limen.command.screen import say, table
from limen.config import Config
from limen.errors import ConfigError, LimenError
from limen.journal import Deployed, Deployment, Journal
from limen.states import DeploymentState, HoldingState
from worker.bundles import versions
from worker.tools.console import print_json, progress

__all__ = ["deploy", "rollback", "shown"]

_LOOK_S: Final = 0.2


@contextmanager
def _journal(settings: Config) -> Iterator[Journal]:
    journal = Journal(settings.journal_url)
    try:
        journal.migrate()
        yield journal
    finally:
        journal.close()


def _folders(settings: Config) -> dict[str, Path]:
    """Return the folders of versions that the routes name, by model."""
    found = [settings.bundle_dir(route.bundle).resolve() for route in settings.route]
    return {folder.name: folder for folder in found if versions.has_versions(folder)}


# -- deploy ----------------------------------------------------------------------------------------


def deploy(args: argparse.Namespace) -> int:
    """Ask for a version, and wait until the workers have tried it.

    Returns
    -------
    int
        0: it serves; 1: it was refused; 5: not yet.
    """
    settings = config.load(args.config)
    folder = _folders(settings).get(args.name)
    if folder is None:
        raise ConfigError(_no_such_model(settings, args.name))
    allowed = settings.engine.allow_legacy_h5
    versions.load_version(folder, args.version, allow_legacy_h5=allowed)
    digest = versions.digest_of(folder / args.version)
    with _journal(settings) as journal:
        who, began = account.at_host(), time.monotonic()
        ask = journal.deployments.ask
        made = ask(args.name, args.version, digest, args.percent, who)
        _audit(settings, made, f"deployed, {made.percent} % of studies, digest {made.digest}")
        with progress(quiet=args.json) as step:
            step(f"the workers load and try {args.name} {args.version}")
            ended = _waited(journal, made, began + args.wait)
        told = journal.deployments.standing()
    if ended.state is DeploymentState.REFUSED:
        _audit(settings, ended, ended.note, outcome=SERIOUS)
    seconds = time.monotonic() - began
    if args.json:
        print_json({"ok": ended.state is DeploymentState.SERVING, **_row(ended)})
    elif ended.state is DeploymentState.SERVING:
        ready = _holders(told, ended, HoldingState.READY)
        workers = f"{len(ready)} worker{'s' if len(ready) != 1 else ''}"
        say(
            f"{args.name} {args.version} looks at {told.share(ended)}: {workers} loaded and tried "
            f"it in {seconds:.1f} s"
        )
    if ended.state is DeploymentState.SERVING:
        return OK
    if ended.state is DeploymentState.ASKED:
        if not args.json:
            say(_not_yet(told, ended))
        return PARTIAL
    if args.json:
        return FAILED
    serving = told.serving(args.name)
    goes_on = f"{args.name} {serving[0].version} goes on" if serving else "no version serves"
    raise LimenError(f"{args.name} {args.version} does not serve, {goes_on}: {ended.note}")


def _no_such_model(settings: Config, name: str) -> str:
    known = _folders(settings)
    plain = [r.name for r in settings.route if settings.bundle_dir(r.bundle).name == name]
    if plain:
        return (
            f"route {plain[0]} names one bundle, not a folder of versions; put it into one, as "
            f"{name}/VERSION/bundle.toml, and let the route name that folder: docs/lifecycle.md"
        )
    there = ", ".join(sorted(known)) or "none does so far"
    return (
        f"no [[route]] names a folder of versions that is called {name} (these do: {there}); "
        "docs/lifecycle.md says how"
    )


def _waited(journal: Journal, made: Deployment, deadline_s: float) -> Deployment:
    """Return what became of a request; it is still asked for when nobody decided in time."""
    while True:
        journal.deployments.decide(made.name)
        now = next(one for one in journal.deployments.all(made.name) if one.id == made.id)
        if now.state is not DeploymentState.ASKED or time.monotonic() >= deadline_s:
            return now
        if not any(h.name == made.name for h in journal.deployments.standing().holdings):
            return now
        time.sleep(_LOOK_S)


def _not_yet(told: Deployed, one: Deployment) -> str:
    what = f"{one.name} {one.version} is asked for and does not serve yet"
    if not any(held.name == one.name for held in told.holdings):
        return f"{what}: no worker lives that has a route to it; it serves as soon as one can"
    slow = [
        h.who
        for h in told.holdings
        if h.name == one.name and h.who not in _holders(told, one, HoldingState.READY)
    ]
    return f"{what}: not ready on {', '.join(sorted(set(slow)))}; `limen model list {one.name}`"


def _holders(told: Deployed, one: Deployment, state: HoldingState) -> list[str]:
    return [h.who for h in told.holdings if h.deployment == one.id and h.state is state]


def _audit(settings: Config, one: Deployment, text: str, outcome: int = SUCCEEDED) -> None:
    """Tell the audit trail; a process of this host sends it."""
    about = {"subject": f"{one.name} {one.version}", "reason": text, "outcome": outcome}
    trail = Trail(settings, "model")
    trail.record(Kind.DEPLOYED, user=account.whoever(), **about)


# -- rollback --------------------------------------------------------------------------------------


def rollback(args: argparse.Namespace) -> int:
    """Take back the version that was asked for last."""
    settings = config.load(args.config)
    reason = " ".join(args.reason.split())
    with _journal(settings) as journal:
        gone, serves = journal.deployments.take_back(args.name, account.at_host(), reason)
        told = journal.deployments.standing()
    _audit(settings, gone, f"taken back: {reason or 'no reason given'}")
    if args.json:
        print_json({"withdrawn": _row(gone), "serves": _row(serves) if serves else None})
        return OK
    never = "" if gone.served_at else " (it never served)"
    say(f"{args.name} {gone.version} is taken back{never}: nothing that it says is committed now")
    if serves is None:
        say(f"no version of {args.name} serves: its studies wait")
        return OK
    say(f"{args.name} {serves.version} looks at {told.share(serves)}")
    if gone.served_at:
        say(
            "studies that it looked at keep their results: limen status --since WHEN, "
            "limen replay STUDY (docs/operations.md#a-model-is-wrong)"
        )
    return OK


# -- list ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Line:
    """A version, and how it stands."""

    name: str
    version: str
    state: str
    studies: str
    since: datetime | None
    by: str
    ready: str


def shown(args: argparse.Namespace) -> int:
    """Show which versions there are, and which serve."""
    settings = config.load(args.config)
    folders = _folders(settings)
    with _journal(settings) as journal:
        told = journal.deployments.standing()
        every = journal.deployments.all(args.name)
    names = sorted({*folders, *told.names, *(one.name for one in every)})
    if args.name:
        if args.name not in names:
            raise ConfigError(_no_such_model(settings, args.name))
        names = [args.name]
    lines = [line for name in names for line in _lines(name, folders.get(name), told, every)]
    if args.json:
        holdings = [h for h in told.holdings if h.name in names]
        print_json(
            {
                "versions": [asdict(line) for line in lines],
                "deployments": [_row(one) for one in every],
                "workers": [{**asdict(h), "state": h.state.value} for h in holdings],
            }
        )
        return OK
    if not lines:
        say("no [[route]] names a folder of versions, and nothing was deployed; docs/lifecycle.md")
        return OK
    table(
        ["model", "version", "state", "looks at", "since", "by", "workers"],
        [(x.name, x.version, x.state, x.studies, _when(x.since), x.by, x.ready) for x in lines],
    )
    if args.name:
        _tell_history(told, every)
    return OK


def _lines(
    name: str, folder: Path | None, told: Deployed, every: list[Deployment]
) -> Iterator[_Line]:
    """Yield each version that there is here or was deployed, and how it stands now."""
    here = versions.versions(folder) if folder else []
    last = {one.version: one for one in reversed(every) if one.name == name}
    live = len({held.worker for held in told.holdings if held.name == name})
    for version in [*here, *(v for v in last if v not in here)]:
        one = next(
            (d for d in told.deployments if (d.name, d.version) == (name, version)),
            last.get(version),
        )
        if one is None:
            yield _Line(name, version, "not deployed", "", None, "", "")
            continue
        serves = one.state is DeploymentState.SERVING
        ready = len(_holders(told, one, HoldingState.READY))
        is_open = serves or one.state is DeploymentState.ASKED
        yield _Line(
            name,
            version,
            one.state.value,
            told.share(one) if serves else "",
            one.served_at if serves else one.ended_at or one.asked_at,
            one.ended_by or one.asked_by,
            f"{ready} of {live} ready" if is_open else "",
        )


def _tell_history(told: Deployed, every: list[Deployment]) -> None:
    if every:
        say("")
    for one in every:
        percent = f", {one.percent} %" if one.is_canary else ""
        ended = f" until {_when(one.ended_at)}" if one.ended_at and one.served_at else ""
        served = f", served from {_when(one.served_at)}{ended}" if one.served_at else ""
        by = f" by {one.ended_by}" if one.ended_by else ""
        note = f": {one.note}" if one.note else ""
        say(
            f"{_when(one.asked_at)} {one.asked_by}: {one.version}{percent}, digest "
            f"{one.digest[:12]}{served}; {one.state.value}{by}{note}"
        )
    for held in told.holdings:
        about = next((one for one in every if one.id == held.deployment), None)
        if about is not None:
            text = f": {held.text}" if held.text else ""
            say(f"worker {held.who}: {about.version} {held.state.value}{text}")


def _when(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else ""


def _row(one: Deployment) -> dict[str, Any]:
    return {**asdict(one), "state": one.state.value}
