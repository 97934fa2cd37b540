"""Headers made without files, for tests of what is chosen by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from worker.dicom.headers import Frame, Header

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
        "instance_number": number,
        "rows": 64,
        "columns": 64,
        "samples": 1,
        "photometric": "MONOCHROME2",
        "has_pixels": True,
        "spacing_mm": (0.5, 0.5),
        "thickness_mm": 1.0,
    }
    values |= changes
    frame = Frame(
        1,
        orientation,
        place,
        image_type,
        spacing_mm=values["spacing_mm"],
        thickness_mm=values["thickness_mm"],
        kernel=values["kernel"],
    )
    return Header(**{"frames": (frame,)} | values)


def stack(count: int, series: str, **changes: Any) -> list[Header]:
    return [header(n, series, **changes) for n in range(count)]
