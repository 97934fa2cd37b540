"""Bearer tokens: a node's, which posts results, and those of clients, which read.

A node's token reads nothing. A client's has one scope and an end (web/results/models.py).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from django.db import transaction
from django.db.models import Q
from django.http import HttpRequest
from django.utils import timezone
from drf_spectacular.extensions import OpenApiAuthenticationExtension
from rest_framework.authentication import BaseAuthentication, get_authorization_header
from rest_framework.exceptions import AuthenticationFailed, Throttled
from rest_framework.permissions import BasePermission

from web import secret
from web.results import roles
from web.results.models import ClientToken, Node, Scope

__all__ = [
    "ClientIdentity",
    "IsNode",
    "IsReader",
    "MayReadMetrics",
    "MayReadNames",
    "MayReadOutcomes",
    "NodeIdentity",
    "TokenAuthentication",
    "is_masked",
    "issue",
    "provide_token",
    "revoke",
]

TOKEN = re.compile(r"[A-Za-z0-9_-]{32,128}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_DAYS = 3650
# The time of the last use is written once in a while, not with every request.
USED_S = 60
# Wrong tokens of one address before its wrong tokens are no longer explained.
WRONG, WRONG_S = 10, 60
ADDRESSES = 10_000


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """Who a request with a node's token comes from; stands where Django has a user."""

    node: Node
    is_authenticated: bool = True
    is_active: bool = True
    is_staff: bool = False

    def get_username(self) -> str:
        """Name of the node."""
        return self.node.name


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Who a request with a client's token comes from; stands where Django has a user."""

    token: ClientToken
    is_authenticated: bool = True
    is_active: bool = True
    is_staff: bool = False

    def get_username(self) -> str:
        """Name of the token."""
        return self.token.name


class _WrongTokens:
    """Wrong tokens by address, of the last minute.

    A right token is never turned away: behind a proxy everybody has one address.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def note(self, address: str) -> float:
        """Count one; return for how many seconds this address has used up its tries."""
        now = time.monotonic()
        with self._lock:
            since, number = self._counts.pop(address, (now, 0))
            if now - since >= WRONG_S:
                since, number = now, 0
            self._counts[address] = since, number + 1
            while len(self._counts) > ADDRESSES:
                self._counts.popitem(last=False)
        return WRONG_S - (now - since) if number >= WRONG else 0.0


WRONG_TOKENS = _WrongTokens()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


class TokenAuthentication(BaseAuthentication):
    """``Authorization: Bearer TOKEN`` (RFC 6750)."""

    keyword = "Bearer"

    def authenticate(
        self, request: HttpRequest
    ) -> tuple[NodeIdentity | ClientIdentity, str] | None:
        """Return whose token it is; None where the request brings no token."""
        words = get_authorization_header(request).split()
        if not words or words[0].lower() != b"bearer":
            return None
        token = words[1].decode("ascii", "replace") if len(words) == 2 else ""
        digest = _digest(token)
        node = Node.objects.filter(token_sha256=digest).first()
        if node is not None and hmac.compare_digest(node.token_sha256, digest):
            return NodeIdentity(node), token
        client = ClientToken.objects.filter(token_sha256=digest).first()
        if client is None or not hmac.compare_digest(client.token_sha256, digest):
            self._refuse(
                request,
                "no node and no client has this token; `limen web setup` makes that of the node, "
                "`limen web token new NAME` one that reads",
            )
        return ClientIdentity(self._good(request, client)), token

    def _good(self, request: HttpRequest, client: ClientToken) -> ClientToken:
        now = timezone.now()
        if client.revoked_at is not None:
            self._refuse(request, f"this token was revoked on {client.revoked_at:%Y-%m-%d}")
        if client.expires_at <= now:
            self._refuse(
                request,
                f"this token expired on {client.expires_at:%Y-%m-%d}; "
                "make another with: limen web token new NAME",
            )
        long_ago = Q(used_at=None) | Q(used_at__lt=now - timedelta(seconds=USED_S))
        ClientToken.objects.filter(long_ago, pk=client.pk).update(used_at=now)
        return client

    def _refuse(self, request: HttpRequest, why: str) -> None:
        """Refuse a token.

        Raises
        ------
        AuthenticationFailed
            Always, but
        Throttled
            when too many wrong tokens came from this address.
        """
        wait_s = WRONG_TOKENS.note(request.META.get("REMOTE_ADDR", ""))
        if wait_s:
            raise Throttled(wait_s, "too many wrong tokens from this address")
        raise AuthenticationFailed(why)

    def authenticate_header(self, request: HttpRequest) -> str:  # noqa: ARG002
        """Name the scheme in the 401 answer."""
        return self.keyword


class TokenAuthenticationScheme(OpenApiAuthenticationExtension):
    """How the API description calls the token."""

    target_class = TokenAuthentication
    name = "token"

    def get_security_definition(self, auto_schema: object) -> dict[str, str]:  # noqa: ARG002
        """Return the OpenAPI security scheme."""
        return {"type": "http", "scheme": "bearer"}


class IsNode(BasePermission):
    """Only a node may."""

    message = "only a node posts; its token is made by: limen web setup"

    def has_permission(self, request: HttpRequest, view: object) -> bool:  # noqa: ARG002
        """Tell whether the request brought a node's token."""
        return isinstance(request.user, NodeIdentity)


class IsReader(BasePermission):
    """Only a person who logged in, and may see patients, may."""

    message = "only a person who logged in, and may see patients, votes; no token does"

    def has_permission(self, request: HttpRequest, view: object) -> bool:  # noqa: ARG002
        """Tell whether the request comes from a session of such an account."""
        if isinstance(request.user, NodeIdentity | ClientIdentity):
            return False
        return request.user.is_authenticated and roles.of(request.user).sees_patients


class _Scoped(BasePermission):
    """A person who logged in may, and a client whose token has one of the scopes."""

    scopes: frozenset[str] = frozenset()

    def has_permission(self, request: HttpRequest, view: object) -> bool:  # noqa: ARG002
        """Tell whether the session or the token reaches this far; say what would."""
        if isinstance(request.user, ClientIdentity):
            has = request.user.token.scope
        elif isinstance(request.user, NodeIdentity):
            has = "write"
        else:
            return bool(request.user.is_authenticated)
        wanted = " or ".join(sorted(self.scopes))
        self.message = (
            f"this token has the scope {has}; {wanted} is needed: "
            f"limen web token new NAME --scope {min(self.scopes)}"
        )
        return has in self.scopes


class MayReadOutcomes(_Scoped):
    """Outcomes and results; without names where the token is masked."""

    scopes = frozenset({Scope.READ.value, Scope.MASKED.value})


class MayReadNames(_Scoped):
    """What shows who the patient is: pictures of a head do."""

    scopes = frozenset({Scope.READ.value})

    def has_permission(self, request: HttpRequest, view: object) -> bool:
        """Tell whether the session or the token may see patients; say what could."""
        if super().has_permission(request, view):
            self.message = "only an account that may see patients is shown pictures of them"
            return not is_masked(request)
        return False


class MayReadMetrics(_Scoped):
    """The metrics."""

    scopes = frozenset({Scope.METRICS.value})


def is_masked(request: HttpRequest) -> bool:
    """Tell whether names have to stay out of the answer."""
    identity = request.user
    if isinstance(identity, ClientIdentity):
        return identity.token.scope == Scope.MASKED
    return not roles.of(identity).sees_patients


def issue(name: str, scope: str, days: int) -> tuple[str, ClientToken]:
    """Make a client's token; the text is nowhere else.

    Raises
    ------
    ValueError
        The name cannot be used, or is that of another token; or the days cannot.
    """
    if not NAME.fullmatch(name):
        raise ValueError(
            "a token has a name of 1 to 64 letters, digits, dots, dashes and underscores"
        )
    if not 1 <= days <= MAX_DAYS:
        raise ValueError(f"a token is good for 1 to {MAX_DAYS} days")
    token = secrets.token_urlsafe(32)
    now = timezone.now()
    with transaction.atomic():
        ClientToken.objects.filter(Q(expires_at__lte=now) | ~Q(revoked_at=None), name=name).delete()
        if ClientToken.objects.filter(name=name).exists():
            raise ValueError(
                f"there is a token {name}; choose another name, or: limen web token revoke {name}"
            )
        row = ClientToken.objects.create(
            name=name,
            token_sha256=_digest(token),
            scope=scope,
            expires_at=now + timedelta(days=days),
        )
    return token, row


def revoke(name: str) -> None:
    """Make a client's token good for nothing, from now on.

    Raises
    ------
    ValueError
        There is none of this name that is good.
    """
    rows = ClientToken.objects.filter(name=name, revoked_at=None)
    if not rows.update(revoked_at=timezone.now()):
        raise ValueError(f"there is no token {name} to revoke; limen web token list shows them")


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
        raise ValueError(
            f"{path} holds no token of this server; delete it and run `limen web setup` again"
        )
    digest = _digest(token)
    with transaction.atomic():
        if Node.objects.filter(token_sha256=digest).exclude(name=name).exists():
            raise ValueError(f"{path} holds the token of another node; choose another file")
        Node.objects.update_or_create(name=name, defaults={"token_sha256": digest})
