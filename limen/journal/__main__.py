"""``python -m limen.journal``: migrate the journal; its URL is a line on standard input.

For a process that stays small: what the migration loads ends with it. The URL may hold a password,
so it is no argument.
"""

from __future__ import annotations

import sys

from limen.errors import LimenError
from limen.journal import Journal

if __name__ == "__main__":
    journal = Journal(sys.stdin.readline().strip())
    try:
        journal.migrate()
    except LimenError as exc:
        sys.exit(str(exc))
    finally:
        journal.close()
