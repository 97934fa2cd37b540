"""How this implementation names itself to peers and in files (PS3.7 D.3.3.2, PS3.10 7.1)."""

from __future__ import annotations

from typing import Final

from limen import __version__
from limen.uids import derived_uid

__all__ = [
    "IMPLEMENTATION_CLASS_UID",
    "IMPLEMENTATION_VERSION_NAME",
    "MANUFACTURER",
    "RESULT_SOP_CLASSES",
]

IMPLEMENTATION_CLASS_UID: Final = derived_uid("limen", "implementation")
IMPLEMENTATION_VERSION_NAME: Final = f"LIMEN_{__version__}"[:16]

MANUFACTURER: Final = "Limen"
"""Manufacturer (0008,0070) of every object that Limen makes."""

RESULT_SOP_CLASSES: Final = frozenset(
    f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("88.34", "66.4", "7", "88.59", "30", "11.1")
)
"""What an object of Limen can be: reports, segmentations, secondary captures, key objects,
parametric maps and presentation states; never what a model looks at."""
