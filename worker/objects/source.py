"""The instances that the objects are about: what is taken over from them, how they are named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pydicom.dataset import Dataset
from pydicom.valuerep import format_number_as_ds

from limen.errors import NotAnalysable, Unreadable
from limen.result import Finding, Image, Result, Task
from worker.dicom.carried import Carried
from worker.dicom.decoder import Decoder, Frame, Header
from worker.objects import Kind, Reference
from worker.study import identity
from worker.study.parts import Instance, read_headers

__all__ = ["Slice", "Source", "is_many", "named", "read"]

ENHANCED: Final = "1.2.840.10008.5.1.4.1.1.2.1"


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of the result that objects may name, with its instance.

    Attributes
    ----------
    finding
        What is said of it: of several findings the one that it lies farthest above the threshold
        of. Of a volume, which is judged as a whole, that of the study.
    probability
        Of the finding, 0..1.
    """

    image: Image
    header: Header
    finding: Finding
    probability: float

    @property
    def frame(self) -> Frame:
        """What its header says of it."""
        return self.header.frames[self.image.frame - 1]

    @property
    def frame_numbers(self) -> list[int] | None:
        """The frame that a reference names; None for an instance of one frame."""
        return [self.image.frame] if is_many(self.header) else None


@dataclass(frozen=True, slots=True)
class Source:
    """The readable instances of a study.

    Attributes
    ----------
    headers
        By SOP Instance UID and by which of its contents it is, from 1.
    ambiguous
        SOP Instance UIDs with several contents: a PACS keeps one of them, nobody knows which.
    """

    carried: Carried
    decoder: Decoder
    headers: dict[tuple[str, int], Header]
    ambiguous: frozenset[str]

    def slices(self, result: Result) -> list[Slice]:
        """Return the analysed slices that can be named for certain, in the order of the result."""
        found = []
        for image in result.images:
            header = self.headers.get((image.sop_uid, image.copy))
            if header is None or image.sop_uid in self.ambiguous or image.probability is None:
                continue
            finding = result.finding_of(image)
            if finding is not None:
                found.append(Slice(image, header, finding, image.probability[finding.label]))
            elif result.task is Task.VOLUME and result.finding is not None:
                found.append(Slice(image, header, result.finding, result.finding.probability))
        return found

    def certain(self) -> list[Header]:
        """Return the instances whose SOP Instance UID names one content."""
        return [h for (uid, _), h in self.headers.items() if uid not in self.ambiguous]

    def positive(self, result: Result) -> list[Slice]:
        """Return those of ``slices`` that are positive."""
        return [one for one in self.slices(result) if one.image.positive]

    def rescale(self, one: Slice) -> tuple[float, float]:
        """Return slope and intercept from the stored pixels of a slice to HU."""
        return self.decoder.carried(one.header.path, one.image.frame).rescale

    def data_set(self, header: Header) -> Dataset:
        """Return what identifies an instance and its place, for a library that takes data sets.

        Patient and study are empty in it: ``Carried.into`` writes them, byte by byte.
        """
        dataset = Dataset()
        dataset.SOPClassUID = header.sop_class_uid
        dataset.SOPInstanceUID = header.sop_uid
        dataset.SeriesInstanceUID = header.series_uid
        dataset.StudyInstanceUID = self.carried.study_uid
        _empty(dataset)
        dataset.Modality = header.modality
        dataset.Rows, dataset.Columns = header.rows, header.columns
        dataset.SamplesPerPixel = header.samples
        if header.frame_of_reference_uid:
            dataset.FrameOfReferenceUID = header.frame_of_reference_uid
        if is_many(header):
            dataset.NumberOfFrames = len(header.frames)
            dataset.SharedFunctionalGroupsSequence = [_groups(header.frames[0])]
            dataset.PerFrameFunctionalGroupsSequence = [_position(f) for f in header.frames]
        else:
            _place(header.frames[0], dataset, dataset, dataset)
        return dataset


def named(reference: Reference, study_uid: str) -> Dataset:
    """Return what identifies an object of ours that was sent before."""
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = reference.sop_class_uid, reference.sop_uid
    dataset.SeriesInstanceUID, dataset.StudyInstanceUID = reference.series_uid, study_uid
    _empty(dataset)
    if reference.kind in {Kind.SEG, Kind.SC, Kind.PM}:
        dataset.Rows = dataset.Columns = 1
    return dataset


def is_many(header: Header) -> bool:
    """Return whether a reference to the instance names frames.

    PS3.3 C.17.3: Referenced Frame Number is for multi-frame instances only.
    """
    return len(header.frames) > 1 or header.sop_class_uid == ENHANCED


def _empty(dataset: Dataset) -> None:
    for keyword in (
        *("PatientID", "PatientName", "PatientBirthDate", "PatientSex"),
        *("AccessionNumber", "StudyID", "StudyDate", "StudyTime"),
    ):
        setattr(dataset, keyword, None)


def _groups(frame: Frame) -> Dataset:
    """Return the functional groups that say how the frames lie, of the first of them."""
    item, orientation, measures = Dataset(), Dataset(), Dataset()
    _place(frame, Dataset(), orientation, measures)
    item.PlaneOrientationSequence, item.PixelMeasuresSequence = [orientation], [measures]
    return item


def _position(frame: Frame) -> Dataset:
    """Return the functional group that says where a frame lies."""
    item, position = Dataset(), Dataset()
    _place(frame, position, Dataset(), Dataset())
    item.PlanePositionSequence = [position]
    return item


def _place(frame: Frame, position: Dataset, orientation: Dataset, measures: Dataset) -> None:
    if frame.position_mm is not None:
        position.ImagePositionPatient = [_decimal(x) for x in frame.position_mm]
    if frame.orientation is not None:
        row, column = frame.orientation
        orientation.ImageOrientationPatient = [_decimal(x) for x in (*row, *column)]
    if frame.spacing_mm is not None:
        measures.PixelSpacing = [_decimal(x) for x in frame.spacing_mm]
    measures.SliceThickness = None if frame.thickness_mm is None else _decimal(frame.thickness_mm)


def _decimal(value: float) -> str:
    return str(format_number_as_ds(value))


def read(result: Result, instances: Sequence[Instance], decoder: Decoder) -> Source:
    """Read the instances of a study.

    Raises
    ------
    NotAnalysable
        It is not certain whose study this is: no object may say anything of a patient then.
    Transient
        The decoder is gone.
    """
    found = read_headers(instances, decoder).headers
    headers = [h for h in found if h.study_uid == result.study.study_uid]
    if not headers:
        raise NotAnalysable("no instance of the study can be read: its patient is not known")
    count = len(identity.patients(headers))
    if count > 1:
        raise NotAnalysable(f"the instances of the study name {count} patients")
    numbers = identity.copies((h.sop_uid, h.series_uid, h.path) for h in headers)
    by_uid = {(h.sop_uid, numbers[h.path]): h for h in reversed(headers)}
    contents = Counter(uid for uid, _ in by_uid)
    return Source(
        _carried(result, headers, decoder),
        decoder,
        by_uid,
        frozenset(uid for uid, count in contents.items() if count > 1),
    )


def _carried(result: Result, headers: Sequence[Header], decoder: Decoder) -> Carried:
    """Return what is taken over from the first instance of what was looked at."""
    looked_at = {image.sop_uid for image in result.images}
    for header in sorted(
        headers, key=lambda h: (h.sop_uid not in looked_at, h.series_uid, h.sop_uid)
    ):
        try:
            return decoder.carried(header.path)
        except Unreadable:
            continue
    raise NotAnalysable("no instance of the study can be read: its patient is not known")
