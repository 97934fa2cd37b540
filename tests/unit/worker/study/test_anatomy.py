"""Parts of the body are known by codes and by words of the common languages."""

from __future__ import annotations

import pytest

from tests.support.headers import header
from worker.dicom.headers import Code
from worker.study.anatomy import Anatomy, Part, judge, parts_of_text

HEADS = frozenset({Part.HEAD})


@pytest.mark.parametrize(
    "text",
    [
        *("HEAD 5.0", "Brain routine", "Schädel nativ", "CCT", "CRÂNE SANS INJECTION", "Tête"),
        *("CEREBRO", "TC cranio", "Hoofd", "głowa", "hjärna", "CT頭部", "头颅平扫", "Голова"),
        *("NCCT", "cerebrum_8.0", "Encéphale"),
    ],
)
def test_heads(text: str) -> None:
    assert parts_of_text(text) == HEADS


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("Thorax nativ", Part.CHEST),
        ("LUNG 1.0", Part.CHEST),
        ("Tórax", Part.CHEST),
        ("胸部", Part.CHEST),
        ("грудная клетка", Part.CHEST),
        ("ABD 5.0", Part.ABDOMEN),
        ("Oberbauch", Part.ABDOMEN),
        ("Becken", Part.PELVIS),
        ("LSPINE", Part.SPINE),
        ("C-Spine", Part.SPINE),
        ("HWS", Part.SPINE),
        ("NNH", Part.FACE),
        ("Knie links", Part.LIMB),
        ("Halsweichteile", Part.NECK),
    ],
)
def test_other_parts(text: str, part: Part) -> None:
    assert part in parts_of_text(text)
    assert Part.HEAD not in parts_of_text(text)


@pytest.mark.parametrize("text", ["", "5.0 H30s", "Routine", "Coronal", "HR40", "BASE", "[/X]"])
def test_texts_that_say_nothing(text: str) -> None:
    assert parts_of_text(text) == frozenset()


def test_codes_go_before_texts() -> None:
    one = header(1, body_part="HEAD", series_description="HEAD")
    abdomen = Code("818981001", "SCT", "")
    frame = one.frames[0]
    coded = type(frame)(1, frame.orientation, frame.position_mm, (), anatomy=(abdomen,))
    assert judge(one, frame, HEADS).anatomy is Anatomy.WANTED
    assert judge(one, coded, HEADS).reason.startswith("another body part: abdomen (code")


def test_a_code_that_the_description_contradicts_is_unclear() -> None:
    one = header(1, body_part="HEAD", series_description="Thorax")
    assert judge(one, one.frames[0], HEADS).anatomy is Anatomy.UNCLEAR


def test_a_bundle_that_names_no_part_accepts_all() -> None:
    one = header(1, body_part="CHEST")
    assert judge(one, one.frames[0], frozenset()).anatomy is Anatomy.WANTED
