"""Tracking: how many rows of a table each key changed."""

import uuid
from contextlib import contextmanager
from datetime import timedelta

import psycopg
import pytest

from conftest import Database


class Acting(Database):
    """A session whose statements each run under a key's identity."""

    def __init__(self, session, api_key):
        super().__init__(session)
        self.api_key = api_key

    def rows(self, statement, *parameters):
        with self.identified():
            return super().rows(statement, *parameters)

    @contextmanager
    def identified(self):
        with self.session.transaction():
            verdict = self.session.execute(
                "SELECT * FROM keysmith.verify(%s, sign_in => true)", (self.api_key,)).fetchone()
            assert verdict.ok, verdict
            yield verdict


@pytest.fixture
def tracked(db):
    """A tracked table, a key, and a session that acts for it."""
    db.tenant()
    key = db.mint()
    db.rows("CREATE TABLE orders (id bigint PRIMARY KEY, note text)")
    db.call("track", "orders")
    return Acting(db.session, key.api_key), key.key_id


def touches(db, key_id):
    """The notes since the last call."""
    return [(row.relation, row.operation, row.rows) for row in db.rows(
        "WITH noted AS (DELETE FROM keysmith_private.touch WHERE key_id = %s RETURNING *) "
        "SELECT * FROM noted ORDER BY first_at", key_id)]


def test_each_statement_is_noted_with_its_rows(tracked):
    db, key_id = tracked
    db.rows("INSERT INTO orders SELECT g FROM generate_series(1, 1000) AS g")
    db.rows("INSERT INTO orders VALUES (1001)")
    db.rows("UPDATE orders SET note = 'x' WHERE id <= 250")
    db.rows("DELETE FROM orders WHERE id <= 10")
    assert touches(db, key_id) == [("orders", "insert", 1000), ("orders", "insert", 1),
                                   ("orders", "update", 250), ("orders", "delete", 10)]
    with db.identified(), db.session.cursor() as cursor, \
            cursor.copy("COPY orders FROM STDIN") as copy:
        for n in range(3000):
            copy.write_row((n + 5000, "copied"))
    db.rows("INSERT INTO orders VALUES (1001), (1002) ON CONFLICT (id) DO UPDATE SET note = 'y'")
    db.rows("INSERT INTO orders VALUES (1001) ON CONFLICT DO NOTHING")
    db.rows("MERGE INTO orders o USING (VALUES (1001), (1003), (1004)) AS v (id) ON o.id = v.id "
            "WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (v.id)")
    noted = touches(db, key_id)
    assert noted[0] == ("orders", "insert", 3000)
    assert sorted(noted[1:3]) == [("orders", "insert", 1), ("orders", "update", 1)]
    assert sorted(noted[3:]) == [("orders", "delete", 1), ("orders", "insert", 2)]
    db.rows("UPDATE orders SET note = 'z' WHERE false")
    db.rows("TRUNCATE orders")
    assert touches(db, key_id) == [("orders", "truncate", None)]


def test_without_an_identity_nothing_is_noted(tracked):
    db, key_id = tracked
    nobody = Database(db.session)
    nobody.rows("INSERT INTO orders VALUES (1)")
    with db.identified():
        nobody.call("sign_out")
        nobody.rows("INSERT INTO orders VALUES (2)")
    assert nobody.value("SELECT count(*) FROM keysmith_private.touch") == 0
    db.rows("INSERT INTO orders VALUES (3)")
    assert touches(db, key_id) == [("orders", "insert", 1)]


@pytest.mark.parametrize("parts", ["", "PARTITION BY LIST (id); CREATE TABLE part PARTITION OF plans DEFAULT"])
def test_a_statement_that_signs_in_or_out_is_of_whom_it_began_for(tracked, parts):
    db, key_id = tracked
    nobody = Database(db.session)
    nobody.tenant("globex")
    other = nobody.mint("globex")
    nobody.rows(f"CREATE TABLE plans (id int) {parts}")
    nobody.call("track", "plans")
    sign_in = f"(keysmith.verify('{other.api_key}', sign_in => true)).ok"
    for last in ("keysmith.sign_out()", sign_in):
        db.rows("WITH made AS (INSERT INTO plans VALUES (1), (2) RETURNING id), "
                "counted AS MATERIALIZED (SELECT count(*) AS n FROM made) "
                f"SELECT {last} FROM counted WHERE n = 2")
        assert touches(nobody, key_id) == [("plans", "insert", 2)]
    assert touches(nobody, other.key_id) == []
    # One that begins without an identity is of the key that it signs in.
    nobody.rows(f"INSERT INTO plans SELECT 3 WHERE {sign_in}")
    assert touches(nobody, other.key_id) == [("plans", "insert", 1)]


def test_a_note_shares_the_fate_of_its_statement(tracked):
    db, key_id = tracked
    with pytest.raises(psycopg.errors.UniqueViolation):
        db.rows("INSERT INTO orders VALUES (1), (1)")
    with db.session.transaction():
        db.rows("INSERT INTO orders SELECT g FROM generate_series(1, 5) AS g")
        with db.session.transaction(force_rollback=True):
            db.rows("INSERT INTO orders SELECT g FROM generate_series(6, 26) AS g")
        db.rows("INSERT INTO orders SELECT g FROM generate_series(6, 12) AS g")
        with db.session.transaction():
            db.rows("INSERT INTO orders SELECT g FROM generate_series(20, 22) AS g")
        db.rows("DELETE FROM orders")
    assert [rows for _, _, rows in touches(db, key_id)] == [5, 7, 3, 15]


def test_statements_within_statements_are_told_apart(tracked):
    """Row triggers that write to the same table and to others, some of them failing."""
    db, key_id = tracked
    db.rows("CREATE TABLE lines (id bigint REFERENCES orders ON DELETE CASCADE ON UPDATE CASCADE)")
    db.call("track", "lines")
    db.rows("""
        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.note = 'more' THEN
                INSERT INTO orders VALUES (NEW.id + 100, 'one'), (NEW.id + 200, 'one');
                BEGIN
                    INSERT INTO orders VALUES (NEW.id + 300, 'fails'), (NEW.id + 300, 'fails');
                EXCEPTION WHEN unique_violation THEN
                    INSERT INTO lines VALUES (NEW.id + 100);
                END;
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER more BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION more()""")
    db.rows("INSERT INTO orders VALUES (1, 'more'), (2, ''), (3, 'more')")
    assert sorted(touches(db, key_id)) == [
        ("lines", "insert", 1), ("lines", "insert", 1),
        ("orders", "insert", 2), ("orders", "insert", 2), ("orders", "insert", 3)]
    db.rows("INSERT INTO lines SELECT id FROM orders")
    assert touches(db, key_id) == [("lines", "insert", 7)]
    # A foreign key's changes count for the statement that causes them.
    db.rows("UPDATE orders SET id = id + 1000 WHERE id > 100")
    assert sorted(touches(db, key_id)) == [("lines", "update", 6), ("orders", "update", 4)]
    db.rows("DELETE FROM orders WHERE id > 1000")
    assert sorted(touches(db, key_id)) == [("lines", "delete", 6), ("orders", "delete", 4)]
    db.rows("WITH a AS (INSERT INTO orders VALUES (50, '') RETURNING id), "
            "b AS (INSERT INTO orders VALUES (51, ''), (52, '')), "
            "c AS (DELETE FROM lines) UPDATE orders SET note = '' WHERE id = 2")
    assert sorted(touches(db, key_id)) == [
        ("lines", "delete", 3), ("orders", "insert", 3), ("orders", "update", 1)]


def test_a_loop_that_fails_again_and_again_is_told_right(tracked):
    db, key_id = tracked
    db.rows("""DO $$ BEGIN
        FOR n IN 1 .. 300 LOOP
            BEGIN
                INSERT INTO orders VALUES (n), (n + 1000), (n * (n % 3));
            EXCEPTION WHEN unique_violation THEN NULL;
            END;
        END LOOP;
    END $$""")
    noted = touches(db, key_id)
    assert noted and set(noted) == {("orders", "insert", 3)}
    assert 3 * len(noted) == db.value("SELECT count(*) FROM orders")


@pytest.mark.parametrize("family", [
    "CREATE TABLE family (id int, part int) PARTITION BY LIST (part); "
    "CREATE TABLE one PARTITION OF family FOR VALUES IN (1); "
    "CREATE TABLE two PARTITION OF family FOR VALUES IN (2)",
    "CREATE TABLE family (id int, part int); CREATE TABLE one () INHERITS (family); "
    "INSERT INTO one VALUES (0, 1)",
])
def test_tables_with_partitions_and_children(db, family):
    db.tenant()
    key = db.mint()
    key_id = key.key_id
    db.rows(family)
    db.call("track", "family")
    db = Acting(db.session, key.api_key)
    db.rows("INSERT INTO family SELECT g, 1 + g % 2 FROM generate_series(1, 30) AS g")
    rows = db.value("SELECT count(*) FROM family")
    db.rows("UPDATE family SET part = 3 - part" if "LIST" in family else "UPDATE family SET part = 5")
    db.rows("DELETE FROM family")
    noted = touches(db, key_id)
    if "LIST" in family:
        # Rows that change their partition leave one and come to another.
        assert noted[0] == ("family", "insert", 30) and noted[-1] == ("family", "delete", 30)
    else:
        assert noted == [("family", "insert", 30), ("family", "update", rows), ("family", "delete", rows)]


def test_rows_that_nobody_counts_are_not_said_to_be_none(tracked):
    db, key_id = tracked
    db.rows("SET track_counts = off")
    db.rows("INSERT INTO orders VALUES (1)")
    assert touches(db, key_id) == [("orders", "insert", None)]


def test_track_twice_and_untrack(tracked):
    db, key_id = tracked
    made = db.rows("SELECT tgname FROM pg_trigger WHERE tgrelid = 'orders'::regclass ORDER BY 1")
    db.call("track", "orders")
    assert db.rows("SELECT tgname FROM pg_trigger WHERE tgrelid = 'orders'::regclass ORDER BY 1") == made
    db.rows("INSERT INTO orders VALUES (1)")
    db.call("untrack", "orders")
    db.call("untrack", "orders")
    db.rows("INSERT INTO orders VALUES (2)")
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'orders'::regclass") == 0
    assert touches(db, key_id) == [("orders", "insert", 1)]


def test_names_that_need_quotes(db):
    db.tenant()
    key_id, api_key, *_ = db.mint()
    name = """ "it's"."a ""b"" %I $1" """.strip()
    db.rows(f"""CREATE SCHEMA "it's"; CREATE TABLE {name} (id int)""")
    db.call("track", name)
    Acting(db.session, api_key).rows(f"INSERT INTO {name} VALUES (1)")
    assert db.one("blast_radius", key_id).relation == name
    db.rows("""SET search_path = "it's" """)
    assert db.one("blast_radius", key_id).relation == name.split(".")[1]
    db.call("untrack", name)


@pytest.mark.parametrize("what", ["a_view", "a_sequence", "keysmith_private.key", "pg_class", None])
def test_what_cannot_be_tracked(db, what):
    db.rows("CREATE VIEW a_view AS SELECT 1 AS x; CREATE SEQUENCE a_sequence")
    if what == "pg_class":
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.call("track", what)
    else:
        assert db.refused("KS400", "track", what).startswith("relation must be a table")


def test_the_trigger_is_for_statements_alone(db):
    db.rows("CREATE TABLE t (id int); CREATE TRIGGER bad AFTER INSERT ON t "
            "FOR EACH ROW EXECUTE FUNCTION keysmith.log_usage()")
    with pytest.raises(psycopg.Error) as error:
        db.rows("INSERT INTO t VALUES (1)")
    assert error.value.sqlstate == "KS400"


def test_tracking_takes_the_rights_of_whom_it_is_asked_by(cluster, dbname, db):
    cluster.execute("CREATE ROLE app LOGIN")
    try:
        db.rows("GRANT ALL ON SCHEMA public TO app; CREATE TABLE others (id int)")
        db.call("grant_access", "app", "verifier")
        db.tenant()
        key_id, api_key, *_ = db.mint()
        with cluster.connect(dbname, user="app", row_factory=psycopg.rows.namedtuple_row) as session:
            app = Database(session)
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.call("track", "others")
            app.rows("CREATE TABLE own (id int)")
            app.call("track", "own")
            Acting(session, api_key).rows("INSERT INTO own VALUES (1)")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.rows("SELECT * FROM keysmith_private.touch")
            app.call("untrack", "own")
        assert touches(db, key_id) == [("own", "insert", 1)]
    finally:
        cluster.execute("DROP OWNED BY app", dbname)
        cluster.execute("DROP ROLE app")


# The blast radius

def test_blast_radius(tracked):
    db, key_id = tracked
    db.rows("CREATE TABLE gone (id int)")
    db.call("track", "gone")
    assert db.call("blast_radius", key_id) == []
    db.rows("INSERT INTO orders SELECT g FROM generate_series(1, 40) AS g; INSERT INTO gone VALUES (1)")
    db.rows("DELETE FROM orders WHERE id <= 2")
    db.rows("DROP TABLE gone")
    orders, gone = db.call("blast_radius", key_id)
    assert (orders.relation, orders.rows) == ("orders", 42) and orders.first_at < orders.last_at
    assert (gone.relation, gone.rows) == ("public.gone", 1) and gone.first_at == gone.last_at
    assert db.value("SELECT count(*) FROM keysmith.touches") == 3


def test_the_blast_radius_of_another_tenants_key_is_not_found(tracked, sees_only):
    acting, key_id = tracked
    acting.rows("INSERT INTO orders VALUES (1)")
    db = Database(acting.session)
    db.tenant("other")
    unknown = db.refused("KS404", "blast_radius", uuid.uuid4())
    with sees_only("other"):
        assert db.refused("KS404", "blast_radius", key_id) == unknown
        assert db.rows("SELECT * FROM keysmith.touches") == []
    with sees_only("acme"):
        assert len(db.call("blast_radius", key_id)) == len(db.rows("SELECT * FROM keysmith.touches")) == 1
    assert "key_id" in db.refused("KS400", "blast_radius", None)


def test_old_statements_are_summed_up(tracked):
    db, key_id = tracked
    for n in range(5):
        db.rows("INSERT INTO orders VALUES (%s)", n)
    # The worker that stores the requests sums up as well, but not in its first minute.
    db.rows("UPDATE keysmith_private.touch SET first_at = first_at - interval '100 days', "
            "last_at = last_at - interval '100 days'")
    db.rows("INSERT INTO orders VALUES (9)")
    before = db.call("blast_radius", key_id)
    for summed in ("4 summed up", "0 summed up"):
        assert dict(db.call("maintain"))["touches"] == summed
        assert db.call("blast_radius", key_id) == before
        assert db.rows("SELECT operation, rows FROM keysmith_private.touch ORDER BY last_at") == \
            [("insert", 5), ("insert", 1)]
    (radius,) = before
    assert radius.rows == 6 and radius.last_at - radius.first_at > timedelta(days=99)


def test_a_dump_restores_what_was_touched(cluster, dbname, tracked):
    db, key_id = tracked
    db.rows("INSERT INTO orders VALUES (1); CREATE TABLE gone (id int)")
    db.call("track", "gone")
    db.rows("INSERT INTO gone VALUES (1); DROP TABLE gone")
    target = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {target}")
    try:
        cluster.psql(cluster.program("pg_dump", dbname=dbname).stdout, dbname=target)
        with cluster.connect(target, row_factory=psycopg.rows.namedtuple_row) as session:
            there = Acting(session, db.api_key)
            assert there.call("blast_radius", key_id) == db.call("blast_radius", key_id)
            there.rows("INSERT INTO orders VALUES (2)")
            assert touches(there, key_id)[-1] == ("orders", "insert", 1)
    finally:
        cluster.execute(f"DROP DATABASE {target} WITH (FORCE)")


# Transactions that only read

def test_a_temporary_table_in_a_transaction_that_only_reads(tracked):
    """It may be written to; our table may not."""
    db, key_id = tracked
    nobody = Database(db.session)
    nobody.rows("CREATE TEMP TABLE scratch (id int)")
    nobody.call("track", "scratch")
    for statement in ("INSERT INTO scratch VALUES (1)", "UPDATE scratch SET id = 2", "DELETE FROM scratch"):
        with db.identified():
            nobody.rows("SET TRANSACTION READ ONLY")
            with pytest.raises(psycopg.errors.ReadOnlySqlTransaction), db.session.transaction():
                nobody.rows(statement if "INSERT" in statement else f"WITH a AS (INSERT INTO scratch VALUES (1)) {statement}")
    assert touches(db, key_id) == []
    # Without a key there is nothing to note, and in other transactions there is.
    with db.session.transaction():
        nobody.rows("SET TRANSACTION READ ONLY")
        nobody.rows("INSERT INTO scratch VALUES (1)")
    db.rows("INSERT INTO scratch VALUES (2)")
    assert touches(db, key_id) == [("scratch", "insert", 1)]


def test_triggers_that_were_made_otherwise(tracked):
    """By hand, with other names and arguments, or only half of them."""
    db, key_id = tracked
    db.rows("CREATE TABLE odd (id int)")
    for n, when in enumerate(["BEFORE INSERT", "AFTER INSERT OR UPDATE OR DELETE", "BEFORE TRUNCATE", "AFTER TRUNCATE"]):
        db.rows(f"CREATE TRIGGER \"t%{n}\" {when} ON odd FOR EACH STATEMENT EXECUTE FUNCTION keysmith.log_usage('%s', 'x')")
    db.rows("INSERT INTO odd VALUES (1), (2)")
    db.rows("UPDATE odd SET id = 3")
    db.rows("TRUNCATE odd")
    # No trigger counted before the update.
    assert touches(db, key_id) == [("odd", "insert", 2), ("odd", "update", None), ("odd", "truncate", None)]
    # Statements without an end are forgotten with their transaction, or when there are many.
    db.rows("DROP TRIGGER \"t%1\" ON odd")
    db.rows("DO $$ BEGIN FOR n IN 1 .. 30000 LOOP INSERT INTO odd VALUES (n); END LOOP; INSERT INTO orders VALUES (7); END $$")
    assert touches(db, key_id) == [("orders", "insert", 1)]


def test_functions_cannot_be_called_as_what_they_are_not(db):
    for function in ("log_usage", "hash_columns", "seal_row"):
        with pytest.raises(psycopg.Error) as error:
            db.rows(f"SELECT keysmith.{function}()")
        assert error.value.sqlstate in ("KS400", "0A000")
