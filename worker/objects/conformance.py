"""What the objects are that a PACS is sent, for the Conformance Statement.

``python -m worker.objects.conformance`` prints it as JSON: ``limen conformance`` reads that, since
it imports no process.
"""

from __future__ import annotations

import json
import sys
from typing import Any, Final

from worker.dicom.carried import OTHERS, TYPE_2
from worker.objects import Kind
from worker.objects.identity import SERIES

__all__ = ["tables"]

_STORAGE: Final = "1.2.840.10008.5.1.4.1.1."
_OF: Final = {
    Kind.SR: (
        f"{_STORAGE}88.34",
        "SR",
        "TID 1500 with TID 1501 and TID 1410; PRELIMINARY, UNVERIFIED; the finding of the study "
        "and of each positive slice, its probability (122157, DCM), model and version (TID 4019), "
        "and, with an explanation, a box (SCOORD) of each region of the evidence; of a "
        "segmentation area and volume",
    ),
    Kind.SEG: (
        f"{_STORAGE}66.4",
        "SEG",
        "BINARY; the superpixels that speak for the finding, a segment for each finding; an "
        "explanation of the model, not the outline of a lesion; of a model that is a segmentation "
        "what it marks, under the code of the finding",
    ),
    Kind.SC: (
        f"{_STORAGE}7",
        "OT",
        "the explained slices, original beside evidence; or one page of text in place of a report "
        "that is refused or not wanted; Burned In Annotation YES",
    ),
    Kind.KO: (
        f"{_STORAGE}88.59",
        "KO",
        "TID 2010; Of Interest (113000, DCM): the positive slices; or Rejected for Patient Safety "
        "Reasons (113037, DCM): what is there of earlier revisions, where that is configured",
    ),
    Kind.PM: (
        f"{_STORAGE}30",
        "OT",
        "32-bit float; Saliency (130404, DCM): the weights of the superpixels, a frame for each "
        "source slice",
    ),
    Kind.PR: (
        f"{_STORAGE}11.1",
        "PR",
        "the contour of the evidence on its slice; only where it is asked for",
    ),
}


def tables() -> dict[str, Any]:
    """Return the objects, and what they take over; plain values, as JSON has them."""
    return {
        "objects": [
            [kind.value, sop_class, modality, SERIES[kind][0], f"AI {SERIES[kind][1]} MODEL", what]
            for kind, (sop_class, modality, what) in _OF.items()
        ],
        "always": list(TYPE_2),
        "where_there": list(OTHERS),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(tables()))
