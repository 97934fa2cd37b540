"""JSON of a request, whose depth is nobody else's fault."""

from __future__ import annotations

from typing import IO, Any

from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

__all__ = ["BoundedJSONParser"]


class BoundedJSONParser(JSONParser):
    """Refuses what is nested too deeply to be read, as it refuses what is no JSON."""

    def parse(self, stream: IO[bytes], *args: Any, **options: Any) -> Any:
        """Return what the body holds.

        Raises
        ------
        ParseError
            It is no JSON, or nested too deeply.
        """
        try:
            return super().parse(stream, *args, **options)
        except RecursionError as exc:
            raise ParseError("the JSON is nested too deeply") from exc
