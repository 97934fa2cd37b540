"""A classifier that PyTorch exported: held to the numbers that PyTorch itself says.

``from_torch/make.py`` says how its files were made; PyTorch is no part of Limen or of its tests.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from limen import config
from limen.command.edge import OK
from worker.bundles import bundle as bundles
from worker.serving.engine import Engine, Lane
from worker.tools import model_tool

MADE = Path(__file__).parent / "from_torch"
SAID = (
    ("--scale", "0", "1"),
    ("--mean", "0.485,0.456,0.406"),
    ("--deviation", "0.229,0.224,0.225"),
)
PARITY = 1e-4


@pytest.mark.parametrize("exporter", ["classic", "dynamo"])
def test_a_classifier_of_pytorch_answers_here_as_it_does_there(
    exporter: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    options = [word for option in SAID for word in option]
    model = MADE / f"{exporter}.onnx"
    assert model_tool.main(["new", "mine", "--from", str(model), *options]) == OK
    assert model_tool.main(["check", "mine"]) == OK
    bundle = bundles.load(Path("mine"))
    assert (bundle.layout, bundle.input_shape) == ("nchw", (40, 40, 3))
    assert bundle.output.activation == "sigmoid"  # it gives a logit
    with np.load(MADE / "answers.npz") as kept:
        images, said = kept["image"], kept["probability"]
    assert np.ptp(said) > 0.9
    tensors = images.astype(np.float32) / 255
    with Engine(bundle, config.Engine(max_batch=8)) as engine:
        found = engine.answer(engine.submit(tensors, Lane.PREDICT))
    difference = np.abs(found - said).max()
    assert difference <= PARITY
