"""Explanations are of what a network has learned: they change when it forgets."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from models.ich import phantom, randomised
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.lime.explain import Settings

FOLDER = Path(phantom.__file__).parent
CHEAP = Settings(samples=60, superpixels=20)


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return bundles.load(FOLDER)


def opened(bundle: Bundle) -> keras.Model:
    return keras.models.load_model(bundle.weights, safe_mode=True, compile=False)


def test_only_the_named_layers_forget_and_the_same_seed_forgets_alike(bundle: Bundle) -> None:
    trained, heads = opened(bundle), randomised.STAGES["the heads that decide"]
    one = randomised.without_weights(opened(bundle), heads, seed=1)
    other = randomised.without_weights(opened(bundle), heads, seed=1)
    for was, now, again in zip(trained.layers, one.layers, other.layers, strict=True):
        same = [
            np.array_equal(*pair) for pair in zip(was.get_weights(), now.get_weights(), strict=True)
        ]
        if was.get_weights():
            assert all(same) is not was.name.startswith(heads), was.name
        for pair in zip(now.get_weights(), again.get_weights(), strict=True):
            np.testing.assert_array_equal(*pair)


def test_an_explanation_of_the_shipped_bundle_does_not_survive_its_weights(bundle: Bundle) -> None:
    surest = bundle.golden_tensor[bundle.golden_probability[:, 0].argmax()]
    rows = randomised.table(bundle, [surest], CHEAP).splitlines()[2:]
    alike = {row.split("|")[1].strip(): float(row.split("|")[2]) for row in rows}
    assert alike["nothing, another seed"] > 0.7
    assert alike["all"] < 0.5


def test_its_section_is_written_once_and_again_in_its_place() -> None:
    page = "# Evaluation\n\n## Texture\n\ntext\n\n## Cost\n\nend\n"
    made = f"{randomised.TITLE}\n\none\n\n"
    once = randomised.with_section(page, made)
    assert once == f"# Evaluation\n\n## Texture\n\ntext\n\n{made}## Cost\n\nend\n"
    again = randomised.with_section(once, made.replace("one", "two"))
    assert again == once.replace("one", "two")
