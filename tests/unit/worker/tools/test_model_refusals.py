"""Whatever `limen model new` and `check` refuse, they say what mends it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from limen.errors import BundleError
from tests.support.synthetic import fake_bundle
from worker.serving.engine import Engine
from worker.serving.self_test import golden_check

WORKER = Path(__file__).resolve().parents[4] / "worker"
MODULES = (
    "tools/model_new.py",
    "tools/model_plan.py",
    "tools/model_tasks.py",
    "tools/model_guesses.py",
    "tools/model_inputs.py",
    "tools/model_examples.py",
    "tools/model_golden.py",
    "tools/model_preprocess.py",
    "tools/model_convert.py",
    "serving/self_test.py",
    "serving/keras_file.py",
    "serving/named_inputs.py",
    "serving/backends/choice.py",
    "serving/backends/openvino.py",
    "serving/backends/openvino_file.py",
    "serving/backends/remote.py",
    "bundles/code.py",
    "bundles/bundle.py",
)
MENDS = re.compile(
    r"--[a-z]|limen model|\b(say|give|save|saved|export|install|check|choose|name|leave|put|set|"
    r"make|write|restart|copy|expected|replace|change)\b",
    re.IGNORECASE,
)


def refusals() -> Iterator[tuple[str, str]]:
    """Yield every text that is raised, with where: constants, and the names of what builds it."""
    for module in MODULES:
        tree = ast.parse((WORKER / module).read_text("utf-8"))
        for node in ast.walk(tree):
            if not isinstance(node, ast.Raise) or not isinstance(node.exc, ast.Call):
                continue
            if getattr(node.exc.func, "id", "") not in {"ConfigError", "BundleError"}:
                continue
            parts = [n for argument in node.exc.args for n in ast.walk(argument)]
            said = [
                n.value for n in parts if isinstance(n, ast.Constant) and isinstance(n.value, str)
            ]
            names = [getattr(n, "id", getattr(n, "attr", "")) for n in parts]
            yield f"{module}:{node.lineno}", " ".join([*said, "|", *names])


BUILT_ELSEWHERE = re.compile(
    r"\b(why|question|remedy|fixed|wanted|fault|faults|_why_none|_why_not_openvino|_EXPORTS|_why|exc|"
    r"explained|export|takes)\b"
)
"""Names of texts with what mends it that are put together before they are raised."""


def test_every_refusal_says_what_mends_it() -> None:
    found = list(refusals())
    assert len(found) > 40
    without = [
        (place, text)
        for place, text in found
        if not MENDS.search(text.partition("|")[0])
        and not BUILT_ELSEWHERE.search(text.partition("|")[2])
    ]
    assert without == [], "\n".join(map(str, without))


class _Answers:
    """A model that answers the same, whatever it is shown."""

    def __init__(self, value: float, outputs: int = 1) -> None:
        self._value = value
        self._outputs = outputs

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return np.full((len(batch), self._outputs), self._value, np.float32)


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (_Answers(np.nan), "no probability. .* given 0 to 1 .*--activation; where NaN, look for"),
        (_Answers(np.inf), "no probability"),
        (_Answers(3.5), 'no probability. model.keras was given .* say "sigmoid"'),
        (_Answers(0.5, outputs=2), "self-test failed"),
        (_Answers(0.5), "1 of 1 golden tensors differ by up to 0.49"),
    ],
)
def test_a_model_that_answers_no_probability_fails_its_golden_never_a_study(
    model: _Answers, fault: str
) -> None:
    bundle = fake_bundle()
    with Engine(bundle, backend=model) as engine, pytest.raises(BundleError, match=fault):
        golden_check(engine, bundle)
