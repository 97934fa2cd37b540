"""Who made the objects, and by which UIDs, numbers and descriptions they are known.

UIDs come of what the result says, and of nothing that changes from run to run: the same study
and the same bundle give the same UIDs, and another result gives others.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from limen import __version__
from limen.result import Provenance, Result, Task, Timings
from limen.uids import derived_uid
from worker.objects import Kind

__all__ = ["NOTICE", "SERIES", "Identity"]

NOTICE: Final = "NOT FOR DIAGNOSTIC USE"
LONG_STRING: Final = 64
"""Characters of a long string (LO, PS3.5 6.2)."""

SERIES: Final = {
    Kind.SR: (9901, "report"),
    Kind.SEG: (9902, "evidence"),
    Kind.SC: (9903, "pictures"),
    Kind.KO: (9904, "key images"),
    Kind.PM: (9905, "saliency"),
    Kind.PR: (9906, "contours"),
}
"""Numbers so high that the series are last in every list."""

_NO_TIMINGS: Final = Timings("1970-01-01T00:00:00Z", "1970-01-01T00:00:00Z")
_NO_PROVENANCE: Final = Provenance(__version__, "", "0" * 64)


@dataclass(frozen=True)
class Identity:
    """The names of the objects of one result."""

    result: Result

    @cached_property
    def _content(self) -> str:
        """Digest of what the result says, less when and where it was said."""
        said = replace(self.result, timings=_NO_TIMINGS, provenance=_NO_PROVENANCE)
        return hashlib.sha256(said.to_json()).hexdigest()

    def sop_uid(self, kind: Kind, *which: str) -> str:
        """Return the SOP Instance UID of one object of a kind."""
        return derived_uid("limen.object", self._content, kind, *which)

    def series_uid(self, kind: Kind) -> str:
        """Return the UID of the series of a kind; each phase of a revision has its own."""
        return derived_uid("limen.series", self._content, kind)

    def tracking_uid(self, *which: str) -> str:
        """Return the UID of an observation (112040, DCM)."""
        return derived_uid("limen.tracking", self._content, *which)

    @property
    def device_uid(self) -> str:
        """UID of the installed software with this model (121012, DCM)."""
        return derived_uid("limen.device", __version__, self.model_sha256)

    @property
    def model_name(self) -> str:
        """Name of the bundle, or what stands for it where none looked."""
        return self.result.model.name if self.result.model else "no model"

    @property
    def model_version(self) -> str:
        return self.result.model.version if self.result.model else ""

    @property
    def model_sha256(self) -> str:
        return self.result.model.sha256 if self.result.model else ""

    @property
    def model(self) -> str:
        """Name and version in one text."""
        return f"{self.model_name} {self.model_version}".strip()

    def series_number(self, kind: Kind) -> int:
        return SERIES[kind][0]

    def series_description(self, kind: Kind) -> str:
        """Return what a list of series shows: what it is, whose, and what it is not for."""
        end = f" - {NOTICE}"
        what = SERIES[kind][1]
        if kind is Kind.SEG and self.result.task is Task.SEGMENTATION:
            what = "segmentation"
        begin = f"AI {what} {self.model}"
        return begin[: LONG_STRING - len(end)].rstrip() + end
