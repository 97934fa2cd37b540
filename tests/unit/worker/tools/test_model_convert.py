"""``limen model convert``: files for OpenVINO that are the same model, and say so."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen import config
from limen.command.edge import OK, USAGE
from limen.errors import BundleError, ConfigError
from tests.support import synthetic
from tests.support.services import REPOSITORY
from worker.bundles import bundle as bundles
from worker.serving import conversion
from worker.serving.backends.tensorflow import import_tensorflow
from worker.serving.engine import Engine, Lane
from worker.tools import model_tool
from worker.tools.model_convert import convert, read_tensors


@pytest.fixture
def copy(tiny_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle, tmp_path / "bundle"))


def without_openvino(folder: Path) -> dict[str, Any]:
    tree = tomllib.loads((folder / "bundle.toml").read_text("utf-8"))
    tree.pop("openvino", None)
    return tree


def test_the_files_are_pinned_with_what_was_measured(converted_bundle: Path) -> None:
    tree = tomllib.loads((converted_bundle / "bundle.toml").read_text("utf-8"))["openvino"]
    for precision in ("fp32", "int8"):
        table, network = tree[precision], converted_bundle / f"model-{precision}.xml"
        assert table["file"] == network.name
        assert table["sha256"] == hashlib.sha256(network.read_bytes()).hexdigest()
        weights = network.with_suffix(".bin").read_bytes()
        assert table["weights_sha256"] == hashlib.sha256(weights).hexdigest()
        assert table["tensors"] == 20 + 3
    assert 0 <= tree["fp32"]["max_probability_difference"] <= 1e-5
    assert tree["fp32"]["same_decision"] == 1
    assert tree["int8"]["max_probability_difference"] > tree["fp32"]["max_probability_difference"]


def test_what_was_measured_is_what_the_engine_does(converted_bundle: Path) -> None:
    given = np.random.default_rng(4).integers(0, 256, (40, 32, 32, 3), np.uint8)
    compared = given[1::2].astype(np.float32) / 255
    bundle = bundles.load(converted_bundle)
    compared = np.concatenate([bundle.golden_tensor, compared])
    answers = []
    for settings in (
        config.Engine(backend="tensorflow"),
        config.Engine(backend="openvino", precision="int8"),
    ):
        with Engine(bundle, settings) as engine:
            answers.append(engine.submit(compared, Lane.PREDICT).result(20))
    told = bundle.converted["int8"].max_probability_difference
    assert np.abs(answers[0] - answers[1]).max() == pytest.approx(told, rel=0.01)


def test_every_other_line_of_the_manifest_is_kept(copy: Path) -> None:
    manifest = copy / "bundle.toml"
    text = "# mine\n" + manifest.read_text("utf-8").replace(
        "[[metrics]]", "# Written by hand.\n[[metrics]]"
    )
    manifest.write_text(text + "\n# the end\n", "utf-8")
    before = without_openvino(copy)
    convert(copy)
    once = manifest.read_text("utf-8")
    assert without_openvino(copy) == before
    assert [line for line in text.splitlines() if line and line not in once.splitlines()] == []
    assert once.index("[openvino.fp32]") < once.index("# Written by hand.\n[[metrics]]")
    convert(copy)
    # TensorFlow counts its functions, and their names are in the file.
    kinds = [re.sub(r"[0-9a-f]{64}", "", text) for text in (once, manifest.read_text("utf-8"))]
    assert kinds[0] == kinds[1]


def test_a_second_conversion_replaces_the_first_and_keeps_the_gate(copy: Path) -> None:
    with (copy / "bundle.toml").open("a", encoding="utf-8") as file:
        file.write("\n[openvino]\ngate = 0.3\n")
    convert(copy, int8=True)
    assert (copy / "model-int8.xml").is_file()
    assert bundles.load(copy).converted["int8"].exact_enough
    convert(copy)
    tree = tomllib.loads((copy / "bundle.toml").read_text("utf-8"))["openvino"]
    assert tree["gate"] == 0.3
    assert "int8" not in tree
    assert not list(copy.glob("model-int8.*"))


def test_files_of_older_weights_do_not_stand_in_the_way(converted_bundle: Path, copy: Path) -> None:
    text = (converted_bundle / "bundle.toml").read_text("utf-8")
    made_from = text.split('made_from = "')[1][:64]
    stale = text.replace(f'made_from = "{made_from}"', f'made_from = "{"0" * 64}"')
    (copy / "bundle.toml").write_text(stale, "utf-8")
    with pytest.raises(BundleError):
        bundles.load(copy)
    convert(copy)
    assert list(bundles.load(copy).converted) == ["fp32"]


ADDED = """
[output]
activation = "{activation}"
inverted = {inverted}

[calibration]
temperature = 1.7
"""


@pytest.mark.parametrize(
    ("units", "activation", "inverted", "scale"),
    [
        (1, "sigmoid", "true", "[-1, 1]"),
        (1, "sigmoid", "false", "[0, 3]"),
        (2, "softmax", "false", "[0, 1]"),
    ],
)
def test_what_goes_around_the_model_is_inside_the_files(
    tmp_path: Path, units: int, activation: str, inverted: str, scale: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _make_raw(tmp_path, units)
    manifest = tmp_path / "bundle.toml"
    text = manifest.read_text("utf-8").replace("[input]", f"[input]\nscale = {scale}")
    if units == 2:
        text = text.replace(
            "[decision]",
            '[[label]]\nname = "other"\nmeaning = "Other"\ncode = ["1", "99LIMEN"]\n\n[decision]',
        )
    manifest.write_text(text + ADDED.format(activation=activation, inverted=inverted), "utf-8")
    convert(tmp_path)
    bundle = bundles.load(tmp_path)
    answers = []
    for backend in ("tensorflow", "openvino"):
        with Engine(bundle, config.Engine(backend=backend)) as engine:
            answers.append(engine.submit(bundle.golden_tensor, Lane.PREDICT).result(20))
    np.testing.assert_allclose(answers[0], answers[1], atol=1e-5)
    assert np.ptp(answers[0]) > 0


def _make_raw(folder: Path, units: int) -> None:
    """Write a bundle whose model ends without an activation."""
    _, keras = import_tensorflow()
    keras.utils.set_random_seed(3)
    image = keras.Input((32, 32, 3))
    found = keras.layers.Conv2D(4, 5, strides=4, activation="relu")(image)
    found = keras.layers.GlobalMaxPooling2D()(found)
    keras.Model(image, keras.layers.Dense(units)(found)).save(folder / "model.keras")
    rng = np.random.default_rng(2)
    tensor = rng.random((5, 32, 32, 3), dtype=np.float32) * rng.random((5, 1, 1, 1), np.float32)
    probability = np.full((5, units), 0.5, np.float32)
    np.savez(folder / "golden.npz", tensor=tensor, probability=probability)
    digest = hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    (folder / "bundle.toml").write_text(synthetic.MANIFEST.format(sha256=digest), "utf-8")


def test_a_conversion_that_answers_differently_writes_nothing(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = conversion._answers
    monkeypatch.setattr(conversion, "_answers", lambda *args: original(*args) + 2e-4)
    before = {path.name: path.read_bytes() for path in copy.iterdir()}
    with pytest.raises(BundleError, match="nothing was written"):
        convert(copy)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == before


@pytest.mark.parametrize(
    ("tensor", "fault"),
    [
        (np.zeros((2, 32, 32, 1), np.uint8), "shape"),
        (np.zeros((0, 32, 32, 3), np.uint8), "shape"),
        (np.full((2, 32, 32, 3), 7, np.float32), r"0\.\.1"),
        (np.zeros((2, 32, 32, 3), np.float64), "float32"),
    ],
)
def test_tensors_that_are_not_the_models_input_are_refused(
    tmp_path: Path, tensor: np.ndarray, fault: str
) -> None:
    np.savez(tmp_path / "x.npz", tensor=tensor)
    with pytest.raises(ConfigError, match=fault):
        read_tensors(tmp_path / "x.npz", (32, 32, 3))


def test_a_file_without_tensors_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(b"no")
    with pytest.raises(ConfigError, match="array 'tensor'"):
        read_tensors(tmp_path / "x.npz", (32, 32, 3))


def test_the_command_tells_what_it_made(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", tensor=np.full((4, 32, 32, 3), 128, np.uint8))
    given = ["--calibrate", str(tmp_path / "x.npz"), "--json"]
    assert model_tool.main(["convert", str(copy), *given]) == OK
    (variant,) = json.loads(capsys.readouterr().out)["variants"]
    assert (variant["precision"], variant["tensors"]) == ("fp32", 5)
    assert variant["exact_enough"]
    assert model_tool.main(["check", str(copy)]) == OK
    assert model_tool.main(["convert", str(copy), "--calibrate", str(tmp_path / "no.npz")]) == USAGE


def test_a_conversion_calls_nobody_and_leaves_nothing_at_home(copy: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    child = (
        "import sys\n"
        "from pathlib import Path\n"
        "def refuse(name, args):\n"
        "    if name in {'socket.connect', 'socket.getaddrinfo', 'socket.sendto'}:\n"
        "        print('called', name, args, file=sys.stderr); sys.stderr.flush()\n"
        "sys.addaudithook(refuse)\n"
        "from worker.tools.model_convert import convert\n"
        "convert(Path(sys.argv[1]), int8=True)\n"
        "assert sys.modules['openvino_telemetry'] is None\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", child, str(copy)],
        env={**os.environ, "HOME": str(home)},
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "called" not in done.stderr
    assert list(home.rglob("*intel*")) == []
    assert (copy / "model-int8.xml").is_file()
