"""A project of Django whose database libpq's variables name."""

import os

SECRET_KEY = "for tests"
DEBUG = bool(os.environ.get("DEBUG"))
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "views"
USE_TZ = True
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.sessions", "photos"]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware", "keysmith.django.KeysmithMiddleware"]
SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ.get("PGDATABASE"),
                         # A connection that does not come back is missed soon.
                         "OPTIONS": {"pool": {"min_size": 1, "max_size": 4, "timeout": 10}}},
             "lite": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
KEYSMITH = {"PATHS": ("/v1", "/photos"), "SUBJECT": "views.subject", "SPEND": "views.spend",
            "PERSON": "views.person"}
LOGGING = {"version": 1, "disable_existing_loggers": False,
           "handlers": {"all": {"class": "logging.StreamHandler"}},
           "root": {"handlers": ["all"], "level": "DEBUG"},
           "loggers": {"django.db.backends": {"level": "DEBUG"}}}
