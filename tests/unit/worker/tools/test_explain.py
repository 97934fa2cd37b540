"""The command for ML engineers: files in, tables and overlays out, an exit code that tells."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from limen.command.edge import FAILED, OK, PARTIAL, USAGE
from tests.support import synthetic
from worker.serving.backends.tensorflow import import_tensorflow
from worker.tools import explain


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMEN_EXPLAIN__SAMPLES", "40")
    monkeypatch.setenv("LIMEN_EXPLAIN__SUPERPIXELS", "12")


@pytest.fixture
def eager_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle with a threshold that every slice reaches."""
    return with_threshold(tiny_bundle, tmp_path / "eager", 0.0)


def with_threshold(bundle: Path, folder: Path, threshold: float) -> Path:
    folder.mkdir()
    for name in ("model.keras", "golden.npz"):
        (folder / name).write_bytes((bundle / name).read_bytes())
    text = (bundle / "bundle.toml").read_text("utf-8")
    text = text.replace("threshold = 0.5", f"threshold = {threshold}")
    (folder / "bundle.toml").write_text(text, "utf-8")
    return folder


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    folder.mkdir()
    synthetic.series(folder, 3)
    return folder


def test_a_folder_becomes_tables_and_overlays(
    study: Path, eager_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = explain.main([str(study), "-o", "out", "--bundle", str(eager_bundle)])
    shown = capsys.readouterr()
    assert code == OK, shown
    assert "positive" in shown.out
    assert "Not for diagnostic use" in shown.out
    with Path("out/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == explain.COLUMNS
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert {row["positive"] for row in rows} == {"true"}
    with Path("out/explanations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == explain.EXPLANATION_COLUMNS
    assert {(row["method"], row["frame"]) for row in rows} == {("LIME, settled", "1")}
    assert [row["poor"] == "true" for row in rows] == [bool(row["poor_reason"]) for row in rows]
    tree = json.loads(Path("out/predictions.json").read_text("utf-8"))
    assert tree["studies"][0]["phase"] == "explanation"
    assert len(list(Path("out/overlays").glob("*-1-lime.png"))) == 3


@pytest.mark.filterwarnings("ignore:Invalid value for VR CS")
def test_what_a_header_or_a_file_name_says_is_never_read_as_markup(
    eager_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "[red]"
    folder.mkdir()
    synthetic.save(synthetic.instance(Modality="[/X]"), folder, os.fsdecode(b"\xff.dcm"))
    (folder / "broken.dcm").write_bytes(bytes(128) + b"DICM")
    code = explain.main([str(folder), "-o", "out", "--bundle", str(eager_bundle)])
    shown = capsys.readouterr()
    assert code == FAILED, shown
    assert "[/X]" in shown.out
    assert f"not read: {folder}/broken.dcm" in shown.out.replace("\n", "")
    assert "Not for diagnostic use" in shown.out
    assert json.loads(Path("out/predictions.json").read_text("utf-8"))["studies"]


def test_an_unreadable_file_makes_it_partial_and_json_says_which(
    study: Path, eager_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.dcm").write_bytes(b"no DICOM")
    (study / "notes.txt").write_text("not an image", "utf-8")
    code = explain.main(
        [str(study), "broken.dcm", "-o", "out", "--bundle", str(eager_bundle)]
        + ["--predict-only", "--json"]
    )
    shown = capsys.readouterr()
    tree = json.loads(shown.out)
    assert code == PARTIAL
    assert shown.err == ""
    assert tree["unreadable"][0]["file"] == "broken.dcm"
    assert tree["skipped_files"] == 1
    assert tree["studies"][0]["phase"] == "prediction"
    assert not Path("out/explanations.csv").exists()


def test_a_study_with_a_file_that_cannot_be_read_is_never_negative(
    study: Path, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (study / "4.dcm").write_bytes(bytes(128) + b"DICM")
    calm = with_threshold(tiny_bundle, tmp_path / "calm", 1.0)
    bundle = ["--bundle", str(calm), "--predict-only", "--json"]
    code = explain.main([str(study), "-o", "out", *bundle])
    (found,) = json.loads(capsys.readouterr().out)["studies"]
    assert (code, found["outcome"]) == (PARTIAL, "partial")
    assert "1 of 4 instances cannot be read" in found["reason"]


@pytest.fixture
def divided_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle with a column for each of two members, which never agree."""
    folder = tmp_path / "divided"
    folder.mkdir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside Keras
        _, keras = import_tensorflow()
        image = keras.Input((32, 32, 3))
        answers = keras.layers.Dense(
            3, "sigmoid", kernel_initializer="zeros",
            bias_initializer=keras.initializers.Constant([0.4, 2.0, -2.0]),
        )  # fmt: skip
        model = keras.Model(image, answers(keras.layers.GlobalAveragePooling2D()(image)))
        model.save(folder / "model.keras")
        tensor = np.zeros((1, 32, 32, 3), np.float32)
        np.savez(folder / "golden.npz", tensor=tensor, probability=model(tensor).numpy())
    digest = hashlib.sha256((folder / "model.keras").read_bytes()).hexdigest()
    text = synthetic.MANIFEST.format(sha256=digest).replace("threshold = 0.5", "threshold = 0.9")
    rule = '[members]\noutputs = [1, 2]\n[study]\nthreshold = 0.5\nchosen = "by hand"\n'
    (folder / "bundle.toml").write_text(text + rule, "utf-8")
    return folder


def test_an_undetermined_study_is_for_people_to_look_at_and_its_highest_slice_is_explained(
    study: Path, divided_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = explain.main([str(study), "-o", "out", "--bundle", str(divided_bundle)])
    shown = " ".join(capsys.readouterr().out.split())
    assert code == PARTIAL, shown
    assert "undetermined 0.599 3/3 the members of the model disagree: 0.12 to 0.88;" in shown
    (found,) = json.loads(Path("out/predictions.json").read_text("utf-8"))["studies"]
    assert [round(p, 2) for p in found["finding"]["members"]] == [0.88, 0.12]
    assert len(found["explanations"]) == len(list(Path("out/overlays").glob("*.png"))) == 1


def test_contents_that_share_a_uid_are_told_by_their_files(
    study: Path, eager_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = synthetic.instance(2, position_mm=-2, StudyDescription="sent again")
    synthetic.save(again, study, "again.dcm")
    code = explain.main([str(study), "-o", "out", "--bundle", str(eager_bundle)])
    assert code == OK, capsys.readouterr()
    for name in ("predictions.csv", "explanations.csv"):
        with Path("out", name).open(encoding="utf-8", newline="") as file:
            files = sorted(Path(row["file"]).name for row in csv.DictReader(file))
        assert files == ["1.dcm", "2.dcm", "3.dcm", "again.dcm"]
    assert len(list(Path("out/overlays").glob("*.png"))) == 4


def test_files_that_give_nothing_fail(eager_bundle: Path) -> None:
    Path("broken.dcm").write_bytes(b"no DICOM")
    code = explain.main(["broken.dcm", "-o", "out", "--bundle", str(eager_bundle), "--json"])
    assert code == FAILED


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["absent", "-o", "out"], "no such file or folder: absent"),
        (["study", "-o", "out", "--bundle", "nothing"], "no model bundle 'nothing'"),
        (["study", "-o", "study/1.dcm", "--bundle", "eager"], "cannot be made"),
        (["study", "-o", "out", "--config", "absent.toml"], "does not exist"),
        (["study", "-o", "out", "--bundle", "study"], "a model bundle is a folder"),
    ],
)
@pytest.mark.usefixtures("study", "eager_bundle")
def test_usage_faults_say_what_is_wrong(
    arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explain.main(arguments) == USAGE
    shown = capsys.readouterr()
    assert text in shown.err
    assert "Traceback" not in shown.err


def test_help_does_not_wait_for_tensorflow_or_pydicom() -> None:
    program = (
        "import sys; from worker.tools import explain, model_tool\n"
        "for main in (explain.main, model_tool.main):\n"
        "    try: main(['--help'])\n"
        "    except SystemExit: pass\n"
        "print([m for m in ('tensorflow', 'pydicom', 'skimage', 'PIL') if m in sys.modules])"
    )
    root = Path(explain.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
