"""Which superpixels each perturbed image keeps: one row of 0 and 1 for each image.

Row 0 is always the slice itself.

Bernoulli
    LIME's own: every superpixel is kept or hidden by the toss of a coin.
Foldover Hadamard
    Rows of a Hadamard matrix, each followed by its complement (Box and Wilson,
    1951). Any two superpixels are hidden together as often as apart, so their
    effects do not stand in for each other; and because each row comes with its
    complement, what two superpixels do only together cancels out of the effect
    of either. Coins give that only on average, and only after many samples.
Alone
    Each superpixel hidden by itself, all others kept.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["FIRST", "Masks", "bernoulli", "beside_alone", "foldover", "hadamard", "units"]

Masks = NDArray[np.bool_]

FIRST: Final = 2
"""Masks before those that hide one superpixel each: the slice itself, and all hidden."""

_RESIDUES_FROM: Final = 4
"""Orders of Hadamard matrices are 1, 2 and multiples of 4."""


def bernoulli(samples: int, superpixels: int, seed: int) -> Masks:
    """Return the masks that lime 0.2.0.1 draws with ``random_state=seed``.

    Returns
    -------
    Masks
        (samples, superpixels) bool, True where a superpixel is kept.
    """
    # The legacy generator, and its default integers, are part of what lime's numbers are.
    drawn = np.random.RandomState(seed).randint(0, 2, samples * superpixels)
    masks: Masks = drawn.reshape(samples, superpixels).astype(bool)
    masks[0] = True
    return masks


def foldover(samples: int, superpixels: int, seed: int) -> Masks:
    """Return balanced masks; rows 0 and 1, 2 and 3 and so on are complements.

    Row 1, the complement of the slice itself, hides every superpixel. Which columns of the
    matrix are used, and the order of its rows, are drawn; when its rows are used up, another
    draw follows.

    Returns
    -------
    Masks
        (samples, superpixels) bool, True where a superpixel is kept.
    """
    rng = np.random.default_rng([seed, superpixels])
    matrix = hadamard(superpixels + 1) > 0
    pairs = np.ones((1, superpixels), bool)
    while 2 * len(pairs) < samples:
        columns = rng.permutation(np.arange(1, len(matrix)))[:superpixels]  # column 0 is constant
        pairs = np.concatenate([pairs, rng.permutation(matrix[1:, columns])])
    masks = np.empty((2 * len(pairs), superpixels), bool)
    masks[::2], masks[1::2] = pairs, ~pairs
    return masks[:samples]


def beside_alone(samples: int, superpixels: int, seed: int) -> tuple[Masks, int]:
    """Return masks of which some hide one superpixel each, and how many of them do.

    The slice itself, all hidden, each superpixel alone, then the pairs of ``foldover``. Where
    the former would take more than half of the samples there are none of them.

    Returns
    -------
    tuple[Masks, int]
        (samples, superpixels) bool, True where a superpixel is kept; ``superpixels`` or 0.
    """
    alone = superpixels if 2 * superpixels <= samples else 0
    balanced = foldover(samples - alone, superpixels, seed)
    each = ~np.eye(superpixels, dtype=bool)[:alone]
    return np.concatenate([balanced[:FIRST], each, balanced[FIRST:]]), alone


def units(samples: int, alone: int) -> NDArray[np.int64]:
    """Return (samples,) int64, which masks of ``beside_alone`` belong together: pairs do."""
    pairs = np.arange(samples - alone) // 2
    single = pairs.max(initial=0) + 1 + np.arange(alone)
    return np.concatenate([pairs[:FIRST], single, pairs[FIRST:]])


def hadamard(least: int) -> NDArray[np.int8]:
    """Return the smallest Hadamard matrix of at least this order that is easily made.

    Paley's first construction (1933) for order q + 1 with q a prime that leaves 3 when
    divided by 4, Sylvester's doubling (1867) for twice an order.

    Returns
    -------
    NDArray
        (order, order) int8, -1 and 1; row and column 0 are all 1.
    """
    order = least if least <= 2 else -(-least // _RESIDUES_FROM) * _RESIDUES_FROM
    while (matrix := _of_order(order)) is None:
        order += _RESIDUES_FROM
    return matrix


def _of_order(order: int) -> NDArray[np.int8] | None:
    """Return the normalised matrix of this order, or None where neither construction gives it."""
    if order <= 1:
        return np.ones((1, 1), np.int8)
    if order == 2 or order % 8 == 0:
        half = _of_order(order // 2)
        if half is not None:
            return np.block([[half, half], [half, -half]])
    prime = order - 1
    if prime % 4 != 3 or any(prime % n == 0 for n in range(2, int(prime**0.5) + 1)):
        return None
    squares = np.zeros(prime, np.int8) - 1
    squares[np.arange(1, prime) ** 2 % prime] = 1
    squares[0] = 0
    place = np.arange(prime)
    matrix = np.ones((order, order), np.int8)
    # I + S with S skew: below the first row of ones, minus the border, minus the diagonal.
    matrix[1:, 1:] = squares[(place[None, :] - place[:, None]) % prime] - np.eye(
        prime, dtype=np.int8
    )
    return matrix
