"""limen.uids: what is a UID, and what stands in for one."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from limen.uids import KEY_LENGTH, derived_uid, is_uid, key_of


@pytest.mark.parametrize("text", ["1", "1.2.840.10008.1.1", "1.2.03", "0.0", "1" * 64])
def test_digits_and_single_dots_up_to_64_characters_are_a_uid(text: str) -> None:
    assert is_uid(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "1.", ".1", "1..2", "1" * 65, "1.2 ", "1.2\n", "1.2\0", "1.a", "../../etc", "１.２"],
)
def test_anything_else_is_no_uid(text: str) -> None:
    assert not is_uid(text)


@given(st.text())
def test_a_key_is_hex_whatever_the_text(text: str) -> None:
    key = key_of(text)
    assert re.fullmatch(rf"[0-9a-f]{{{KEY_LENGTH}}}", key)
    assert hashlib.sha256(text.encode()).hexdigest().startswith(key)


@given(st.lists(st.text(), min_size=1, max_size=4))
def test_a_derived_uid_is_valid_and_the_same_for_the_same_parts(parts: list[str]) -> None:
    made = derived_uid(*parts)
    assert UID(made).is_valid
    assert made == derived_uid(*parts)
    assert made.startswith("2.25.")


def test_other_parts_give_another_derived_uid() -> None:
    assert len({derived_uid("a", "b"), derived_uid("ab"), derived_uid("b", "a")}) == 3
