"""Registration with Django."""

from __future__ import annotations

from django.apps import AppConfig


class ResultsConfig(AppConfig):
    """Studies, their result documents, and what readers think of them."""

    name = "web.results"
    label = "results"
