"""Bearer tokens of nodes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from django.db import transaction
from django.http import HttpRequest
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.permissions import BasePermission

from web import secret
from web.results.models import Node

__all__ = ["IsNode", "IsReader", "NodeAuthentication", "NodeIdentity", "provide_token"]

TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who a request with a node's token comes from; stands where Django has a user."""

    node: Node
    is_authenticated: bool = True
    is_active: bool = True
    is_staff: bool = False


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class NodeAuthentication(BaseAuthentication):
    """``Authorization: Bearer TOKEN`` (RFC 6750)."""

    keyword = "Bearer"

    def authenticate(self, request: HttpRequest) -> tuple[NodeIdentity, str] | None:
        """Return the node of the token; None where the request brings no token."""
        words = get_authorization_header(request).split()
        if not words or words[0].lower() != b"bearer":
            return None
        token = words[1].decode("ascii", "replace") if len(words) == 2 else ""
        digest = _digest(token)
        node = Node.objects.filter(token_sha256=digest).first()
        if node is None or not hmac.compare_digest(node.token_sha256, digest):
            raise AuthenticationFailed(
                "no node has this token; write a new one with: python -m web setup"
            )
        return NodeIdentity(node), token

    def authenticate_header(self, request: HttpRequest) -> str:  # noqa: ARG002
        """Name the scheme in the 401 answer."""
        return self.keyword


class NodeAuthenticationScheme(OpenApiAuthenticationExtension):
    """How the API description calls the token."""

    target_class = NodeAuthentication
    name = "node"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:  # noqa: ARG002
        """Return the OpenAPI security scheme."""
        return {"type": "http", "scheme": "bearer"}


class IsNode(BasePermission):
    """Only a node may."""

    def has_permission(self, request: HttpRequest, view: object) -> bool:  # noqa: ARG002
        """Tell whether the request brought a node's token."""
        return isinstance(request.user, NodeIdentity)


class IsReader(BasePermission):
    """Only a person who logged in may."""

    def has_permission(self, request: HttpRequest, view: object) -> bool:  # noqa: ARG002
        """Tell whether the request comes from a session."""
        return request.user.is_authenticated and not isinstance(request.user, NodeIdentity)


def provide_token(name: str, path: Path) -> None:
    """See that ``path`` holds the token of the node ``name``, and that the database knows it.

    The file comes first: a token that the database lost, or never had, is
    registered again the next time.

    Raises
    ------
    ValueError
        The file holds something else than a token, or the token of another node.
    """
    try:
        token = path.read_text("utf-8").strip()
    except FileNotFoundError:
        token = ""
    if not token:
        token = secrets.token_urlsafe(32)
        secret.write(path, token)
    if not TOKEN.fullmatch(token):
        raise ValueError(f"{path} holds no token of this server; delete it and run setup again")
    digest = _digest(token)
    with transaction.atomic():
        if Node.objects.filter(token_sha256=digest).exclude(name=name).exists():
            raise ValueError(f"{path} holds the token of another node; choose another file")
        Node.objects.update_or_create(name=name, defaults={"token_sha256": digest})
