"""What the trainer writes is a bundle that the worker loads."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from models.ich import release
from models.ich.dataset import INPUT, MAP, Slices
from models.ich.decision import Chosen
from worker.bundles import bundle as bundles
from worker.bundles.manifest import Members, StudyRule

SOURCES = ("real", "graft", "plain", "template", "analytic")


def slices() -> Slices:
    n = 2 * len(SOURCES)
    rng = np.random.default_rng(0)
    text = np.full(n, "")
    return Slices(
        rng.integers(0, 255, (n, *INPUT.size, 3), np.uint8),
        np.zeros((n, *MAP), np.uint8),
        np.arange(n) % 2 == 0,
        np.arange(n),
        text,
        np.zeros(n, np.float32),
        text,
        np.repeat(np.array(SOURCES), 2),
    )


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # keras saves
def test_what_is_written_loads_and_names_its_data_and_their_licences(tmp_path: Path) -> None:
    image = keras.Input((*INPUT.size, 3))
    mean = keras.layers.GlobalAveragePooling2D()(image)
    model = keras.Model(image, keras.layers.Dense(4, activation="sigmoid")(mean))
    learned = slices()
    rule = StudyRule(smooth_mm=3, top=2, scale=1.1, shift=-0.2, threshold=0.3, chosen="so")
    chosen = Chosen(0.4, "thus", rule, Members(outputs=(1, 2, 3), spread=0.35))
    release.write(
        tmp_path, model, calibration=(1.2, -0.5), chosen=chosen, golden=learned, learned=learned
    )
    bundle = bundles.load(tmp_path)
    assert (bundle.threshold, bundle.study, bundle.members) == (0.4, rule, chosen.members)
    assert (bundle.crop, bundle.spacing_mm) == (INPUT.crop, INPUT.spacing_mm)
    assert len(bundle.golden_tensor) == 4
    for word in ("CT-ICH", "CC BY 4.0", "keinos, MIT", "BSD-2", "MNI152", "EfficientNet-Lite0"):
        assert word in bundle.training_data
    assert "not for diagnostic use" in bundle.intended_use.lower()
