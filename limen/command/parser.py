"""The words of the ``limen`` command: parse them, call one function of one module."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from limen import __version__, config
from limen.command import NOTICE
from limen.command.edge import MEANINGS, at_the_edge
from limen.errors import LimenError
from limen.result import Outcome
from limen.states import StudyState

__all__ = ["build", "main"]

Run = Callable[[argparse.Namespace], int]
Add = Callable[..., argparse.ArgumentParser]


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = build()
    args, rest = parser.parse_known_args(argv)
    if rest and not args.passes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    args.rest = rest
    return at_the_edge(lambda: args.run(args), debug=args.debug)


def _function(module: str, name: str) -> Run:
    """Return a function of a module of this package that is imported when it is called.

    So ``--help`` waits for nothing.
    """

    def run(args: argparse.Namespace) -> int:
        try:
            function = getattr(import_module(f"limen.command.{module}"), name)
        except ModuleNotFoundError as exc:
            raise LimenError(
                f"this command needs packages that are not installed here ({exc.name}); call it "
                "where a receiver or a worker is installed"
            ) from exc
        return int(function(args))

    return run


def _title(text: str) -> str:
    try:
        return config.ae_title(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def _count(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if not text.isascii() or not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} on")
        return int(text)

    return number


def build() -> argparse.ArgumentParser:
    """Return the parser of every command."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: LIMEN_CONFIG, config.toml)"
    )
    common.add_argument("--debug", action="store_true", help="print a traceback on failure")
    parser = argparse.ArgumentParser(
        prog="limen",
        description=f"DICOM node that runs a Keras model on every study it is sent. {NOTICE}",
        epilog=MEANINGS,
    )
    parser.add_argument("--version", action="version", version=f"limen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str,
        run: Run,
        text: str,
        parents: Sequence[argparse.ArgumentParser] = (),
        **more: Any,
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            parents=[common, *parents],
            help=text,
            description=text[0].upper() + text[1:] + ".",
            **more,
        )
        command.set_defaults(run=run, passes_rest=False)
        return command

    up = "receiver, worker and results server on this machine, supervised"
    add("up", _function("up", "up"), up)
    _demo(add)
    _processes(add)
    _peers(add)
    _journal(add)
    _health(add)
    _tools(add)
    _host(add)
    return parser


def _demo(add: Add) -> None:
    run = _function("demo", "demo")
    demo = add("demo", run, "the whole system on this machine, fed with synthetic head CT")
    demo.add_argument("--keep", action="store_true", help="leave everything running afterwards")
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("limen-demo"), metavar="DIR",
        help="folder of the demo, emptied first (default: limen-demo)",
    )  # fmt: skip
    demo.add_argument("--json", action="store_true", help="print one JSON object")


def _processes(add: Add) -> None:
    for name, text in (
        ("scp", "the receiver (C-STORE, C-ECHO), in the foreground"),
        ("worker", "the worker (prediction, explanation, delivery), in the foreground"),
        ("web", "the results server, in the foreground"),
    ):
        command = add(name, _function("foreground", "become"), text)
        command.set_defaults(passes_rest=True, module=name, words=[])


def _peers(add: Add) -> None:
    calling = argparse.ArgumentParser(add_help=False)
    calling.add_argument(
        "--calling", type=_title, default="LIMEN_SEND", metavar="AET", help="our AE title"
    )
    calling.add_argument("--tls", action="store_true", help="speak TLS")
    calling.add_argument(
        "--ca", type=Path, metavar="PEM", help="TLS; who signed the peer's certificate"
    )
    calling.add_argument("--cert", type=Path, metavar="PEM", help="TLS; our certificate")
    calling.add_argument("--key", type=Path, metavar="PEM", help="its key (default: in --cert)")

    send = add("send", _function("peer", "send"), "send files or folders by C-STORE", [calling])
    send.add_argument("path", nargs="+", type=Path, metavar="PATH")
    send.add_argument("--to", metavar="AET@HOST:PORT", help="peer (default: this node)")
    send.add_argument(
        "--associations", type=_count(1), default=1, metavar="N", help="open side by side (1)"
    )
    send.add_argument(
        "--retries", type=_count(0), default=2, metavar="N",
        help="how often what failed is tried again, where that may help (2)",
    )  # fmt: skip
    send.add_argument("--json", action="store_true", help="print one JSON object")

    echo = add("echo", _function("peer", "echo"), "verify a DICOM peer by C-ECHO", [calling])
    echo.add_argument("peer", metavar="AET@HOST:PORT")


def _journal(add: Add) -> None:
    run = _function("status", "status")
    status = add("status", run, "show studies, their outcomes, deliveries and queues")
    status.add_argument(
        "study", nargs="?", metavar="STUDY", help="key, its beginning, UID, or accession number"
    )
    status.add_argument("--outcome", choices=[o.value for o in Outcome], help="only these")
    status.add_argument("--state", choices=[s.value for s in StudyState], help="only these")
    status.add_argument("--dead", action="store_true", help="only studies with dead work")
    _filters(status)
    status.add_argument(
        "--revisions", choices=["newest", "all"], default="newest",
        help="of each study; of one that is named, all are shown",
    )  # fmt: skip
    status.add_argument(
        "--limit", type=_count(1), default=50, metavar="N", help="show at most so many (50)"
    )
    status.add_argument("--json", action="store_true", help="print one JSON object")

    run = _function("again", "retry")
    retry = add(
        "retry", run, "queue what is dead again, or ask a PACS again that rejects this node"
    )
    retry.add_argument(
        "key", nargs="?", metavar="KEY", help="of a job or a delivery, or the name of a destination"
    )
    retry.add_argument("--all", action="store_true", help="everything that is dead")
    retry.add_argument("--yes", action="store_true", help="with --all: do not ask")
    _filters(retry)

    run = _function("again", "discard")
    discard = add("discard", run, "let what is dead stay undone, with a reason")
    discard.add_argument("key", metavar="KEY", help="of a job, a delivery or a shadow")
    discard.add_argument("--reason", required=True, metavar="TEXT", help="kept with the work")

    run = _function("again", "replay")
    replay = add("replay", run, "analyse a study again, as a new revision")
    replay.add_argument("study", metavar="STUDY", help="key, its beginning, or StudyInstanceUID")

    run = _function("trace", "trace")
    trace = add("trace", run, "tell what happened to a study, and make its result again")
    trace.add_argument(
        "study", metavar="STUDY", help="key, its beginning, UID, or accession number"
    )
    trace.add_argument("--no-reproduce", action="store_true", help="only tell what happened")
    trace.add_argument("--json", action="store_true", help="print one JSON object")

    run = _function("purge", "purge")
    purge = add("purge", run, "remove what was delivered and is older than [retention] says")
    purge.add_argument(
        "study", nargs="?", metavar="STUDY",
        help="only this one, whatever its age: key, its beginning, or StudyInstanceUID",
    )  # fmt: skip
    purge.add_argument("--dry-run", action="store_true", help="count what would go; remove nothing")
    purge.add_argument("--json", action="store_true", help="print one JSON object")


def _filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--since", metavar="WHEN", default="",
        help="received since: 30min, 12h or 7d ago, or a day such as 2026-11-29 (UTC)",
    )  # fmt: skip
    parser.add_argument("--destination", metavar="NAME", default="", help="not arrived there yet")


def _health(add: Add) -> None:
    doctor = add(
        "doctor", _function("doctor", "doctor"), "look at what this node needs, and say what to do"
    )
    doctor.add_argument(
        "check", nargs="*", metavar="CHECK", help="only these, and what they need (default: all)"
    )
    doctor.add_argument("--no-study", action="store_true", help="send no test study")
    doctor.add_argument(
        "--repair",
        action="store_true",
        help="rebuild a lost or damaged journal from spool, results and archive",
    )
    doctor.add_argument("--dry-run", action="store_true", help="with --repair: only count")
    doctor.add_argument("--json", action="store_true", help="print one JSON object")
    qa = add("qa", _function("qa", "qa"), "send test studies, and compare them with those before")
    qa.add_argument(
        "--accept", action="store_true", help="what they come to now is right: compare with it"
    )
    qa.add_argument("--history", action="store_true", help="send none; show the last ones")
    qa.add_argument("--json", action="store_true", help="print one JSON object")


def _tools(add: Add) -> None:
    run = _function("conformance", "conformance")
    statement = add("conformance", run, "write the DICOM Conformance Statement of this node")
    statement.add_argument("--html", action="store_true", help="a page to print, not Markdown")
    statement.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="write it there (default: print it)"
    )
    for name, text in (
        ("explain", "files -> predictions and LIME overlays, without any server"),
        ("model", "make, check, show, compare or convert model bundles"),
    ):
        command = add(name, _function("foreground", "become"), text, add_help=False)
        command.set_defaults(passes_rest=True, module="worker", words=[name])


def _host(add: Add) -> None:
    for name, text in (
        ("install", "as services of this systemd host; with a newer version, an upgrade"),
        ("upgrade", "the services of this host to a newer version, unpacked in a folder"),
        ("uninstall", "remove what `install` made, and keep the data"),
    ):
        command = add(name, _installer(name), text, add_help=False)
        command.set_defaults(passes_rest=True)
    text = "bring journal and web database to this version; make token and first account"
    migrate = add("migrate", _function("migrate", "migrate"), text)
    migrate.add_argument(
        "--check", action="store_true", help="only tell whether they are of a newer version (2)"
    )


def _installer(name: str) -> Run:
    def run(args: argparse.Namespace) -> int:
        from limen.command.install import main as install  # noqa: PLC0415 - as in _function

        return install([name, *args.rest, *(["--debug"] if args.debug else [])])

    return run
