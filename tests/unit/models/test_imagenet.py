"""Image weights to begin with: read as tensors and as nothing else."""

from __future__ import annotations

import io
import os
import pickle

import numpy as np
import pytest

from models.ich import imagenet, network


@pytest.fixture(scope="module")
def found() -> imagenet.Arrays:
    try:
        return imagenet.weights()
    except imagenet.AbsentWeights as exc:
        pytest.skip(str(exc))


def test_the_arrays_are_those_of_the_paper(found: imagenet.Arrays) -> None:
    assert found["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert found["_blocks.15._project_conv.weight"].shape == (320, 1152, 1, 1)
    assert all(np.isfinite(array).all() for array in found.values())
    # A stem that has learned sees edges: its filters are neither equal nor noise.
    stem = found["_conv_stem.weight"].reshape(32, -1)
    assert stem.std(axis=1).min() > 0
    assert stem.std() > 0.1


def test_the_trunk_begins_with_them(found: imagenet.Arrays) -> None:
    model = network.build()
    (stem,) = model.get_layer("stem").get_weights()
    assert np.array_equal(stem, found["_conv_stem.weight"].transpose(2, 3, 1, 0))
    (deep,) = model.get_layer("block_15_depthwise").get_weights()
    there = found["_blocks.15._depthwise_conv.weight"]
    assert np.array_equal(deep[..., 0], there[:, 0].transpose(1, 2, 0))


def test_a_package_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "_PACKAGE", "no_such_package_at_all")
    with pytest.raises(imagenet.AbsentWeights, match="make train"):
        imagenet.weights()


def test_another_file_is_not_read(found: imagenet.Arrays, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagenet, "SHA256", "0" * 64)
    with pytest.raises(imagenet.AbsentWeights, match="not the file"):
        imagenet.weights()


def test_a_file_that_names_a_function_runs_nothing() -> None:
    with pytest.raises(pickle.UnpicklingError, match="no part of a file of tensors"):
        imagenet._Reader(io.BytesIO(pickle.dumps(os.getcwd))).load()
