"""One receiver with short deadlines for most attacks; each attack is watched."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.siege import Receiver, Siege

HANDSHAKE_S, PDU_S, IDLE_S = 1.0, 1.0, 2.0
SOON_S = PDU_S + 1.0
"""What needs no waiting for a peer is over by then."""


@pytest.fixture(scope="session")
def receiver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """A receiver that is not patient, and takes instances of at most 4 MiB."""
    with Receiver(
        tmp_path_factory.mktemp("receiver"),
        handshake_timeout_s=HANDSHAKE_S,
        pdu_timeout_s=PDU_S,
        idle_timeout_s=IDLE_S,
        max_instance_bytes=4 << 20,
        max_associations=40,
        max_associations_per_address=30,
        max_pdu_bytes=65536,
    ) as receiver:
        yield receiver


@pytest.fixture
def siege(receiver: Receiver) -> Iterator[Siege]:
    """Watch the receiver during a test."""
    with Siege(receiver) as siege:
        yield siege
