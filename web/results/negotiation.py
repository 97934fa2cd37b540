"""In which form a client of the API is answered: what it can have, where it wants something else.

A server may answer with what it has (RFC 9110 12.4.1); a picture is a picture, whatever a client
says of JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

from django.http import Http404
from rest_framework import serializers
from rest_framework.exceptions import NotAcceptable
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

__all__ = ["Negotiation"]


class Negotiation(DefaultContentNegotiation):
    """Takes the first form there is where none of those asked for is there."""

    def select_renderer(
        self, request: Request, renderers: Sequence[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """Return who writes the answer, and its type.

        Raises
        ------
        ValidationError
            The address names a form that there is not.
        """
        try:
            chosen: tuple[BaseRenderer, str] = super().select_renderer(
                request, renderers, format_suffix
            )
        except NotAcceptable:
            return renderers[0], renderers[0].media_type
        except Http404 as exc:
            known = ", ".join(one.format for one in renderers)
            raise serializers.ValidationError({"format": [f"is unknown; known: {known}"]}) from exc
        return chosen
