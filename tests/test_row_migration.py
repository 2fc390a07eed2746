"""Rows that were there before their table was protected: digested in place, in batches,
while others write."""

import random
import secrets
import threading
import time

import psycopg
import pytest

from conftest import Database
from rows import cluster, files, notices, text, text_under_pepper  # noqa: F401

ROWS = 3000


@pytest.fixture
def users(db):
    db.rows(f"CREATE TABLE users (id int PRIMARY KEY, email text, phone text, n int DEFAULT 0); "
            f"INSERT INTO users SELECT n, 'user' || n, CASE WHEN n % 3 > 0 THEN '+' || n END "
            f"FROM generate_series(1, {ROWS}) n")
    return db


def migrate(db, table="users", pages=5, **more):
    db.rows(f"CALL keysmith.protect_existing('{table}', pages => {pages}"
            + "".join(f", {name} => {value}" for name, value in more.items()) + ")")


def check_all(db):
    assert db.rows("SELECT id FROM users WHERE email <> keysmith.digest('user' || id) OR "
                   "(phone IS NULL) <> (id % 3 = 0) OR phone <> keysmith.digest('+' || id, 'hmac')") == []
    assert db.value("SELECT count(*) FROM users") == ROWS


def progress(db):
    (row,) = db.rows("SELECT * FROM keysmith.hashing_progress")
    return row


def test_existing_rows_are_digested(users, notices):
    users.call("protect", "users", "email", "phone=hmac")
    assert ("NOTICE", "rows of public.users that are there keep their values of email") in notices
    assert users.value("SELECT count(*) FROM users WHERE email = 'user' || id") == ROWS
    assert progress(users).phase == "not begun"
    migrate(users)
    check_all(users)
    row = progress(users)
    assert (row.phase, row.rows_done, row.pages_done, row[0]) == ("done", ROWS, row.pages_total, "users")
    assert row.started_at < row.finished_at
    assert len([message for _, message in notices if "pages of public.users are done" in message]) >= 3
    assert any(message == f"all of public.users is digested; {ROWS} rows were" for _, message in notices)
    migrate(users)
    check_all(users)
    assert progress(users).rows_done == 0


@pytest.mark.parametrize("comment", ["x", "{}", '{"pages": "x"}', '{"started_at": "never"}', "[1]", '"x"'])
def test_what_an_owner_writes_there_is_no_error_for_others(users, comment):
    users.rows("CREATE TABLE others (email text)")
    for table in ("users", "others"):
        users.call("protect", table, "email")
    migrate(users)
    users.rows(f"COMMENT ON TRIGGER \"~keysmith_1_hash\" ON others IS '{comment}'")
    found = {str(row[0]): row.phase for row in users.rows("SELECT * FROM keysmith.hashing_progress")}
    assert found.pop("users") == "done" and set(found.values()) <= {"not begun"}


def test_in_parts_of_tables_and_bytes(db):
    db.rows("""
        CREATE TABLE users (id int, token bytea) PARTITION BY RANGE (id);
        CREATE TABLE low PARTITION OF users FOR VALUES FROM (0) TO (500);
        CREATE SCHEMA "Odd ""one"; CREATE TABLE "Odd ""one"."high%s" PARTITION OF users DEFAULT;
        INSERT INTO users SELECT n, decode(md5(n::text), 'hex') FROM generate_series(1, 1500) n""")
    db.call("protect", "users", "token")
    migrate(db, pages=2)
    assert db.value("SELECT count(*) FROM users WHERE token = keysmith.digest(decode(md5(id::text), 'hex'))") == 1500
    assert progress(db).rows_done == 1500


def test_an_interrupted_migration_goes_on(users):
    users.call("protect", "users", "email", "phone=hmac")
    users.rows("CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS "
               "$$ BEGIN IF NEW.id = 2000 THEN RAISE 'enough'; END IF; RETURN NEW; END $$; "
               "CREATE TRIGGER stop BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION stop()")
    with pytest.raises(psycopg.Error, match="enough"):
        migrate(users, pages=3)
    before = progress(users)
    assert before.phase == "digesting rows" and 0 < before.rows_done < 2000
    assert users.value("SELECT count(*) FROM users WHERE keysmith.is_digest(email)") == before.rows_done
    users.rows("DROP TRIGGER stop ON users")
    migrate(users)
    after = progress(users)
    assert after.started_at == before.started_at and after.rows_done == ROWS
    check_all(users)


def test_a_dump_in_the_middle_goes_on_where_it_is_restored(cluster, dbname, users):
    users.call("protect", "users", "email", "phone=hmac")
    users.rows("UPDATE users SET email = 'user' || id || '' , n = 1 WHERE false")
    users.rows("SELECT keysmith.begin_hashing('users', false); SELECT keysmith.hash_pages('users', 0, 4)")
    dump = cluster.program("pg_dump", dbname=dbname).stdout
    target = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {target}")
    try:
        cluster.psql(dump, dbname=target)
        with cluster.connect(target, row_factory=psycopg.rows.namedtuple_row) as session:
            there = Database(session)
            assert 0 < there.value("SELECT count(*) FROM users WHERE keysmith.is_digest(email)") < ROWS
            migrate(there)
            check_all(there)
    finally:
        cluster.execute(f"DROP DATABASE {target} WITH (FORCE)")


def test_while_others_write(cluster, dbname, users):
    """Updates of other columns move rows that are still plain to where the walk has been;
    updates of the column itself must not be digested twice."""
    values = {n: f"user{n}" for n in range(1, ROWS + 1)}
    wrong, over = [], threading.Event()
    users.call("protect", "users", "email", "phone=hmac")

    def write(own):
        rng = random.Random(own)
        ids = [n for n in values if n % 3 == own]
        with cluster.connect(dbname) as session:
            while not over.is_set():
                n, what = rng.choice(ids), rng.randrange(5)
                try:
                    if what == 0:
                        session.execute("UPDATE users SET n = n + 1 WHERE id = %s", (n,))
                    elif what == 1:
                        values[n] = f"changed{rng.random()}"
                        session.execute("UPDATE users SET email = %s WHERE id = %s", (values[n], n))
                    elif what == 2:
                        values[n] = text(f"changed{rng.random()}")
                        session.execute("UPDATE users SET email = %s WHERE id = %s", (values[n], n))
                    elif what == 3:
                        session.execute("UPDATE users SET n = n + 1 WHERE id %% 97 = %s %% 97 AND id %% 3 = %s", (n, own))
                    else:
                        session.execute("DELETE FROM users WHERE id = %s", (n,))
                        session.execute("INSERT INTO users (id, email) VALUES (%s, %s)", (n, values[n]))
                except psycopg.Error as error:
                    wrong.append(error)

    writers = [threading.Thread(target=write, args=(own,)) for own in range(3)]
    for writer in writers:
        writer.start()
    try:
        time.sleep(0.3)  # not checked: a head start
        migrate(users, pages=1)
        # What is digested when it ends stays so.
        left = users.value("SELECT count(*) FROM users WHERE NOT keysmith.is_digest(email)")
    finally:
        over.set()
        for writer in writers:
            writer.join()
    assert not wrong, wrong[0]
    assert left == 0
    stored = dict(users.rows("SELECT id, email FROM users"))
    assert stored == {n: text(value) for n, value in values.items()}


def test_what_looked_like_a_digest_before_is_not_guessed(users, notices):
    users.rows("UPDATE users SET email = %s WHERE id = 7", text("stolen"))
    users.call("protect", "users", "email")
    assert any(severity == "WARNING" and "look like digests" in message for severity, message in notices)
    with pytest.raises(psycopg.Error) as error:
        migrate(users)
    assert error.value.sqlstate == "KS409" and "trust_digests" in error.value.diag.message_hint
    assert users.value("SELECT count(*) FROM users WHERE keysmith.is_digest(email)") == 1
    # What it is, is decided by who knows.
    users.rows("UPDATE users SET email = 'user7' WHERE id = 7")
    migrate(users, trust_digests="true")
    assert users.value("SELECT count(*) FROM users WHERE email = keysmith.digest('user' || id)") == ROWS


def test_a_column_that_is_added_later(users):
    users.call("protect", "users", "email")
    migrate(users)
    users.rows("INSERT INTO users VALUES (0, 'user0', '+0')")
    users.call("protect", "users", "phone=hmac")
    users.rows("UPDATE users SET phone = '+new' WHERE id = 1")
    migrate(users)
    assert users.value("SELECT phone FROM users WHERE id = 1") == text_under_pepper("+new")
    assert users.value("SELECT count(*) FROM users WHERE keysmith.matches('+' || id, phone)") == ROWS * 2 // 3
    assert users.value("SELECT count(*) FROM users WHERE keysmith.matches('user' || id, email)") == ROWS + 1


def test_a_value_that_was_written_anew_meets_the_one_that_is_still_plain(users):
    users.rows("CREATE UNIQUE INDEX ON users (email)")
    users.call("protect", "users", "email")
    users.rows("INSERT INTO users (id, email) VALUES (0, 'user2999')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        migrate(users)
    users.rows("DELETE FROM users WHERE id = 0")
    migrate(users)
    assert users.value("SELECT count(*) FROM users WHERE email = keysmith.digest('user' || id)") == ROWS


def test_what_is_refused(cluster, dbname, users):
    for statement, sqlstate in [("'users'", "KS404"), ("'pg_class'", "KS404")]:
        with pytest.raises(psycopg.Error) as error:
            users.rows(f"CALL keysmith.protect_existing({statement})")
        assert error.value.sqlstate == sqlstate
    users.call("protect", "users", "email")
    for pages in ("0", "-1", "NULL"):
        with pytest.raises(psycopg.Error) as error:
            migrate(users, pages=pages)
        assert error.value.sqlstate == "KS400"
    with pytest.raises(psycopg.Error) as error, users.session.transaction():
        migrate(users)
    assert error.value.sqlstate == "2D000"
    # Hidden rows would be left as they are.
    users.rows("CREATE ROLE app LOGIN; ALTER TABLE users OWNER TO app; ALTER TABLE users ENABLE ROW LEVEL SECURITY; "
               "ALTER TABLE users FORCE ROW LEVEL SECURITY; CREATE POLICY few ON users USING (id < 10)")
    users.call("grant_access", "app", "verifier")
    try:
        with cluster.connect(dbname, user="app") as session:
            with pytest.raises(psycopg.Error) as error:
                session.execute("CALL keysmith.protect_existing('users')")
            assert error.value.sqlstate == "KS403" and "BYPASSRLS" in error.value.diag.message_hint
            with pytest.raises(psycopg.Error) as error:
                session.execute("SELECT keysmith.hash_pages('users', 0, 10)")
            assert error.value.sqlstate == "KS403"
        users.rows("ALTER TABLE users NO FORCE ROW LEVEL SECURITY")
        with cluster.connect(dbname, user="app") as session:
            session.execute("CALL keysmith.protect_existing('users')")
        assert users.value("SELECT count(*) FROM users WHERE keysmith.is_digest(email)") == ROWS
    finally:
        users.rows("DROP OWNED BY app; DROP ROLE app")


def test_what_was_stored_before_goes_with_vacuum_full(cluster, db):
    needle = secrets.token_hex(16)
    db.rows("CREATE TABLE users (id int, email text)")
    db.rows("INSERT INTO users VALUES (1, %s)", needle)
    db.call("protect", "users", "email")
    migrate(db)
    data, wal = files(cluster)
    assert needle.encode() in data and needle.encode() in wal
    db.rows("VACUUM FULL users")
    for _ in range(4):
        db.rows("SELECT pg_switch_wal(); CHECKPOINT")
    data, _ = files(cluster)
    assert needle.encode() not in data
