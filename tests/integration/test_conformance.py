"""The Conformance Statement: what it says is what a peer meets, and docs/conformance.md is it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from limen.command.conformance import SECTIONS, statement
from limen.config import Config
from limen.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from limen.scu import Peer, Requestor
from scp import statuses
from scp.conformance import tables
from scp.rejections import CALLED_AE_UNKNOWN, REJECTIONS
from scp.server import Receiver
from tests.support import wire
from tests.support.pacs import pacs
from tests.support.samples import settings

ROOT = Path(__file__).parents[2]
FIND = "1.2.840.10008.5.1.4.1.2.2.1"


@pytest.fixture(scope="module")
def text() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LIMEN_CONFIG", raising=False)
        return statement(Config())


@pytest.fixture
def receiver(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[Config, int]]:
    most = getattr(request, "param", 2)
    config = settings(tmp_path, scp={"max_associations_per_address": most})
    made = Receiver(config)
    try:
        yield config, made.start()
    finally:
        made.stop()


def test_the_statement_in_the_docs_is_that_of_the_settings_as_they_ship(text: str) -> None:
    assert (ROOT / "docs" / "conformance.md").read_text("utf-8") == text + "\n", (
        "write it again: make conformance"
    )


def test_every_part_is_there_and_says_something(text: str) -> None:
    found = re.split(r"^## \d+\. (.+)$", text, flags=re.M)[1:]
    assert tuple(found[::2]) == SECTIONS
    assert all(part.strip() for part in found[1::2])


REQUIRED = {
    "Implementation model": ("Sequencing of real-world activities",),  # PS3.2 N.7.2.1.1
    "Application entity: receiver": (
        "Association policies",  # N.7.2.1.2
        "Presentation contexts",
        "Verification as SCP, storage as SCP, storage commitment",  # N.7.3
        "Communication failures as association acceptor",  # N.7.3.1.2
    ),
    "Application entity: sender": (
        "Association policies",
        "Presentation contexts",
        "Storage as SCU",
        "Storage commitment as SCU",
        "Communication failures as association initiator",  # N.7.3.1.1
    ),
    "Annexes": (
        "A. Storage SOP classes",
        "B. Objects that are made",  # N.9
        "C. Private attributes, codes and transfer syntaxes",
        "D. Attribute confidentiality",  # N.11.2.6
        "E. Grayscale image consistency",
    ),
}
"""What the template asks for of a node like this one, by the parts of the statement."""


def test_what_the_template_asks_for_is_there(text: str) -> None:
    found = re.split(r"^## \d+\. (.+)$", text, flags=re.M)[1:]
    parts = dict(zip(found[::2], found[1::2], strict=True))
    heads = {part: tuple(re.findall(r"^### (.+)$", parts[part], flags=re.M)) for part in REQUIRED}
    assert heads == REQUIRED


def test_every_table_is_whole(text: str) -> None:
    for block in re.findall(r"(?:^\|.*\n?)+", text, flags=re.M):
        lines = block.strip().split("\n")
        assert len({len(re.findall(r"(?<!\\\\)\|", line)) for line in lines}) == 1, lines[0]


def test_the_page_holds_the_same_and_needs_nothing_else(text: str, tmp_path: Path) -> None:
    page = tmp_path / "statement.html"
    limen = [sys.executable, "-m", "limen", "conformance", "--html", "-o", str(page)]
    subprocess.run(limen, check=True, timeout=60, cwd=tmp_path)
    html = page.read_text("utf-8")
    assert html.count("<h2>") == len(SECTIONS)
    assert html.count("<table>") == len(re.findall(r"^\| --- ", text, flags=re.M))
    assert "src=" not in html
    assert "http" not in html


def test_settings_are_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        '[scp]\nae_title = "NODE7"\nprivate_sop_classes = ["1.2.3.4.5"]\n'
        '[[scp.peer]]\nae_title = "CT1"\naddress = "10.0.0.1"\n'
        '[[destination.pacs]]\nname = "main"\nae_title = "ARCHIVE"\nhost = "10.0.0.2"\n'
    )
    limen = [sys.executable, "-m", "limen", "conformance", "--config", str(config)]
    told = subprocess.run(limen, check=True, timeout=60, capture_output=True, text=True).stdout
    for words in (
        "`NODE7`",
        "| calling AE titles | CT1 |",
        "private: 1.2.3.4.5",
        "`ARCHIVE` (main)",
    ):
        assert words in told


# -- what a peer meets -----------------------------------------------------------------------------


# One that has just been released may still be counted.
@pytest.mark.parametrize("receiver", [16], indirect=True)
def test_every_storage_class_is_taken_in_every_transfer_syntax_and_nothing_else_is(
    receiver: tuple[Config, int],
) -> None:
    config, port = receiver
    told = tables(config.scp)
    wanted = {(c, s) for c in told["storage"] for s in told["storage_syntaxes"]}
    for uid, syntaxes in (told["verification"], told["commitment"]):
        wanted |= {(uid, syntax) for syntax in syntaxes}
    others = {(FIND, wire.EXPLICIT), (wire.CT, wire.DEFLATED), (wire.CT, wire.BIG_ENDIAN)}
    others |= {(told["verification"][0], told["storage_syntaxes"][2])}
    taken: set[tuple[str, str]] = set()
    proposed = sorted(wanted | others)
    for some in (proposed[at : at + 128] for at in range(0, len(proposed), 128)):
        contexts = [wire.Context(2 * n + 1, c, [s]) for n, (c, s) in enumerate(some)]
        with wire.RawPeer(port) as peer:
            heard = peer.open(wire.associate(contexts))
            results = heard.results
            taken |= {some[(i - 1) // 2] for i, (result, _) in results.items() if result == 0}
            peer.release()
    assert taken == wanted


def test_associations_are_rejected_as_the_statement_says(receiver: tuple[Config, int]) -> None:
    config, port = receiver
    listed = settings(config.data_dir, scp={"peer": [{"ae_title": "CT1", "address": "127.0.0.1"}]})
    choosy = Receiver(listed)
    found = []
    try:
        choosy_port = choosy.start()
        found.append(rejection(choosy_port, wire.associate(calling="WHO")))
    finally:
        choosy.stop()
    found.append(rejection(port, wire.associate(called="OTHER")))
    request = wire.associate()
    found.append(
        rejection(port, request.replace(wire.APPLICATION.encode(), b"1.2.840.10008.3.1.1.9"))
    )
    found.append(rejection(port, request[:6] + b"\0\2" + request[8:]))
    with ExitStack() as still_open:
        answer = None
        while answer is None or answer.kind == wire.ASSOCIATE_AC:
            peer = still_open.enter_context(wire.RawPeer(port))
            peer.send(request)
            answer = peer.hear()
        found.append(answer.rejection)
    assert sorted(found) == sorted(code for code, _ in REJECTIONS)
    assert CALLED_AE_UNKNOWN in found


def rejection(port: int, request: bytes) -> tuple[int, int, int]:
    with wire.RawPeer(port) as peer:
        peer.send(request)
        return peer.hear().rejection


def test_limits_and_names_are_those_that_are_told(receiver: tuple[Config, int]) -> None:
    config, port = receiver
    with wire.RawPeer(port) as peer:
        heard = peer.open()
        assert heard.max_length == config.scp.max_pdu_bytes
        for name in tables(config.scp)["implementation"]:
            assert name.encode() in heard.body
        peer.release()


def test_the_sender_names_itself_as_the_receiver_does() -> None:
    seen: list[Any] = []
    with pacs() as there:
        contexts = [("1.2.840.10008.1.20.1", wire.IMPLICIT)]
        there.ae.require_calling_aet = []
        with Requestor(there.peer, "LIMEN", contexts, 10):
            seen = [a.requestor for a in there.ae.active_associations]
    assert [str(one.implementation_class_uid) for one in seen] == [IMPLEMENTATION_CLASS_UID]
    assert [one.implementation_version_name for one in seen] == [IMPLEMENTATION_VERSION_NAME]


def test_every_status_that_the_receiver_can_answer_is_told() -> None:
    """Each is provoked by a test of its own, in tests/unit/scp and tests/attacks."""
    tree = ast.parse((ROOT / "scp" / "handlers.py").read_text("utf-8"))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = {name: value for name, value in vars(statuses).items() if isinstance(value, int)}
    told = {status for status, _, _ in statuses.STATUSES}
    assert {value for name, value in known.items() if name in used} == told
    whatever = set(known.values()) - told
    assert whatever <= {reason for reason, _ in statuses.FAILURE_REASONS}


def test_a_peer_is_parsed_as_the_statement_writes_it() -> None:
    assert str(Peer.parse("LIMEN@127.0.0.1:11112")) == "LIMEN at 127.0.0.1:11112"
