"""The command for ML engineers: files in, tables and overlays out, an exit code that tells."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.worker import synthetic
from worker import files


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIMEN_EXPLAIN__SAMPLES", "40")
    monkeypatch.setenv("LIMEN_EXPLAIN__SUPERPIXELS", "12")


@pytest.fixture
def eager_bundle(tiny_bundle: Path, tmp_path: Path) -> Path:
    """The tiny bundle with a threshold that every slice reaches."""
    folder = tmp_path / "eager"
    folder.mkdir()
    for name in ("model.keras", "golden.npz"):
        (folder / name).write_bytes((tiny_bundle / name).read_bytes())
    text = (tiny_bundle / "bundle.toml").read_text("utf-8")
    (folder / "bundle.toml").write_text(text.replace("threshold = 0.5", "threshold = 0.0"), "utf-8")
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
    code = files.main([str(study), "-o", "out", "--bundle", str(eager_bundle)])
    shown = capsys.readouterr()
    assert code == files.OK, shown
    assert "positive" in shown.out
    assert "Not for diagnostic use" in shown.out
    with Path("out/predictions.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == files.COLUMNS
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert {row["positive"] for row in rows} == {"true"}
    with Path("out/explanations.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == files.EXPLANATION_COLUMNS
    assert {(row["method"], row["frame"]) for row in rows} == {("LIME, settled", "1")}
    assert [row["poor"] == "true" for row in rows] == [bool(row["poor_reason"]) for row in rows]
    tree = json.loads(Path("out/predictions.json").read_text("utf-8"))
    assert tree["studies"][0]["phase"] == "explanation"
    assert len(list(Path("out/overlays").glob("*-1-lime.png"))) == 3


def test_an_unreadable_file_makes_it_partial_and_json_says_which(
    study: Path, eager_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.dcm").write_bytes(b"no DICOM")
    (study / "notes.txt").write_text("not an image", "utf-8")
    code = files.main(
        [str(study), "broken.dcm", "-o", "out", "--bundle", str(eager_bundle)]
        + ["--predict-only", "--json"]
    )
    shown = capsys.readouterr()
    tree = json.loads(shown.out)
    assert code == files.PARTIAL
    assert shown.err == ""
    assert tree["unreadable"][0]["file"] == "broken.dcm"
    assert tree["skipped_files"] == 1
    assert tree["studies"][0]["phase"] == "prediction"
    assert not Path("out/explanations.csv").exists()


def test_files_that_give_nothing_fail(eager_bundle: Path) -> None:
    Path("broken.dcm").write_bytes(b"no DICOM")
    code = files.main(["broken.dcm", "-o", "out", "--bundle", str(eager_bundle), "--json"])
    assert code == files.FAILED


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
    assert files.main(arguments) == files.USAGE
    shown = capsys.readouterr()
    assert text in shown.err
    assert "Traceback" not in shown.err


def test_help_does_not_wait_for_tensorflow_or_pydicom() -> None:
    program = (
        "import sys; from worker import files, model_tool\n"
        "for main in (files.main, model_tool.main):\n"
        "    try: main(['--help'])\n"
        "    except SystemExit: pass\n"
        "print([m for m in ('tensorflow', 'pydicom', 'skimage', 'PIL') if m in sys.modules])"
    )
    root = Path(files.__file__).resolve().parent.parent
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "[]"
