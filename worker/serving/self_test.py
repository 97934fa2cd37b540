"""The self-test: a model still answers the golden tensors of its bundle as when it was made."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limen import config
from limen.errors import BundleError, Delayed, LimenError
from worker.bundles.bundle import Bundle, load
from worker.bundles.golden import changed
from worker.serving.backends.choice import OF_OPENVINO, installed
from worker.serving.engine import Engine, Lane
from worker.serving.numbers import highest

__all__ = ["ExamplesDiffer", "answers", "check", "golden_check"]


class ExamplesDiffer(BundleError):
    """A bundle says other numbers of its examples than their author."""


def check(
    folder: Path,
    *,
    allow_legacy_h5: bool = False,
    engine: config.Engine | None = None,
    remote: config.RemoteModels | None = None,
    most_bytes: int = 0,
) -> Bundle:
    """Verify a bundle and run its model on the golden tensors and examples.

    Parameters
    ----------
    engine
        As a worker with these settings runs it; None: with every backend that it can have.
    remote
        The server that runs the models of bundles without weights.
    most_bytes
        Memory that this process may have with it: ``worker.max_memory_bytes``; 0: no limit.

    Raises
    ------
    BundleError
        The bundle cannot be loaded, its model answers differently from
        when it was made, or it needs more memory.
    Delayed
        The server that runs its model is away, or runs another one.
    """
    bundle = load(folder, allow_legacy_h5=allow_legacy_h5)
    wanted: list[config.Engine] = [engine] if engine is not None else []
    if engine is None and bundle.remote is not None:
        wanted.append(config.Engine(remote=remote or config.RemoteModels()))
    elif engine is None and bundle.weights_format in OF_OPENVINO:
        wanted.append(config.Engine(backend="openvino", precision="fp32"))
    elif engine is None and installed("tensorflow"):
        wanted.append(config.Engine(backend="tensorflow", precision="fp32"))
    if engine is None and installed("openvino"):
        precisions = sorted(bundle.converted)
        wanted += [config.Engine(backend="openvino", precision=p) for p in precisions]
    for settings in wanted or [config.Engine()]:
        with Engine(bundle, settings) as running:
            golden_check(running, bundle)
            _refuse_too_large(running, bundle, most_bytes)
    return bundle


def _refuse_too_large(engine: Engine, bundle: Bundle, most_bytes: int) -> None:
    """Raise where a model has made this process larger than a worker may be."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    if most_bytes and peak > most_bytes:
        raise BundleError(
            f"model bundle {bundle.folder}: {bundle.weights.name} needs too much memory: with "
            f"{engine.chosen.name} and batches of up to {engine.largest_batch} this process came "
            f"to {peak >> 20} MiB, and a worker may have {most_bytes >> 20} "
            "(worker.max_memory_bytes). Make that larger, engine.max_batch smaller, or the model"
        )


def answers(engine: Engine, bundle: Bundle, tensor: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a model says of tensors: (n, *answer_shape) float32, all of it 0..1.

    Raises
    ------
    BundleError
        It fails on them, or what it says is no probability.
    Delayed
        The server that runs it is away, or runs another one.
    """
    try:
        return engine.answer_and_map(engine.submit(tensor, Lane.PREDICT))
    except Delayed:
        raise
    except LimenError as exc:
        low, high = bundle.scale
        raise BundleError(
            f"model bundle {bundle.folder}: self-test failed: {exc}. {bundle.weights.name} was "
            f"given {low:g} to {high:g} (input.scale), and output.activation = "
            f"{bundle.output.activation!r} follows it; each answer has to be 0 to 1. Where it "
            'gives logits say "sigmoid" or "softmax" there, or limen model new --activation; '
            "where NaN, look for a logarithm or a division by 0 in the model"
        ) from exc


def golden_check(engine: Engine, bundle: Bundle, *, patient: bool = False) -> None:
    """Run the golden tensors and compare with what the model answered when it was made.

    Then the examples, with what their author says.

    Parameters
    ----------
    patient
        Whether the server that runs the model may be away: its backend holds it to the golden
        tensors before it answers anything else.

    Raises
    ------
    BundleError
        It answers differently, by how much, and on how many tensors.
    Delayed
        The server that runs it is away, or runs another one.
    """
    try:
        found = answers(engine, bundle, bundle.golden_tensor)
    except Delayed:
        if patient:
            return
        raise
    chosen = engine.chosen
    both = np.abs(found - bundle.golden_probability)
    difference = both[..., : bundle.outputs]
    apart = ~(difference <= chosen.tolerance)
    wrong = int(apart.reshape(len(apart), -1).any(axis=1).sum())
    if wrong:
        raise BundleError(
            f"model bundle {bundle.folder}: self-test failed with {chosen.name}: {wrong} of "
            f"{len(found)} golden tensors differ by up to {difference.max():.2g}, more than the "
            f"allowed {chosen.tolerance:g}; {_why(bundle) or chosen.remedy}"
        )
    if bundle.map is not None:
        _map_check(both[:, bundle.outputs :], engine, bundle)
    _examples_check(engine, bundle)


def _map_check(difference: NDArray[np.float32], engine: Engine, bundle: Bundle) -> None:
    allowed = engine.chosen.map_tolerance
    wrong = int((~(difference <= allowed)).any(axis=1).sum())
    if wrong:
        assert bundle.map is not None  # noqa: S101 - else there is nothing to check
        raise BundleError(
            f"model bundle {bundle.folder}: self-test failed with {engine.chosen.name}: its own "
            f"map ({bundle.map.output!r}) of {wrong} of {len(difference)} golden tensors differs "
            f"by up to {difference.max():.2g} of its highest cell, more than the allowed "
            f"{allowed:g}; {_why(bundle) or engine.chosen.remedy}"
        )


def _why(bundle: Bundle) -> str:
    """Return what was edited since the golden tensors were answered, and what to do; or nothing."""
    if bundle.golden_made_with is None:
        return ""
    edited = changed(bundle.golden_made_with, bundle.answer_keys)
    if not edited:
        return ""
    return (
        f"bundle.toml was edited since they were answered: {'; '.join(edited)}. Where that is "
        f"right: limen model golden {bundle.folder} --renew; else put it back"
    )


def _examples_check(engine: Engine, bundle: Bundle) -> None:
    if bundle.examples is None:
        return
    edited = changed(bundle.examples.made_with, bundle.tensor_keys)
    if edited:
        raise BundleError(
            f"model bundle {bundle.folder}: bundle.toml was edited since the tensors of its "
            f"examples were made: {'; '.join(edited)}. Make them again from the files: limen "
            f"model golden {bundle.folder} --renew --example FILE --expect NUMBER; or put it back"
        )
    found = highest(answers(engine, bundle, bundle.examples.tensor))[:, : len(bundle.labels)]
    told = bundle.examples.expected
    apart = np.abs(found - told)
    allowed = bundle.examples.tolerance + engine.chosen.tolerance
    wrong = [n for n in range(len(told)) if not np.nanmax(apart[n]) <= allowed]
    if wrong:
        column = int(np.nanargmax(apart[wrong[0]]))
        raise ExamplesDiffer(
            f"model bundle {bundle.folder}: {len(wrong)} of {len(told)} examples differ from the "
            f"numbers of their author with {engine.chosen.name}: example {wrong[0] + 1} is "
            f"{found[wrong[0], column]:.3f}, told {told[wrong[0], column]:.3f} "
            f"({bundle.label_names[column]}; allowed difference {bundle.examples.tolerance:g})"
        )
