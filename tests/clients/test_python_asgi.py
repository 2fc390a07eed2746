"""The Python package's ASGI middleware, without a framework and without a server: odd requests and bad moments."""

import asyncio
import json
import logging

import psycopg
import pytest

import python_site
from python_site import Http, answering, site  # noqa: F401

pytest.importorskip("psycopg_pool")
from psycopg_pool import AsyncConnectionPool  # noqa: E402

from keysmith.asgi import KeysmithMiddleware  # noqa: E402

TEXT = {"content-type": "text/plain"}
JSON = {"content-type": "application/json"}


async def body_of(receive):
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message.get("more_body"):
            break
    return body


async def photos(scope, receive, send):
    """Answers with the photos that its transaction shows; a POST adds one. The query is the status."""
    caller, body = scope["keysmith"], await body_of(receive)
    if scope["method"] == "POST":
        await caller.connection.execute("INSERT INTO photo (name) VALUES (%s)", [body.decode()])
    names = [name for name, in await (await caller.connection.execute("SELECT name FROM photo")).fetchall()]
    await answering(send, [caller.tenant, names], int(scope["query_string"] or b"200"), {b"x-app": b"yes"})


async def echo(scope, receive, send):
    body = await body_of(receive)
    await answering(send, [len(body), body[:40].decode("latin-1")])


def running(site, work, pool_size=1, **kwargs):
    """Runs work(pool) with a pool that has, unless told otherwise, one session."""
    async def in_pool():
        async with AsyncConnectionPool(site.dsn, min_size=pool_size, max_size=pool_size, timeout=10, **kwargs) as pool:
            return await work(pool)

    return asyncio.run(in_pool())


def served(site, app, *requests, **options):
    """Sends requests to the application behind the middleware, one after the other, over one session."""
    async def all_of_them(pool):
        http = Http(KeysmithMiddleware(app, pool, **options))
        return [await http.send(method, path, **(more[0] if more else {})) for method, path, *more in requests]

    return running(site, all_of_them)


def test_each_key_sees_its_own(site):
    acme, globex = site.key("acme"), site.key("globex")
    answers = served(site, photos, ("POST", "/photos", {"key": acme, "body": b"one", "headers": TEXT}),
                     ("GET", "/photos", {"key": acme}), ("GET", "/photos", {"key": globex}), ("GET", "/photos"),
                     ("GET", "/public"))
    assert [answer.status for answer in answers] == [200, 200, 200, 401, 200]
    assert [answer.json for answer in answers[:3]] == [["acme", ["one"]], ["acme", ["one"]], ["globex", []]]
    assert answers[3].headers["www-authenticate"].startswith("Bearer")
    assert answers[4].json == [None, []]
    assert site.photos() == [("acme", "one")]
    assert site.logged("status", "endpoint", "latency IS NOT NULL") == [
        (200, "/photos", True), (200, "/photos", True), (200, "/photos", True)]


def test_a_public_request_without_a_key_has_no_record_to_complete(site, cluster):
    cluster.execute("ALTER ROLE app SET log_statement = 'all'")
    start = cluster.log.stat().st_size
    (answer,) = served(site, photos, ("GET", "/public"))
    log = cluster.log.read_bytes()[start:].decode()
    assert answer.status == 200 and "keysmith.serve(" in log and "log_request" not in log


def test_endpoints_are_answered_by_the_database(site):
    key = site.key()
    made, form, bad, me, head, gone = served(
        site, photos, ("POST", "/v1/keys", {"key": key, "body": {"label": "CI"}, "headers": JSON}),
        ("POST", "/v1/keys", {"key": key, "body": b'{"label": "curl"}',
                              "headers": {"content-type": "application/x-www-form-urlencoded"}}),
        ("POST", "/v1/keys", {"key": key, "body": {"nope": 1}, "headers": JSON}),
        ("GET", "/v1/me", {"key": key}), ("HEAD", "/v1/me", {"key": key}), ("DELETE", "/v1/keys/x", {"key": key}))
    assert [answer.status for answer in (made, form, bad, me, head, gone)] == [201, 201, 400, 200, 200, 404]
    assert made.json["label"] == "CI" and form.json["label"] == "curl" and me.json["tenant"] == "acme"
    assert head.content == b"" and "content-length" not in head.headers
    assert int(made.headers["content-length"]) == len(made.content)
    assert made.headers["cache-control"] == "no-store"
    assert site.db.reason(made.json["api_key"]) == "ok"


LONG = b'{"label": "' + b"x" * 140_000 + b'"}'


@pytest.mark.parametrize("body, headers, status", [
    (b"{", JSON, 400), (b"\xff{", JSON, 400), (b'{"label": "\xff"}', JSON, 400), (b'{"label": "\x00"}', JSON, 400),
    (b'{"label": "\\u0000"}', JSON, 400), (b'{"label": "\\ud800"}', JSON, 400), (b"[1]", JSON, 400), (b"1", JSON, 400),
    (b"[" * 100_000, JSON, 400), (b'{"a":' * 26_000, JSON, 400), (b"\xef\xbb\xbf{}", JSON, 400), (b"  ", JSON, 400),
    (b"a=1&b=2", {"content-type": "application/x-www-form-urlencoded"}, 400), (LONG, JSON, 400),
    (b"{}", TEXT, 415), (b"", TEXT, 201), (b"null", JSON, 201), (b"", {}, 201), (b" {} ", {}, 201),
    (b"{}", {"content-type": "application/merge-patch+json; charset=utf-8"}, 201),
], ids=range(20))
def test_bodies_that_an_endpoint_may_not_take(site, body, headers, status):
    """And an application gets each of them as it came, in the same pieces' sum."""
    key, at = site.key(), len(body) // 2
    pieces = [{"type": "http.request", "body": body[:at], "more_body": True}, {"type": "http.request", "body": body[at:]}]
    endpoint, own, without_length = served(
        site, echo, ("POST", "/v1/keys", {"key": key, "messages": pieces, "headers": headers}),
        ("POST", "/own", {"key": key, "messages": pieces, "headers": headers | {"content-length": str(len(body))}}),
        ("POST", "/own", {"key": key, "messages": pieces, "headers": headers}))
    assert endpoint.status == status, endpoint.content
    assert own.json == without_length.json == [len(body), body[:40].decode("latin-1")]
    assert not site.busy()


def test_a_body_that_says_it_is_long_is_not_read(site):
    """The database answers it by its length at an endpoint, and an application reads it as it comes."""
    async def unread(scope, receive, send):
        await answering(send, "unread")

    key, headers = site.key(), JSON | {"content-length": str(len(LONG))}
    answer, endpoint = served(site, unread, ("POST", "/own", {"key": key, "messages": [], "headers": headers}),
                              ("POST", "/v1/keys", {"key": key, "messages": [], "headers": headers}))
    assert answer.json == "unread"
    assert endpoint.status in (201, 413)


def test_a_client_that_leaves_before_its_body_is_there(site):
    async def never(scope, receive, send):
        raise AssertionError("called")

    (answer,) = served(site, never, ("POST", "/own", {"key": site.key(), "headers": JSON, "messages": [
        {"type": "http.request", "body": b"{", "more_body": True}, {"type": "http.disconnect"}]}))
    assert answer.messages == []
    assert site.logged("method") == []


def test_the_disconnect_is_told_after_the_body(site):
    async def waits(scope, receive, send):
        await answering(send, [(await receive())["body"].decode(), (await receive())["type"]])

    (answer,) = served(site, waits, ("POST", "/own", {"key": site.key(), "headers": JSON, "body": b"{}"}))
    assert answer.json == ["{}", "http.disconnect"]


def test_an_answer_that_reports_an_error_has_changed_nothing(site):
    key = site.key()
    bad, good = served(site, photos, ("POST", "/photos?409", {"key": key, "body": b"never", "headers": TEXT}),
                       ("POST", "/photos?302", {"key": key, "body": b"once", "headers": TEXT}))
    assert (bad.status, good.status) == (409, 302)
    assert bad.headers["x-app"] == good.headers["x-app"] == "yes"
    assert site.photos() == [("acme", "once")]
    assert site.logged("status", "latency IS NOT NULL") == [(409, True), (302, True)]


def test_nothing_is_sent_before_the_commit(site):
    seen = []

    async def look(scope, receive, send):
        await scope["keysmith"].connection.execute("INSERT INTO note VALUES ('x')")

        async def sent(message):
            await send(message)

        await answering(sent, "")

    async def work(pool):
        middleware = KeysmithMiddleware(look, pool)

        async def app(scope, receive, send):
            async def keep(message):
                seen.append((message["type"], site.db.value("SELECT count(*) FROM note"), site.logged("status")))
                await send(message)

            await middleware(scope, receive, keep)

        await Http(app).send("GET", "/", site.key())

    running(site, work)
    assert seen == [("http.response.start", 1, [(200,)]), ("http.response.body", 1, [(200,)])]


def test_a_commit_that_fails(site, caplog):
    """The constraint is deferred: it fails at the commit, when the handler has answered already."""
    key = site.key()
    good, bad, after = served(site, photos, *[("POST", "/photos", {"key": key, "body": b"twin", "headers": TEXT})] * 2,
                              ("GET", "/photos", {"key": key}))
    assert (good.status, bad.status, after.status) == (200, 503, 200)
    assert bad.json == {"code": "unavailable", "message": "The service is unavailable."}
    assert bad.headers["cache-control"] == "no-store" and "x-app" not in bad.headers
    assert site.photos() == [("acme", "twin")]
    assert site.logged("status") == [(200,), (503,), (200,)]
    assert "its end failed" in caplog.text and key not in caplog.text


def test_an_exception_is_the_frameworks(site):
    async def fails(scope, receive, send):
        await scope["keysmith"].connection.execute("INSERT INTO photo (name) VALUES ('never')")
        raise KeyError("mine")

    async def work(pool):
        with pytest.raises(KeyError, match="mine"):
            await Http(KeysmithMiddleware(fails, pool)).send("GET", "/", site.key())

    running(site, work)
    assert site.photos() == [] and site.logged("status") == [(500,)] and not site.busy()


@pytest.mark.parametrize("statement, status, code, message", [
    ("SELECT keysmith.mint('acme', label => repeat('x', 101))", 400, "invalid_request", "label must have at most 100 characters, not 101"),
    ("SELECT keysmith.sign_out(), keysmith.require_identity()", 401, "invalid_api_key", "The API key is not valid."),
    ("SELECT keysmith.create_tenant('third')", 403, "forbidden", None),
    ("SELECT keysmith.revoke('00000000-0000-0000-0000-000000000000')", 404, "not_found", None),
    ("SELECT keysmith.rotate(key_id), keysmith.rotate(key_id) FROM keysmith.mint('acme')", 409, "conflict", None),
])
def test_errors_of_keysmith_that_nobody_catches(site, statement, status, code, message):
    async def calls(scope, receive, send):
        await scope["keysmith"].connection.execute(statement)

    (answer,) = served(site, calls, ("GET", "/", {"key": site.key()}))
    assert (answer.status, answer.json["code"]) == (status, code), answer.json
    assert message in (None, answer.json["message"]) and "label => " not in answer.json["message"]
    assert site.logged("status") == [(status,)]


def test_headers_of_the_decision(site):
    async def own(scope, receive, send):
        await answering(send, "", 200, {b"RateLimit-Policy": b"mine"})

    key = site.key(limits='[{"name": "hourly", "limit": 2, "window": "1 hour"}]')
    first, second, third = served(site, own, *[("GET", "/", {"key": key})] * 3)
    assert first.headers["RateLimit-Policy"] == "mine" and "ratelimit-policy" not in first.headers
    assert first.headers["ratelimit"].startswith('"hourly";r=1')
    assert third.status == 429 and 1700 < int(third.headers["retry-after"]) <= 1800


@pytest.mark.parametrize("headers, status", [
    ([("authorization", "Bearer {key}"), ("authorization", "Bearer {key}")], 200),
    ([("authorization", "Bearer {key}"), ("authorization", "Bearer ks_live_other")], 401),
    ([("authorization", "Bearer ks_live_other"), ("authorization", "Bearer {key}")], 401),
    ([("authorization", "Bearer {key}"), ("x-odd", "\xe9\xff"), ("x-odd", "b"), ("x-odd", "c")], 200),
    ([("authorization", "Bearer {key}"), ("x-odd", "\\u0000")], 200),
    ([("authorization", "Bearer {key}"), ("x-odd", "a\0b")], 400),
    ([("authorization", "Bearer {key}"), ("x-\0", "")], 400),
    ([("authorization", "Bearer \0{key}")], 400),
    ([("authorization", "Bearer {key}"), ("x-long", "x" * 300_000)], 200),
    ([("authorization", "Bearer " + "x" * 300_000)], 401),
    ([("x-api-key", "{key}"), ("content-length", "nonsense")], 200),
    ([("x-api-key", "{key}"), ("content-length", "1" * 5000)], 200),
], ids=range(12))
def test_hostile_headers(site, cluster, headers, status):
    key, start = site.key(), cluster.log.stat().st_size
    pairs = [(name.encode("latin-1"), value.replace("{key}", key).encode("latin-1")) for name, value in headers]

    async def own(scope, receive, send):
        await answering(send, "")

    for method in ("GET", "POST"):
        (answer,) = served(site, own, (method, "/", {"scope": {"headers": pairs}}))
        assert answer.status == status, answer.content
    log = cluster.log.read_bytes()[start:].decode(errors="replace")
    # Its context would show the headers, or a part of them.
    assert "JSON data" not in log and key not in log


@pytest.mark.parametrize("path, raw, query, seen", [
    ("/a b", b"/a%20b", b"x=%20", "/a%20b?x=%20"), ("/a", None, b"", "/a"), ("/a b/é", None, b"", "/a%20b/%C3%A9"),
    ("/rewritten", b"/original", b"", "/rewritten"), ("/\ufffd", b"/%ff", b"", "/%EF%BF%BD"), ("/a", b"/a?x", b"y", "/a?y"),
    ("a", b"a", b"", "/a"), ("*", b"*", b"", "/*"), ("/a\0", None, b"", "/a%00"), ("/a+b", b"/a+b", b"", "/a+b"), ("/\udcff", None, b"", "/%FF"),
])
def test_the_path_is_the_one_that_routes(path, raw, query, seen):
    from keysmith.asgi import path_of

    assert path_of({"path": path, "raw_path": raw, "query_string": query}) == seen


@pytest.mark.parametrize("path, raw", [("/api/photos", b"/api/photos"), ("/photos", b"/photos"), ("/api/photos", None),
                                      ("/api/photos", b"/photos"), ("/api/photos", b"/api/ph%6ftos")])
def test_the_root_path_is_no_part_of_it(site, path, raw):
    """Starlette routes /api/photos and /photos alike, if /api is its root path."""
    from keysmith.asgi import path_of, routed

    scope = {"path": path, "raw_path": raw, "query_string": b"", "root_path": "/api"}
    assert routed(scope) == "/photos" and path_of(scope) in ("/photos", "/ph%6ftos")
    assert routed(scope | {"root_path": "/ap"}) == path
    given = {"root_path": "/api", "path": path, "raw_path": raw}
    assert served(site, photos, ("GET", "/", {"scope": given}), paths=("/photos",))[0].status == 401


def test_headers_of_an_answer_that_no_server_would_send(site):
    """They are refused before the commit."""
    async def breaks(scope, receive, send):
        await scope["keysmith"].connection.execute("INSERT INTO photo (name) VALUES ('never')")
        await answering(send, "", 200, {b"x-y": b"a\nb"} if scope["path"] == "/value" else {b"x\r": b"a"})

    async def work(pool):
        for path in ("/value", "/name"):
            with pytest.raises(ValueError, match="line break"):
                await Http(KeysmithMiddleware(breaks, pool)).send("GET", path, site.key())

    running(site, work)
    assert site.photos() == [] and [status for status, in site.logged("status")] == [500, 500]


@pytest.mark.parametrize("way", ["gather", "left"])
def test_a_statement_that_still_runs_at_the_end(site, way):
    """Nobody waits for it, the pool gets its sessions back, and others go on undisturbed."""
    left = []

    async def leaves(scope, receive, send):
        connection = scope["keysmith"].connection

        async def fails():
            await asyncio.sleep(0)
            raise KeyError

        if way == "gather":
            await asyncio.gather(fails(), connection.execute("SELECT pg_sleep(60)"))
        left.append(asyncio.ensure_future(connection.execute("SELECT pg_sleep(60)")))
        await asyncio.sleep(0.05)
        await answering(send, "")

    async def work(pool):
        http, key = Http(KeysmithMiddleware(leaves, pool)), site.key()
        for _ in range(6):
            if way == "gather":
                with pytest.raises(KeyError):
                    await http.send("GET", "/", key)
            else:
                assert (await http.send("GET", "/", key)).status == 500
        whole = Http(KeysmithMiddleware(photos, pool))
        answers = await asyncio.gather(*[whole.send("GET", "/", key) for _ in range(20)])
        assert [answer.status for answer in answers] == [200] * 20
        for task in left:
            with pytest.raises(psycopg.Error):  # not checked: the error depends on how far the statement was
                await task
        # The pool replaces lost sessions in the background.
        for _ in range(3000):
            if pool.get_stats()["pool_available"] == 2:
                break
            await asyncio.sleep(0.02)
        assert pool.get_stats()["pool_available"] == pool.get_stats()["pool_size"] == 2

    running(site, work, pool_size=2)
    assert not site.busy()


async def keeps(scope, receive, send, kept):
    connection = scope["keysmith"].connection
    cursor = connection.cursor("of_the_server", withhold=True)
    await cursor.execute("SELECT generate_series(1, 9)")
    await answering(send, "")
    kept.append((connection, connection.cursor, cursor, scope["keysmith"]))


def test_a_connection_that_a_handler_keeps(site):
    """It serves other requests by then: nothing that the handler kept reaches it."""
    async def work(pool):
        kept = []
        await Http(KeysmithMiddleware(lambda *each: keeps(*each, kept), pool)).send("GET", "/", site.key())
        ((connection, make, cursor, caller),) = kept
        for attempt in (lambda: connection.execute("SELECT 1"), lambda: make().execute("SELECT 1"), lambda: cursor.fetchone(), connection.commit,
                        connection.rollback, connection.close, lambda: connection.set_autocommit(True), lambda: caller.has_scope("x")):
            with pytest.raises((psycopg.Error, RuntimeError), match="ended|closed"):
                await attempt()
        for attempt in (lambda: caller.connection, lambda: connection.pgconn.socket):
            with pytest.raises(psycopg.Error, match="ended|closed"):
                attempt()
        with pytest.raises(psycopg.Error, match="ended|closed"):
            async with connection.transaction():
                pass
        # The pool has its session still, and nothing of the handler's settings.
        async with pool.connection() as pooled:
            assert (await (await pooled.execute("SELECT 1")).fetchone()) == (1,)

    running(site, work)


def test_what_a_handler_sets_on_its_connection_ends_with_it(site):
    async def sets(scope, receive, send):
        from psycopg.rows import dict_row

        connection = scope["keysmith"].connection
        before = connection.row_factory
        connection.row_factory = dict_row
        await answering(send, before is dict_row)

    first, second = served(site, sets, *[("GET", "/", {"key": site.key()})] * 2)
    assert (first.json, second.json) == (False, False)


def test_what_is_generated_later_has_no_connection(site):
    failures = []

    async def streams(scope, receive, send):
        connection = scope["keysmith"].connection
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for use in (lambda: connection.execute("SELECT name FROM photo"), lambda: scope["keysmith"].connection.execute("")):
            try:
                await use()
            except psycopg.InterfaceError as error:
                failures.append(str(error))
        await send({"type": "http.response.body", "body": b"streamed"})

    (answer,) = served(site, streams, ("GET", "/", {"key": site.key()}))
    assert answer.content == b"streamed"
    assert len(failures) == 2 and all("has ended" in failure for failure in failures)


@pytest.mark.parametrize("end", ["commit", "rollback", "sql"])
def test_the_application_does_not_end_the_transaction(site, end):
    async def ends(scope, receive, send):
        connection = scope["keysmith"].connection
        with pytest.raises(psycopg.ProgrammingError):
            await getattr(connection, end)()
        await answering(send, "")

    async def leaves(scope, receive, send):
        """COMMIT as a text is not noticed, but what comes then is nobody's."""
        await scope["keysmith"].connection.execute("COMMIT")
        await photos(scope, receive, send)

    if end == "sql":
        served(site, photos, ("POST", "/photos", {"key": site.key(), "body": b"one", "headers": TEXT}))
        assert served(site, leaves, ("GET", "/", {"key": site.key()}))[0].json == ["acme", []]
    else:
        assert served(site, ends, ("GET", "/", {"key": site.key()}))[0].status == 200


def test_nested_transactions_and_those_left_open(site):
    async def nests(scope, receive, send):
        connection = scope["keysmith"].connection
        async with connection.transaction():
            await connection.execute("INSERT INTO photo (name) VALUES ('kept')")
        with pytest.raises(psycopg.Rollback):
            async with connection.transaction():
                await connection.execute("INSERT INTO photo (name) VALUES ('undone')")
                raise psycopg.Rollback(psycopg.AsyncTransaction(connection))
        if scope["path"] == "/open":
            await connection.transaction().__aenter__()
        await answering(send, "")

    key = site.key()
    answers = served(site, nests, ("GET", "/", {"key": key}), ("GET", "/open", {"key": key}), ("GET", "/", {"key": key}))
    assert [answer.status for answer in answers] == [200, 503, 503]  # The last one: "kept" is there already.
    assert site.photos() == [("acme", "kept")]


def test_a_pipeline_that_is_left_open(site):
    async def leaves(scope, receive, send):
        if scope["path"] == "/leave":
            await scope["keysmith"].connection.pipeline().__aenter__()
        await answering(send, "")

    key = site.key()
    left, after = served(site, leaves, ("GET", "/leave", {"key": key}), ("GET", "/", {"key": key}))
    assert left.status in (200, 500, 503) and after.status == 200


def test_a_statement_that_failed_and_was_caught(site):
    """The server would turn the COMMIT into a ROLLBACK without a word."""
    async def catches(scope, receive, send):
        await scope["keysmith"].connection.execute("INSERT INTO photo (name) VALUES ('lost')")
        with pytest.raises(psycopg.errors.DivisionByZero):
            await scope["keysmith"].connection.execute("SELECT 1 / 0")
        await answering(send, "done")

    for log in (True, False):
        (answer,) = served(site, catches, ("GET", "/", {"key": site.key()}), log=log)
        assert (answer.status, answer.json["code"]) == (500, "internal_error")
    assert site.photos() == []


def test_a_stream_of_rows_that_is_left_unfinished(site):
    """It holds the lock of its connection: the end of the request must not wait for it."""
    kept = []

    async def leaves(scope, receive, send):
        rows = scope["keysmith"].connection.cursor().stream("SELECT generate_series(1, 100000)")
        kept.append(rows)
        await anext(rows)
        await answering(send, "", int(scope["query_string"]))

    async def work(pool):
        http, key = Http(KeysmithMiddleware(leaves, pool)), site.key()
        answers = [await http.send("GET", f"/?{status}", key) for status in (200, 404)]
        whole = await Http(KeysmithMiddleware(photos, pool)).send("GET", "/", key)
        for rows in kept:
            with pytest.raises((psycopg.Error, StopAsyncIteration)):  # not checked: as the driver says it
                await anext(rows)
        return [*answers, whole]

    assert [answer.status for answer in running(site, work)] == [500, 404, 200]


@pytest.mark.parametrize("moment", ["statement", "sleep", "commit", "decision"])
@pytest.mark.parametrize("again", [False, True], ids=["once", "at each await"])
def test_a_task_that_is_cancelled(site, moment, again):
    """Its session returns to the pool, rolled back. anyio, and so Starlette, cancels at each await again."""
    anyio = pytest.importorskip("anyio")
    site.db.rows("""
        CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(60); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON note DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow();
        CREATE FUNCTION waiting() RETURNS bigint LANGUAGE sql AS $$
            SELECT count(*) FROM pg_stat_activity WHERE usename = 'app' AND wait_event = 'PgSleep' $$""")
    reached = asyncio.Event()

    async def waits(scope, receive, send):
        connection = scope["keysmith"].connection
        await connection.execute("INSERT INTO photo (name) VALUES ('never')")
        if moment == "statement":
            await connection.execute("SELECT pg_sleep(60)")
        elif moment == "commit":
            await connection.execute("INSERT INTO note VALUES ('x')")
            await answering(send, "")
        reached.set()
        await asyncio.sleep(60)

    async def there():
        while not reached.is_set() and not site.db.value("SELECT waiting()"):
            await asyncio.sleep(0.02)

    async def work(pool):
        key = site.key()
        if moment == "decision":
            async with pool.connection():
                task = asyncio.ensure_future(Http(KeysmithMiddleware(waits, pool)).send("GET", "/", key))
                await asyncio.sleep(0.1)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
        elif again:
            async with anyio.create_task_group() as group:
                group.start_soon(Http(KeysmithMiddleware(waits, pool)).send, "GET", "/", key)
                await there()
                group.cancel_scope.cancel()
        else:
            task = asyncio.ensure_future(Http(KeysmithMiddleware(waits, pool)).send("GET", "/", key))
            await there()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        # The pool has one session: it must be there again, and clean.
        answer = await Http(KeysmithMiddleware(photos, pool)).send("GET", "/", key)
        assert answer.json == ["acme", []]

    running(site, work)
    # Cancelled again while it cancels the statement, psycopg hangs up: the server notices when the statement has ended.
    assert site.photos() == [] and (again or not site.busy())


def test_no_session_is_to_be_had(site):
    async def work(pool):
        async with pool.connection():
            pool.timeout = 0.05
            return await Http(KeysmithMiddleware(photos, pool)).send("GET", "/", site.key())

    answer = running(site, work)
    assert (answer.status, answer.json["code"]) == (503, "unavailable")
    assert answer.headers["content-type"] == "application/json"


def test_the_server_goes_away(site, cluster):
    """Before the request, in its middle, and for good."""
    async def survives(scope, receive, send):
        if scope["path"] == "/cut":
            site.db.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'")
        await answering(send, "")

    async def work(pool):
        http, key = Http(KeysmithMiddleware(survives, pool)), site.key()
        cut = await http.send("GET", "/cut", key)
        after = await http.send("GET", "/", key)
        return cut, after

    cut, after = running(site, work)
    assert (cut.status, after.status) == (503, 200)

    async def gone():
        pool = AsyncConnectionPool("host=/nonexistent", min_size=1, open=False, timeout=0.1)
        await pool.open()
        try:
            return await Http(KeysmithMiddleware(survives, pool)).send("GET", "/", "ks_live_x")
        finally:
            await pool.close()

    assert asyncio.run(gone()).status == 503


def test_a_fault_of_the_installation_is_an_error_without_headers(site, caplog):
    """Not an answer, and nothing that holds the key: neither the exception nor its causes."""
    key = site.key()
    site.db.rows("SELECT keysmith.revoke_access('app')")

    async def work(pool):
        await Http(KeysmithMiddleware(photos, pool)).send("GET", "/", key)

    from keysmith.errors import DecisionFailed

    with pytest.raises(DecisionFailed, match="42501") as error:
        running(site, work)
    assert error.value.__cause__ is None and error.value.__context__ is None
    assert key not in str(error.getrepr(showlocals=False)) and not site.busy()
    frames, trace = [], error.value.__traceback__
    while trace:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    assert not [name for frame in frames for name, value in frame.f_locals.items()
                if any(isinstance(each, psycopg.Error) for each in (value if isinstance(value, list) else [value]))]


def test_a_server_that_logs_everything_shows_the_key_among_the_parameters_alone(site, cluster, caplog):
    """Though the pool's cursors write parameters into the statement."""
    caplog.set_level(logging.DEBUG)
    key, start = site.key(), cluster.log.stat().st_size

    async def fails(scope, receive, send):
        await scope["keysmith"].connection.execute("SELECT 1 / %s", [0])

    async def work(pool):
        http = Http(KeysmithMiddleware(photos, pool))
        await http.send("POST", "/photos", key, body=b"x", headers=TEXT)
        await http.send("POST", "/v1/keys", key, body=b"{", headers=JSON)
        with pytest.raises(psycopg.errors.DivisionByZero) as error:
            await Http(KeysmithMiddleware(fails, pool)).send("GET", "/", key)
        assert key not in str(error.getrepr(showlocals=False))

    options = {"cursor_factory": psycopg.AsyncClientCursor}
    cluster.execute("ALTER ROLE app SET log_statement = 'all'")
    running(site, work, kwargs=options)
    lines = cluster.log.read_bytes()[start:].decode(errors="replace").splitlines()
    assert any("keysmith.serve(" in line for line in lines)
    assert not [line for line in lines if key in line and "parameters: $1" not in line.lower()]
    assert key not in caplog.text


def test_paths(site):
    async def says(scope, receive, send):
        await answering(send, "keysmith" in scope)

    paths = ["/v1", "/v1/x", "/v1x", "/", "/v2/x", "/V1", "v1", "/v2"]
    answers = served(site, says, *[("GET", path, {"key": site.key()}) for path in paths], paths=("/v1", "/v2/"))
    assert [answer.json for answer in answers] == [True, True, False, False, True, False, True, True]
    assert served(site, says, ("GET", "/v1"), paths=("/v1",))[0].status == 401


@pytest.mark.parametrize("options, error", [
    ({}, "either pool"), ({"pool": 1, "sessions": 1}, "either pool"), ({"pool": 1}, "pool must be"),
    ({"pool": print, "paths": "/v1"}, "paths must be"), ({"pool": print, "paths": ("v1",)}, "paths must be"),
    ({"pool": print, "person": ("acme", None)}, "person must be"), ({"sessions": 1}, "sessions must be"),
])
def test_options_that_cannot_be(options, error):
    with pytest.raises((TypeError, ValueError), match=error):
        KeysmithMiddleware(photos, **options)


def test_options_of_the_decision(site):
    """Values, and functions of the scope."""
    site.db.call("add_credits", 100, tenant="acme")
    key = site.key(limits='[{"name": "tokens", "unit": "tokens", "limit": 50, "window": "1 hour"}]')

    async def own(scope, receive, send):
        await answering(send, "")

    by = {"spend": lambda scope: int(scope["query_string"]), "weights": lambda scope: {"tokens": 3},
          "subject": lambda scope: 17}
    for options in (by, {"spend": 5, "weights": {"tokens": 3}, "subject": "17"}):
        assert served(site, own, ("GET", "/?5", {"key": key}), **options)[0].status == 200
    assert site.db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 90
    assert served(site, own, ("GET", "/?1000", {"key": key}), **by)[0].status == 429


def test_settling(site):
    """In the request's transaction, and after its answer."""
    site.db.call("add_credits", 100, tenant="acme")
    results = []

    async def settles(scope, receive, send):
        caller, late = scope["keysmith"], scope["path"] == "/late"
        caller.tags["model"] = "small"
        if not late:
            results.append(await caller.settle(spend=30))
        await answering(send, "")
        results.append(await caller.settle(spend=30))

    key = site.key()
    served(site, settles, ("GET", "/", {"key": key}), ("GET", "/late", {"key": key}), spend=1)
    assert results == [True, False, True]
    assert site.db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 40
    assert [tags for tags, in site.logged("tags")] == [{"model": "small"}] * 2


def test_tags_that_cannot_be(site, caplog):
    """A fault of the program, which its log names."""
    async def tags(scope, receive, send):
        scope["keysmith"].tags["Not a name"] = "x" if scope["path"] == "/" else object()
        await scope["keysmith"].connection.execute("INSERT INTO photo (name) VALUES ('never')")
        await answering(send, "")

    for path in ("/", "/object"):
        (answer,) = served(site, tags, ("GET", path, {"key": site.key()}))
        assert (answer.status, answer.json["code"]) == (500, "internal_error")
    assert site.photos() == [] and [status for status, in site.logged("status")] == [500, 500]
    assert "tags must have names" in caplog.text


def test_another_decision_in_the_handler_takes_no_status(site):
    other = site.key("globex")

    async def verifies(scope, receive, send):
        await scope["keysmith"].connection.execute("SELECT keysmith.verify(%s)", [other])
        await answering(send, "", 202)

    served(site, verifies, ("GET", "/", {"key": site.key("acme")}))
    assert sorted(site.logged("tenant", "status")) == [("acme", 202), ("globex", 200)]


def test_without_log_request(site):
    assert served(site, photos, ("GET", "/", {"key": site.key()}), log=False)[0].status == 200
    assert site.logged("status", "latency") == [(200, None)]


def test_people(site):
    """A person acts for a tenant without a key; a key comes first; whoever is no member is refused."""
    site.db.rows("SELECT keysmith.define_role('default', 'viewer', '{a}'), keysmith.set_member('acme', 'ann', 'viewer')")

    async def person(scope):
        name = dict(scope["headers"]).get(b"x-person")
        return ("acme", None if name == b"whole" else name.decode()) if name else None

    async def says(scope, receive, send):
        caller = scope["keysmith"]
        await answering(send, [caller.tenant, caller.key_id is None, await caller.has_scope("a"), await caller.has_scope("b")])

    def headers(name):
        return {"headers": {"x-person": name}}

    ann, whole, eve, nobody = served(site, says, ("GET", "/", headers("ann")), ("GET", "/", headers("whole")),
                                     ("GET", "/", headers("eve")), ("GET", "/"), person=person)
    assert (ann.json, whole.json) == (["acme", True, True, False], ["acme", True, True, True])
    assert (eve.status, eve.json["code"], nobody.status) == (403, "forbidden", 401)
    (keys,) = served(site, says, ("GET", "/v1/keys", headers("ann")), person=lambda scope: ("acme", "ann"))
    assert keys.status == 200 and "keys" in keys.json
    assert site.logged("method", "endpoint", "status", "member", "latency IS NOT NULL") == [
        ("GET", "/", 200, "ann", True), ("GET", "/", 200, "", True), ("GET", "/v1/keys", 200, "ann", False)]


async def socket(scope, receive, send):
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"] == "/no":
        await send({"type": "websocket.close"})
        return
    await send({"type": "websocket.accept"})
    caller = scope["keysmith"]
    try:
        text = caller.connection and "connected"
    except psycopg.InterfaceError:
        text = caller.tenant
    await send({"type": "websocket.send", "text": text})


@pytest.mark.parametrize("extensions", [{}, {"websocket.http.response": {}}])
def test_websockets(site, extensions):
    key = site.key(limits='[{"name": "hourly", "limit": 2, "window": "1 hour"}]')

    site.db.call("add_credits", 100, tenant="acme")

    async def work(pool):
        http = Http(KeysmithMiddleware(socket, pool, spend=1))
        more = {"type": "websocket", "messages": [{"type": "websocket.connect"}], "extensions": extensions}
        return [(await http.send("GET", path, each, **more)).messages
                for path, each in [("/", key), ("/no", key), ("/", key), ("/", None)]]

    good, closed, limited, refused = running(site, work)
    assert [message["type"] for message in good] == ["websocket.accept", "websocket.send"]
    assert good[1]["text"] == "acme" and b"ratelimit" in dict(good[0]["headers"])
    assert [message["type"] for message in closed] == ["websocket.close"]
    if extensions:
        assert [(message["type"], message.get("status")) for message in refused] == [
            ("websocket.http.response.start", 401), ("websocket.http.response.body", None)]
        assert limited[0]["status"] == 429 and json.loads(limited[1]["body"])["code"] == "rate_limited"
    else:
        assert [message["type"] for message in refused + limited] == ["websocket.close"] * 2
    assert [status for status, in site.logged("status")][:2] == [101, 403]
    assert site.db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 98


def test_other_scopes_pass(site):
    seen = []

    async def lives(scope, receive, send):
        seen.append(scope["type"])

    async def work(pool):
        await KeysmithMiddleware(lives, pool)({"type": "lifespan"}, None, None)

    running(site, work)
    assert seen == ["lifespan"]


def test_a_pool_that_is_made_later(site):
    pools = []
    app = KeysmithMiddleware(photos, lambda: pools[0])

    async def work(pool):
        pools.append(pool)
        return await Http(app).send("GET", "/", site.key())

    assert running(site, work).json == ["acme", []]


def test_a_caller_shows_no_key(site):
    async def shows(scope, receive, send):
        await answering(send, repr(scope["keysmith"]))

    key = site.key()
    (answer,) = served(site, shows, ("GET", "/", {"key": key}))
    assert answer.json.startswith("AsyncCaller(tenant='acme', key_id=") and key not in answer.json
