"""Registration with Django."""

from __future__ import annotations

from django.apps import AppConfig


class ResultsConfig(AppConfig):
    """Studies, their result documents, and what readers think of them."""

    name = "web.results"
    label = "results"

    def ready(self) -> None:
        """Listen to who logs in."""
        from web.results import audit  # noqa: PLC0415 - models are there only now

        audit.listen()
