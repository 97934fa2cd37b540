"""The API keeps to its description: every operation, asked by everyone, with words made up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
import schemathesis
from django.core.wsgi import get_wsgi_application
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode, checks

from tests.web import samples

pytestmark = pytest.mark.django_db
UID = samples.study().study_uid
HERE = {"uid": UID, "sop_uid": samples.result().images[0].sop_uid, "kind": "original"}
ACCOUNTS = ("reader", "admin", "integrator")
TOKENS = ("node", "read", "masked", "metrics")
CSRF = "a" * 32
FEW = settings(
    max_examples=3,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def headers_of(token, post) -> Callable[[str], dict[str, str]]:
    """Return with which headers somebody asks; there is a study."""
    from django.conf import settings as ours
    from django.contrib.auth.models import User
    from django.test import Client

    from web.results import roles, tokens

    assert post(samples.result()).status_code == 201

    def headers(who: str) -> dict[str, str]:
        if who in TOKENS:
            one = token if who == "node" else tokens.issue(who, who, 1)[0]
            return {"Authorization": f"Bearer {one}"}
        if who not in ACCOUNTS:
            return {}
        user = User.objects.create(username=who, password="!")
        roles.assign(user, roles.Role(who))
        client = Client()
        client.force_login(user)
        session = client.cookies[ours.SESSION_COOKIE_NAME].value
        cookies = {ours.SESSION_COOKIE_NAME: session, ours.CSRF_COOKIE_NAME: CSRF}
        cookie = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return {"Cookie": cookie, "X-CSRFToken": CSRF}

    return headers


def at_once(app):
    """Return the application with each answer read to its end: files among them are closed."""

    def answer(environ, start_response):
        body = app(environ, start_response)
        with closing(body):
            return [b"".join(body)]

    return answer


@pytest.fixture
def described(token):
    """Return the description that the server gives of itself."""
    found = schemathesis.openapi.from_wsgi(
        "/api/v1/schema?format=json",
        at_once(get_wsgi_application()),
        headers={"Authorization": f"Bearer {token}"},
    )
    found.config.generation.update(with_security_parameters=False)
    return found


def operations(described) -> Iterator[schemathesis.APIOperation]:
    for found in described.get_all_operations():
        yield found.ok()


def ask(case: Case, headers: dict[str, str]) -> None:
    """Ask, and hold the answer to the description."""
    # Who may is what test_access.py says; here every answer has to be a described one.
    left_out = [checks.ignored_auth]
    if case.method == "POST":
        # A number is taken for a text; a text of blanks, or with a NUL, is none.
        left_out += [checks.negative_data_rejection, checks.positive_data_acceptance]
    if "cursor" in (case.query or {}):
        # It goes on alone, which OpenAPI cannot say.
        left_out += [checks.positive_data_acceptance]
    case.call_and_validate(headers=headers, excluded_checks=left_out)


@pytest.mark.parametrize("who", ["nobody", *ACCOUNTS, *TOKENS])
def test_every_operation_answers_everyone_as_it_is_described(described, headers_of, who):
    headers, asked = headers_of(who), set()
    for operation in operations(described):
        known = {name: HERE[name] for name in HERE if f"{{{name}}}" in operation.path}
        for mode in GenerationMode:

            @FEW
            @given(operation.as_strategy(mode, path_parameters=known))
            def asks(case: Case) -> None:
                ask(case, headers)

            asks()
        asked.add(operation.label)
    assert len(asked) == 7


@pytest.mark.parametrize("who", ["reader", "node", "read"])
def test_what_lies_at_the_edge_of_a_description_is_answered_as_it_says(described, headers_of, who):
    """Each bound of each value, one beyond it, what is missing, what is too much."""
    headers, number = headers_of(who), 0
    posts = {"reader": ("feedback",), "node": ("bulletins", "deliveries", "results"), "read": ()}
    for operation in operations(described):
        if operation.method.upper() == "GET" and who == "node":
            continue
        if operation.method.upper() == "POST" and not operation.path.endswith(posts[who]):
            continue
        for case in described.iter_coverage_cases(
            operation,
            generation_modes=list(GenerationMode),
            generation_config=described.config.generation,
        ):
            ask(case, headers)
            number += 1
    assert number > 100
