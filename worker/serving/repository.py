"""The loaded bundles of one process: each that a route names, once, with its engine, for all."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import structlog

from limen.config import Config
from limen.errors import BundleError, NotAnalysable
from limen.result import Result
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.bundles.code import refuse_unless_allowed
from worker.serving.engine import Engine
from worker.serving.self_test import golden_check

__all__ = ["Repository"]

_log = structlog.get_logger(__name__)


class Repository:
    """Bundles with their engines, by the name that a route gives them.

    Parameters
    ----------
    on_lost
        Called when the device that runs a model is lost, from the thread that noticed.

    Raises
    ------
    BundleError
        A bundle is incomplete or altered, or its model fails the self-test: do not start.
    """

    def __init__(self, config: Config, on_lost: Callable[[], object] = lambda: None) -> None:
        self._config = config
        self._loaded: dict[Path, tuple[Bundle, Engine]] = {}
        settings = config.engine
        for route in config.route:
            folder = config.bundle_dir(route.bundle).resolve()
            if folder in self._loaded:
                continue
            began = time.monotonic()
            bundle = bundles.load(folder, allow_legacy_h5=settings.allow_legacy_h5)
            refuse_unless_allowed(bundle.code, allowed=settings.allow_code)
            engine = Engine(bundle, settings, on_lost=on_lost)
            golden_check(engine, bundle, patient=True)
            _log.info(
                "engine.ready",
                bundle=bundle.name,
                version=bundle.version,
                backend=engine.chosen.name,
                seconds=round(time.monotonic() - began, 2),
            )
            self._loaded[folder] = (bundle, engine)
        self._refuse_shadows_of_one_name()

    def get(self, name: str) -> tuple[Bundle, Engine]:
        """Return the bundle that a route names."""
        try:
            return self._loaded[self._config.bundle_dir(name).resolve()]
        except KeyError:
            raise BundleError(f"bundle {name} is not loaded; restart the worker") from None

    def matching(self, result: Result) -> tuple[Bundle, Engine]:
        """Return the bundle that made a result.

        Raises
        ------
        NotAnalysable
            The bundle was replaced since; an explanation by another model would be untrue.
        """
        made_by = result.model
        found = [
            pair
            for pair in self._loaded.values()
            if made_by is not None and made_by.sha256 == pair[0].sha256
        ]
        if made_by is None or not found:
            raise NotAnalysable("the model that made the prediction is no longer configured")
        # A shadow may try the same weights with another threshold.
        return next((p for p in found if p[0].threshold == made_by.threshold), found[0])

    def _refuse_shadows_of_one_name(self) -> None:
        """The folder of a shadow's results is named after its bundle."""
        shadows = [route for route in self._config.route if route.shadow]
        folders = {self._config.bundle_dir(route.bundle).resolve() for route in shadows}
        names = Counter(self._loaded[folder][0].name for folder in folders)
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise BundleError(
                f"two shadow routes run different bundles of the name {', '.join(twice)}; give "
                "one of them another name in its bundle.toml"
            )

    def close(self) -> None:
        """End every engine."""
        for _, engine in self._loaded.values():
            engine.close()
