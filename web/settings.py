"""Django settings. Everything that differs between installations comes from the environment."""

from __future__ import annotations

from pathlib import Path

import dj_database_url
from django.core.exceptions import ImproperlyConfigured

from web import environment, secret

ENVIRONMENT = environment.read()

try:
    ENVIRONMENT.data_dir.mkdir(parents=True, exist_ok=True)
    SECRET_KEY = secret.read_or_create(ENVIRONMENT.secret_key_file)
except (OSError, ValueError) as exc:
    raise ImproperlyConfigured(f"the secret key cannot be read or made: {exc}") from exc

DEBUG = False
ALLOWED_HOSTS = ENVIRONMENT.allowed_hosts
CSRF_TRUSTED_ORIGINS = [ENVIRONMENT.origin]
ROOT_URLCONF = "web.urls"
WSGI_APPLICATION = "web.wsgi.application"
PUBLIC_URL = ENVIRONMENT.public_url
VIEWER_URL = ENVIRONMENT.viewer_url

INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "web.results",
]

MIDDLEWARE = [
    "web.results.middleware.RequestIdMiddleware",
    "web.results.middleware.BodyMiddleware",
    "web.results.middleware.TextMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "csp.middleware.CSPMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.auth.middleware.LoginRequiredMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "web.results.theme.theme",
                "web.results.roles.role",
            ]
        },
    }
]


def _database(url: str) -> dict[str, object]:
    try:
        database = dict(dj_database_url.parse(url, conn_max_age=600, conn_health_checks=True))
    except (ValueError, KeyError) as exc:
        raise ImproperlyConfigured(f"LIMEN_WEB__DATABASE_URL cannot be used: {exc}") from exc
    options = dict(database.get("OPTIONS") or {})
    if database["ENGINE"] == "django.db.backends.sqlite3":
        # A writer takes its lock when it begins: no transaction fails half way
        # because another one wrote since. FULL, as an answered 201 must survive power loss.
        options |= {
            "transaction_mode": "IMMEDIATE",
            "timeout": 20,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;",
        }
    elif database["ENGINE"] == "django.db.backends.postgresql":
        options.setdefault("connect_timeout", 10)
    else:
        raise ImproperlyConfigured("LIMEN_WEB__DATABASE_URL names neither sqlite nor postgres")
    return database | {"OPTIONS": options}


DATABASES = {"default": _database(ENVIRONMENT.database_url)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# Notes for the audit trail, which the node of this host sends (web/results/audit.py).
AUDIT_IS_ON = ENVIRONMENT.audit_is_on
AUDIT_DIR = ENVIRONMENT.data_dir / "audit"
AUDIT_MAX_WAITING = ENVIRONMENT.audit_max_waiting

# Rendered slices and overlays, by the SHA-256 of their bytes.
MEDIA_STORE = ENVIRONMENT.data_dir / "web-media"
# Parts of a large body go to disk as they come; beside the store, not in a small /tmp.
FILE_UPLOAD_TEMP_DIR = str(MEDIA_STORE / "incoming")
Path(FILE_UPLOAD_TEMP_DIR).mkdir(parents=True, exist_ok=True)
FILE_UPLOAD_PERMISSIONS = 0o600
FILE_UPLOAD_MAX_MEMORY_SIZE = 2 << 20
DATA_UPLOAD_MAX_MEMORY_SIZE = 32 << 20
DATA_UPLOAD_MAX_NUMBER_FILES = 20_000
DATA_UPLOAD_MAX_NUMBER_FIELDS = 100
RESULT_MAX_BODY_BYTES = 512 << 20
RESULT_MAX_DOCUMENT_BYTES = 32 << 20
RESULT_MAX_PIXELS = 64_000_000

STATIC_URL = "/static/"
WHITENOISE_USE_FINDERS = True
WHITENOISE_ALLOW_ALL_ORIGINS = False

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}", **options}
    for name, options in (
        ("UserAttributeSimilarityValidator", {}),
        ("MinimumLengthValidator", {"OPTIONS": {"min_length": 10}}),
        ("CommonPasswordValidator", {}),
        ("NumericPasswordValidator", {}),
    )
]
PASSWORD_HASHERS = ["django.contrib.auth.hashers.Argon2PasswordHasher"]
LOGIN_URL = "login"
LOGIN_REDIRECT_URL = "worklist"
LOGIN_LINK_HOURS = 24
LOCKOUT_FAILURES = 10
LOCKOUT_MINUTES = 15
# For so long it is known who was shown which study.
TRAIL_DAYS = 3 * 365
PICTURE_DAYS = ENVIRONMENT.picture_days

_SECURE = PUBLIC_URL.startswith("https://")
SESSION_COOKIE_NAME = "limen_session"
SESSION_COOKIE_AGE = 8 * 3600
SESSION_COOKIE_SECURE = _SECURE
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_NAME = "limen_csrf"
CSRF_COOKIE_SECURE = _SECURE
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_FAILURE_VIEW = "web.results.errors.csrf_failure"

X_FRAME_OPTIONS = "DENY"
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "img-src": ["'self'"],
        "connect-src": ["'self'"],
        "form-action": ["'self'"],
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "web.results.tokens.TokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.IsAuthenticated"],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["web.results.parsers.BoundedJSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "web.results.negotiation.Negotiation",
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "EXCEPTION_HANDLER": "web.results.errors.api_exception",
    # An answer may repeat a word of the request, with characters that UTF-8 does not have.
    "UNICODE_JSON": False,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "Limen results server",
    "DESCRIPTION": "Research software. Not for diagnostic use.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SERVE_PERMISSIONS": ["rest_framework.permissions.IsAuthenticated"],
    "ENFORCE_NON_BLANK_FIELDS": True,
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "web.results.description.refusals",
    ],
}

LANGUAGE_CODE = "en-gb"
USE_I18N = False
USE_TZ = True
TIME_ZONE = "UTC"

LOGGING_CONFIG = "web.logs.configure"
LOGGING = {"level": ENVIRONMENT.log_level, "format": ENVIRONMENT.log_format}
