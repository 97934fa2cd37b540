"""A node for `limen doctor` to look at, and one check of it."""

from __future__ import annotations

from pathlib import Path

from limen import config
from limen.command.supervisor import environment
from limen.doctor.check import Finding, Node, Verdict
from limen.doctor.examination import examine
from limen.doctor.registry import chosen

__all__ = ["fault", "findings", "node_of"]


def node_of(folder: Path, text: str = "") -> Node:
    """Write settings into ``folder`` and return their node; it keeps its data there."""
    file = folder / "config.toml"
    if "[node]" not in text:
        text = f'[node]\ndata_dir = "data"\n{text}'
    file.write_text(text, "utf-8")
    file.chmod(0o600)
    (folder / "data").mkdir(mode=0o700, exist_ok=True)
    settings = config.load(file)
    return Node(settings, file, environment(settings, file))


def findings(node: Node, name: str) -> list[Finding]:
    """Return what a check finds, those that it needs having been made before."""
    made = {one.check.name: one for one in examine(node, chosen([name]))}
    return list(made[name].findings)


def fault(node: Node, name: str, verdict: Verdict = Verdict.FAILED) -> str:
    """Return the text and the next step of the one finding of a verdict."""
    found = findings(node, name)
    (one,) = [f for f in found if f.verdict is verdict] or [None]
    assert one is not None, found
    return f"{one.text} -> {one.next}"
