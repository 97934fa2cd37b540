"""What the receiver accepts and answers, for the Conformance Statement, from its own tables.

``python -m scp.conformance [CONFIG]`` prints it as JSON: ``limen conformance`` reads that, since it
imports no process.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from limen.config import Scp, load
from limen.implementation import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from scp.rejections import REJECTIONS
from scp.sop_classes import COMMITMENT, TRANSFER_SYNTAXES, VERIFICATION, served_by
from scp.statuses import FAILURE_REASONS, STATUSES
from scp.tls import CIPHERS_OF_1_2

__all__ = ["tables"]


def tables(settings: Scp) -> dict[str, Any]:
    """Return what a receiver with these settings does; plain values, as JSON has them."""
    served, storage = served_by(settings)
    return {
        "implementation": [IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME],
        "storage": sorted(storage, key=_by_number),
        "private": sorted(settings.private_sop_classes),
        "storage_syntaxes": list(TRANSFER_SYNTAXES),
        "verification": [VERIFICATION, sorted(served[VERIFICATION])],
        "commitment": [COMMITMENT, sorted(served[COMMITMENT])],
        "statuses": [[f"0x{s:04X}", list(services), when] for s, services, when in STATUSES],
        "failure_reasons": [[f"0x{reason:04X}", when] for reason, when in FAILURE_REASONS],
        "rejections": [[list(code), when] for code, when in REJECTIONS],
        "ciphers": CIPHERS_OF_1_2,
    }


def _by_number(uid: str) -> list[int]:
    return [int(part) for part in uid.split(".")]


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    sys.stdout.write(json.dumps(tables(load(path).scp)))
