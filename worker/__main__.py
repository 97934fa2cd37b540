"""``python -m worker``: the worker in the foreground; with a word behind it, an offline tool."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from limen import modes, telemetry
from limen.command.edge import MEANINGS, at_the_edge
from limen.config import WORKER_LANES, find, load

__all__ = ["main"]


def main(argv: list[str] | None = None) -> int:
    """Run the worker, or ``explain``, ``model``, ``reproduce``, ``repair``; return an exit code."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["explain"]:
        from worker.tools import explain  # noqa: PLC0415 - --help needs no pydicom

        return explain.main(words[1:])
    if words[:1] == ["model"]:
        from worker.tools import model_tool  # noqa: PLC0415

        return model_tool.main(words[1:])
    if words == ["destinations"]:
        from worker.tools import destinations  # noqa: PLC0415

        return at_the_edge(destinations.main)
    if words[:1] == ["reproduce"]:
        from worker.tools import reproduce  # noqa: PLC0415

        return reproduce.main(words[1:])
    if words[:1] == ["repair"]:
        from worker.tools import repair  # noqa: PLC0415

        return repair.main(words[1:])
    args = _parser().parse_args(words)
    return at_the_edge(lambda: _work(args), debug=args.debug, service=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker",
        description="Predict, explain and deliver what the receiver has kept.",
        epilog=MEANINGS,
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log every step")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="settings (default: config.toml)"
    )
    parser.add_argument(
        "--lanes",
        type=_lanes,
        metavar="LANES",
        help="what it takes, of predict,explain,deliver (default: worker.lanes)",
    )
    parser.add_argument("--debug", action="store_true", help="print a traceback on failure")
    return parser


def _lanes(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(word.strip() for word in text.split(",")))
    unknown = [name for name in names if name not in WORKER_LANES]
    if unknown:
        raise argparse.ArgumentTypeError(
            f"{', '.join(map(repr, unknown))} is no lane; take some of {','.join(WORKER_LANES)}"
        )
    return names


def _work(args: argparse.Namespace) -> int:
    os.umask(0o077)  # what it writes is open to nobody else
    config = load(args.config)
    if args.lanes:
        taken = config.worker.model_copy(update={"lanes": args.lanes})
        config = config.model_copy(update={"worker": taken})
    level = "debug" if args.verbose else config.log.level
    telemetry.configure(level, config.log.format, "limen-worker")
    modes.warn(config, find(args.config))
    from worker.work.memory import share_arenas  # noqa: PLC0415

    share_arenas()
    from worker.process import run  # noqa: PLC0415

    return run(config)


if __name__ == "__main__":
    sys.exit(main())
