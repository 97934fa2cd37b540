"""DICOM objects that say in the PACS what Limen found, in the patient's own study.

``worker.objects.build.build`` is the function that others call::

    build(
        result: Result,                     # the document of one phase of one study revision
        files: Mapping[str, Path],          # the pictures that it names
        instances: Sequence[Instance],      # where the instances of the study are
        decoder: Decoder,
        wanted: Collection[Kind],
        *,
        replaces: Sequence[Reference] = (), # the report that this one takes the place of
        validate: bool = True,              # whether dciodvfy is asked, where it is installed
    ) -> Objects

A prediction gives the report (``sr``) and the key object selection (``ko``); an explanation
gives a report with the evidence, and everything that shows it. Where ``sc`` is wanted and
``sr`` is not, a page of text stands in for the report of any phase. The same document gives the
same UIDs and the same bytes.

``build_rejection`` beside it builds the key object selection (113037, DCM) that rejects what a PACS
has of earlier revisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Built", "Kind", "Objects", "Reference", "Refused"]


class Kind(StrEnum):
    """What an object is; the values are those of the settings."""

    SR = "sr"
    """Comprehensive 3D SR, TID 1500: the report."""
    SEG = "seg"
    """Segmentation: the superpixels that speak for the finding."""
    SC = "sc"
    """Secondary capture: the top slices beside their evidence."""
    KO = "ko"
    """Key Object Selection: the positive slices, or what is rejected."""
    PM = "pm"
    """Parametric Map: the weights of the superpixels."""
    PR = "pr"
    """Grayscale Softcopy Presentation State: the contour of the evidence."""


@dataclass(frozen=True, slots=True)
class Reference:
    """How other objects name one of ours."""

    kind: Kind
    sop_class_uid: str
    sop_uid: str
    series_uid: str


@dataclass(frozen=True, slots=True)
class Built:
    """An object that may be sent.

    Attributes
    ----------
    body
        The whole file (PS3.10), Explicit VR Little Endian.
    """

    kind: Kind
    sop_class_uid: str
    sop_uid: str
    series_uid: str
    body: bytes

    @property
    def reference(self) -> Reference:
        """How a later object names this one."""
        return Reference(self.kind, self.sop_class_uid, self.sop_uid, self.series_uid)


@dataclass(frozen=True, slots=True)
class Refused:
    """An object that must not be sent, and why not; the reason names no patient."""

    kind: Kind
    reason: str


@dataclass(frozen=True, slots=True)
class Objects:
    """What ``build`` returns: what may be sent, in the order to send it, and what may not."""

    built: tuple[Built, ...]
    refused: tuple[Refused, ...]
