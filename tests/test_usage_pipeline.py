"""Usage records on their way: from the decision to the table, with faults in between."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psycopg
import pytest

from cluster import running
from conftest import session, wait_until

UNKNOWN_KEY = "ks_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg32jhdj"


@contextmanager
def cluster_with_key(name, *arguments, **settings):
    """A private cluster, a session, and a key."""
    with running(name, *arguments, **settings) as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        yield cluster, db, db.mint().api_key


@pytest.fixture
def key(db):
    db.tenant()
    return db.mint().api_key


def status(db):
    return db.one("usage_status")._asdict()


def count(db, name):
    return status(db)[name]


def flush(db):
    db.call("flush_usage")


def events(db, columns="*", order="sequence"):
    flush(db)
    return db.rows(f"SELECT {columns} FROM keysmith_private.usage_event ORDER BY {order}")


def stored(db):
    return db.value("SELECT count(*) FROM keysmith_private.usage_event")


def crash(cluster, db):
    """Kills the postmaster, and starts it again when its children are gone."""
    cluster.kill()
    db.session.close()
    wait_until(lambda: cluster.start(check=False).returncode == 0)


def kill_process(cluster, db, pid):
    """Kills one process: the postmaster ends all sessions, that of `db` too, and starts again."""
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not answers(lambda: db.rows("SELECT 1")))
    db.session.close()
    wait_until(lambda: answers(lambda: cluster.execute("SELECT 1")))


def answers(question):
    try:
        question()
        return True
    except psycopg.OperationalError:
        return False


# One row for each request

def test_each_request_of_a_known_key_leaves_a_row(db, key):
    accepted = db.verify(key)
    refused = db.verify(key, environment="test")
    headers = psycopg.types.json.Jsonb({"authorization": f"Bearer {key}"})
    request = db.one("authenticate", headers, "POST", "/v1/images?token=secret#x", "2001:db8::1")
    rows = events(db)
    assert [row.request_id for row in rows] == [
        accepted.request_id, refused.request_id, request.request_id]
    assert [(row.status, row.outcome) for row in rows] == [
        (200, "ok"), (refused.status, "wrong_environment"), (200, "ok")]
    assert [(row.method, row.endpoint) for row in rows] == [
        (None, None), (None, None), ("POST", "/v1/images")]
    assert str(rows[2].ip) == "2001:db8::1"
    for row in rows:
        assert (row.key_id, row.tenant_id) == (accepted.key_id, accepted.tenant_id)
        assert (row.keyspace, row.environment, row.latency) == ("default", "live", None)
    assert db.value("SELECT bool_and(at BETWEEN now() - interval '1 minute' AND now()) "
                    "FROM keysmith_private.usage_event")
    assert len({(row.incarnation, row.sequence) for row in rows}) == 3


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "ROLLBACK TO s", "PREPARE TRANSACTION 'p'"])
def test_the_request_happened_whatever_becomes_of_its_transaction(connect, database, db, key, ending):
    db.rows("BEGIN")
    first = db.verify(key)
    db.rows("SAVEPOINT s")
    second = db.verify(key)
    db.rows(ending)
    if ending.startswith("PREPARE"):
        db.rows("ROLLBACK PREPARED 'p'")
    elif ending.endswith("s"):
        db.rows("COMMIT")
    # Another session reads: a session that calls flush_usage queues its own pending record.
    rows = events(database(connect()))
    assert [row.request_id for row in rows] == [first.request_id, second.request_id]


def test_an_error_or_an_end_of_the_session_does_not_undo_the_request(connect, database, db, key):
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.rows("SELECT 1 / (v.status - 200) FROM keysmith.verify(%s) AS v", key)
    other = connect()
    other.execute("BEGIN")
    database(other).verify(key)
    other.close()
    wait_until(lambda: len(events(db)) == 2)


def test_verify_many_leaves_a_row_for_each(db, key):
    keys = [key, db.mint().api_key, UNKNOWN_KEY, None] * 300
    db.call("verify_many", keys)
    assert len(events(db)) == 600
    assert db.value("SELECT sum(requests) FROM keysmith_private.usage_unknown") == 600


def test_an_explanation_is_no_request(db, key):
    db.call("explain_verify", key)
    assert events(db) == [] and count(db, "accepted") == 0


def test_concurrent_sessions_are_counted_exactly(connect, db, key):
    sessions = [connect() for _ in range(8)]

    def decide(session):
        for _ in range(100):
            session.execute("SELECT (keysmith.verify(%s)).ok FROM generate_series(1, 10)", (key,))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(decide, sessions))
    flush(db)
    assert stored(db) == 8000
    assert db.value("SELECT count(DISTINCT (incarnation, sequence)) FROM keysmith_private.usage_event") == 8000
    assert db.value("SELECT count(DISTINCT request_id) FROM keysmith_private.usage_event") == 8000
    assert (count(db, "accepted"), count(db, "stored"), count(db, "dropped")) == (8000, 8000, 0)


# The cost of a decision

@pytest.mark.parametrize("mode", ["READ WRITE", "READ ONLY"])
def test_a_decision_writes_nothing(cluster, mode):
    with cluster_with_key("nothing", keysmith__usage_flush_interval="1h", autovacuum="off",
                          bgwriter_delay="10s") as (_, db, key):
        db.verify(key)
        flush(db)

        def decide():
            db.rows(f"BEGIN TRANSACTION {mode}")
            before = db.value("SELECT pg_current_wal_insert_lsn()")
            assert db.verify(key).ok
            assert db.verify(UNKNOWN_KEY).reason == "not_found"
            db.call("log_request", 201, "1 ms", "/x")
            assert db.value("SELECT txid_current_if_assigned()") is None
            db.rows("COMMIT")
            return db.value("SELECT pg_current_wal_insert_lsn() = %s", before)

        # Other processes write now and then, but not each time.
        assert any([decide() for _ in range(3)])
        flush(db)
        assert db.value("SELECT count(*) FROM keysmith_private.usage_event WHERE status = 201") == 0
        # The newest decision was about no known key.
        assert stored(db) == 4


# The application's additions

def test_log_request_completes_the_newest_request(db, key):
    db.rows("BEGIN")
    db.verify(key)
    db.verify(key)
    assert db.one("log_request", 503, "12.5 ms", "/v1/images?x", "PUT")[0]
    # Null leaves the value unchanged.
    assert db.one("log_request", latency="2 s")[0]
    db.rows("COMMIT")
    first, second = events(db, "status, latency::text, endpoint, method")
    assert first == (200, None, None, None)
    assert second == (503, "00:00:02", "/v1/images", "PUT")
    # The transaction has ended, so the request can only be completed by its id.
    assert not db.one("log_request", 500)[0]
    assert [row.status for row in events(db)] == [200, 503]


def test_a_request_of_no_known_key_is_not_taken_for_the_one_before(db, key):
    db.rows("BEGIN")
    db.verify(key)
    db.verify("nonsense")
    assert not db.one("log_request", 500)[0]
    db.rows("COMMIT")
    assert [row.status for row in events(db)] == [200]


def test_log_request_by_id(db, key, connect, database):
    other = database(connect())
    # In the same transaction, when the record is queued already.
    db.rows("BEGIN")
    first = db.verify(key).request_id
    db.verify(key)
    assert db.one("log_request", 201, request_id=first)[0]
    db.rows("COMMIT")
    # From another session: before the row is stored, and after.
    second = db.verify(key).request_id
    other.one("log_request", 202, endpoint="/é", request_id=second)
    third = db.verify(key).request_id
    flush(db)
    other.one("log_request", 203, "1 s", method="GET", request_id=third)
    # It may arrive before the record, which is pending in a transaction.
    db.rows("BEGIN")
    fourth = db.verify(key).request_id
    other.one("log_request", 204, request_id=fourth)
    flush(other)
    db.rows("COMMIT")
    flush(db)
    rows = dict(db.rows("SELECT request_id, status FROM keysmith_private.usage_event"))
    assert [rows[name] for name in (first, second, third, fourth)] == [201, 202, 203, 204]
    assert db.row("SELECT endpoint FROM keysmith_private.usage_event WHERE status = 202") == ("/é",)
    assert db.row("SELECT method, latency::text FROM keysmith_private.usage_event WHERE status = 203") == (
        "GET", "00:00:01")
    assert len(rows) == 5
    # An id that no request has changes nothing, and does no harm.
    db.one("log_request", 299, request_id="00000000-0000-0000-0000-000000000000")
    assert 299 not in [row.status for row in events(db)]


@pytest.mark.parametrize("arguments, name", [
    ({"status_code": -1}, "status_code"),
    ({"status_code": 10000}, "status_code"),
    ({"status_code": 99}, "status_code"),
    ({"latency": "-1 ms"}, "latency"),
    ({"latency": "100 years"}, "latency"),
    ({"latency": "-178000000 years"}, "latency"),
])
def test_bad_values_are_refused_and_change_nothing(db, key, arguments, name):
    db.rows("BEGIN")
    db.verify(key)
    db.rows("SAVEPOINT s")
    assert db.refused("KS400", "log_request", **arguments).startswith(name)
    db.rows("ROLLBACK TO s; COMMIT")
    assert events(db, "status, latency") == [(200, None)]


def test_long_texts_are_cut_between_characters_and_marked(db, key):
    db.rows("BEGIN")
    db.verify(key)
    db.one("log_request", endpoint="/" + "é" * 500_000, method="M" * 1000)
    db.rows("COMMIT")
    ((endpoint, method),) = events(db, "endpoint, method")
    assert endpoint == "/" + "é" * 98 + "…" and len(endpoint.encode()) == 200
    assert method == "M" * 29 + "…"


@pytest.mark.parametrize("encoding, endpoint, mark", [
    ("LATIN1", "/" + "é" * 1000, "..."),
    ("EUC_JP", "/x" + "日本" * 500, "..."),
    ("SQL_ASCII", "/" + "e" * 1000, "..."),
], ids=["LATIN1", "EUC_JP", "SQL_ASCII"])
def test_every_encoding_is_cut_as_it_should(cluster, encoding, endpoint, mark):
    cluster.execute(f"CREATE DATABASE encoded ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0")
    try:
        db = session(cluster, "encoded")
        if encoding == "SQL_ASCII":
            db.rows("SET client_encoding = 'SQL_ASCII'")
        db.rows("CREATE EXTENSION keysmith")
        db.rows("SELECT keysmith.create_tenant('acme')")
        stored_key = db.value("SELECT api_key FROM keysmith.mint('acme')")
        stored_key = stored_key.decode() if isinstance(stored_key, bytes) else stored_key
        db.rows("BEGIN")
        db.rows("SELECT keysmith.verify(%s)", stored_key)
        db.rows("SELECT keysmith.log_request(endpoint => %s::text)", endpoint)
        db.rows("COMMIT")
        db.rows("SELECT keysmith.flush_usage()")
        length, tail = db.row("SELECT octet_length(endpoint), right(endpoint, 3) FROM keysmith_private.usage_event")
        tail = tail.decode() if isinstance(tail, bytes) else tail
        assert tail == mark
        assert 198 <= length <= 200
        if encoding == "EUC_JP":
            assert db.value("SELECT endpoint FROM keysmith_private.usage_event").startswith("/x日本日本")
        db.session.close()
    finally:
        cluster.execute("DROP DATABASE encoded WITH (FORCE)")


# Logged requests

def test_a_keyspace_chooses_what_is_logged(db):
    db.one("create_keyspace", "quiet", usage_log="refusals", usage_details=False)
    db.tenant("acme", keyspace="quiet")
    key = db.mint(keyspace="quiet").api_key
    ask = {"keyspace": "quiet", "ip": "10.0.0.1"}
    db.verify(key, **ask)
    db.verify(key, environment="test", **ask)
    db.verify("nonsense", **ask)
    headers = psycopg.types.json.Jsonb({"x-api-key": key})
    db.one("alter_keyspace", "quiet", '{"usage_log": "everything"}')
    db.one("authenticate", headers, "GET", "/secret", "10.0.0.1", keyspace="quiet")
    assert events(db, "outcome, method, endpoint, ip") == [
        ("wrong_environment", None, None, None), ("ok", "GET", None, None)]
    assert db.value("SELECT ip FROM keysmith_private.usage_unknown_sample") is None
    db.one("alter_keyspace", "quiet", '{"usage_log": "nothing"}')
    unknown = count(db, "unknown")
    db.verify(key, environment="test", **ask)
    db.verify("nonsense", **ask)
    assert len(events(db)) == 2 and count(db, "unknown") == unknown
    # Null is the usual choice.
    db.one("alter_keyspace", "quiet", '{"usage_log": null, "usage_details": null}')
    db.verify(key, **ask)
    assert str(events(db)[-1].ip) == "10.0.0.1"
    message = db.refused("KS400", "create_keyspace", "other", usage_log="some")
    assert message == "usage_log must be one of: everything, totals, refusals, nothing"
    db.refused("KS400", "alter_keyspace", "quiet", '{"usage_details": "yes"}')


def test_users_can_not_change_the_settings(cluster, dbname, db):
    settings = db.rows("SELECT name, context FROM pg_settings WHERE name LIKE 'keysmith.usage%'")
    assert len(settings) == 7
    cluster.execute("CREATE ROLE someone LOGIN")
    try:
        with cluster.connect(dbname, user="someone") as other:
            for name, context in settings:
                assert context in ("postmaster", "sighup", "superuser")
                with pytest.raises(psycopg.Error, match="permission denied|cannot be changed"):
                    other.execute(f"SET {name} = DEFAULT")
    finally:
        cluster.execute("DROP ROLE someone")
    # It can be used as shown, as an interval.
    assert db.value("SELECT current_setting('keysmith.usage_retention')::interval = '90 days'")


def test_a_session_brings_no_settings_along():
    """A role that sets one before the library is loaded, which then does not know it, sets
    nothing."""
    with cluster_with_key("brought", preload=False) as (cluster, db, key):
        db.rows("CREATE ROLE boss LOGIN; SELECT keysmith.grant_access('boss', 'admin')")
        db.rows("SELECT keysmith_private.usage_prepare(d, d) FROM (SELECT current_date - 80) AS t (d)")
        boss = session(cluster, user="boss")
        for name, value in [("usage_retention", "1min"), ("usage_overflow", "drop"),
                            ("usage_durability", "commit"), ("usage_conninfo", "host=elsewhere")]:
            boss.rows(f"SET keysmith.{name} = '{value}'")
        assert dict(boss.call("maintain"))["retention"] == "0 partitions dropped"
        assert dict(boss.rows("SELECT name, setting FROM pg_settings WHERE name LIKE 'keysmith.usage%'")) == {
            "keysmith.usage_batch_size": "50000",
            "keysmith.usage_durability": "async", "keysmith.usage_flush_interval": "1000",
            "keysmith.usage_overflow": "write-through", "keysmith.usage_retention": "129600"}
        assert not [row for row in db.findings() if "kept beyond" in row.finding]
        # The setting in the server's file applies.
        cluster.configure(keysmith__usage_retention="1min")
        cluster.restart()
        boss = session(cluster, user="boss")
        assert dict(boss.call("maintain"))["retention"] == "2 partitions dropped"


# Garbage

def test_a_flood_of_garbage_leaves_everything_as_it_was(db, key):
    db.verify(key, ip="10.1.1.1")
    flush(db)
    size = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c " \
           "WHERE relnamespace = 'keysmith_private'::regnamespace AND relname LIKE 'usage%'"
    for keyspace in ("default", "none_such"):
        db.verify("x", keyspace=keyspace)
    flush(db)
    before = db.value(size)
    used = count(db, "used")
    db.rows("SELECT count(v.ok) FROM generate_series(1, 20000) AS n, "
            "LATERAL keysmith.verify('garbage' || n, ip => '10.9.9.9') AS v")
    db.rows("SELECT count(v.ok) FROM generate_series(1, 1000) AS n, "
            "LATERAL keysmith.verify('garbage', keyspace => 'made_up_' || n) AS v")
    db.verify(UNKNOWN_KEY)
    db.verify(None)
    assert count(db, "used") == used
    flush(db)
    assert stored(db) == 1
    counts = db.rows("SELECT keyspace, reason, sum(requests) FROM keysmith_private.usage_unknown "
                     "GROUP BY 1, 2 ORDER BY 1, 2")
    assert counts == [("", "malformed_key", 1001), ("default", "malformed_key", 20001),
                      ("default", "missing", 1), ("default", "not_found", 1)]
    assert 1 <= db.value("SELECT count(*) FROM keysmith_private.usage_unknown_sample") < 30
    assert db.value("SELECT count(*) FROM keysmith_private.usage_unknown_sample s "
                    "WHERE s::text LIKE '%garbage%'") == 0
    assert db.value(size) - before <= 65536


def test_samples_tell_where_garbage_comes_from(db):
    headers = psycopg.types.json.Jsonb({"authorization": "Basic x"})
    db.one("authenticate", headers, "GET", "/v1/" + "x" * 5000, "192.0.2.1")
    flush(db)
    sample = db.row("SELECT * FROM keysmith_private.usage_unknown_sample")
    assert (sample.keyspace, sample.reason, sample.method) == ("", "malformed_header", "GET")
    assert str(sample.ip) == "192.0.2.1" and len(sample.endpoint.encode()) == 200


def test_more_kinds_of_garbage_than_there_is_room_for_are_counted_together(db):
    for n in range(60):
        db.one("create_keyspace", f"k{n}")
    db.rows("SELECT count(v.ok) FROM generate_series(0, 59) AS n, "
            "LATERAL keysmith.verify('garbage', keyspace => 'k' || n) AS v")
    flush(db)
    assert db.value("SELECT sum(requests) FROM keysmith_private.usage_unknown") == 60
    assert db.value("SELECT sum(requests) FROM keysmith_private.usage_unknown WHERE reason = 'other'") == 12
    db.rows("SELECT keysmith.verify('garbage', keyspace => 'k59')")
    flush(db)
    assert db.value("SELECT requests FROM keysmith_private.usage_unknown WHERE keyspace = 'k59'") == 1


# Without shared memory

@contextmanager
def worker_held_up(cluster, dbname="postgres"):
    """The worker can store nothing meanwhile; others can."""
    with cluster.connect(dbname, autocommit=False) as blocker:
        blocker.execute("LOCK TABLE keysmith_private.usage_incarnation IN SHARE ROW EXCLUSIVE MODE")
        yield
        blocker.rollback()


@pytest.mark.parametrize("overflow", ["write-through", "drop"])
def test_a_full_ring(overflow):
    with cluster_with_key("full", keysmith__usage_buffer="64kB",
                          keysmith__usage_overflow=overflow) as (cluster, db, key):
        many = "SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, 300)"
        db.verify(key)
        flush(db)
        with worker_held_up(cluster):
            assert db.value(many, key) == 300
            now = status(db)
            assert now["waiting"] == now["share"] == 96
            with cluster.connect(autocommit=False) as reader:
                reader.execute("SET TRANSACTION READ ONLY")
                assert reader.execute(many, (key,)).fetchone() == (300,)
            assert count(db, "dropped") - now["dropped"] == 300
            db.rows("BEGIN")
            db.rows(many, key)
            db.rows("ROLLBACK")
        flush(db)
        now = status(db)
        in_place = 204 if overflow == "write-through" else 0
        assert now["written_through"] == in_place
        assert now["dropped"] == 300 + 300 + (204 - in_place)
        assert stored(db) == 1 + 96 + in_place
        assert db.value("SELECT count(*) FROM keysmith_private.usage_event WHERE incarnation = 0") == in_place
        assert db.value("SELECT count(DISTINCT (incarnation, sequence)) FROM keysmith_private.usage_event") \
            == stored(db)


def test_what_waited_for_dropped_databases_is_in_nobodys_way():
    with cluster_with_key("dropped", keysmith__usage_buffer="64kB") as (cluster, db, key):
        db.verify(key)
        flush(db)
        before = status(db)
        for name in ("first", "second"):
            cluster.execute(f"CREATE DATABASE {name}")
            there = session(cluster, name)
            there.rows("CREATE EXTENSION keysmith")
            there.tenant()
            other = there.mint().api_key
            with pytest.raises(psycopg.OperationalError), worker_held_up(cluster, name):
                there.rows("SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, 300)", other)
                # This ends the session that blocks the worker.
                cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")
        db.rows("BEGIN")
        decision = db.verify(key)
        db.rows("ROLLBACK")
        assert [row.request_id for row in events(db)][1:] == [decision.request_id]
        assert count(db, "dropped") == int(before["dropped"])


def test_without_preload_rows_are_written_in_place():
    with cluster_with_key("plain", preload=False) as (cluster, db, key):
        verdict = db.verify(key)
        # Before the commit, and not earlier.
        assert db.rows("SELECT request_id, incarnation FROM keysmith_private.usage_event") == [
            (verdict.request_id, 0)]
        db.rows("BEGIN")
        first = db.verify(key)
        second = db.verify(key)
        db.one("log_request", 201, request_id=first.request_id)
        db.one("log_request", 202, "5 ms", "/x")
        assert stored(db) == 1
        db.rows("COMMIT")
        rows = dict(db.rows("SELECT request_id, status FROM keysmith_private.usage_event"))
        assert rows == {verdict.request_id: 200, first.request_id: 201, second.request_id: 202}
        # Later, by its id.
        assert db.one("log_request", 500, request_id=verdict.request_id)[0]
        assert db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s",
                        verdict.request_id) == 500
        # A transaction that can't write keeps working, and counts what it lost.
        db.rows("BEGIN READ ONLY")
        assert db.verify(key).ok
        db.rows("COMMIT")
        assert stored(db) == 3 and count(db, "dropped") == 1
        db.call("verify_many", [key] * 12_000)
        assert stored(db) == 12_003
        db.call("flush_usage")
        db.rows("BEGIN")
        db.verify(key)
        db.rows("ROLLBACK")
        assert count(db, "dropped") == 2


def test_in_place_writing_never_fails_the_request():
    with cluster_with_key("harmless", preload=False) as (cluster, db, key):
        db.verify(key)
        db.rows("ALTER TABLE keysmith_private.usage_event ADD CONSTRAINT no CHECK (status <> 200) NOT VALID")
        db.rows("CREATE TABLE t (n integer)")
        db.rows("BEGIN")
        assert db.verify(key).ok
        db.rows("INSERT INTO t VALUES (1)")
        db.rows("COMMIT")
        assert db.value("SELECT count(*) FROM t") == 1
        assert stored(db) == 1 and count(db, "dropped") == 1
        # Only a session that asks for durability gets an error.
        db.rows("SET keysmith.usage_durability = 'commit'")
        with pytest.raises(psycopg.errors.CheckViolation):
            db.verify(key)


def test_as_durable_as_the_transaction():
    with cluster_with_key("durable", keysmith__usage_durability="commit",
                          keysmith__usage_flush_interval="1h", synchronous_commit="off") as (
                              cluster, db, key):
        # A worker stores records immediately when it starts, and then not for an hour.
        db.rows("BEGIN READ ONLY")
        db.verify(key)
        db.rows("COMMIT")
        flush(db)
        request = db.verify(key)
        crash(cluster, db)
        db = session(cluster)
        assert db.rows("SELECT request_id FROM keysmith_private.usage_event WHERE incarnation = 0") == [
            (request.request_id,)]
        # A read-only transaction queues its record as usual.
        db.rows("BEGIN READ ONLY")
        db.verify(key)
        db.rows("COMMIT")
        assert len(events(db)) == 3


@pytest.mark.parametrize("end", ["ROLLBACK", "COMMIT"])
def test_a_prepared_transaction_keeps_no_record(end):
    """They are stored before it ends, whatever happens to it."""
    with cluster_with_key("prepared", keysmith__usage_durability="commit",
                          keysmith__usage_buffer="64kB") as (cluster, db, key):
        db.rows("BEGIN")
        first = db.verify(key).request_id
        second = db.verify(key).request_id
        assert db.one("log_request", 418, request_id=first)[0]
        db.rows("PREPARE TRANSACTION 'p'")
        rows = events(db, "request_id, status")
        assert dict(rows) == {first: 418, second: 200}
        db.rows(f"{end} PREPARED 'p'")
        assert stored(db) == 2
        assert (count(db, "written_through"), count(db, "dropped"), count(db, "pending")) == (0, 0, 0)
        # If there is no room, the transaction writes the record, as before.
        with worker_held_up(cluster):
            db.rows("BEGIN")
            db.rows("SELECT count((keysmith.verify(%s)).ok) FROM generate_series(1, 200)", key)
            db.rows("PREPARE TRANSACTION 'p'")
            assert count(db, "waiting") == count(db, "share") == 96
            db.rows(f"{end} PREPARED 'p'")
        flush(db)
        assert stored(db) == 2 + (200 if end == "COMMIT" else 96)


MANY = "SELECT count(*) FROM keysmith.verify_many(array_fill(%s::text, ARRAY[6000]))"


@pytest.mark.parametrize("way", ["ROLLBACK TO s; COMMIT", "ROLLBACK", "COMMIT"])
def test_requests_of_a_savepoint_and_of_a_rollback(way):
    """More of them than a transaction keeps: records that it wrote early and rolled back are
    counted."""
    with cluster_with_key("savepoint", keysmith__usage_durability="commit") as (cluster, db, key):
        db.rows("SELECT keysmith_private.usage_prepare()")
        db.rows("BEGIN")
        if "TO s" in way:
            db.rows("SAVEPOINT s")
        db.rows(MANY, key)
        db.rows(way)
        flush(db)
        lost = count(db, "dropped")
        assert stored(db) + lost == 6000
        assert (lost > 0) == (way == "ROLLBACK")
        assert count(db, "written_through") == (6000 if way != "ROLLBACK" else 0)


def test_what_a_transaction_writes_itself_is_not_compiled():
    """That would take seconds, in another session's commit."""
    with cluster_with_key("compiled", keysmith__usage_durability="commit") as (cluster, db, key):
        db.rows("BEGIN")
        db.verify(key)
        db.rows("SET LOCAL jit = on; SET LOCAL jit_above_cost = 0")
        db.rows("COMMIT")
        assert stored(db) == 1
        with open(f"/proc/{db.session.info.backend_pid}/maps") as maps:
            assert "llvm" not in maps.read().lower()


def test_who_writes_early_keeps_nobody_from_making_partitions():
    """An open transaction has made no partition: others could store nothing until it ends."""
    with cluster_with_key("open", keysmith__usage_durability="commit") as (cluster, db, key):
        holder = session(cluster)
        holder.rows("BEGIN")
        holder.rows(MANY, key)
        assert stored(db) == 0
        assert db.verify(key).ok
        assert stored(db) == 1
        # Now there is a partition to write to.
        holder.rows("SELECT (keysmith.verify(%s)).ok", key)
        held = ("SELECT array_agg(DISTINCT mode) FROM pg_locks WHERE pid = %s "
                "AND relation = 'keysmith_private.usage_event'::regclass")
        # The first is for the bounds of the partition, which PostgreSQL checks.
        assert db.value(held, holder.session.info.backend_pid) == ["AccessShareLock", "RowExclusiveLock"]
        db.rows("SET lock_timeout = '60s'")
        assert db.value("SELECT keysmith_private.usage_prepare(d, d) FROM (SELECT current_date + 50) AS t (d)") == 1
        holder.rows("COMMIT")
        assert stored(db) == 6002


def test_a_commit_that_fails_for_its_record_does_not_lose_it():
    with cluster_with_key("kept", keysmith__usage_durability="commit",
                          keysmith__usage_flush_interval="50ms") as (cluster, db, key):
        db.verify(key)
        other = session(cluster)
        other.rows("BEGIN")
        other.rows("LOCK TABLE keysmith_private.usage_event IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            db.verify(key)
        other.rows("ROLLBACK")
        wait_until(lambda: stored(db) == 2)


def test_an_amendment_that_is_written_before_its_event():
    """Both transactions write their own; the amendment's commits first."""
    with cluster_with_key("early", keysmith__usage_durability="commit",
                          keysmith__usage_flush_interval="50ms") as (cluster, db, key):
        other = session(cluster)
        db.rows("BEGIN")
        request_id = db.verify(key).request_id
        assert other.call("log_request", 418, request_id=request_id)[0][0]
        db.rows("COMMIT")
        wait_until(lambda: db.value("SELECT status FROM keysmith_private.usage_event WHERE request_id = %s",
                                    request_id) == 418)


def test_partitions_lie_where_the_owner_has_them(cluster, db):
    db.rows("SET allow_in_place_tablespaces = on")
    db.rows("CREATE TABLESPACE elsewhere LOCATION ''")
    db.rows("SET default_tablespace = elsewhere")
    assert db.value("SELECT keysmith_private.usage_prepare('2050-01-01', '2050-01-02')") >= 2
    assert not db.rows("SELECT relname FROM pg_class WHERE relname LIKE 'usage%%' AND reltablespace <> 0")
    db.rows("DROP TABLESPACE elsewhere")


def test_a_hot_standby_that_hands_over_nothing_says_so():
    with cluster_with_key("primary") as (cluster, db, key):
        standby = cluster.backup("standby", 5433)
        standby.configure(keysmith__usage_conninfo="off")
        try:
            standby.start()
            replica = session(standby)
            wait_until(lambda: replica.verify(key).ok)
            lost = count(replica, "not_logged")
            replica.rows("BEGIN")
            assert replica.verify(key).ok
            assert not replica.one("log_request", 200, request_id=db.verify(key).request_id)[0]
            replica.rows("COMMIT")
            replica.call("flush_usage")
            now = status(replica)
            assert now["mode"].startswith("not logged")
            assert now["not_logged"] == lost + 1 and now["worker_pid"] is None
            assert now["waiting"] == 0
            # Promoted, it logs.
            replica.rows("SELECT pg_promote(false)")
            wait_until(lambda: not replica.value("SELECT pg_is_in_recovery()"))
            request = replica.verify(key)
            assert request.request_id in [row.request_id for row in events(replica)]
        finally:
            standby.remove()


def test_more_databases_than_there_are_places():
    with running("many", max_connections=20) as cluster:
        cluster.execute("CREATE EXTENSION keysmith", dbname="template1")
        # Queues of dropped databases are reused.
        for n in range(70):
            cluster.execute(f"CREATE DATABASE d{n} STRATEGY file_copy")
            cluster.execute("SELECT keysmith.verify('x')", dbname=f"d{n}")
            if n < 60:
                cluster.execute(f"DROP DATABASE d{n}")
        db = session(cluster, "d69")
        db.tenant()
        db.verify(db.mint().api_key)
        assert len(events(db)) == 1
        assert db.value("SELECT incarnation FROM keysmith_private.usage_event") > 0
