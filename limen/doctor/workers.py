"""The workers: whether each lane has one that is alive, and whether their model still answers."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from limen import __version__
from limen.doctor.check import Finding, Node, failed, ok, skipped, warning
from limen.doctor.children import ask
from limen.errors import LimenError

__all__ = ["model", "workers"]


def workers(node: Node) -> Iterator[Finding]:
    """Look which lanes have a worker that gives signs of life."""
    with node.journal() as opened:
        found = opened.status.workers()
    alive = [worker for worker in found if not worker.late]
    if not alive:
        late = f"; {len(found)} were seen within the hour" if found else ""
        yield failed(f"no worker is alive{late}", "start one: `limen worker`, or `limen up`")
        return
    served = {lane for worker in alive for lane in worker.lanes}
    missing = [lane for lane in node.settings.lanes if lane not in served]
    if missing:
        yield failed(
            f"no worker takes {', '.join(missing)}",
            "start a worker that takes them: `limen worker`, on any host (worker.lanes says which "
            "lanes; destinations are `deliver`, shadows `predict`)",
        )
    else:
        yield ok(f"{len(alive)} alive; every lane has one: {', '.join(sorted(served))}")
    for worker in found:
        who = f"worker {worker.name}"
        if worker.late:
            yield warning(
                f"{who} is dead or cut off, last seen {worker.seen_s:.0f} s ago",
                "look at its log, and start it again; it is forgotten after an hour",
            )
        elif worker.version != __version__:
            yield warning(
                f"{who} is of version {worker.version}, this is {__version__}", "restart it"
            )


def _of(node: Node, bundle: str) -> list[str]:
    """Return what a route names, or the versions that serve where that is a folder of versions."""
    folder = node.settings.bundle_dir(bundle)
    if (folder / "bundle.toml").exists() or not folder.is_dir():
        return [bundle]
    with node.journal() as opened:
        serving = opened.deployments.serving(folder.name)
    return [str(folder / one.version) for one in serving] or [bundle]


def model(node: Node) -> Iterator[Finding]:
    """Verify each bundle that a route names, and run it on its golden tensors."""
    if find_spec("keras") is None and find_spec("openvino") is None:
        yield skipped("no worker is installed on this host; its models are looked at on its own")
        return
    if set(node.settings.worker.lanes) == {"deliver"}:
        yield skipped("the worker of this host only delivers (worker.lanes): it loads no model")
        return
    for bundle in dict.fromkeys(one for r in node.settings.route for one in _of(node, r.bundle)):
        words = ["worker", "model", "check", bundle, "--as-configured", "--json"]
        try:
            said = ask(node, words, f"the check of {bundle}")
        except LimenError as exc:
            yield failed(str(exc), f"`limen model check {bundle}` says more")
            continue
        if said["ok"]:
            yield ok(f"{said['name']} {said['version']} answers its golden tensors as it should")
        else:
            yield failed(str(said["error"]), f"`limen model check {bundle}` looks again")
