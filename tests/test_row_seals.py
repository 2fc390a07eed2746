"""A digest over each row, and the changes that it shows."""

import struct

import psycopg
import pytest

from conftest import Database, wait_until
from rows import PEPPERS, cluster, notices, write_peppers  # noqa: F401
from subkeys import mac


@pytest.fixture
def accounts(db):
    db.rows("CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance numeric, note text)")
    db.call("seal_rows", "accounts")
    db.rows("INSERT INTO accounts VALUES (1, 'ann', 10.50, NULL), (2, 'bob', 20, 'x'), (3, 'cid', 30, '')")
    return db


def behind_its_back(db, statement, *parameters):
    """A change by someone who disables the trigger."""
    db.rows("SET session_replication_role = replica")
    db.rows(statement, *parameters)
    db.rows("RESET session_replication_role")


def problems(db, table="accounts"):
    return {(row.primary_key or {}).get("id"): row.problem for row in db.call("verify_rows", table)}


ALTERED = "was altered, or is not where it was sealed"


def test_rows_that_are_written_are_sealed(accounts):
    assert problems(accounts) == {}
    accounts.rows("UPDATE accounts SET balance = balance + 1; INSERT INTO accounts (id) VALUES (4)")
    with accounts.session.cursor() as cursor, cursor.copy("COPY accounts (id, owner) FROM STDIN") as copy:
        copy.write_row((5, "eve"))
    accounts.rows("INSERT INTO accounts VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET owner = EXCLUDED.owner")
    assert problems(accounts) == {}
    assert {length for length, in accounts.rows("SELECT length(row_seal) FROM accounts")} == {35}
    # Any value that one writes there.
    accounts.rows("UPDATE accounts SET row_seal = 'mine'; INSERT INTO accounts (id, row_seal) VALUES (9, 'mine')")
    assert problems(accounts) == {}


def test_a_seal_is_what_the_documents_say(db):
    db.rows("CREATE TABLE plain (id bigint PRIMARY KEY, owner text, gone text)")
    db.call("seal_rows", "plain")
    db.rows("INSERT INTO plain VALUES (7, 'änn')")
    parts = [b"public.plain", b"id", b"bigint", struct.pack(">q", 7), b"owner", b"pg_catalog.text", "änn".encode()]
    content = b"".join(struct.pack(">Q", len(part)) + part for part in parts)
    assert db.value("SELECT row_seal FROM plain") \
        == b"\1\0\1" + mac(bytes.fromhex(PEPPERS[1]), "row", content)


@pytest.mark.parametrize("statement, found", [
    ("UPDATE accounts SET balance = 1000 WHERE id = 2", {2: ALTERED}),
    ("UPDATE accounts SET balance = 20.0 WHERE id = 2", {2: ALTERED}),
    ("UPDATE accounts SET note = '' WHERE id = 1", {1: ALTERED}),
    ("UPDATE accounts SET note = NULL WHERE id = 3", {3: ALTERED}),
    ("UPDATE accounts SET owner = note, note = owner WHERE id = 2", {2: ALTERED}),
    ("UPDATE accounts SET id = 7 WHERE id = 2", {7: ALTERED}),
    ("UPDATE accounts a SET row_seal = b.row_seal FROM accounts b WHERE a.id = 1 AND b.id = 2", {1: ALTERED}),
    ("UPDATE accounts SET row_seal = NULL WHERE id = 2", {2: "is not sealed"}),
    ("UPDATE accounts SET row_seal = 'x' WHERE id = 2", {2: "has something in place of a seal"}),
    ("UPDATE accounts SET row_seal = set_byte(row_seal, 2, 7) WHERE id = 2",
     {2: "is sealed with pepper 7, which is not configured"}),
    ("INSERT INTO accounts SELECT 8, owner, balance, note, row_seal FROM accounts WHERE id = 2", {8: ALTERED}),
    ("ALTER TABLE accounts RENAME note TO remark", {2: ALTERED, 3: ALTERED}),
    ("ALTER TABLE accounts ALTER note TYPE varchar", {2: ALTERED, 3: ALTERED}),
    ("ALTER TABLE accounts DROP note", {2: ALTERED, 3: ALTERED}),
    ("ALTER TABLE accounts ADD more int DEFAULT 5", dict.fromkeys((1, 2, 3), ALTERED)),
    ("DELETE FROM accounts WHERE id = 2", {}),
    ("ALTER TABLE accounts ADD more int, ADD twice numeric GENERATED ALWAYS AS (balance * 2) STORED", {}),
    ("ALTER TABLE accounts RENAME TO others; ALTER TABLE others SET SCHEMA information_schema; "
     "ALTER TABLE information_schema.others SET SCHEMA public; ALTER TABLE others RENAME TO accounts", {}),
])
def test_what_was_altered_is_named(accounts, statement, found):
    behind_its_back(accounts, statement)
    assert problems(accounts) == found


def test_a_row_of_another_table_is_not_one_of_this(accounts):
    accounts.rows("CREATE TABLE archive (LIKE accounts INCLUDING ALL)")
    accounts.call("seal_rows", "archive")
    behind_its_back(accounts, "INSERT INTO archive SELECT * FROM accounts")
    assert problems(accounts, "archive") == dict.fromkeys((1, 2, 3), ALTERED)
    assert accounts.call("verify_rows", "archive")[0].row_id == "(0,1)"


def test_an_update_does_not_mend_what_is_broken(accounts):
    behind_its_back(accounts, "UPDATE accounts SET balance = 1000 WHERE id = 2; "
                              "UPDATE accounts SET row_seal = NULL WHERE id = 3")
    found = {2: ALTERED, 3: "is not sealed"}
    accounts.rows("UPDATE accounts SET note = 'seen'")
    accounts.rows("INSERT INTO accounts VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET owner = EXCLUDED.owner")
    assert problems(accounts) == found
    # Except one that sets the seal.
    accounts.rows("UPDATE accounts SET row_seal = '' WHERE id = 2")
    del found[2]
    assert problems(accounts) == found


def test_partitions(db):
    db.rows("""
        CREATE TABLE accounts (id int, owner text, part int) PARTITION BY LIST (part);
        CREATE TABLE one PARTITION OF accounts FOR VALUES IN (1);
        CREATE TABLE two (gone int, part int, owner text, id int);
        ALTER TABLE two DROP gone; ALTER TABLE accounts ATTACH PARTITION two FOR VALUES IN (2)""")
    db.call("seal_rows", "accounts")
    db.call("protect", "accounts", "owner")
    db.rows("INSERT INTO accounts VALUES (1, 'ann', 1), (2, 'bob', 2), (3, 'cid', 1)")
    db.rows("UPDATE accounts SET part = 3 - part")
    assert db.call("verify_rows", "accounts") == []
    behind_its_back(db, "UPDATE accounts SET owner = 'forged' WHERE id = 3")
    for _ in range(2):
        (row,) = db.call("verify_rows", "accounts")
        assert (row.problem, row.primary_key) == (ALTERED, None)
        assert db.value(f"SELECT id FROM {row.part} WHERE ctid = '{row.row_id}'") == 3
        # The seal is not fixed when the row moves either.
        db.rows("UPDATE accounts SET part = 3 - part")
    for function in ("seal_rows", "unseal_rows"):
        assert "as part of the table" in db.refused("KS409", function, "one")
    db.call("unseal_rows", "accounts")
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname = '~keysmith_2_seal'") == 0


def test_named_columns_and_the_key(db):
    db.rows("CREATE TABLE accounts (id int, area int, owner text, balance int, PRIMARY KEY (area, id))")
    db.rows("SELECT keysmith.seal_rows('accounts', 'balance')")
    db.rows("INSERT INTO accounts VALUES (1, 1, 'ann', 10), (2, 1, 'bob', 20)")
    behind_its_back(db, "UPDATE accounts SET owner = 'x'")
    assert problems(db) == {}
    # A seal of one row is not valid for another.
    behind_its_back(db, "UPDATE accounts a SET balance = b.balance, row_seal = b.row_seal FROM accounts b "
                        "WHERE b.id = 3 - a.id")
    found = sorted(db.call("verify_rows", "accounts"), key=lambda row: row.primary_key["id"])
    assert [(row.primary_key, row.problem) for row in found] \
        == [({"area": 1, "id": 1}, ALTERED), ({"area": 1, "id": 2}, ALTERED)]
    db.rows("SELECT keysmith.seal_rows('accounts', ARRAY['owner'], 'second seal')")
    db.rows("INSERT INTO accounts VALUES (5, 5, 'eve', 5)")
    assert db.value("SELECT length(\"second seal\") FROM accounts WHERE id = 5") == 35
    db.rows("ALTER TABLE accounts DROP owner")
    with pytest.raises(psycopg.Error) as error:
        db.rows("INSERT INTO accounts VALUES (6, 6, 5)")
    assert error.value.sqlstate == "KS409"


def test_the_owners_casts_do_not_run_as_who_verifies(db):
    """`jsonb_build_object` would call them."""
    db.rows("""
        CREATE TYPE level AS ENUM ('a', 'b');
        CREATE FUNCTION cunning(level) RETURNS json LANGUAGE plpgsql AS
            $$ BEGIN RAISE EXCEPTION 'I ran as %', current_user; END $$;
        CREATE CAST (level AS json) WITH FUNCTION cunning(level);
        CREATE DOMAIN small AS integer;
        CREATE TABLE accounts (id level, n small, at date, owner text, PRIMARY KEY (id, n, at));
        SELECT keysmith.seal_rows('accounts');
        INSERT INTO accounts VALUES ('a', 1, '2030-01-02', 'alice'), ('b', 2, '2030-01-03', 'bob')""")
    assert problems(db) == {}
    behind_its_back(db, "UPDATE accounts SET owner = 'x' WHERE id = 'b'")
    (row,) = db.call("verify_rows", "accounts")
    assert row.primary_key == {"id": "b", "n": 2, "at": "2030-01-03"}


SETTINGS = ["DateStyle = 'German'", "IntervalStyle = 'sql_standard'", "TimeZone = 'Asia/Tokyo'",
            "extra_float_digits = -5", "bytea_output = 'escape'", "client_encoding = 'LATIN1'",
            "search_path = pg_catalog", "lc_monetary = 'C'", "xmloption = 'document'"]


def test_values_of_all_types_whatever_the_settings(db):
    # Not every server is built with XML.
    has_xml = db.value("SELECT count(*) FROM pg_available_extensions WHERE name = 'xml2'") > 0
    db.rows("""
        CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (at timestamptz, x float8, b bytea);
        CREATE DOMAIN small AS int CHECK (VALUE < 10);
        CREATE TYPE times AS RANGE (SUBTYPE = timestamptz);
        CREATE TABLE accounts (
            id int PRIMARY KEY, t text, v varchar, c char(5), n name, j json, jb jsonb, x xml, b bytea, f4 float4,
            f8 float8, num numeric, ts timestamptz, tsn timestamp, d date, tm time, ttz timetz, i interval, bl boolean,
            u uuid, ip inet, net cidr, m money, e mood, ea mood[], ta text[], tsa timestamptz[], fa float8[], p pair,
            pa pair[], dm small, dma small[], r tstzrange, cr times, bt bit(3), pt point, tv tsvector, cls regclass,
            ch "char", o oid)""".replace("x xml", "x xml" if has_xml else "x text"))
    db.call("seal_rows", "accounts")
    db.rows("""
        INSERT INTO accounts VALUES (1, 'jörg', 'é', 'ab', 'n', '{"a": "é"}', '{"b": ["ü", 1.50]}', '<a>ö</a>', '\\x00ff',
            0.1, 0.1::float8 / 3, 1.10, '2026-01-02 03:04:05.678+00', '2026-01-02 03:04:05', '2026-01-02', '03:04',
            '03:04+02', '1 mon 2 days 03:04:05', true, gen_random_uuid(), '::1', '10.0.0.0/8', 12.34, 'glad',
            '{sad,glad}', '{é,b}', '{"2026-01-02 03:04:05+00"}', '{0.1,NaN}', ROW('2026-01-02 03:04:05+00', 0.1, '\\x01'),
            ARRAY[ROW('2026-01-02 03:04:05+00', 0.1, '\\x01')::pair], 5, '{5}', '[2026-01-02 00:00+00,)',
            '[2026-01-02 00:00+00,)', '101', '(1,2)', 'é:1 b', 'pg_class', 'x', 16385)""")
    seal = "SELECT row_seal FROM accounts"
    before = db.value(seal)
    assert problems(db) == {}
    for setting in SETTINGS:
        db.rows(f"SET {setting}")
        assert db.rows("SELECT problem FROM keysmith.verify_rows('public.accounts'::regclass)") == [], setting
        if not setting.startswith("search_path"):
            db.rows("UPDATE public.accounts SET id = 1")
            assert db.value("SELECT row_seal FROM public.accounts") == before, setting
    for setting in SETTINGS:
        name = setting.split(" =")[0]
        db.rows(f"RESET {name}")
        changed = db.value(f"SHOW {name}")
        db.rows("UPDATE public.accounts SET id = 1")
        assert db.value(f"SHOW {name}") == changed
    # Each of them is covered.
    for name, in db.rows("SELECT attname FROM pg_attribute WHERE attrelid = 'accounts'::regclass "
                         "AND attnum > 1 AND attname <> 'row_seal'"):
        with db.session.transaction(force_rollback=True):
            behind_its_back(db, f"UPDATE accounts SET {name} = NULL")
            assert problems(db) == {1: ALTERED}, name


def test_a_dump_restores_seals_and_goes_on(cluster, dbname, accounts):
    accounts.rows("CREATE TYPE mood AS ENUM ('sad'); CREATE TYPE pair AS (m mood); "
                  "ALTER TABLE accounts ADD dropped int; ALTER TABLE accounts ADD moods mood[], ADD p pair[], "
                  "DROP dropped; UPDATE accounts SET moods = '{sad}', p = ARRAY[ROW('sad')::pair]")
    accounts.call("protect", "accounts", "owner")
    accounts.rows("UPDATE accounts SET owner = 'new' WHERE id = 1")
    behind_its_back(accounts, "UPDATE accounts SET balance = 0 WHERE id = 3")
    before = accounts.rows("SELECT id, owner, row_seal FROM accounts ORDER BY id")
    dump = cluster.program("pg_dump", dbname=dbname).stdout
    target = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {target}")
    try:
        # So that types have other OIDs.
        cluster.execute("CREATE TYPE shift AS ENUM (); CREATE TYPE more AS ENUM ()", target)
        cluster.psql(dump, dbname=target)
        with cluster.connect(target, row_factory=psycopg.rows.namedtuple_row) as session:
            there = Database(session)
            assert there.rows("SELECT id, owner, row_seal FROM accounts ORDER BY id") == before
            assert problems(there) == {3: ALTERED}
            there.rows("INSERT INTO accounts VALUES (4, 'dan')")
            assert problems(there) == {3: ALTERED}
            assert there.value("SELECT keysmith.matches('dan', owner) FROM accounts WHERE id = 4")
    finally:
        cluster.execute(f"DROP DATABASE {target} WITH (FORCE)")


def test_logical_replication_leaves_digests_and_seals_as_they_came(cluster, dbname, accounts):
    accounts.call("protect", "accounts", "owner")
    accounts.rows("UPDATE accounts SET owner = 'new' || id")
    target = f"{dbname}_subscriber"
    accounts.rows("CREATE PUBLICATION p FOR TABLE accounts")
    accounts.rows("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    cluster.execute(f"CREATE DATABASE {target}")
    there = Database(cluster.connect(target, row_factory=psycopg.rows.namedtuple_row))
    try:
        cluster.psql(cluster.program("pg_dump", "--schema-only", "--no-publications", dbname=dbname).stdout, dbname=target)
        there.rows(f"CREATE SUBSCRIPTION s CONNECTION '{cluster.dsn(dbname)}' PUBLICATION p "
                   "WITH (create_slot = false, slot_name = 's')")
        wait_until(lambda: there.value("SELECT count(*) FROM accounts") == 3)
        accounts.rows("INSERT INTO accounts VALUES (4, 'dan'); UPDATE accounts SET note = 'seen' WHERE id = 1")
        rows = "SELECT * FROM accounts ORDER BY id"
        wait_until(lambda: there.rows(rows) == accounts.rows(rows))
        assert problems(there) == {}
    finally:
        there.rows("ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); DROP SUBSCRIPTION s")
        there.session.close()
        wait_until(lambda: not accounts.value("SELECT bool_or(active) FROM pg_replication_slots"))
        accounts.rows("SELECT pg_drop_replication_slot('s')")
        cluster.execute(f"DROP DATABASE {target} WITH (FORCE)")


def test_peppers(cluster, dbname):
    def session():
        return Database(cluster.connect(dbname, row_factory=psycopg.rows.namedtuple_row))

    db = session()
    db.rows("CREATE TABLE accounts (id int PRIMARY KEY, balance int)")
    db.call("seal_rows", "accounts")
    db.rows("INSERT INTO accounts VALUES (1, 10)")
    try:
        write_peppers(cluster, [1, 2])
        cluster.restart()
        db = session()
        db.rows("INSERT INTO accounts VALUES (2, 20)")
        assert problems(db) == {}
        write_peppers(cluster, [2])
        cluster.restart()
        db = session()
        assert problems(db) == {1: "is sealed with pepper 1, which is not configured"}
        db.rows("UPDATE accounts SET balance = 11")
        assert problems(db) == {1: "is sealed with pepper 1, which is not configured"}
    finally:
        write_peppers(cluster, [1])
        cluster.restart()


@pytest.mark.parametrize("call, sqlstate, message", [
    ("seal_rows('accounts', 'nothing')", "KS400", "columns must name columns of public.accounts"),
    ("seal_rows('accounts', 'row_seal')", "KS400", "columns must name columns"),
    ("seal_rows('accounts', NULL::text)", "KS400", "column_name must not be null"),
    ("seal_rows('computed', 'twice')", "KS400", "columns must not be generated"),
    ("seal_rows('accounts', '{}'::text[], 'owner')", "KS400", "seal_column must be of type bytea"),
    ("seal_rows('accounts', '{}'::text[], repeat('x', 64))", "KS400", "seal_column must be a name of 1 to 63 bytes"),
    ("seal_rows('accounts', '{}'::text[], '')", "KS400", "seal_column must be a name of 1 to 63 bytes"),
    ("seal_rows('accounts', '{}'::text[], 'ctid')", "KS400", "no system column's"),
    ("seal_rows('a_view')", "KS400", "relation must be a table"),
    ("seal_rows('keysmith_private.key')", "KS400", "relation must be a table"),
    ("seal_rows(NULL)", "KS400", "relation must be a table"),
    ("unseal_rows('computed')", "KS404", "rows of public.computed are not sealed"),
    ("verify_rows('computed')", "KS404", "rows of public.computed are not sealed"),
])
def test_what_is_refused(accounts, call, sqlstate, message):
    accounts.rows("CREATE TABLE computed (n int, twice int GENERATED ALWAYS AS (n * 2) STORED); "
                  "CREATE VIEW a_view AS SELECT * FROM accounts")
    with pytest.raises(psycopg.Error) as error:
        accounts.rows(f"SELECT keysmith.{call}")
    assert (error.value.sqlstate, message in str(error.value)) == (sqlstate, True), error.value


def test_rows_that_policies_hide_are_not_passed_over(cluster, dbname, accounts):
    accounts.rows("CREATE ROLE app LOGIN; ALTER TABLE accounts OWNER TO app; "
                  "ALTER TABLE accounts ENABLE ROW LEVEL SECURITY; ALTER TABLE accounts FORCE ROW LEVEL SECURITY")
    accounts.call("grant_access", "app", "verifier")
    try:
        with cluster.connect(dbname, user="app") as session, pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.execute("SELECT * FROM keysmith.verify_rows('accounts')")
    finally:
        accounts.rows("DROP OWNED BY app; DROP ROLE app")


def test_seal_again_and_rows_that_were_there(db, notices):
    db.rows("CREATE TABLE accounts (id int PRIMARY KEY); INSERT INTO accounts VALUES (1)")
    db.call("seal_rows", "accounts")
    assert ("NOTICE", "rows of public.accounts that are there are not sealed") in notices
    before = db.rows("SELECT oid, xmin FROM pg_trigger WHERE tgrelid = 'accounts'::regclass")
    db.call("seal_rows", "accounts")
    assert db.rows("SELECT oid, xmin FROM pg_trigger WHERE tgrelid = 'accounts'::regclass") == before
    assert problems(db) == {1: "is not sealed"}
    db.rows("UPDATE accounts SET row_seal = '' WHERE row_seal IS NULL")
    assert problems(db) == {}


def test_a_large_table_is_checked_in_portions(db):
    db.rows("CREATE TABLE long (id int PRIMARY KEY, body text)")
    db.rows("ALTER TABLE long ALTER body SET STORAGE PLAIN")
    db.rows("SELECT keysmith.seal_rows('long')")
    db.rows("INSERT INTO long SELECT n, repeat('x', 7900) FROM generate_series(1, 2200) n")
    db.rows("ALTER TABLE long DISABLE TRIGGER USER")
    altered = [1, 1000, 1001, 1002, 2000, 2001, 2200]
    db.rows("UPDATE long SET body = 'y' WHERE id = ANY (%s)", altered)
    notices = []
    db.session.add_notice_handler(lambda diag: notices.append(diag.message_primary))
    found = db.rows("SELECT (primary_key ->> 'id')::int FROM keysmith.verify_rows('long') ORDER BY 1")
    assert [one for one, in found] == altered
    assert len(notices) == 2 and notices[0].startswith("checked 1000 of 22")


# Tables that change during a scan

def test_a_table_that_is_altered_within_the_statement(cluster, dbname, accounts):
    """A row that is read by an outdated row description is read past its end."""
    started = accounts.value("SELECT pg_postmaster_start_time()")
    accounts.session.execute("""
        CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO app;
        CREATE TABLE public.shifting (id int PRIMARY KEY, a text); ALTER TABLE shifting OWNER TO app""")
    accounts.call("grant_access", "app", "verifier")
    try:
        with cluster.connect(dbname, user="app") as session:
            session.execute("""
                SELECT keysmith.seal_rows('shifting'); INSERT INTO shifting VALUES (1, 'hello'), (2, 'there');
                CREATE FUNCTION shift(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                    IF i = 2 THEN ALTER TABLE public.shifting ALTER a TYPE int USING 1073741820;
                    ELSIF i = 3 THEN ALTER TABLE public.shifting ALTER a TYPE numeric USING a, ADD more text DEFAULT 'x';
                    ELSIF i = 4 THEN ALTER TABLE public.shifting DROP more, ALTER a TYPE bytea USING 'x'; END IF;
                    RETURN i;
                END $$""")
            found = session.execute("SELECT shift(i), (SELECT count(*) FROM keysmith.verify_rows("
                                    "CASE WHEN i > 0 THEN 'shifting'::regclass END)) FROM generate_series(1, 4) i").fetchall()
            assert found == [(1, 0), (2, 2), (3, 2), (4, 2)]
            # No function takes rows of any description any more: such a function could be given
            # an outdated one, and make the server read an integer as a pointer.
            session.execute("""
                CREATE TEMP TABLE t (id int, a text, row_seal bytea); INSERT INTO t VALUES (1, 'hello', '\\x00');
                CREATE FUNCTION pg_temp.f(i int) RETURNS pg_temp.t LANGUAGE plpgsql AS $$ DECLARE r record; BEGIN
                    IF i = 2 THEN EXECUTE 'ALTER TABLE pg_temp.t ALTER a TYPE int USING 1073741820'; END IF;
                    EXECUTE 'SELECT t FROM pg_temp.t t' INTO r;
                    RETURN r.t;
                END $$""")
            with pytest.raises(psycopg.errors.UndefinedFunction):
                session.execute("SELECT keysmith.seal_problem(pg_temp.f(i), ARRAY['row_seal', 'x.y']) "
                                "FROM generate_series(1, 2) i")
    finally:
        accounts.rows("DROP OWNED BY app; DROP ROLE app")
    assert accounts.value("SELECT pg_postmaster_start_time()") == started


def test_a_table_cannot_be_altered_while_its_triggers_run(accounts):
    accounts.call("protect", "accounts", "owner", "note")
    accounts.rows("""
        CREATE FUNCTION shift() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id = 11 THEN ALTER TABLE accounts ALTER note TYPE int USING 1; END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER a BEFORE INSERT OR UPDATE ON accounts FOR EACH ROW EXECUTE FUNCTION shift()""")
    for statement in ("INSERT INTO accounts SELECT n, 'x', 1, 'y' FROM generate_series(10, 12) n",
                      "UPDATE accounts SET id = id + 8, note = 'z'"):
        with pytest.raises(psycopg.errors.ObjectInUse):
            accounts.rows(statement)
    assert problems(accounts) == {}


def test_verify_rows_sees_what_is_committed(cluster, dbname, accounts):
    """Also in a transaction whose snapshot is older."""
    with cluster.connect(dbname, autocommit=False) as session:
        session.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert session.execute("SELECT count(*) FROM accounts").fetchone() == (3,)
        behind_its_back(accounts, "UPDATE accounts SET balance = 0 WHERE id = 2")
        assert session.execute("SELECT primary_key, problem FROM keysmith.verify_rows('accounts')").fetchall() \
            == [({"id": 2}, ALTERED)]
    # And the transaction's own changes.
    with accounts.session.transaction(force_rollback=True):
        accounts.rows("UPDATE accounts SET row_seal = '' WHERE id = 2")
        assert problems(accounts) == {}


def test_long_keys_and_keys_of_all_types(db):
    db.rows("""
        CREATE TYPE mood AS ENUM ('sad', 'glad'); CREATE TYPE pair AS (a mood, b text); CREATE DOMAIN small AS int;
        CREATE DOMAIN name_of AS text COLLATE "C";
        CREATE TABLE accounts (id bigint, n numeric, f float8, b boolean, t timestamptz, x name_of, s small, e mood, p pair,
                               ia int[], ea mood[], r int4range, j jsonb, by bytea, u uuid,
                               PRIMARY KEY (id, n, f, b, t, x, s, e, p, ia, ea, r, j, by, u));
        SELECT keysmith.seal_rows('accounts');
        SET session_replication_role = replica;
        INSERT INTO accounts VALUES (1, 1.50, 'NaN', true, '2026-01-02 03:04:05+00', 'x"y', 7, 'glad', ROW('sad', 'é'),
            '{1,2}', '{sad}', '[1,3)', '{"a": [1]}', '\\xff', '00000000-0000-0000-0000-000000000001');
        RESET session_replication_role; SET TimeZone = 'UTC'""")
    (row,) = db.call("verify_rows", "accounts")
    assert row.primary_key == {
        "id": 1, "n": 1.5, "f": "NaN", "b": True, "t": "2026-01-02T03:04:05+00:00", "x": 'x"y', "s": 7, "e": "glad",
        "p": "(sad,é)", "ia": [1, 2], "ea": "{sad}", "r": "[1,3)", "j": {"a": [1]}, "by": "\\xff",
        "u": "00000000-0000-0000-0000-000000000001"}
