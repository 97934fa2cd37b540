"""A slice as it was read: upright, with its picture, and what becomes of it in the document."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Self

from limen.errors import Unreadable
from limen.result import Image
from worker.dicom.decoder import Decoder
from worker.study import render
from worker.study.series import Slice
from worker.study.tensors import Upright, upright

__all__ = ["Picture", "Seen", "Told", "image_of", "seen"]

DECIMALS: Final = 6


@dataclass(frozen=True, slots=True)
class Seen:
    """A slice as people look at it, or why it cannot be read."""

    slice: Slice
    shown: Upright | Unreadable

    @property
    def stretch(self) -> tuple[str, int, int]:
        """Return what it lies in without a gap."""
        return self.slice.header.series_uid, self.slice.part, self.slice.stretch


def seen(slices: Sequence[Slice], decoder: Decoder) -> Generator[Seen, None, None]:
    """Yield each slice in order, read ahead."""
    frames = decoder.hounsfield_many((s.header.path, s.frame) for s in slices)
    for one, hu in zip(slices, frames, strict=True):
        if isinstance(hu, Unreadable):
            yield Seen(one, hu)
        else:
            yield Seen(one, upright(hu, one.header.frames[one.frame - 1]))


@dataclass(frozen=True, slots=True)
class Picture:
    """The picture of a slice, and how it lies."""

    body: bytes
    oriented: bool
    pixel_mm: float | None
    unit: Literal["", "HU"]

    @classmethod
    def of(cls, one: Slice, shown: Upright) -> Self:
        """Return the picture of a slice: in HU where it is a CT."""
        is_ct = one.header.modality == "CT"
        body = render.hu_jls(shown.hu) if is_ct else render.grey_png(shown.hu)
        unit: Literal["", "HU"] = "HU" if is_ct else ""
        if shown.pixel_mm is None:
            return cls(body, shown.oriented, None, unit)
        most = render.MAX_HU_SIDE_PX if is_ct else render.MAX_SIDE_PX
        rows, columns = shown.hu.shape
        scale = rows / render.shown_size(rows, columns, most)[0]
        return cls(body, shown.oriented, round(shown.pixel_mm * scale, DECIMALS) or None, unit)


@dataclass(frozen=True, slots=True)
class Told:
    """What the model says of a slice.

    Attributes
    ----------
    probability
        By label; empty where the slice was looked at and has none of its own.
    positive
        Whether it is positive for a finding.
    areas_mm2
        Of a segmentation: label -> what is marked of it.
    overlay
        Of a segmentation: a picture of that (PNG), over the whole slice.
    """

    probability: Mapping[str, float]
    positive: bool = False
    areas_mm2: Mapping[str, float] = field(default_factory=dict)
    overlay: bytes | None = None


def image_of(
    one: Slice, picture: Picture | None, told: Told | str
) -> tuple[Image, dict[str, bytes]]:
    """Return the entry of a slice in the document, and the files that it names.

    Parameters
    ----------
    told
        What the model says of it, or why it says nothing.
    """
    sop_uid, files = one.header.sop_uid, {}
    name = overlay = None
    if picture is not None:
        name = render.file_name(sop_uid, one.frame, picture.body, one.copy)
        files[name] = picture.body
    if isinstance(told, Told) and told.overlay is not None:
        overlay = render.overlay_name(sop_uid, one.frame, one.copy, "marks")
        files[overlay] = told.overlay
    image = Image(
        sop_uid=sop_uid,
        frame=one.frame,
        index=one.index,
        position_mm=one.position_mm,
        probability=None if isinstance(told, str) else dict(told.probability),
        positive=isinstance(told, Told) and told.positive,
        reason=told if isinstance(told, str) else "",
        original=name,
        explanation=overlay,
        series_uid=one.header.series_uid,
        part=one.part,
        stretch=one.stretch,
        copy=one.copy,
        oriented=picture is not None and picture.oriented,
        pixel_mm=picture.pixel_mm if picture else None,
        unit=picture.unit if picture else "",
        areas_mm2={} if isinstance(told, str) else dict(told.areas_mm2),
    )
    return image, files
