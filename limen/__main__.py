"""``python -m limen``: the ``limen`` command."""

import sys

from limen.command.parser import main

sys.exit(main())
