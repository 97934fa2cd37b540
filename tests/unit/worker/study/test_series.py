"""The series a radiologist would read is chosen, and its slices lie in the order of the body."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.headers import AXIAL, CORONAL, header, stack
from tests.support.synthetic import fake_bundle
from worker.dicom.decoder import Decoder
from worker.dicom.headers import Frame, Header
from worker.study.series import select

BUNDLE = fake_bundle()


def chosen(headers: list[Header]) -> str:
    return select(headers, BUNDLE).series_uid


def reason(headers: list[Header], series: str) -> str:
    return next(s.reason for s in select(headers, BUNDLE).series if s.series_uid == series)


def test_slices_are_ordered_by_geometry_not_by_number() -> None:
    headers = [header(n, position=(0.0, 0.0, -float(n))) for n in range(5)]
    found = select(headers, BUNDLE).slices
    assert [s.header.instance_number for s in found] == [4, 3, 2, 1, 0]
    assert [s.position_mm for s in found] == [-4, -3, -2, -1, 0]
    assert [s.index for s in found] == [0, 1, 2, 3, 4]


def test_a_turned_normal_still_counts_from_the_neck_up() -> None:
    turned = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    found = select([header(n, orientation=turned) for n in range(3)], BUNDLE).slices
    assert [s.position_mm for s in found] == [0, 1, 2]


def test_the_real_series_gives_28_slices_under_gantry_tilt(
    decoder: Decoder, shared_data: Path
) -> None:
    headers = decoder.headers(sorted((shared_data / "headct_ge").glob("*.dcm")))
    found = select([h for h in headers if isinstance(h, Header)], BUNDLE)
    places = [s.position_mm for s in found.slices]
    assert len(places) == 28
    assert places == sorted(places)
    steps = {round(b - a) for a, b in zip(places, places[1:], strict=False)}
    assert steps == {1, 4, 7}
    assert decoder.hounsfield(found.slices[0].header.path).min() == -1023


def test_the_order_of_the_input_does_not_matter() -> None:
    headers = stack(6, "1.1") + stack(6, "1.2") + stack(3, "1.3")
    first = select(headers, BUNDLE)
    for seed in range(5):
        shuffled = list(headers)
        random.Random(seed).shuffle(shuffled)
        assert select(shuffled, BUNDLE) == first


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}, "a localizer"),
        ({"series_description": "Scout 2 views"}, "a localizer"),
        ({"image_type": ("DERIVED", "SECONDARY", "REFORMATTED")}, "a reformat"),
        ({"image_type": ("DERIVED", "PRIMARY", "OTHER")}, "a derived image"),
        ({"image_type": ("ORIGINAL", "SECONDARY", "AXIAL")}, "a secondary image"),
        ({"image_type": ("DERIVED", "SECONDARY", "DOSE_INFO")}, "a dose or screen report"),
        ({"orientation": CORONAL}, "not axial"),
        ({"body_part": "CHEST"}, "another body part: chest (Body Part Examined)"),
        ({"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7"}, "a secondary capture"),
        ({"has_pixels": False}, "holds no image"),
        ({"photometric": "RGB", "samples": 3}, "not a grey image"),
    ],
)
def test_other_series_are_left_out_with_a_reason(changes: dict[str, Any], why: str) -> None:
    headers = stack(3, "1.1") + stack(9, "1.2", **changes)
    assert chosen(headers) == "1.1"
    assert reason(headers, "1.2") == why
    alone = select(stack(9, "1.2", **changes), BUNDLE)
    assert alone.slices == []
    assert why in alone.reason


def test_a_primary_axial_slice_that_is_called_derived_is_one_all_the_same() -> None:
    assert chosen(stack(3, "1.1", image_type=("DERIVED", "PRIMARY", "AXIAL"))) == "1.1"


def test_a_scout_inside_the_series_is_left_out_and_told() -> None:
    scout = header(99, orientation=CORONAL, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    found = select([*stack(4, "1.1"), scout], BUNDLE)
    assert len(found.slices) == 4
    assert "1 left out: a localizer" in found.series[0].reason


def test_soft_tissue_goes_before_bone_of_the_same_extent() -> None:
    headers = stack(20, "1.1", kernel="H60S") + stack(10, "1.2", kernel="H30S", thickness_mm=2.0)
    assert chosen(headers) == "1.2"
    assert "bone kernel" in reason(headers, "1.1")


def test_bone_is_taken_with_a_doubt_where_no_soft_tissue_covers_its_place() -> None:
    found = select(stack(20, "1.1", kernel="BONE") + stack(2, "1.2", kernel="SOFT"), BUNDLE)
    assert [s.selected for s in found.series] == [True, True]
    assert any("no soft tissue of its place" in doubt for doubt in found.doubts)


def test_all_are_chosen_most_slices_first_then_the_thinner_then_the_lower_series_number() -> None:
    assert chosen(stack(3, "1.1") + stack(4, "1.2")) == "1.2"
    assert chosen(stack(3, "1.1", thickness_mm=2.0) + stack(3, "1.2")) == "1.2"
    found = select(stack(3, "1.1") + stack(4, "1.2"), BUNDLE)
    assert [(s.selected, s.slices) for s in found.series] == [(True, 3), (True, 4)]
    assert [s.index for s in found.slices] == list(range(7))
    assert chosen(stack(3, "1.1", series_number=9) + stack(3, "1.2", series_number=2)) == "1.2"


def test_what_lies_where_another_slice_lies_is_analysed_and_told() -> None:
    twin = replace(header(1), sop_uid="1.1.77", instance_number=50)
    found = select([*stack(3, "1.1"), twin], BUNDLE)
    assert [s.header.sop_uid for s in found.slices] == ["1.1.0", "1.1.1", "1.1.77", "1.1.2"]
    assert "1 at a position that is already there" in found.series[0].reason


def test_without_geometry_the_numbers_give_the_order_and_the_reason_says_so() -> None:
    headers = [header(n, orientation=None, position=None) for n in (3, 1, 2)]
    found = select(headers, BUNDLE)
    assert [s.header.instance_number for s in found.slices] == [1, 2, 3]
    assert found.slices[0].position_mm is None
    assert "InstanceNumber" in found.series[0].reason


def test_frames_of_an_enhanced_instance_are_slices() -> None:
    frames = tuple(Frame(n, AXIAL, (0.0, 0.0, -float(n)), ("ORIGINAL",)) for n in (1, 2, 3))
    one = header(1, sop_class_uid="1.2.840.10008.5.1.4.1.1.2.1", frames=frames)
    assert [s.frame for s in select([one], BUNDLE).slices] == [3, 2, 1]


def test_a_study_of_another_modality_says_what_it_is() -> None:
    found = select(stack(2, "1.1", modality="MR"), BUNDLE)
    assert found.reason == "no CT image in this study (found: MR)"
    assert select([], BUNDLE).reason == "no CT image in this study (found: nothing readable)"
