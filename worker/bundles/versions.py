"""A folder of versions: the bundles of one model, each in a folder that its version names.

A route may name such a folder, which holds no ``bundle.toml`` itself. Which version looks at a
study is no matter of the settings then: it is deployed (``limen.journal.deployments``), under the
digest of all files that its manifest names.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limen.errors import BundleError
from worker.bundles.bundle import Bundle, load, sha256_of
from worker.bundles.manifest import MANIFEST, read_toml

__all__ = ["digest_of", "has_versions", "load_version", "size_of", "versions"]


def has_versions(folder: Path) -> bool:
    """Return whether a folder is one of versions, and no bundle itself."""
    return not (folder / MANIFEST).exists() and bool(versions(folder))


def versions(folder: Path) -> list[str]:
    """Return the versions in a folder, in the order in which people count: 0.9, 0.10."""
    found = (path.parent.name for path in folder.glob(f"[!.]*/{MANIFEST}"))
    return sorted(found, key=lambda name: [(not p.isdigit(), p.zfill(9)) for p in _parts(name)])


def load_version(
    folder: Path, version: str, digest: str = "", *, allow_legacy_h5: bool = False
) -> Bundle:
    """Verify a version of a model without running it.

    Parameters
    ----------
    folder
        Of all versions; it is called as its bundles are.
    digest
        Of what was deployed; empty: whatever is there.

    Raises
    ------
    BundleError
        It is not there, is another model or version than its place says, cannot be used, or is
        not what was deployed.
    """
    where = folder / version
    if not (where / MANIFEST).is_file():
        there = ", ".join(versions(folder)) or "none"
        raise BundleError(f"{folder} has no version {version} (there: {there})")
    bundle = load(where, allow_legacy_h5=allow_legacy_h5)
    for key, found, wanted in (
        ("name", bundle.name, folder.name),
        ("version", bundle.version, version),
    ):
        if found != wanted:
            raise BundleError(
                f"model bundle {where} cannot be used:\n  {MANIFEST}: {key}: is {found!r}, but its "
                f"folder says {wanted!r}; let both say the same: MODEL/VERSION/{MANIFEST}"
            )
    found = digest_of(where)
    if digest not in {"", found}:
        raise BundleError(
            f"the files of {where} are not those that were deployed as {version} (digest "
            f"{found[:12]}, deployed {digest[:12]}); copy the whole folder from where it was "
            "deployed, or deploy these files under a version of their own"
        )
    return bundle


def digest_of(folder: Path) -> str:
    """Return the SHA-256 of a bundle: of the names and contents of all files that it is made of.

    Raises
    ------
    BundleError
        One of them cannot be read.
    """
    try:
        lines = [f"{sha256_of(path)}  {path.name}\n" for path in _files(folder)]
    except OSError as exc:
        raise BundleError(f"a file of {folder} cannot be read: {exc.strerror}") from exc
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def size_of(folder: Path) -> int:
    """Return the bytes of the files that a bundle is made of; what is not there counts nothing."""
    return sum(path.stat().st_size for path in _files(folder) if path.is_file())


def _files(folder: Path) -> list[Path]:
    """Return the manifest, and whatever file it names."""
    names = [MANIFEST, *_named(read_toml(folder))]
    # OpenVINO keeps the constants of a network beside it.
    names += [str(Path(name).with_suffix(".bin")) for name in names if name.endswith(".xml")]
    return sorted(folder / name for name in set(names))


def _named(tree: Mapping[str, Any]) -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _named(value)
        elif key == "file" and isinstance(value, str):
            yield value


def _parts(name: str) -> list[str]:
    return re.findall(r"\d+|\D+", name)
