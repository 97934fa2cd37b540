"""Do explanations change when the weights do? ``python -m models.ich.randomised``.

The sanity test of Adebayo and others (2018): an explanation that stays the same when the network
forgets what it has learned explains the picture, not the network. Layers are given new weights
from the output backwards, more and more of them, and real positive slices are explained anew.
Writes its section of ``EVALUATION.md``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from scipy.stats import rankdata

from models.ich import dataset, real, release
from models.ich.statistics import predict
from models.ich.train import FOLDER
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.lime.explain import Mode, Settings, SliceExplanation, Tensor, explain

__all__ = ["STAGES", "section", "table", "with_section", "without_weights"]

SLICES: Final = 24
TITLE: Final = "## Explanations of a network that has forgotten"

STAGES: Final = {
    "the heads that decide": ("logit_", "cells_"),
    "and the layers that join the scales": ("logit_", "cells_", "fused", "from_"),
    "and the last third of the trunk": (
        *("logit_", "cells_", "fused", "from_"),
        *(f"block_{n}" for n in range(11, 16)),
    ),
    "all": ("",),
}
"""What forgets, in words -> how the names of its layers begin."""

Explain = Callable[[Tensor, Any, int], SliceExplanation]


def main(argv: list[str] | None = None) -> int:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(prog="python -m models.ich.randomised", description=__doc__)
    parser.add_argument("bundle", type=Path, nargs="?", default=FOLDER, help="folder of the bundle")
    parser.add_argument("--data", type=Path, default=real.DATA, help="folder of the real heads")
    parser.add_argument("--slices", type=int, default=SLICES, help="real positives to explain")
    args = parser.parse_args(argv)
    try:
        real.require(args.data)
    except real.AbsentData as exc:
        sys.stderr.write(f"{exc}\n")
        return 2
    bundle = bundles.load(args.bundle)
    aside = dataset.make_real(args.data, "development")
    model = keras.models.load_model(bundle.weights, safe_mode=True, compile=False)
    made = section(bundle, aside, predict(model, aside.tensor)[:, 0], args.slices)
    page = args.bundle / "EVALUATION.md"
    release.write_text(page, with_section(page.read_text("utf-8"), made))
    sys.stdout.write(made)
    return 0


def section(
    bundle: Bundle, slices: dataset.Slices, p: NDArray[np.float32], count: int = SLICES
) -> str:
    """Return the section of ``EVALUATION.md``.

    Parameters
    ----------
    slices, p
        Real slices, and what the network says of them; so many of the positives that it finds
        are drawn.
    """
    found = np.flatnonzero(slices.label & (p >= bundle.threshold))
    chosen = np.sort(np.random.default_rng(5).permutation(found)[:count])
    tensors = [slices.tensor[n].astype(np.float32) / 255 for n in chosen]
    asked = bundle.explain
    how = Settings(Mode(asked.mode), asked.samples, asked.superpixels)
    return f"""\
{TITLE}

The sanity test of Adebayo and others (2018), on {len(tensors)} real positive slices of the
development heads that the network finds: layers get new weights, drawn as before training, from
the output backwards. Rank correlation (Spearman, over the pixels of the head) of the weights with
those of the trained network: mean, and the middle half; 1 is the same explanation. *Same
strongest*: the same superpixel has the highest weight. What another seed of LIME changes by itself
stands first.

{table(bundle, tensors, how)}

"""


def table(bundle: Bundle, tensors: Sequence[Tensor], how: Settings) -> str:
    """Return how explanations of a network differ from those of what it has forgotten."""
    classifier = _classifier(_open(bundle))
    trained = [explain(one, classifier, 0, how) for one in tensors]
    again = Settings(how.mode, how.samples, how.superpixels, seed=how.seed + 1)
    rows = [_row("nothing, another seed", trained, tensors, classifier, again)]
    for words, names in STAGES.items():
        model = without_weights(_open(bundle), names, seed=1)
        rows.append(_row(words, trained, tensors, _classifier(model), how))
    head = "| what has forgotten | rank correlation | middle half | same strongest | called poor |"
    return "\n".join([head, "| --- | --- | --- | --- | --- |", *rows])


def without_weights(model: Any, names: Sequence[str], seed: int) -> Any:
    """Give the layers whose names begin so new weights, drawn by their own initializers.

    What a normalisation remembers of its training is forgotten, too.
    """
    keras.utils.set_random_seed(seed)
    for layer in model.layers:
        if not layer.name.startswith(tuple(names)) or not layer.weights:
            continue
        fresh = type(layer).from_config(layer.get_config())
        fresh.build(layer.input.shape)
        layer.set_weights(fresh.get_weights())
    return model


def with_section(page: str, made: str) -> str:
    """Return the page with its section replaced, or before the one that tells the cost."""
    before, title, rest = page.partition(TITLE)
    if not title:
        before, mark, rest = page.partition("## Cost")
        return before + made + mark + rest
    _, mark, after = rest.partition("\n## ")
    return before + made + mark.lstrip("\n") + after


def _row(
    words: str,
    trained: Sequence[SliceExplanation],
    tensors: Sequence[Tensor],
    classifier: Callable[[Tensor], NDArray[np.float32]],
    how: Settings,
) -> str:
    found = [explain(one, classifier, 0, how) for one in tensors]
    alike = np.array([_alike(*pair) for pair in zip(trained, found, strict=True)])
    strongest = [[one.weights.argmax() for one in part] for part in (trained, found)]
    same = np.mean(np.equal(*strongest))
    poor = np.mean([bool(one.poor) for one in found])
    low, high = np.quantile(alike, (0.25, 0.75))
    return f"| {words} | {alike.mean():.2f} | {low:.2f} to {high:.2f} | {same:.2f} | {poor:.2f} |"


def _alike(one: SliceExplanation, other: SliceExplanation) -> float:
    """Return the rank correlation of the weights of the pixels; superpixels are the same."""
    inside = one.segments < len(one.weights)
    maps = [found.weights[found.segments[inside]] for found in (one, other)]
    if not all(np.ptp(values) > 0 for values in maps):
        return 0.0
    return float(np.corrcoef(*(rankdata(values) for values in maps))[0, 1])


def _open(bundle: Bundle) -> Any:
    return keras.models.load_model(bundle.weights, safe_mode=True, compile=False)


def _classifier(model: Any) -> Callable[[Tensor], NDArray[np.float32]]:
    forward = tf.function(lambda x: model(x, training=False), autograph=False)
    return lambda tensors: np.asarray(forward(tf.constant(tensors)), np.float32)


if __name__ == "__main__":
    raise SystemExit(main())
