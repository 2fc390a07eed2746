"""New features of newer majors of PostgreSQL that concern the extension's promises."""

import psycopg
import pytest

from majors import since
from rows import cluster, of_bytes, text  # noqa: F401


# 17

@pytest.fixture
def role(cluster, dbname):
    cluster.execute("CREATE ROLE app LOGIN")
    cluster.execute("GRANT ALL ON SCHEMA public TO app; GRANT USAGE ON SCHEMA keysmith TO app", dbname)
    yield "app"
    cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{dbname}'")
    cluster.execute("DROP OWNED BY app CASCADE", dbname)
    cluster.execute("DROP ROLE app")


@pytest.fixture
def signed_in(db, role):
    """A session of the application under a key of acme; there is also globex."""
    db.tenant("globex")
    db.tenant("acme")
    key = db.mint("acme")

    def sign_in():
        db.rows("ROLLBACK; RESET ROLE; BEGIN")
        assert db.verify(key.api_key, sign_in=True).ok
        db.rows("SET LOCAL ROLE app")
        return db

    return sign_in


def make_docs(db, tenant="text", more=""):
    db.rows(f"CREATE TABLE docs (n int PRIMARY KEY, owner text, tenant {tenant}{more}); "
            "INSERT INTO docs (n, owner) VALUES (1, 'acme'), (2, 'globex'); ALTER TABLE docs OWNER TO app")


def isolated_docs(db):
    make_docs(db)
    db.rows("UPDATE docs SET tenant = owner; CREATE INDEX ON docs (tenant)")
    db.call("isolate", "docs", "tenant", keyspace="default")


@since(17)
def test_merge_tells_and_takes_rows_of_the_tenant_only(db, signed_in):
    isolated_docs(db)
    db.call("track", "docs")
    acting = signed_in()
    assert sorted(acting.rows("""
        MERGE INTO docs USING (VALUES (7)) AS v (n) ON docs.n = v.n
        WHEN NOT MATCHED BY TARGET THEN INSERT VALUES (v.n, 'acme', 'acme')
        WHEN NOT MATCHED BY SOURCE THEN UPDATE SET owner = 'seen'
        RETURNING merge_action(), docs.n, docs.owner""")) == [("INSERT", 7, "acme"), ("UPDATE", 1, "seen")]
    db.rows("COMMIT; RESET ROLE")
    assert db.rows("SELECT n, owner FROM docs ORDER BY n") == [(1, "seen"), (2, "globex"), (7, "acme")]
    assert db.rows("SELECT operation, rows FROM keysmith_private.touch ORDER BY operation") \
        == [("insert", 1), ("update", 1)]


@since(17)
def test_the_right_to_maintain_reaches_no_table(db, role):
    """A member of it can name no table of ours. doctor reports a grant of it on a table."""
    db.call("grant_access", "app", "verifier")
    db.rows("GRANT pg_maintain TO app")
    (row,) = [row for row in db.findings() if row.subject == "access"]
    assert (row.level, row.remedy) == ("warning", "REVOKE pg_maintain FROM app")
    db.rows("SET ROLE app")
    for statement in ("DO $$ BEGIN LOCK TABLE keysmith_private.key; END $$", "REINDEX TABLE keysmith_private.key",
                      "VACUUM FULL keysmith_private.key"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.rows(statement)
    db.rows("RESET ROLE; REVOKE pg_maintain FROM app; GRANT MAINTAIN ON keysmith_private.key TO app")
    (row,) = [row for row in db.findings() if row.subject == "access"]
    assert row.level == "error" and "keysmith_private.key" in row.finding


# 18

WITH_VIRTUAL = """
    CREATE TABLE users (twice int GENERATED ALWAYS AS (n * 2) VIRTUAL, id int PRIMARY KEY, n int, email text,
                        tail text GENERATED ALWAYS AS (right(email, 4)) VIRTUAL NOT NULL, token bytea,
                        CHECK (twice < 1000))"""


def are_right(db, table="users"):
    """All computed columns, and all seals."""
    assert db.rows(f"SELECT id FROM {table} WHERE twice <> n * 2 OR tail <> right(email, 4) "
                   "OR NOT keysmith.is_digest(email)") == []
    assert db.call("verify_rows", table) == []


@since(18)
def test_digests_and_seals_beside_virtual_columns(db):
    db.rows(WITH_VIRTUAL)
    db.call("protect", "users", "email", "token")
    db.call("seal_rows", "users")
    db.rows("INSERT INTO users (id, n, email, token) VALUES (1, 1, 'ann', 'a'), (2, 2, 'bob', 'b')")
    with db.session.cursor() as cursor, cursor.copy("COPY users (id, n, email) FROM STDIN") as copy:
        copy.write_row((3, 3, "cid"))
    db.rows("UPDATE users SET n = n + 1; UPDATE users SET email = 'eve' WHERE id = 2")
    db.rows("INSERT INTO users (id, n, email) VALUES (3, 9, 'dee') "
            "ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n, email = EXCLUDED.email")
    assert db.rows("SELECT id, n, twice, email, tail, token FROM users ORDER BY id") == [
        (1, 2, 4, text("ann"), text("ann")[-4:], of_bytes(b"a")),
        (2, 3, 6, text("eve"), text("eve")[-4:], of_bytes(b"b")),
        (3, 9, 18, text("dee"), text("dee")[-4:], None)]
    are_right(db)
    with pytest.raises(psycopg.errors.CheckViolation):
        db.rows("UPDATE users SET n = 500")
    # A seal covers stored values: a virtual column may be added, changed and dropped.
    db.rows("ALTER TABLE users ADD thrice int GENERATED ALWAYS AS (n * 3) VIRTUAL; "
            "ALTER TABLE users DROP CONSTRAINT users_twice_check, ALTER twice SET EXPRESSION AS (n * 2 + 0)")
    are_right(db)
    db.rows("ALTER TABLE users DROP thrice; UPDATE users SET n = n + 1")
    are_right(db)


@since(18)
def test_virtual_columns_of_partitions(db):
    db.rows("CREATE TABLE users (id int, n int, email text, twice int GENERATED ALWAYS AS (n * 2) VIRTUAL, "
            "tail text GENERATED ALWAYS AS (right(email, 4)) VIRTUAL) PARTITION BY LIST (id); "
            "CREATE TABLE one PARTITION OF users FOR VALUES IN (1); "
            "CREATE TABLE two (twice int GENERATED ALWAYS AS (n * 2) VIRTUAL, email text, n int, id int, "
            "tail text GENERATED ALWAYS AS (right(email, 4)) VIRTUAL); "
            "ALTER TABLE users ATTACH PARTITION two FOR VALUES IN (2)")
    db.call("protect", "users", "email")
    db.call("seal_rows", "users")
    db.rows("INSERT INTO users (id, n, email) VALUES (1, 1, 'ann'), (2, 2, 'bob'); UPDATE users SET id = 3 - id, n = n + 5")
    assert db.rows("SELECT id, n, twice, email FROM users ORDER BY id") == [
        (1, 7, 14, text("bob")), (2, 6, 12, text("ann"))]
    are_right(db)


@since(18)
def test_rows_with_virtual_columns_that_were_there(db):
    db.rows(WITH_VIRTUAL)
    db.rows("INSERT INTO users (id, n, email) SELECT i, i % 400, 'user' || i FROM generate_series(1, 2000) i")
    db.call("protect", "users", "email")
    db.rows("CALL keysmith.protect_existing('users', pages => 3)")
    db.call("seal_rows", "users")
    db.rows("UPDATE users SET row_seal = ''")
    are_right(db)
    assert db.value("SELECT count(*) FROM users WHERE email = keysmith.digest('user' || id)") == 2000


@since(18)
@pytest.mark.parametrize("call", ["protect('users', 'tail')", "seal_rows('users', 'tail')",
                                  "seal_rows('users', seal_column => 'tail')"])
def test_a_virtual_column_holds_no_digest_and_has_no_seal(db, call):
    db.rows(WITH_VIRTUAL)
    with pytest.raises(psycopg.Error) as error:
        db.rows(f"SELECT keysmith.{call}")
    assert error.value.sqlstate == "KS400" and "generated" in str(error.value), error.value


@since(18)
@pytest.mark.parametrize("kind", ["STORED", "VIRTUAL"])
def test_a_tenant_that_is_computed(db, signed_in, kind):
    make_docs(db, more=f" GENERATED ALWAYS AS (owner) {kind}")
    db.call("isolate", "docs", "tenant", keyspace="default")
    acting = signed_in()
    assert acting.rows("SELECT n, tenant FROM docs") == [(1, "acme")]
    acting.rows("INSERT INTO docs (n, owner) VALUES (3, 'acme'); UPDATE docs SET n = n + 10")
    for statement in ("INSERT INTO docs (n, owner) VALUES (4, 'globex')", "UPDATE docs SET owner = 'globex'",
                      "INSERT INTO docs (n) VALUES (4)",
                      "INSERT INTO docs (n, owner) VALUES (13, 'acme') ON CONFLICT (n) DO UPDATE SET owner = 'globex'",
                      "INSERT INTO docs (n, owner) VALUES (2, 'acme') ON CONFLICT (n) DO UPDATE SET owner = 'acme'"):
        acting.rows("SAVEPOINT s")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            acting.rows(statement)
        acting.rows("ROLLBACK TO s")
    db.rows("COMMIT; RESET ROLE")
    assert db.rows("SELECT n, tenant FROM docs ORDER BY n") == [(2, "globex"), (11, "acme"), (13, "acme")]


@since(18)
def test_what_a_row_was_before(db, signed_in):
    """RETURNING old and new give digests, and rows of the tenant only."""
    isolated_docs(db)
    db.call("protect", "docs", "owner")
    assert db.rows("UPDATE docs SET owner = 'x' || n RETURNING old.owner AS was, new.owner") == [
        ("acme", text("x1")), ("globex", text("x2"))]
    acting = signed_in()
    assert acting.rows("UPDATE docs SET owner = 'ann' RETURNING old.n, old.owner AS was, new.owner AS stored, owner") == [
        (1, text("x1"), text("ann"), text("ann"))]
    assert acting.rows("INSERT INTO docs VALUES (1, 'eve', 'acme') ON CONFLICT (n) DO UPDATE SET owner = EXCLUDED.owner "
                       "RETURNING old.owner AS was, new.owner") == [(text("ann"), text("eve"))]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        acting.rows("INSERT INTO docs VALUES (2, 'eve', 'acme') ON CONFLICT (n) DO UPDATE SET owner = EXCLUDED.owner "
                    "RETURNING old.owner")


@since(18)
def test_keys_of_rows_that_hold_for_a_time(db):
    db.rows("CREATE TABLE users (id int4range, held daterange, email text, PRIMARY KEY (id, held WITHOUT OVERLAPS))")
    db.call("protect", "users", "email")
    db.call("seal_rows", "users", "email")
    db.rows("INSERT INTO users VALUES ('[1,2)', '[2026-01-01,2026-02-01)', 'ann'), ('[1,2)', '[2026-02-01,)', 'bob')")
    assert db.call("verify_rows", "users") == []
    with pytest.raises(psycopg.errors.ExclusionViolation):
        db.rows("INSERT INTO users VALUES ('[1,2)', '[2026-01-05,2026-01-06)', 'cid')")
    db.rows("SET session_replication_role = replica; UPDATE users SET held = '[2026-03-01,)' WHERE upper_inf(held)")
    (row,) = db.call("verify_rows", "users")
    assert row.primary_key == {"id": "[1,2)", "held": "[2026-03-01,)"}


@since(18)
def test_constraints_that_are_not_enforced(db):
    db.rows("CREATE TABLE users (email text UNIQUE); CREATE TABLE orders (email text, "
            "FOREIGN KEY (email) REFERENCES users (email) ON UPDATE CASCADE NOT ENFORCED)")
    db.refused("KS400", "protect", "users", "email")
