"""The ``limen`` command: parse, call one function, print.

Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 cannot bind, 4 peer refused, 5 partial.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from limen import __version__, config, telemetry
from limen.config import Config
from limen.errors import ConfigError, LimenError

__all__ = ["main"]

OK, FAILED, USAGE, CANNOT_BIND, REFUSED, PARTIAL = 0, 1, 2, 3, 4, 5
_NOTICE = "Research software. Not for diagnostic use."


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and not args.passes_rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return int(args.run(args, rest))
    except ConfigError as exc:
        return _fail(args, exc, USAGE)
    except LimenError as exc:
        return _fail(args, exc, int(getattr(exc, "code", FAILED)))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `limen status | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _fail(args: argparse.Namespace, error: Exception, code: int) -> int:
    if args.debug:
        traceback.print_exc()
    print(f"limen: {error}", file=sys.stderr)  # noqa: T201
    return code


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def _load(args: argparse.Namespace) -> Config:
    loaded = config.load(args.config)
    telemetry.configure(loaded.log.level, loaded.log.format)
    return loaded


# -- the commands --------------------------------------------------------------------------------


def _up(args: argparse.Namespace, _rest: list[str]) -> int:
    from limen.journal import Journal  # noqa: PLC0415 - keeps --help instant
    from limen.supervisor import Supervisor, environment, set_up_web  # noqa: PLC0415

    settings = _load(args)
    env = environment(settings, config.find(args.config))
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    journal = Journal(settings.journal_url)
    journal.migrate()
    journal.close()
    login_url = set_up_web(settings, env).get("login_url")
    supervisor = Supervisor(env)
    _say(_banner(settings))
    supervisor.start(on_ready=lambda name, s: _say(f"  {name:<8} ready after {s:.1f} s"))
    if login_url:
        _say(f"\nFirst start: an account `admin` was made. Log in once with\n  {login_url}\n")
    _say("Limen is up. Stop it with Ctrl-C.")
    return supervisor.watch()


def _banner(settings: Config) -> str:
    free = shutil.disk_usage(settings.data_dir).free / 1e9
    senders = ", ".join(f"{p.ae_title} from {p.address}" for p in settings.scp.peer)
    if settings.scp.allow_any_peer:
        senders = "anyone (scp.allow_any_peer)"
    broker = settings.queue.broker.rsplit("@", 1)[-1]
    gcs = settings.destination.gcs
    archive = f"gs://{gcs.bucket}" if gcs.bucket else str(settings.archive_dir)
    rows = [
        ("receiver", f"{settings.scp.ae_title} on {settings.scp.host}:{settings.scp.port}"),
        ("senders", senders or "this machine only"),
        ("routes", ", ".join(_route(r) for r in settings.route)),
        ("data", f"{settings.data_dir} ({free:.1f} GB free)"),
        ("journal", settings.journal.url.rsplit("@", 1)[-1] or "SQLite in the data folder"),
        ("broker", broker),
        ("archive", archive if gcs.enabled else "off"),
        ("worklist", settings.web_url),
    ]
    body = "\n".join(f"  {name:<9} {value}" for name, value in rows)
    return f"Limen {__version__}. {_NOTICE}\n{body}"


def _route(route: config.Route) -> str:
    """Return a route in one line."""
    where = "".join(f", {keyword} {pattern}" for keyword, pattern in route.where.items())
    shadow = ", shadow" if route.shadow else ""
    return f"{route.name} ({route.modality}{where}{shadow}) -> {route.bundle}"


def _demo(args: argparse.Namespace, _rest: list[str]) -> int:
    import time  # noqa: PLC0415

    from limen.demo import Demo  # noqa: PLC0415

    telemetry.configure("warning")
    for name in [n for n in os.environ if n.startswith("LIMEN_")]:
        del os.environ[name]  # the demo runs on its own settings, whatever this shell has
    began = time.monotonic()

    def say(text: str) -> None:
        if not args.json:
            _say(f"[{time.monotonic() - began:5.1f} s] {text}")

    demo = Demo(args.output, say)
    try:
        lines = demo.run()
        seconds = time.monotonic() - began
        if args.json:
            studies = [{**asdict(line), "right": line.right} for line in lines]
            _say(json.dumps({"seconds": round(seconds, 1), "studies": studies}))
        else:
            _demo_table(lines)
            _say(f"\n{sum(x.right for x in lines)} of {len(lines)} outcomes agree with the truth.")
            _say(f"overlays: {args.output / 'overlays'}   done in {seconds:.1f} s. {_NOTICE}")
        if args.keep and demo.supervisor is not None:
            _say(f"Log in with {demo.login_url}\nStill running; stop it with Ctrl-C.")
            return demo.supervisor.watch()
        if not args.json:
            _say("The pages were served while the demo ran; `limen demo --keep` leaves them up.")
        return OK if all(line.right for line in lines) else PARTIAL
    finally:
        demo.stop()


def _demo_table(lines: list[Any]) -> None:
    rows = [
        (
            line.name,
            line.truth + (f" ({line.true_slices} slices)" if line.true_slices else ""),
            line.outcome.replace("_", " "),
            _number(line.probability, "{:.3f}"),
            f"{_number(line.positive_slices, '{}')} of {line.slices}",
            _number(line.predicted_s, "{:.2f} s"),
            _number(line.explained_s, "{:.2f} s"),
            line.page,
        )
        for line in lines
    ]
    _table(
        ["study", "truth", "outcome", "prob.", "positive", "to prediction", "to expl.", "page"],
        rows,
    )


def _start(module: str) -> Callable[[argparse.Namespace, list[str]], int]:
    """A command that becomes ``python -m <module>``, with the settings in its environment."""

    def run(args: argparse.Namespace, rest: list[str]) -> int:
        from limen.supervisor import environment  # noqa: PLC0415

        settings = config.load(args.config)
        env = environment(settings, config.find(args.config))
        if module == "web":
            settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.execve(sys.executable, [sys.executable, "-m", module, *args.words, *rest], env)  # noqa: S606
        return OK

    return run


def _send(args: argparse.Namespace, _rest: list[str]) -> int:
    import time  # noqa: PLC0415

    from limen.send import Refused, files_of, send  # noqa: PLC0415

    settings = _load(args)
    peer = _peer(args.to or f"{settings.scp.ae_title}@127.0.0.1:{settings.scp.port}")
    files = list(files_of(args.path))
    missing = [str(p) for p in files if not p.is_file()]
    if missing:
        raise LimenError(f"no such file: {', '.join(missing[:5])}")
    began = time.monotonic()
    with _progress(len(files), args.json) as advance:
        try:
            report = send(
                files,
                peer,
                args.calling,
                on_file=advance,
                associations=args.associations,
                retries=args.retries,
                tls=_tls(args),
            )
        except Refused as exc:
            return _fail(args, exc, REFUSED)
    seconds = time.monotonic() - began
    if args.json:
        _say(json.dumps(_sent_as_json(report, seconds)))
    else:
        _sent_as_text(report, len(files), peer, seconds)
    if report.failed:
        return PARTIAL
    return OK if report.sent else FAILED


@contextlib.contextmanager
def _progress(total: int, silent: bool) -> Iterator[Callable[[object], None]]:
    """Yield what to call after each of ``total`` things: a bar, or plain lines."""
    if sys.stdout.isatty() and not silent:
        from rich.progress import MofNCompleteColumn, Progress, TextColumn  # noqa: PLC0415

        columns = Progress.get_default_columns()[1:3]
        with Progress(TextColumn("sending"), *columns, MofNCompleteColumn()) as progress:
            bar = progress.add_task("sending", total=total)
            yield lambda _: progress.advance(bar)
        return
    counting, done, step = threading.Lock(), 0, max(1, total // 10)

    def count(_: object) -> None:
        nonlocal done
        with counting:
            done += 1
            if not silent and done % step == 0:
                _say(f"{done} of {total}")

    yield count


def _sent_as_json(report: Any, seconds: float) -> dict[str, Any]:
    return {
        "sent": report.sent,
        "failed": {str(p): s for p, s in report.failed.items()},
        "comments": {str(p): s for p, s in report.comments.items()},
        "skipped": [str(p) for p in report.skipped],
        "statuses": dict(report.statuses),
        "retried": report.retried,
        "refusals": report.refusals,
        "bytes": report.sent_bytes,
        "seconds": round(seconds, 3),
    }


def _sent_as_text(report: Any, total: int, peer: Any, seconds: float) -> None:
    from limen.send import meaning  # noqa: PLC0415

    rate = report.sent_bytes / 1e6 / max(seconds, 1e-9)
    _say(
        f"{report.sent} of {total} sent to {peer.ae_title}@{peer.host}:{peer.port} in "
        f"{seconds:.1f} s ({rate:.1f} MB/s), {len(report.failed)} failed, "
        f"{len(report.skipped)} not DICOM, {report.retried} tried again"
    )
    if report.lines:
        _table(
            ["status", "instances", "MB", "meaning"],
            [
                (status, str(line.instances), f"{line.size_bytes / 1e6:.1f}", meaning(status))
                for status, line in sorted(report.lines.items())
            ],
        )
    for refusal in report.refusals:
        _say(f"  one association less: {refusal}")
    for path, status in list(report.failed.items())[:20]:
        comment = report.comments.get(path)
        _say(f"  {path}: {status}{f' ({comment})' if comment else ''}")


def _echo(args: argparse.Namespace, _rest: list[str]) -> int:
    from limen.send import Refused, echo  # noqa: PLC0415

    telemetry.configure("error")
    peer = _peer(args.peer)
    try:
        seconds = echo(peer, args.calling, tls=_tls(args))
    except Refused as exc:
        return _fail(args, exc, REFUSED)
    _say(f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO ({seconds * 1e3:.1f} ms)")
    return OK


def _tls(args: argparse.Namespace) -> Any:
    """Return how to speak TLS, None for plain DICOM; naming a file asks for TLS."""
    from limen.send import Tls  # noqa: PLC0415

    if args.key and not args.cert:
        raise ConfigError("--key is the key of --cert; name the certificate too")
    if not (args.tls or args.ca or args.cert):
        return None
    return Tls(args.ca, args.cert, args.key)


def _peer(text: str) -> Any:
    from limen.send import Peer  # noqa: PLC0415

    try:
        return Peer.parse(text)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


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


def _status(args: argparse.Namespace, _rest: list[str]) -> int:
    journal = _journal(args)
    rows = journal.studies(args.study)
    queues = journal.queues()
    if args.study and not rows:
        raise LimenError(
            f"no study {args.study} in the journal; `limen status` lists what is there"
        )
    if args.json:
        _say(json.dumps({"studies": [_as_json(r) for r in rows], "queues": queues}))
        return OK
    if not rows:
        _say("No study yet. Send one: limen send FOLDER, or from any DICOM sender.")
        return OK
    _table(
        ["study", "rev", "state", "outcome", "prob.", "positive", "received", "deliveries"],
        [_status_line(r) for r in rows],
    )
    for row in rows:
        for what in (*row.jobs, *row.deliveries):
            if what.last_error and (args.study or what.state == "dead"):
                _say(f"  {what.key}: {what.state} after {what.attempts}: {what.last_error}")
        if row.reason and args.study:
            _say(f"  revision {row.revision}: {row.reason}")
    for lane, entry in queues.items():
        _say(
            f"  {lane}: {entry['queued']} waiting, {entry['running']} running, "
            f"{entry['dead']} dead, oldest {entry['oldest_s']} s"
        )
    return OK


def _status_line(row: Any) -> tuple[str, ...]:
    done = sum(d.state == "done" for d in row.deliveries)
    positive = "" if row.positive_images is None else f"{row.positive_images} of {row.images}"
    return (
        row.study_key[:12],
        str(row.revision),
        row.state,
        (row.outcome or "").replace("_", " "),
        _number(row.probability, "{:.3f}"),
        positive or f"{row.images} images",
        row.received_at.strftime("%Y-%m-%d %H:%M:%S"),
        f"{done} of {len(row.deliveries)}",
    )


def _as_json(row: Any) -> dict[str, Any]:
    tree = asdict(row)
    return {k: v.isoformat() if isinstance(v, datetime) else v for k, v in tree.items()}


def _retry(args: argparse.Namespace, _rest: list[str]) -> int:
    journal = _journal(args)
    if journal.retry(args.key):
        _say(f"{args.key} is queued again")
        return OK
    dead = [
        job
        for row in journal.studies(args.key.split("-")[0])
        for job in row.jobs
        if job.key == args.key and job.state == "dead"
    ]
    if not dead:
        raise LimenError(f"{args.key} is not a dead job or delivery; see `limen status --json`")
    # What the job gave up with has been delivered: a new run is a new revision.
    return _run_again(journal, args.key.split("-")[0])


def _replay(args: argparse.Namespace, _rest: list[str]) -> int:
    journal = _journal(args)
    keys = {r.study_key for r in journal.studies(args.study)}
    if len(keys) != 1:
        raise LimenError(f"{args.study} matches {len(keys)} studies; see `limen status`")
    return _run_again(journal, keys.pop())


def _run_again(journal: Any, study_key: str) -> int:
    revision = journal.replay(study_key)
    if revision is None:
        raise LimenError(f"study {study_key} is still being received; wait until it is complete")
    _say(f"study {study_key[:12]} runs again as revision {revision}")
    return OK


def _journal(args: argparse.Namespace) -> Any:
    from limen.journal import Journal  # noqa: PLC0415

    settings = _load(args)
    if not settings.journal.url and not (settings.data_dir / "journal.db").is_file():
        raise LimenError(
            f"no journal in {settings.data_dir}; start Limen there (`limen up`) or name its "
            "settings with --config"
        )
    journal = Journal(settings.journal_url)
    journal.migrate()
    return journal


# -- printing --------------------------------------------------------------------------------------


def _table(heads: list[str], rows: Sequence[tuple[str, ...]]) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415

    table = Table(*heads, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else 200
    Console(width=width, highlight=False, soft_wrap=False).print(table)


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


# -- the parser ------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: LIMEN_CONFIG, config.toml)"
    )
    common.add_argument("--debug", action="store_true", help="print a traceback on failure")
    parser = argparse.ArgumentParser(
        prog="limen",
        description=f"DICOM node that runs a Keras model on every study it is sent. {_NOTICE}",
        epilog="Exit codes: 0 ok, 1 failed, 2 usage or settings, 3 cannot bind, "
        "4 peer refused, 5 partial.",
    )
    parser.add_argument("--version", action="version", version=f"limen {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str,
        run: Callable[[argparse.Namespace, list[str]], int],
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
        command.set_defaults(run=run, passes_rest=False, words=[])
        return command

    add("up", _up, "receiver, worker and results server on this machine, supervised")

    demo = add("demo", _demo, "the whole system on this machine, fed with synthetic head CT")
    demo.add_argument("--keep", action="store_true", help="leave everything running afterwards")
    demo.add_argument(
        "-o", "--output", type=Path, default=Path("limen-demo"), metavar="DIR",
        help="folder of the demo, emptied first (default: limen-demo)",
    )  # fmt: skip
    demo.add_argument("--json", action="store_true", help="print one JSON object")

    for name, text in (
        ("scp", "the receiver (C-STORE, C-ECHO), in the foreground"),
        ("worker", "the worker (prediction, explanation, delivery), in the foreground"),
        ("web", "the results server, in the foreground"),
    ):
        add(name, _start(name), text).set_defaults(passes_rest=True)

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

    sender = add("send", _send, "send files or folders by C-STORE", [calling])
    sender.add_argument("path", nargs="+", type=Path, metavar="PATH")
    sender.add_argument("--to", metavar="AET@HOST:PORT", help="peer (default: this node)")
    sender.add_argument(
        "--associations", type=_count(1), default=1, metavar="N", help="open side by side (1)"
    )
    sender.add_argument(
        "--retries", type=_count(0), default=2, metavar="N",
        help="how often what failed is tried again, where that may help (2)",
    )  # fmt: skip
    sender.add_argument("--json", action="store_true", help="print one JSON object")

    echo = add("echo", _echo, "verify a DICOM peer by C-ECHO", [calling])
    echo.add_argument("peer", metavar="AET@HOST:PORT")

    status = add("status", _status, "show studies, their outcomes, deliveries and queues")
    status.add_argument("study", nargs="?", metavar="STUDY", help="key, its beginning, or UID")
    status.add_argument("--json", action="store_true", help="print one JSON object")

    retry = add(
        "retry", _retry, "queue a dead delivery again, or run the study of a dead job again"
    )
    retry.add_argument("key", metavar="KEY", help="as `limen status` prints it")

    replay = add("replay", _replay, "analyse a study again, as a new revision")
    replay.add_argument("study", metavar="STUDY", help="key, its beginning, or StudyInstanceUID")

    for name, text in (
        ("explain", "files -> predictions and LIME overlays, without any server"),
        ("model", "make, check, show, compare or convert model bundles"),
    ):
        command = add(name, _start("worker"), text, add_help=False)
        command.set_defaults(passes_rest=True, words=[name])
    return parser


if __name__ == "__main__":
    sys.exit(main())
