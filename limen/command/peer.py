"""``limen send`` and ``limen echo``: what is asked of a peer, and its answers for people."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from limen import telemetry
from limen.command.begin import read_settings
from limen.command.edge import FAILED, OK, PARTIAL
from limen.command.screen import progress, say, table
from limen.command.send import Peer, Report, Tls, files_of, meaning
from limen.command.send import echo as call
from limen.command.send import send as store
from limen.errors import ConfigError, LimenError

__all__ = ["echo", "send"]

_SHOWN_FAILURES = 20


def send(args: argparse.Namespace) -> int:
    """Send files or folders by C-STORE."""
    settings = read_settings(args)
    peer = _peer(args.to or f"{settings.scp.ae_title}@127.0.0.1:{settings.scp.port}")
    files = list(files_of(args.path))
    missing = [str(p) for p in files if not p.is_file()]
    if missing:
        raise LimenError(f"no such file: {', '.join(missing[:5])}")
    began = time.monotonic()
    with progress(len(files), silent=args.json) as advance:
        report = store(
            files,
            peer,
            args.calling,
            on_file=advance,
            associations=args.associations,
            retries=args.retries,
            tls=_tls(args),
        )
    seconds = time.monotonic() - began
    if args.json:
        say(json.dumps(_as_json(report, seconds)))
    else:
        _tell(report, len(files), peer, seconds)
    if report.failed:
        return PARTIAL
    return OK if report.sent else FAILED


def echo(args: argparse.Namespace) -> int:
    """Verify a peer by C-ECHO."""
    telemetry.configure("error")
    peer = _peer(args.peer)
    seconds = call(peer, args.calling, tls=_tls(args))
    say(f"{peer.ae_title} at {peer.host}:{peer.port} answers C-ECHO ({seconds * 1e3:.1f} ms)")
    return OK


def _as_json(report: Report, seconds: float) -> dict[str, Any]:
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


def _tell(report: Report, total: int, peer: Peer, seconds: float) -> None:
    rate = report.sent_bytes / 1e6 / max(seconds, 1e-9)
    say(
        f"{report.sent} of {total} sent to {peer.ae_title}@{peer.host}:{peer.port} in "
        f"{seconds:.1f} s ({rate:.1f} MB/s), {len(report.failed)} failed, "
        f"{len(report.skipped)} not DICOM, {report.retried} tried again"
    )
    if report.lines:
        table(
            ["status", "instances", "MB", "meaning"],
            [
                (status, str(line.instances), f"{line.size_bytes / 1e6:.1f}", meaning(status))
                for status, line in sorted(report.lines.items())
            ],
        )
    for refusal in report.refusals:
        say(f"  one association less: {refusal}")
    for path, status in list(report.failed.items())[:_SHOWN_FAILURES]:
        comment = report.comments.get(path)
        say(f"  {path}: {status}{f' ({comment})' if comment else ''}")


def _tls(args: argparse.Namespace) -> Tls | None:
    """Return how to speak TLS, None for plain DICOM; naming a file asks for TLS."""
    if args.key and not args.cert:
        raise ConfigError("--key is the key of --cert; name the certificate too")
    if not (args.tls or args.ca or args.cert):
        return None
    return Tls(args.ca, args.cert, args.key)


def _peer(text: str) -> Peer:
    try:
        return Peer.parse(text)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc
