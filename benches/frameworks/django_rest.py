"""djangorestframework-api-key in-process, compared with psycopg that calls keysmith.
Reads a command per line, answers each with a line of JSON. PGHOST and the other libpq variables
say where to connect.
"""

import json
import os
import platform
import random
import sys
import time

import django
import psycopg
from django.conf import settings

settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "rest_framework",
                    "rest_framework_api_key"],
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": os.environ["PGDATABASE"], "USER": os.environ["PGUSER"],
        "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
        # One connection for all requests, with prepared statements: the fastest way.
        "CONN_MAX_AGE": None,
        "OPTIONS": {"server_side_binding": True, "prepare_threshold": 0},
    }},
    USE_TZ=True,
)
django.setup()

from django.core.management import call_command  # noqa: E402
from django.test import RequestFactory  # noqa: E402
from rest_framework_api_key.models import APIKey  # noqa: E402
from rest_framework_api_key.permissions import HasAPIKey  # noqa: E402

REQUESTS = RequestFactory()

connection = psycopg.connect(autocommit=True, prepare_threshold=0)
requests, ours = [], []


def prepare(keys):
    ours.extend(keys)
    call_command("migrate", verbosity=0)
    for _ in keys:
        _, key = APIKey.objects.create_key(name="benchmark")
        requests.append(REQUESTS.get("/", HTTP_AUTHORIZATION=f"Api-Key {key}"))
    return {"python": platform.python_version()}


def driver():
    return connection.execute("SELECT 1").fetchone() == (1,)


def keysmith():
    # The question of a view, which the framework answers with yes or no.
    return connection.execute("SELECT (keysmith.verify(%s, '{images:write}', ip => %s)).ok",
                              (random.choice(ours), "192.0.2.1")).fetchone()[0]


def framework():
    return HasAPIKey().has_permission(random.choice(requests), None)


CONTENDERS = {"driver": driver, "keysmith": keysmith, "framework": framework}


def run(contender, seconds, at_once):
    if at_once != 1:
        raise ValueError("a worker of Python's does one thing at a time")
    call = CONTENDERS[contender]
    calls, used, start = 0, time.process_time(), time.perf_counter()
    while time.perf_counter() - start < seconds:
        if not call():
            raise SystemExit(f"{contender} refused")
        calls += 1
    return {"calls": calls, "seconds": time.perf_counter() - start, "processor": time.process_time() - used}


def main():
    commands = {"prepare": prepare, "run": run}
    for line in sys.stdin:
        details = json.loads(line)
        print(json.dumps(commands[details.pop("command")](**details)), flush=True)


if __name__ == "__main__":
    main()
