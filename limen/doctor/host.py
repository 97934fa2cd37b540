"""This host: the settings, who may read the files, the disk."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from limen import config, modes
from limen.doctor.check import Finding, Node, failed, ok, skipped, warning

__all__ = ["cache", "disk", "files", "settings"]

_GB = 1e9


def settings(node: Node) -> Iterator[Finding]:
    """Say which settings hold; whoever got here could read them."""
    variables = sum(name.startswith(config.ENV_PREFIX) for name in os.environ)
    where = str(node.file) if node.file else "no config.toml: every key has its default"
    also = f", and {variables} variables of the environment" if variables else ""
    yield ok(f"{where}{also}; every key is known")


def files(node: Node) -> Iterator[Finding]:
    """Look for what every account of this host may read or change."""
    found = list(modes.exposed(node.settings, node.file))
    for one in found:
        yield failed(f"{one.path} {one.why}", one.remedy)
    if not found:
        count = modes.looked_at(node.settings, node.file)
        yield ok(f"{count} files and folders of settings, data and secrets are closed to others")


def disk(node: Node) -> Iterator[Finding]:
    """Compare what is free with the watermark, and write a file."""
    folder, limit = node.settings.data_dir, node.settings.scp.min_free_bytes
    if not folder.is_dir():
        yield failed(
            f"there is no folder {folder}",
            "start Limen there (`limen up`), or name its settings with --config",
        )
        return
    free, keep = shutil.disk_usage(folder).free, node.settings.free_bytes
    said = f"{free / _GB:.1f} GB free at {folder}"
    if free < limit:
        yield failed(
            f"{said}, less than scp.min_free_bytes ({limit / _GB:.1f} GB): every C-STORE is "
            "answered 0xA700",
            "make room: `limen purge --dry-run` says what may go; or move node.data_dir",
        )
    elif free < keep:
        yield warning(
            f"{said}, less than the {keep / _GB:.1f} GB that retention keeps free: the oldest "
            "studies go before their time",
            "make room, or set retention.days lower",
        )
    else:
        yield ok(f"{said}; the watermark is {limit / _GB:.1f} GB")
    yield from _writable(folder)
    if os.statvfs(folder).f_files and not os.statvfs(folder).f_favail:
        yield failed(f"no inode is left at {folder}", "remove files, or make a larger file system")


def cache(node: Node) -> Iterator[Finding]:
    """Look whether what is fetched from the archive has its folder and its room."""
    folder, limit = node.settings.cache_dir, node.settings.worker.cache_bytes
    if not node.settings.originals_first:
        yield skipped('worker.source is "spool": nothing is fetched to be worked on')
        return
    if node.settings.has_own_archive:
        yield warning(
            f"the archive is {node.settings.archive_dir}, which no other host can read",
            "set destination.archive.bucket, or destination.archive.folder to one that every host "
            "has mounted, before a worker runs elsewhere",
        )
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as exc:
        yield failed(
            f"there is no folder {folder}, and it cannot be made ({exc.strerror})",
            "run this as the account that Limen runs as, and give that account node.data_dir",
        )
        return
    used = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    room = shutil.disk_usage(folder).free + used
    said = f"{used / _GB:.1f} of {limit / _GB:.1f} GB in use at {folder}"
    if room < limit:
        yield warning(
            f"{said}; the disk has room for {room / _GB:.1f} GB only",
            "set worker.cache_bytes lower, or make room",
        )
    else:
        yield ok(said)
    yield from _writable(folder)


def _writable(folder: Path) -> Iterator[Finding]:
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"limen")
            file.flush()
            os.fsync(file.fileno())
    except OSError as exc:
        yield failed(
            f"nothing can be written to {folder} ({exc.strerror})",
            "run this as the account that Limen runs as, and give that account the folder (chown)",
        )
