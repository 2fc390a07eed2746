"""The Python package with SQLAlchemy's sessions, and with synchronous pools in threads, behind the ASGI middleware."""

import asyncio
import logging
from contextlib import asynccontextmanager

import psycopg
import pytest

import python_site
from conftest import wait_until
from python_site import Http, answering, site  # noqa: F401

pytest.importorskip("psycopg_pool")
sqlalchemy = pytest.importorskip("sqlalchemy")
from psycopg_pool import ConnectionPool  # noqa: E402
from sqlalchemy import create_engine, event, select, text  # noqa: E402
from sqlalchemy.exc import InvalidRequestError, SQLAlchemyError  # noqa: E402
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine  # noqa: E402
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker  # noqa: E402

import keysmith  # noqa: E402
import keysmith.sqlalchemy  # noqa: E402
from keysmith.asgi import KeysmithMiddleware  # noqa: E402


class Base(DeclarativeBase):
    pass


class Photo(Base):
    __tablename__ = "photo"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Note(Base):
    __tablename__ = "note"
    text: Mapped[str] = mapped_column(primary_key=True)


KINDS = ["psycopg", "asyncpg", "psycopg in threads", "pool in threads"]


@asynccontextmanager
async def source(kind, site, **options):
    """The middleware's options for a pool of one session, of each kind."""
    driver = kind.split()[0]
    if driver == "asyncpg":
        pytest.importorskip("asyncpg")
    if driver == "pool":
        with ConnectionPool(site.dsn, min_size=1, max_size=1, timeout=10) as pool:
            yield {"pool": pool}
        return
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 10} | options
    if kind == driver:
        engine = create_async_engine(site.url(driver), **options)
        yield {"sessions": async_sessionmaker(engine)}
        await engine.dispose()
    else:
        engine = create_engine(site.url(driver), **options)
        yield {"sessions": sessionmaker(engine)}
        engine.dispose()


async def query(caller, statement):
    """The rows of a statement, by whatever the caller has."""
    try:
        session = caller.session
    except LookupError:
        return await asyncio.to_thread(lambda: caller.connection.execute(statement).fetchall())
    if isinstance(caller, keysmith.SyncCaller):
        return await asyncio.to_thread(lambda: list(map(tuple, session.execute(text(statement)))))
    return list(map(tuple, await session.execute(text(statement))))


async def photos(scope, receive, send):
    caller = scope["keysmith"]
    if scope["path"] == "/add":
        name = scope["query_string"].decode().partition("&")[0]
        await query(caller, f"INSERT INTO photo (name) VALUES ('{name}') RETURNING name")
    names = [name for name, in await query(caller, "SELECT name FROM photo ORDER BY id")]
    await answering(send, [caller.tenant, names], 409 if b"&no" in scope["query_string"] else 200)


def served(site, kind, app, *requests, **options):
    async def all_of_them():
        async with source(kind, site) as given:
            http = Http(KeysmithMiddleware(app, **given, **options))
            return [await http.send(*request) for request in requests]

    return asyncio.run(all_of_them())


@pytest.mark.parametrize("kind", KINDS)
def test_the_life_of_requests(site, kind):
    acme, globex = site.key("acme"), site.key("globex")
    answers = served(site, kind, photos, ("GET", "/add?one", acme), ("GET", "/add?two&no", acme), ("GET", "/x", acme),
                     ("GET", "/x", globex), ("GET", "/x"), ("GET", "/v1/me", globex), ("GET", "/add?one", acme),
                     ("POST", "/v1/keys", globex, b"{"), ("POST", "/x", globex, b"{"), ("GET", "/x", acme))
    assert [answer.status for answer in answers] == [200, 409, 200, 200, 401, 200, 503, 400, 200, 200]
    assert answers[2].json == answers[9].json == ["acme", ["one"]] and answers[3].json == ["globex", []]
    assert answers[5].json["tenant"] == "globex"
    assert site.photos() == [("acme", "one")]
    assert [status for status, in site.logged("status")] == [200, 409, 200, 200, 200, 503, 400, 200, 200]
    assert all(known for known, in site.db.rows("SELECT latency IS NOT NULL FROM keysmith.usage WHERE endpoint = '/x'"))
    assert not site.busy()


@pytest.mark.parametrize("kind", KINDS)
def test_a_statement_that_failed_and_was_caught(site, kind):
    """The server would turn the COMMIT into a ROLLBACK without a word."""
    async def catches(scope, receive, send):
        await query(scope["keysmith"], "INSERT INTO photo (name) VALUES ('lost') RETURNING id")
        with pytest.raises((SQLAlchemyError, psycopg.Error), match="division by zero"):
            await query(scope["keysmith"], "SELECT 1 / 0")
        await answering(send, "done")

    for log in (True, False):
        (answer,) = served(site, kind, catches, ("GET", "/", site.key()), log=log)
        assert answer.status == 500
    assert site.photos() == []


@pytest.mark.parametrize("kind", KINDS)
def test_errors_of_keysmith_that_nobody_catches(site, kind):
    async def calls(scope, receive, send):
        await query(scope["keysmith"], "SELECT keysmith.mint('acme', label => repeat('x', 101))")

    (answer,) = served(site, kind, calls, ("GET", "/", site.key()))
    assert (answer.status, answer.json) == (
        400, {"code": "invalid_request", "message": "label must have at most 100 characters, not 101"})


@pytest.mark.parametrize("kind", KINDS)
def test_settling_and_scopes(site, kind):
    site.db.call("add_credits", 100, tenant="acme")
    results = []

    async def settles(scope, receive, send):
        caller = scope["keysmith"]

        async def called(method, *arguments, **named):
            if isinstance(caller, keysmith.SyncCaller):
                return await asyncio.to_thread(method, *arguments, **named)
            return await method(*arguments, **named)

        results.append(await called(caller.has_scope, "a"))
        await answering(send, "")
        results.append(await called(caller.settle, spend=30))
        results.append(await called(caller.settle, spend=30))

    served(site, kind, settles, ("GET", "/", site.key(scopes=["a"])), spend=1)
    assert results == [True, True, False]
    assert site.db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 70


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_cancelled(site, kind):
    """Its session returns to the pool, rolled back; that of a thread when its statement has ended."""
    seconds = 60 if "threads" not in kind else 1

    async def waits(scope, receive, send):
        await query(scope["keysmith"], "INSERT INTO photo (name) VALUES ('never') RETURNING id")
        await query(scope["keysmith"], f"SELECT pg_sleep({seconds})")

    async def work():
        async with source(kind, site) as given:
            task = asyncio.ensure_future(Http(KeysmithMiddleware(waits, **given)).send("GET", "/", site.key()))
            while not site.db.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"):
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return await Http(KeysmithMiddleware(photos, **given)).send("GET", "/", site.key())

    assert asyncio.run(work()).json == ["acme", []]
    # A thread's statement is cut off: the server notices when it has ended.
    wait_until(lambda: not site.busy())
    assert site.photos() == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_task_that_is_cancelled_while_it_waits_for_a_session(site, kind):
    """The session that it gets then, in its thread, returns to the pool."""
    going, reached = asyncio.Event(), asyncio.Event()

    async def holds(scope, receive, send):
        reached.set()
        await going.wait()
        await answering(send, "")

    async def work():
        async with source(kind, site) as given:
            key = site.key()
            holder = asyncio.ensure_future(Http(KeysmithMiddleware(holds, **given)).send("GET", "/", key))
            await reached.wait()
            waiter = asyncio.ensure_future(Http(KeysmithMiddleware(photos, **given)).send("GET", "/x", key))
            await asyncio.sleep(0.1)
            waiter.cancel()
            going.set()
            with pytest.raises(asyncio.CancelledError):
                await waiter
            await holder
            return await Http(KeysmithMiddleware(photos, **given)).send("GET", "/x", key)

    assert asyncio.run(work()).json == ["acme", []]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_handler_keeps(site, kind):
    kept = []

    async def keeps(scope, receive, send):
        caller = scope["keysmith"]
        try:
            kept.append((caller, caller.session))
        except LookupError:
            kept.append((caller, caller.connection))
        await query(caller, "SELECT 1")
        await answering(send, "")

    async def work():
        async with source(kind, site) as given:
            await Http(KeysmithMiddleware(keeps, **given)).send("GET", "/", site.key())
            ((caller, work_of),) = kept
            with pytest.raises((SQLAlchemyError, psycopg.Error), match="has ended"):
                await query(caller, "SELECT 1")
            statement = "SELECT 1" if "pool" in kind else text("SELECT 1")
            with pytest.raises((SQLAlchemyError, psycopg.Error), match="ended|closed"):
                done = work_of.execute(statement)
                if asyncio.iscoroutine(done):
                    await done

    asyncio.run(work())


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
def test_commit_in_a_handler_is_a_flush(site, kind):
    """And rollback ends the transaction: what comes then is refused, and nothing is changed."""
    async def commits(scope, receive, send):
        session, path = scope["keysmith"].session, scope["path"]
        session.add(Photo(name=path))
        if path == "/forgotten":
            await answering(send, "")
            return
        await session.commit()
        session.add(Note(text=path))
        await session.commit()
        if path == "/back":
            session.add(Note(text="alone"))
            await session.flush()
            await session.rollback()
            with pytest.raises(InvalidRequestError):
                await session.execute(select(Photo))
            session.add(Note(text="alone"))
            with pytest.raises(InvalidRequestError):
                await session.commit()
        assert site.db.value("SELECT count(*) FROM note WHERE text = %s", path) == 0
        await answering(send, "", 400 if path == "/no" else 200)

    key = site.key()
    answers = served(site, kind, commits, *[("GET", path, key) for path in ("/yes", "/no", "/back", "/forgotten")])
    assert [answer.status for answer in answers] == [200, 400, 200, 200]
    assert site.photos() == [("acme", "/yes"), ("acme", "/forgotten")]
    assert site.db.rows("SELECT text FROM note") == [("/yes",)]


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
def test_commit_of_the_connection_is_refused(site, kind):
    async def commits(scope, receive, send):
        session = scope["keysmith"].session
        session.add(Photo(name="never"))
        await session.flush()
        await (await session.connection()).commit()

    async def work():
        async with source(kind, site) as given:
            with pytest.raises(InvalidRequestError, match="not the handler's"):
                await Http(KeysmithMiddleware(commits, **given)).send("GET", "/", site.key())

    asyncio.run(work())
    assert site.photos() == []


@pytest.mark.parametrize("way", ["gather", "left"])
@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
def test_a_statement_that_still_runs_at_the_end(site, kind, way):
    left = []

    async def fails():
        await asyncio.sleep(0.05)
        raise KeyError

    async def leaves(scope, receive, send):
        running = scope["keysmith"].session.execute(text("SELECT pg_sleep(0.5)"))
        if way == "gather":
            await asyncio.gather(fails(), running)
        left.append(asyncio.ensure_future(running))
        await asyncio.sleep(0.05)
        await answering(send, "")

    async def work():
        async with source(kind, site) as given:
            key, http = site.key(), Http(KeysmithMiddleware(leaves, **given))
            for _ in range(3):
                if way == "gather":
                    with pytest.raises(KeyError):
                        await http.send("GET", "/", key)
                else:
                    await http.send("GET", "/", key)
            await asyncio.gather(*left, return_exceptions=True)
            return await Http(KeysmithMiddleware(photos, **given)).send("GET", "/", key)

    assert asyncio.run(work()).status == 200


@pytest.mark.parametrize("kind", KINDS[:3])
def test_no_log_shows_the_key(site, kind, caplog, capfd, cluster):
    """With echo, at the level DEBUG, and when our own statement fails."""
    caplog.set_level(logging.DEBUG)
    key, start = site.key(), cluster.log.stat().st_size

    async def work():
        async with source(kind, site, echo="debug") as given:
            http = Http(KeysmithMiddleware(photos, **given))
            await http.send("POST", "/x", key, b"{")
            await http.send("POST", "/v1/keys", key, b"{")
            site.db.rows("SELECT keysmith.revoke_access('app')")
            with pytest.raises(keysmith.errors.DecisionFailed) as error:
                await http.send("GET", "/", key)
            return str(error.getrepr(showlocals=False)), error.value

    printed, error = asyncio.run(work())
    out, err = capfd.readouterr()
    assert "SELECT name FROM photo" in caplog.text
    assert key not in printed + caplog.text + out + err + cluster.log.read_bytes()[start:].decode(errors="replace")
    assert error.__cause__ is None and error.__context__ is None


def test_drivers_and_engines_that_cannot_be(site):
    class Psycopg2:
        driver = "psycopg2"

    engine = create_engine(site.url("psycopg"), isolation_level="AUTOCOMMIT")
    with pytest.raises(TypeError, match="sessions must be sessionmaker"):
        KeysmithMiddleware(photos, sessions=sessionmaker())
    with pytest.raises(keysmith.errors.DecisionFailed, match="AUTOCOMMIT"):
        with keysmith.sqlalchemy.transaction(sessionmaker(engine), person=("acme", None)):
            pass
    engine.dialect.driver = "psycopg2"
    with pytest.raises(TypeError, match="psycopg2"):
        KeysmithMiddleware(photos, sessions=sessionmaker(engine))


@pytest.mark.parametrize("kind", ["psycopg", "asyncpg"])
def test_within_the_transaction_of_a_test(site, kind):
    """The usual fixture: all is in a transaction that the test rolls back. No identity stays in it."""
    key = site.key()

    async def work():
        engine = create_async_engine(site.url(kind))
        async with engine.connect() as connection, connection.begin() as outer:
            http = Http(KeysmithMiddleware(photos, sessions=async_sessionmaker(connection)))
            answers = [await http.send("GET", path, key) for path in ("/add?one", "/add?two&no", "/x")]
            nobody = (await connection.execute(text("SELECT keysmith.current_tenant()"))).scalar()
            refused = await http.send("GET", "/x")
            await outer.rollback()
        await engine.dispose()
        return [answer.json for answer in answers], refused.status, nobody

    assert asyncio.run(work()) == ([["acme", ["one"]], ["acme", ["one", "two"]], ["acme", ["one"]]], 401, None)
    assert site.photos() == []


@pytest.mark.parametrize("kind", KINDS)
def test_jobs(site, kind):
    """Transactions without HTTP."""
    key = site.key(scopes=["/import"])
    site.db.rows("SELECT keysmith.alter_keyspace('default', '{\"unlisted_routes\": \"refuse\"}')")
    site.db.rows("SELECT keysmith.define_route('default', 'POST', path, path) FROM unnest('{/import,/other}'::text[]) path")

    async def work():
        async with source(kind, site) as given:
            begin = (lambda **options: keysmith.transaction(given["pool"], **options)) if "pool" in given else (
                lambda **options: keysmith.sqlalchemy.transaction(given["sessions"], **options))
            is_sync = "threads" in kind

            @asynccontextmanager
            async def transaction(**options):
                if is_sync:
                    with begin(**options) as caller:
                        yield caller
                else:
                    async with begin(**options) as caller:
                        yield caller

            signed = {"headers": {"Authorization": f"Bearer {key}"}, "method": "POST"}
            async with transaction(**signed, path="/import") as caller:
                assert (caller.tenant, caller.key_id is None) == ("acme", False)
                await query(caller, "INSERT INTO photo (name) VALUES ('by a job') RETURNING id")
            with pytest.raises(keysmith.Refused) as refused:
                async with transaction(**signed, path="/other"):
                    raise AssertionError
            assert (refused.value.status, refused.value.code) == (403, "insufficient_scope")
            assert "insufficient_scope" in refused.value.headers["WWW-Authenticate"]
            with pytest.raises(ZeroDivisionError):
                async with transaction(person=("acme", None)) as caller:
                    await query(caller, "INSERT INTO photo (name) VALUES ('never') RETURNING id")
                    raise ZeroDivisionError
            async with transaction(person=("globex", None)) as caller:
                assert (caller.tenant, caller.key_id) == ("globex", None)
                assert await query(caller, "SELECT name FROM photo") == []
            with pytest.raises(keysmith.Refused):
                async with transaction(person=("globex", "nobody")):
                    raise AssertionError
            with pytest.raises(keysmith.Refused) as refused:
                async with transaction(headers={"X-API-Key": "a\0b"}, method="GET", path="/"):
                    raise AssertionError
            for wrong in ({}, {"headers": {}}, {"headers": {}, "person": ("acme", None)}):
                with pytest.raises(TypeError):
                    begin(**wrong)

    asyncio.run(work())
    assert site.photos() == [("acme", "by a job")] and not site.busy()
