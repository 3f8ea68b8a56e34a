"""Django settings of the test site, switched by environment variables so that it can play different CDCS sites.

========================  ============================================================================================
``CDCS_STATE``            folder of the database and the blobs (required)
``CDCS_URL``              address that clients use; it becomes part of every PID and blob handle (required)
``CDCS_BASIC``            ``1``: HTTP Basic is accepted; ``first``: and it answers 401 instead of 403; ``0``: not
``CDCS_TOKEN``            ``1``: users may get a token at /api-token-auth/
``CDCS_XML_CONTENT``      ``1``: records have the field ``xml_content`` instead of ``content``
``CDCS_BLOB_EXTENSIONS``  ``any``, ``stock`` (what CDCS allows by itself) or a list such as ``.csv,.h5``
``CDCS_ANONYMOUS``        ``1``: public workspaces can be read without a login
``CDCS_CHECKSUM``         ``MD5``, ``SHA1``, ``SHA256`` or ``SHA512``: the server tells the checksum of a blob
``CDCS_DATABASE``         ``postgresql://user:password@host:port/name``; SQLite in the state folder without it
========================  ============================================================================================
"""

import os
from pathlib import Path
from urllib.parse import urlsplit

STATE = Path(os.environ["CDCS_STATE"])
SERVER_URI = os.environ["CDCS_URL"]


def _on(name: str, default: str = "0") -> bool:
    return os.environ.get(name, default) not in ("", "0")


# --- Django -----------------------------------------------------------------------------------------------------------
SECRET_KEY = "this site holds nothing but test data"
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "[::1]", urlsplit(SERVER_URI).hostname]
ROOT_URLCONF = "cdcs_site.urls"
SITE_ID = 1
USE_TZ = True
TIME_ZONE = "UTC"
LANGUAGE_CODE = "en-us"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
LOGIN_URL = "core_main_app_login"
STATIC_URL = "/static/"
MEDIA_ROOT = str(STATE / "media")
FILE_UPLOAD_TEMP_DIR = str(STATE / "uploads")
# A real site hashes passwords slowly on purpose. Test users have public passwords and many logins.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.sites",
    "django.contrib.staticfiles",
    "rest_framework",
    "rest_framework.authtoken",
    "drf_spectacular",
    "menu",
    "django_celery_beat",
    "fontawesomefree",
    "core_main_app",
    "core_explore_common_app",
    "core_linked_records_app",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "core_main_app.middleware.timezone.TimezoneMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "core_main_app.utils.custom_context_processors.domain_context_processor",
            ]
        },
    }
]
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"stderr": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["stderr"], "level": "WARNING"},
}

# --- database ---------------------------------------------------------------------------------------------------------
if _on("CDCS_DATABASE"):
    _database = urlsplit(os.environ["CDCS_DATABASE"])
    DATABASES = {
        "default": {
            # CDCS compares this name to decide how it may search in JSON: the short new spelling will not do.
            "ENGINE": "django.db.backends.postgresql_psycopg2",
            "HOST": _database.hostname,
            "PORT": _database.port or 5432,
            "USER": _database.username,
            "PASSWORD": _database.password or "",
            "NAME": _database.path.lstrip("/"),
            "CONN_MAX_AGE": None,
        }
    }
else:
    DATABASES = {
        "default": {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": str(STATE / "db.sqlite3"),
            # SQLite is busy, whatever the timeout, for who opens a database that its last user is just closing.
            "CONN_MAX_AGE": None,
            "OPTIONS": {
                # Writers wait for each other instead of failing; a test server need not survive a power cut.
                "timeout": 60,
                "transaction_mode": "IMMEDIATE",
                "init_command": "PRAGMA journal_mode = WAL; PRAGMA synchronous = OFF",
            },
        }
    }

# --- who may come in --------------------------------------------------------------------------------------------------
_basic = os.environ.get("CDCS_BASIC", "1")
_schemes = ["SessionAuthentication", "TokenAuthentication"]
if _basic != "0":
    # The first scheme decides whether a refusal is 401 or 403.
    _schemes.insert(0 if _basic == "first" else 1, "BasicAuthentication")
REST_FRAMEWORK = {
    "DEFAULT_AUTHENTICATION_CLASSES": [f"rest_framework.authentication.{scheme}" for scheme in _schemes],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
ENABLE_OBTAIN_API_TOKEN_ENDPOINT = _on("CDCS_TOKEN", "1")
CAN_ANONYMOUS_ACCESS_PUBLIC_DOCUMENT = _on("CDCS_ANONYMOUS")
CAN_SET_WORKSPACE_PUBLIC = True

# --- data and blobs ---------------------------------------------------------------------------------------------------
# The name under which CDCS lists its own records among those of other sites.
CUSTOM_NAME = WEBSITE_SHORT_TITLE = "Playground"
ENABLE_JSON_SCHEMA_SUPPORT = True
BACKWARD_COMPATIBILITY_DATA_XML_CONTENT = _on("CDCS_XML_CONTENT")
CHECKSUM_ALGORITHM = os.environ.get("CDCS_CHECKSUM") or None
DATA_SORTING_FIELDS = ["-last_modification_date"]
MONGODB_INDEXING = False
_extensions = os.environ.get("CDCS_BLOB_EXTENSIONS", "any")
if _extensions == "any":
    BLOB_EXTENSIONS = None
elif _extensions != "stock":
    BLOB_EXTENSIONS = [extension.lstrip(".") for extension in _extensions.split(",")]

# --- PIDs: every record and blob gets one -----------------------------------------------------------------------------
AUTO_SET_PID = True
PID_PATH = "/PID/"
ID_PROVIDER_SYSTEM_NAME = "local"
ID_PROVIDER_SYSTEM_CONFIG = {
    "class": "core_linked_records_app.utils.providers.local.LocalIdProvider",
    "args": [],
}
ID_PROVIDER_PREFIXES = ["cdcs"]

# --- Celery, without a broker or a worker -----------------------------------------------------------------------------
CELERY_ALWAYS_EAGER = True
BROKER_URL = "memory://"
CELERY_RESULT_BACKEND = "cache+memory://"
CELERYBEAT_SCHEDULER = "django_celery_beat.schedulers:DatabaseScheduler"
