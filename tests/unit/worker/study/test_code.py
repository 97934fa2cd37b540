"""Code of a bundle makes the input of a slice: pinned, allowed by name, and held to its word."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from limen import config
from limen.command.edge import FAILED, OK
from limen.errors import BundleError, Unreadable
from limen.result import Outcome
from tests.support import synthetic
from tests.support.predictions import STAMP, instances, predict
from tests.support.synthetic import BrightBlood, fake_bundle
from worker.bundles import bundle as bundles
from worker.bundles.code import Code
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine
from worker.study.explanation import explain_study
from worker.study.inputs import Coded
from worker.study.tensors import to_tensor
from worker.tools import model_tool

MODEL = Path(__file__).parents[1] / "serving" / "from_torch" / "classic.onnx"
WINDOWS = """
import numpy as np
from PIL import Image

def preprocess(hu, spacing_mm, facts):
    print("nobody hears this")
    channels = []
    for one in hu:
        for centre, width in ((40, 80), (80, 200), (40, 380)):
            window = np.clip((one - (centre - width / 2)) / width, 0, 1).astype(np.float32)
            size = tuple(facts["size"][::-1])
            channels.append(np.asarray(Image.fromarray(window).resize(size, Image.BILINEAR)))
    return np.clip(np.stack(channels, axis=-1), 0, 1)
"""
HU = np.zeros((1, 64, 64), np.float32)


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(1, timeout_s=3.0, memory_bytes=512 << 20, runs_code=True) as running:
        yield running


def code(folder: Path, text: str) -> Code:
    path = folder / "preprocess.py"
    path.write_text(text, "utf-8")
    return Code(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_its_tensor_is_what_the_declaration_would_give_where_it_does_the_same(
    tmp_path: Path, decoder: Decoder
) -> None:
    made = Coded(fake_bundle(code=code(tmp_path, WINDOWS)), decoder)
    hu = synthetic.head_hu(lesion=True, side=64)
    found = made.run(hu[None], 4.0, {"modality": "CT"})
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, to_tensor(hu, fake_bundle()), atol=1e-6)


BODY = "import numpy as np\ndef preprocess(hu, spacing_mm, facts):\n    "


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (f"{BODY}return 1 / 0", r"failed on it \(ZeroDivisionError in line 3\); limen model"),
        (f"{BODY}raise SystemExit", r"failed on it \(SystemExit in line 3\)"),
        (f"{BODY}return hu[0]", r"float32 of shape \(64, 64\); float32 of \(64, 64, 3\) is"),
        (f"{BODY}return np.zeros((64, 64, 3))", "gives float64 of shape"),
        (f"{BODY}return [1, 2]", "gives list; a NumPy array of float32 is expected"),
        (
            f"{BODY}return np.full((64, 64, 3), np.nan, np.float32)",
            "values that are no numbers; look for a division by 0",
        ),
        (
            f"{BODY}return np.full((64, 64, 3), 40, np.float32)",
            "values from 40 to 40; 0 to 1 is expected, and input.scale follows",
        ),
        ("x = 1", r"has no function preprocess\(hu, spacing_mm, facts\)"),
        ("def preprocess(", r"cannot be loaded \(SyntaxError in line 1\)"),
        ("import no_such_library", r"cannot be loaded \(ModuleNotFoundError in line 1\)"),
        (f"{BODY}while True: pass", "it took more than 3 s"),
        (f"{BODY}return np.ones(1 << 31, np.float32)", "it needs more memory than is allowed"),
        (f"{BODY}import os; os._exit(3)", r"it ended the decoder process \(exit code 3\)"),
    ],
    ids=[
        *("raises", "exits", "shape", "dtype", "no array", "NaN", "range", "no function"),
        *("syntax", "import", "time", "memory", "process"),
    ],
)
def test_what_does_not_keep_its_word_is_a_reason(
    text: str, fault: str, tmp_path: Path, decoder: Decoder
) -> None:
    made = Coded(fake_bundle(code=code(tmp_path, text)), decoder)
    with pytest.raises(Unreadable, match=rf"preprocess\.py of its bundle.*{fault}"):
        made.run(HU, None, {})


def test_a_file_that_was_altered_after_the_start_does_not_run(
    tmp_path: Path, decoder: Decoder
) -> None:
    made = Coded(fake_bundle(code=code(tmp_path, WINDOWS)), decoder)
    (tmp_path / "preprocess.py").write_text(f"{WINDOWS}\nprint()")
    with pytest.raises(Unreadable, match="altered after it was verified; restart the worker"):
        made.run(HU, None, {})


def test_without_leave_nothing_of_it_runs(tmp_path: Path) -> None:
    bundle = fake_bundle(code=code(tmp_path, WINDOWS))
    with Decoder(1) as strict, pytest.raises(BundleError, match=r"engine\.allow_code = true"):
        Coded(bundle, strict)


# -- in a study ------------------------------------------------------------------------------------


def test_a_fault_of_it_is_a_reason_in_the_result_and_never_a_negative(
    tmp_path: Path, decoder: Decoder
) -> None:
    text = WINDOWS.replace("    channels = []", "    assert hu.max() < 1100\n    channels = []")
    paths = synthetic.series(tmp_path, 4)
    bright = np.full((64, 64), 1200, np.int16)
    synthetic.save(synthetic.instance(3, position_mm=-3, pixels=bright), tmp_path, "3.dcm")
    bundle = fake_bundle(code=code(tmp_path, text))
    with Engine(bundle, config.Engine(max_wait_ms=0), backend=BrightBlood()) as engine:
        result = predict(paths, decoder, engine, bundle).result
    assert result.outcome is Outcome.PARTIAL
    (bad,) = [image for image in result.images if image.probability is None]
    assert "preprocess.py of its bundle failed on it (AssertionError in line" in bad.reason


def test_a_slice_that_it_prepared_is_explained(tmp_path: Path, decoder: Decoder) -> None:
    bundle = fake_bundle(code=code(tmp_path, WINDOWS))
    paths = synthetic.series(tmp_path, 3, lesion_in=(2,))
    how = config.Explain(samples=60, superpixels=20, max_explained=1)
    with Engine(bundle, config.Engine(max_wait_ms=0), backend=BrightBlood()) as engine:
        result = predict(paths, decoder, engine, bundle).result
        assert result.outcome is Outcome.POSITIVE
        plain = predict(paths, decoder, engine).result
        found = explain_study(
            result, instances(paths), decoder, engine, bundle, how, STAMP
        ).result.explanations
    np.testing.assert_allclose(
        [i.probability["any"] for i in result.images],
        [i.probability["any"] for i in plain.images],
        atol=1e-5,
    )
    assert len(found) == 1
    assert not found[0].poor


# -- in a bundle -----------------------------------------------------------------------------------


def test_a_bundle_with_code_is_made_checked_and_held_to_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(WINDOWS)
    synthetic.save(synthetic.instance(1), Path(), "1.dcm")
    new = ["new", "mine", "--from", str(MODEL), "--scale", "0", "1", "--preprocess", "mine.py"]
    assert model_tool.main(new) == FAILED
    assert "read it, and when you trust it and its author" in capsys.readouterr().err
    assert not Path("mine").exists()
    monkeypatch.setenv("LIMEN_ENGINE__ALLOW_CODE", "true")
    assert model_tool.main(new) == OK
    assert model_tool.main(["check", "mine"]) == OK
    assert model_tool.main(["preprocess", "1.dcm", "--bundle", "mine", "-o", "t.npy"]) == OK
    assert np.load("t.npy").shape == (1, 3, 40, 40)
    monkeypatch.delenv("LIMEN_ENGINE__ALLOW_CODE")
    capsys.readouterr()
    for words in (["check", "mine"], ["preprocess", "1.dcm", "--bundle", "mine", "-o", "t.npy"]):
        assert model_tool.main(words) == FAILED
        assert "set engine.allow_code = true" in capsys.readouterr().err
    with Path("mine/preprocess.py").open("a") as file:
        file.write("# edited\n")
    assert model_tool.main(["check", "mine"]) == FAILED
    assert "the code is not the one that was released: put that file back" in (
        capsys.readouterr().err
    )


def test_code_that_fails_on_a_made_up_head_makes_no_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMEN_ENGINE__ALLOW_CODE", "true")
    Path("mine.py").write_text(WINDOWS.replace("channels = []", "channels = [] if spacing_mm > 0"))
    new = ["new", "mine", "--from", str(MODEL), "--scale", "0", "1", "--preprocess", "mine.py"]
    assert model_tool.main(new) == FAILED
    assert "SyntaxError in line 7" in capsys.readouterr().err
    Path("mine.py").write_text(WINDOWS.replace("channels = []", "spacing_mm * 2; channels = []"))
    assert model_tool.main(new) == FAILED
    assert "made-up head of 256 x 256 pixels, spacing_mm None. Put it right" in (
        capsys.readouterr().err
    )
    assert not Path("mine").exists()


def test_a_key_that_the_code_stands_for_is_refused(tmp_path: Path) -> None:
    text = (Path(__file__).parents[4] / "models" / "ich" / "bundle.toml").read_text("utf-8")
    pinned = f'[preprocess]\nfile = "p.py"\nsha256 = "{"0" * 64}"\n\n[input]\nresize = "area"'
    (tmp_path / "bundle.toml").write_text(text.replace("[input]", pinned, 1))
    with pytest.raises(BundleError, match=r"input\.resize does nothing where p\.py makes"):
        bundles.load(tmp_path)
