"""Photos of each tenant: Django, its ORM, and psycopg's pool."""

import json
import os

from django.conf import settings

# keysmith: from here
MIDDLEWARE = ["keysmith.django.KeysmithMiddleware"]
# keysmith: to here

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=MIDDLEWARE,
    # The role and the server to connect to: libpq's variables, such as PGHOST.
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql",
                           "NAME": os.environ["PGDATABASE"],
                           "OPTIONS": {"pool": {"min_size": 1, "max_size": 2}}}},
)
import django  # noqa: E402

django.setup()
from django.core.servers.basehttp import run  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import models  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402


class Photo(models.Model):
    # The tenant's column has a default in the database, and needs no field.
    name = models.TextField()

    class Meta:
        app_label = "photos"
        db_table = "photo"
        managed = False


def photos(request):
    if request.method == "POST":
        photo = Photo.objects.create(name=json.loads(request.body)["name"])
        return JsonResponse({"name": photo.name}, status=201)
    return JsonResponse({"photos": list(Photo.objects.order_by("name").values_list("name", flat=True))})


def internal(request):
    return JsonResponse({"internal": True})


urlpatterns = [path("photos", photos), path("internal", internal)]

if __name__ == "__main__":
    run("127.0.0.1", int(os.environ["PORT"]), get_wsgi_application(), threading=True)
