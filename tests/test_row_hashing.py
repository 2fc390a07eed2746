"""Digests in place of values in applications' own tables."""

import secrets

import psycopg
import pytest

import cluster as clusters
from rows import (cluster, files, notices, of_bytes, text, text_under_pepper,  # noqa: F401
                  trigger_arguments, values, write_peppers)


@pytest.fixture
def users(db):
    """A protected table: id, email (sha256), phone (hmac), token (bytes) and a note."""
    db.rows("CREATE TABLE users (id int PRIMARY KEY, email text, phone varchar(100), "
            "token bytea, note text)")
    db.call("protect", "users", "email", "phone=hmac", "token")
    return db


def emails(db, where="true"):
    return [value for value, in db.rows(f"SELECT email FROM users WHERE {where} ORDER BY id")]


# What is stored

def test_values_are_stored_as_digests(users):
    users.rows("INSERT INTO users VALUES (1, 'ann@example.org', '+49 30 1', 'abc', 'a note')")
    assert users.row("SELECT * FROM users") == (
        1, text("ann@example.org"), text_under_pepper("+49 30 1"), of_bytes(b"abc"), "a note")
    assert values(users, "SELECT keysmith.digest('ann@example.org'), keysmith.digest('x', 'hmac'), "
                     "keysmith.digest('abc'::bytea), keysmith.digest(NULL::text)") == (
        text("ann@example.org"), text_under_pepper("x"), of_bytes(b"abc"), None)


def test_text_is_digested_in_utf8_whatever_the_encoding(cluster, users):
    users.rows("INSERT INTO users (id, email) VALUES (1, 'jörg'), (2, '')")
    assert emails(users) == [text("jörg"), text("")]
    cluster.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        with cluster.connect("latin") as session:
            session.execute("CREATE EXTENSION keysmith")
            assert session.execute("SELECT keysmith.digest('jörg'), "
                                   "keysmith.matches('jörg', keysmith.digest('jörg'))").fetchone() \
                == (text("jörg"), True)
    finally:
        cluster.execute("DROP DATABASE latin WITH (FORCE)")


def needles(count):
    return [secrets.token_hex(16) for _ in range(count)]


WAYS_TO_NAME_COLUMNS = [
    "'users', 'email', 'phone'", "'users', 'email'::text, 'phone'::varchar",
    "'users', ARRAY['email', 'phone']", "'users', '{email,phone}'::text[]",
    "'users', VARIADIC ARRAY['email', 'phone']", "'users', columns => '{email,phone}'",
    "relation => 'users', columns => ARRAY['email', 'phone']",
    "relation => 'users', VARIADIC columns => ARRAY['email', 'phone']",
]


@pytest.mark.parametrize("named", WAYS_TO_NAME_COLUMNS)
def test_columns_are_named_one_by_one_or_as_an_array(db, named):
    def covered(trigger):
        return trigger_arguments(db, "users", trigger)
    db.rows("CREATE TABLE users (id int PRIMARY KEY, email text, phone text)")
    db.rows(f"SELECT keysmith.protect({named})")
    assert covered("~keysmith_1_hash") == ["email=sha256", "phone=sha256"]
    db.rows(f"SELECT keysmith.unprotect({named})")
    assert covered("~keysmith_1_hash") == []
    db.rows(f"SELECT keysmith.seal_rows({named})")
    assert covered("~keysmith_2_seal")[2:] == ["email", "id", "phone"]


def test_all_columns_are_meant_where_none_is_named(db):
    db.rows("CREATE TABLE users (id int PRIMARY KEY, email text)")
    for whole in ("'users'", "relation => 'users'"):
        db.rows("SELECT keysmith.protect('users', columns => '{email}')")
        db.rows(f"SELECT keysmith.seal_rows({whole})")
        assert trigger_arguments(db, "users", "~keysmith_2_seal") == ["row_seal", "public.users"]
        db.rows(f"SELECT keysmith.unprotect({whole})")
        db.rows("SELECT keysmith.unseal_rows('users')")


def test_no_value_reaches_a_file(cluster, users):
    """Searches the data directory and its WAL for all written values."""
    db, hidden, shown = users, needles(12), needles(4)
    long = [needle + secrets.token_urlsafe(60_000) for needle in hidden[6:9]]
    db.rows("CREATE TABLE plain (id int, email text, big text)")
    db.rows("CREATE UNIQUE INDEX ON users (email); CREATE INDEX ON plain (email)")
    db.rows("ALTER TABLE plain REPLICA IDENTITY FULL; ALTER TABLE users REPLICA IDENTITY FULL; "
            "ALTER TABLE plain ALTER big SET STORAGE EXTERNAL; "
            "ALTER TABLE users ALTER email SET STORAGE EXTERNAL, ALTER token SET STORAGE EXTERNAL")
    db.rows("INSERT INTO users (id, email, phone, token) VALUES (1, %s, %s, %s)",
            hidden[0], hidden[1], hidden[2].encode())
    db.rows("UPDATE users SET email = %s WHERE id = 1", hidden[3])
    db.rows("INSERT INTO users (id, email) VALUES (1, %s) ON CONFLICT (id) "
            "DO UPDATE SET email = EXCLUDED.email, phone = %s", hidden[4], hidden[5])
    db.rows("INSERT INTO users (id, email, phone, token) VALUES (2, %s, NULL, %s)",
            long[0], long[1].encode())
    db.rows("UPDATE users SET email = %s WHERE id = 2", long[2])
    with db.session.cursor() as cursor, cursor.copy("COPY users (id, email, phone) FROM STDIN") as copy:
        copy.write_row((3, hidden[9], hidden[10]))
    with pytest.raises(psycopg.errors.UniqueViolation) as error:
        db.rows("INSERT INTO users (id, email) VALUES (4, %s)", hidden[9])
    assert hidden[9] not in str(error.value) and text(hidden[9]) in str(error.value)
    with db.session.transaction(force_rollback=True):
        db.rows("INSERT INTO users (id, email) VALUES (5, %s)", hidden[11])
    # The control: the search finds stored values.
    db.rows("INSERT INTO plain VALUES (1, %s, %s)", shown[0], shown[1] + secrets.token_urlsafe(60_000))
    db.rows("UPDATE plain SET email = %s", shown[2])
    with db.session.transaction(force_rollback=True):
        db.rows("INSERT INTO plain VALUES (2, %s)", shown[3])
    db.rows("ANALYZE")
    data, wal = files(cluster)
    for needle in shown:
        assert needle.encode() in wal
    for needle in shown[:3]:
        assert needle.encode() in data
    for needle in hidden:
        assert needle.encode() not in wal and needle.encode() not in data


# Digested values

def test_untouched_columns_stay_as_they_are(users):
    users.rows("INSERT INTO users VALUES (1, 'ann', '1', 'abc', ''), (2, NULL, '2', NULL, '')")
    before = users.rows("SELECT email, phone, token FROM users ORDER BY id")
    users.rows("UPDATE users SET note = 'other'")
    users.rows("UPDATE users SET email = email, phone = phone, token = token")
    # Like frameworks that write a whole row.
    for row in users.rows("SELECT * FROM users"):
        users.rows("UPDATE users SET email = %s, phone = %s, token = %s, note = 'third' WHERE id = %s",
                   row.email, row.phone, row.token, row.id)
    assert users.rows("SELECT email, phone, token FROM users ORDER BY id") == before
    users.rows("UPDATE users SET email = 'bob' WHERE id = 2")
    assert emails(users) == [text("ann"), text("bob")]
    assert [row[1:] for row in users.rows("SELECT email, phone, token FROM users ORDER BY id")] \
        == [row[1:] for row in before]
    users.rows("UPDATE users SET email = NULL WHERE id = 1")
    assert emails(users) == [None, text("bob")]


def test_what_looks_like_a_digest_is_a_value(users):
    """A digest is not accepted in place of its value."""
    stolen = text("secret")
    users.rows("INSERT INTO users (id, email, phone, token) VALUES (1, %s, %s, %s), (2, 'x', 'x', 'x')",
               stolen, stolen, of_bytes(b"secret"))
    expected = (text(stolen), text_under_pepper(stolen), of_bytes(of_bytes(b"secret")))
    columns = "SELECT email, phone, token FROM users WHERE id = %s"
    assert users.row(columns, 1) == expected
    users.rows("UPDATE users SET email = %s, phone = %s, token = %s WHERE id = 2",
               stolen, stolen, of_bytes(b"secret"))
    assert users.row(columns, 2) == expected
    assert not users.value("SELECT bool_or(keysmith.matches('secret', email)) FROM users")


def test_the_same_value_has_the_same_digest(users):
    users.rows("INSERT INTO users (id, email) VALUES (1, 'ann'), (2, 'ann')")
    users.rows("UPDATE users SET email = 'bob'")
    users.rows("UPDATE users SET email = 'ann'")
    assert emails(users) == [text("ann")] * 2


def test_a_digest_that_was_moved_out_of_its_row_is_known(db):
    """In wide rows PostgreSQL stores even short values out of line, or compressed."""
    names = [f"c{n}" for n in range(60)]
    db.rows(f"CREATE TABLE wide (id int, {', '.join(f'{name} text' for name in names)})")
    db.rows("ALTER TABLE wide " + ", ".join(f"ALTER {name} SET STORAGE EXTERNAL" for name in names))
    db.call("protect", "wide", *names)
    db.rows(f"INSERT INTO wide SELECT 1, {', '.join(repr(name) for name in names)}")
    assert db.value("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE relname = 'wide'") > 0
    row = db.row("SELECT * FROM wide")
    assert row[1:] == tuple(text(name) for name in names)
    db.rows("UPDATE wide SET id = 2")
    db.rows(f"UPDATE wide SET {', '.join(f'{name} = %s' for name in names)}", *row[1:])
    assert db.row("SELECT * FROM wide")[1:] == row[1:]


def test_copy_of_many_rows(users):
    with users.session.cursor() as cursor, cursor.copy("COPY users (id, email, phone) FROM STDIN") as copy:
        for n in range(10_000):
            copy.write_row((n, f"user{n}", None if n % 2 else f"+{n}"))
    assert users.value("SELECT count(*) FROM users WHERE email = keysmith.digest('user' || id)") == 10_000
    assert users.value("SELECT count(phone) FROM users WHERE phone = keysmith.digest('+' || id, 'hmac')") == 5000


@pytest.mark.parametrize("partitioned", [False, True])
def test_upserts(db, partitioned):
    db.rows("CREATE TABLE users (id int PRIMARY KEY, email text, n int DEFAULT 0)"
            + (" PARTITION BY RANGE (id); CREATE TABLE low PARTITION OF users DEFAULT" if partitioned else ""))
    db.call("protect", "users", "email")
    upsert = ("INSERT INTO users (id, email) VALUES (1, 'ann'), (2, %s) ON CONFLICT (id) "
              "DO UPDATE SET email = EXCLUDED.email, n = users.n + 1")
    for email in ("bob", "cid", "cid"):
        db.rows(upsert, email)
        assert emails(db) == [text("ann"), text(email)]
    db.rows("INSERT INTO users (id, email) VALUES (1, 'ann') ON CONFLICT (id) DO UPDATE SET email = 'dan'")
    db.rows("INSERT INTO users (id, email) VALUES (2, 'x') ON CONFLICT (id) DO UPDATE SET email = %s",
            text("eve"))
    assert emails(db) == [text("dan"), text(text("eve"))]
    db.rows("INSERT INTO users (id, email) VALUES (1, 'new'), (3, 'new') ON CONFLICT DO NOTHING")
    db.rows("MERGE INTO users u USING (VALUES (1, 'm1'), (4, 'm4'), (2, %s)) v (id, email) ON u.id = v.id "
            "WHEN MATCHED THEN UPDATE SET email = v.email "
            "WHEN NOT MATCHED THEN INSERT (id, email) VALUES (v.id, v.email)", text("m4"))
    assert emails(db) == [text("m1"), text(text("m4")), text("new"), text("m4")]
    # A second statement has no state of the first.
    with db.session.transaction():
        db.rows("INSERT INTO users (id, email) VALUES (5, 'five')")
        db.rows("UPDATE users SET email = %s WHERE id = 1", text("five"))
    assert emails(db, "id = 1") == [text(text("five"))]


def test_upserts_with_triggers_that_write_themselves(db):
    db.rows("CREATE TABLE users (id int PRIMARY KEY, email text)")
    db.call("protect", "users", "email")
    db.rows("""
        CREATE FUNCTION more() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.id < 100 THEN
                INSERT INTO users VALUES (NEW.id + 100, 'nested')
                    ON CONFLICT (id) DO UPDATE SET email = EXCLUDED.email;
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER more BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION more()""")
    for _ in range(2):
        db.rows("INSERT INTO users VALUES (1, 'ann'), (2, 'bob') ON CONFLICT (id) "
                "DO UPDATE SET email = EXCLUDED.email")
        assert emails(db) == [text(name) for name in ("ann", "bob", "nested", "nested")]


def test_partitions(db):
    """Partitions with columns in other positions, and rows that move between them."""
    db.rows("""
        CREATE TABLE users (id int, email text, part int) PARTITION BY LIST (part);
        CREATE TABLE one PARTITION OF users FOR VALUES IN (1);
        CREATE TABLE two (gone int, part int, extra text, email text, id int);
        ALTER TABLE two DROP gone, DROP extra;
        ALTER TABLE users ATTACH PARTITION two FOR VALUES IN (2);
        CREATE TABLE three PARTITION OF users FOR VALUES IN (3) PARTITION BY RANGE (id);
        CREATE TABLE deep PARTITION OF three DEFAULT""")
    db.call("protect", "users", "email")
    db.rows("INSERT INTO users VALUES (1, 'ann', 1), (2, 'bob', 2), (3, NULL, 3), (4, 'dan', 3)")
    db.rows("INSERT INTO two (id, email, part) VALUES (5, 'direct', 2)")
    expected = [text("ann"), text("bob"), None, text("dan"), text("direct")]
    assert emails(db) == expected
    for _ in range(4):
        db.rows("UPDATE users SET part = part % 3 + 1")
        assert emails(db) == expected
    db.rows("UPDATE users SET part = part % 3 + 1, email = 'new' || id")
    assert emails(db) == [text(f"new{n}") for n in range(1, 6)]
    db.rows("UPDATE users SET part = part %% 3 + 1, email = %s", text("stolen"))
    assert emails(db) == [text(text("stolen"))] * 5
    # A later partition.
    db.rows("CREATE TABLE four PARTITION OF users FOR VALUES IN (4)")
    db.rows("INSERT INTO users VALUES (9, 'late', 4)")
    assert emails(db, "id = 9") == [text("late")]
    for function in ("protect", "unprotect"):
        assert "as part of the table" in db.refused("KS409", function, "four", "email")
    assert "as part of the table" in db.refused("KS409", "unprotect", "deep")
    db.call("unprotect", "users")
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^~keysmith'") == 0


def test_rows_that_triggers_change_on_their_way_to_another_partition(db):
    db.rows("""
        CREATE TABLE users (id int, email text, part int) PARTITION BY LIST (part);
        CREATE TABLE one PARTITION OF users FOR VALUES IN (1);
        CREATE TABLE two PARTITION OF users FOR VALUES IN (2);
        CREATE TABLE log (what text);
        CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO log VALUES (TG_OP);
            UPDATE users SET email = email WHERE id = 99;
            IF TG_OP = 'INSERT' AND NEW.id = 2 THEN NEW.email := 'set by a trigger'; END IF;
            RETURN coalesce(NEW, OLD);
        END $$;
        CREATE TRIGGER a BEFORE INSERT OR UPDATE OR DELETE ON two FOR EACH ROW EXECUTE FUNCTION noted();
        CREATE TRIGGER a BEFORE DELETE ON one FOR EACH ROW EXECUTE FUNCTION noted()""")
    db.call("protect", "users", "email")
    db.rows("INSERT INTO users VALUES (1, 'ann', 1), (2, 'bob', 1), (99, 'x', 1)")
    db.rows("UPDATE users SET part = 2 WHERE id < 99")
    assert emails(db) == [text("ann"), text("set by a trigger"), text("x")]
    assert db.rows("SELECT what FROM log") == [("DELETE",), ("INSERT",)] * 2


def test_children(db):
    db.rows("CREATE TABLE users (id int, email text); CREATE TABLE child (more int) INHERITS (users)")
    db.call("protect", "users", "email")
    db.rows("INSERT INTO users VALUES (1, 'ann'); INSERT INTO child VALUES (2, 'bob', 0)")
    db.rows("UPDATE users SET email = email || '!' WHERE id = 2")
    assert emails(db) == [text("ann"), text(text("bob") + "!")]
    db.call("unprotect", "users")
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^~keysmith'") == 0


def test_constraints_see_digests(db):
    db.rows("""
        CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE NOT NULL CHECK (keysmith.is_digest(email)),
                            tail text GENERATED ALWAYS AS (right(email, 4)) STORED);
        CREATE TABLE orders (email text REFERENCES users (email))""")
    db.call("protect", "users", "email")
    db.call("protect", "orders", "email")
    db.rows("INSERT INTO users VALUES (1, 'ann'); INSERT INTO orders VALUES ('ann')")
    assert db.row("SELECT email, tail FROM users") == (text("ann"), text("ann")[-4:])
    db.rows("UPDATE users SET id = 2")
    assert db.row("SELECT email, tail FROM users") == (text("ann"), text("ann")[-4:])
    for statement, error in [("INSERT INTO users VALUES (3, 'ann')", psycopg.errors.UniqueViolation),
                             ("INSERT INTO users VALUES (3, NULL)", psycopg.errors.NotNullViolation),
                             ("INSERT INTO orders VALUES ('bob')", psycopg.errors.ForeignKeyViolation),
                             ("UPDATE users SET email = 'bob'", psycopg.errors.ForeignKeyViolation)]:
        with pytest.raises(error):
            db.rows(statement)
    # Even if the trigger is off, as a constraint ensures.
    with pytest.raises(psycopg.errors.CheckViolation):
        db.rows("SET session_replication_role = replica; INSERT INTO users VALUES (4, 'plain')")


def test_other_triggers(users, notices):
    users.rows("""
        CREATE FUNCTION lower_email() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN NEW.email := lower(NEW.email); RETURN NEW; END $$;
        CREATE TRIGGER zz_lower BEFORE INSERT OR UPDATE ON users FOR EACH ROW EXECUTE FUNCTION lower_email()""")
    users.rows("INSERT INTO users (id, email) VALUES (1, 'ANN')")
    users.rows("UPDATE users SET note = 'x'")
    assert emails(users) == [text("ann")]
    users.rows("CREATE TABLE late (email text); CREATE TRIGGER \"~~late\" BEFORE INSERT ON late "
               "FOR EACH ROW EXECUTE FUNCTION lower_email()")
    users.call("protect", "late", "email")
    assert any(severity == "WARNING" and "~~late" in message for severity, message in notices)


# protect and unprotect

def test_protect_again_changes_nothing_and_adds(db):
    db.rows("CREATE TABLE users (id int, email text, phone text, \"a=hmac\" text, \"it's \"\"q\"\"\" text)")
    triggers = "SELECT oid, xmin, tgargs FROM pg_trigger WHERE tgrelid = 'users'::regclass"
    db.call("protect", "users", "email")
    before = db.rows(triggers)
    db.call("protect", "users", "email=sha256")
    assert db.rows(triggers) == before
    db.rows("SELECT keysmith.protect('users', ARRAY['phone'], 'hmac')")
    db.call("protect", "users", "a=hmac=sha256", """it's "q\"""")
    assert trigger_arguments(db, "users", "~keysmith_1_hash") == \
        ["email=sha256", "phone=hmac", "a=hmac=sha256", """it's "q"=sha256"""]
    db.rows("INSERT INTO users VALUES (1, 'e', 'p', 'a', 'q')")
    assert db.row("SELECT * FROM users") == (1, text("e"), text_under_pepper("p"), text("a"), text("q"))
    db.call("protect", "users", "email=hmac")
    db.call("unprotect", "users", "phone", "a=hmac")
    db.rows("INSERT INTO users VALUES (2, 'e', 'p', 'a', 'q')")
    assert db.row("SELECT * FROM users WHERE id = 2") == (2, text_under_pepper("e"), "p", "a", text("q"))
    assert db.value("SELECT count(*) FROM users WHERE keysmith.matches('e', email)") == 2
    assert db.refused("KS404", "unprotect", "users", "phone") == "column phone of public.users is not protected"
    db.call("unprotect", "users")
    assert db.refused("KS404", "unprotect", "users") == "table public.users is not protected"


@pytest.mark.parametrize("arguments, message", [
    (("users",), "columns"),
    (("users", None), "column_name must not be null"),
    (("users", "nothing"), "columns must name columns of public.users, which nothing is not"),
    (("users", "email=md5"), "columns must name columns"),
    (("users", "id"), "users.id is integer"),
    (("users", "short"), "users.short is character varying(77)"),
    (("users", "fixed"), "users.fixed is character(100)"),
    (("users", "checked"), "users.checked is public.an_email"),
    (("users", "computed"), "columns must not be generated"),
    (("parts", "part"), "columns must not be those that rows are partitioned by"),
    (("parts", "expression"), "columns must not be those that rows are partitioned by"),
    (("cascading", "email"), "ON UPDATE CASCADE"),
    (("cascaded", "email"), "ON UPDATE CASCADE"),
    (("a_view", "email"), "relation must be a table"),
    (("keysmith_private.key", "label"), "relation must be a table"),
    ((None, "email"), "relation must be a table"),
    (("users", ["email"], "md5"), "algorithm must be"),
    (("users", ["email"], None), "algorithm must be"),
])
def test_what_cannot_be_protected(db, arguments, message):
    db.rows("""
        CREATE DOMAIN an_email AS text CHECK (VALUE ~ '@');
        CREATE TABLE users (id int, email text, short varchar(77), fixed char(100), checked an_email,
                            computed text GENERATED ALWAYS AS (email) STORED);
        CREATE TABLE parts (part text, expression text, n int) PARTITION BY LIST (part);
        CREATE TABLE more PARTITION OF parts DEFAULT PARTITION BY LIST (lower(expression));
        CREATE TABLE cascading (email text UNIQUE);
        CREATE TABLE cascaded (email text REFERENCES cascading (email) ON UPDATE CASCADE);
        CREATE VIEW a_view AS SELECT email FROM users""")
    casts = ["%s::regclass", "%s::text[]" if isinstance(arguments[1:2] and arguments[1], list) else "%s::text",
             "%s::text"][:len(arguments)]
    with pytest.raises(psycopg.Error) as error:
        db.rows(f"SELECT keysmith.protect({', '.join(casts)})", *arguments)
    assert error.value.sqlstate == ("42883" if len(arguments) == 1 else "KS400"), error.value
    assert message in str(error.value) or len(arguments) == 1
    assert db.value("SELECT count(*) FROM pg_trigger WHERE tgname ~ '^~keysmith'") == 0


@pytest.mark.parametrize("change, why", [
    ("RENAME email TO mail", "its column email, which is not there"),
    ("DROP email", "its column email, which is not there"),
    ("ALTER phone TYPE varchar(20)", "its column phone, which is not text"),
])
def test_a_table_that_changed_stores_nothing_undigested(users, change, why):
    users.rows(f"ALTER TABLE users {change}")
    for statement in ("INSERT INTO users (id, note) VALUES (1, 'x')",):
        with pytest.raises(psycopg.Error) as error:
            users.rows(statement)
        assert error.value.sqlstate == "KS409" and why in str(error.value)


def test_the_trigger_is_for_rows_before_they_are_written(db):
    db.rows("CREATE TABLE t (email text)")
    for when in ("AFTER INSERT ON t FOR EACH ROW", "BEFORE DELETE ON t FOR EACH ROW",
                 "BEFORE INSERT ON t FOR EACH STATEMENT"):
        for function in ("hash_columns", "seal_row"):
            db.rows("INSERT INTO t VALUES ('x')")
            db.rows(f"CREATE TRIGGER bad {when} EXECUTE FUNCTION keysmith.{function}('email')")
            with pytest.raises(psycopg.Error) as error:
                db.rows("DELETE FROM t" if "DELETE" in when else "INSERT INTO t VALUES ('x')")
            assert error.value.sqlstate == "KS400" and function in str(error.value)
            db.rows("DROP TRIGGER bad ON t; DELETE FROM t")


def test_hmac_needs_a_pepper():
    with clusters.running("unpeppered") as cluster:
        with cluster.connect() as session:
            session.execute("CREATE EXTENSION keysmith; CREATE TABLE users (email text)")
            for statement in ("SELECT keysmith.protect('users', 'email=hmac')", "SELECT keysmith.digest('x', 'hmac')"):
                with pytest.raises(psycopg.Error) as error:
                    session.execute(statement)
                assert error.value.sqlstate == "KS510"
            session.execute("SELECT keysmith.protect('users', 'email')")
            assert session.execute("SELECT keysmith.digests('x')").fetchone() == ([text("x")],)


# Look-up

def plan(db, query, *parameters):
    db.rows("SET enable_seqscan = off; SET enable_bitmapscan = off")
    return "\n".join(line for line, in db.rows(f"EXPLAIN (COSTS off) {query}", *parameters))


def test_matches(users):
    users.rows("INSERT INTO users VALUES (1, 'ann', '1', 'abc')")
    assert values(users, "SELECT keysmith.matches('ann', email), keysmith.matches('Ann', email), "
                     "keysmith.matches('1', phone), keysmith.matches('2', phone), "
                     "keysmith.matches('abc', token), keysmith.matches(email, email) FROM users") \
        == (True, False, True, False, True, False)
    assert values(users, "SELECT keysmith.matches(NULL, 'x'), keysmith.matches('x', NULL), keysmith.matches('x', 'x'), "
                     "keysmith.matches('x'::bytea, 'x'::bytea)") == (None, None, False, False)
    assert values(users, "SELECT keysmith.is_digest(email), keysmith.is_digest(token), keysmith.is_digest(note), "
                     "keysmith.is_digest('x') FROM users") == (True, True, None, False)
    assert users.value("SELECT keysmith.digests('ann')") == [text("ann"), text_under_pepper("ann")]
    assert users.refused("KS400", "digest", "x", "md5") == "algorithm must be sha256 or hmac"
    assert users.refused("KS400", "digest", "x", None) == "algorithm must not be null"


def test_look_ups_use_an_index(users):
    users.rows("CREATE INDEX by_email ON users (email); CREATE INDEX by_phone ON users (phone); "
               "CREATE INDEX by_token ON users (token); CREATE INDEX two ON users (note, email); "
               "CREATE INDEX hashed ON users USING hash (note)")
    users.rows("INSERT INTO users SELECT n, 'user' || n, '+' || n, decode(md5(n::text), 'hex'), "
               "keysmith.digest('note' || n) FROM generate_series(1, 2000) n")
    users.rows("ANALYZE users")
    for query, index, found in [
        ("email = keysmith.digest('user7')", "by_email", 7),
        ("phone = keysmith.digest('+8', 'hmac')", "by_phone", 8),
        ("email = ANY (keysmith.digests('user9'))", "by_email", 9),
        ("keysmith.matches('user10', email)", "by_email", 10),
        ("keysmith.matches('+11', phone)", "by_phone", 11),
        ("keysmith.matches(decode(md5('12'), 'hex'), token)", "by_token", 12),
        ("keysmith.matches('user' || (SELECT 13), email)", "by_email", 13),
    ]:
        assert f"using {index}" in plan(users, f"SELECT id FROM users WHERE {query}"), query
        assert "Filter" not in plan(users, f"SELECT id FROM users WHERE {query}"), query
        assert users.rows(f"SELECT id FROM users WHERE {query}") == [(found,)], query
    # If the value comes from the row, or the index is another one, it is not an index condition.
    for query in ("keysmith.matches(note, email)", "keysmith.matches('note7', note) AND id > 0 ORDER BY id"):
        assert users.rows(f"SELECT id FROM users WHERE {query}") == ([] if "note7" not in query else [(7,)])
    joined = "SELECT count(*) FROM (VALUES ('user3'), ('user4'), ('none'), (NULL)) v (e) JOIN users u ON keysmith.matches(v.e, u.email)"
    users.rows("SET enable_material = off; SET enable_nestloop = on")
    assert "by_email" in plan(users, joined) and users.value(joined) == 2
    users.session.prepare_threshold = 0
    users.rows("SET plan_cache_mode = force_generic_plan")
    assert users.rows("SELECT id FROM users WHERE keysmith.matches(%s, email)", "user77") == [(77,)]
    assert users.rows("SELECT id FROM users WHERE keysmith.matches(%s::text, email)", None) == []


def test_an_index_that_begins_with_another_column_gives_the_right_order(users):
    users.rows("CREATE INDEX two ON users (note, email)")
    users.rows("ALTER TABLE users DISABLE TRIGGER USER; INSERT INTO users (id, note, email) "
               "SELECT n, 'n' || n % 7, (keysmith.digests('ann'))[1 + n % 2] FROM generate_series(1, 500) n; ANALYZE users")
    query = "SELECT note FROM users WHERE note > 'n' AND keysmith.matches('ann', email) ORDER BY note"
    assert "Sort" in plan(users, query) or "Filter" in plan(users, query)
    found = users.rows(query)
    assert found == sorted(found) and len(found) == 500


def test_look_up_in_an_isolated_table_uses_the_index(cluster, dbname, db):
    """Its policy comes first: only leakproof conditions go before it."""
    tenant = db.tenant()
    key = db.mint()
    db.rows("CREATE TABLE users (tenant_id uuid, id int, email text); CREATE INDEX by_email ON users (email)")
    db.call("isolate", "users", "tenant_id")
    db.call("protect", "users", "email")
    db.rows("INSERT INTO users SELECT %s, n, 'user' || n FROM generate_series(1, 1000) n", tenant)
    db.rows("ANALYZE users; CREATE ROLE reader; GRANT SELECT ON users TO reader")
    db.call("grant_access", "reader", "verifier")
    try:
        db.rows("SET ROLE reader")
        query = "SELECT id FROM users WHERE keysmith.matches('user7', email)"
        assert "Index Cond: (email = ANY" in plan(db, query)
        assert db.rows(query) == []
        with db.session.transaction():
            db.verify(key.api_key, sign_in=True)
            assert db.rows(query) == [(7,)]
    finally:
        db.rows("RESET ROLE; DROP OWNED BY reader; DROP ROLE reader")


def test_generations_live_side_by_side(cluster, dbname, database):
    def session():
        connection = cluster.connect(dbname, row_factory=psycopg.rows.namedtuple_row)
        connection.prepare_threshold = None
        return database(connection)

    db = session()
    db.rows("CREATE TABLE users (id int PRIMARY KEY, email text); CREATE INDEX by_email ON users (email)")
    db.call("protect", "users", "email=hmac")
    db.rows("INSERT INTO users VALUES (1, 'ann')")
    try:
        write_peppers(cluster, [1, 2])
        cluster.restart()
        db = session()
        db.rows("INSERT INTO users VALUES (2, 'ann')")
        assert emails(db) == [text_under_pepper("ann", 1), text_under_pepper("ann", 2)]
        assert db.rows("SELECT id FROM users WHERE keysmith.matches('ann', email) ORDER BY id") == [(1,), (2,)]
        assert "by_email" in plan(db, "SELECT id FROM users WHERE keysmith.matches('ann', email)")
        write_peppers(cluster, [2])
        cluster.restart()
        db = session()
        assert db.rows("SELECT id FROM users WHERE keysmith.matches('ann', email)") == [(2,)]
    finally:
        write_peppers(cluster, [1])
        cluster.restart()


def test_a_role_that_may_not_look_into_the_schema_still_finds(cluster, dbname, users):
    """For example, one that reads a view."""
    users.rows("CREATE INDEX by_email ON users (email); INSERT INTO users (id, email) SELECT n, 'user' || n "
               "FROM generate_series(1, 1000) n; ANALYZE users; "
               "CREATE VIEW found AS SELECT id FROM users WHERE keysmith.matches('user7', email); "
               "CREATE ROLE reader LOGIN; GRANT SELECT ON found TO reader; "
               "GRANT EXECUTE ON FUNCTION keysmith.matches(text, text), keysmith.digests(text) TO reader")
    try:
        with cluster.connect(dbname, user="reader") as session:
            assert session.execute("SELECT * FROM found").fetchall() == [(7,)]
            session.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
            plan = session.execute("EXPLAIN (COSTS off) SELECT * FROM found").fetchall()
            assert any("by_email" in line for line, in plan)
    finally:
        users.rows("DROP OWNED BY reader; DROP ROLE reader")
