"""The models of one worker process: each bundle that a route names, loaded once, shared by all."""

from __future__ import annotations

from limen.config import Config
from limen.errors import BundleError, NotAnalysable
from limen.result import Result
from worker import bundle as bundles
from worker.bundle import Bundle
from worker.engine import Engine, golden_check

__all__ = ["Models"]


class Models:
    """Bundles with their engines, by the name that a route gives them.

    Raises
    ------
    BundleError
        A bundle is incomplete or altered, or its model fails the self-test: do not start.
    """

    def __init__(self, config: Config) -> None:
        self._loaded: dict[str, tuple[Bundle, Engine]] = {}
        settings = config.engine
        for route in config.route:
            if route.bundle in self._loaded:
                continue
            bundle = bundles.load(config.bundle_dir(route.bundle))
            engine = Engine(bundle, settings.max_batch, settings.max_wait_ms, settings.max_queue)
            golden_check(engine, bundle)
            self._loaded[route.bundle] = (bundle, engine)

    def get(self, name: str) -> tuple[Bundle, Engine]:
        """Return the bundle that a route names."""
        try:
            return self._loaded[name]
        except KeyError:
            raise BundleError(f"bundle {name} is not loaded; restart the worker") from None

    def matching(self, result: Result) -> tuple[Bundle, Engine]:
        """Return the bundle that made a result.

        Raises
        ------
        NotAnalysable
            The bundle was replaced since; an explanation by another model would be untrue.
        """
        for bundle, engine in self._loaded.values():
            if result.model is not None and result.model.sha256 == bundle.sha256:
                return bundle, engine
        raise NotAnalysable("the model that made the prediction is no longer configured")

    def close(self) -> None:
        """End every engine."""
        for _, engine in self._loaded.values():
            engine.close()
