"""The register of isolated tables: lost isolation is an error, in the view `isolation` and in
`doctor()`, and `isolate` and `release` repair it."""

import itertools
import threading

import psycopg
import pytest

from conftest import session, wait_until
from test_isolation import ALL, BY_NAME, TABLE, rls

_numbers = itertools.count()


@pytest.fixture(scope="module")
def roles(cluster):
    """Requests run as app; keeper owns tables."""
    cluster.execute("CREATE ROLE app; CREATE ROLE keeper; CREATE ROLE other")
    yield
    cluster.execute("DROP ROLE app, keeper, other")


@pytest.fixture(scope="module")
def template(cluster, roles):
    """A database with a table of two tenants, before isolate."""
    cluster.execute("CREATE DATABASE before TEMPLATE with_keysmith")
    db = session(cluster, "before")
    for name in ("acme", "globex"):
        db.tenant(name)
    db.rows(f"""
        GRANT ALL ON SCHEMA public TO keeper; GRANT USAGE ON SCHEMA keysmith TO app, keeper;
        SET ROLE keeper; {TABLE.format(type='text')}; GRANT ALL ON docs TO app; RESET ROLE; {BY_NAME}""")
    db.session.close()
    yield "before"
    cluster.execute("DROP DATABASE before WITH (FORCE)")


@pytest.fixture(scope="module")
def shared(cluster, template):
    cluster.execute(f"CREATE DATABASE shared TEMPLATE {template}")
    db = session(cluster, "shared")
    db.call("isolate", "docs", "tenant", keyspace="default")
    yield db
    db.session.close()
    cluster.execute("DROP DATABASE shared WITH (FORCE)")


@pytest.fixture
def isolated(shared):
    """A session in which every change of a test is rolled back."""
    assert states(shared) == {"docs": None}
    with shared.session.transaction(force_rollback=True):
        yield shared


@pytest.fixture
def dbname(cluster, template):
    """A separate database for the test."""
    name = f"register{next(_numbers)}"
    cluster.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield name
    cluster.execute(f"DROP DATABASE {name} WITH (FORCE)")


def by_owner(db, statements):
    db.rows(f"SET LOCAL ROLE keeper; {statements}; RESET ROLE")


def isolate(db):
    db.call("isolate", "docs", "tenant", keyspace="default")


def seen(db, *tenant):
    """The rows that app sees for a tenant, or without an identity."""
    with db.session.transaction(force_rollback=True):
        for name in tenant:
            assert db.verify(db.mint(name).api_key, sign_in=True).ok
        db.rows("SET LOCAL ROLE app")
        return [n for n, in db.rows(ALL)]


def states(db):
    """Each isolated table with its problem."""
    rows = db.rows("SELECT relation, ok, problem FROM keysmith.isolation")
    assert [row.ok for row in rows] == [row.problem is None for row in rows]
    return {row.relation: row.problem for row in rows}


def errors(db):
    return [row.finding for row in db.findings() if (row.level, row.subject) == ("error", "isolation")]


def warnings(db):
    return [row.finding for row in db.findings() if (row.level, row.subject) == ("warning", "isolation")]


LOST_ALL = "it was isolated, and no longer is: every reader sees all rows"
LOST = {
    "no restrictive policy": ("DROP POLICY keysmith_tenant ON docs", "policy keysmith_tenant is gone"),
    "no permissive policy": ("DROP POLICY keysmith_access ON docs", "policy keysmith_access is gone"),
    "neither policy": ("DROP POLICY keysmith_access ON docs; DROP POLICY keysmith_tenant ON docs",
                       "policy keysmith_access is gone; policy keysmith_tenant is gone"),
    "another name": ("ALTER POLICY keysmith_tenant ON docs RENAME TO mine", "policy keysmith_tenant is gone"),
    "another condition": ("ALTER POLICY keysmith_tenant ON docs USING (true)",
                          "policy keysmith_tenant has another condition"),
    "another check": ("ALTER POLICY keysmith_access ON docs WITH CHECK (true)",
                      "policy keysmith_access has another condition"),
    "another column": ("ALTER POLICY keysmith_tenant ON docs "
                       "USING (environment = (SELECT keysmith.current_tenant()))",
                       "policy keysmith_tenant has another condition"),
    "permissive": ("DROP POLICY keysmith_tenant ON docs; CREATE POLICY keysmith_tenant ON docs "
                   "USING (tenant = (SELECT keysmith.current_tenant()))", "policy keysmith_tenant is permissive"),
    "restrictive": ("DROP POLICY keysmith_access ON docs; CREATE POLICY keysmith_access ON docs AS RESTRICTIVE "
                    "USING (tenant = (SELECT keysmith.current_tenant()))", "policy keysmith_access is restrictive"),
    "one command": ("DROP POLICY keysmith_tenant ON docs; CREATE POLICY keysmith_tenant ON docs AS RESTRICTIVE "
                    "FOR UPDATE USING (tenant = (SELECT keysmith.current_tenant()))",
                    "policy keysmith_tenant is for one command only"),
    "one role": ("ALTER POLICY keysmith_tenant ON docs TO other", "policy keysmith_tenant is for some roles only"),
    "off": ("ALTER TABLE docs DISABLE ROW LEVEL SECURITY", "row security is off: every reader sees all rows"),
    "not forced": ("ALTER TABLE docs NO FORCE ROW LEVEL SECURITY",
                   "row security is not forced: its owner keeper sees all its rows"),
    "all of it": ("ALTER TABLE docs DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY; "
                  "DROP POLICY keysmith_access ON docs; DROP POLICY keysmith_tenant ON docs",
                  LOST_ALL),
}


@pytest.mark.parametrize("statements, problem", LOST.values(), ids=LOST)
def test_what_is_lost_is_an_error_and_comes_back(isolated, statements, problem):
    db = isolated
    by_owner(db, statements)
    assert states(db) == {"docs": problem}
    assert errors(db) == [f"table public.docs: {part}" for part in problem.split("; ")]
    isolate(db)
    assert states(db) == {"docs": None}
    assert errors(db) == []
    assert seen(db) == []
    assert seen(db, "acme") == [1, 2]
    db.call("release", "docs")
    # Other policies than those of isolate() keep it on.
    assert rls(db) == (((True, False), ["mine"]) if "mine" in statements else ((False, False), []))
    assert states(db) == {}


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.parametrize("policy", ["keysmith_tenant", "keysmith_access"])
def test_a_table_that_lost_a_policy(isolated, policy, others):
    """It is open only if another policy permits more, and nothing restricts it."""
    db = isolated
    by_owner(db, f"DROP POLICY {policy} ON docs")
    if others:
        by_owner(db, "CREATE POLICY mine ON docs USING (n <> 2)")
    acme, nobody = {
        ("keysmith_tenant", False): ([1, 2], []),
        ("keysmith_tenant", True): ([1, 2, 3, 4, 5, 6], [1, 3, 4, 5, 6]),
        ("keysmith_access", False): ([], []),
        ("keysmith_access", True): ([1], []),
    }[policy, others]
    assert seen(db, "acme") == acme
    assert seen(db) == nobody
    isolate(db)
    assert seen(db, "acme") == ([1] if others else [1, 2])
    assert seen(db) == []
    assert states(db) == {"docs": None}


def test_a_condition_that_cannot_be_printed_is_another(isolated):
    """PostgreSQL stores expressions that are nested too deep to print. The owner of such a table
    must not block the report about other tables."""
    by_owner(isolated, f"ALTER POLICY keysmith_tenant ON docs USING (true{' IS TRUE' * 6000})")
    isolated.rows("SET LOCAL max_stack_depth = '1MB'")
    with pytest.raises(psycopg.errors.StatementTooComplex), isolated.session.transaction():
        isolated.rows("SELECT pg_get_expr(polqual, polrelid) FROM pg_policy WHERE polname = 'keysmith_tenant'")
    # To print the other policy PostgreSQL opens the table, which needs more stack in some builds
    # than in others.
    problems = [f"policy {policy} has another condition" for policy in ("keysmith_access", "keysmith_tenant")]
    if "keysmith_access" not in states(isolated)["docs"]:
        del problems[0]
    assert states(isolated) == {"docs": "; ".join(problems)}
    assert errors(isolated) == [f"table public.docs: {problem}" for problem in problems]


def test_a_table_that_is_locked_keeps_nobody_waiting(db, connect, database):
    db.rows("GRANT CREATE ON SCHEMA public TO app; GRANT EXECUTE ON FUNCTION keysmith.isolate TO app")
    owner = database(connect())
    owner.rows("SET ROLE app; CREATE TABLE mine (tenant_id uuid); SELECT keysmith.isolate('mine', 'tenant_id')")
    with owner.session.transaction():
        owner.rows("LOCK TABLE mine IN ACCESS EXCLUSIVE MODE")
        db.rows("SET statement_timeout = '60s'")
        isolate(db)
        problems = [f"policy {policy} can't be read, since someone has locked the table"
                    for policy in ("keysmith_access", "keysmith_tenant")]
        assert states(db) == {"docs": None, "mine": "; ".join(problems)}
        assert set(errors(db)) == {f"table public.mine: {problem}" for problem in problems}
        db.call("release", "docs")
    assert states(db) == {"mine": None}


def test_a_condition_without_the_column_is_another(isolated):
    by_owner(isolated, "; ".join(f"ALTER POLICY {name} ON docs USING ({{0}}) WITH CHECK ({{0}})".format(
        "(SELECT keysmith.current_keyspace()) = 'default'") for name in ("keysmith_tenant", "keysmith_access")))
    by_owner(isolated, "ALTER TABLE docs DROP COLUMN tenant")
    assert states(isolated) == {"docs": "policy keysmith_access has another condition; "
                                        "policy keysmith_tenant has another condition"}


def test_a_dropped_column_takes_the_policies_along(isolated):
    by_owner(isolated, "ALTER TABLE docs DROP COLUMN tenant CASCADE")
    assert states(isolated) == {"docs": "policy keysmith_access is gone; policy keysmith_tenant is gone"}
    assert seen(isolated, "acme") == []


@pytest.mark.parametrize("statements, problem", [
    ("ALTER ROLE keeper BYPASSRLS", "its owner keeper has BYPASSRLS, and sees all its rows"),
    ("ALTER TABLE docs OWNER TO postgres", "its owner postgres is a superuser, and sees all its rows"),
    ("CREATE TABLE part () INHERITS (docs); GRANT SELECT ON part TO app", "its part public.part can be read past it"),
    ("CREATE TABLE part () INHERITS (docs); GRANT SELECT (n) ON part TO PUBLIC",
     "its part public.part can be read past it"),
    ("CREATE TABLE part () INHERITS (docs); CREATE TABLE piece () INHERITS (part); GRANT SELECT ON piece TO app",
     "its part public.piece can be read past it"),
    ("CREATE TABLE part () INHERITS (docs); ALTER TABLE part OWNER TO app; "
     "SELECT keysmith.grant_access('app', 'verifier')", "its part public.part can be read past it"),
    ("CREATE TABLE part () INHERITS (docs); ALTER TABLE part OWNER TO app; "
     "GRANT EXECUTE ON FUNCTION keysmith.authenticate TO app", "its part public.part can be read past it"),
    ("CREATE TABLE whole (LIKE docs); ALTER TABLE docs INHERIT whole; GRANT SELECT ON whole TO app",
     "it is part of public.whole, which shows all its rows"),
])
def test_ways_around_it_are_errors(isolated, statements, problem):
    isolated.rows(statements)
    assert states(isolated) == {"docs": problem}
    assert errors(isolated) == [f"table public.docs: {problem}"]


@pytest.mark.parametrize("statements", [
    "CREATE TABLE part () INHERITS (docs)",
    "CREATE TABLE part () INHERITS (docs); ALTER TABLE part OWNER TO keeper",
    "CREATE TABLE part () INHERITS (docs); GRANT SELECT ON part TO app; ALTER TABLE part OWNER TO keeper; "
    "SELECT keysmith.isolate('part', 'tenant', 'default')",
    "CREATE POLICY mine ON docs USING (true)",
    "CREATE POLICY mine ON docs AS RESTRICTIVE FOR DELETE USING (false)",
    "GRANT SELECT ON docs TO PUBLIC",
    "ALTER TABLE docs ADD COLUMN more int, DROP COLUMN n",
    "ALTER TABLE docs OWNER TO other",
    "DROP TABLE docs",
])
def test_what_is_right_is_no_error(isolated, statements):
    isolated.rows(statements)
    assert set(states(isolated).values()) <= {None}
    assert errors(isolated) == []


RENAMED = """
    ALTER TABLE docs RENAME COLUMN tenant TO "Customer's";
    ALTER TABLE docs RENAME COLUMN environment TO mode;
    ALTER TABLE docs RENAME TO papers;
    CREATE SCHEMA archive; ALTER TABLE papers SET SCHEMA archive; ALTER SCHEMA archive RENAME TO "Archive" """


def test_other_names_are_followed(isolated):
    db = isolated
    db.call("isolate", "docs", "tenant", keyspace="default", environment_column="environment")
    db.rows(RENAMED)
    row = ('"Archive".papers', "Customer's", "default", "mode", False, True, True, True, None)
    assert db.rows("TABLE keysmith.isolation") == [row]
    assert errors(db) == warnings(db) == []
    db.call("isolate", '"Archive".papers', "Customer's", keyspace="default", environment_column="mode")
    assert db.rows("TABLE keysmith.isolation") == [row]
    db.call("release", '"Archive".papers')
    assert rls(db, '"Archive".papers') == ((False, False), [])
    assert states(db) == {}


# Tables that are dropped and made again

def test_a_table_that_is_gone_is_no_error(isolated):
    by_owner(isolated, "DROP TABLE docs")
    assert states(isolated) == {}
    assert errors(isolated) == []


def made_again(db):
    by_owner(db, "DROP TABLE docs; " + TABLE.format(type="text"))
    assert states(db) == {"docs": LOST_ALL}
    assert errors(db) == [f"table public.docs: {LOST_ALL}"]


def test_a_table_made_again_without_its_policies_is_an_error(isolated):
    db = isolated
    made_again(db)
    # The earlier state is that of the new table.
    by_owner(db, "ALTER TABLE docs FORCE ROW LEVEL SECURITY")
    isolate(db)
    assert states(db) == {"docs": None}
    db.call("release", "docs")
    assert rls(db) == ((False, True), [])
    assert states(db) == {}


def test_release_forgets_a_table_made_again(isolated):
    db = isolated
    made_again(db)
    by_owner(db, "ALTER TABLE docs ENABLE ROW LEVEL SECURITY")
    db.call("release", "docs")
    assert rls(db) == ((True, False), [])
    assert states(db) == {}
    db.refused("KS404", "release", "docs")


def test_a_table_in_the_place_of_a_renamed_one(isolated):
    """Both are known: one by its OID, and the other by its name."""
    db = isolated
    by_owner(db, "ALTER TABLE docs RENAME TO docs_before; CREATE TABLE docs (tenant text)")
    assert states(db) == {"docs_before": None, "docs": LOST_ALL}
    isolate(db)
    assert states(db) == {"docs_before": None, "docs": None}
    db.call("release", "docs")
    assert states(db) == {"docs_before": None, "docs": LOST_ALL}
    db.call("isolate", "docs_before", "tenant", keyspace="default")
    assert states(db) == {"docs_before": None}
    db.refused("KS404", "release", "docs")


def test_of_tables_that_are_gone_a_thousand_are_remembered(isolated):
    db = isolated
    db.rows("""
        INSERT INTO keysmith_private.isolated_table
        SELECT t.server, t.database, 3000000000 + n, t.schema_name, 'gone' || n, t.tenant_column, t.tenant_number,
               NULL, NULL, NULL, false, true, false, false, now() - n * interval '1 day'
        FROM keysmith_private.isolated_table t, generate_series(1, 1200) n""")
    assert states(db) == {"docs": None}
    isolate(db)
    assert states(db) == {"docs": None}
    assert db.rows("SELECT count(*), max(substr(table_name, 5)::int) FROM keysmith_private.isolated_table "
                   "WHERE table_name LIKE 'gone%'") == [(1000, 1000)]


# Dumps

@pytest.fixture
def restored(cluster, database, tmp_path):
    """Dumps a database by the given commands into another."""
    sessions, dumped = [], tmp_path / "dump"

    def restore(dbname, *ways):
        cluster.execute("CREATE DATABASE restored")
        for dump, format in ways:
            made = cluster.program("pg_dump", f"--format={format}", "-f", dumped, *dump, dbname=dbname)
            assert made.stdout == ""
            if format == "plain":
                cluster.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", "-f", dumped,
                                dbname="restored")
            else:
                cluster.program("pg_restore", "--exit-on-error", *dump, dumped, dbname="restored")
        sessions.append(cluster.connect("restored", row_factory=psycopg.rows.namedtuple_row))
        return database(sessions[0])

    yield restore
    for opened in sessions:
        opened.close()
    cluster.execute("DROP DATABASE IF EXISTS restored WITH (FORCE)")


WAYS = {
    "plain": [([], "plain")],
    "custom": [([], "custom")],
    "no owner": [(["--no-owner", "--no-privileges"], "custom")],
    "in two parts": [(["--schema-only"], "plain"), (["--data-only"], "plain")],
}


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("ways", WAYS.values(), ids=WAYS)
def test_a_dump_takes_the_register_along(db, dbname, restored, ways, renamed):
    db.rows("ALTER TABLE docs FORCE ROW LEVEL SECURITY")
    # A dropped column changes the numbers of later columns.
    db.rows("ALTER TABLE docs ADD COLUMN mine text; ALTER TABLE docs DROP COLUMN environment")
    db.call("isolate", "docs", "tenant", keyspace="default", environment_column="mine")
    if renamed:
        db.rows("ALTER TABLE docs RENAME tenant TO customer; ALTER TABLE docs RENAME mine TO mode")
    there = restored(dbname, *ways)
    owner = "keeper" if ways[0][0] != ["--no-owner", "--no-privileges"] else "postgres"
    problem = None if owner == "keeper" else "its owner postgres is a superuser, and sees all its rows"
    assert states(there) == {"docs": problem}
    assert len(errors(there)) == (problem is not None) and warnings(there) == []
    assert there.row("SELECT tenant_column, environment_column FROM keysmith.isolation") \
        == (("customer", "mode") if renamed else ("tenant", "mine"))
    there.rows("ALTER POLICY keysmith_tenant ON docs USING (true)")
    assert "policy keysmith_tenant has another condition" in states(there)["docs"]
    there.call("isolate", "docs", "customer" if renamed else "tenant", keyspace="default",
               environment_column="mode" if renamed else "mine")
    assert states(there) == {"docs": problem}
    assert there.value("SELECT count(*) FROM keysmith_private.isolated_table") == 1
    there.call("release", "docs")
    assert rls(there) == ((False, True), [])
    assert states(there) == {}


def test_a_dump_without_the_table_is_restored(db, dbname, restored):
    """And no other table is taken for it, whatever its OID."""
    isolate(db)
    there = restored(dbname, (["--exclude-table=docs"], "plain"))
    assert states(there) == {}
    there.rows("CREATE TABLE other (tenant text)")
    there.rows("UPDATE keysmith_private.isolated_table SET relation = 'other'::regclass")
    assert states(there) == {}
    assert errors(there) == []
    there.rows("CREATE TABLE docs (tenant text, n int); ALTER TABLE docs OWNER TO keeper")
    assert states(there) == {"docs": LOST_ALL}


def test_policies_without_the_register_are_found(db, dbname, restored):
    """After a dump of only the schema."""
    isolate(db)
    there = restored(dbname, (["--schema-only"], "plain"))
    assert states(there) == {}
    assert errors(there) == []
    assert warnings(there) == ["table public.docs: it has the policies of isolate(), which does not know it"]
    there.call("isolate", "docs", "tenant", keyspace="default")
    assert warnings(there) == []
    assert states(there) == {"docs": None}
    there.call("release", "docs")
    assert rls(there) == ((False, False), [])


def test_a_copy_of_the_database(cluster, db, dbname, restored, database):
    isolate(db)
    db.session.close()
    cluster.execute(f"CREATE DATABASE restored TEMPLATE {dbname}")
    with cluster.connect("restored", row_factory=psycopg.rows.namedtuple_row) as opened:
        there = database(opened)
        assert states(there) == {"docs": None}
        there.rows("DROP POLICY keysmith_access ON docs")
        assert states(there) == {"docs": "policy keysmith_access is gone"}
        there.call("isolate", "docs", "tenant", keyspace="default")
        there.call("release", "docs")
        assert rls(there) == ((False, False), [])
        assert states(there) == {}


# Other sessions, and hostile roles

def test_a_table_of_citus_cannot_be_isolated(isolated):
    """Citus is recognized by its catalog. It leaves out AS RESTRICTIVE on a table's shards."""
    db = isolated
    db.rows("""
        SET LOCAL allow_system_table_mods = on;
        CREATE TABLE pg_catalog.pg_dist_partition (logicalrelid regclass NOT NULL);
        CREATE TABLE more (tenant text);
        INSERT INTO pg_catalog.pg_dist_partition VALUES ('docs'), ('more')""")
    problem = "Citus distributes it, and does not keep its policies"
    assert states(db) == {"docs": problem}
    assert errors(db) == [f"table public.docs: {problem}"]
    assert db.refused("KS400", "isolate", "more", "tenant", keyspace="default") \
        == "relation must be no table that Citus distributes"


def waits_for_a_lock(db, pid):
    return db.value("SELECT EXISTS (SELECT FROM pg_locks WHERE pid = %s AND NOT granted)", pid)


class Elsewhere(threading.Thread):
    """A statement in another session, which may wait."""

    def __init__(self, session, statement):
        super().__init__(daemon=True)
        self.session, self.statement, self.error = session, statement, None
        self.start()

    def run(self):
        try:
            self.session.execute(self.statement)
        except psycopg.Error as error:
            self.error = error

    def sqlstate(self):
        self.join(60)
        assert not self.is_alive()
        return self.error and self.error.sqlstate


def test_a_column_that_becomes_another_meanwhile(db, connect):
    """The owner changes the column's type to an own type, whose cast would run as the caller of
    isolate."""
    owner, superuser = connect(), connect()
    owner.execute("""
        SET ROLE keeper;
        CREATE TYPE trap AS (x text);
        CREATE FUNCTION spring(trap) RETURNS text LANGUAGE plpgsql AS
            $$ BEGIN EXECUTE 'ALTER ROLE keeper SUPERUSER'; RETURN 'acme'; END $$;
        CREATE CAST (trap AS text) WITH FUNCTION spring(trap) AS IMPLICIT;
        BEGIN;
        ALTER TABLE docs ALTER tenant TYPE trap USING ROW(tenant)::trap""")
    isolating = Elsewhere(superuser, "SELECT keysmith.isolate('docs', 'tenant', 'default')")
    wait_until(lambda: waits_for_a_lock(db, superuser.info.backend_pid))
    owner.execute("COMMIT")
    assert isolating.sqlstate() == "KS400"
    assert "must be of type uuid or text, and public.docs.tenant is trap" in str(isolating.error)
    assert rls(db) == ((False, False), [])


@pytest.mark.parametrize("command, before", [
    ("CREATE POLICY", ""), ("ALTER TABLE", ""), ("DROP POLICY", "CREATE POLICY keysmith_access ON {} USING (true)")])
def test_a_name_that_becomes_another_tables_meanwhile(db, dbname, connect, command, before):
    """A schema is renamed without a lock on its tables. An event trigger delays the statement in
    between, so that it sees the new names."""
    owner, superuser = connect(), connect()
    db.rows(f"""
        GRANT CREATE ON DATABASE {dbname} TO keeper;
        CREATE SCHEMA theirs AUTHORIZATION keeper; CREATE SCHEMA bystander AUTHORIZATION keeper;
        ALTER TABLE docs SET SCHEMA theirs;
        CREATE TABLE bystander.docs (tenant text);
        {before.format("theirs.docs")};
        {before.format("bystander.docs")};
        CREATE TABLE public.not_locked_yet ();
        CREATE FUNCTION hold() RETURNS event_trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM pg_advisory_xact_lock(7); PERFORM FROM public.not_locked_yet; END $$;
        CREATE EVENT TRIGGER hold ON ddl_command_start WHEN TAG IN ('{command}') EXECUTE FUNCTION hold();
        SELECT pg_advisory_lock(7)""")
    isolating = Elsewhere(superuser, "SELECT keysmith.isolate('theirs.docs', 'tenant', 'default')")
    wait_until(lambda: waits_for_a_lock(db, superuser.info.backend_pid))
    owner.execute("SET ROLE keeper; ALTER SCHEMA theirs RENAME TO gone; ALTER SCHEMA bystander RENAME TO theirs")
    db.rows("SELECT pg_advisory_unlock(7)")
    assert isolating.sqlstate() == "KS409"
    policies = ["keysmith_access"] if before else []
    assert rls(db, "theirs.docs") == rls(db, "gone.docs") == ((False, False), policies)
    assert states(db) == {}


def test_a_stranger_does_not_wait_for_a_lock(db, connect):
    holder, stranger = connect(), connect()
    holder.execute("BEGIN; LOCK TABLE docs")
    db.rows("GRANT EXECUTE ON FUNCTION keysmith.isolate, keysmith.release TO app")
    stranger.execute("SET ROLE app")
    for statement in ("keysmith.isolate('docs', 'tenant', 'default')", "keysmith.release('docs')"):
        assert Elsewhere(stranger, f"SELECT {statement}").sqlstate() == "42501"


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_an_old_snapshot(db, connect, level):
    """The change of another session is noticed, or the transaction is told to try again."""
    other = connect()
    other.execute(f"BEGIN ISOLATION LEVEL {level}; SELECT count(*) FROM pg_class")
    isolate(db)
    again = Elsewhere(other, "SELECT keysmith.isolate('docs', 'tenant', 'default')")
    assert again.sqlstate() in (None, "40001")
    other.execute("COMMIT")
    db.call("release", "docs")
    assert rls(db) == ((False, False), [])
    assert states(db) == {}


def test_who_may_read_it(isolated):
    isolated.call("grant_access", "other", "auditor")
    isolated.call("grant_access", "app", "issuer")
    isolated.rows("SET LOCAL ROLE other")
    assert states(isolated) == {"docs": None}
    isolated.rows("SET LOCAL ROLE app")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        isolated.rows("TABLE keysmith.isolation")


def test_policies_of_isolate_without_their_conditions_are_found(db):
    """Tools that copy policies from a schema may leave out what they say."""
    db.rows("CREATE TABLE bare (tenant_id uuid)")
    db.rows("CREATE POLICY keysmith_tenant ON bare AS RESTRICTIVE")
    db.rows("ALTER TABLE bare ENABLE ROW LEVEL SECURITY")
    assert "table public.bare: it has the policies of isolate(), which does not know it" in warnings(db)
