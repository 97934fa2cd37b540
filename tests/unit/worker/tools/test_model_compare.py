"""Two bundles over the same files: what differs, slice by slice, and an exit code that tells."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limen.command.edge import FAILED, OK, PARTIAL, USAGE
from limen.result import Outcome
from tests.support import synthetic
from worker.tools import model_tool
from worker.tools.model_compare import Comparison, Row, StudyPair


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study").mkdir()
    synthetic.series(Path("study"), 3)


@pytest.fixture
def pair(tiny_bundle: Path) -> tuple[str, str]:
    """The tiny bundle, and the same one turned round with a threshold that all slices reach."""
    folder = Path("other")
    folder.mkdir()
    (folder / "model.keras").write_bytes((tiny_bundle / "model.keras").read_bytes())
    with np.load(tiny_bundle / "golden.npz") as arrays:
        np.savez(
            folder / "golden.npz", tensor=arrays["tensor"], probability=1 - arrays["probability"]
        )
    text = (tiny_bundle / "bundle.toml").read_text("utf-8").replace('"tiny"', '"other"')
    text = text.replace("threshold = 0.5", "threshold = 0.0")
    text = text.replace("[decision]", "[output]\ninverted = true\n[decision]")
    (folder / "bundle.toml").write_text(text, "utf-8")
    first = Path("first")
    first.mkdir()
    for name in ("model.keras", "golden.npz"):
        (first / name).write_bytes((tiny_bundle / name).read_bytes())
    text = (tiny_bundle / "bundle.toml").read_text("utf-8")
    (first / "bundle.toml").write_text(text.replace("threshold = 0.5", "threshold = 1.0"), "utf-8")
    return str(first), str(folder)


def test_each_slice_has_both_answers_and_the_difference(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    code = model_tool.main(["compare", *pair, "study", "--csv", "out.csv", "--json"])
    assert code == PARTIAL  # three slices are no whole head
    shown = capsys.readouterr()
    assert shown.err == ""
    tree = json.loads(shown.out)
    assert (tree["a"]["name"], tree["b"]["name"]) == ("tiny", "other")
    assert len(tree["slices"]) == 3
    for row in tree["slices"]:
        assert row["probability_b"] == pytest.approx(1 - row["probability_a"], abs=1e-5)
        assert row["difference"] == pytest.approx(row["probability_b"] - row["probability_a"])
        assert (row["positive_a"], row["positive_b"], row["changed"]) == (False, True, True)
    assert tree["summary"]["became_positive"] == 3
    assert tree["summary"]["studies_changed"] == 1
    with Path("out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["changed"] for row in rows] == ["true"] * 3
    assert {row["file"] for row in rows} == {f"study/{n}.dcm" for n in (1, 2, 3)}


def test_people_get_a_table(pair: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with Path(pair[0], "bundle.toml").open("a", encoding="utf-8") as manifest:
        manifest.write('[study]\nthreshold = 0.75\nchosen = "by hand"\n')
    assert model_tool.main(["compare", *pair, "study"]) == PARTIAL
    shown = capsys.readouterr().out
    assert "positive from any >= 1, a study from 0.75\n" in shown
    for text in ("A: tiny 0.1.0", "B: other", "no -> yes", "3 of 3 slices", "Not for diagnostic"):
        assert text in shown


def test_a_bundle_compared_with_itself_differs_in_nothing(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = str(tiny_bundle)
    assert model_tool.main(["compare", same, same, "study", "--json"]) == OK
    summary = json.loads(capsys.readouterr().out)["summary"]
    assert summary["largest_absolute_difference"] == 0
    assert summary["became_positive"] == summary["became_negative"] == 0


def test_an_unreadable_file_makes_it_partial(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("broken.dcm").write_bytes(b"no DICOM")
    same = str(tiny_bundle)
    code = model_tool.main(["compare", same, same, "study", "broken.dcm", "--json"])
    assert code == PARTIAL
    assert json.loads(capsys.readouterr().out)["unreadable"][0]["file"] == "broken.dcm"
    assert model_tool.main(["compare", same, same, "broken.dcm", "--json"]) == FAILED


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["first", "other", "absent"], "no such file or folder: absent"),
        (["first", "nothing", "study"], "no model bundle 'nothing'"),
        (["first", "other", "study", "--csv", "no/out.csv"], "its folder does not exist"),
    ],
)
@pytest.mark.usefixtures("pair")
def test_usage_faults_say_what_is_wrong(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert model_tool.main(["compare", *words]) == USAGE
    assert text in capsys.readouterr().err


def test_the_self_test_of_both_is_run_first(
    pair: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(pair[1], "bundle.toml")
    path.write_text(path.read_text("utf-8").replace("inverted = true", "inverted = false"))
    assert model_tool.main(["compare", *pair, "study"]) == FAILED
    assert "self-test failed" in capsys.readouterr().err


def row(p: float | None, q: float | None, *, positive: tuple[bool, bool] = (False, False)) -> Row:
    both = p is not None and q is not None
    difference = q - p if p is not None and q is not None else None
    place: Any = ("f", "1", "2", "3", 1, None)
    return Row(*place, p, q, difference, *positive, both and positive[0] != positive[1])


def test_the_summary_counts_what_only_one_of_them_analysed() -> None:
    study = StudyPair("1", Outcome.NEGATIVE, Outcome.NOT_ANALYSED, 0.1, None, "", "")
    found = Comparison(
        (study,),
        (row(0.5, 0.25, positive=(True, False)), row(0.1, None), row(None, 0.9), row(None, None)),
        (),
    )
    told = found.summary
    assert (told.slices, told.both, told.only_a, told.only_b) == (4, 1, 1, 1)
    assert (told.became_positive, told.became_negative, told.studies_changed) == (0, 1, 1)
    assert told.mean_difference == -0.25
    assert told.mean_absolute_difference == told.largest_absolute_difference == 0.25
    assert found.exit_code == PARTIAL
    assert Comparison((study,), (row(0.1, None),), ()).exit_code == FAILED
    assert found.to_csv().splitlines()[2] == "f,1,2,3,1,,0.1,,,false,false,false"
