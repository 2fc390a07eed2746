"""Views that do what views do, and what they must not."""

import asyncio
import json
import threading

import psycopg
from django.core.exceptions import PermissionDenied
from django.db import connection, connections, transaction
from django.http import Http404, HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path
from photos.models import Photo

import keysmith


def subject(request):
    return request.headers.get("X-User")


def spend(request):
    return 2 if request.path.startswith("/v1/settles") else 0


def person(request):
    """Whom a session names; the view `log_in` makes one."""
    return request.session.get("person")


def names():
    return list(Photo.objects.order_by("name").values_list("name", flat=True))


def photos(request):
    if request.method == "POST":
        photo = Photo.objects.create(name=json.loads(request.body)["name"])
        return JsonResponse({"name": photo.name, "tenant_id": str(photo.tenant_id)}, status=201)
    return JsonResponse({"photos": names()})


def caller(request):
    by = request.keysmith
    by.tags["model"] = "small"
    response = JsonResponse({"tenant": by.tenant, "key_id": by.key_id and str(by.key_id),
                             "request_id": by.request_id and str(by.request_id), "repr": repr(by),
                             "same": by.connection is connections["default"], "path": request.get_full_path()})
    response["RateLimit"] = "mine"
    return response


def answers(request, status):
    Photo.objects.create(name=f"answered {status}")
    return HttpResponse(status=status)


ERRORS = {"not_found": Http404, "denied": PermissionDenied, "value": ValueError,
          "refused": lambda: keysmith.Refused(418, "teapot", "No coffee.", {"X-Tea": "green"})}


def raises(request, name):
    Photo.objects.create(name=f"raised {name}")
    raise ERRORS[name]()


def state(request, code):
    """An error with an SQLSTATE, which nobody catches."""
    Photo.objects.create(name=f"state {code}")
    with connection.cursor() as cursor:
        cursor.execute("DO $$ BEGIN RAISE EXCEPTION 'what it says' USING ERRCODE = '%s'; END $$" % code)


def ends(request, how):
    Photo.objects.create(name=f"ended {how}")
    {"commit": connection.commit, "rollback": connection.rollback,
     "autocommit": lambda: connection.set_autocommit(True)}[how]()
    return JsonResponse({"photos": names()})


def broken(request, how):
    """The transaction is broken, and the view does not notice."""
    Photo.objects.create(name=f"broken {how}")
    try:
        if how == "statement":
            connection.cursor().execute("SELECT 1 / 0")
        elif how == "block":
            with transaction.atomic(savepoint=False):
                raise ValueError
        elif how == "closed":
            connection.close()
        elif how == "deferred":
            connection.cursor().execute("SET CONSTRAINTS ALL DEFERRED; INSERT INTO late VALUES (1)")
    except Exception:
        pass
    return HttpResponse("fine")


def savepoint(request):
    Photo.objects.create(name="kept")
    try:
        with transaction.atomic():
            Photo.objects.create(name="undone")
            raise ValueError
    except ValueError:
        pass
    return JsonResponse({"photos": names()})


seen = {}


def hooks(request, how):
    Photo.objects.create(name=f"hook {how}")
    transaction.on_commit(lambda: seen.update(at_commit=connection.in_atomic_block))
    if how == "fails":
        transaction.on_commit(lambda: 1 / 0)
    return JsonResponse({})


def streams(request, how):
    by = request.keysmith

    def parts():
        yield b"begun\n"
        try:
            yield (str(names()) if how == "models" else str(by.connection)).encode()
        except Exception as error:
            yield f"{type(error).__name__}: {error}".encode()

    Photo.objects.create(name=f"streamed {how}")
    return StreamingHttpResponse(parts())


def body(request):
    return JsonResponse({"length": len(request.body), "start": request.body[:20].decode("latin-1")})


def reads(request):
    return JsonResponse({"length": sum(len(part) for part in iter(lambda: request.read(65_536), b""))})


def form(request):
    return JsonResponse({"post": dict(request.POST), "files": {name: file.read().decode() for name, file in request.FILES.items()}})


def settles(request, when):
    by = request.keysmith
    if when == "inside":
        return JsonResponse({"settled": [by.settle(spend=1), by.settle(spend=1)]})
    answered = seen["answered"] = threading.Event()
    threading.Thread(target=lambda: answered.wait(60) and seen.update(settled=by.settle(spend=1))).start()
    return JsonResponse({})


def raw(request):
    """A connection of one's own has no identity."""
    with psycopg.connect("") as other:
        return JsonResponse({"photos": [row[0] for row in other.execute("SELECT name FROM photos_photo")]})


def log_in(request):
    request.session["person"] = request.GET.getlist("person")
    return JsonResponse({})


def outside(request, what):
    if what == "seen":
        if "answered" in seen:
            seen.pop("answered").set()
        return JsonResponse({name: value for name, value in seen.items()})
    return JsonResponse({"photos": names(), "caller": repr(request.keysmith) if what == "caller" else None})


async def async_photos(request):
    if request.method == "POST":
        await Photo.objects.acreate(name=json.loads(request.body)["name"])
    return JsonResponse({"photos": [photo.name async for photo in Photo.objects.order_by("name")],
                         "tenant": request.keysmith.tenant})


async def waits(request):
    """Until the client has left."""
    await Photo.objects.acreate(name="waits " + request.GET["n"])
    seen["waits"] = True
    await asyncio.Event().wait()


urlpatterns = [
    path("photos", photos), path("v1/photos", photos), path("v1/caller", caller), path("v1/café 1", caller),
    path("v1/answers/<int:status>", answers), path("v1/raises/<name>", raises), path("v1/state/<code>", state),
    path("v1/ends/<how>", ends), path("v1/broken/<how>", broken), path("v1/savepoint", savepoint),
    path("v1/hooks/<how>", hooks), path("v1/streams/<how>", streams), path("v1/body", body), path("v1/reads", reads), path("v1/form", form),
    path("v1/settles/<when>", settles), path("v1/raw", raw), path("v1/async", async_photos), path("v1/waits", waits), path("v1/public", caller),
    path("log_in", log_in), path("outside/<what>", outside)]
