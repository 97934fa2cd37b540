"""Which series of a study the model looks at, and its slices in the order of the body.

Every series gets a reason in plain words, chosen or not. The order comes from
the geometry (PS3.3 C.7.6.2.1.1), never from InstanceNumber.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from limen.result import Series
from worker.bundle import Bundle
from worker.headers import Frame, Header

__all__ = ["Selection", "Slice", "select"]

MAX_TILT_COSINE: Final = 0.8
"""Least |z| of the slice normal, about 37 degrees: gantry tilt passes, a reformat does not."""

COMPARABLE_EXTENT: Final = 0.5
"""A soft-tissue series of this part of the extent stands in for a bone series."""

SAME_POSITION_MM: Final = 0.01

_CT_IMAGES: Final = {
    "1.2.840.10008.5.1.4.1.1.2",
    "1.2.840.10008.5.1.4.1.1.2.1",
    "1.2.840.10008.5.1.4.1.1.2.2",
}
"""CT, Enhanced CT, Legacy Converted Enhanced CT Image Storage (PS3.4 B.5)."""

_SECONDARY_CAPTURE: Final = "1.2.840.10008.5.1.4.1.1.7"
_GREY: Final = {"MONOCHROME1", "MONOCHROME2"}

# Words of ImageType (PS3.3 C.8.2.1.1.1 and what scanners add), and what they mean.
_KINDS: Final = (
    ("a localizer", {"LOCALIZER", "SCOUT", "TOPOGRAM", "SURVIEW", "SCANOGRAM"}),
    ("a dose or screen report", {"DOSE", "DOSE_INFO", "SCREEN SAVE", "SCREENSAVE", "REPORT"}),
    (
        "a reformat",
        {
            *("REFORMATTED", "MPR", "MIP", "MINIP", "AIP", "MEAN", "AVERAGE", "PROJECTION IMAGE"),
            *("CSA MPR", "CSA 3D", "CSA RESAMPLED", "CSA MIP", "VRT", "SSD", "CPR", "CURVED"),
            *("VOLUME RENDER", "RESAMPLED", "SUBTRACTION", "PERFUSION"),
        },
    ),
)
_LOCALIZER_TEXT: Final = re.compile(r"\b(scout|localizer|localiser|topogram|surview)\b", re.I)

# Names of sharp kernels: GE words, Siemens numbers from 55 (H60s, Hr68h), Canon FC30-39, FC50-59,
# FC80-89, Philips letters. An unknown name counts as soft tissue.
_SHARP_WORDS: Final = re.compile(r"\b(bone|edge|lung|ultra|sharp|detail)|^(d|e|l|y[a-e])$", re.I)
_SIEMENS: Final = re.compile(r"^[bhujtq][a-z]?\s?(\d\d)[a-z]?\b", re.I)
_CANON: Final = re.compile(r"^fc\s?([358])\d\b", re.I)
SIEMENS_SHARP: Final = 55
_BONE_TEXT: Final = re.compile(r"\b(bone|knochen|hueso|osso|osseux)\b", re.I)


@dataclass(frozen=True, slots=True)
class Slice:
    """One slice of the selected series.

    Attributes
    ----------
    frame
        Frame number within the instance, from 1.
    index
        Place in the order, from 0: the lowest (most caudal) slice.
    position_mm
        Along the slice normal, which points towards the head; None where the
        geometry is unknown.
    """

    header: Header
    frame: int
    index: int
    position_mm: float | None


@dataclass(frozen=True, slots=True)
class Selection:
    """What is analysed of a study. ``reason`` says why ``slices`` is empty, or is empty itself."""

    series: list[Series]
    slices: list[Slice]
    series_uid: str
    reason: str


@dataclass(frozen=True, slots=True)
class _Place:
    """A usable frame and where it lies."""

    header: Header
    frame: Frame
    position_mm: float | None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """Frames of one series that form a stack, in order, and what was left out of it."""

    series_uid: str
    places: tuple[_Place, ...]
    notes: tuple[str, ...]

    @property
    def first(self) -> Header:
        return self.places[0].header

    @property
    def extent_mm(self) -> float:
        """Length along the normal, slice thickness included."""
        thickness_mm = self.first.thickness_mm or 1.0
        low, high = self.places[0].position_mm, self.places[-1].position_mm
        if low is None or high is None:
            return len(self.places) * thickness_mm
        return high - low + thickness_mm

    @property
    def is_sharp(self) -> bool:
        return is_sharp_kernel(self.first.kernel) or bool(
            _BONE_TEXT.search(self.first.series_description)
        )

    def rank(self) -> tuple[int, bool, float, int, str]:
        """Sort key: most slices, soft tissue, thinner, then series number and UID."""
        number = self.first.series_number
        return (
            -len(self.places),
            self.is_sharp,
            self.first.thickness_mm or 0.0,
            number if number is not None else 1 << 31,
            self.series_uid,
        )


def select(headers: Sequence[Header], bundle: Bundle) -> Selection:
    """Choose the series that the bundle was made for, and order its slices.

    Deterministic: the order of ``headers`` does not matter.

    Parameters
    ----------
    headers
        The readable instances of one study.

    Returns
    -------
    Selection
        With every series of ``headers``; at most one is selected.
    """
    by_series: dict[str, list[Header]] = defaultdict(list)
    for header in sorted(headers, key=lambda h: (h.series_uid, h.sop_uid, str(h.path))):
        by_series[header.series_uid].append(header)
    reasons: dict[str, str] = {}
    candidates: list[_Candidate] = []
    for uid, members in by_series.items():
        candidate, reason = _candidate(uid, members, bundle)
        if candidate is None:
            reasons[uid] = reason
        else:
            candidates.append(candidate)
    chosen = _choose(candidates, reasons)
    series = [_describe(uid, m, reasons[uid], chosen) for uid, m in by_series.items()]
    if chosen is None:
        return Selection(series, [], "", _why_nothing(headers, bundle, reasons))
    slices = [
        Slice(p.header, p.frame.number, index, p.position_mm)
        for index, p in enumerate(chosen.places)
    ]
    return Selection(series, slices, chosen.series_uid, "")


def is_sharp_kernel(kernel: str) -> bool:
    """Return True for the name of a bone or lung reconstruction kernel."""
    name = kernel.partition("\\")[0].strip()
    siemens = _SIEMENS.match(name)
    if siemens:
        return int(siemens[1]) >= SIEMENS_SHARP
    return bool(_CANON.match(name) or _SHARP_WORDS.search(name))


def _choose(candidates: list[_Candidate], reasons: dict[str, str]) -> _Candidate | None:
    """Return the best candidate; every candidate gets its reason."""
    soft_mm = max((c.extent_mm for c in candidates if not c.is_sharp), default=0.0)
    left = []
    for candidate in candidates:
        if candidate.is_sharp and soft_mm >= COMPARABLE_EXTENT * candidate.extent_mm:
            reasons[candidate.series_uid] = "bone kernel; a soft-tissue series is there"
        else:
            left.append(candidate)
    if not left:
        return None
    chosen, *others = sorted(left, key=_Candidate.rank)
    for other in others:
        reasons[other.series_uid] = "another series suits the model better"
    counted = f"{len(chosen.places)} slices" if len(chosen.places) > 1 else "1 slice"
    reasons[chosen.series_uid] = "; ".join([f"selected: {counted}", *chosen.notes])
    return chosen


def _describe(uid: str, members: list[Header], reason: str, chosen: _Candidate | None) -> Series:
    return Series(
        series_uid=uid,
        description=next((h.series_description for h in members if h.series_description), ""),
        modality=members[0].modality,
        instances=len({h.sop_uid for h in members}),
        selected=chosen is not None and chosen.series_uid == uid,
        reason=reason,
    )


def _why_nothing(headers: Sequence[Header], bundle: Bundle, reasons: dict[str, str]) -> str:
    wanted = " or ".join(bundle.accepts.modality)
    found = sorted({h.modality or "unknown" for h in headers})
    if not set(found) & set(bundle.accepts.modality):
        return f"no {wanted} image in this study (found: {', '.join(found) or 'nothing readable'})"
    of_modality = {h.series_uid for h in headers if h.modality in bundle.accepts.modality}
    why = "; ".join(sorted({reasons[uid] for uid in of_modality}))
    return f"no {wanted} series that the model can look at: {why}"


def _candidate(uid: str, members: list[Header], bundle: Bundle) -> tuple[_Candidate | None, str]:
    """Return the largest usable stack of a series, or why there is none."""
    faults: Counter[str] = Counter()
    places = []
    for header in members:
        for frame in header.frames:
            fault = _header_fault(header, bundle) or _frame_fault(header, frame)
            if fault:
                faults[fault] += 1
            else:
                places.append(_Place(header, frame, _position_mm(frame)))
    if not places:
        return None, ", ".join(sorted(faults))
    stack, strays = _largest_stack(places)
    ordered, duplicates = _in_order(stack)
    notes = [f"{n} left out: {fault}" for fault, n in sorted(faults.items())]
    if strays:
        notes.append(f"{strays} left out: of another orientation, size or kernel")
    if duplicates:
        notes.append(f"{duplicates} left out: at a position that is already there")
    if ordered[0].position_mm is None:
        notes.append("positions are missing, so the order is that of InstanceNumber")
    return _Candidate(uid, tuple(ordered), tuple(notes)), ""


def _header_fault(header: Header, bundle: Bundle) -> str:
    """Return why no frame of an instance is usable, or an empty text."""
    allowed = bundle.accepts.body_part
    is_ct_class = header.sop_class_uid in _CT_IMAGES
    rules = (
        (
            header.modality not in bundle.accepts.modality,
            f"modality {header.modality or 'unknown'}",
        ),
        (not header.has_pixels, "holds no image"),
        (header.sop_class_uid.startswith(_SECONDARY_CAPTURE), "a secondary capture"),
        (header.modality == "CT" and not is_ct_class, "not a CT image object"),
        (header.photometric not in _GREY or header.samples != 1, "not a grey image"),
        (
            bool(header.body_part and allowed) and header.body_part not in allowed,
            "another body part",
        ),
    )
    return next((fault for broken, fault in rules if broken), "")


def _frame_fault(header: Header, frame: Frame) -> str:
    """Return why a frame is not axial, original and primary, or an empty text."""
    words = frame.image_type
    for name, kinds in _KINDS:
        if kinds & set(words):
            return name
    if _LOCALIZER_TEXT.search(header.series_description):
        return "a localizer"
    if "SECONDARY" in words[:2]:
        return "a secondary image"
    # Lossy compression alone turns ORIGINAL into DERIVED (PS3.3 C.7.6.1.1.2).
    if words[:1] == ("DERIVED",) and not (header.lossy and {"AXIAL", "VOLUME"} & set(words)):
        return "a derived image"
    if not _is_axial(frame):
        return "not axial"
    return ""


def _is_axial(frame: Frame) -> bool:
    if frame.orientation is None:
        return True  # ImageType has had its say; the order falls back to InstanceNumber
    normal = _normal(frame.orientation)
    length = math.hypot(*normal)
    return length > 0 and abs(normal[2]) / length >= MAX_TILT_COSINE


def _normal(
    orientation: tuple[tuple[float, float, float], tuple[float, float, float]],
) -> tuple[float, float, float]:
    (a, b, c), (d, e, f) = orientation
    return b * f - c * e, c * d - a * f, a * e - b * d


def _position_mm(frame: Frame) -> float | None:
    """Return the place along the slice normal, turned towards the head (+z, PS3.3 C.7.6.2.1.1)."""
    if frame.orientation is None or frame.position_mm is None:
        return None
    normal = _normal(frame.orientation)
    length = math.copysign(math.hypot(*normal), normal[2])
    along = sum(n * p for n, p in zip(normal, frame.position_mm, strict=True))
    return round(along / length, 4) + 0.0


def _largest_stack(places: list[_Place]) -> tuple[list[_Place], int]:
    """Return the frames of the commonest orientation, size and kernel, and how many are left."""
    stacks: dict[tuple[object, ...], list[_Place]] = defaultdict(list)
    for place in places:
        stacks[_stack_key(place)].append(place)

    def rank(key: tuple[object, ...]) -> tuple[int, bool, str]:
        stack = stacks[key]
        distinct = len({p.position_mm for p in stack if p.position_mm is not None})
        sharp = is_sharp_kernel(stack[0].header.kernel)
        return -(distinct or len(stack)), sharp, repr(key)

    best = stacks[min(stacks, key=rank)]
    return best, len(places) - len(best)


def _stack_key(place: _Place) -> tuple[object, ...]:
    header, orientation = place.header, place.frame.orientation
    cosines: tuple[float, ...] = ()
    if orientation is not None:
        cosines = tuple(round(c, 2) + 0.0 for vector in orientation for c in vector)
    known = place.position_mm is not None
    return known, cosines, header.rows, header.columns, header.kernel


def _in_order(stack: Iterable[_Place]) -> tuple[list[_Place], int]:
    """Return a stack in the order of the body, one frame a position, and how many were dropped."""

    def tie(place: _Place) -> tuple[int, str, int, str]:
        number = place.header.instance_number
        return (
            number if number is not None else 1 << 31,
            place.header.sop_uid,
            place.frame.number,
            str(place.header.path),
        )

    distinct: dict[tuple[str, int], _Place] = {}
    total = 0
    for place in sorted(stack, key=tie):
        total += 1
        distinct.setdefault((place.header.sop_uid, place.frame.number), place)
    kept: list[_Place] = []
    for place in sorted(distinct.values(), key=lambda p: (p.position_mm or 0.0, tie(p))):
        if not (kept and _same_position(kept[-1], place)):
            kept.append(place)
    return kept, total - len(kept)


def _same_position(one: _Place, other: _Place) -> bool:
    if one.position_mm is None or other.position_mm is None:
        return False
    return abs(one.position_mm - other.position_mm) < SAME_POSITION_MM
