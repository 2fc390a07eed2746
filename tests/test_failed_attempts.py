"""An error inside a subtransaction of the extension ends that subtransaction. A block that handles the error goes
on as the caller's role, and a session without a transaction block is idle again."""

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


@pytest.fixture
def holder(connect, database):
    """Another session, in a transaction."""
    other = database(connect())
    other.rows("BEGIN")
    return other


# Each waits for what the statement holds.
WAITING = {
    "keysmith.rename_tenant('acme', 'taken')": "SELECT keysmith.create_tenant('taken')",
    "keysmith.erase_tenant('acme')": "SELECT FROM keysmith_private.member WHERE member = 'ann' FOR UPDATE",
}


@pytest.fixture(params=WAITING)
def waiting(request, db, holder):
    """A call that waits for the other session."""
    db.tenant()
    db.call("define_role", "default", "reader", ["a"])
    db.call("set_member", "acme", "ann", "reader")
    holder.rows(WAITING[request.param])
    return request.param


def test_a_block_that_handles_the_error_stays_its_role(mallory, cluster, dbname, db, waiting):
    with cluster.connect(dbname, mallory, autocommit=False) as session:
        session.execute("SET LOCAL lock_timeout = '100ms'")
        session.execute("CREATE TEMP TABLE saw (who name, path text)")
        session.execute(f"""
            DO $$BEGIN
                BEGIN
                    PERFORM {waiting};
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


def test_the_session_is_idle_after_the_error(db, holder, waiting):
    for timeout, error in [("lock_timeout", psycopg.errors.LockNotAvailable),
                           ("statement_timeout", psycopg.errors.QueryCanceled)]:
        db.rows(f"SET {timeout} = '100ms'")
        with pytest.raises(error):
            db.rows(f"SELECT {waiting}")
        assert db.session.info.transaction_status == TransactionStatus.IDLE
        db.rows("RESET ALL")
    # It holds no lock, and goes on.
    holder.rows("ROLLBACK")
    holder.rows("SET lock_timeout = '1s'")
    holder.call("suspend_tenant", "acme")
    assert db.value("SELECT status FROM keysmith.tenants WHERE tenant = 'acme'") == "suspended"


def test_serve_leaves_a_session_idle_that_was_canceled(db, holder):
    db.call("alter_keyspace", "default", Jsonb({"default_scopes": ["*"]}))
    db.call("define_endpoint", "default", "DELETE", "/keys/{id}", "revoke")
    db.tenant()
    keys = [db.mint() for _ in range(2)]
    holder.rows("SELECT FROM keysmith_private.key WHERE key_id = %s FOR UPDATE", keys[1].key_id)
    db.rows("SET statement_timeout = '200ms'")
    with pytest.raises(psycopg.errors.QueryCanceled):
        db.call("serve", Jsonb({"authorization": f"Bearer {keys[0].api_key}"}), "DELETE", f"/keys/{keys[1].key_id}")
    assert db.session.info.transaction_status == TransactionStatus.IDLE
    db.rows("RESET statement_timeout")
    holder.rows("ROLLBACK")
    response = db.one("serve", Jsonb({"authorization": f"Bearer {keys[0].api_key}"}), "DELETE", f"/keys/{keys[1].key_id}")
    assert response.handled and response.status < 300
    assert db.status_of(keys[1].key_id) == "revoked"
