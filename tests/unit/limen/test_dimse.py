"""limen.dimse: what a status says, and what to do about it."""

from __future__ import annotations

import pytest
from pynetdicom import status as known

from limen.dimse import Kind, in_words, meaning


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (0x0000, Kind.SUCCESS),
        (0xB000, Kind.WARNING),
        (0xB123, Kind.WARNING),
        (0x0107, Kind.WARNING),
        (0x0111, Kind.PRESENT),
        (0x0110, Kind.TRANSIENT),
        (0x9999, Kind.TRANSIENT),
        (0xA700, Kind.FULL),
        (0xA7FF, Kind.FULL),
        (0x0213, Kind.FULL),
        (0x0122, Kind.PERMANENT),
        (0x0124, Kind.PERMANENT),
        (0xA901, Kind.PERMANENT),
        (0xC000, Kind.PERMANENT),
        (0xCFFF, Kind.PERMANENT),
    ],
)
def test_a_status_says_what_to_do(status: int, kind: Kind) -> None:
    assert meaning(status).kind is kind


def test_a_status_is_told_with_its_number() -> None:
    assert in_words(0xA700) == "0xA700, peer is out of resources"


def test_of_every_status_that_pynetdicom_knows_success_and_warning_are_the_same() -> None:
    """Its tables are those of PS3.4 B.2-1 and PS3.7 C."""
    tables = {**known.GENERAL_STATUS, **known.STORAGE_SERVICE_CLASS_STATUS}
    tables = {s: c for s, c in tables.items() if c[0] in {"Success", "Warning", "Failure"}}
    assert len(tables) > 1000
    for status, (category, _) in tables.items():
        assert meaning(status).is_stored == (category in {"Success", "Warning"}), f"{status:04X}"
