"""What differs between an author's notebook and a bundle is named, with the key that mends it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from limen.command.edge import OK
from tests.support import synthetic
from tests.support.onnx_models import Linear
from worker.bundles import bundle as bundles
from worker.dicom.decoder import Decoder
from worker.serving import self_test
from worker.serving.backends.raw import open_raw
from worker.tools import model_tool
from worker.tools.model_difference import Findings, look
from worker.tools.model_examples import Told, read
from worker.tools.model_new import make
from worker.tools.model_plan import Wishes

WINDOWS = ((40.0, 80.0), (80.0, 200.0), (0.0, 3000.0))
SAID = {"scale": (0.0, 1.0), "windows": WINDOWS}
SIDE = 32
SURE = 0.002
PIXEL_MM = 2.0
Array = np.ndarray
Step = Callable[[Array], Array]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five slices of 96 x 128, no two of them alike, with noise that a filter has to deal with."""
    found = tmp_path_factory.mktemp("engineer")
    random = np.random.default_rng(2)
    for number in range(1, 6):
        hu = np.pad(synthetic.head_hu(lesion=number == 2, side=96), ((0, 0), (16, 16)), "edge")
        hu = np.roll(hu, 3 * number, 1)
        hu[20:30, 40:50] += 9 * number
        hu[hu > -900] += random.normal(0, 25, (hu > -900).sum()).astype(np.int16)
        hu[:, :4], hu[:, -9:] = 30, 700  # something at the edges
        synthetic.save(
            synthetic.instance(number, pixels=hu, PixelSpacing=[PIXEL_MM, PIXEL_MM]),
            found,
            f"{number}.dcm",
        )
    return found


def pillow(how: Image.Resampling) -> Step:
    def run(channel: Array) -> Array:
        return np.asarray(Image.fromarray(channel).resize((SIDE, SIDE), how)).clip(0, 1)

    return run


def by_area(channel: Array) -> Array:
    rows, columns = (n // SIDE for n in channel.shape)
    return channel.reshape(SIDE, rows, SIDE, columns).mean(axis=(1, 3))


def by_corner(channel: Array) -> Array:
    return channel[:: channel.shape[0] // SIDE, :: channel.shape[1] // SIDE]


def padded(**how: Any) -> Step:
    return lambda hu: np.pad(hu, ((16, 16), (0, 0)), **how)


def middle(share: float) -> Step:
    def cut(hu: Array) -> Array:
        side = round(hu.shape[0] * share)
        top, left = (hu.shape[0] - side) // 2, (hu.shape[1] - side) // 2
        return hu[top : top + side, left : left + side]

    return cut


USUAL: dict[str, Any] = {
    "part": padded(constant_values=-1000),
    "resize": pillow(Image.Resampling.BILINEAR),
    "normal": lambda tensor, head: tensor,
}


def notebook(folder: Path, number: int, **way: Any) -> Array:
    """Do with a slice what an engineer does in a notebook, with nothing of Limen."""
    how = USUAL | way
    hu = pydicom.dcmread(folder / f"{number}.dcm").pixel_array.astype(np.float32)
    part = how["part"](hu)
    channels = [
        how["resize"](np.clip((part - (c - w / 2)) / w, 0, 1).astype(np.float32))
        for c, w in WINDOWS
    ]
    head = pillow(Image.Resampling.NEAREST)((part > -250).astype(np.float32)) > 0
    return np.asarray(how["normal"](np.stack(channels, -1), head))


def z_score(axes: Any) -> Callable[[Array, Array], Array]:
    return lambda x, head: (x - x.mean(axes)) / x.std(axes)


def z_score_of_head(x: Array, head: Array) -> Array:
    return (x - x[head].mean(0)) / x[head].std(0)


def percentiles(low: float, high: float) -> Callable[[Array, Array], Array]:
    def run(x: Array, head: Array) -> Array:
        a, b = np.percentile(x, (low, high), axis=(0, 1))
        return ((x - a) / (b - a)).clip(0, 1)

    return run


@pytest.fixture(scope="module")
def model(folder: Path) -> Linear:
    return Linear(folder / "model.onnx", (SIDE, SIDE, 3))


WAYS = [
    ({"resize": by_area}, "resize: the mean of the pixels", "--resize area"),
    (
        {"resize": pillow(Image.Resampling.BICUBIC)},
        "resize: bicubic with antialiasing",
        "--resize bicubic-antialias",
    ),
    ({"resize": pillow(Image.Resampling.LANCZOS)}, "resize: Lanczos", "--resize lanczos"),
    (
        {"resize": by_corner},
        "resize: the nearest pixel, by its corner",
        "--resize nearest-corner",
    ),
    ({"part": lambda hu: hu}, "part: the slice stretched", "--crop none --fit stretch"),
    ({"part": middle(1)}, "part: the middle of the slice, as large", "--crop centre"),
    ({"part": middle(0.875)}, "part: the middle of the slice, 7/8", "--crop centre --share 0.875"),
    ({"part": padded(mode="edge")}, "padding: the slice padded: its edge", "--padding edge"),
    ({"part": padded(constant_values=0)}, "padding: the slice padded: 0 HU", "--padding 0.0"),
    (
        {"normal": z_score((0, 1))},
        "normalisation: z-score of each channel over the slice",
        "--normalise z-score",
    ),
    (
        {"normal": z_score(None)},
        "normalisation: z-score of all channels over the slice",
        "--normalise z-score --statistics all",
    ),
    (
        {"normal": percentiles(0.5, 99.5)},
        "normalisation: percentiles 0.5 to 99.5 as 0 to 1 of each channel over the slice",
        "--normalise percentile --percentiles 0.5 99.5",
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def compared(folder: Path, model: Linear, decoder: Decoder) -> Callable[..., Findings]:
    made = make(model.path, folder / "plain", Wishes(**SAID)).bundle
    raw = open_raw(made)

    def run(tolerance: float = SURE, **way: Any) -> Findings:
        told = [Told(folder / f"{n}.dcm", (model(notebook(folder, n, **way)),)) for n in (1, 2, 3)]
        return look(made, read(told, made, decoder), raw, tolerance)

    return run


def test_a_notebook_that_does_the_same_agrees(compared: Callable[..., Findings]) -> None:
    assert compared().agrees


@pytest.mark.parametrize(("way", "step", "remedy"), WAYS, ids=[remedy for *_, remedy in WAYS])
def test_each_step_that_a_key_can_say_is_named_with_its_option(
    compared: Callable[..., Findings], way: dict[str, Any], step: str, remedy: str
) -> None:
    findings = compared(**way)
    assert not findings.agrees
    why = findings.why()
    assert step in why
    assert f"-> {remedy}\n" in f"{why}\n", why


def test_z_scores_over_the_head_are_told_from_those_over_the_slice(
    compared: Callable[..., Findings],
) -> None:
    why = compared(0.02, normal=z_score_of_head).why()  # the border of a head is not sharp
    assert "z-score of each channel over the head -> --normalise z-score --over head" in why
    assert "z-score of each channel over the slice" not in why


@pytest.mark.parametrize(("way", "step", "remedy"), WAYS, ids=[remedy for *_, remedy in WAYS])
def test_a_bundle_with_that_option_is_held_to_the_notebook_and_shows_its_tensor(
    folder: Path,
    model: Linear,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    way: dict[str, Any],
    step: str,
    remedy: str,
) -> None:
    made = tmp_path / "made"
    expected = notebook(folder, 2, **way)
    windows = ",".join(f"{centre:g}/{width:g}" for centre, width in WINDOWS)
    words = ["new", str(made), "--from", str(model.path), "--windows", windows, *remedy.split()]
    scale = [] if "z-score" in remedy else ["--scale", "0", "1"]
    example = ["--example", str(folder / "2.dcm"), "--expect", f"{model(expected):.6f}"]
    assert model_tool.main([*words, *scale, *example, "--example-tolerance", str(SURE)]) == OK
    assert self_test.check(made).examples is not None
    tensor = tmp_path / "tensor.npy"
    shown = ["preprocess", str(folder / "2.dcm"), "--bundle", str(made), "-o", str(tensor)]
    assert model_tool.main(shown) == OK
    capsys.readouterr()
    given = np.load(tensor)[0].transpose(1, 2, 0)
    np.testing.assert_allclose(given, expected, atol=1e-4)


# -- neighbours ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "step", "remedy"),
    [
        ((1, 1, 2), "neighbours: the last slice repeated at the ends", "--edges repeat"),
        ((2, 1, 2), "", ""),  # as it ships: mirrored
        ((3, 2, 1), "neighbours: from the head to the feet", "--direction down"),
    ],
)
def test_what_stands_in_at_the_ends_and_the_order_of_neighbours_are_named(
    folder: Path,
    decoder: Decoder,
    tmp_path: Path,
    order: Sequence[int],
    step: str,
    remedy: str,
) -> None:
    model = Linear(tmp_path / "model.onnx", (SIDE, SIDE, 9))
    wishes = Wishes(**SAID, neighbours=1)
    made = make(model.path, tmp_path / "made", wishes).bundle
    tensor = np.concatenate([notebook(folder, n) for n in order], axis=-1)
    told = [Told(folder / f"{order[1]}.dcm", (model(tensor),))]
    findings = look(made, read(told, made, decoder), open_raw(made), SURE)
    assert findings.agrees == (not remedy)
    if remedy:
        assert step in findings.why()
        assert f"-> {remedy}\n" in f"{findings.why()}\n"
        key, value = remedy.removeprefix("--").split()
        said = Wishes(**SAID, neighbours=1, preparation={key: value})
        again = make(model.path, tmp_path / "again", said, examples=told, tolerance=SURE)
        assert bundles.load(again.bundle.folder).examples is not None
