"""One node for the tests that only send to it; those that harm a node start their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from models.ich.phantom import DemoStudy
from models.ich.phantom import demo_studies as make_demo_studies
from tests.support.node import Node


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> dict[str, DemoStudy]:
    """The six studies of the demo, by name."""
    return {s.name: s for s in make_demo_studies(tmp_path_factory.mktemp("phantoms"))}


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node as ``limen up`` runs it: no broker, no database server, a local archive."""
    node = Node(tmp_path_factory.mktemp("node"))
    try:
        node.start()
        yield node
    finally:
        node.close()


@pytest.fixture
def own_folder(tmp_path: Path) -> Path:
    """A folder for a node of the test's own."""
    return tmp_path / "node"
