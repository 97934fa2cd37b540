"""The loaded bundles of one process: each once, with its engine, for all who ask."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from limen.config import Config
from limen.errors import BundleError, NotAnalysable
from limen.result import Result
from worker.bundles import bundle as bundles
from worker.bundles import versions
from worker.bundles.bundle import Bundle
from worker.bundles.code import refuse_unless_allowed
from worker.serving.engine import Engine
from worker.serving.self_test import golden_check

__all__ = ["Repository"]

_log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Loaded:
    """A bundle with its engine, how many use it, and when the last of them was done with it."""

    bundle: Bundle
    engine: Engine
    users: int = 0
    used_s: float = 0.0


class Repository:
    """Bundles with their engines, by the digest of their files (``versions.digest_of``).

    What the settings name is loaded at once, and stays. Of a folder of versions nothing is:
    ``load`` brings one, beside what is there, and ``drop`` lets it go when nobody uses it any more.

    Parameters
    ----------
    on_lost
        Called when the device that runs a model is lost, from the thread that noticed.

    Attributes
    ----------
    named
        Digests of the bundles that the settings name, by their folders.
    versioned
        Folders of versions that a route names, by the name of their model.

    Raises
    ------
    BundleError
        A bundle is incomplete or altered, or its model fails the self-test: do not start.
    """

    def __init__(self, config: Config, on_lost: Callable[[], object] = lambda: None) -> None:
        self._config = config
        self._on_lost = on_lost
        self._loaded: dict[str, _Loaded] = {}
        self._changed = threading.Condition()
        self._loading = threading.Lock()
        self.named: dict[Path, str] = {}
        self.versioned: dict[str, Path] = {}
        for route in config.route:
            folder = self.folder_of(route.bundle)
            if versions.has_versions(folder):
                self._refuse_two_of_one_name(folder)
                self.versioned[folder.name] = folder
            elif folder not in self.named:
                self.named[folder] = self.load(folder)
        self._refuse_shadows_of_one_name()

    def folder_of(self, name: str) -> Path:
        """Return the folder of what a route names."""
        return self._config.bundle_dir(name).resolve()

    # -- what is there -----------------------------------------------------------------------

    def has(self, digest: str) -> bool:
        """Return whether a bundle is loaded."""
        with self._changed:
            return digest in self._loaded

    def wait_for(self, digest: str, timeout_s: float) -> bool:
        """Wait until a bundle is loaded; return whether it is."""
        with self._changed:
            return self._changed.wait_for(lambda: digest in self._loaded, timeout_s)

    @contextmanager
    def using(self, digest: str) -> Iterator[tuple[Bundle, Engine]]:
        """Yield a bundle with its engine, which nobody closes until the end.

        Raises
        ------
        BundleError
            It is not loaded.
        """
        with self._changed:
            found = self._loaded.get(digest)
            if found is None:
                raise BundleError(f"bundle {digest[:12]} is not loaded; restart the worker")
            found.users += 1
        try:
            yield found.bundle, found.engine
        finally:
            with self._changed:
                found.users -= 1
                found.used_s = time.monotonic()

    def maker_of(self, result: Result) -> str:
        """Return the digest of the loaded bundle that made a result.

        Raises
        ------
        NotAnalysable
            The bundle was replaced since; an explanation by another model would be untrue.
        """
        made_by = result.model
        with self._changed:
            found = [
                (digest, one.bundle)
                for digest, one in self._loaded.items()
                if made_by is not None and made_by.sha256 == one.bundle.sha256
            ]
        if made_by is None or not found:
            raise NotAnalysable("the model that made the prediction is no longer configured")
        # A shadow may try the same weights with another threshold.
        found.sort(
            key=lambda one: (
                one[1].threshold != made_by.threshold,
                one[1].version != made_by.version,
            )
        )
        return found[0][0]

    # -- coming and going ----------------------------------------------------------------------

    def load(self, folder: Path, digest: str = "", *, patient: bool = True) -> str:
        """Load a bundle, warm it and let it pass its self-test; nothing happens if it is there.

        Parameters
        ----------
        digest
            Of what was deployed, where the folder is that of a version; empty: whatever is there.
        patient
            Whether a server that runs the model may be away: studies wait for it then.

        Returns
        -------
        str
            Its digest.

        Raises
        ------
        BundleError
            It is incomplete, altered or not what was deployed, or its model fails the self-test.
        Delayed
            The server that runs it is away, and nobody is patient.
        """
        with self._loading:
            if digest and self.has(digest):
                return digest
            began, settings = time.monotonic(), self._config.engine
            allowed = settings.allow_legacy_h5
            if digest:
                where = (folder.parent, folder.name, digest)
                bundle = versions.load_version(*where, allow_legacy_h5=allowed)
            else:
                bundle = bundles.load(folder, allow_legacy_h5=allowed)
                digest = versions.digest_of(folder)
            if self.has(digest):
                return digest
            refuse_unless_allowed(bundle.code, allowed=settings.allow_code)
            # A model that is only being tried takes no worker with it.
            lost = lambda: self._on_lost() if self.has(digest) else None  # noqa: E731
            engine = Engine(bundle, settings, on_lost=lost)
            try:
                golden_check(engine, bundle, patient=patient)
            except BaseException:
                engine.close()
                raise
            with self._changed:
                self._loaded[digest] = _Loaded(bundle, engine, used_s=time.monotonic())
                self._changed.notify_all()
            _log.info(
                "engine.ready",
                bundle=bundle.name,
                version=bundle.version,
                backend=engine.chosen.name,
                seconds=round(time.monotonic() - began, 2),
            )
            return digest

    def drop(self, keep: Collection[str], idle_s: float) -> None:
        """Let go what nobody has used for some time; what the settings name stays.

        Parameters
        ----------
        keep
            Digests of what stays, too.
        """
        now_s = time.monotonic()
        with self._changed:
            gone = {
                digest: one
                for digest, one in self._loaded.items()
                if not one.users and digest not in keep and digest not in self.named.values()
                if now_s - one.used_s >= idle_s
            }
            for digest in gone:
                del self._loaded[digest]
        for one in gone.values():
            one.engine.close()
            _log.info("engine.dropped", bundle=one.bundle.name, version=one.bundle.version)

    def close(self) -> None:
        """End every engine."""
        with self._changed:
            found = list(self._loaded.values())
            self._loaded.clear()
        for one in found:
            one.engine.close()

    def _refuse_two_of_one_name(self, folder: Path) -> None:
        """What is deployed is known by the name of the model alone."""
        other = self.versioned.get(folder.name, folder)
        if other != folder:
            raise BundleError(
                f"two routes name folders of versions that are called {folder.name}: {other} and "
                f"{folder}; let them name the same one, or rename one and its bundles"
            )

    def _refuse_shadows_of_one_name(self) -> None:
        """The folder of a shadow's results is named after its bundle."""
        shadows = {self.folder_of(r.bundle) for r in self._config.route if r.shadow}
        names = Counter(
            self._loaded[self.named[folder]].bundle.name if folder in self.named else folder.name
            for folder in shadows
        )
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise BundleError(
                f"two shadow routes run different bundles of the name {', '.join(twice)}; give "
                "one of them another name in its bundle.toml"
            )
