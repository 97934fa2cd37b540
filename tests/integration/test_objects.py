"""What is written for the PACS, in the eyes of validators that others wrote.

Ten studies of several vendors' habits; both phases; every kind of object.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from limen import config
from limen.result import Outcome
from tests.support.explained import Studies, Study
from tests.support.habits import HABITS
from tests.support.heads import head_bundle
from tests.support.services import program
from tests.support.synthetic import BrightBlood
from worker.dicom.decoder import Decoder
from worker.objects import Kind
from worker.serving.engine import Engine

OUTCOMES = {
    "negative, UTF-8": Outcome.NEGATIVE,
    "partial": Outcome.PARTIAL,
    "not analysed": Outcome.NOT_ANALYSED,
}
JAVA_LIMITS = " ".join(
    f"-Djdk.xml.{name}=0" for name in ("xpathTotalOpLimit", "xpathExprOpLimit", "xpathExprGrpLimit")
)
"""The templates are more than Java 17 evaluates of its own accord."""


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder(processes=1) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def blood() -> Iterator[Engine]:
    with Engine(head_bundle(), config.Engine(), backend=BrightBlood()) as engine:
        yield engine


@pytest.fixture(scope="module", params=HABITS, ids=str)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def study(
    name: str, decoder: Decoder, blood: Engine, tmp_path_factory: pytest.TempPathFactory
) -> Study:
    return Studies(tmp_path_factory.mktemp("study"), decoder, blood)(HABITS[name]())


@pytest.fixture(scope="module")
def written(study: Study, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Kind, Path]]:
    """The files of all objects of both phases, unseen by our own validation."""
    folder = tmp_path_factory.mktemp("objects")
    found = []
    for result in (study.prediction, study.explanation):
        objects = study.objects(result, validate=False)
        assert objects.refused == ()
        for one in objects.built:
            path = folder / f"{len(found):02d}-{one.kind}.dcm"
            path.write_bytes(one.body)
            found.append((one.kind, path))
    return found


def test_every_kind_is_there_where_there_is_something_to_show(
    name: str, study: Study, written: list[tuple[Kind, Path]]
) -> None:
    assert study.prediction.outcome is OUTCOMES.get(name, Outcome.POSITIVE)
    shown = set(Kind) if study.prediction.outcome is Outcome.POSITIVE else {Kind.SR}
    assert {kind for kind, _ in written} == shown


def test_dciodvfy_finds_no_error(written: list[tuple[Kind, Path]]) -> None:
    validator = program("dciodvfy", "dicom3tools")
    for kind, path in written:
        done = subprocess.run([validator, "-new", str(path)], capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        assert [line for line in said.splitlines() if line.startswith("Error")] == [], kind


def test_pixelmed_finds_no_error_in_the_last_report(written: list[tuple[Kind, Path]]) -> None:
    validator = program("DicomSRValidator", "pixelmed-apps")
    *_, path = (path for kind, path in written if kind is Kind.SR)
    done = subprocess.run(
        [validator, str(path)],
        capture_output=True,
        check=False,
        env=os.environ | {"JAVA_TOOL_OPTIONS": JAVA_LIMITS},
        timeout=240,
    )
    said = (done.stdout + done.stderr).decode("utf-8", "replace")
    assert "IOD validation complete" in said
    assert "Root Template Validation Complete" in said
    assert [line for line in said.splitlines() if line.startswith("Error")] == []


def test_dcmtk_reads_the_reports_and_key_objects(written: list[tuple[Kind, Path]]) -> None:
    dsrdump = program("dsrdump", "dcmtk")
    for kind, path in written:
        if kind in {Kind.SR, Kind.KO}:
            done = subprocess.run([dsrdump, str(path)], capture_output=True, check=False)
            assert done.returncode == 0, done.stderr
            # DCMTK warns that it checks no text in another character set.
            assert not [line for line in done.stderr.splitlines() if line.startswith(b"E")]
