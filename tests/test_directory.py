"""Decisions read keys first at the places where they were. Whatever happened to the rows since,
the answer is that of the rows."""

import random

import pytest

import cluster as clusters
from conftest import Database


@pytest.fixture
def db(db):
    """A keyspace that logs nothing: a worker's snapshots would make VACUUM keep rows."""
    db.call("create_keyspace", "default", usage_log="nothing")
    return db


def mint_many(db, count):
    return db.rows("SELECT k.* FROM generate_series(1, %s) n, LATERAL keysmith.mint('acme', label => n::text) k",
                   count)


def place_of(db, key):
    return db.value("SELECT ctid FROM keysmith_private.key WHERE key_id = %s", key.key_id)


def forget(db, key):
    """Removes a key so that the next row takes its place."""
    db.rows("DELETE FROM keysmith_private.key WHERE key_id = %s", key.key_id)
    db.rows("VACUUM keysmith_private.key")


def test_another_key_in_the_same_place(db):
    db.tenant()
    db.tenant("globex")
    gone = db.mint()
    db.mint()
    assert db.verify(gone.api_key).tenant == "acme"
    place = place_of(db, gone)
    forget(db, gone)
    key = db.mint("globex")
    assert place_of(db, key) == place
    assert db.reason(gone.api_key) == "not_found"
    assert db.verify(key.api_key).tenant == "globex"


def test_another_tenant_in_the_same_place(db):
    """A tenant's row is updated, and another row takes its old place."""
    db.tenant()
    key = db.mint()
    assert db.verify(key.api_key).tenant == "acme"
    before = db.value("SELECT ctid FROM keysmith_private.tenant WHERE name = 'acme'")
    # Change an indexed column: otherwise a pointer to the new row stays in the place.
    db.rows("UPDATE keysmith_private.tenant SET name = 'acme & sons' WHERE name = 'acme'")
    db.rows("VACUUM keysmith_private.tenant")
    db.rows("INSERT INTO keysmith_private.tenant (keyspace, name, suspended_at)"
            " SELECT 'default', 'suspended ' || n, now() FROM generate_series(1, 5) n")
    assert db.value("SELECT count(*) FROM keysmith_private.tenant WHERE ctid = %s AND name LIKE 'suspended %%'", before) == 1
    verdict = db.verify(key.api_key)
    assert (verdict.ok, verdict.tenant) == (True, "acme & sons")


def test_an_owner_who_is_another_one_now(db):
    db.call("define_role", "default", "all", ["*"])
    db.call("define_role", "default", "none", [])
    db.tenant()
    db.call("set_member", "acme", "ann", "all")
    key = db.mint(owner="ann")
    assert db.verify(key.api_key, scopes=["a"]).ok
    db.call("remove_member", "acme", "ann")
    db.rows("VACUUM keysmith_private.member")
    db.call("set_member", "acme", "bob", "all")
    assert db.reason(key.api_key, scopes=["a"]) == "owner_gone"
    db.call("set_member", "acme", "ann", "none")
    assert db.reason(key.api_key, scopes=["a"]) == "insufficient_scope"


def test_a_table_that_got_shorter(db, connect, database):
    db.tenant()
    keys = mint_many(db, 200)
    other = database(connect())
    assert all(other.verify(key.api_key).ok for key in keys)
    db.rows("DELETE FROM keysmith_private.key")
    db.rows("VACUUM keysmith_private.key")
    assert db.value("SELECT pg_relation_size('keysmith_private.key')") == 0
    for session in (other, db, database(connect())):
        assert {session.reason(key.api_key) for key in keys} == {"not_found"}
    key = db.mint()
    assert other.verify(key.api_key).ok


def test_a_key_that_was_taken_back(db):
    """Its row was read, and is dead: it was never committed."""
    db.tenant()
    db.rows("BEGIN")
    key = db.mint()
    assert db.verify(key.api_key).ok
    db.rows("ROLLBACK")
    assert db.reason(key.api_key) == "not_found"


def test_a_key_whose_digest_was_changed_by_hand(db):
    db.tenant()
    key = db.mint()
    assert db.verify(key.api_key).ok
    db.rows("UPDATE keysmith_private.key SET digest = sha256('other')")
    assert db.reason(key.api_key) == "not_found"


def test_a_key_under_another_pepper_in_the_same_place(db):
    db.tenant()
    key = db.mint()
    assert db.verify(key.api_key).ok
    digest = db.value("SELECT digest FROM keysmith_private.key")
    row = place_of(db, key)
    forget(db, key)
    db.rows(
        "INSERT INTO keysmith_private.key (key_id, tenant_id, generation, digest, keyspace, environment, kind,"
        " created_by) SELECT %s, tenant_id, 7, %s, keyspace, 'live', 'secret', 'x' FROM keysmith_private.tenant",
        key.key_id, digest)
    assert place_of(db, key) == row
    assert db.reason(key.api_key) == "not_found"


def test_keyspaces_apart(db):
    """An entry of a key in one keyspace is not used for another keyspace."""
    db.call("create_keyspace", "other")
    db.tenant()
    db.tenant(keyspace="other")
    key = db.mint()
    for _ in range(2):
        assert db.verify(key.api_key).ok
        assert db.reason(key.api_key, keyspace="other") == "wrong_keyspace"


def test_a_digest_is_not_a_key(db):
    """The bytes of a key's digest, passed as a key, find no entry."""
    db.tenant()
    key = db.mint()
    digest = db.value("SELECT sha256(%s::bytea)", key.api_key.encode())
    for _ in range(2):
        assert db.one("verify_digest", digest).ok
        assert not db.one("verify_digest", key.api_key.encode()).ok


@pytest.mark.parametrize("size", [0, 1, 8])
def test_little_room_and_none(size):
    with clusters.running("directory", keysmith__directory_size=str(size)) as cluster:
        with cluster.connect() as session:
            session.execute("CREATE EXTENSION keysmith")
            session.execute("SELECT keysmith.create_tenant('acme')")
            keys = [key for (key,) in session.execute(
                "SELECT (keysmith.mint('acme')).api_key FROM generate_series(1, 40)")]
            for _ in range(3):
                verdicts = session.execute(
                    "SELECT v.ok FROM unnest(%s::text[]) k, keysmith.verify(k) v", [keys]).fetchall()
                assert verdicts == [(True,)] * 40


def test_whatever_happens_to_the_rows(db, connect, dbname, cluster):
    """At random: the answer is always that of the rows."""
    dice = random.Random(7)
    sessions = [db, *(database_of(connect) for _ in range(2))]
    db.tenant("t0")
    db.tenant("t1")
    keys = []
    acts = {
        "mint": 4, "revoke": 2, "disable": 2, "enable": 2, "alter": 2, "delete": 2, "suspend": 1,
        "resume": 2, "vacuum": 2, "full": 1, "cluster": 1, "reindex": 1, "rollback": 1,
    }
    for _ in range(400):
        act = dice.choices(list(acts), acts.values())[0]
        session = dice.choice(sessions)
        key = dice.choice(keys) if keys else None
        if act == "mint" or key is None:
            keys.append(session.mint(f"t{dice.randrange(2)}"))
        elif act in ("revoke", "disable", "enable"):
            session.rows(
                f"SELECT keysmith.{act}(key_id) FROM keysmith_private.key WHERE key_id = %s"
                " AND revoked_at IS NULL AND (disabled_at IS NULL) = (%s <> 'enable')", key.key_id, act)
        elif act == "alter":
            session.rows("UPDATE keysmith_private.key SET label = %s WHERE key_id = %s", "x" * dice.randrange(900),
                         key.key_id)
        elif act == "delete":
            session.rows("DELETE FROM keysmith_private.key WHERE key_id = %s", key.key_id)
        elif act in ("suspend", "resume"):
            session.call(f"{act}_tenant", f"t{dice.randrange(2)}")
        elif act == "rollback":
            session.rows("BEGIN")
            session.rows("UPDATE keysmith_private.key SET environment = 'test'")
            session.verify(key.api_key)
            session.rows("ROLLBACK")
        else:
            session.rows({"vacuum": "VACUUM keysmith_private.key, keysmith_private.tenant", "full": "VACUUM FULL keysmith_private.key",
                          "cluster": "CLUSTER keysmith_private.key USING key_of_tenant",
                          "reindex": "REINDEX TABLE keysmith_private.key"}[act])
        for key in dice.sample(keys, min(6, len(keys))):
            expected = db.rows(
                "SELECT CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'"
                " WHEN k.disabled_at IS NOT NULL THEN 'disabled'"
                " WHEN t.suspended_at IS NOT NULL THEN 'tenant_suspended' ELSE 'ok' END,"
                " t.name, k.environment"
                " FROM keysmith_private.key k JOIN keysmith_private.tenant t USING (tenant_id) WHERE key_id = %s", key.key_id)
            verdict = dice.choice(sessions).verify(key.api_key)
            found = (verdict.reason, verdict.tenant, verdict.environment)
            assert found == (tuple(expected[0]) if expected else ("not_found", None, None)), act


def database_of(connect):
    return Database(connect())
