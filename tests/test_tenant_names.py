"""Tenants with an id of the application's, tenants that are made once, and their new names."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import wait_until

ID = uuid.UUID("5f3a1c2e-8b7d-4e6f-9a0b-1c2d3e4f5a6b")


@pytest.fixture
def racing(connect, database):
    """Calls a function in one transaction while another, which is still open, goes first. Calling the
    result ends the other, and returns the answer or the error of the first."""
    pool = ThreadPoolExecutor(1)
    waiting = database(connect())
    pid = waiting.session.info.backend_pid

    def race(db, function, *positional, **named):
        def run():
            try:
                return waiting.call(function, *positional, **named)
            except psycopg.Error as error:
                return error

        future = pool.submit(run)
        wait_until(lambda: db.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))
        return future.result

    yield race
    pool.shutdown()


@pytest.fixture
def other(connect, database):
    """Another session, in a transaction."""
    session = database(connect(autocommit=False))
    yield session
    session.session.rollback()


def contents(db):
    return [db.rows(f"SELECT * FROM keysmith_private.{table} ORDER BY 1, 2")
            for table in ("tenant", "credit", "key", "audit_entry", "audit_content")]


def unchanged(db, sqlstate, function, *positional, **named):
    before = contents(db)
    message = db.refused(sqlstate, function, *positional, **named)
    assert contents(db) == before
    return message


# Making tenants

def test_a_tenant_may_have_the_id_of_the_application(db):
    assert db.tenant(tenant_id=ID) == ID
    assert db.value("SELECT tenant_id FROM keysmith.tenants") == ID
    assert db.verify(db.mint().api_key).ok
    assert "nil" in unchanged(db, "KS400", "create_tenant", "globex", tenant_id=uuid.UUID(int=0))


def test_an_id_is_given_once(db):
    """Not even another keyspace gives it again: isolated tables compare ids alone."""
    db.tenant(tenant_id=ID)
    db.call("create_keyspace", "other")
    for keyspace in ("default", "other"):
        for if_not_exists in (False, True):
            message = unchanged(db, "KS409", "create_tenant", "globex", keyspace, tenant_id=ID,
                                if_not_exists=if_not_exists)
            assert message == f"tenant_id {ID} is the id of another tenant"


def test_a_tenant_is_made_only_once(db):
    made = db.tenant(plan="pro", metadata=Jsonb({"a": 1}), credits=Jsonb(5))
    before = contents(db)
    assert db.tenant(if_not_exists=True) == made
    assert db.tenant(plan="free", credits=Jsonb(9), tenant_id=made, if_not_exists=True) == made
    assert contents(db) == before
    assert "another tenant_id" in unchanged(db, "KS409", "create_tenant", "acme", tenant_id=ID, if_not_exists=True)
    assert "already exists" in unchanged(db, "KS409", "create_tenant", "acme", tenant_id=made)
    assert "if_not_exists" in unchanged(db, "KS400", "create_tenant", "acme", if_not_exists=None)
    assert "plan" in unchanged(db, "KS400", "create_tenant", "acme", plan="", if_not_exists=True)
    assert db.tenant("globex", if_not_exists=True) != made


def test_the_second_of_two_racing_calls_gets_the_tenant_of_the_first(db, other, racing):
    made = other.tenant()
    answer = racing(db, "create_tenant", "acme", if_not_exists=True)
    other.session.commit()
    assert answer() == [(made,)]
    assert db.value("SELECT count(*) FROM keysmith.audit WHERE action = 'create_tenant'") == 1


def test_a_racing_call_makes_the_tenant_if_the_other_rolls_back(db, other, racing):
    other.tenant()
    answer = racing(db, "create_tenant", "acme", if_not_exists=True)
    other.session.rollback()
    assert answer() == [(db.value("SELECT tenant_id FROM keysmith.tenants"),)]


# New names

def test_a_renamed_tenant_keeps_its_keys_and_its_history(db, hear):
    made = db.tenant()
    key = db.mint()
    channel, = db.one("event_channel")
    received = hear(channel)
    assert db.verify(key.api_key).ok
    db.call("rename_tenant", "acme", "Acme & Co.")
    verdict = db.verify(key.api_key)
    assert verdict.ok and verdict.tenant == "Acme & Co."
    db.call("flush_usage")
    assert {row.tenant for row in db.rows("SELECT tenant FROM keysmith.usage")} == {"Acme & Co."}
    assert [row.key_id for row in db.call("list_keys", "Acme & Co.")] == [key.key_id]
    assert "does not exist" in db.refused("KS404", "mint", "acme")
    assert db.mint("Acme & Co.").key_id
    assert [(event["event"], event["tenant"]) for event in received()][0] == ("rename_tenant", "Acme & Co.")
    noted = db.row("SELECT tenant, tenant_id, before, after FROM keysmith_private.all_audit "
                   "WHERE action = 'rename_tenant'")
    assert (noted.tenant, noted.tenant_id) == ("Acme & Co.", made)
    assert (noted.before["name"], noted.after["name"]) == ("acme", "Acme & Co.")
    assert all(row.ok for row in db.call("audit_verify"))


def seen_by(db, key, query):
    with db.session.transaction():
        assert db.verify(key.api_key, sign_in=True).ok
        return [value for value, in db.rows(query)]


def test_the_history_of_a_name_is_the_tenants_that_had_it(db):
    """A tenant that is given the old name of another does not see what the other did."""
    db.tenant()
    first = db.mint()
    db.call("rename_tenant", "acme", "acme, formerly")
    db.tenant()
    second = db.mint()
    acts = "SELECT action FROM keysmith.audit ORDER BY entry"
    assert seen_by(db, first, acts) == ["create_tenant", "mint", "rename_tenant"]
    assert seen_by(db, second, acts) == ["create_tenant", "mint"]


@pytest.mark.parametrize("by_key", [True, False])
def test_a_transaction_learns_the_new_name(db, other, by_key):
    db.tenant()
    if by_key:
        assert other.verify(db.mint().api_key, sign_in=True).ok
    else:
        other.call("act_as", "acme")
    now = "SELECT keysmith.current_tenant()"
    assert other.value(now) == "acme"
    db.call("rename_tenant", "acme", "new")
    assert other.value(now) == "new"


def test_names_that_are_refused(db):
    db.tenant()
    db.tenant("globex")
    assert unchanged(db, "KS409", "rename_tenant", "acme", "globex") \
        == 'tenant "globex" already exists in keyspace "default"'
    for bad in ("", " a", "a\nb", "x" * 201, None):
        assert "new_name" in unchanged(db, "KS400", "rename_tenant", "acme", bad)
    assert "initech" in unchanged(db, "KS404", "rename_tenant", "initech", "new")
    assert "nowhere" in unchanged(db, "KS404", "rename_tenant", "acme", "new", "nowhere")
    before = contents(db)
    db.call("rename_tenant", "acme", "acme")
    assert contents(db) == before
    # A name belongs to its keyspace.
    db.call("create_keyspace", "other")
    db.tenant("initech", keyspace="other")
    db.call("rename_tenant", "acme", "initech")


def test_two_tenants_do_not_get_one_name(db, other, racing):
    db.tenant()
    other.tenant("new")
    answer = racing(db, "rename_tenant", "acme", "new")
    other.session.commit()
    assert answer().sqlstate == "KS409"
    assert db.rows("SELECT tenant FROM keysmith.tenants ORDER BY 1") == [("acme",), ("new",)]


@pytest.mark.parametrize("function, more", [
    ("suspend_tenant", ()), ("alter_tenant", (Jsonb({"plan": "pro"}),)), ("rename_tenant", ("globex",)),
])
def test_an_act_that_waited_for_a_rename_does_not_miss_it(db, other, racing, function, more):
    """It finds no tenant of that name any more, and says so."""
    db.tenant()
    other.call("rename_tenant", "acme", "new")
    answer = racing(db, function, "acme", *more)
    other.session.commit()
    assert answer().sqlstate == "KS404"
    assert db.rows("SELECT tenant, plan, status FROM keysmith.tenants") == [("new", None, "active")]


@pytest.mark.parametrize("type, warns", [("text", True), ("uuid", False)])
def test_rows_that_name_the_tenant_keep_the_old_name(db, type, warns):
    db.tenant()
    warnings = []
    db.session.add_notice_handler(lambda notice: warnings.append(notice.message_primary))
    db.rows(f"CREATE TABLE docs (owner {type})")
    db.call("isolate", "docs", "owner", "default")
    warnings.clear()
    db.call("rename_tenant", "acme", "new")
    assert warnings == (["rows that name the tenant keep its old name: public.docs"] if warns else [])


def test_revocations_find_a_tenant_by_its_id(db):
    """In a restored database the tenant may have its old name."""
    db.call("define_role", "default", "dev", ["a"])
    db.tenant()
    db.call("set_member", "acme", "ann", "dev")
    moment = db.value("SELECT clock_timestamp()")
    db.call("suspend_tenant", "acme")
    db.call("remove_member", "acme", "ann")
    db.call("rename_tenant", "acme", "new")
    log = Jsonb(db.value("SELECT jsonb_agg(r) FROM keysmith.revocations_since(%s) r", moment))
    db.call("rename_tenant", "new", "acme")
    db.call("resume_tenant", "acme")
    db.call("set_member", "acme", "ann", "dev")
    replayed = db.call("replay_revocations", log)
    assert {row.action: row.outcome for row in replayed} == {"suspend": "done", "remove_member": "done"}
    assert db.row("SELECT status, members FROM keysmith.tenants") == ("suspended", 0)
