"""Calls that wait for each table that they use, and are cut off while they wait."""

import re
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until
from test_faults import check_log, check_nothing_is_held
from test_usage_pipeline import count, flush
from test_usage_sql import assert_totals

CALLS = {
    "verify": "SELECT keysmith.verify('{owned}', '{{read}}', sign_in => true)",
    "verify and spend": "SELECT keysmith.verify('{owned}', sign_in => true, spend => 1)",
    "verify_digest": "SELECT keysmith.verify_digest(sha256('{owned}'), sign_in => true)",
    "verify_digest and spend": "SELECT keysmith.verify_digest(sha256('{owned}'), sign_in => true, spend => 1)",
    # The first key has no owner, so the decision about it does not read members.
    "verify_many": "SELECT keysmith.verify_many('{{{plain},{owned}}}')",
    "authenticate": "SELECT keysmith.authenticate('{headers}', 'GET', '/orders/1')",
    "authenticate and spend": "SELECT keysmith.authenticate('{headers}', 'GET', '/orders/1', spend => 1)",
    "pre_request": "SELECT keysmith.pre_request()",
    "explain_verify": "SELECT keysmith.explain_verify('{owned}', spend => 1)",
    # In a transaction that acts for a key already, and must check it again.
    "current_key": "SELECT keysmith.current_key()",
}
POLICY = ["keyspace", "keyspace_prefix", "answer", "plan_feature", "scope", "role", "route", "endpoint"]
ROWS = ["key", "tenant", "member"]
SPEND = [call for call in CALLS if "spend" in call]
WAITS = [(table, call) for table in POLICY + ROWS for call in CALLS] \
    + [("credit", call) for call in SPEND + ["explain_verify"]] \
    + [("a balance", call) for call in SPEND]

# A spend waits for a balance by its own timeout, not by lock_timeout.
MEANS = {
    "cancel": psycopg.errors.QueryCanceled,
    "lock_timeout": psycopg.errors.LockNotAvailable,
    "statement_timeout": psycopg.errors.QueryCanceled,
}


@pytest.fixture(scope="module")
def cluster():
    with running("cuts") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        for scope in ("read", "write"):
            db.call("define_scope", "default", scope)
        db.call("define_role", "default", "reader", ["read"])
        db.call("define_route", "default", "GET", "/orders/{id}", ["read"])
        db.call("define_route", "default", "POST", "/orders", ["write"])
        db.call("alter_keyspace", "default", Jsonb({
            "codes": {"insufficient_scope": {"code": "may_not", "status": 418}},
            "plan_features": {"allowlist": ["pro"]}}))
        yield cluster
        db.session.close()
        check_log(cluster, but=["canceling", "keysmith: usage"])


@pytest.fixture
def cuts(cluster, request):
    """A tenant, its keys, and three sessions: one is cut off, one holds the lock, one
    observes."""
    db, holder, other = (session(cluster) for _ in range(3))
    tenant = re.sub(r"\W", "_", request.node.name)
    other.tenant(tenant, credits=Jsonb(100))
    other.call("set_member", tenant, "ada", "reader")
    limits = Jsonb([{"name": "yearly", "limit": 100, "window": "365 days"}])
    owned, plain = other.mint(tenant, owner="ada", limits=limits), other.mint(tenant, limits=limits)
    free = other.mint(tenant, owner="ada")
    headers = f'{{"authorization": "Bearer {owned.api_key}"}}'
    for name, value in {"headers": headers, "method": "GET", "path": "/orders/1"}.items():
        db.rows("SELECT set_config(%s, %s, false)", f"request.{name}", value)
    calls = {name: call.format(owned=owned.api_key, plain=plain.api_key, headers=headers)
             for name, call in CALLS.items()}
    yield SimpleNamespace(db=db, holder=holder, other=other, tenant=tenant, calls=calls,
                          owned=owned, plain=plain, free=free, headers=Jsonb({"x-api-key": owned.api_key}))
    for opened in (db, holder, other):
        opened.session.close()


def hold(cuts, table):
    if table == "a balance":
        cuts.holder.rows("BEGIN")
        assert cuts.holder.verify(cuts.free.api_key, spend=7).ok
    else:
        cuts.holder.rows(f"BEGIN; LOCK TABLE keysmith_private.{table} IN ACCESS EXCLUSIVE MODE")


def means_for(table):
    return [means for means in MEANS if (table, means) != ("a balance", "lock_timeout")]


def cut_off(cuts, call, means):
    """Cuts the call off while it waits for the lock. lock_timeout does so by itself; for cancel,
    the observer waits until the call waits. For the third the lock is the same."""
    if means != "cancel":
        # It must end at the lock, and not before.
        cuts.db.rows(f"SET {means} = '{30 if means == 'lock_timeout' else 250}ms'")
        with pytest.raises(MEANS[means]):
            cuts.db.rows(call)
        return
    pid = cuts.db.session.info.backend_pid
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(cuts.db.rows, call)
        wait_until(lambda: running.done() or waits(cuts.other, pid))
        assert not running.done(), "it waits for no lock"
        cuts.other.rows("SELECT pg_cancel_backend(%s)", pid)
        with pytest.raises(MEANS[means]):
            running.result()


def waits(db, pid):
    return db.value("SELECT wait_event_type FROM pg_stat_activity WHERE pid = %s", pid) == "Lock"


def calls_left(cuts, key):
    """The credits in an explanation, which takes none."""
    saw = cuts.other.value("SELECT saw FROM keysmith.explain_verify(%s) WHERE rule = 'limits'", key.api_key)
    return int(re.match(r"yearly: (\d+) calls left", saw)[1])


def balance(cuts):
    return cuts.other.value("SELECT balance FROM keysmith_private.credit JOIN keysmith_private.tenant USING (tenant_id) "
                            "WHERE name = %s", cuts.tenant)


def rows_of(cuts, key):
    flush(cuts.other)
    return cuts.other.value("SELECT count(*) FROM keysmith_private.usage_event WHERE key_id = %s", key.key_id)


def check_that_it_decides(cuts):
    """The same answers as before, by the whole policy."""
    db = cuts.db
    got = db.verify(cuts.owned.api_key, spend=1)
    assert (got.ok, got.role, got.owner, got.scopes) == (True, "reader", "ada", ["read"])
    for method, path, answer in [("GET", "/orders/1", (200, "ok", "ok")), ("GET", "/", (200, "ok", "ok")),
                                 ("POST", "/orders", (418, "may_not", "insufficient_scope"))]:
        got = db.one("authenticate", cuts.headers, method, path)
        assert (got.status, got.code, got.reason) == answer
    db.refused("KS403", "mint", cuts.tenant, allowlist=["192.0.2.0/24"])
    assert "scope" in db.refused("KS400", "mint", cuts.tenant, scopes=["unheard:of"])


@pytest.mark.parametrize("table, call", WAITS, ids=lambda name: name)
def test_a_call_is_cut_off_where_it_waits(cuts, table, call):
    db, is_policy = cuts.db, table in POLICY
    # The session has loaded tables and policy, unless the call waits for the policy.
    db.verify(cuts.free.api_key, keyspace="elsewhere" if is_policy else "default")
    if call != "current_key":
        hold(cuts, table)
        for means in means_for(table):
            cut_off(cuts, cuts.calls[call], means)
            db.rows("RESET lock_timeout; RESET statement_timeout")
            check_nothing_is_held(db)
        cuts.holder.rows("ROLLBACK")
    # The same within a transaction that acts for a key, and must check it again; with a changed
    # policy, or a key in the directory.
    assert db.verify(cuts.owned.api_key, weight=0).ok
    db.rows("BEGIN")
    assert db.verify(cuts.free.api_key, sign_in=True).ok
    cuts.other.rows("UPDATE keysmith_private.keyspace SET label_length = label_length" if is_policy
                    else "SELECT txid_current()")
    # A decision leaves no lock behind that would block this.
    hold(cuts, table)
    for means in means_for(table):
        db.rows("SAVEPOINT s")
        cut_off(cuts, cuts.calls[call], means)
        db.rows("ROLLBACK TO s")
    cuts.holder.rows("ROLLBACK")
    assert db.value("SELECT keysmith.current_key()") == cuts.free.key_id
    db.rows("COMMIT")
    check_nothing_is_held(db)
    # A call that was cut off gave back what it had taken: limits come before credits. In verify_many,
    # the first key was decided about before the cut.
    decided = 2 * len(means_for(table)) if (table, call) == ("member", "verify_many") else 0
    assert (calls_left(cuts, cuts.owned), calls_left(cuts, cuts.plain)) == (100, 100 - decided)
    assert balance(cuts) == 100
    assert (rows_of(cuts, cuts.owned), rows_of(cuts, cuts.plain)) == (1, decided)
    check_that_it_decides(cuts)
    assert (calls_left(cuts, cuts.owned), balance(cuts)) == (100 - 3, 99)
    assert rows_of(cuts, cuts.owned) == 5 and count(cuts.other, "pending") == 0
    assert_totals(cuts.other)


@pytest.mark.parametrize("table", [*POLICY, *ROWS, "credit"])
def test_a_session_is_cut_off_at_its_first_call(cuts, table):
    """It reads all tables first, whichever it needs later."""
    hold(cuts, table)
    for means in MEANS:
        cut_off(cuts, cuts.calls["verify"], means)
        cuts.db.rows("RESET lock_timeout; RESET statement_timeout")
        check_nothing_is_held(cuts.db)
    cuts.holder.rows("ROLLBACK")
    check_that_it_decides(cuts)
    assert rows_of(cuts, cuts.owned) == 4 and calls_left(cuts, cuts.owned) == 97


# Usage that is as durable as the transaction is stored at the commit, and waits there.

DURABLE = {
    "verify": (["verify"], 1, 0),
    "verify and spend": (["verify and spend"], 1, 0),
    "verify_digest": (["verify_digest"], 1, 0),
    "verify_many": (["verify_many"], 1, 1),
    "authenticate": (["authenticate"], 1, 0),
    "pre_request": (["pre_request"], 1, 0),
    "log_request": (["BEGIN", "verify", "SELECT keysmith.log_request(599)", "COMMIT"], 1, 0),
}


@pytest.mark.parametrize("table", ["usage_event", "usage_delta"])
@pytest.mark.parametrize("call", DURABLE)
def test_a_commit_is_cut_off_where_it_stores_usage(cuts, call, table):
    db, (steps, owned, plain) = cuts.db, DURABLE[call]
    *before, last = [cuts.calls.get(step, step) for step in steps]
    db.rows("SET keysmith.usage_durability = 'commit'")
    assert db.verify(cuts.free.api_key).ok and rows_of(cuts, cuts.free) == 1
    hold(cuts, table)
    # It waits up to a second itself. statement_timeout no longer applies during a commit.
    times = ["cancel", "cancel"] + ["lock_timeout"] * (call == "log_request")
    for means in times:
        for step in before:
            db.rows(step)
        cut_off(cuts, last, means)
        check_nothing_is_held(db)
    cuts.holder.rows("ROLLBACK")
    # The transaction failed, and spent nothing. But its requests count.
    assert balance(cuts) == 100
    assert (calls_left(cuts, cuts.owned), calls_left(cuts, cuts.plain)) \
        == (100 - len(times) * owned, 100 - len(times) * plain)
    wait_until(lambda: (rows_of(cuts, cuts.owned), rows_of(cuts, cuts.plain))
               == (len(times) * owned, len(times) * plain))
    completed = "SELECT count(*) FROM keysmith_private.usage_event WHERE key_id = %s AND status = 599"
    assert cuts.other.value(completed, cuts.owned.key_id) == (len(times) if call == "log_request" else 0)
    db.rows("RESET lock_timeout")
    check_that_it_decides(cuts)
    # Stored with the commit, and not by the worker.
    assert cuts.other.value("SELECT count(*) FROM keysmith_private.usage_event WHERE key_id = %s AND incarnation = 0",
                            cuts.owned.key_id) == 4
    assert (balance(cuts), count(cuts.other, "pending"), count(cuts.other, "dropped")) == (99, 0, 0)
    assert_totals(cuts.other)
