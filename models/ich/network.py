"""The network: a small convolutional classifier that decides by its worst cell."""

from __future__ import annotations

from typing import Any

import keras
from keras import layers

__all__ = ["build"]


def build() -> tuple[Any, Any]:
    """Return the classifier, and the same layers with the lesion map as second output.

    Plain Keras layers only, so that the ``.keras`` file loads in safe mode. The
    map is (batch, 28, 28, 1) logits; its maximum carries the decision, which
    keeps small bleeds from being averaged away.
    """
    image = keras.Input((224, 224, 3), name="image")
    x = _block(image, 16, kernel=5, strides=2)
    x = _block(x, 32, strides=2)
    fine = x = _block(x, 32)
    x = _block(x, 64, strides=2)
    middle = x = _block(x, 64)
    x = _block(x, 96, strides=2)
    x = _block(x, 96)
    x = _block(x, 128, strides=2)
    x = _block(x, 128)
    x = layers.UpSampling2D(2)(x)
    x = _block(x, 64, kernel=1)
    x = layers.UpSampling2D(2)(x)
    detail = layers.MaxPooling2D(2)(fine)
    x = _block(layers.Concatenate()([detail, middle, x]), 48)
    cells = layers.Conv2D(1, 1, name="cells")(x)
    top = layers.Concatenate()(
        [
            layers.GlobalMaxPooling2D()(cells),
            layers.GlobalAveragePooling2D()(cells),
            layers.GlobalMaxPooling2D()(x),
        ]
    )
    logit = layers.Dense(1, name="logit")(top)
    probability = layers.Activation("sigmoid", name="any")(logit)
    classifier = keras.Model(image, probability, name="limen_ich")
    trainer = keras.Model(image, {"logit": logit, "cells": cells}, name="trainer")
    return classifier, trainer


def _block(x: Any, filters: int, kernel: int = 3, strides: int = 1) -> Any:
    x = layers.Conv2D(filters, kernel, strides=strides, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.97)(x)
    return layers.ReLU()(x)
