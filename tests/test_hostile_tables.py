"""Tables of a hostile owner, and a superuser who calls our functions on them.
The owner's code records as which role it ran by sequences, which no rollback undoes."""

import threading
from contextlib import suppress

import psycopg
import pytest

from conftest import session, wait_until
from rows import text

OWNER, OTHER = "mallory", "alice"

# Code of the owner for every place that can hold code.
SETUP = f"""
    CREATE SEQUENCE as_superuser; CREATE SEQUENCE as_owner; CREATE SEQUENCE as_other;
    GRANT ALL ON SEQUENCE as_superuser, as_owner, as_other TO PUBLIC;
    CREATE FUNCTION evil() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN
        PERFORM nextval(CASE WHEN (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN 'public.as_superuser'
                             WHEN current_user = '{OWNER}' THEN 'public.as_owner' ELSE 'public.as_other' END::regclass);
        RETURN true;
    END $$;
    CREATE FUNCTION evil(x anyelement) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        RETURN public.evil();
    END $$;
    CREATE FUNCTION evil_text(x anyelement) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.evil();
        RETURN 'evil';
    END $$;
    CREATE FUNCTION evil_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        PERFORM public.evil();
        RETURN NEW;
    END $$;
    GRANT ALL ON SCHEMA public TO {OWNER}, {OTHER};
    CREATE SCHEMA m AUTHORIZATION {OWNER};
    SET ROLE {OWNER};
"""

# The owner writes the table's rows, so all code up to now ran as the owner.
HOSTILE = """
    CREATE TYPE m.level AS ENUM ('low', 'high');
    CREATE CAST (m.level AS text) WITH FUNCTION evil_text(anyelement) AS IMPLICIT;
    CREATE FUNCTION m.to_json(m.level) RETURNS json LANGUAGE sql AS 'SELECT ''1''::json WHERE evil()';
    CREATE CAST (m.level AS json) WITH FUNCTION m.to_json(m.level);
    CREATE DOMAIN m.checked AS text CHECK (evil(VALUE));
    CREATE TYPE m.pair AS (a m.level, b m.checked);
    CREATE TABLE m.t (
        id m.level, n int DEFAULT (CASE WHEN evil() THEN 1 END), v text COLLATE "C" CHECK (evil(v)), w bytea,
        d m.checked DEFAULT 'x', p m.pair, made text GENERATED ALWAYS AS (v || evil_text(n)) STORED,
        PRIMARY KEY (id, n, d));
    CREATE INDEX ON m.t (evil_text(v)) WHERE evil(v);
    CREATE STATISTICS m.s ON (evil_text(v)), n FROM m.t;
    CREATE RULE also AS ON UPDATE TO m.t DO ALSO SELECT evil();
    CREATE TRIGGER a BEFORE INSERT OR UPDATE ON m.t FOR EACH ROW EXECUTE FUNCTION evil_row();
    CREATE TRIGGER b AFTER INSERT OR UPDATE ON m.t FOR EACH STATEMENT EXECUTE FUNCTION evil_row();
    CREATE CONSTRAINT TRIGGER c AFTER INSERT OR UPDATE ON m.t DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION evil_row();
    CREATE POLICY mine ON m.t USING (evil(v)) WITH CHECK (evil(v));
    ALTER TABLE m.t ENABLE ROW LEVEL SECURITY;
    CREATE TABLE m.child (more m.checked DEFAULT evil_text(1)) INHERITS (m.t);
    INSERT INTO m.t (id, v, w, p) VALUES ('low', 'plain', 'plain', ROW('low', 'x'));
    INSERT INTO m.child (id, n, v, w) VALUES ('high', 2, 'child', 'child');
    CREATE TABLE m.parts (id int, v text) PARTITION BY RANGE ((CASE WHEN evil(1) THEN id END));
    CREATE TABLE m.part PARTITION OF m.parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE m.sub PARTITION OF m.parts FOR VALUES FROM (100) TO (200)
        PARTITION BY RANGE ((CASE WHEN evil(2) THEN id END));
    CREATE TABLE m.leaf PARTITION OF m.sub DEFAULT;
    CREATE TRIGGER a BEFORE INSERT OR UPDATE ON m.parts FOR EACH ROW EXECUTE FUNCTION evil_row();
    INSERT INTO m.parts VALUES (1, 'plain'), (101, 'plain');
    -- What a careless search path would find first.
    CREATE FUNCTION public.format(text, VARIADIC anyarray) RETURNS text LANGUAGE sql AS 'SELECT ''x'' WHERE evil()';
    CREATE FUNCTION public.eq(text, name) RETURNS boolean LANGUAGE sql AS 'SELECT evil()';
    CREATE OPERATOR public.= (LEFTARG = text, RIGHTARG = name, FUNCTION = public.eq);
    RESET ROLE;
"""


@pytest.fixture
def hostile(cluster, dbname, db):
    """A database with such tables."""
    for role in (OWNER, OTHER):
        cluster.execute(f"CREATE ROLE {role} LOGIN")
    try:
        db.rows(f"GRANT CREATE ON DATABASE {dbname} TO {OWNER}")
        for role in (OWNER, OTHER):
            db.call("grant_access", role, "verifier")
        db.session.execute(SETUP + "RESET ROLE")
        yield db
    finally:
        db.session.close()
        cluster.execute(f"DROP DATABASE {dbname} WITH (FORCE)")
        for role in (OWNER, OTHER):
            cluster.execute(f"DROP ROLE {role}")


def ran(db):
    """The roles as which the owner's code ran."""
    return {name for name in ("superuser", "owner", "other")
            if db.value(f"SELECT is_called FROM public.as_{name}")}


def forget(db):
    db.rows("".join(f"SELECT setval('public.as_{name}', 1, false);" for name in ("superuser", "owner", "other")))


@pytest.fixture
def prepared(cluster, dbname, hostile):
    """The tables, and a session of a superuser with the most careless search path."""
    owner = session(cluster, dbname, OWNER)
    owner.session.execute(HOSTILE.replace("RESET ROLE;", ""))
    assert ran(hostile) == {"owner"}
    owner.session.close()
    forget(hostile)
    fresh = session(cluster, dbname)
    fresh.rows("SET search_path = public, m, pg_catalog")
    yield fresh
    fresh.session.close()


CALLS = [
    "SELECT keysmith.protect('m.t'::regclass, '{v,w}'::pg_catalog.text[])",
    "CALL keysmith.protect_existing('m.t'::regclass)",
    "SELECT * FROM keysmith.hashing_progress",
    "SELECT keysmith.seal_rows('m.t'::regclass)",
    "SELECT * FROM keysmith.verify_rows('m.t'::regclass)",
    "SELECT keysmith.ledger('m.t'::regclass)",
    "SELECT * FROM keysmith.verify_ledger('m.t'::regclass, '[]'::pg_catalog.jsonb)",
    "SELECT * FROM keysmith.ledger_head('m.t'::regclass)",
    "SELECT * FROM keysmith.ledgers",
    "SELECT keysmith.ledger('m.t'::regclass, '{n,d,p}'::pg_catalog.text[])",
    "SELECT keysmith.track('m.t'::regclass)",
    "SELECT keysmith.unledger('m.t'::regclass)",
    "SELECT keysmith.untrack('m.t'::regclass)",
    "SELECT keysmith.unseal_rows('m.t'::regclass)",
    "SELECT keysmith.seal_rows('m.t'::regclass, '{n,d,p}'::pg_catalog.text[], 'other_seal'::pg_catalog.text)",
    "SELECT * FROM keysmith.verify_rows('m.t'::regclass)",
    "SELECT keysmith.unprotect('m.t'::regclass, '{w}'::pg_catalog.text[])",
    "SELECT keysmith.unprotect('m.t'::regclass)",
]


def test_no_code_of_the_owners_runs_as_who_calls(cluster, dbname, prepared):
    db = prepared
    for call in CALLS:
        db.session.execute(call)
        assert "superuser" not in ran(db), call
        # The triggers ran as in any update, as the owner.
        assert ("owner" in ran(db)) == ("protect_existing" in call), call
        forget(db)
    owner = session(cluster, dbname, OWNER)
    assert owner.rows("SELECT v, w FROM m.t ORDER BY n") == [
        (text("plain"), owner.value("SELECT keysmith.digest('plain'::bytea)")),
        (text("child"), owner.value("SELECT keysmith.digest('child'::bytea)"))]
    owner.session.close()


def test_expressions_of_partition_keys_do_not_run_as_who_calls(cluster, dbname, prepared):
    for call in CALLS[:8] + CALLS[-1:]:
        # Each in a new session that has no cached state of the table.
        db = session(cluster, dbname)
        with suppress(psycopg.errors.DatabaseError):  # A ledger needs a primary key.
            db.session.execute(call.replace("m.t'", "m.parts'").replace("{v,w}", "{v}"))
        assert "superuser" not in ran(db), call
        db.session.close()
    assert prepared.value("SELECT count(*) FROM m.parts WHERE v = %s", text("plain")) == 2


def statement_of(call):
    return f"{'CALL' if 'existing' in call else 'SELECT'} keysmith.{call}"


# Names that change their meaning while a call waits for a lock

class Siege:
    """The owner locks a table whenever a session waits for it, and at the lock of a given number
    changes the table before releasing it."""

    LOCK = "BEGIN; LOCK TABLE m.t IN ACCESS EXCLUSIVE MODE"

    def __init__(self, cluster, dbname):
        self.cluster, self.dbname = cluster, dbname
        self.watch = session(cluster, dbname)

    def waits(self, pid):
        return self.watch.value("SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s", pid) > 0

    def run(self, call, swap, at):
        """Returns the error of the call, if there was one, and whether the swap happened."""
        victim, over, caught = session(self.cluster, self.dbname), threading.Event(), []
        sessions = [session(self.cluster, self.dbname, OWNER)]

        def work():
            try:
                victim.session.execute(call)
            except psycopg.Error as error:
                caught.append(error)
            finally:
                over.set()

        sessions[0].rows(self.LOCK)
        calling = threading.Thread(target=work)
        calling.start()
        pid, swapped = victim.session.info.backend_pid, False
        for step in range(at + 1):
            wait_until(lambda: over.is_set() or self.waits(pid))
            if over.is_set():
                break
            if step == at:
                sessions[-1].session.execute(swap)
                sessions[-1].rows("COMMIT")
                swapped = True
                break
            # The next session in the queue gets the lock when the caller releases it.
            following = session(self.cluster, self.dbname, OWNER)
            queueing = threading.Thread(target=following.rows, args=(self.LOCK,))
            queueing.start()
            wait_until(lambda: self.waits(following.session.info.backend_pid))
            sessions[-1].rows("COMMIT")
            sessions.append(following)
            queueing.join()
        for one in sessions:
            one.session.rollback()
            one.session.close()
        calling.join()
        victim.session.close()
        return caught[0] if caught else None, swapped


@pytest.fixture
def siege(cluster, dbname, hostile):
    siege = Siege(cluster, dbname)
    yield siege
    siege.watch.session.close()


def prepare(db, call):
    """A table of the owner to which that can be done, with a row."""
    before = {"unprotect": "protect('m.t', 'v')", "protect_existing": "protect('m.t', 'v')", "untrack": "track('m.t')",
              "unseal_rows": "seal_rows('m.t')", "verify_rows": "seal_rows('m.t')",
              **dict.fromkeys(["unledger", "verify_ledger", "ledger_head"], "ledger('m.t')")}
    function = call.split("(")[0]
    db.session.execute(f"""
        DROP SCHEMA m CASCADE; CREATE SCHEMA m AUTHORIZATION mallory; SET ROLE mallory;
        CREATE TYPE m.level AS ENUM ('low');
        CREATE CAST (m.level AS text) WITH FUNCTION evil_text(anyelement) AS IMPLICIT;
        CREATE TABLE m.t (id int PRIMARY KEY, v text);
        {"INSERT INTO m.t VALUES (1, 'x');" if function == "protect_existing" else ""}
        {f"SELECT keysmith.{before[function]};" if function in before else ""}
        {"INSERT INTO m.t VALUES (1, 'x');" if function == "verify_rows" else ""}
        RESET ROLE""")
    forget(db)
    return db.value("SELECT 'm.t'::regclass::oid")


CALLED = ["verify_rows('m.t')", "protect_existing('m.t')", "protect('m.t', '{v}'::text[])", "unprotect('m.t')",
          "seal_rows('m.t')", "seal_rows('m.t', '{v}'::text[], 'seal')", "unseal_rows('m.t')", "track('m.t')",
          "untrack('m.t')", "ledger('m.t')", "unledger('m.t')", "verify_ledger('m.t')", "ledger_head('m.t')"]
SWAPS = {
    "a view": """ALTER TABLE m.t RENAME TO gone; CREATE VIEW m.t AS
        SELECT '(0,1)'::tid AS ctid, 1 AS id, evil_text(1) AS v, '\\x00'::bytea AS row_seal, evil() AS more""",
    "a type": "ALTER TABLE m.t ALTER v TYPE m.level USING 'low'",
    "a table": "ALTER TABLE m.t RENAME TO gone; CREATE TABLE m.t (id m.level PRIMARY KEY, v m.level, row_seal bytea)",
}


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("call", CALLED)
def test_a_table_that_is_swapped_while_it_is_waited_for(hostile, siege, call, swap):
    db = hostile
    for at in range(4):
        oid = prepare(db, call)
        error, swapped = siege.run(statement_of(call), SWAPS[swap], at)
        assert "superuser" not in ran(db), (at, error)
        # The table that has the name now is unchanged.
        assert db.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'm.t'::regclass AND tgrelid <> %s "
                        "AND tgname ~ 'keysmith'", oid) == 0
        # Some wait once and some again and again, but all end.
        assert swapped or at > 0
        if not swapped:
            break


@pytest.mark.parametrize("call", CALLED)
def test_a_schema_that_gets_another_name_leads_to_no_other_table(hostile, siege, call):
    """Renaming a schema takes no lock on its tables."""
    db = hostile
    rename = "ALTER SCHEMA m RENAME TO x; ALTER SCHEMA n RENAME TO m; ALTER SCHEMA x RENAME TO n"
    for at in range(4):
        oid = prepare(db, call)
        db.session.execute("""
            DROP SCHEMA IF EXISTS n CASCADE; CREATE SCHEMA n AUTHORIZATION mallory; GRANT ALL ON SCHEMA n TO alice;
            SET ROLE alice; CREATE TABLE n.t (id int PRIMARY KEY, v text, row_seal bytea, seal bytea);
            INSERT INTO n.t VALUES (1, 'hers'); RESET ROLE""")

        def state(table):
            return [db.rows(query, table) for query in (
                "SELECT tgname FROM pg_trigger WHERE tgrelid = %s::regclass ORDER BY 1",
                "SELECT * FROM pg_attribute WHERE attrelid = %s::regclass ORDER BY attnum")]

        hers = db.value("SELECT 'n.t'::regclass::oid")
        before, own = state(hers), state(oid)
        error, swapped = siege.run(statement_of(call), rename, at)
        assert state(hers) == before, (at, error)
        # The call changed the right table, or failed.
        assert error is not None or state(oid) != own or call.split("(")[0] in (
            "verify_rows", "protect_existing", "verify_ledger", "ledger_head")
        if swapped:
            db.session.execute(rename)
        assert db.value("SELECT v FROM n.t") == "hers"
        assert swapped or at > 0
        if not swapped:
            break


# Callers and their rights

OWNED = ["protect('m.t', '{v}'::text[])", "unprotect('m.t')", "seal_rows('m.t')", "unseal_rows('m.t')", "track('m.t')",
         "untrack('m.t')", "protect_existing('m.t')", "ledger('m.t')", "unledger('m.t')"]


@pytest.fixture
def foreign(cluster, dbname, hostile):
    """A table of one role, with every feature, and sessions of its owner and of another role."""
    owner, other = session(cluster, dbname, OWNER), session(cluster, dbname, OTHER)
    owner.rows("CREATE TABLE m.t (id int PRIMARY KEY, v text); GRANT USAGE ON SCHEMA m TO alice")
    for call in ("protect('m.t', 'v')", "seal_rows('m.t')", "track('m.t')", "ledger('m.t')"):
        owner.rows(f"SELECT keysmith.{call}")
    yield owner, other
    owner.session.close()
    other.session.close()


@pytest.mark.parametrize("call", OWNED)
def test_only_the_owner_has_it_done(hostile, foreign, call):
    owner, other = foreign
    hostile.rows("GRANT ALL ON m.t TO alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of table t"):
        other.rows(statement_of(call))
    # A caller without the right does not wait for the table.
    with owner.session.transaction():
        owner.rows("LOCK TABLE m.t IN ACCESS EXCLUSIVE MODE")
        other.rows("SET lock_timeout = '10s'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.rows(statement_of(call))
    # A child of another owner is not changed.
    owner.rows("CREATE TABLE m.child () INHERITS (m.t)")
    hostile.rows("ALTER TABLE m.child OWNER TO alice")
    if "track" not in call:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="must be owner of table child"):
            owner.rows(statement_of(call))
        hostile.rows("DROP TABLE m.child")
    owner.rows(statement_of(call))
    hostile.rows("GRANT mallory TO alice")
    other.rows("SELECT keysmith.track('m.t')")


def test_who_may_verify(cluster, dbname, hostile, foreign):
    owner, other = foreign
    owner.rows("INSERT INTO m.t VALUES (1, 'x'); ALTER TABLE m.t DISABLE TRIGGER USER; UPDATE m.t SET v = 'y'")
    verify = "SELECT problem FROM keysmith.verify_rows('m.t')"
    altered = [("was altered, or is not where it was sealed",)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table t"):
        other.rows(verify)
    hostile.rows("GRANT SELECT (id, v) ON m.t TO alice")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        other.rows(verify)
    with owner.session.transaction():
        owner.rows("LOCK TABLE m.t IN ACCESS EXCLUSIVE MODE")
        other.rows("SET lock_timeout = '10s'")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            other.rows(verify)
    hostile.rows("GRANT SELECT ON m.t TO alice")
    assert other.rows(verify) == owner.rows(verify) == altered
    owner.rows("CREATE POLICY all_of_them ON m.t USING (true); ALTER TABLE m.t ENABLE ROW LEVEL SECURITY")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="row-level security may hide rows"):
        other.rows(verify)
    assert owner.rows(verify) == altered
    owner.rows("ALTER TABLE m.t FORCE ROW LEVEL SECURITY")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        owner.rows(verify)
    assert hostile.rows(verify) == altered
    hostile.rows("ALTER ROLE alice BYPASSRLS")
    assert other.rows(verify) == altered
    # Each part has its privileges.
    owner.rows("ALTER TABLE m.t NO FORCE ROW LEVEL SECURITY; ALTER TABLE m.t DISABLE ROW LEVEL SECURITY; "
               "CREATE TABLE m.child () INHERITS (m.t)")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied for table child"):
        other.rows(verify)


def test_a_temporary_table_of_another_session(cluster, dbname, hostile):
    owner = session(cluster, dbname, OWNER)
    owner.rows("CREATE TEMP TABLE t (id int PRIMARY KEY, v text); SELECT keysmith.protect('t', 'v'); "
               "SELECT keysmith.seal_rows('t'); INSERT INTO t VALUES (1, 'x')")
    assert owner.rows("SELECT * FROM keysmith.verify_rows('t')") == []
    owner.rows("CALL keysmith.protect_existing('t')")
    oid = owner.value("SELECT 't'::regclass::oid")
    for call in [*OWNED, "verify_rows('m.t')"]:
        with pytest.raises(psycopg.Error, match="another session") as error:
            hostile.rows(statement_of(call.replace("'m.t'", f"{oid}::regclass")))
        assert error.value.sqlstate == "KS400"
    owner.session.close()


def test_event_triggers_see_the_commands(hostile):
    db = hostile
    db.session.execute("""
        CREATE TABLE seen (event text, tag text, object text);
        CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen SELECT TG_EVENT, command_tag, object_identity FROM pg_event_trigger_ddl_commands()
            WHERE TG_EVENT = 'ddl_command_end';
        END $$;
        CREATE FUNCTION see_drop() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen SELECT TG_EVENT, TG_TAG, object_identity FROM pg_event_trigger_dropped_objects();
        END $$;
        CREATE EVENT TRIGGER a ON ddl_command_end EXECUTE FUNCTION see();
        CREATE EVENT TRIGGER b ON sql_drop EXECUTE FUNCTION see_drop();
        CREATE TABLE t (id int, v text)""")
    for call in ("protect('t', 'v')", "seal_rows('t')", "unseal_rows('t')", "unprotect('t')"):
        db.rows(f"SELECT keysmith.{call}")
    assert db.rows("SELECT * FROM seen")[1:] == [
        ("ddl_command_end", "CREATE TRIGGER", '"~keysmith_1_hash" on public.t'),
        ("ddl_command_end", "ALTER TABLE", "public.t"),
        ("ddl_command_end", "CREATE TRIGGER", '"~keysmith_2_seal" on public.t'),
        ("sql_drop", "DROP TRIGGER", '"~keysmith_2_seal" on public.t'),
        ("sql_drop", "DROP TRIGGER", '"~keysmith_1_hash" on public.t')]
    # Within a command, too.
    db.rows("CREATE TABLE other (id int)")
    db.rows("CREATE TABLE made AS SELECT keysmith.seal_rows('other') IS NULL AS done")
    assert db.value("SELECT count(*) FROM seen WHERE tag = 'ALTER TABLE'") == 2
    assert db.value("SELECT count(*) FROM seen WHERE tag = 'CREATE TABLE AS'") == 1


NO_TABLES = {
    "a view": "CREATE VIEW x AS SELECT 1 AS id, 'x'::text AS v",
    "a materialized view": "CREATE MATERIALIZED VIEW x AS SELECT 1 AS id, 'x'::text AS v",
    "a sequence": "CREATE SEQUENCE x",
    "a type": "CREATE TYPE x AS (id int, v text)",
    "an index": "CREATE TABLE y (id int, v text); CREATE INDEX x ON y (v)",
    "a foreign table": "CREATE FOREIGN DATA WRAPPER w; CREATE SERVER s FOREIGN DATA WRAPPER w; "
                       "CREATE FOREIGN TABLE x (id int, v text) SERVER s",
    "an index of partitions": "CREATE TABLE y (id int, v text) PARTITION BY LIST (id); CREATE INDEX x ON y (v)",
    "a table of ours": None,
    "nothing": None,
    "nothing by number": None,
    "null": None,
}


@pytest.mark.parametrize("what", NO_TABLES)
def test_what_is_no_table_of_an_application(db, what):
    if NO_TABLES[what]:
        db.rows(NO_TABLES[what])
    named = {"a table of ours": "'keysmith_private.key'", "nothing": "0", "nothing by number": "4000000000::oid",
             "null": "NULL"}.get(what, "'x'")
    for call in CALLED:
        with pytest.raises(psycopg.Error) as error:
            db.rows(statement_of(call.replace("'m.t'", f"{named}::regclass")))
        assert error.value.sqlstate == "KS400" and "relation must be a table" in str(error.value), call


def test_names_that_need_quotes(db):
    name = '"it\'s"."a ""b"" %I \\ é"'
    db.rows(f"""CREATE SCHEMA "it's"; CREATE TABLE {name} ("c ""1"" \\é" text, "%s'" text)""")
    for call in ("protect(%s, %s)", "seal_rows(%s, %s)"):
        db.rows(f"SELECT keysmith.{call}", name, 'c "1" \\é')
    db.call("track", name)
    db.session.execute(f"""INSERT INTO {name} VALUES ('x', 'y')""".encode())
    assert db.rows(f"SELECT * FROM keysmith.verify_rows(%s)", name) == []
    db.rows("CALL keysmith.protect_existing(%s)", name)
    db.session.execute(f"""UPDATE {name} SET "%s'" = 'z'""".encode())
    assert db.session.execute(f'SELECT "c ""1"" \\é" FROM {name}'.encode()).fetchall() == [(text("x"),)]
    for call in ("unprotect", "unseal_rows", "untrack"):
        db.call(call, name)
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = %s::regclass", name) == 0


def test_a_schema_that_is_renamed_all_the_time_leads_no_batch_astray(cluster, dbname, hostile):
    """A batch looks the name of its table up once, and checks which table was found."""
    db = hostile
    rows = "SELECT n, 'plain' || n FROM generate_series(1, 400) n"
    for schema in "mn":
        db.session.execute(f"""
            CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION mallory; SET ROLE mallory;
            CREATE TABLE {schema}.t (id int, v text, filler text DEFAULT repeat('x', 7000));
            ALTER TABLE {schema}.t ALTER filler SET STORAGE PLAIN;
            INSERT INTO {schema}.t {rows}; RESET ROLE""")
    table, other = db.value("SELECT 'm.t'::regclass::oid"), db.value("SELECT 'n.t'::regclass::oid")
    db.rows("SELECT keysmith.protect(%s::oid::regclass, 'v')", table)
    over = threading.Event()

    def swap():
        with cluster.connect(dbname, user=OWNER) as session:
            while not over.is_set():
                session.execute("BEGIN; ALTER SCHEMA m RENAME TO x; ALTER SCHEMA n RENAME TO m; ALTER SCHEMA x RENAME TO n; COMMIT")

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        for _ in range(15):
            try:
                db.rows("CALL keysmith.protect_existing(%s::oid::regclass, pages => 1)", table)
            except psycopg.Error as error:
                # It goes by names from part to part, and may never end.
                assert error.sqlstate == "KS409", error
    finally:
        over.set()
        swapper.join()
    db.rows("CALL keysmith.protect_existing(%s::oid::regclass)", table)
    names = {oid: db.value("SELECT %s::oid::regclass::text", oid) for oid in (table, other)}
    assert db.value(f"SELECT count(*) FROM {names[table]} WHERE v = keysmith.digest('plain' || id)") == 400
    assert db.value(f"SELECT count(*) FROM {names[other]} WHERE v = 'plain' || id AND ctid < '(400,0)'") == 400
