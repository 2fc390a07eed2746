"""An error inside a subtransaction of ours ends that subtransaction. Whoever handles the error goes on in its
own, as its own role, and a session without a transaction block is idle again."""

import psycopg
import pytest
from psycopg.pq import TransactionStatus
from psycopg.types.json import Jsonb


@pytest.fixture
def mallory(cluster, dbname, db):
    """A role that administers keys, and may do nothing else."""
    cluster.execute("CREATE ROLE mallory LOGIN")
    db.call("grant_access", "mallory", "admin")
    yield "mallory"
    db.rows("ROLLBACK")
    db.session.close()
    cluster.execute("DROP OWNED BY mallory", dbname)
    cluster.execute("DROP ROLE mallory")


def held_up(other, statement, *parameters):
    """Another session's transaction, which a statement waits for."""
    other.rows("BEGIN")
    other.rows(statement, *parameters)


# What waits for the name of a tenant, and for the row of one.
WAITING = {
    "rename_tenant": ("SELECT keysmith.create_tenant('taken')", "keysmith.rename_tenant('acme', 'taken')"),
    "erase_tenant": ("SELECT FROM keysmith_private.member WHERE member = 'ann' FOR UPDATE", "keysmith.erase_tenant('acme')"),
}


@pytest.mark.parametrize("function", WAITING)
def test_a_block_that_handles_the_error_stays_its_role(mallory, cluster, dbname, db, connect, database, function):
    db.tenant()
    db.call("define_role", "default", "reader", ["a"])
    db.call("set_member", "acme", "ann", "reader")
    holding, call = WAITING[function]
    other = database(connect())
    held_up(other, holding)
    with cluster.connect(dbname, mallory, autocommit=False) as session:
        session.execute("SET LOCAL lock_timeout = '100ms'")
        session.execute("CREATE TEMP TABLE saw (who name, path text)")
        session.execute(f"""
            DO $$BEGIN
                BEGIN
                    PERFORM {call};
                    RAISE 'it did not wait';
                EXCEPTION WHEN lock_not_available THEN NULL;
                END;
                INSERT INTO saw VALUES (current_user, current_setting('search_path'));
                ALTER ROLE mallory SUPERUSER;
            EXCEPTION WHEN insufficient_privilege THEN
                INSERT INTO saw VALUES (current_user, current_setting('search_path'));
            END$$""")
        assert session.execute("SELECT * FROM saw").fetchall() == [("mallory", '"$user", public')]
        session.rollback()
    assert not db.value("SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'")


@pytest.mark.parametrize("function", WAITING)
def test_the_session_is_idle_after_the_error(db, connect, database, function):
    db.tenant()
    db.call("define_role", "default", "reader", ["a"])
    db.call("set_member", "acme", "ann", "reader")
    holding, call = WAITING[function]
    other = database(connect())
    held_up(other, holding)
    for timeout, error in [("lock_timeout", psycopg.errors.LockNotAvailable),
                           ("statement_timeout", psycopg.errors.QueryCanceled)]:
        db.rows(f"SET {timeout} = '100ms'")
        with pytest.raises(error):
            db.rows(f"SELECT {call}")
        assert db.session.info.transaction_status == TransactionStatus.IDLE
        db.rows("RESET ALL")
    # It holds no lock, and goes on.
    other.rows("ROLLBACK")
    other.rows("SET lock_timeout = '1s'")
    other.call("suspend_tenant", "acme")
    assert db.value("SELECT status FROM keysmith.tenants WHERE tenant = 'acme'") == "suspended"


def test_serve_leaves_a_session_idle_that_was_canceled(db, connect, database):
    db.call("alter_keyspace", "default", Jsonb({"default_scopes": ["*"]}))
    db.call("define_endpoint", "default", "DELETE", "/keys/{id}", "revoke")
    db.tenant()
    keys = [db.mint() for _ in range(2)]
    other = database(connect())
    held_up(other, "SELECT FROM keysmith_private.key WHERE key_id = %s FOR UPDATE", keys[1].key_id)
    db.rows("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.call("serve", Jsonb({"authorization": f"Bearer {keys[0].api_key}"}), "DELETE", f"/keys/{keys[1].key_id}")
    assert db.session.info.transaction_status == TransactionStatus.IDLE
    db.rows("RESET statement_timeout")
    other.rows("ROLLBACK")
    response = db.one("serve", Jsonb({"authorization": f"Bearer {keys[0].api_key}"}), "DELETE", f"/keys/{keys[1].key_id}")
    assert response.handled and response.status < 300
    assert db.status_of(keys[1].key_id) == "revoked"
