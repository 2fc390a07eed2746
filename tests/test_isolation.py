"""Row-level security for applications' tables: who sees and writes which rows, and the warnings
of `isolate`."""

import itertools

import psycopg
import pytest
from psycopg.types.json import Jsonb

from test_storage import dump


@pytest.fixture
def role(cluster, dbname):
    """An application's role, which owns its tables."""
    cluster.execute("CREATE ROLE app LOGIN")
    cluster.execute("GRANT ALL ON SCHEMA public TO app; GRANT USAGE ON SCHEMA keysmith TO app", dbname)
    yield "app"
    # A failed test may have left a transaction with locks.
    cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{dbname}'")
    cluster.execute("DROP OWNED BY app CASCADE", dbname)
    cluster.execute("DROP ROLE app")


@pytest.fixture
def keys(db):
    """Keys of two tenants in two keyspaces, each of which has an acme."""
    db.call("create_keyspace", "other",
            prefixes=Jsonb({"secret": {"live": "o_live_", "test": "o_test_"}}))
    made = {}
    for keyspace in ("default", "other"):
        for name in ("acme", "globex"):
            db.tenant(name, keyspace=keyspace)
            for environment in ("live", "test"):
                made[keyspace, name, environment] = db.mint(
                    name, keyspace=keyspace, environment=environment)
    return made


@pytest.fixture
def app(db, keys, role, connect, database):
    """A session that signs in as a superuser, and then takes the application's role."""
    return App(db, keys)


class App:
    """Signs in, and then reads and writes as the application's role."""

    def __init__(self, db, keys):
        self.db, self.keys = db, keys
        db.rows("SET plan_cache_mode = force_generic_plan")

    def acting(self, tenant=None, environment="live", keyspace="default"):
        self.db.rows("ROLLBACK; RESET ROLE; BEGIN")
        if tenant:
            key = self.keys[keyspace, tenant, environment]
            assert self.db.verify(key.api_key, keyspace=keyspace, sign_in=True).ok
        self.db.rows("SET LOCAL ROLE app")
        return self.db

    def seen(self, query, *who, **where):
        return [value for value, in self.acting(*who, **where).rows(query)]

    def as_owner(self, statement):
        self.db.rows(f"ROLLBACK; SET ROLE app; {statement}; RESET ROLE")

    def refused(self, sqlstate, statement):
        self.db.rows("SAVEPOINT refused")
        with pytest.raises(psycopg.Error) as error:
            self.db.rows(statement)
        self.db.rows("ROLLBACK TO refused")
        assert error.value.sqlstate == sqlstate, error.value

    def isolate(self, relation, column, **options):
        """Isolates, and returns the notices and warnings."""
        self.db.rows("ROLLBACK; RESET ROLE")
        said = []

        def note(notice):
            said.append(f"{notice.severity}: {notice.message_primary}".replace("public.", ""))

        self.db.session.add_notice_handler(note)
        self.db.call("isolate", relation, column, **options)
        self.db.session.remove_notice_handler(note)
        return said


TABLE = """
    CREATE TABLE docs (tenant {type}, environment text, n int, UNIQUE (tenant, n), PRIMARY KEY (n));
    CREATE INDEX ON docs (tenant)"""
BY_NAME = """
    INSERT INTO docs VALUES ('acme', 'live', 1), ('acme', 'test', 2), ('globex', 'live', 3),
                            ('globex', 'test', 4), (NULL, 'live', 5), ('', 'live', 6)"""
BY_ID = """
    INSERT INTO docs
    SELECT t.tenant_id, CASE n % 2 WHEN 1 THEN 'live' ELSE 'test' END, n
    FROM generate_series(1, 4) n
    JOIN keysmith_private.tenant t ON t.keyspace = 'default'
         AND t.name = CASE WHEN n < 3 THEN 'acme' ELSE 'globex' END
    UNION ALL SELECT NULL, 'live', 5"""


@pytest.fixture
def by_name(app):
    app.as_owner(TABLE.format(type="text"))
    app.db.rows(BY_NAME)
    assert app.isolate("docs", "tenant", keyspace="default") == []
    return app


@pytest.fixture
def by_id(app):
    app.as_owner(TABLE.format(type="uuid"))
    app.db.rows(BY_ID)
    assert app.isolate("docs", "tenant") == []
    return app


ALL = "SELECT n FROM docs ORDER BY n"


# Reading and writing

@pytest.mark.parametrize("type", ["text", "varchar", "varchar(100)", "name_of_tenant", "nested", "uuid", "id"])
def test_a_tenant_sees_its_rows(app, type):
    app.db.rows("CREATE DOMAIN name_of_tenant AS varchar(50); CREATE DOMAIN nested AS name_of_tenant; "
                "CREATE DOMAIN id AS uuid")
    is_id = type in ("uuid", "id")
    app.as_owner(TABLE.format(type=type))
    app.db.rows(BY_ID if is_id else BY_NAME)
    assert app.isolate("docs", "tenant", keyspace=None if is_id else "default") == []
    assert app.seen(ALL) == []
    assert app.seen(ALL, "acme") == app.seen(ALL, "acme", "test") == [1, 2]
    assert app.seen(ALL, "globex") == [3, 4]
    # The acme of the other keyspace is another tenant.
    assert app.seen(ALL, "acme", keyspace="other") == []


@pytest.mark.parametrize("type, rows, keyspace", [("text", BY_NAME, "default"), ("uuid", BY_ID, None),
                                                  ("uuid", BY_ID, "default")])
def test_test_is_apart_from_live(app, type, rows, keyspace):
    app.as_owner(TABLE.format(type=type))
    app.db.rows(rows)
    app.isolate("docs", "tenant", environment_column="environment", keyspace=keyspace)
    assert app.seen(ALL) == []
    assert app.seen(ALL, "acme") == [1]
    assert app.seen(ALL, "acme", "test") == [2]
    app.acting("acme", "test")
    row = "'acme', 'live', 10" if type == "text" else "keysmith.current_tenant_id(), 'live', 10"
    app.refused("42501", f"INSERT INTO docs VALUES ({row})")
    app.db.rows(f"INSERT INTO docs VALUES ({row.replace('live', 'test')})")


@pytest.mark.parametrize("type, keyspace, environment_column", [
    ("text", "default", None), ("text", "default", "environment"), ("uuid", None, "environment")])
def test_a_query_that_signs_in_between_rows_mixes_no_identities(app, type, keyspace, environment_column):
    """It reads a row under one identity, and then all rows under another."""
    app.as_owner(TABLE.format(type=type))
    app.db.rows(BY_NAME if type == "text" else BY_ID)
    app.db.rows("INSERT INTO docs SELECT NULL, 'live', n FROM generate_series(100, 5000) n; ANALYZE docs")
    app.isolate("docs", "tenant", keyspace=keyspace, environment_column=environment_column)
    app.db.call("grant_access", "app", "verifier")
    identities = [None, ("default", "globex", "live"), ("default", "acme", "test"), ("other", "acme", "live")]
    seen = {who: set(app.seen(ALL, *(who or ())[1:], **({"keyspace": who[0]} if who else {}))) for who in identities}
    for first, second in itertools.permutations(identities, 2):
        for row in range(1, 7):
            steps = [(first, row)] + [(second, n) for n in range(1, 7)]
            found = app.acting().rows(
                """SELECT d.n
                   FROM (SELECT n, keysmith.verify(api_key, keyspace => keyspace, sign_in => true)
                         FROM unnest(%s::text[], %s::text[], %s::int[]) s (api_key, keyspace, n) OFFSET 0) s,
                        LATERAL (SELECT n FROM docs WHERE docs.n = s.n OFFSET 0) d""",
                [app.keys[who].api_key if who else "nothing" for who, _ in steps],
                [who[0] if who else "default" for who, _ in steps], [n for _, n in steps])
            assert {n for n, in found} <= seen[first] | seen[second], (first, second, row)


def test_a_keyspace_narrows_ids_too(app):
    app.as_owner(TABLE.format(type="uuid"))
    app.db.rows(BY_ID)
    app.isolate("docs", "tenant", keyspace="other")
    assert app.seen(ALL, "acme") == []


def test_writes_stay_with_the_tenant(by_name):
    app = by_name
    app.acting("acme")
    assert app.db.rows("UPDATE docs SET n = n + 10 RETURNING n") == [(11,), (12,)]
    assert app.db.rows("DELETE FROM docs RETURNING n") == [(11,), (12,)]
    app.db.rows("INSERT INTO docs VALUES ('acme', 'live', 7)")
    app.refused("42501", "INSERT INTO docs VALUES ('globex', 'live', 8)")
    app.refused("42501", "INSERT INTO docs VALUES (NULL, 'live', 8)")
    app.refused("42501", "INSERT INTO docs SELECT 'globex', 'live', 8")
    app.refused("42501", "UPDATE docs SET tenant = 'globex'")
    app.refused("42501", "WITH moved AS (UPDATE docs SET tenant = 'globex' RETURNING 1) SELECT FROM moved")
    # Another tenant's row conflicts, but can't be changed by the conflict.
    app.refused("42501", "INSERT INTO docs VALUES ('acme', 'live', 3) "
                         "ON CONFLICT (n) DO UPDATE SET tenant = 'acme'")
    app.db.rows("INSERT INTO docs VALUES ('acme', 'live', 7) ON CONFLICT (n) DO UPDATE SET n = 9")
    app.db.rows("INSERT INTO docs VALUES ('acme', 'live', 3) ON CONFLICT DO NOTHING")
    assert [n for n, in app.db.rows(ALL)] == [9]
    app.db.rows("COMMIT")
    assert app.seen(ALL, "globex") == [3, 4]


def test_merge(by_name):
    app = by_name
    app.acting("acme")
    merge = """
        MERGE INTO docs USING (VALUES (1), (3), (20)) AS v (n) ON docs.n = v.n
        WHEN MATCHED THEN DELETE
        WHEN NOT MATCHED AND v.n > 10 THEN INSERT VALUES ('{}', 'live', v.n)"""
    app.refused("42501", merge.format("globex"))
    app.db.rows(merge.format("acme"))
    assert [n for n, in app.db.rows(ALL)] == [2, 20]
    app.db.rows("COMMIT")
    assert app.seen(ALL, "globex") == [3, 4]


def test_nobody_reads_and_writes_nothing(by_name):
    app = by_name
    app.acting()
    assert app.db.rows("UPDATE docs SET n = n + 10 RETURNING n") == []
    assert app.db.rows("DELETE FROM docs RETURNING n") == []
    for tenant in ("'acme'", "NULL", "''"):
        app.refused("42501", f"INSERT INTO docs VALUES ({tenant}, 'live', 8)")
    app.refused("42501", "MERGE INTO docs USING (SELECT 8 AS n) v ON false "
                         "WHEN NOT MATCHED THEN INSERT VALUES ('acme', 'live', 8)")


def test_copy(by_name):
    app = by_name
    app.acting("acme")
    with app.db.session.cursor().copy("COPY docs TO STDOUT") as copy:
        rows = [row[0] for row in copy.rows()]
    assert rows == ["acme", "acme"]
    app.db.rows("SAVEPOINT a")
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        with app.db.session.cursor().copy("COPY docs FROM STDIN") as copy:
            copy.write_row(("acme", "live", 9))
    app.db.rows("ROLLBACK TO a")


def test_truncate_is_a_privilege_and_no_matter_of_rows(by_name):
    """As in PostgreSQL: for the owner, and roles to which it was granted."""
    app = by_name
    app.db.rows("CREATE ROLE reader; GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO reader")
    try:
        app.acting("acme")
        app.db.rows("RESET ROLE; SET LOCAL ROLE reader")
        assert [n for n, in app.db.rows(ALL)] == [1, 2]
        app.refused("42501", "TRUNCATE docs")
    finally:
        app.db.rows("ROLLBACK; DROP OWNED BY reader; DROP ROLE reader")


def test_the_owner_is_held_too(by_name):
    app = by_name
    assert app.db.value("SELECT relowner::regrole::text FROM pg_class WHERE relname = 'docs'") == "app"
    assert app.seen("SELECT count(*) FROM docs", "acme") == [2]
    # Until the owner removes the policies, as owners may.
    app.acting()
    app.db.rows("ALTER TABLE docs NO FORCE ROW LEVEL SECURITY")
    assert app.db.value("SELECT count(*) FROM docs") == 6


def test_other_policies_restrict_and_do_not_open(app):
    app.as_owner(TABLE.format(type="text"))
    app.db.rows(BY_NAME)
    app.as_owner("CREATE POLICY open ON docs USING (true)")
    assert app.isolate("docs", "tenant", keyspace="default") == [
        "NOTICE: table docs has policies of its own: they say which of a tenant's rows are visible"]
    assert app.seen(ALL) == []
    assert app.seen(ALL, "acme") == [1, 2]
    app.as_owner("CREATE POLICY also_open ON docs USING (true); DROP POLICY open ON docs; "
                 "ALTER POLICY also_open ON docs USING (n <> 1)")
    assert app.seen(ALL, "acme") == [2]
    app.as_owner("DROP POLICY also_open ON docs")
    assert app.seen(ALL, "acme") == []


def test_a_later_policy_does_not_open(by_name):
    app = by_name
    app.as_owner("CREATE POLICY open ON docs USING (true) WITH CHECK (true)")
    assert app.seen(ALL) == []
    assert app.seen(ALL, "acme") == [1, 2]
    app.refused("42501", "INSERT INTO docs VALUES ('globex', 'live', 9)")
    app.acting()
    app.refused("42501", "INSERT INTO docs VALUES ('acme', 'live', 9)")


def test_scopes_in_policies(by_name):
    app = by_name
    narrow = app.db.mint("acme", scopes=["docs:read"])
    app.as_owner("CREATE POLICY deleting ON docs AS RESTRICTIVE FOR DELETE "
                 "USING ((SELECT keysmith.has_scope('docs:write')))")
    app.keys["default", "acme", "narrow"] = narrow
    app.acting("acme", "narrow")
    assert [n for n, in app.db.rows(ALL)] == [1, 2]
    assert app.db.rows("DELETE FROM docs RETURNING n") == []
    app.acting("acme")
    assert app.db.rows("DELETE FROM docs RETURNING n") == [(1,), (2,)]


def test_defaults_tell_where_rows_are_from(app):
    app.as_owner("""
        CREATE TABLE docs (tenant_id uuid NOT NULL DEFAULT keysmith.current_tenant_id(),
                           key_id uuid DEFAULT keysmith.current_key(),
                           by text DEFAULT keysmith.current_owner(),
                           environment text DEFAULT keysmith.current_environment(),
                           n int);
        CREATE INDEX ON docs (tenant_id)""")
    app.isolate("docs", "tenant_id", environment_column="environment")
    app.acting("acme", "test").rows("INSERT INTO docs (n) VALUES (1), (2)")
    app.db.rows("COMMIT")
    key = app.keys["default", "acme", "test"]
    assert app.acting("acme", "test").rows("SELECT key_id, by, environment, n FROM docs") == [
        (key.key_id, None, "test", 1), (key.key_id, None, "test", 2)]
    app.acting()
    app.refused("42501", "INSERT INTO docs (n) VALUES (1)")


# Making and undoing

def rls(db, table="docs"):
    """The state of row security, and the policies."""
    return (db.row("SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = %s::regclass",
                   table),
            [name for name, in db.rows("SELECT polname::text FROM pg_policy "
                                       "WHERE polrelid = %s::regclass ORDER BY 1", table)])


@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("before", [
    "", "ALTER TABLE docs ENABLE ROW LEVEL SECURITY", "ALTER TABLE docs FORCE ROW LEVEL SECURITY",
    "ALTER TABLE docs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
    "ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON docs USING (n < 3)",
    "ALTER TABLE docs ENABLE ROW LEVEL SECURITY; CREATE POLICY mine ON docs AS RESTRICTIVE USING (n < 3)",
])
def test_release_restores_what_was(app, before, times):
    app.as_owner(TABLE.format(type="text"))
    if before:
        app.as_owner(before)
    was = rls(app.db)
    for _ in range(times):
        app.isolate("docs", "tenant", keyspace="default")
    (enabled, forced), policies = rls(app.db)
    assert enabled and forced and "keysmith_tenant" in policies
    app.db.call("release", "docs")
    assert rls(app.db) == was
    app.db.refused("KS404", "release", "docs")


def test_a_policy_made_meanwhile_keeps_row_security_on(by_name):
    app = by_name
    app.as_owner("CREATE POLICY mine ON docs USING (n < 3)")
    app.db.call("release", "docs")
    assert rls(app.db) == ((True, False), ["mine"])


def test_isolated_again_by_another_column(app):
    app.as_owner("CREATE TABLE docs (a text, b text)")
    app.db.rows("INSERT INTO docs VALUES ('acme', 'globex')")
    app.isolate("docs", "a", keyspace="default")
    assert app.seen("SELECT b FROM docs", "acme") == ["globex"]
    app.isolate("docs", "b", keyspace="default")
    assert app.seen("SELECT b FROM docs", "acme") == []
    assert app.seen("SELECT b FROM docs", "globex") == ["globex"]


@pytest.mark.parametrize("relation, arguments, sqlstate, message", [
    (None, {"tenant_column": "tenant"}, "KS400", "relation must be a table of an application, not null"),
    ("passing", {"tenant_column": "tenant", "keyspace": "default"}, "KS400", "relation must be a table that is not temporary"),
    ("docs", {"tenant_column": None}, "KS400", "tenant_column must not be null"),
    ("docs", {"tenant_column": "nothing"}, "KS400", "tenant_column must be a column of public.docs"),
    ("docs", {"tenant_column": "ctid"}, "KS400", "tenant_column must be a column of public.docs"),
    ("docs", {"tenant_column": "gone"}, "KS400", "tenant_column must be a column of public.docs"),
    ("docs", {"tenant_column": "TENANT"}, "KS400", "tenant_column must be a column of public.docs"),
    ("docs", {"tenant_column": "n"}, "KS400", "tenant_column must be of type uuid or text, and public.docs.n is integer"),
    ("docs", {"tenant_column": "many"}, "KS400", "docs.many is text[]"),
    ("docs", {"tenant_column": "fixed"}, "KS400", "docs.fixed is character"),
    ("docs", {"tenant_column": "tenant"}, "KS400", "keyspace must be given"),
    ("docs", {"tenant_column": "folded", "keyspace": "default"}, "KS400", "deterministic collation"),
    ("docs", {"tenant_column": "id", "environment_column": "folded"}, "KS400", "deterministic collation"),
    ("docs", {"tenant_column": "id", "environment_column": "nothing"}, "KS400", "environment_column must be a column"),
    ("docs", {"tenant_column": "id", "environment_column": "n"}, "KS400", "environment_column must be of type text"),
    ("seen", {"tenant_column": "tenant", "keyspace": "default"}, "KS400", "relation must be a table"),
    ("kept", {"tenant_column": "tenant", "keyspace": "default"}, "KS400", "relation must be a table"),
    ("docs_tenant_idx", {"tenant_column": "tenant", "keyspace": "default"}, "KS400", "relation must be a table"),
    ("keysmith_private.tenant", {"tenant_column": "name", "keyspace": "default"}, "KS400", "relation must be a table"),
    ("pg_catalog.pg_class", {"tenant_column": "relname", "keyspace": "default"}, "KS400", "relation must be a table"),
    ("nothing", {"tenant_column": "tenant"}, "42P01", "does not exist"),
    ("0", {"tenant_column": "tenant"}, "KS400", "relation must be a table"),
], ids=str)
def test_what_cannot_be_isolated(db, relation, arguments, sqlstate, message):
    try:
        folds = "folded" in arguments.values()
        db.rows("CREATE COLLATION folded (provider = icu, locale = 'und-u-ks-level2', deterministic = false)"
                if folds else 'CREATE COLLATION folded FROM "C"')
    except psycopg.errors.FeatureNotSupported:
        pytest.skip("only ICU's collations fold, and this server was built without it")
    db.rows("""
        CREATE TABLE docs (tenant text, id uuid, n int, many text[], fixed char(9), gone text,
                           folded text COLLATE folded);
        ALTER TABLE docs DROP COLUMN gone;
        CREATE INDEX ON docs (tenant);
        CREATE VIEW seen AS TABLE docs;
        CREATE TEMPORARY TABLE passing (tenant text);
        CREATE MATERIALIZED VIEW kept AS SELECT tenant FROM docs""")
    assert message in db.refused(sqlstate, "isolate", relation, **arguments)
    assert rls(db) == ((False, False), [])


def test_names_that_differ_by_case_are_two_tenants(db, role):
    db.rows("CREATE TABLE docs (tenant text); CREATE INDEX ON docs (tenant)")
    db.rows("INSERT INTO docs VALUES ('acme'), ('Acme'); GRANT SELECT ON docs TO app")
    for name in ("acme", "Acme"):
        db.tenant(name)
    db.call("isolate", "docs", "tenant", keyspace="default")
    for name in ("acme", "Acme"):
        db.rows("BEGIN")
        db.verify(db.mint(name).api_key, sign_in=True)
        db.rows("SET LOCAL ROLE app")
        assert db.rows("TABLE docs") == [(name,)]
        db.rows("COMMIT")


def test_only_the_owner_isolates(app, connect):
    app.db.rows("CREATE TABLE others (tenant text); GRANT ALL ON others TO app")
    app.db.rows("GRANT EXECUTE ON FUNCTION keysmith.isolate, keysmith.release TO app")
    app.acting()
    app.refused("42501", "SELECT keysmith.isolate('others', 'tenant', 'default')")
    app.db.rows("ROLLBACK; SELECT keysmith.isolate('others', 'tenant', 'default')")
    app.acting()
    app.refused("42501", "SELECT keysmith.release('others')")
    app.db.rows("CREATE TABLE own (tenant text)")
    app.db.rows("SELECT keysmith.isolate('own', 'tenant', 'default')")
    app.db.rows("SELECT keysmith.release('own')")


@pytest.mark.parametrize("name", ["Docs", "select", 'a"b', "a'b", "a b;--", "%I %s", "ü" * 31, "x" * 63])
def test_odd_names(app, name):
    quoted = '"' + name.replace('"', '""') + '"'
    app.as_owner(f"CREATE TABLE {quoted} ({quoted} text, env text)")
    app.db.rows(f"INSERT INTO {quoted} VALUES ('acme', 'live'), ('globex', 'live')")
    app.isolate(quoted, name, keyspace="default", environment_column="env")
    query = f"SELECT {quoted} FROM {quoted}"
    assert app.seen(query) == []
    assert app.seen(query, "acme") == ["acme"]
    app.db.rows("ROLLBACK")
    app.db.call("release", quoted)
    assert rls(app.db, quoted) == ((False, False), [])


@pytest.mark.parametrize("keyspace", ["it's", "a\\'b", "%s", "x' OR true OR '", "ü", ""])
def test_names_that_no_keyspace_can_have(app, keyspace):
    app.as_owner(TABLE.format(type="text"))
    refused = app.db.refused("KS400", "isolate", "docs", tenant_column="tenant", keyspace=keyspace)
    assert "keyspace must have 1 to 63 characters" in refused
    assert rls(app.db) == ((False, False), [])


HOSTILE = """
    CREATE SCHEMA evil;
    GRANT USAGE ON SCHEMA evil TO PUBLIC;
    CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE FUNCTION evil.always(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
    CREATE OPERATOR evil.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = evil.always);
    CREATE FUNCTION evil.format(text, VARIADIC "any") RETURNS text LANGUAGE internal AS 'text_format';
    CREATE FUNCTION evil.format(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT ''true''';
    CREATE FUNCTION evil.current_tenant() RETURNS text LANGUAGE sql AS 'SELECT ''globex''';
    CREATE FUNCTION evil.quote_ident(text) RETURNS text LANGUAGE sql AS 'SELECT ''n''';
    CREATE TABLE evil.pg_class (oid oid); CREATE TABLE evil.pg_policy (polrelid oid);
    CREATE TABLE evil.pg_roles (oid oid);
    CREATE DOMAIN evil.text AS pg_catalog.text CHECK (false);
    CREATE DOMAIN evil.regclass AS pg_catalog.regclass CHECK (false)"""


@pytest.mark.parametrize("type, rows, keyspace", [("text", BY_NAME, "default"), ("uuid", BY_ID, "default")])
def test_a_hostile_search_path(app, type, rows, keyspace):
    """During isolate and during reads."""
    app.as_owner(TABLE.format(type=type))
    app.db.rows(rows)
    app.db.rows(HOSTILE)
    app.db.rows("SET search_path = evil, public, pg_catalog, pg_temp")
    app.db.rows("CREATE FUNCTION pg_temp.current_tenant() RETURNS pg_catalog.text LANGUAGE sql AS 'SELECT ''globex''::pg_catalog.text'")
    app.db.rows("SELECT keysmith.isolate('docs'::pg_catalog.regclass, 'tenant', %s, 'environment')", keyspace)
    for path in ("evil, public, pg_catalog, pg_temp", "public"):
        app.db.rows(f"ROLLBACK; SET search_path = {path}")
        app.acting("acme")
        # PostgreSQL's own operators, since the hostile ones would be used in the query here.
        assert [n for n, in app.db.rows("SELECT n FROM docs ORDER BY n")] == [1]
    app.db.rows("ROLLBACK; SET search_path = evil, public, pg_catalog, pg_temp")
    app.db.rows("SELECT keysmith.release('docs'::pg_catalog.regclass)")
    app.db.rows("RESET search_path")
    assert rls(app.db) == ((False, False), [])


# Ways around isolation

@pytest.fixture
def plain(app):
    """A table before isolate, with its index, for which there is no warning."""
    app.as_owner(TABLE.format(type="text"))
    app.db.rows(BY_NAME)
    return app


def said(app, relation="docs"):
    return app.isolate(relation, "tenant", keyspace="default")


def test_it_warns_of_an_owner_that_sees_all(plain):
    plain.db.rows("ALTER TABLE docs OWNER TO postgres")
    assert said(plain) == [
        "WARNING: table docs: its owner postgres is a superuser, and sees all its rows"]


def test_it_warns_of_roles_that_see_all(plain):
    plain.db.rows("CREATE ROLE sees_all BYPASSRLS; CREATE ROLE unrelated BYPASSRLS; "
                  "GRANT SELECT ON docs TO sees_all")
    try:
        assert said(plain) == [
            "WARNING: table docs: role sees_all has BYPASSRLS, and sees all its rows"]
    finally:
        plain.db.rows("DROP OWNED BY sees_all; DROP ROLE sees_all; DROP ROLE unrelated")


def test_it_warns_of_views(plain):
    plain.db.rows("""
        CREATE VIEW all_docs AS TABLE docs;
        CREATE VIEW nested AS TABLE all_docs;
        CREATE VIEW asks WITH (security_invoker) AS TABLE docs;
        CREATE VIEW unrelated AS SELECT 1 AS one;
        CREATE VIEW owners AS TABLE docs; ALTER VIEW owners OWNER TO app;
        CREATE MATERIALIZED VIEW kept AS TABLE owners;
        GRANT SELECT ON all_docs, nested, asks, owners, kept TO app""")
    warned = said(plain)
    assert warned == [
        "WARNING: table docs: materialized view kept holds its rows for whoever may read it",
        "WARNING: table docs: view all_docs shows all its rows: it reads as postgres",
        "WARNING: table docs: view nested shows all its rows: it reads as postgres"]
    # The warning is true.
    count = "SELECT count(*) FROM {}"
    seen = {name: plain.seen(count.format(name), "acme")[0]
            for name in ("all_docs", "nested", "asks", "owners", "kept")}
    assert seen == {"all_docs": 6, "nested": 6, "asks": 2, "owners": 2, "kept": 6}


def test_it_warns_of_parts_and_wholes(app):
    app.as_owner("""
        CREATE TABLE docs (tenant text, n int) PARTITION BY LIST (n);
        CREATE INDEX ON docs (tenant);
        CREATE TABLE docs_1 PARTITION OF docs FOR VALUES IN (1) PARTITION BY LIST (tenant);
        CREATE TABLE docs_1_acme PARTITION OF docs_1 FOR VALUES IN ('acme');
        CREATE TABLE docs_2 PARTITION OF docs DEFAULT""")
    app.db.rows("INSERT INTO docs VALUES ('acme', 1), ('globex', 2), ('acme', 2)")
    # Only their owner can read them, until they are granted.
    assert said(app, "docs_1") == []
    app.db.rows("GRANT SELECT ON docs, docs_1_acme, docs_2 TO PUBLIC")
    assert said(app, "docs_1") == [
        "WARNING: table docs_1: it is part of docs, which shows all its rows",
        "WARNING: table docs_1: its part docs_1_acme can be read past it"]
    assert said(app) == [f"WARNING: table docs: its part {name} can be read past it"
                         for name in ("docs_1_acme", "docs_2")]
    assert app.seen("SELECT n FROM docs ORDER BY n", "acme") == [1, 2]
    assert app.seen("SELECT n FROM docs_2", "acme") == [2, 2]
    assert said(app, "docs_1_acme") == said(app, "docs_2") == []
    assert said(app) == []
    assert app.seen("SELECT n FROM docs_2", "acme") == [2]


def test_it_tells_of_a_missing_index(app):
    app.as_owner("CREATE TABLE docs (tenant text, n int); CREATE INDEX ON docs (n, tenant); "
                 "CREATE INDEX ON docs (tenant) WHERE n > 0")
    assert said(app) == ["NOTICE: table docs has no index that begins with tenant"]


# Plans

@pytest.mark.parametrize("type", ["uuid", "text", "varchar(100)"])
def test_the_plan_looks_up_the_tenant_once(app, type):
    app.as_owner(f"CREATE TABLE docs (tenant {type}, n int, body text)")
    app.db.rows("""
        INSERT INTO docs SELECT CASE WHEN n % 100 > 0 THEN md5((n % 100)::text)::uuid ELSE t.tenant_id END, n, 'x'
        FROM generate_series(1, 100000) n, keysmith_private.tenant t WHERE t.keyspace = 'default' AND name = 'acme'"""
                .replace("t.tenant_id", "t.tenant_id" if type == "uuid" else "t.name")
                .replace("::uuid", "::uuid" if type == "uuid" else ""))
    app.db.rows("CREATE INDEX docs_of_tenant ON docs (tenant); ANALYZE docs")
    app.isolate("docs", "tenant", keyspace="default")
    app.acting("acme")
    for query in ("SELECT * FROM docs", "SELECT count(body) FROM docs WHERE body = 'x'",
                  "UPDATE docs SET body = 'y'"):
        plan = [line for line, in app.db.rows(f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF) {query}")]
        text = "\n".join(plan)
        assert "docs_of_tenant" in text and "Seq Scan" not in text, text
        assert "Index Cond: " in text and "tenant" in text, text
        # Each sub-select was evaluated at most once.
        results = [line for line, above in zip(plan[1:], plan) if above.strip().startswith("InitPlan")]
        assert results and all("loops=1)" in line for line in results), text
    assert app.db.value("SELECT count(*) FROM docs") == 1000


# From 18 on ANALYZE shows buffers too: the reads of planning depend on earlier reads of the
# session.
def told(app, condition, options="ANALYZE, BUFFERS OFF, TIMING OFF, SUMMARY OFF"):
    """Whether a plan tells another tenant's value from a value that no tenant has."""
    app.acting("acme")
    app.db.rows("SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off")
    plans = {value: "\n".join(line for line, in app.db.rows(
                 f"EXPLAIN ({options}) SELECT FROM docs WHERE {condition.format(value)}")).replace(value, "")
             for value in ("ann@globex.org", "ann@globey.org")}
    return len(set(plans.values())) > 1


@pytest.mark.parametrize("index, others", [("email", True), ("email, tenant", True), ("id, email", True),
                                           ("id, tenant", False), ("tenant, email", False)])
def test_an_index_that_begins_with_the_tenant_keeps_values_from_explain(app, index, others):
    """Columns without statistics too: the planner's estimates use samples of all rows."""
    app.as_owner(f"""
        CREATE TABLE docs (tenant text, email text COLLATE "C", id uuid);
        ALTER TABLE docs ALTER email SET STATISTICS {-1 if others else 0};
        CREATE INDEX ON docs ({index})""")
    app.db.rows("INSERT INTO docs SELECT 'globex', 'ann@globex.org' FROM generate_series(1, 100)")
    app.db.rows("INSERT INTO docs SELECT 'globex', n || '@globex.org' FROM generate_series(1, 100) n; ANALYZE docs")
    app.isolate("docs", "tenant", keyspace="default")
    for condition in ("email = '{}'", "email BETWEEN '{0}' AND '{0}~'"):
        assert told(app, condition) == others
        assert told(app, condition, "COSTS ON") == others
    app.db.rows("ROLLBACK")
    # doctor() names the first, and not the second.
    named = [row for row in app.db.findings() if "indexes on" in row.finding]
    assert bool(named) == others


# Altered tables and the dropped extension

def test_a_table_dropped_while_isolated(by_name):
    by_name.as_owner("DROP TABLE docs")
    by_name.as_owner(TABLE.format(type="text"))
    assert rls(by_name.db) == ((False, False), [])


def test_a_dump_restores_isolation(cluster, dbname, by_name):
    app = by_name
    app.db.rows("ROLLBACK")
    script = cluster.program("pg_dump", dbname=dbname).stdout
    first = dump(cluster, dbname)
    cluster.execute("CREATE DATABASE restored")
    try:
        cluster.psql(script, dbname="restored")
        assert dump(cluster, "restored") == first
        with cluster.connect("restored") as there:
            key = app.keys["default", "acme", "live"].api_key
            there.execute("BEGIN")
            there.execute("SELECT keysmith.verify(%s, sign_in => true)", (key,))
            there.execute("SET LOCAL ROLE app")
            assert there.execute(ALL).fetchall() == [(1,), (2,)]
            there.execute("ROLLBACK")
            # The earlier state is known there too.
            there.execute("SELECT keysmith.release('docs')")
            assert there.execute("SELECT relrowsecurity, relforcerowsecurity FROM pg_class "
                                 "WHERE relname = 'docs'").fetchone() == (False, False)
    finally:
        cluster.execute("DROP DATABASE restored WITH (FORCE)")


def test_without_the_extension_an_isolated_table_is_closed(by_name):
    """It can't be dropped alone, since policies depend on it; with CASCADE the table stays
    closed."""
    app = by_name
    app.db.rows("ROLLBACK")
    with pytest.raises(psycopg.errors.DependentObjectsStillExist, match="policy keysmith_tenant"):
        app.db.rows("DROP EXTENSION keysmith")
    assert app.seen(ALL, "acme") == [1, 2]
    app.db.rows("ROLLBACK; DROP EXTENSION keysmith CASCADE")
    assert rls(app.db) == ((True, True), [])
    app.acting()
    assert app.db.rows("TABLE docs") == []
    app.refused("42501", "INSERT INTO docs VALUES ('acme', 'live', 9)")
