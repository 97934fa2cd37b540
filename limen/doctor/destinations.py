"""The archive, PACS by DICOMweb, templates: asked of the worker, which alone can reach them."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

from limen.doctor.check import Finding, Node, failed, ok, skipped
from limen.doctor.children import ask

__all__ = ["archive"]


def archive(node: Node) -> Iterator[Finding]:
    """Have the archive written to, read, tidied up; DICOMweb servers asked; templates read."""
    places = node.settings.destination
    if not (places.archive.enabled or places.dicomweb or places.hl7):
        yield skipped("no archive, [[destination.dicomweb]] or [[destination.hl7]] is configured")
        return
    if not places.archive.bucket and not node.settings.archive_dir.parent.is_dir():
        yield skipped("not looked at: there is no folder for the archive; see `disk`")
        return
    if find_spec("requests") is None:
        yield skipped("no worker is installed on this host; its archive is looked at on its own")
        return
    for said in ask(node, ["worker", "destinations"], "the worker", 30.0):
        yield ok(said["text"]) if said["ok"] else failed(said["text"], "")
