"""Keys of djangorestframework-api-key, in its own tables of the database that PGDATABASE names. Prints each
key, by its name."""

import datetime
import json
import os

import django
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["rest_framework", "rest_framework_api_key"], USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql", "NAME": os.environ["PGDATABASE"]}})
django.setup()

from django.core.management import call_command  # noqa: E402
from rest_framework_api_key.models import APIKey  # noqa: E402

call_command("migrate", verbosity=0)
now = datetime.datetime.now(datetime.timezone.utc)
day = datetime.timedelta(days=1)
keys = {}
for name, fields in {"plain": {}, "another": {}, "revoked": {"revoked": True}, "expired": {"expiry_date": now - day},
                     "ending": {"expiry_date": now + day}}.items():
    _, keys[name] = APIKey.objects.create_key(name=name, **fields)
print(json.dumps({name: {"key": key, "is_valid": APIKey.objects.is_valid(key)} for name, key in keys.items()}))
