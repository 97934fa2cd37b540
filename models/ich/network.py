"""The network: EfficientNet-Lite0, a map of 8 pixels a cell, and members that decide by it."""

from __future__ import annotations

from typing import Any, Final

import keras
from keras import layers

from models.ich import imagenet

__all__ = ["MEMBERS", "build", "hold", "with_map"]

MEMBERS: Final = 3
"""Heads on one trunk, each of which learns from two thirds of the patients."""

_STAGES: Final = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
"""Blocks, kernel, stride of the first, expansion, channels: Tan and Le 2019, Table 1."""

_FINE, _MIDDLE, _COARSE = 2, 4, 6  # stages of 8, 16 and 32 pixels a cell
_FUSED = 64
_RARE = keras.initializers.Constant(-2.0)
_HALF = keras.initializers.Constant(0.5)
_MEAN, _DEVIATION = 0.449, 0.226  # of ImageNet, all colours together


def build(size: tuple[int, int] = (224, 192), *, begun: bool = True) -> Any:
    """Return the classifier, its trunk with the weights of ImageNet.

    Plain Keras layers only, so that the ``.keras`` file loads in safe mode. Output: (batch,
    1 + ``MEMBERS``) probabilities; first that of the mean of the members' logits. The map is
    (batch, rows / 8, columns / 8, members) logits. Its maximum alone, of cells and of 3 x 3 of
    them, decides: small bleeds are not averaged away, and what is the same all over a slice (the
    look of a scanner) has no say of its own.

    Parameters
    ----------
    begun
        False leaves the trunk at random.

    Raises
    ------
    AbsentWeights
        The package with the weights is not installed.
    """
    image = keras.Input((*size, 3), name="image")
    scaled = layers.Rescaling(1 / _DEVIATION, offset=-_MEAN / _DEVIATION, name="scale")(image)
    x = layers.Dropout(0.1)(_fused(_trunk(scaled)))
    logits = []
    for member in range(MEMBERS):
        cell = layers.Conv2D(1, 1, bias_initializer=_RARE, name=f"cells_{member}")(x)
        around = layers.AveragePooling2D(3, 1, "same")(cell)
        worst = [layers.GlobalMaxPooling2D()(part) for part in (cell, around)]
        decide = layers.Dense(1, kernel_initializer=_HALF, name=f"logit_{member}")
        logits.append(decide(layers.Concatenate()(worst)))
    each = layers.Concatenate(name="logit")(logits)
    both = layers.Concatenate(name="mean_and_members")([layers.Average()(logits), each])
    model = keras.Model(image, layers.Activation("sigmoid", name="any")(both), name="limen_ich")
    if begun:
        _begin(model)
    return model


def with_map(classifier: Any) -> Any:
    """Return the same layers with the members' logits and maps as outputs."""
    logits = [classifier.get_layer(f"logit_{n}").output for n in range(MEMBERS)]
    cells = [classifier.get_layer(f"cells_{n}").output for n in range(MEMBERS)]
    outputs = {
        "logit": layers.Concatenate(name="logit")(logits),
        "cells": layers.Concatenate(name="cells")(cells),
    }
    return keras.Model(classifier.input, outputs, name="trainer")


def hold(classifier: Any) -> None:
    """Keep the normalizations of the trunk as ImageNet left them.

    The average of the weights then needs no statistics of its own, and a step costs less.
    """
    for layer in classifier.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = layer.name.startswith("fused")


def _trunk(image: Any) -> list[Any]:
    x = _normalized(image, layers.Conv2D(32, 3, 2, "same", use_bias=False, name="stem"))
    block, channels, stages = 0, 32, []
    for repeats, kernel, first_stride, expansion, out in _STAGES:
        for repeat in range(repeats):
            stride = 1 if repeat else first_stride
            y, name = x, f"block_{block}"
            if expansion > 1:
                wide = channels * expansion
                y = _normalized(y, layers.Conv2D(wide, 1, use_bias=False, name=f"{name}_expand"))
            deep = layers.DepthwiseConv2D(
                kernel, stride, "same", use_bias=False, name=f"{name}_depthwise"
            )
            y = _normalized(y, deep)
            project = layers.Conv2D(out, 1, use_bias=False, name=f"{name}_project")
            y = _normalized(y, project, act=False)
            x = layers.Add()([x, y]) if stride == 1 and channels == out else y
            block, channels = block + 1, out
        stages.append(x)
    return stages


def _fused(stages: list[Any]) -> Any:
    """Return features of 8 pixels a cell that know what is around (Lin et al. 2017)."""

    def narrow(name: str, x: Any) -> Any:
        return layers.Conv2D(_FUSED, 1, use_bias=False, name=name)(x)

    coarse = layers.UpSampling2D(2)(narrow("from_coarse", stages[_COARSE]))
    middle = layers.Add()([narrow("from_middle", stages[_MIDDLE]), coarse])
    fine = layers.Add()([narrow("from_fine", stages[_FINE]), layers.UpSampling2D(2)(middle)])
    x = layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.97, name="fused_1")(fine))
    x = layers.Conv2D(_FUSED, 3, padding="same", use_bias=False, name="fused")(x)
    return layers.ReLU(6.0)(layers.BatchNormalization(momentum=0.97, name="fused_2")(x))


def _normalized(x: Any, convolution: Any, act: bool = True) -> Any:
    name = f"{convolution.name}_norm"
    x = layers.BatchNormalization(epsilon=1e-3, name=name)(convolution(x))
    return layers.ReLU(6.0)(x) if act else x


def _begin(model: Any) -> None:
    """Put the weights of ImageNet into the trunk."""
    found = imagenet.weights()

    def put(layer: str, convolution: str, norm: str, order: tuple[int, ...] = (2, 3, 1, 0)) -> None:
        model.get_layer(layer).set_weights([found[f"{convolution}.weight"].transpose(order)])
        parts = ("weight", "bias", "running_mean", "running_var")
        model.get_layer(f"{layer}_norm").set_weights([found[f"{norm}.{p}"] for p in parts])

    put("stem", "_conv_stem", "_bn0")
    for block in range(sum(stage[0] for stage in _STAGES)):
        ours, theirs = f"block_{block}", f"_blocks.{block}"
        if block:
            put(f"{ours}_expand", f"{theirs}._expand_conv", f"{theirs}._bn0")
        put(f"{ours}_depthwise", f"{theirs}._depthwise_conv", f"{theirs}._bn1", (2, 3, 0, 1))
        put(f"{ours}_project", f"{theirs}._project_conv", f"{theirs}._bn2")
