"""What an object takes over from the instance that it is about: patient, study and order.

Texts go over byte by byte, with the character sets that they are written in, so that a PACS
finds the same patient in both. Runs in the children of ``worker.dicom.decoder.Decoder``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from limen.uids import is_uid
from worker.dicom import datasets, elements, groups
from worker.dicom.characters import UNKNOWN
from worker.dicom.groups import FrameGroups

__all__ = ["OTHERS", "TYPE_2", "Carried", "Text", "read"]

UTF_8: Final = "ISO_IR 192"
_SETS: Final = "SpecificCharacterSet"

TYPE_2: Final = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "StudyID"),
)
"""There even where the instance lacks them, and empty then (PS3.5 7.4.3)."""

OTHERS: Final = (
    *("IssuerOfPatientID", "PatientBirthTime", "PatientAge", "PatientSize", "PatientWeight"),
    *("EthnicGroup", "StudyDescription", "BodyPartExamined"),
)
_UIDS: Final = ("StudyInstanceUID", "FrameOfReferenceUID")
_RESCALE: Final = ("RescaleSlope", "RescaleIntercept")
_FORMS: Final = {
    "DA": re.compile(rb"\d{8}"),
    "TM": re.compile(rb"\d\d(?:\d\d(?:\d\d(?:\.\d{1,6})?)?)?"),
    "AS": re.compile(rb"\d{3}[DWMY]"),
    "CS": re.compile(rb"[A-Z0-9_ ]{1,16}"),
    "DS": re.compile(rb"[+-]?(?=.{1,16}$)\d+(?:\.\d*)?"),
}
_SEXES: Final = (b"M", b"F", b"O")
"""What is none of these is left out: it says nothing, and the object would be no valid one."""


@dataclass(frozen=True, slots=True)
class Text:
    """One element: its bytes as they were, and what they say."""

    keyword: str
    raw: bytes
    text: str


@dataclass(frozen=True, slots=True)
class Carried:
    """What is taken over from one instance.

    Attributes
    ----------
    character_sets
        SpecificCharacterSet, values with a backslash between them.
    rescale
        Slope and intercept of a frame (PS3.3 C.11.1); 1 and 0 where it has none.
    """

    study_uid: str
    frame_of_reference_uid: str
    character_sets: str
    texts: tuple[Text, ...]
    rescale: tuple[float, float] = (1.0, 0.0)

    def text(self, keyword: str) -> str:
        """Return what an element says; empty where it is absent."""
        return next((t.text for t in self.texts if t.keyword == keyword), "")

    @property
    def is_sound(self) -> bool:
        """Whether the character sets say all that the texts hold."""
        plain = all(t.raw.isascii() and b"\x1b" not in t.raw for t in self.texts)
        return plain or (
            bool(self.character_sets) and not any(UNKNOWN in t.text for t in self.texts)
        )

    def into(self, dataset: Dataset, *, plain: bool) -> None:
        """Write what is carried into ``dataset``, in place of what it says of patient and study.

        Parameters
        ----------
        plain
            Whether all other texts of ``dataset`` are ASCII: the character sets of the instance
            can say those too. Otherwise all is written as UTF-8.
        """
        given = {text.keyword: text for text in self.texts}
        exact = plain and self.is_sound
        for keyword in (*TYPE_2, *OTHERS):
            tag = Tag(tag_for_keyword(keyword) or 0)
            vr = dictionary_VR(tag)
            dataset.pop(tag, None)
            if keyword not in given:
                if keyword in TYPE_2:
                    dataset[tag] = DataElement(tag, vr, "")
            elif exact:
                raw = given[keyword].raw
                dataset[tag] = RawDataElement(tag, vr, len(raw), raw, 0, False, True)
            else:
                dataset[tag] = DataElement(tag, vr, given[keyword].text)
        dataset.StudyInstanceUID = self.study_uid
        dataset.pop(_SETS, None)
        sets = self.character_sets if exact else "" if plain and self._is_ascii else UTF_8
        if sets:
            dataset.SpecificCharacterSet = sets.split("\\")

    @property
    def _is_ascii(self) -> bool:
        return all(t.text.isascii() for t in self.texts)


def read(path: Path, frame: int = 1) -> Carried:
    """Read what objects about an instance, or one frame of it, take over from it.

    Raises
    ------
    Unreadable
        As ``worker.dicom.headers.read``.
    """
    keywords = (_SETS, *_UIDS, *TYPE_2, *OTHERS, *_RESCALE, *groups.KEYWORDS)
    dataset, _ = datasets.load(path, keywords)
    with datasets.reasons("its data set cannot be understood"):
        own = FrameGroups(dataset, frame)
        slope, intercept = (own.number(k, "PixelValueTransformationSequence") for k in _RESCALE)
        study_uid, frame_of_reference_uid = (elements.text(dataset, k) for k in _UIDS)
        return Carried(
            study_uid=study_uid if is_uid(study_uid) else "",
            frame_of_reference_uid=frame_of_reference_uid if is_uid(frame_of_reference_uid) else "",
            character_sets=elements.text(dataset, _SETS),
            texts=tuple(t for k in (*TYPE_2, *OTHERS) if (t := _text(dataset, k)) is not None),
            rescale=(slope or 1.0, intercept or 0.0),
        )


def _text(dataset: Dataset, keyword: str) -> Text | None:
    tag = Tag(tag_for_keyword(keyword) or 0)
    if tag not in dataset.keys():  # noqa: SIM118
        return None
    raw = dataset.get_item(tag).value
    vr = dictionary_VR(tag)
    if not isinstance(raw, bytes):  # pydicom had to decode it, in a big endian set of words, say
        return None
    raw = raw.rstrip(b" \0")
    form = _FORMS.get(vr)
    if form is not None:
        raw = _modern(vr, raw.strip())
        sex = keyword == "PatientSex"
        if not form.fullmatch(raw) or (sex and raw not in _SEXES):
            return None
    if not raw:
        return None
    text = elements.text(dataset, keyword) if form is None else raw.decode("ascii")
    return Text(keyword, raw + b" " * (len(raw) % 2), text)


def _modern(vr: str, raw: bytes) -> bytes:
    """Return a date or a time as it is written today; ACR-NEMA had dots and colons."""
    return raw.replace(b".", b"") if vr == "DA" else raw.replace(b":", b"") if vr == "TM" else raw
