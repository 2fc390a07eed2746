"""`isolate(…, strict => true)`: without an identity every statement on the table is an error, also one
that would read no row. Who is not subject to row security does not notice."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from cluster import running
from conftest import session, wait_until
from majors import FORCE_PARALLEL
from subscribers import FAST, is_ready
from test_isolation import ALL, BY_NAME, TABLE, App, app, dump, keys, rls, role  # noqa: F401
from test_parallel import IN_A_WORKER

NOBODY = ("KS401", "the transaction has no identity")


@pytest.fixture
def strict(app):  # noqa: F811
    """A table with rows of two tenants, and one without rows."""
    app.as_owner(TABLE.format(type="text"))
    app.as_owner("CREATE TABLE bare (tenant uuid, n int); CREATE INDEX ON bare (tenant)")
    app.db.rows(BY_NAME)
    assert app.isolate("docs", "tenant", keyspace="default", strict=True) == []
    assert app.isolate("bare", "tenant", strict=True) == []
    return app


def fails(db, statement):
    """The SQLSTATE and the message of a statement that fails."""
    db.rows("SAVEPOINT before")
    with pytest.raises(psycopg.Error) as error:
        db.rows(statement)
    db.rows("ROLLBACK TO before")
    return error.value.sqlstate, error.value.diag.message_primary


STATEMENTS = """
    TABLE docs
    TABLE bare
    SELECT count(*) FROM bare
    SELECT FROM docs WHERE n = 1
    SELECT FROM docs WHERE n = 99
    SELECT FROM docs WHERE tenant = 'nobody'
    SELECT FROM docs WHERE false
    SELECT FROM docs LIMIT 0
    SELECT FROM docs FOR UPDATE
    SELECT EXISTS (SELECT FROM bare)
    SELECT FROM docs a LEFT JOIN bare b USING (n)
    SELECT FROM generate_series(1, 0) g LEFT JOIN bare b ON b.n = g
    WITH read AS MATERIALIZED (TABLE bare) SELECT FROM read WHERE false
    SELECT 1 AS n UNION ALL SELECT n FROM bare
    INSERT INTO docs VALUES ('acme', 'live', 9)
    INSERT INTO bare SELECT NULL, 1 WHERE false
    INSERT INTO docs VALUES ('acme', 'live', 1) ON CONFLICT DO NOTHING
    INSERT INTO docs VALUES ('acme', 'live', 1) ON CONFLICT (n) DO UPDATE SET environment = 'x'
    UPDATE docs SET environment = 'x'
    UPDATE docs SET environment = 'x' WHERE n = 99
    DELETE FROM docs
    DELETE FROM bare WHERE false
    MERGE INTO bare b USING (SELECT 1 AS n WHERE false) v ON b.n = v.n WHEN NOT MATCHED THEN DO NOTHING
    COPY docs TO STDOUT
    COPY (TABLE bare) TO STDOUT
    DECLARE later CURSOR FOR TABLE bare
    CREATE TABLE copied AS TABLE bare
    EXPLAIN TABLE bare
    EXECUTE prepared
    DO 'BEGIN PERFORM FROM bare; END'
    TABLE owners
    TABLE invokers""".strip().splitlines()


@pytest.mark.parametrize("planned", ["force_custom_plan", "force_generic_plan"])
def test_without_an_identity_every_statement_is_an_error(strict, planned):
    """Whatever the plan is, and whether a row is read or not."""
    db = strict.db
    strict.as_owner("CREATE VIEW owners AS TABLE bare; CREATE VIEW invokers WITH (security_invoker) AS TABLE bare; "
                    "GRANT SELECT ON owners TO PUBLIC")
    strict.acting()
    db.rows(f"SET LOCAL plan_cache_mode = {planned}; PREPARE prepared AS TABLE bare")
    for scan in ("enable_indexscan = off", "enable_bitmapscan = off", "enable_seqscan = off"):
        db.rows(f"SET LOCAL {scan}")
        for statement in STATEMENTS:
            assert fails(db, statement) == NOBODY, statement
    # Statements on other tables go on.
    assert db.rows("SELECT count(*) FROM pg_class WHERE relname = 'docs'") == [(1,)]
    db.rows("PREPARE another AS TABLE docs")


def test_the_error_says_what_to_do(strict):
    strict.acting()
    with pytest.raises(psycopg.Error) as error:
        strict.db.rows("TABLE docs")
    assert error.value.diag.message_hint \
        == "Authenticate in the same transaction, in a statement before this one."


def test_with_an_identity_it_is_as_without_strict(strict):
    db = strict.acting("acme")
    assert [n for n, in db.rows(ALL)] == [1, 2]
    assert db.rows("TABLE bare") == db.rows("SELECT FROM docs WHERE n = 3") == []
    strict.refused("42501", "INSERT INTO docs VALUES ('globex', 'live', 9)")
    strict.refused("42501", "UPDATE docs SET tenant = 'globex'")
    db.rows("INSERT INTO docs VALUES ('acme', 'live', 9); UPDATE docs SET environment = 'x' WHERE n = 9")
    assert db.rows("DELETE FROM docs WHERE environment = 'x' RETURNING n") == [(9,)]
    # The acme of another keyspace has an identity, and sees nothing.
    assert strict.seen(ALL, "acme", keyspace="other") == []


def test_a_plan_is_kept_over_sign_in_and_sign_out(strict):
    """Also a generic one, which is not planned again."""
    db = strict.db
    db.rows("GRANT EXECUTE ON FUNCTION keysmith.sign_out TO app")
    db.rows("PREPARE kept AS SELECT n FROM docs ORDER BY n; PREPARE kept_bare AS TABLE bare")
    for _ in range(2):
        strict.acting()
        assert fails(db, "EXECUTE kept") == fails(db, "EXECUTE kept_bare") == NOBODY
        strict.acting("globex")
        assert db.rows("EXECUTE kept") == [(3,), (4,)]
        assert db.rows("EXECUTE kept_bare") == []
        db.rows("SAVEPOINT signed_in; SELECT keysmith.sign_out()")
        assert fails(db, "EXECUTE kept") == fails(db, "EXECUTE kept_bare") == NOBODY
        db.rows("ROLLBACK TO signed_in")
        assert db.rows("EXECUTE kept") == [(3,), (4,)]
    assert db.rows("SELECT DISTINCT generic_plans > 1, custom_plans FROM pg_prepared_statements "
                   "WHERE name LIKE 'kept%'") == [(True, 0)]


def test_a_key_that_was_revoked_is_told_apart(strict, connect):
    strict.acting("acme")
    connect().execute("SELECT keysmith.revoke(%s)", [strict.keys["default", "acme", "live"].key_id])
    assert fails(strict.db, "TABLE bare") == ("KS401", "the key that this transaction acts for was revoked")


def test_the_index_on_the_tenant_is_used(strict):
    strict.db.rows("INSERT INTO docs SELECT md5(n::text), 'live', n FROM generate_series(100, 20000) n; ANALYZE docs")
    strict.acting("acme")
    plan = "\n".join(line for line, in strict.db.rows("EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) SELECT n FROM docs"))
    assert "Index Cond: (tenant = " in plan and "Seq Scan" not in plan, plan
    assert "loops=1)" in plan and "loops=2" not in plan, plan


def test_parallel_plans(strict):
    """The leader evaluates the condition, and passes the value on to the workers."""
    db = strict.db
    db.rows("".join(f"SET {name} = {value};" for name, value in {FORCE_PARALLEL: "on", **IN_A_WORKER}.items()))
    db.rows("SET enable_indexscan = off; SET enable_bitmapscan = off; SET enable_indexonlyscan = off")
    strict.acting()
    assert fails(db, "SELECT count(*) FROM bare") == NOBODY
    strict.acting("acme")
    assert "Gather" in "".join(line for line, in db.rows("EXPLAIN SELECT count(*) FROM docs"))
    assert db.value("SELECT count(*) FROM docs") == 2


def test_a_row_that_changed_while_the_statement_waited(strict, connect):
    """PostgreSQL then starts a part of the statement again."""
    changing, waiting = connect(), strict.acting("acme")
    changing.execute("BEGIN; UPDATE docs SET environment = 'x' WHERE n = 1")
    with ThreadPoolExecutor(1) as pool:
        changed = pool.submit(waiting.rows, "UPDATE docs SET environment = environment || 'y' WHERE n = 1 RETURNING environment")
        pid = waiting.session.info.backend_pid
        wait_until(lambda: changing.execute("SELECT FROM pg_locks WHERE pid = %s AND NOT granted", [pid]).fetchall())
        changing.execute("COMMIT")
        assert changed.result(120) == [("xy",)]


def test_partitions(strict):
    strict.as_owner("CREATE TABLE parts (tenant text, n int) PARTITION BY LIST (n); "
                    "CREATE TABLE part PARTITION OF parts FOR VALUES IN (1)")
    strict.isolate("parts", "tenant", keyspace="default", strict=True)
    strict.acting()
    assert fails(strict.db, "TABLE parts") == fails(strict.db, "SELECT FROM parts WHERE n = 2") == NOBODY
    strict.acting("acme").rows("INSERT INTO parts VALUES ('acme', 1)")
    assert strict.db.rows("SELECT n FROM parts WHERE n = 1") == [(1,)]


# Switching it on and off

def test_calling_it_again_switches_it(app):  # noqa: F811
    app.as_owner(TABLE.format(type="text"))
    before = rls(app.db)
    for strict in (True, False, True, True, False):
        app.isolate("docs", "tenant", keyspace="default", environment_column="environment", strict=strict)
        assert app.db.rows("SELECT strict, enabled, forced, ok, problem FROM keysmith.isolation") \
            == [(strict, True, True, True, None)]
        app.acting()
        if strict:
            assert fails(app.db, "TABLE docs") == NOBODY
        else:
            assert app.db.rows("TABLE docs") == []
        app.db.rows("ROLLBACK; RESET ROLE")
    app.isolate("docs", "tenant", keyspace="default", strict=True)
    app.db.call("release", "docs")
    assert rls(app.db) == before
    assert app.db.refused("KS400", "isolate", "docs", "tenant", keyspace="default", strict=None) \
        == "strict must not be null"


@pytest.mark.parametrize("statement, problem", [
    ("ALTER POLICY {} ON docs USING (tenant = (SELECT keysmith.current_tenant()) "
     "AND (SELECT keysmith.current_keyspace()) = 'default')", "has another condition"),
    ("ALTER POLICY {} ON docs WITH CHECK (tenant = (SELECT keysmith.current_tenant()) "
     "AND (SELECT keysmith.current_keyspace()) = 'default')", "has another condition"),
    ("DROP POLICY {} ON docs", "is gone"),
])
@pytest.mark.parametrize("policy", ["keysmith_access", "keysmith_tenant"])
def test_a_policy_that_is_no_longer_strict_is_a_fault(strict, statement, problem, policy):
    db, problem = strict.db, f"policy {policy} {problem}"
    strict.as_owner(statement.format(policy))
    assert db.rows("SELECT relation, strict, ok, problem FROM keysmith.isolation WHERE NOT ok") \
        == [("docs", True, False, problem)]
    assert f"table public.docs: {problem}" in [row.finding for row in db.findings() if row.level == "error"]
    strict.isolate("docs", "tenant", keyspace="default", strict=True)
    assert db.rows("SELECT ok FROM keysmith.isolation") == [(True,), (True,)]


def test_row_security_that_is_off_or_not_forced_is_shown(strict):
    strict.as_owner("ALTER TABLE docs DISABLE ROW LEVEL SECURITY; ALTER TABLE bare NO FORCE ROW LEVEL SECURITY")
    assert strict.db.rows("SELECT relation, enabled, forced, ok, problem FROM keysmith.isolation") == [
        ("bare", True, False, False, "row security is not forced: its owner app sees all its rows"),
        ("docs", False, True, False, "row security is off: every reader sees all rows")]


def test_a_dump_keeps_it_strict(cluster, dbname, strict):
    strict.db.rows("ROLLBACK")
    script = cluster.program("pg_dump", dbname=dbname).stdout
    cluster.execute("CREATE DATABASE restored")
    try:
        cluster.psql(script, dbname="restored")
        assert dump(cluster, "restored") == dump(cluster, dbname)
        with cluster.connect("restored") as there:
            assert there.execute("SELECT strict, ok FROM keysmith.isolation").fetchall() == [(True, True)] * 2
            assert there.execute("SELECT count(*) FROM docs").fetchone() == (6,)
            there.execute("SET ROLE app")
            with pytest.raises(psycopg.Error, match=NOBODY[1]):
                there.execute("TABLE bare")
    finally:
        cluster.execute("DROP DATABASE restored WITH (FORCE)")


# Who does not notice

def test_roles_to_which_row_security_does_not_apply(strict):
    db = strict.db
    db.rows("CREATE ROLE sees_all BYPASSRLS; GRANT ALL ON docs, bare TO sees_all")
    try:
        for role_name in ("postgres", "sees_all"):
            db.rows(f"SET ROLE {role_name}")
            assert db.value("SELECT count(*) FROM docs") == 6
            db.rows("INSERT INTO bare VALUES (NULL, 1); DELETE FROM bare")
    finally:
        db.rows("RESET ROLE; DROP OWNED BY sees_all; DROP ROLE sees_all")


def test_work_of_the_owner_that_reads_past_policies(strict):
    """PostgreSQL applies no policy in these, and none of them needs an identity."""
    strict.as_owner("""
        CREATE TABLE notes (n int REFERENCES docs ON UPDATE CASCADE ON DELETE CASCADE);
        INSERT INTO notes VALUES (1), (3);
        ANALYZE docs; REINDEX TABLE docs; CLUSTER docs USING docs_pkey;
        ALTER TABLE docs ADD CHECK (n > 0), ALTER environment TYPE varchar;
        CREATE INDEX ON docs (n, tenant); TRUNCATE bare""")
    strict.acting()
    strict.refused("23503", "INSERT INTO notes VALUES (99)")
    strict.acting("acme")
    strict.db.rows("UPDATE docs SET n = 11 WHERE n = 1; DELETE FROM docs WHERE n = 11")
    assert strict.db.rows("TABLE notes") == [(3,)]


def test_statements_of_the_owner_that_read_by_policies(strict):
    """They would read an empty table, and so find nothing wrong or store nothing."""
    strict.as_owner("CREATE TABLE more (n int, kept text)")
    db = strict.acting()
    db.rows("INSERT INTO more VALUES (99)")
    assert fails(db, "ALTER TABLE more ADD FOREIGN KEY (n) REFERENCES docs") == NOBODY
    assert fails(db, "CREATE MATERIALIZED VIEW kept AS TABLE docs") == NOBODY
    db.rows("CREATE MATERIALIZED VIEW kept AS TABLE docs WITH NO DATA")
    assert fails(db, "REFRESH MATERIALIZED VIEW kept") == NOBODY


def test_pg_dump_by_the_owner_is_refused_as_ever(cluster, dbname, strict):
    strict.db.rows("ROLLBACK")
    done = cluster.program("pg_dump", "--role=app", "-t", "docs", dbname=dbname, check=False)
    assert done.returncode != 0 and "affected by row-level security" in done.stdout, done.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A server that does not preload the library, with a publisher's and a subscriber's table."""
    with running("strict", preload=False, **FAST) as server:
        here = session(server)
        here.rows("CREATE DATABASE there")
        here.rows("CREATE ROLE app; CREATE EXTENSION keysmith")
        yield server, here
        here.session.close()


@pytest.mark.parametrize("statement", ["TABLE fresh", "SELECT FROM fresh WHERE false", "DELETE FROM fresh",
                                       "INSERT INTO fresh SELECT WHERE false", "EXPLAIN TABLE fresh"])
def test_the_first_statement_of_a_session_loads_the_library(two, statement):
    server, here = two
    here.rows("CREATE TABLE IF NOT EXISTS fresh (tenant uuid); ALTER TABLE fresh OWNER TO app; "
              "SELECT keysmith.isolate('fresh', 'tenant', strict => true)")
    with server.connect() as first:
        first.execute("SET ROLE app")
        with pytest.raises(psycopg.Error) as error:
            first.execute(statement)
        assert (error.value.sqlstate, error.value.diag.message_primary) == NOBODY
    # The extension may come and go, and have another OID then.
    here.rows("BEGIN; SET LOCAL ROLE app")
    assert fails(here, statement) == NOBODY
    here.rows("ROLLBACK; DROP TABLE fresh; DROP EXTENSION keysmith; CREATE EXTENSION keysmith")


def test_logical_replication(two):
    server, here = two
    there = session(server, "there")
    table = "CREATE TABLE sent (tenant uuid, n int PRIMARY KEY); ALTER TABLE sent OWNER TO app;"
    try:
        there.rows(f"CREATE EXTENSION keysmith; {table} SELECT keysmith.isolate('sent', 'tenant', strict => true)")
        here.rows(f"{table} INSERT INTO sent VALUES (NULL, 1); SELECT keysmith.isolate('sent', 'tenant', strict => true);"
                  "CREATE PUBLICATION sent FOR TABLE sent")
        here.rows("SELECT pg_create_logical_replication_slot('sent', 'pgoutput')")
        there.rows(f"CREATE SUBSCRIPTION sent CONNECTION '{server.dsn()}' PUBLICATION sent "
                   "WITH (create_slot = false, slot_name = sent)")
        wait_until(lambda: is_ready(there))
        here.rows("INSERT INTO sent VALUES (NULL, 2); DELETE FROM sent WHERE n = 1; UPDATE sent SET n = 3")
        wait_until(lambda: there.rows("SELECT n FROM sent") == [(3,)])
    finally:
        there.rows("DROP SUBSCRIPTION IF EXISTS sent")
        there.session.close()


# require_identity

def test_require_identity(app):  # noqa: F811
    app.acting()
    assert fails(app.db, "SELECT keysmith.require_identity()") == NOBODY
    assert fails(app.db, "SELECT keysmith.require_identity() WHERE false") == NOBODY
    app.acting("acme")
    assert app.db.value("SELECT keysmith.require_identity()") is True
    # In other policies too.
    app.as_owner("CREATE TABLE notes (n int); ALTER TABLE notes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;"
                 "CREATE POLICY mine ON notes USING ((SELECT keysmith.require_identity()))")
    app.acting()
    assert fails(app.db, "TABLE notes") == NOBODY
    app.acting("acme").rows("INSERT INTO notes VALUES (1)")
    assert app.db.rows("TABLE notes") == [(1,)]


def test_a_function_of_that_name_elsewhere_is_another(app):  # noqa: F811
    app.as_owner("CREATE FUNCTION require_identity() RETURNS text LANGUAGE sql AS $$ SELECT 'mine' $$; "
                 "CREATE FUNCTION require_identity(of text) RETURNS text LANGUAGE sql AS $$ SELECT of $$")
    app.acting()
    assert app.db.row("SELECT public.require_identity() AS one, public.require_identity('x') AS two") == ("mine", "x")
