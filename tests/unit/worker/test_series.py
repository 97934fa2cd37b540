"""The series a radiologist would read is chosen, and its slices lie in the order of the body."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.synthetic import fake_bundle
from worker.headers import Frame, Header
from worker.pixels import Decoder
from worker.series import is_sharp_kernel, select

BUNDLE = fake_bundle()
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


def header(
    number: int,
    series: str = "1.1",
    *,
    orientation: Any = AXIAL,
    position: Any = "own",
    image_type: tuple[str, ...] = ("ORIGINAL", "PRIMARY", "AXIAL"),
    **changes: Any,
) -> Header:
    place = (0.0, 0.0, float(number)) if position == "own" else position
    values: dict[str, Any] = {
        "path": Path(f"/{series}/{number}"),
        "sop_uid": f"{series}.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "series_uid": series,
        "study_uid": "1",
        "transfer_syntax": "1.2.840.10008.1.2.1",
        **dict.fromkeys(
            (
                *("accession", "patient_id", "patient_name", "patient_sex", "patient_birth_date"),
                *("study_date", "study_time", "study_description", "referring_institution"),
                *("series_description", "body_part", "kernel"),
            ),
            "",
        ),
        "series_number": None,
        "modality": "CT",
        "lossy": False,
        "instance_number": number,
        "rows": 64,
        "columns": 64,
        "samples": 1,
        "photometric": "MONOCHROME2",
        "has_pixels": True,
        "spacing_mm": (0.5, 0.5),
        "thickness_mm": 1.0,
        "frames": (Frame(1, orientation, place, image_type),),
    }
    return Header(**values | changes)


def stack(count: int, series: str, **changes: Any) -> list[Header]:
    return [header(n, series, **changes) for n in range(count)]


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
        ({"image_type": ("DERIVED", "PRIMARY", "AXIAL")}, "a derived image"),
        ({"image_type": ("ORIGINAL", "SECONDARY", "AXIAL")}, "a secondary image"),
        ({"image_type": ("DERIVED", "SECONDARY", "DOSE_INFO")}, "a dose or screen report"),
        ({"orientation": CORONAL}, "not axial"),
        ({"body_part": "CHEST"}, "another body part"),
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


def test_lossy_compression_alone_does_not_make_a_reformat() -> None:
    assert chosen(stack(3, "1.1", image_type=("DERIVED", "PRIMARY", "AXIAL"), lossy=True)) == "1.1"


def test_a_scout_inside_the_series_is_left_out_and_told() -> None:
    scout = header(99, orientation=CORONAL, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER"))
    found = select([*stack(4, "1.1"), scout], BUNDLE)
    assert len(found.slices) == 4
    assert "1 left out: a localizer" in found.series[0].reason


def test_soft_tissue_goes_before_bone_of_the_same_extent() -> None:
    headers = stack(20, "1.1", kernel="H60S") + stack(10, "1.2", kernel="H30S", thickness_mm=2.0)
    assert chosen(headers) == "1.2"
    assert "bone kernel" in reason(headers, "1.1")


def test_bone_is_taken_when_nothing_comparable_is_there() -> None:
    assert chosen(stack(20, "1.1", kernel="BONE") + stack(2, "1.2", kernel="SOFT")) == "1.1"


def test_most_slices_then_the_thinner_then_the_lower_series_number() -> None:
    assert chosen(stack(3, "1.1") + stack(4, "1.2")) == "1.2"
    assert chosen(stack(3, "1.1", thickness_mm=5.0) + stack(3, "1.2")) == "1.2"
    assert chosen(stack(3, "1.1", series_number=9) + stack(3, "1.2", series_number=2)) == "1.2"


def test_duplicates_at_one_position_count_once() -> None:
    twin = replace(header(1), sop_uid="1.1.77", instance_number=50)
    found = select([*stack(3, "1.1"), twin], BUNDLE)
    assert [s.header.sop_uid for s in found.slices] == ["1.1.0", "1.1.1", "1.1.2"]
    assert "1 left out: at a position that is already there" in found.series[0].reason


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


@pytest.mark.parametrize("name", ["BONE", "BONEPLUS", "H60S", "HR68H\\3", "J70H", "FC30", "EDGE"])
def test_sharp_kernels(name: str) -> None:
    assert is_sharp_kernel(name)


@pytest.mark.parametrize("name", ["", "STD+", "STANDARD", "SOFT", "H31S", "J40S", "FC26", "UB"])
def test_soft_kernels(name: str) -> None:
    assert not is_sharp_kernel(name)
