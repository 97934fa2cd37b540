"""The identity of a test study: how what Limen sends to itself is marked, and so kept apart.

A test study is known by its StudyInstanceUID alone, which begins with a root that nothing else can
have: it is below a random UUID (PS3.5 B.2). What the journal, the worker and the results server do
with such a study follows from that:

- it goes to the results server and to no PACS, no archive, and no bundle that runs in shadow;
- no worklist, no count and no list of studies shows it, unless asked for test studies;
- its files are purged after a day, whatever ``[retention]`` says.

The patient is called TEST too, for people; nothing is decided by that.
"""

from __future__ import annotations

import time
from typing import Final

__all__ = ["AE_TITLE", "DESTINATION", "ROOT", "is_test", "new_uid"]

ROOT: Final = "2.25.334140781245611686096192605257474960064"
"""Every UID of a test study begins with this and a dot; ``web/results/models.py`` has it too."""

AE_TITLE: Final = "LIMEN_TEST"
"""As whom this node calls its own receiver."""

DESTINATION: Final = "django"
"""The one destination of the results of a test study."""


def is_test(study_uid: str) -> bool:
    """Return whether a study is one that Limen sends to itself."""
    return study_uid.startswith(f"{ROOT}.")


def new_uid() -> str:
    """Return the StudyInstanceUID of another test study: the root, and milliseconds of Unix time.

    At most 58 characters, so that series and instances find room below it.
    """
    return f"{ROOT}.{time.time_ns() // 1_000_000}"
