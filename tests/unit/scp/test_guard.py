"""scp.guard: who may connect, and who may open an association."""

from __future__ import annotations

import pytest

from limen.config import Peer, Scp
from scp.guard import Guard

CT1 = Peer(ae_title="CT1", address="10.20.30.40")
WARD = Peer(ae_title="WARD", address="192.168.7.0/24")
V6 = Peer(ae_title="MR6", address="2001:db8::/32")

CLOSED = Guard(Scp())
LISTED = Guard(Scp(peer=(CT1, WARD, V6)))
OPEN = Guard(Scp(allow_any_peer=True))

CALLING_UNKNOWN, CALLED_UNKNOWN = (1, 1, 3), (1, 1, 7)


@pytest.mark.parametrize(
    ("guard", "address", "admitted"),
    [
        (CLOSED, "127.0.0.1", True),
        (CLOSED, "127.3.2.1", True),
        (CLOSED, "::1", True),
        (CLOSED, "::ffff:127.0.0.1", True),
        (CLOSED, "10.20.30.40", False),
        (CLOSED, "::ffff:10.20.30.40", False),
        (CLOSED, "fe80::1%eth0", False),
        (LISTED, "10.20.30.40", True),
        (LISTED, "::ffff:10.20.30.40", True),
        (LISTED, "10.20.30.41", False),
        (LISTED, "192.168.7.255", True),
        (LISTED, "192.168.8.0", False),
        (LISTED, "2001:db8::7", True),
        (LISTED, "2001:db9::7", False),
        (LISTED, "127.0.0.1", False),
        (OPEN, "203.0.113.9", True),
        (OPEN, "::1", True),
    ],
)
def test_an_address_is_admitted_or_not(guard: Guard, address: str, admitted: bool) -> None:
    assert guard.admits_address(address) is admitted


@pytest.mark.parametrize(
    ("guard", "calling", "called", "address", "code"),
    [
        (CLOSED, "ANY", "LIMEN", "127.0.0.1", None),
        (CLOSED, "ANY", "OTHER", "127.0.0.1", CALLED_UNKNOWN),
        (CLOSED, "ANY", "limen", "127.0.0.1", CALLED_UNKNOWN),
        (CLOSED, "ANY", "", "127.0.0.1", CALLED_UNKNOWN),
        (LISTED, "CT1", "LIMEN", "10.20.30.40", None),
        (LISTED, "WARD", "LIMEN", "192.168.7.9", None),
        (LISTED, "CT1", "LIMEN", "192.168.7.9", CALLING_UNKNOWN),
        (LISTED, "ct1", "LIMEN", "10.20.30.40", CALLING_UNKNOWN),
        (LISTED, "MR", "LIMEN", "10.20.30.40", CALLING_UNKNOWN),
        (LISTED, "CT1", "OTHER", "10.20.30.40", CALLED_UNKNOWN),
        (OPEN, "ANY", "LIMEN", "203.0.113.9", None),
        (OPEN, "ANY", "OTHER", "203.0.113.9", CALLED_UNKNOWN),
    ],
)
def test_an_association_is_welcome_or_refused_with_the_code_of_the_standard(
    guard: Guard, calling: str, called: str, address: str, code: tuple[int, int, int] | None
) -> None:
    refusal = guard.refusal(calling, called, address)
    assert (refusal.code if refusal else None) == code
    assert refusal is None or refusal.reason
