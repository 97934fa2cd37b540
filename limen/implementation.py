"""How this implementation names itself to peers and in files (PS3.7 D.3.3.2, PS3.10 7.1)."""

from __future__ import annotations

from typing import Final

from limen import __version__
from limen.uids import derived_uid

__all__ = ["IMPLEMENTATION_CLASS_UID", "IMPLEMENTATION_VERSION_NAME"]

IMPLEMENTATION_CLASS_UID: Final = derived_uid("limen", "implementation")
IMPLEMENTATION_VERSION_NAME: Final = f"LIMEN_{__version__}"[:16]
