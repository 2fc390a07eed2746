"""Dropping a keyspace: all that belongs to it goes at once, also what others do at the same time."""

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import wait_until

# The audit stays, and so does what is about no keyspace.
KEPT = {"audit_entry", "audit_content"}


def lively(db, keyspace):
    """A keyspace with something in every table, and the ids of its tenants and keys."""
    db.call("create_keyspace", keyspace, codes=Jsonb({"invalid_api_key": "gone"}),
            plan_features=Jsonb({"limits": ["pro"]}), usage_tags=["model"])
    db.call("define_scope", keyspace, "a")
    db.call("define_role", keyspace, "dev", ["a"])
    db.call("define_route", keyspace, "GET", "/things", ["a"])
    db.call("define_endpoint", keyspace, "GET", "/me", "whoami")
    tenant = db.tenant(f"{keyspace}-acme", keyspace=keyspace, credits=Jsonb(5))
    db.call("set_member", f"{keyspace}-acme", "ann", "dev", keyspace)
    key = db.mint(f"{keyspace}-acme", keyspace=keyspace, role="dev", owner="ann", credits=5)
    with db.session.transaction():
        assert db.verify(key.api_key, keyspace=keyspace, sign_in=True, ip="192.0.2.1", weights=Jsonb({"tokens": 1})).ok
        db.rows("INSERT INTO docs VALUES ('x')")
        db.one("log_request", tags=Jsonb({"model": "small"}))
    db.one("authenticate", Jsonb({"Authorization": f"Bearer {key.api_key}"}), "GET", "/things", None, keyspace=keyspace)
    db.verify("nothing", keyspace=keyspace)
    db.rows("INSERT INTO keysmith_private.usage_mark VALUES (%s, now(), 1000, now())", tenant)
    db.rows("INSERT INTO keysmith_private.key_notice VALUES (%s, '2999-01-01', 'key.expiring')", key.key_id)
    db.rows("INSERT INTO keysmith_private.usage_set_aside VALUES (now(), 1, 1, now(), %s, %s, 'x')",
            key.key_id, key.key_id)
    db.call("flush_usage")
    db.rows("SELECT keysmith_private.usage_fold()")
    db.verify(key.api_key, keyspace=keyspace, weights=Jsonb({"tokens": 1}))
    db.call("flush_usage")
    return key, [str(tenant), str(key.key_id), keyspace]


def tables(db):
    return {name: db.value(f"SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM keysmith_private.{name} t")
            for name, in db.rows("SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') "
                                 "AND NOT relispartition AND relnamespace = 'keysmith_private'::regnamespace")}


def with_any(tables, marks):
    return {name for name, rows in tables.items() if any(mark in rows for mark in marks)}


@pytest.fixture
def docs(db):
    db.rows("CREATE TABLE docs (body text)")
    db.call("track", "docs")


@pytest.fixture
def others(connect, database):
    session = database(connect(autocommit=False))
    yield session
    session.session.rollback()


@pytest.fixture
def role(cluster, dbname):
    cluster.execute("CREATE ROLE bound LOGIN; CREATE ROLE bound_too")
    yield "bound"
    for name in ("bound", "bound_too"):
        cluster.execute(f"DROP OWNED BY {name}", dbname)
        cluster.execute(f"DROP ROLE {name}")


def problems(db):
    return {row.keyspace: row.problem for row in db.call("audit_verify") if not row.ok}


def test_all_that_belongs_to_it_goes(db, docs, role):
    db.tenant()
    key, marks = lively(db, "studio")
    theirs, kept = lively(db, "atelier")
    db.call("grant_access", "bound", "verifier", keyspace="studio")
    db.call("grant_access", "bound_too", "issuer", tenant="studio-acme", keyspace="studio")
    # Totals that are not folded yet.
    db.rows("INSERT INTO keysmith_private.usage_delta SELECT period, tenant_id, key_id, environment, status, outcome, "
            "NULL, NULL, 1, 0, 0, '0', NULL, NULL FROM keysmith_private.usage_hour")
    db.rows("INSERT INTO keysmith_private.usage_unit_delta SELECT period, tenant_id, key_id, environment, unit, amount "
            "FROM keysmith_private.usage_unit")
    db.rows("INSERT INTO keysmith_private.usage_tag_delta SELECT period, tenant_id, tag, environment, value, requests, spend "
            "FROM keysmith_private.usage_tag")
    counts = "SELECT sum(requests) FROM keysmith.usage_daily WHERE keyspace = 'atelier'"
    before, counted = tables(db), db.value(counts)
    filled = {name for name, rows in before.items() if "studio" in rows or any(mark in rows for mark in marks)}
    assert filled >= {
        "keyspace", "keyspace_prefix", "answer", "plan_feature", "scope", "role", "route", "endpoint", "tenant", "member",
        "key", "access", "credit", "key_notice", "touch", "usage_event", "usage_delta", "usage_unit", "usage_unit_delta", "usage_tag", "usage_tag_delta", "usage_sum", "usage_hour", "usage_day",
        "usage_endpoint_day", "usage_last", "usage_mark", "usage_unknown", "usage_unknown_sample", "usage_set_aside"}
    db.call("drop_keyspace", "studio", cascade=True)
    after = tables(db)
    assert with_any(after, marks) == KEPT
    assert with_any(after, kept) == with_any(before, kept)
    of_theirs = ("keyspace", "keyspace_prefix", "answer", "scope", "role", "route", "endpoint", "member", "key", "usage_hour")
    assert {name for name in of_theirs if before[name].count("atelier") != after[name].count("atelier")} == set()
    assert db.verify(theirs.api_key, keyspace="atelier").ok
    db.call("flush_usage")
    db.rows("SELECT keysmith_private.usage_fold()")
    assert with_any(tables(db), marks) == KEPT
    assert db.value(counts) == counted + 1
    # The audit of its acts stays, and is proven.
    entry = db.row("SELECT entry, before ->> 'keyspace' AS before, after FROM keysmith.audit "
                   "WHERE keyspace = 'studio' ORDER BY entry DESC LIMIT 1")
    assert (entry.before, entry.after) == ("studio", {"keys": 1, "tenants": 1})
    assert problems(db) == {}
    assert db.rows("SELECT action, count(*) FROM keysmith.audit WHERE action = 'revoke_access' GROUP BY 1") \
        == [("revoke_access", 2)]
    for function, arguments in {"create_tenant": ["new", "studio"], "drop_keyspace": ["studio"],
                                "alter_keyspace": ["studio", Jsonb({})]}.items():
        assert "studio" in db.refused("KS404", function, *arguments)
    assert db.reason(key.api_key, keyspace="studio") == "not_found"


@pytest.mark.parametrize("end, is_over", [
    (lambda db, key: db.call("revoke", key.key_id), True),
    (lambda db, key: db.rows("UPDATE keysmith_private.key SET expires_at = now()"), True),
    (lambda db, key: db.rows("UPDATE keysmith_private.key SET created_at = created_at - interval '2 days'")
        or db.call("alter_keyspace", "studio", Jsonb({"max_lifetime": "1 day"})), True),
    (lambda db, key: db.rows("UPDATE keysmith_private.key SET created_at = created_at - interval '2 days'")
        or db.call("alter_tenant", "acme", Jsonb({"max_lifetime": "1 day"}), "studio"), True),
    (lambda db, key: db.call("disable", key.key_id), False),
    (lambda db, key: db.call("suspend_tenant", "acme", "studio"), False),
    (lambda db, key: None, False),
])
def test_keys_that_are_not_over_keep_it(db, end, is_over):
    db.call("create_keyspace", "studio")
    db.tenant(keyspace="studio")
    key = db.mint(keyspace="studio")
    end(db, key)
    if not is_over:
        before = tables(db)
        assert "studio" in db.refused("KS409", "drop_keyspace", "studio")
        assert tables(db) == before
    db.call("drop_keyspace", "studio", cascade=not is_over)
    assert db.rows("SELECT keyspace FROM keysmith.tenants") == []


def test_what_is_refused_changes_nothing(db, others):
    db.call("create_keyspace", "studio")
    before = tables(db)
    assert "nowhere" in db.refused("KS404", "drop_keyspace", "nowhere")
    assert "keyspace" in db.refused("KS400", "drop_keyspace", None)
    assert "cascade" in db.refused("KS400", "drop_keyspace", "studio", None)
    others.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    assert "READ COMMITTED" in others.refused("KS409", "drop_keyspace", "studio")
    others.session.rollback()
    others.call("drop_keyspace", "studio")
    others.session.rollback()
    assert tables(db) == before


def test_other_sessions_notice_it_at_the_commit(db, others, connect, database):
    db.call("create_keyspace", "studio")
    db.tenant(keyspace="studio")
    key = db.mint(keyspace="studio")
    other = database(connect())
    signed_in = database(connect(autocommit=False))
    person = database(connect(autocommit=False))
    assert other.verify(key.api_key, keyspace="studio").ok
    assert signed_in.verify(key.api_key, keyspace="studio", sign_in=True).ok
    person.call("act_as", "acme", keyspace="studio")
    others.call("drop_keyspace", "studio", cascade=True)
    assert other.verify(key.api_key, keyspace="studio").ok
    assert signed_in.value("SELECT keysmith.current_tenant()") == "acme"
    others.session.commit()
    for _ in range(2):
        assert other.reason(key.api_key, keyspace="studio") == "not_found"
    for session in (signed_in, person):
        assert "gone" in session.refused("KS401", "current_tenant")
        session.session.rollback()


def test_a_role_that_was_bound_to_it_may_decide_nothing(db, cluster, dbname, role, connect, database):
    """Without its row of access it would be bound to no keyspace, and so reach all."""
    db.tenant()
    db.call("create_keyspace", "studio")
    db.call("create_keyspace", "atelier")
    db.call("grant_access", "bound", "verifier", keyspace="studio")
    for keyspace in ("studio", "atelier"):
        db.call("grant_access", "bound_too", "verifier", keyspace=keyspace)
    key = db.mint().api_key
    bound, other = database(connect(user="bound")), database(connect())
    bound.refused("KS403", "verify", key)
    other.rows("SET ROLE bound_too")
    other.refused("KS403", "verify", key)
    db.call("drop_keyspace", "studio")
    for keyspace in ("default", "studio"):
        bound.refused("42501", "verify", key, keyspace=keyspace)
        other.refused("KS403", "verify", key, keyspace=keyspace)
    other.verify(key, keyspace="atelier")
    assert db.rows("SELECT role::text, keyspace FROM keysmith_private.access") == [("bound_too", "atelier")]
    # Nor does a new keyspace of that name bring anything back.
    db.call("create_keyspace", "studio")
    bound.refused("42501", "verify", key, keyspace="studio")
    other.refused("KS403", "verify", key, keyspace="studio")
    # A role that is gone left its row.
    db.call("grant_access", "bound", "verifier", keyspace="studio")
    db.rows("UPDATE keysmith_private.access SET role = 4000000000::oid::regrole WHERE keyspace = 'studio'")
    db.call("drop_keyspace", "studio")
    assert problems(db) == {}


@pytest.mark.parametrize("together", [True, False])
def test_a_new_keyspace_of_the_name_begins_empty(db, together):
    db.call("create_keyspace", "studio", wildcards=False, limits=Jsonb([
        {"name": "all", "limit": 1, "window": "1 day"}]))
    db.call("define_scope", "studio", "a")
    id = db.tenant(keyspace="studio")
    key = db.mint(keyspace="studio", idempotency_key="once")
    channel = db.one("event_channel", "studio")
    assert db.verify(key.api_key, keyspace="studio").ok
    db.rows("BEGIN" if together else "SELECT")
    db.call("drop_keyspace", "studio", cascade=True)
    db.call("create_keyspace", "studio")
    db.rows("COMMIT" if together else "SELECT")
    assert db.reason(key.api_key, keyspace="studio") == "not_found"
    assert db.tenant(keyspace="studio") != id
    new = db.mint(keyspace="studio", idempotency_key="once")
    assert new.api_key and db.verify(new.api_key, keyspace="studio").ok
    assert db.reason(key.api_key, keyspace="studio") == "not_found"
    assert db.row("SELECT wildcards, limits FROM keysmith_private.keyspace WHERE keyspace = 'studio'") == (True, None)
    assert db.rows("SELECT scope FROM keysmith.scopes") == []
    assert db.one("event_channel", "studio") != channel
    # Its entries follow those of the former one.
    assert problems(db) == {}
    actions = [action for action, in db.rows(
        "SELECT action FROM keysmith.audit WHERE keyspace = 'studio' ORDER BY entry")]
    assert actions == ["create_keyspace", "define_scope", "create_tenant", "mint", "drop_keyspace",
                       "create_keyspace", "create_tenant", "mint"]


def test_the_default_keyspace_begins_again(db):
    db.call("alter_keyspace", "default", Jsonb({"label_length": 7}))
    db.tenant()
    key = db.mint().api_key
    db.call("drop_keyspace", "default", True)
    assert db.reason(key) == "not_found"
    assert db.rows("SELECT tenant FROM keysmith.tenants") == []
    db.tenant()
    assert db.verify(db.mint(label="a longer label").api_key).ok
    # Also before its row is there.
    db.call("drop_keyspace", "default", True)
    db.call("drop_keyspace", "default")
    assert problems(db) == {}


def test_it_tells_who_listens(db, hear):
    db.call("create_keyspace", "studio")
    came = hear(db.one("event_channel", "studio")[0])
    db.call("drop_keyspace", "studio")
    assert [(event["event"], event["keyspace"], event["key_id"]) for event in came()] \
        == [("drop_keyspace", "studio", None)]


def test_it_warns_of_rows_that_name_its_tenants(db):
    db.call("create_keyspace", "studio")
    db.call("create_keyspace", "atelier")
    db.rows("CREATE TABLE by_name (tenant text); CREATE TABLE by_id (tenant uuid); CREATE TABLE theirs (tenant text)")
    db.call("isolate", "by_name", "tenant", keyspace="studio")
    db.call("isolate", "by_id", "tenant", keyspace="studio")
    db.call("isolate", "theirs", "tenant", keyspace="atelier")
    notices = []
    db.session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    db.call("drop_keyspace", "studio")
    assert notices == ["rows that name tenants of the keyspace stay: public.by_name"]


# At the same time

# Each with the key that was there before.
ACTS = {
    "mint": lambda db, key: db.mint(keyspace="studio"),
    "regenerate": lambda db, key: db.call("regenerate", "acme", keyspace="studio"),
    "rotate": lambda db, key: db.one("rotate", key.key_id),
    "revoke": lambda db, key: db.call("revoke", key.key_id),
    "alter_key": lambda db, key: db.call("alter_key", key.key_id, Jsonb({"role": "dev"})),
    "create_tenant": lambda db, key: db.tenant("new", keyspace="studio"),
    "set_member": lambda db, key: db.call("set_member", "acme", "ann", "dev", "studio"),
    "define_scope": lambda db, key: db.call("define_scope", "studio", "b"),
    "alter_keyspace": lambda db, key: db.call("alter_keyspace", "studio", Jsonb({"wildcards": False})),
    "add_credits": lambda db, key: db.call("add_credits", 5, tenant="acme", keyspace="studio"),
    "erase_tenant": lambda db, key: db.call("erase_tenant", "acme", "studio"),
    "grant_access": lambda db, key: db.call("grant_access", "pg_monitor", "issuer", tenant="acme", keyspace="studio"),
    "import_key": lambda db, key: db.call("import_key", "acme", b"x" * 32, keyspace="studio"),
    "drop_keyspace": lambda db, key: db.call("drop_keyspace", "studio", cascade=True),
}


@pytest.mark.parametrize("goes_first", ["the act", "the drop"])
@pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)
def test_acts_wait_for_it_and_it_for_them(connect, database, db, others, act, goes_first):
    db.call("create_keyspace", "studio", max_active_keys=1, at_max="replace")
    db.tenant(keyspace="studio")
    db.call("define_role", "studio", "dev", ["*"])
    key = db.mint(keyspace="studio")
    waiting = database(connect())
    drop = lambda by, key: by.call("drop_keyspace", "studio", cascade=True)
    first, second = (drop, act) if goes_first == "the drop" else (act, drop)
    first(others, key)

    def run():
        try:
            second(waiting, key)
        except psycopg.Error as error:
            return error.sqlstate

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        pid = waiting.session.info.backend_pid
        wait_until(lambda: db.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))
        others.session.commit()
        is_dropped = goes_first == "the drop" or act is ACTS["drop_keyspace"]
        assert done.result() == ("KS404" if is_dropped else None)
    assert with_any(tables(db), [str(key.key_id), "studio"]) == KEPT
    assert problems(db) == {}


def test_records_that_arrive_later_bring_nothing_back(db, others, connect, database, docs):
    """Records of requests wait in memory, or in a transaction, when the keyspace is dropped."""
    key, marks = lively(db, "studio")
    for ip in ("192.0.2.1", None):
        assert others.verify(key.api_key, keyspace="studio", ip=ip).ok
    person = database(connect(autocommit=False))
    person.call("act_as", "studio-acme", "ann", "studio")
    db.verify(key.api_key, keyspace="studio")
    db.call("drop_keyspace", "studio", cascade=True)
    others.session.commit()
    assert person.session.execute("SELECT 1")
    with pytest.raises(psycopg.Error) as error:
        person.rows("INSERT INTO docs VALUES ('x')")
    assert error.value.sqlstate == "KS401"
    person.session.rollback()
    db.call("flush_usage")
    db.call("maintain")
    assert with_any(tables(db), marks) == KEPT


def test_a_touch_at_the_same_time_leaves_nothing(db, others, connect, database, docs):
    key, marks = lively(db, "studio")
    acting = database(connect(autocommit=False))
    assert acting.verify(key.api_key, keyspace="studio", sign_in=True).ok
    others.call("drop_keyspace", "studio", cascade=True)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(acting.rows, "INSERT INTO docs VALUES ('x')")
        wait_until(lambda: db.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", acting.session.info.backend_pid))
        others.session.commit()
        assert done.exception().sqlstate == "KS401"
    acting.session.rollback()
    assert with_any(tables(db), marks) == KEPT


def test_nothing_waits_for_another_in_a_circle(db, connect, database, dbname):
    """Sessions mint, rotate, spend and decide while the keyspace is dropped and made again."""
    rounds, stop = 12, threading.Event()

    def make():
        db.call("create_keyspace", "studio", max_active_keys=2, at_max="replace")
        db.tenant(keyspace="studio", credits=Jsonb(1000000))
        return db.mint(keyspace="studio")

    current = [make()]
    allowed = {"KS404", "KS409"}
    unexpected, minted = [], []

    def work(act):
        own = database(connect())
        while not stop.is_set():
            try:
                act(own)
            except psycopg.Error as error:
                if error.sqlstate not in allowed:
                    unexpected.append(f"{error.sqlstate} {error}")
                    return

    def mint(own):
        minted.append(own.mint(keyspace="studio").api_key)

    def decide(own):
        own.verify(current[0].api_key, keyspace="studio", spend=1)

    acts = [mint, mint, lambda own: own.one("rotate", current[0].key_id), decide, decide,
            lambda own: own.tenant(f"t{own.session.info.backend_pid}", keyspace="studio")]
    with ThreadPoolExecutor(len(acts)) as pool:
        workers = [pool.submit(work, act) for act in acts]
        try:
            for _ in range(rounds):
                seen = len(minted)
                wait_until(lambda: len(minted) > seen or unexpected)
                db.call("drop_keyspace", "studio", cascade=True)
                current[0] = make()
        finally:
            stop.set()
        for worker in workers:
            worker.result()
    assert unexpected == []
    db.rows("SELECT pg_stat_force_next_flush()")
    assert db.value("SELECT deadlocks FROM pg_stat_database WHERE datname = %s", dbname) == 0
    db.call("drop_keyspace", "studio", cascade=True)
    db.call("flush_usage")
    # Requests without a known key name any keyspace.
    assert with_any(tables(db), ["studio"]) - {"usage_unknown", "usage_unknown_sample"} == KEPT
    assert problems(db) == {}
