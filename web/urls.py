"""Every address of the results server. Addresses of pages hold keys: no UID, no PHI."""

from __future__ import annotations

from django.urls import path, register_converter
from drf_spectacular.views import SpectacularAPIView

from web.results import accounts, api, errors, health, pages, staff


class StudyKeyConverter:
    """First 32 hexadecimal digits of the SHA-256 of a StudyInstanceUID."""

    regex = "[0-9a-f]{32}"

    def to_python(self, value: str) -> str:
        """Return the key as it came."""
        return value

    def to_url(self, value: str) -> str:
        """Return the key as it is."""
        return value


class Sha256Converter(StudyKeyConverter):
    """A whole SHA-256, in hexadecimal."""

    regex = "[0-9a-f]{64}"


class UidConverter(StudyKeyConverter):
    """A DICOM UID (PS3.5 9.1)."""

    regex = "[0-9.]{1,64}"


class KindConverter(StudyKeyConverter):
    """What a rendered image shows."""

    regex = "(?:original|explanation)"


register_converter(StudyKeyConverter, "key")
register_converter(KindConverter, "kind")
register_converter(Sha256Converter, "sha256")
register_converter(UidConverter, "uid")

urlpatterns = [
    path("", pages.worklist, name="worklist"),
    path("studies/<key:key>/", pages.study, name="study"),
    path("studies/<key:key>/images/<sha256:sha256>", pages.image, name="image"),
    path("studies/<key:key>/feedback", pages.feedback, name="feedback"),
    path("studies/<key:key>/note", pages.note, name="note"),
    path("studies/<key:key>/state", pages.state, name="state"),
    path("operations/", staff.operations, name="operations"),
    path("operations/order", staff.order, name="order"),
    path("models/", staff.models, name="models"),
    path("audit/", staff.who_saw, name="audit"),
    path("login/", accounts.log_in, name="login"),
    path("login/<str:token>/", accounts.log_in_by_link, name="login-link"),
    path("logout/", accounts.log_out, name="logout"),
    path("password/", accounts.set_password, name="password"),
    path("api/v1/results", api.results, name="api-results"),
    path("api/v1/bulletins", api.bulletins, name="api-bulletins"),
    path("api/v1/deliveries", api.deliveries, name="api-deliveries"),
    path("api/v1/studies", api.studies, name="api-studies"),
    path("api/v1/studies/<uid:uid>", api.study, name="api-study"),
    path(
        "api/v1/studies/<uid:uid>/images/<uid:sop_uid>/<kind:kind>",
        api.image,
        name="api-image",
    ),
    path("api/v1/studies/<uid:uid>/feedback", api.feedback, name="api-feedback"),
    path("api/v1/schema", SpectacularAPIView.as_view(), name="api-schema"),
    path("healthz", health.healthz, name="healthz"),
    path("readyz", health.readyz, name="readyz"),
    path("metrics", health.metrics, name="metrics"),
]

handler400 = errors.bad_request
handler403 = errors.forbidden
handler404 = errors.not_found
handler500 = errors.server_error
