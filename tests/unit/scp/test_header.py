"""scp.header: linear time, no recursion, whatever the bytes."""

from __future__ import annotations

import struct
import sys
import warnings

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from limen.errors import Unreadable
from scp import header as module
from scp.header import CutOff, Elements, Identity
from tests.support.samples import SERIES_UID, STUDY_UID, data_set, encode

EXPLICIT, IMPLICIT = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2"
ONE = Identity("1.2.840.10008.5.1.4.1.1.2", f"{STUDY_UID}.1.1", STUDY_UID, SERIES_UID)
ITEM = b"\xfe\xff\x00\xe0" + b"\xff" * 4
ITEM_END = b"\xfe\xff\x0d\xe0" + bytes(4)
SEQUENCE_END = b"\xfe\xff\xdd\xe0" + bytes(4)


def opened(syntax: str, vr: bytes = b"SQ") -> bytes:
    """(0008,1140), of undefined length."""
    head = b"\x08\x00\x40\x11"
    return head + (vr + b"\0\0" if syntax == EXPLICIT else b"") + b"\xff" * 4


def with_inserted(syntax: str, middle: bytes) -> bytes:
    """A data set with bytes before the patient's name."""
    whole = encode(data_set(1), syntax)
    at = whole.index(b"\x10\x00\x10\x00")
    return whole[:at] + middle + whole[at:]


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("levels", [1, 500, 20_000])
def test_nesting_of_any_depth_is_stepped_over(syntax: str, levels: int) -> None:
    nested = (opened(syntax) + ITEM) * levels + (ITEM_END + SEQUENCE_END) * levels
    assert sys.getrecursionlimit() < levels or levels < 1000
    assert Identity.of(with_inserted(syntax, nested), syntax) == ONE


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("bomb", [ITEM, ITEM + ITEM_END, b"\xfe\xff\x00\xe0" + bytes(4)])
def test_items_without_end_cost_no_more_than_their_number(
    syntax: str, bomb: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linear: the elements that are looked at are counted, and there is an end to them."""
    monkeypatch.setattr(module, "_ELEMENT_LIMIT", 5000)
    with pytest.raises(Unreadable):
        Identity.of(with_inserted(syntax, opened(syntax) + bomb * 100_000), syntax)


def test_more_elements_than_any_header_has_are_refused() -> None:
    many = struct.pack("<HH2sH", 8, 0x2111, b"ST", 0) * 100_001
    with pytest.raises(Unreadable, match="too many"):
        Identity.of(with_inserted(EXPLICIT, many), EXPLICIT)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("undefined", [False, True])
def test_uids_within_sequences_do_not_count(syntax: str, undefined: bool) -> None:
    other = data_set(9, "1.2.3")
    other.is_undefined_length_sequence_item = undefined
    ds = data_set(1)
    inner = Dataset()
    inner.ReferencedStudySequence = Sequence([other])
    ds.ReferencedStudySequence = Sequence([inner, other])
    ds["ReferencedStudySequence"].is_undefined_length = undefined
    assert Identity.of(encode(ds, syntax), syntax) == ONE


def test_unknown_vr_of_undefined_length_holds_implicit_elements() -> None:
    """PS3.5 6.2.2, note 2."""
    inner = struct.pack("<HHI", 8, 0x1150, 4) + b"1.2\0"
    value = opened(EXPLICIT, b"UN") + ITEM + inner + ITEM_END + SEQUENCE_END
    assert Identity.of(with_inserted(EXPLICIT, value), EXPLICIT) == ONE


def test_a_private_element_that_is_larger_than_the_bytes_at_hand_asks_for_more() -> None:
    blob = struct.pack("<HH2sHI", 9, 0x1001, b"OB", 0, 1 << 20) + bytes(1 << 20)
    whole = with_inserted(EXPLICIT, blob)
    with pytest.raises(CutOff):
        Identity.of(whole[: 64 * 1024], EXPLICIT)
    assert Identity.of(whole, EXPLICIT) == ONE


def test_an_element_without_a_vr_in_an_explicit_data_set_is_read_as_implicit() -> None:
    careless = struct.pack("<HHI", 9, 0x1002, 4) + b"abcd"
    assert Identity.of(with_inserted(EXPLICIT, careless), EXPLICIT) == ONE


def test_a_uid_that_is_there_twice_is_refused() -> None:
    body = encode(data_set(1), EXPLICIT)
    again = struct.pack("<HH2sH", 8, 0x18, b"UI", 4) + b"1.2\0"
    at = body.index(b"\x10\x00\x10\x00")
    with pytest.raises(Unreadable, match="twice"):
        Identity.of(body[:at] + again + body[at:], EXPLICIT)


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_every_element_is_where_pydicom_wrote_it(syntax: str) -> None:
    ds = data_set(1)
    body = encode(ds, syntax)
    found = {tag: body[start:end] for tag, start, end in Elements(body, syntax == IMPLICIT)}
    assert list(found) == [int(tag) for tag in ds.keys()]  # noqa: SIM118 - keys are tags
    assert found[0x00100020].strip() == b"P-4711"
    assert found[0x7FE00010] == ds.PixelData


def test_what_is_no_item_in_a_sequence_is_refused() -> None:
    elements = Elements(struct.pack("<HHI", 8, 0x1150, 0), implicit_vr=True)
    with pytest.raises(Unreadable, match="no item"):
        list(elements.items(0, 8))


@pytest.mark.parametrize(
    ("value", "found"),
    [("A-4711 ", "A-4711"), (None, ""), ("", ""), ("\xc4\xd6", ""), ("1" * 65, "")],
)
def test_an_accession_number_is_read_where_it_can_be_one_and_refuses_nothing(
    value: str | None, found: str
) -> None:
    with warnings.catch_warnings(action="ignore"):  # of what pydicom says to a bad one
        body = encode(data_set(1, AccessionNumber=value))
    assert Identity.of(body, EXPLICIT).accession == found


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize(
    ("manufacturer", "sop_class", "is_result"),
    [
        ("Limen", "1.2.840.10008.5.1.4.1.1.88.34", True),
        ("Limen", "1.2.840.10008.5.1.4.1.1.2", False),  # a CT is looked at, whoever signs it
        ("Limen phantom", "1.2.840.10008.5.1.4.1.1.7", False),
        ("", "1.2.840.10008.5.1.4.1.1.88.34", False),
    ],
)
def test_what_limen_made_is_known_by_its_manufacturer_and_its_class(
    manufacturer: str, sop_class: str, is_result: bool, syntax: str
) -> None:
    body = encode(data_set(1, Manufacturer=manufacturer, SOPClassUID=sop_class), syntax)
    assert Identity.of(body, syntax).is_result is is_result
