"""google.api_core warns at its first import that gRPC, which nothing here uses, is incomplete."""

from __future__ import annotations

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ImportWarning)
    import google.api_core.exceptions  # noqa: F401
