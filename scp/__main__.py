"""``python -m scp [PORT] [-aet AET]``: the receiver in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from limen import modes, telemetry
from limen.command.edge import MEANINGS, OK, at_the_edge
from limen.config import find, load

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; return an exit code."""
    args = _parser().parse_args(argv)
    return at_the_edge(lambda: _serve(args), debug=args.debug, service=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m scp",
        description="Receive DICOM studies (C-STORE, C-ECHO) and keep them safely.",
        epilog=MEANINGS,
    )
    parser.add_argument("port", nargs="?", type=int, help="TCP port (default: scp.port, 11112)")
    parser.add_argument("-aet", metavar="AET", help="our AE title (default: scp.ae_title, LIMEN)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: config.toml)"
    )
    parser.add_argument("--debug", action="store_true", help="print a traceback on failure")
    return parser


def _serve(args: argparse.Namespace) -> int:
    # The command line is the strongest source; the environment is how it reaches the settings.
    if args.port is not None:
        os.environ["LIMEN_SCP__PORT"] = str(args.port)
    if args.aet:
        os.environ["LIMEN_SCP__AE_TITLE"] = args.aet
    os.umask(0o077)  # what it writes is open to nobody else
    config = load(args.config)
    level = "debug" if args.verbose else config.log.level
    telemetry.configure(level, config.log.format, "limen-scp")
    modes.warn(config, find(args.config))
    from scp.roster import TURN_S  # noqa: PLC0415 - --help waits for no SQLAlchemy
    from scp.server import Receiver  # noqa: PLC0415

    sys.setswitchinterval(TURN_S)
    Receiver(config).run()
    return OK


if __name__ == "__main__":
    sys.exit(main())
