"""The self-test: a model still answers the golden tensors of its bundle as when it was made."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from limen import config
from limen.errors import BundleError, LimenError
from worker.bundles.bundle import Bundle, load
from worker.serving.backends.choice import installed
from worker.serving.engine import Engine, Lane

__all__ = ["check", "golden_check"]


def check(
    folder: Path, *, allow_legacy_h5: bool = False, engine: config.Engine | None = None
) -> Bundle:
    """Verify a bundle and run its model on the golden tensors.

    Parameters
    ----------
    engine
        As a worker with these settings runs it; None: with every backend that it can have.

    Raises
    ------
    BundleError
        The bundle cannot be loaded, or its model answers differently from
        when it was made.
    """
    bundle = load(folder, allow_legacy_h5=allow_legacy_h5)
    wanted: list[config.Engine] = [engine] if engine is not None else []
    if engine is None and installed("tensorflow"):
        wanted.append(config.Engine(backend="tensorflow", precision="fp32"))
    if engine is None and installed("openvino"):
        precisions = sorted(bundle.converted)
        wanted += [config.Engine(backend="openvino", precision=p) for p in precisions]
    for settings in wanted or [config.Engine()]:
        with Engine(bundle, settings) as running:
            golden_check(running, bundle)
    return bundle


def golden_check(engine: Engine, bundle: Bundle) -> None:
    """Run the golden tensors and compare with what the model answered when it was made.

    Raises
    ------
    BundleError
        It answers differently, by how much, and on how many tensors.
    """
    try:
        found = engine.answer(engine.submit(bundle.golden_tensor, Lane.PREDICT))
    except LimenError as exc:
        raise BundleError(f"model bundle {bundle.folder}: self-test failed: {exc}") from exc
    chosen = engine.chosen
    difference = np.abs(found - bundle.golden_probability)
    wrong = int((difference > chosen.tolerance).any(axis=1).sum())
    if wrong:
        raise BundleError(
            f"model bundle {bundle.folder}: self-test failed with {chosen.name}: {wrong} of "
            f"{len(found)} golden tensors differ by up to {difference.max():.2g}, more than the "
            f"allowed {chosen.tolerance:g}; {chosen.remedy}"
        )
