"""Studies that bleed, or not, and the objects that are built of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from limen import config
from tests.support.explained import Studies
from tests.support.heads import head_bundle
from tests.support.synthetic import BrightBlood
from worker.dicom.decoder import Decoder
from worker.serving.engine import Engine


@pytest.fixture(scope="session")
def blood() -> Iterator[Engine]:
    with Engine(head_bundle(), config.Engine(), backend=BrightBlood()) as engine:
        yield engine


@pytest.fixture
def studies(tmp_path: Path, decoder: Decoder, blood: Engine) -> Studies:
    return Studies(tmp_path, decoder, blood)
