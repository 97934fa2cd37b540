"""``python -m worker``: the worker in the foreground; with a word behind it, an offline tool."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from limen import telemetry
from limen.config import load
from limen.errors import ConfigError, LimenError

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the worker, or ``explain`` / ``model``; return 0, 1 (failed), 2 (settings) or 5."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["explain"]:
        from worker import files  # noqa: PLC0415 - --help needs no pydicom

        return files.main(words[1:])
    if words[:1] == ["model"]:
        from worker import model_tool  # noqa: PLC0415

        return model_tool.main(words[1:])
    return _serve(words)


def _serve(words: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Predict, explain and deliver what the receiver has kept.",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: config.toml)"
    )
    args = parser.parse_args(words)
    try:
        config = load(args.config)
    except ConfigError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 2
    telemetry.configure("debug" if args.verbose else config.log.level, config.log.format)
    from worker.process import run  # noqa: PLC0415

    try:
        return run(config)
    except ConfigError as exc:
        print(exc, file=sys.stderr)  # noqa: T201
        return 2
    except LimenError as exc:
        print(f"the worker does not start: {exc}", file=sys.stderr)  # noqa: T201
        return 1


if __name__ == "__main__":
    sys.exit(main())
