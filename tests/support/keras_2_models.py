"""Models written by a real Keras 2, with what they say: run as a program, FOLDER.

In a process of its own: Keras 2 and Keras 3 are two packages, and both want TensorFlow.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32


def transfer(keras: Any) -> Any:
    """A trunk that is a model, called as a layer, with layers before and behind it."""
    layers = keras.layers
    inside = keras.Input((SIDE, SIDE, 3))
    found = layers.SeparableConv2D(4, 3, activation="relu")(inside)
    found = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(found))
    trunk = keras.Model(inside, layers.LeakyReLU(0.1)(found), name="trunk")
    flipped = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])
    image = keras.Input((SIDE, SIDE, 3))
    seen = trunk(layers.Rescaling(2.0, -1.0)(flipped(image)), training=False)
    seen = layers.SpatialDropout2D(0.1)(seen)
    return keras.Model(image, one(keras)(layers.GlobalAveragePooling2D()(seen)))


def called_twice(keras: Any) -> Any:
    layers = keras.layers
    shared = keras.Sequential(
        [layers.Conv2D(4, 3, input_shape=(SIDE, SIDE, 3)), layers.GlobalMaxPooling2D()]
    )
    image = keras.Input((SIDE, SIDE, 3))
    dark = layers.Rescaling(-1.0, 1.0)(image)
    both = layers.Concatenate()([shared(image), layers.Rescaling(0.5)(shared(dark))])
    return keras.Model(image, one(keras)(both))


def ends_in_a_model(keras: Any) -> Any:
    layers = keras.layers
    head = keras.Sequential([layers.InputLayer((4,)), layers.Dense(3), one(keras)])
    image = keras.Input((SIDE, SIDE, 3))
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(image))
    return keras.Model(image, head(seen))


def in_a_row(keras: Any) -> Any:
    layers = keras.layers
    first = layers.Conv2D(4, 5, strides=4, activation="relu", input_shape=(SIDE, SIDE, 3))
    return keras.Sequential([first, layers.Flatten(), one(keras)])


def names_with_slashes(keras: Any) -> Any:
    """As DenseNet has them."""
    layers = keras.layers
    image = keras.Input((SIDE, SIDE, 3))
    left = layers.Conv2D(4, 3, padding="same", name="conv1/conv")(image)
    both = layers.Concatenate(name="conv1/both")([left, image])
    up = layers.Conv2DTranspose(4, 2, strides=2, name="conv2/up")(layers.MaxPooling2D()(both))
    return keras.Model(image, one(keras)(layers.GlobalMaxPooling2D()(up)))


def slice_after_slice(keras: Any) -> Any:
    layers = keras.layers
    volume = keras.Input((4, SIDE, SIDE, 1))
    each = keras.Sequential([layers.Conv2D(4, 3), layers.GlobalMaxPooling2D()])
    row = layers.TimeDistributed(each)(volume)
    row = layers.Bidirectional(layers.LSTM(3, return_sequences=True))(row)
    return keras.Model(volume, one(keras)(layers.GRU(3)(row)))


def half_precision(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((SIDE, SIDE, 3))
    seen = layers.Conv2D(4, 3, dtype=keras.mixed_precision.Policy("mixed_float16"))(image)
    return keras.Model(image, one(keras)(layers.GlobalMaxPooling2D()(seen)))


def hard_sigmoid(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((SIDE, SIDE, 3))
    seen = layers.Conv2D(4, 3, activation="hard_sigmoid")(image)
    return keras.Model(image, one(keras)(layers.GlobalAveragePooling2D()(seen)))


def operators(keras: Any) -> Any:
    image = keras.Input((SIDE, SIDE, 3))
    seen = keras.layers.GlobalAveragePooling2D()(image / 127.5 - 1.0)
    return keras.Model(image, one(keras)(seen))


def attention(keras: Any) -> Any:
    layers = keras.layers
    image = keras.Input((SIDE, SIDE, 3))
    row = layers.Reshape((-1, 4))(layers.Conv2D(4, 8, strides=8)(image))
    row = layers.MultiHeadAttention(2, 2)(row, row)
    return keras.Model(image, one(keras)(layers.GlobalAveragePooling1D()(row)))


def one(keras: Any) -> Any:
    return keras.layers.Dense(1, activation="sigmoid")


READ: tuple[Callable[[Any], Any], ...] = (
    transfer,
    called_twice,
    ends_in_a_model,
    in_a_row,
    names_with_slashes,
    slice_after_slice,
    half_precision,
)
REFUSED = (hard_sigmoid, operators, attention)


def write(folder: Path) -> None:
    """Write each as NAME.h5 and NAME.keras, with NAME.npz: ``image`` (3, ...), ``said`` (3, 1)."""
    import tf_keras as keras  # noqa: PLC0415

    keras.utils.set_random_seed(18)
    random = np.random.default_rng(18)
    for build in (*READ, *REFUSED):
        model = build(keras)
        for weight in model.weights:
            low, high = (0.5, 2.0) if "variance" in weight.name else (-1.0, 1.0)
            weight.assign(random.uniform(low, high, weight.shape))
        model.compile("adam", "binary_crossentropy", metrics=["AUC"])
        image = random.random((3, *model.input_shape[1:]), dtype=np.float32)
        image *= np.array([0.2, 0.6, 1.0], np.float32).reshape(3, *[1] * (image.ndim - 1))
        for ending in ("h5", "keras"):
            model.save(folder / f"{build.__name__}.{ending}")
        np.savez(folder / f"{build.__name__}.npz", image=image, said=model(image, training=False))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
