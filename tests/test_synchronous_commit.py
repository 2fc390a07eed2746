"""An act that reduces rights waits for synchronous standbys, whatever `synchronous_commit` says."""

import os
import re
import signal
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session, wait_until

MANAGE = Path(__file__).parent.parent / "src" / "manage"

# Acts that only give something. All others wait.
GRANTING = {
    "mint": ("SELECT keysmith.mint('acme')",),
    "import_key": ("SELECT keysmith.import_key('acme', sha256('an old key'))",),
    "enable": ("SELECT keysmith.enable(%s)", "disabled"),
    "create_tenant": ("SELECT keysmith.create_tenant('another')",),
    "resume_tenant": ("SELECT keysmith.resume_tenant('suspended')",),
    "create_keyspace": ("SELECT keysmith.create_keyspace('another')",),
    "grant_access": ("SELECT keysmith.grant_access('somebody', 'auditor')",),
}
REDUCING = {
    "revoke": ("SELECT keysmith.revoke(%s)", "revoke"),
    "report_leak": ("SELECT keysmith.report_leak(%s, 'x')", "report_leak"),
    "disable": ("SELECT keysmith.disable(%s)", "disable"),
    "rotate": ("SELECT keysmith.rotate(%s)", "rotate"),
    "regenerate": ("SELECT keysmith.regenerate('many')",),
    "alter_key": ("SELECT keysmith.alter_key(%s, '{\"scopes\": [\"a\"]}')", "alter_key"),
    "add_scopes": ("SELECT keysmith.add_scopes(%s, '{a}')", "add_scopes"),
    "remove_scopes": ("SELECT keysmith.remove_scopes(%s, '{a}')", "remove_scopes"),
    "remove_scope": ("SELECT keysmith.remove_scope('default', 'old')",),
    "remove_role": ("SELECT keysmith.remove_role('default', 'old')",),
    "suspend_tenant": ("SELECT keysmith.suspend_tenant('other')",),
    "alter_tenant": ("SELECT keysmith.alter_tenant('acme', '{\"plan\": \"free\"}')",),
    "erase_tenant": ("SELECT keysmith.erase_tenant(tenant) FROM keysmith.tenants WHERE 'erased' IN (tenant, suspended_reason)",),
    "rename_tenant": ("SELECT keysmith.rename_tenant(tenant, tenant || '+') FROM keysmith.tenants WHERE tenant LIKE 'renamed%'",),
    "alter_keyspace": ("SELECT keysmith.alter_keyspace('default', '{\"empty_scopes\": \"none\"}')",),
    "drop_keyspace": ("SELECT keysmith.drop_keyspace(min(keyspace)) FROM keysmith_private.keyspace WHERE keyspace LIKE 'dropped%'",),
    "purge_keys": ("SELECT keysmith.purge_keys('1 day') FROM keysmith.keys WHERE key_id = %s", "ended"),
    "set_member": ("SELECT keysmith.set_member('acme', 'ann', 'reader')",),
    "remove_member": ("SELECT keysmith.remove_member('acme', 'bob')",),
    "define_scope": ("SELECT keysmith.define_scope('default', 'b')",),
    "define_role": ("SELECT keysmith.define_role('default', 'reader', '{}')",),
    "define_route": ("SELECT keysmith.define_route('default', 'GET', '/x', '{a}')",),
    "remove_route": ("SELECT keysmith.remove_route('default', 'GET', '/old')",),
    "define_endpoint": ("SELECT keysmith.define_endpoint('default', 'GET', '/me', 'whoami')",),
    "remove_endpoint": ("SELECT keysmith.remove_endpoint('default', 'GET', '/old')",),
    "revoke_access": ("SELECT keysmith.revoke_access('anyone')",),
    # Until then the key spends the credits of its tenant.
    "add_credits": ("SELECT keysmith.add_credits(5, key_id => %s)", "add_credits"),
    "replay_revocations": ("SELECT keysmith.replay_revocations(%s)", "replayed"),
}
# What else their sources name: a function that reads, and a second signature.
OTHERS = {"revocations_since", "define_route_by_text"}


@pytest.fixture(scope="module")
def server():
    """A server that waits for a standby that is not there. Acts go on when their wait is canceled."""
    with running("synchronous", max_wal_senders=4) as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.rows("CREATE ROLE somebody; CREATE ROLE anyone")
        for number in range(4):
            db.call("create_keyspace", f"dropped{number}")
        for tenant in ("acme", "many", "other", "suspended", "erased", "renamed"):
            db.tenant(tenant)
        db.call("suspend_tenant", "suspended")
        db.call("define_scope", "default", "a")
        db.call("define_role", "default", "reader", ["a"])
        db.call("define_role", "default", "old", ["a"])
        db.call("define_scope", "default", "old")
        db.call("define_route", "default", "GET", "/old", ["a"])
        db.call("define_endpoint", "default", "GET", "/old", "whoami")
        db.call("set_member", "acme", "bob", "reader")
        db.call("grant_access", "anyone", "auditor")
        db.mint("many")
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'absent'")
        primary.execute("SELECT pg_reload_conf()")
        primary.db = db
        # The checkpointer puts it into effect.
        with primary.connect() as probe, ThreadPoolExecutor() as pool:
            def is_waiting():
                done = pool.submit(probe.execute, "SELECT pg_logical_emit_message(true, 'x', '')")
                return not returns(primary, probe, done)
            wait_until(is_waiting)
        db.rows("SET synchronous_commit = local")
        yield primary
        db.session.close()


def returns(primary, connection, running):
    """Whether a statement returns, or else waits for a standby. Then its wait is canceled."""
    pid = connection.info.backend_pid
    def waits():
        return primary.execute(
            f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep'")
    wait_until(lambda: running.done() or waits())
    if running.done():
        running.result()
        return True
    while not running.done():
        primary.execute(f"SELECT pg_cancel_backend({pid}) WHERE EXISTS ("
                        f"SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep')")
    running.result()
    return False


def runs_through(primary, connection, statement, *parameters):
    with ThreadPoolExecutor() as pool:
        return returns(primary, connection, pool.submit(connection.execute, statement, parameters or None))


@pytest.fixture
def key(server):
    return server.db.mint()


def parameter(server, what):
    """A new key for an act: its id, or what else the act takes."""
    key = server.db.mint()
    if what == "report_leak":
        return key.api_key
    if what == "ended":
        server.db.rows("UPDATE keysmith_private.key SET created_at = '2020-01-01', expires_at = '2020-01-02' WHERE key_id = %s",
                       key.key_id)
    if what == "replayed":
        return Jsonb([{"action": "revoke", "keyspace": "default", "tenant": "acme",
                       "key_id": str(key.key_id), "at": "2020-01-01T00:00:00Z"}])
    if what == "disabled":
        with server.connect() as connection:
            assert not runs_through(server, connection, "SELECT keysmith.disable(%s)", key.key_id)
    return key.key_id


def test_each_function_that_changes_something_is_listed():
    named = set()
    for source in MANAGE.glob("*.rs"):
        text = source.read_text()
        if re.search(r"\bauthority::act", text):
            named |= set(re.findall(r"\bneeds::(\w+)", text))
    assert named | {"report_leak"} == set(GRANTING) | set(REDUCING) | OTHERS


@pytest.mark.parametrize("name", REDUCING)
@pytest.mark.parametrize("setting", ["local", "off"])
def test_an_act_that_reduces_rights_waits(server, name, setting):
    statement, *what = REDUCING[name]
    parameters = [parameter(server, one) for one in what]
    if name == "remove_member":
        with server.connect() as connection:
            runs_through(server, connection, "SELECT keysmith.set_member('acme', 'bob', 'reader')")
    elif name in ("remove_scope", "remove_role"):
        with server.connect() as connection:
            runs_through(server, connection, "SELECT keysmith.define_scope('default', 'old')")
            runs_through(server, connection, "SELECT keysmith.define_role('default', 'old', '{}')")
    elif name == "remove_route":
        with server.connect() as connection:
            runs_through(server, connection, "SELECT keysmith.define_route('default', 'GET', '/old', '{a}')")
    elif name == "remove_endpoint":
        with server.connect() as connection:
            runs_through(server, connection, "SELECT keysmith.define_endpoint('default', 'GET', '/old', 'whoami')")
    elif name == "revoke_access":
        server.db.call("grant_access", "anyone", "auditor")
    with server.connect() as connection:
        connection.execute(f"SET synchronous_commit = {setting}")
        assert not runs_through(server, connection, statement, *parameters)
        assert connection.execute("SHOW synchronous_commit").fetchone() == (setting,)


@pytest.mark.parametrize("name", GRANTING)
def test_an_act_that_only_gives_does_as_the_session_says(server, name):
    statement, *what = GRANTING[name]
    parameters = [parameter(server, one) for one in what]
    with server.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        assert runs_through(server, connection, statement, *parameters)


@pytest.mark.parametrize("whose", ["ROLE lax", "DATABASE postgres", "ROLE lax IN DATABASE postgres"])
def test_nor_does_a_role_or_a_database_lower_it(server, key, whose):
    server.db.rows("CREATE ROLE lax SUPERUSER LOGIN")
    try:
        server.db.rows(f"ALTER {whose} SET synchronous_commit = local")
        with server.connect(user="lax") as connection:
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("local",)
            assert runs_through(server, connection, "SELECT keysmith.mint('acme')")
            assert not runs_through(server, connection, "SELECT keysmith.revoke(%s)", key.key_id)
            assert connection.execute("SHOW synchronous_commit").fetchone() == ("local",)
    finally:
        server.db.rows(f"ALTER {whose} RESET synchronous_commit")
        server.db.rows("DROP ROLE lax")


LATER = {
    "SET LOCAL": "BEGIN; SELECT keysmith.revoke('{0}'); SET LOCAL synchronous_commit = off; COMMIT",
    "SET": "BEGIN; SELECT keysmith.revoke('{0}'); SET synchronous_commit = off; COMMIT",
    "set_config": "SELECT keysmith.revoke('{0}'), set_config('synchronous_commit', 'off', true)",
    "a function's setting": "SELECT lax_revoke('{0}')",
    "a released savepoint": """BEGIN; SAVEPOINT a; SELECT keysmith.revoke('{0}');
        SET LOCAL synchronous_commit = off; RELEASE a; COMMIT""",
    "a savepoint after it": """BEGIN; SELECT keysmith.revoke('{0}'); SAVEPOINT a;
        SET LOCAL synchronous_commit = off; SELECT keysmith.mint('acme'); ROLLBACK TO a; COMMIT""",
    "a block": """DO $$ BEGIN PERFORM keysmith.revoke('{0}');
        PERFORM set_config('synchronous_commit', 'off', true); END $$""",
    "a block that commits": """DO $$ BEGIN PERFORM keysmith.revoke('{0}');
        SET LOCAL synchronous_commit = off; COMMIT; END $$""",
    "a block that handles an error": """DO $$ BEGIN BEGIN PERFORM keysmith.revoke('{0}');
        EXCEPTION WHEN OTHERS THEN RAISE; END;
        SET LOCAL synchronous_commit = off; END $$""",
    "a deferred trigger": "INSERT INTO deferred VALUES ('{0}')",
}


@pytest.fixture(scope="module")
def lax(server):
    server.db.rows("""
        CREATE FUNCTION lax_revoke(uuid) RETURNS void LANGUAGE sql SET synchronous_commit = off
            AS 'SELECT keysmith.revoke($1)';
        CREATE TABLE deferred (key_id uuid);
        CREATE FUNCTION revoke_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM keysmith.revoke(new.key_id);
            PERFORM set_config('synchronous_commit', 'off', true);
            RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON deferred DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION revoke_it()""")


@pytest.mark.parametrize("how", LATER)
def test_nothing_in_the_transaction_lowers_it(server, lax, key, how):
    with server.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        assert not runs_through(server, connection, LATER[how].format(key.key_id))
        setting = "off" if how == "SET" else "local"
        assert connection.execute("SHOW synchronous_commit").fetchone() == (setting,)
        # The next transaction is free again.
        assert runs_through(server, connection, "SELECT keysmith.mint('acme')")


def test_an_act_that_is_rolled_back_does_not_count(server, key):
    with server.connect() as connection:
        connection.execute("SET synchronous_commit = local")
        assert runs_through(server, connection, f"""
            BEGIN; SAVEPOINT a; SELECT keysmith.revoke('{key.key_id}'); ROLLBACK TO a;
            SELECT keysmith.mint('acme'); COMMIT""")
        assert server.db.reason(key.api_key) == "ok"


def test_a_stronger_setting_stays(server, key):
    with server.connect() as connection:
        connection.execute("SET synchronous_commit = remote_apply")
        assert not runs_through(server, connection, "SELECT keysmith.revoke(%s)", key.key_id)
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("remote_apply",)


@pytest.mark.parametrize("limit", [0, 50])
def test_it_is_not_prepared_for_another_session_to_commit(server, key, limit):
    """Whether or not an event is sent, with which PostgreSQL prepares nothing."""
    with server.connect(autocommit=False) as connection:
        connection.execute(f"SET synchronous_commit = local; SET keysmith.event_queue_limit = {limit}")
        connection.execute("SELECT keysmith.revoke(%s)", (key.key_id,))
        with pytest.raises(psycopg.Error, match="can't be prepared") as error:
            connection.execute("PREPARE TRANSACTION 'x'")
        assert error.value.sqlstate == "KS409"
        connection.rollback()
    assert server.db.rows("SELECT * FROM pg_prepared_xacts") == []


def test_a_returned_revocation_survives_a_failover():
    with running("primary", max_wal_senders=6) as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key, kept = db.mint(), db.mint()
        standby = primary.backup("standby", 5433)
        standby.configure(cluster_name="replica")
        try:
            standby.start()
            wait_until(lambda: db.one("wait_for_replay")[0] == 1)
            primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'replica'")
            primary.execute("SELECT pg_reload_conf()")
            wait_until(lambda: db.value("SELECT sync_state FROM pg_stat_replication"
                                        " WHERE application_name = 'replica'") == "sync")
            (receiver,), = standby.execute("SELECT pid FROM pg_stat_wal_receiver")
            os.kill(receiver, signal.SIGSTOP)
            with primary.connect() as connection, ThreadPoolExecutor() as pool:
                connection.execute("SET synchronous_commit = local")
                connection.execute("SELECT keysmith.mint('acme', label => %s)", (str(uuid.uuid4()),))
                revoking = pool.submit(connection.execute, "SELECT keysmith.revoke(%s)", (key.key_id,))
                try:
                    wait_until(lambda: db.rows(
                        "SELECT 1 FROM pg_stat_activity WHERE pid = %s AND wait_event = 'SyncRep'",
                        connection.info.backend_pid))
                    assert not revoking.done()
                finally:
                    os.kill(receiver, signal.SIGCONT)
                revoking.result()
            db.session.close()
            primary.kill()
            standby.execute("SELECT pg_promote()")
            there = session(standby)
            assert (there.reason(key.api_key), there.reason(kept.api_key)) == ("revoked", "ok")
            there.session.close()
        finally:
            standby.remove()
