"""Photos of each tenant: Django, its ORM, and psycopg's pool."""

import json
import os

from django.conf import settings

settings.configure(
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[f"{__name__}.KeysmithMiddleware"],
    # The role and the server to connect to: libpq's variables, such as PGHOST.
    DATABASES={"default": {"ENGINE": "django.db.backends.postgresql",
                           "NAME": os.environ["PGDATABASE"],
                           # Without server_side_binding Django writes parameters into the
                           # statement's text, and so keys into statement logs.
                           "OPTIONS": {"pool": {"min_size": 1, "max_size": 2},
                                       "server_side_binding": True}}},
)
import django  # noqa: E402

django.setup()
from django.core.servers.basehttp import run  # noqa: E402
from django.core.wsgi import get_wsgi_application  # noqa: E402
from django.db import connection, models, transaction  # noqa: E402
from django.http import JsonResponse  # noqa: E402
from django.urls import path  # noqa: E402

# keysmith: from here
AUTHENTICATE = """
    SELECT ok, status, code, message, ceil(extract(epoch FROM retry_after))::int
    FROM keysmith.authenticate(%(headers)s::jsonb, %(method)s, %(path)s,
        ip => keysmith.client_ip(%(headers)s::jsonb, %(peer)s, %(proxies)s))"""


class KeysmithMiddleware:
    """Opens the request's transaction, signs its key in, and leaves the rest to views.
    ATOMIC_REQUESTS would begin a transaction too late: it wraps only the view."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        with transaction.atomic():
            with connection.cursor() as cursor:
                cursor.execute(AUTHENTICATE, {
                    "headers": json.dumps(dict(request.headers)), "method": request.method,
                    "path": request.get_full_path(), "peer": request.META["REMOTE_ADDR"],
                    "proxies": os.environ.get("TRUSTED_PROXIES", "{}")})
                ok, status, code, message, retry_after = cursor.fetchone()
            if ok:
                response = self.get_response(request)
                # Django has turned an exception of the view into a response.
                transaction.set_rollback(response.status_code >= 500)
                return response
        headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
        if retry_after:
            headers["Retry-After"] = str(retry_after)
        return JsonResponse({"code": code, "message": message}, status=status, headers=headers)
# keysmith: to here


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
