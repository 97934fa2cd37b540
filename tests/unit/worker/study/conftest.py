"""An engine that sees blood, for the tests of what is said of a study."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from limen import config
from tests.support.predictions import BUNDLE, MEMBERS
from tests.support.synthetic import BrightBlood, TwoMembers
from worker.serving.engine import Engine


@pytest.fixture
def engine() -> Iterator[Engine]:
    with Engine(BUNDLE, config.Engine(max_wait_ms=1), backend=BrightBlood()) as running:
        yield running


@pytest.fixture
def members() -> Iterator[Engine]:
    """An engine of two members, of which one is never sure."""
    with Engine(MEMBERS, config.Engine(max_wait_ms=1), backend=TwoMembers()) as running:
        yield running
