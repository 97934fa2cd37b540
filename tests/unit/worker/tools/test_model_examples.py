"""A bundle is held to what its author's own program says, and a difference names its step."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from limen.command.edge import FAILED, OK, USAGE
from limen.errors import BundleError, ConfigError
from tests.support import synthetic
from worker.bundles import bundle as bundles
from worker.bundles.bundle import Bundle
from worker.dicom.decoder import Decoder
from worker.serving import self_test
from worker.serving.backends.raw import Raw, open_raw
from worker.serving.backends.tensorflow import import_tensorflow
from worker.study.tensors import stacked
from worker.tools import model_new, model_tool
from worker.tools.model_convert import convert
from worker.tools.model_difference import Findings, look
from worker.tools.model_examples import Told, read, told, told_in
from worker.tools.model_new import make
from worker.tools.model_plan import Guess, Wishes
from worker.tools.model_steps import Answers, Recipe, others

WINDOWS = ((40.0, 80.0), (80.0, 200.0), (40.0, 380.0))
BACKWARDS = slice(None, None, -1)
INTERCEPT = -1024
SURE = 0.002
SLICES = ("1.dcm", "2.dcm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and two slices, where an engineer would begin."""
    found = tmp_path_factory.mktemp("engineer")
    for number, lesion in enumerate((True, False), start=1):
        hu = synthetic.head_hu(lesion=lesion, side=96)
        hu[20:30, 40:50] += 10 * number
        stored = synthetic.instance(
            number,
            pixels=hu - np.int16(INTERCEPT),
            RescaleIntercept=INTERCEPT,
            PixelRepresentation=0,
        )
        synthetic.save(stored, found, f"{number}.dcm")
    return found


@pytest.fixture(scope="module")
def model(folder: Path) -> Any:
    """A model of a few weights that sees where something is, in which channel, and how bright."""
    _, keras = import_tensorflow()
    keras.utils.set_random_seed(5)
    image = keras.Input((32, 32, 3))
    found = keras.layers.AveragePooling2D(4)(image)
    found = keras.layers.Flatten()(found)
    kernel = keras.initializers.RandomNormal(stddev=0.25, seed=5)
    found = keras.layers.Dense(1, activation="sigmoid", kernel_initializer=kernel)(found)
    made = keras.Model(image, found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made.save(folder / "model.keras")
    return made


@pytest.fixture(scope="module")
def made(folder: Path, model: Any) -> model_new.Made:
    """A bundle that agrees with its author on two slices."""
    return make(
        folder / "model.keras",
        folder / "made",
        Wishes(scale=(0.0, 1.0)),
        examples=author(model, folder),
        tolerance=SURE,
    )


@pytest.fixture(scope="module")
def raw(made: model_new.Made) -> Raw:
    return open_raw(made.bundle)


@pytest.fixture
def mine(made: model_new.Made, folder: Path, tmp_path: Path, monkeypatch: Any) -> Path:
    """A copy of that bundle, in the present folder with the slices."""
    monkeypatch.chdir(tmp_path)
    for name in (*SLICES, "model.keras"):
        shutil.copy(folder / name, tmp_path)
    shutil.copytree(folder / "made", "mine")
    return Path("mine")


def author(
    model: Any,
    folder: Path = Path(),
    *,
    windows: Any = WINDOWS,
    scale: tuple[float, float] = (0, 1),
    order: slice = slice(None),
    stored: bool = False,
    how: Any = Image.Resampling.BILINEAR,
    inverted: bool = False,
) -> list[Told]:
    """Do what an engineer does in a notebook, with nothing of Limen."""
    found = []
    for name in SLICES:
        dataset = pydicom.dcmread(folder / name)
        hu = dataset.pixel_array.astype(np.float32)
        if not stored:
            hu = hu * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
        channels = []
        for centre, width in windows:
            channel = np.clip((hu - (centre - width / 2)) / width, 0, 1).astype(np.float32)
            channels.append(np.asarray(Image.fromarray(channel).resize((32, 32), how)))
        tensor = np.stack(channels, -1)[..., order] * (scale[1] - scale[0]) + scale[0]
        p = float(model(tensor[None].astype(np.float32)).numpy()[0, 0])
        found.append(Told(folder / name, (round(1 - p if inverted else p, 5),)))
    return found


def words(examples: Sequence[Told]) -> list[str]:
    """Return the options that say the same."""
    return [
        word
        for one in examples
        for word in ("--example", str(one.path), "--expect", f"{one.values[0]:.5f}")  # type: ignore[index]
    ]


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "bundle.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), "utf-8")


# -- what a bundle keeps of its examples -----------------------------------------------------------


def test_a_bundle_with_its_authors_numbers_keeps_them_and_says_so(
    made: model_new.Made, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (told_of,) = (guess for guess in made.guesses if guess.key == "examples")
    assert told_of.certain
    assert told_of.why.startswith("the author's numbers within 0.000")
    assert model_tool.main(["check", "mine"]) == OK
    assert "2 examples have the author's number, within 0.002" in capsys.readouterr().out
    assert model_tool.main(["info", "mine", "--json"]) == OK
    card = json.loads(capsys.readouterr().out)["examples"]
    assert (card["count"], len(card["expected"])) == (2, 2)
    assert (card["instances"][0]["rows"], card["instances"][0]["intercept"]) == (96, INTERCEPT)


def test_nothing_that_names_a_patient_is_kept_of_an_example(mine: Path) -> None:
    dataset = pydicom.dcmread("1.dcm")
    everything = b"".join(path.read_bytes() for path in mine.iterdir())
    with np.load(mine / "examples.npz") as arrays:
        everything += b"".join(arrays[name].tobytes() for name in arrays.files)
    for value in (dataset.PatientName, dataset.PatientID, dataset.SOPInstanceUID, "1.dcm"):
        assert str(value).encode() not in everything
        assert str(value).encode("utf-32-le") not in everything


def test_what_the_examples_prove_is_no_guess_any_more(made: model_new.Made) -> None:
    sure = {guess.key for guess in made.guesses if guess.certain}
    assert {"input.windows", "input.scale", "output.activation", "output.inverted"} <= sure
    text = (made.bundle.folder / "bundle.toml").read_text("utf-8")
    assert "scale = [0.0, 1.0]\n" in text
    assert "[accepts]  # guessed" in text


# -- which step differs ----------------------------------------------------------------------------


@pytest.fixture
def compared(
    made: model_new.Made, raw: Raw, decoder: Decoder, model: Any, folder: Path
) -> Callable[..., Findings]:
    def run(**way: Any) -> Findings:
        given = read(author(model, folder, **way), made.bundle, decoder)
        return look(made.bundle, given, raw, SURE)

    return run


@pytest.mark.parametrize(
    ("way", "step", "remedy"),
    [
        ({"scale": (-1, 1)}, "scale: -1 to 1", "--scale -1 1"),
        ({"scale": (0, 255)}, "scale: 0 to 255", "--scale 0 255"),
        ({"order": BACKWARDS}, "channels: in the order", "--windows 40/380,80/200,40/80"),
        (
            {"windows": ((40, 80), (75, 215), (40, 380))},
            "windows: 40/80,75/215,40/380",
            "--windows 40/80,75/215,40/380",
        ),
        ({"inverted": True}, "output: 1 minus the model's answer", "--inverted"),
        ({"stored": True}, "HU: stored values", ""),
        ({"how": Image.Resampling.NEAREST}, "resize: the nearest pixel", "--resize nearest"),
        (
            {"scale": (-1, 1), "order": BACKWARDS},
            "channels: in the order 40/380,80/200,40/80, with scale: -1 to 1",
            "--windows 40/380,80/200,40/80 --scale -1 1",
        ),
    ],
    ids=["-1", "255", "order", "window", "inverted", "stored", "nearest", "two"],
)
def test_a_difference_names_its_step_and_the_option_that_mends_it(
    compared: Callable[..., Findings], way: Any, step: str, remedy: str
) -> None:
    findings = compared(**way)
    assert not findings.agrees
    assert step in findings.why()
    assert (f"-> {remedy}" if remedy else "no key of a bundle says that") in findings.why()


def test_a_number_that_nothing_explains_says_what_comes_nearest(
    made: model_new.Made, raw: Raw, decoder: Decoder, folder: Path
) -> None:
    given = read([Told(folder / "1.dcm", (0.999,))], made.bundle, decoder)
    why = look(made.bundle, given, raw, 1e-4).why()
    assert "example 1: the author's program says 0.999, this bundle" in why
    assert "other ways of preparing it gives the author's number. Nearest is" in why


def test_what_the_examples_agree_with_as_well_stays_a_guess(
    made: model_new.Made, raw: Raw, decoder: Decoder, model: Any, folder: Path
) -> None:
    given = read(author(model, folder), made.bundle, decoder)
    findings = look(made.bundle, given, raw, 0.9)
    guess = Guess("input.scale", "0 to 1", "the usual one", certain=False)
    assert not model_new._proven(guess, findings).certain
    assert "the examples agree with -1 to 1 too" in model_new._proven(guess, findings).why


def test_a_study_is_held_to_its_highest_slice(
    made: model_new.Made, raw: Raw, decoder: Decoder, model: Any, folder: Path, tmp_path: Path
) -> None:
    for name in SLICES:
        shutil.copy(folder / name, tmp_path)
    highest = max(one.values[0] for one in author(model, folder))  # type: ignore[index]
    given = read([Told(tmp_path, (highest,))], made.bundle, decoder)
    findings = look(made.bundle, given, raw, SURE)
    assert findings.agrees
    assert (len(given[0].windows), len(findings.tensor)) == (2, 1)


def test_other_ways_differ_from_the_one_of_the_worker_in_their_step_only(
    made: model_new.Made, decoder: Decoder, folder: Path
) -> None:
    now = Recipe.of(made.bundle)
    (example,) = read([Told(folder / "1.dcm", (0.5,))], made.bundle, decoder)
    (same,) = Answers(made.bundle, [example]).tensors(now)
    slices = [shown.upright for shown in example.slices]
    np.testing.assert_array_equal(same, stacked(slices, made.bundle))
    assert now not in {other.on(now) for other in others(made.bundle)}


def test_a_wrong_guess_is_refused_and_mended_by_the_option_that_is_told(
    mine: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    new = ["new", "other", "--from", "model.keras", *words(author(model, scale=(-1, 1)))]
    assert model_tool.main([*new, "--scale", "0", "1"]) == FAILED
    assert "The step that differs: scale." in capsys.readouterr().err
    assert not Path("other").exists()
    assert model_tool.main(new) == OK  # nothing said: the examples decide
    assert "-1 to 1" in capsys.readouterr().out
    assert bundles.load(Path("other")).scale == (-1, 1)


def test_the_tensor_that_the_model_is_given_is_written_with_a_picture(
    mine: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(mine, "scale = [0.0, 1.0]", "scale = [-1.0, 1.0]")
    run = ["preprocess", "1.dcm", "--bundle", "mine", "-o"]
    assert model_tool.main([*run, "t.npy"]) == OK
    assert "t.npy: 1 x 32 x 32 x 3 float32" in capsys.readouterr().out
    (expected, _) = author(model, scale=(-1, 1))
    assert float(model(np.load("t.npy")).numpy()[0, 0]) == pytest.approx(
        expected.values[0],  # type: ignore[index]
        abs=1e-4,
    )
    with Image.open("t.png") as picture:
        assert picture.size == (3 * 32, 32)
    assert model_tool.main([*run, "t.npy", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["shape"] == [1, 32, 32, 3]
    assert model_tool.main([*run, "t.txt"]) == USAGE
    assert "name it so with -o FILE.npy" in capsys.readouterr().err
    assert model_tool.main([*run, "absent/t.npy"]) == USAGE


# -- after an edit ---------------------------------------------------------------------------------


def test_an_edited_scale_is_named_and_renewed(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_tool.main(["golden", "mine", "--without-examples"]) == OK
    assert "never compared with its author's numbers" in capsys.readouterr().out
    edit(mine, "scale = [0.0, 1.0]", "scale = [-1.0, 1.0]")
    assert model_tool.main(["check", "mine"]) == FAILED
    said = capsys.readouterr().err
    assert "input.scale is [-1.0, 1.0], was [0.0, 1.0]" in said
    assert "limen model golden" in said
    assert "the weights" not in said
    assert model_tool.main(["golden", "mine", "--without-examples"]) == FAILED
    assert "say --renew too" in capsys.readouterr().err
    assert model_tool.main(["golden", "mine", "--renew"]) == OK
    assert "bundle.toml: input.scale is [-1.0, 1.0]" in capsys.readouterr().out
    assert model_tool.main(["golden", "mine"]) == OK


def test_a_wrong_edit_is_refused_by_the_examples_with_what_it_should_be(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (mine / "golden.npz").read_bytes()
    edit(mine, "scale = [0.0, 1.0]", "scale = [0.0, 255.0]")
    assert model_tool.main(["golden", "mine", "--renew"]) == FAILED
    said = capsys.readouterr().err
    assert "-> --scale 0 1" in said
    assert "Nothing was written" in said
    assert (mine / "golden.npz").read_bytes() == before


def test_an_edited_window_asks_for_the_files_of_the_examples(
    mine: Path, model: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(mine, "[80.0, 200.0]", "[75.0, 215.0]")
    with pytest.raises(BundleError, match=r"input\.windows is .* --example FILE --expect"):
        self_test.check(mine)
    assert model_tool.main(["golden", "mine", "--renew"]) == USAGE
    assert "--without-examples" in capsys.readouterr().err
    again = words(author(model, windows=(WINDOWS[0], (75, 215), WINDOWS[2])))
    assert model_tool.main(["golden", "mine", *again, "--json"]) == OK
    assert self_test.check(mine).examples is not None


def test_examples_that_go_and_come_leave_every_other_line(mine: Path, model: Any) -> None:
    before = (mine / "bundle.toml").read_text("utf-8")
    assert model_tool.main(["golden", "mine", "--without-examples"]) == OK
    without = (mine / "bundle.toml").read_text("utf-8")
    assert set(without.splitlines()) < set(before.splitlines())
    assert model_tool.main(["golden", "mine", *words(author(model))]) == OK
    after = (mine / "bundle.toml").read_text("utf-8")
    assert after == before.replace(f"tolerance = {SURE}\n", "tolerance = 0.01\n").rstrip() + "\n"
    assert after.count("[examples]") == 1


def test_examples_stay_where_the_golden_tensors_fit_no_more(mine: Path) -> None:
    edit(mine, "size = [32, 32]", "size = [32, 40]")
    with pytest.raises(BundleError, match=r"golden\.npz: tensor must be .*limen model golden"):
        bundles.load(mine)
    assert model_tool.main(["golden", "mine", "--renew"]) == FAILED
    edit(mine, "size = [32, 40]", "size = [32, 32]")
    assert bundles.load(mine).examples is not None


def test_a_file_for_openvino_made_before_an_edit_is_refused(
    mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_tool.main(["golden", "mine", "--without-examples"]) == OK
    convert(mine)
    edit(mine, "inverted = false", "inverted = true")
    with pytest.raises(BundleError, match=r"openvino\.fp32: was made with another input\.scale"):
        bundles.load(mine)
    assert model_tool.main(["golden", "mine", "--renew"]) == OK
    assert "next: limen model convert mine" in capsys.readouterr().out


def test_altered_examples_are_refused(mine: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with np.load(mine / "examples.npz") as arrays:
        kept = {name: arrays[name] for name in arrays.files}
    np.savez(mine / "examples.npz", **kept | {"expected": 1 - kept["expected"]})
    assert model_tool.main(["check", "mine"]) == FAILED
    said = capsys.readouterr().err
    assert "2 of 2 examples differ from the numbers of their author" in said
    assert "output: 1 minus the model's answer" in said
    np.savez(mine / "examples.npz", tensor=kept["tensor"])
    with pytest.raises(BundleError, match=r"examples\.npz: must be an \.npz file.*--renew"):
        bundles.load(mine)


# -- what is refused -------------------------------------------------------------------------------


def test_examples_and_numbers_come_in_pairs() -> None:
    with pytest.raises(ConfigError, match="give one --expect after each --example"):
        told([Path("1.dcm")], [])


@pytest.mark.parametrize(
    ("name", "values", "fault"),
    [
        ("absent.dcm", (0.5,), "no such file or folder"),
        ("model.keras", (0.5,), r"example model\.keras cannot be read: "),
        ("1.dcm", (0.5, 0.5), "has 2 numbers; give one, of positive"),
        ("1.dcm", {"blood": 0.5}, "'blood' is no label; name one of positive, or none"),
    ],
)
def test_an_example_that_cannot_be_used_is_refused(
    made: model_new.Made, decoder: Decoder, folder: Path, name: str, values: Any, fault: str
) -> None:
    bundle: Bundle = made.bundle
    with pytest.raises(ConfigError, match=fault):
        read([Told(folder / name, values)], bundle, decoder)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "first line must be file,label,value"),
        ("file,value\n1.dcm,0.9\n", "first line must be file,label,value"),
        ("file,label,value\n1.dcm,,93\n", "line 2: value must be a probability"),
    ],
)
def test_a_csv_that_says_something_else_is_refused(tmp_path: Path, text: str, fault: str) -> None:
    (tmp_path / "told.csv").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match=fault):
        told_in(tmp_path / "told.csv")
    with pytest.raises(ConfigError, match=r"absent\.csv cannot be read"):
        told_in(tmp_path / "absent.csv")


def test_a_csv_names_files_beside_it_and_their_labels(tmp_path: Path) -> None:
    text = "file,label,value\n1.dcm,any,0.9\n1.dcm,other,0.2\n2.dcm,,0.1\n"
    (tmp_path / "told.csv").write_text(text, "utf-8")
    assert told_in(tmp_path / "told.csv") == (
        Told(tmp_path / "1.dcm", {"any": 0.9, "other": 0.2}),
        Told(tmp_path / "2.dcm", {"": 0.1}),
    )
