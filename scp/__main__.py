"""``python -m scp [PORT] [-aet AET]``: the receiver in the foreground."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from limen import telemetry
from limen.config import load
from limen.errors import ConfigError, LimenError

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM; return 0, 1 (failed), 2 (settings) or 3 (cannot bind)."""
    parser = argparse.ArgumentParser(
        prog="python -m scp",
        description="Receive DICOM studies (C-STORE, C-ECHO) and keep them safely.",
    )
    parser.add_argument("port", nargs="?", type=int, help="TCP port (default: scp.port, 11112)")
    parser.add_argument("-aet", metavar="AET", help="our AE title (default: scp.ae_title, LIMEN)")
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: config.toml)"
    )
    args = parser.parse_args(argv)
    # The command line is the strongest source; the environment is how it reaches the settings.
    if args.port is not None:
        os.environ["LIMEN_SCP__PORT"] = str(args.port)
    if args.aet:
        os.environ["LIMEN_SCP__AE_TITLE"] = args.aet
    try:
        config = load(args.config)
    except ConfigError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 2
    telemetry.configure("debug" if args.verbose else config.log.level, config.log.format)
    from scp.roster import TURN_S  # noqa: PLC0415 - --help needs no pynetdicom
    from scp.server import CannotBind, Receiver  # noqa: PLC0415

    sys.setswitchinterval(TURN_S)
    try:
        Receiver(config).run()
    except CannotBind as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 3
    except LimenError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
