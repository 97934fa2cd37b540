"""``limen scp``, ``worker``, ``web``, ``explain``, ``model``: become that process, in front.

``limen web`` first makes what the results server and its node need of each other, as ``limen up``
does; so the processes may be started one by one, in any order.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import structlog

from limen import config, modes, telemetry
from limen.command.begin import act_as_owner
from limen.command.screen import say
from limen.command.supervisor import PROCESSES, environment, how_to_log_in, set_up_web
from limen.config import Config
from logs import lines

__all__ = ["become"]

log = structlog.get_logger("limen.foreground")

_OF_THE_JOURNAL = {"deploy", "rollback", "list", "agreement"}
"""Words of `limen model` that write what the services own."""


def become(args: argparse.Namespace) -> int:
    """Replace this process by ``python -m MODULE``, with the settings in its environment."""
    settings = config.load(args.config)
    env = environment(settings, config.find(args.config))
    words = [*args.words, *args.rest]
    if args.module in PROCESSES or set(words[:2]) & _OF_THE_JOURNAL:
        act_as_owner(settings)
    if args.module == "web":
        words = _web(settings, env, words, args.config)
    elif args.debug:  # parsed with our own options; web has none
        words.append("--debug")
    os.execve(sys.executable, [sys.executable, "-m", args.module, *words], env)  # noqa: S606


def _web(settings: Config, env: dict[str, str], words: list[str], file: Path | None) -> list[str]:
    """Return the words of the results server, when all that it needs is there."""
    if words[:1] == ["setup"]:
        node = ["--node", settings.node.name, "--token-file", str(settings.token_file)]
        return ["setup", *node, *words[1:]]
    if not words:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        telemetry.configure(settings.log.level, settings.log.format, "limen-web")
        modes.warn(settings, config.find(file))
        told = how_to_log_in(set_up_web(settings, env, link=sys.stderr.isatty()), file)
        if told and (sys.stderr.isatty() or lines.form_in_use() == "text"):
            say(told, error=True)
        elif told:  # without a link, which only a terminal is shown
            log.info("account.unused", reason=" ".join(told.split()))
    return words
