"""The ``limen`` command. Neither process imports it, but for its edge."""

__all__ = ["NOTICE"]

NOTICE = "Research software. Not for diagnostic use."
