"""Rows from before their table was protected: digested in place, in batches, while others
write."""

import json
import random
import secrets
import threading
import time

import psycopg
import psycopg.sql
import pytest

from conftest import Database, wait_until
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


def stop_at(db, id):
    """Makes the migration fail when it comes to that row."""
    db.rows(f"CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN IF NEW.id = {id} THEN RAISE 'enough'; END IF; RETURN NEW; END $$; "
            "CREATE TRIGGER stop BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION stop()")


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


def progress_with(**changed):
    return json.dumps({"clean": [], "started_at": 1, "finished_at": None, "round": 1, "part": "public.others", "page": 0,
                       "pages_total": 2, "pages_done": 1, "rows": 5, "left": 9, "idle_rounds": 0} | changed)


HOSTILE_COMMENTS = [
    "x", "{}", "[1]", '"x"', "[" * 20_000, '{"clean":' * 20_000, "1" * 100_000, "1e999", "\u00e9\ufffd",
    *[progress_with(**changed) for changed in (
        {"clean": "email"}, {"clean": [1]}, {"clean": None}, {"pages_total": "x"}, {"pages_done": -1}, {"rows": 1e300},
        {"rows": 2**63}, {"round": 2**31}, {"round": None}, {"page": 1.5}, {"started_at": "never"}, {"started_at": 2**62},
        {"started_at": -(2**63)}, {"finished_at": 2**62}, {"part": 7}, {"part": "a\0b"}, {"clean": ["a\0b"]}, {"left": []})],
]


def comment_on(db, table, comment):
    db.session.execute(psycopg.sql.SQL("COMMENT ON TRIGGER {} ON {} IS {}").format(
        psycopg.sql.Identifier("~keysmith_1_hash"), psycopg.sql.Identifier(table), comment))


def test_what_an_owner_writes_there_is_no_error_for_others(users):
    users.rows("CREATE TABLE others (email text); INSERT INTO others VALUES ('x')")
    for table in ("users", "others"):
        users.call("protect", table, "email")
    migrate(users)
    for comment in [*HOSTILE_COMMENTS, None]:
        comment_on(users, "others", comment)
        found = {str(row[0]): row.phase for row in users.rows("SELECT * FROM keysmith.hashing_progress")}
        assert found == {"users": "done", "others": "not begun"}, comment
    # The control: this one is read.
    comment_on(users, "others", progress_with())
    row, = users.rows("SELECT * FROM keysmith.hashing_progress WHERE relation = 'others'::regclass")
    assert row[1:7] == ("digesting rows", "public.others", 1, 2, 1, 5)
    for comment in HOSTILE_COMMENTS:
        comment_on(users, "others", comment)
        users.rows("UPDATE others SET email = 'x'")
        migrate(users, "others")
        assert users.rows("SELECT email FROM others") == [(text("x"),)]


def test_progress_in_another_encoding(cluster):
    """A comment can name characters that the database's encoding lacks."""
    cluster.execute("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        with cluster.connect("latin", row_factory=psycopg.rows.namedtuple_row) as session:
            db = Database(session)
            db.rows("CREATE EXTENSION keysmith; CREATE SCHEMA \"sché\"; CREATE TABLE \"sché\".\"tblé\" (\"cé\" text); "
                    "INSERT INTO \"sché\".\"tblé\" VALUES ('é'); SELECT keysmith.protect('\"sché\".\"tblé\"', 'cé')")
            for part in ("\u4e2d", "sch\u00e9.t"):
                db.session.execute(psycopg.sql.SQL('COMMENT ON TRIGGER "~keysmith_1_hash" ON "sché"."tblé" IS {}').format(
                    json.dumps(json.loads(progress_with(part=part)))))
                assert db.rows("SELECT phase, part FROM keysmith.hashing_progress") == (
                    [("not begun", None)] if part == "\u4e2d" else [("digesting rows", part)])
            db.rows("CALL keysmith.protect_existing('\"sché\".\"tblé\"')")
            assert db.value('SELECT "cé" FROM "sché"."tblé"') == text("é")
    finally:
        cluster.execute("DROP DATABASE latin WITH (FORCE)")


def test_progress_is_for_owners_and_for_who_sees_everything(cluster, dbname, users):
    users.rows("CREATE ROLE app LOGIN; CREATE ROLE watcher LOGIN; CREATE TABLE own (email text); ALTER TABLE own OWNER TO app")
    try:
        users.call("grant_access", "app", "verifier")
        users.call("grant_access", "watcher", "auditor")
        for table in ("users", "own"):
            users.call("protect", table, "email")
        for role, tables in {"app": ["own"], "watcher": ["own", "users"], "postgres": ["own", "users"]}.items():
            with cluster.connect(dbname, user=role) as session:
                assert session.execute("SELECT relation::text FROM keysmith.hashing_progress ORDER BY 1").fetchall() \
                    == [(table,) for table in tables]
    finally:
        users.rows("DROP OWNED BY app, watcher; DROP ROLE app, watcher")


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
    stop_at(users, 2000)
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
    stop_at(users, 2000)
    with pytest.raises(psycopg.Error, match="enough"):
        migrate(users, pages=3)
    users.rows("DROP TRIGGER stop ON users")
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
    """Updates of other columns move plain rows to pages that the scan has passed; updates of the
    column itself must not be digested twice."""
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
        # Every row is digested when it ends, and stays so.
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
    # The user decides what the value is.
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


# Role and obstacles

@pytest.fixture
def owned(cluster, dbname, db):
    """A table of a role without grants, with older rows."""
    db.rows("CREATE ROLE owner LOGIN; GRANT ALL ON SCHEMA public TO owner; SET ROLE owner; "
            "CREATE TABLE users (id int PRIMARY KEY, email text UNIQUE, n int DEFAULT 0); "
            "INSERT INTO users SELECT n, 'user' || n FROM generate_series(1, 300) n; "
            "CREATE TABLE seen (role name, caller name, path text); RESET ROLE")
    db.call("protect", "users", "email")
    yield db
    db.session.close()
    cluster.execute(f"DROP DATABASE {dbname} WITH (FORCE)")
    cluster.execute("DROP ROLE owner")


def all_digested(db):
    return db.value("SELECT bool_and(email = keysmith.digest('user' || id)) FROM users")


def test_triggers_run_as_the_owner_and_leave_nothing(owned):
    db = owned
    db.session.execute("""
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO public.seen VALUES (current_user, session_user, current_setting('search_path'));
            PERFORM set_config('search_path', 'evil', false);
            PERFORM set_config('work_mem', '65MB', false);
            RETURN coalesce(NEW, OLD);
        END $$;
        CREATE TRIGGER a BEFORE UPDATE ON users FOR EACH ROW WHEN (NEW.id = 7) EXECUTE FUNCTION note();
        CREATE TRIGGER b AFTER UPDATE ON users REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note()""")
    db.rows("SET search_path = public, pg_temp")
    migrate(db)
    assert all_digested(db)
    assert set(db.rows("SELECT role, caller FROM seen")) == {("owner", "postgres")}
    # They find the same tables as in any update.
    assert db.value("SELECT path FROM seen LIMIT 1") == "public, pg_temp"
    assert db.value("SHOW search_path") == "public, pg_temp" and db.value("SHOW work_mem") != "65MB"
    assert db.value("SELECT current_user") == "postgres"


@pytest.mark.parametrize("trick", [
    "SET ROLE postgres", "SET SESSION AUTHORIZATION postgres", "CREATE TEMP TABLE t (x int)", "LISTEN x",
    "PREPARE p AS SELECT 1", "DECLARE c CURSOR WITH HOLD FOR SELECT 1", "RESET ROLE",
])
def test_triggers_are_confined(owned, trick):
    db = owned
    db.session.execute(f"""
        CREATE FUNCTION trick() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN EXECUTE '{trick}'; RETURN NEW; END $$;
        CREATE TRIGGER a BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION trick()""")
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        migrate(db)


@pytest.mark.parametrize("deferred", [
    "CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED "
    "FOR EACH ROW EXECUTE FUNCTION note()",
    "CREATE TABLE mails (email text REFERENCES users (email) DEFERRABLE INITIALLY DEFERRED)",
    "ALTER TABLE users ADD FOREIGN KEY (email) REFERENCES users (email) DEFERRABLE INITIALLY DEFERRED",
])
def test_what_is_deferred_runs_as_the_owner_too(owned, deferred):
    db = owned
    db.session.execute("""
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            INSERT INTO seen VALUES (current_user, session_user); RETURN NEW; END $$""")
    db.rows(deferred)
    migrate(db)
    assert all_digested(db)
    if "TRIGGER" in deferred:
        assert set(db.rows("SELECT role, caller FROM seen")) == {("owner", "postgres")}


def test_what_defers_itself_again_fails(owned):
    db = owned
    db.session.execute("""
        CREATE FUNCTION defer() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            SET CONSTRAINTS ALL DEFERRED; INSERT INTO seen VALUES (current_user, session_user); RETURN NEW; END $$;
        CREATE TRIGGER a BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION defer();
        CREATE CONSTRAINT TRIGGER late AFTER UPDATE ON users DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION defer()""")
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="deferred"):
        migrate(db)
    assert db.rows("SELECT * FROM seen") == []


def test_rules_and_policies_keep_no_row_back(owned):
    db = owned
    db.rows("CREATE RULE none AS ON UPDATE TO users DO INSTEAD NOTHING; "
            "CREATE POLICY few ON users USING (id < 10); ALTER TABLE users ENABLE ROW LEVEL SECURITY; "
            "ALTER TABLE users FORCE ROW LEVEL SECURITY")
    migrate(db)
    assert all_digested(db) and progress(db).rows_done == 300


@pytest.mark.parametrize("way", [
    "CREATE TRIGGER a BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION back()",
    "CREATE TRIGGER \"~~late\" BEFORE UPDATE ON users FOR EACH ROW EXECUTE FUNCTION back()",
])
def test_values_that_a_trigger_puts_back_are_given_up(owned, way):
    db = owned
    result = "OLD" if "late" in way else "NULL"
    db.rows(f"CREATE FUNCTION back() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN {result}; END $$; {way}")
    with pytest.raises(psycopg.Error, match="300 values of public.users stay as they are") as error:
        migrate(db)
    assert error.value.sqlstate == "KS409"
    db.rows("DROP FUNCTION back() CASCADE")
    migrate(db)
    assert all_digested(db)


@pytest.mark.parametrize("off, on", [
    ("ALTER TABLE users DISABLE TRIGGER USER", "ALTER TABLE users ENABLE TRIGGER USER"),
    ("ALTER TABLE users ENABLE REPLICA TRIGGER \"~keysmith_1_hash\"", "ALTER TABLE users ENABLE TRIGGER USER"),
    ("SET session_replication_role = replica", "RESET session_replication_role"),
    ("SET session_replication_role = replica", "ALTER TABLE users ENABLE ALWAYS TRIGGER \"~keysmith_1_hash\""),
])
def test_a_trigger_that_is_off(owned, off, on):
    db = owned
    db.rows(off)
    with pytest.raises(psycopg.Error, match="is disabled") as error:
        migrate(db)
    assert error.value.sqlstate == "KS409"
    db.rows(on)
    migrate(db)
    assert all_digested(db)


@pytest.mark.parametrize("change, sqlstate", [
    ("ALTER TABLE users RENAME email TO mail", "KS409"),
    ("ALTER TABLE users ALTER email TYPE varchar(77)", "KS409"),
    ("DROP TABLE users; CREATE VIEW users AS SELECT 1 AS id, 'x'::text AS email", "KS400"),
    ("ALTER TABLE users OWNER TO postgres", "42501"),
    ("SELECT keysmith.unprotect('users')", "KS404"),
    ("COMMENT ON TRIGGER \"~keysmith_1_hash\" ON users IS 'x'", "KS409"),
    ("ALTER TABLE users DISABLE TRIGGER USER", "KS409"),
    ("ALTER TABLE users ENABLE ROW LEVEL SECURITY; ALTER TABLE users FORCE ROW LEVEL SECURITY", "KS403"),
])
def test_all_is_checked_anew_in_each_transaction(cluster, dbname, owned, change, sqlstate):
    """The change waits for the first batch, and the second batch for the change."""
    db = owned
    db.call("grant_access", "owner", "verifier")
    db.rows("INSERT INTO users SELECT n, 'user' || n FROM generate_series(301, 3000) n")
    caught = []
    with cluster.connect(dbname, user="owner") as caller, cluster.connect(dbname, autocommit=False) as holder, \
            cluster.connect(dbname) as changer:
        holder.execute("SELECT FROM users WHERE id = 1 FOR UPDATE")

        def call():
            try:
                caller.execute("CALL keysmith.protect_existing('users', pages => 1)")
            except psycopg.Error as error:
                caught.append(error)

        thread = threading.Thread(target=call)
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        wait_until(lambda: db.value(waits, caller.info.backend_pid))
        changing = threading.Thread(target=lambda: changer.execute(f"BEGIN; LOCK TABLE users; {change}; COMMIT"))
        changing.start()
        wait_until(lambda: db.value(waits, changer.info.backend_pid))
        holder.rollback()
        changing.join()
        thread.join()
    (error,) = caught
    assert error.sqlstate == sqlstate, error


def test_two_at_once_share_the_work(cluster, dbname, owned):
    db = owned
    db.rows("INSERT INTO users SELECT n, 'user' || n FROM generate_series(301, 3000) n")
    caught = []

    def call():
        try:
            with cluster.connect(dbname) as session:
                session.execute("CALL keysmith.protect_existing('users', pages => 1)")
        except psycopg.Error as error:
            caught.append(error)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not caught and all_digested(db)
    assert db.value("SELECT count(*) FROM users WHERE keysmith.is_digest(email)") == 3000


def test_children_that_came_later(db, notices):
    db.rows("CREATE TABLE users (id int, email text)")
    db.call("protect", "users", "email")
    db.rows("INSERT INTO users VALUES (1, 'user1'); CREATE TABLE child () INHERITS (users); "
            "INSERT INTO child VALUES (2, 'user2')")
    with pytest.raises(psycopg.Error, match="child does not digest what its parent does") as error:
        migrate(db)
    assert error.value.sqlstate == "KS409" and "protect again" in error.value.diag.message_hint
    db.call("protect", "users", "email")
    migrate(db)
    assert all_digested(db)
    # A value that looks like a digest is not guessed at.
    db.rows("CREATE TABLE another () INHERITS (users); INSERT INTO another VALUES (3, 'user3'), (4, keysmith.digest('x'))")
    notices.clear()
    db.call("protect", "users", "email")
    assert any(severity == "WARNING" and "look like digests" in message for severity, message in notices)
    with pytest.raises(psycopg.Error, match="trust_digests|looked like digests"):
        migrate(db)
    migrate(db, trust_digests="true")
    assert db.value("SELECT email FROM users WHERE id = 3") == text("user3")


def test_nobody_writes_while_it_is_seen_what_values_look_like(cluster, dbname, users):
    users.rows("UPDATE users SET email = keysmith.digest('user7') WHERE id = 7; SELECT keysmith.protect('users', 'email')")
    with cluster.connect(dbname, autocommit=False) as writer, cluster.connect(dbname) as caller:
        writer.execute("INSERT INTO users VALUES (0, 'user0')")
        thread = threading.Thread(target=migrate, args=(Database(caller),), kwargs={"trust_digests": "true"})
        thread.start()
        wait_until(lambda: users.rows("SELECT mode FROM pg_locks WHERE NOT granted AND pid = %s AND relation = 'users'::regclass",
                                      caller.info.backend_pid) == [("ShareRowExclusiveLock",)])
        writer.commit()
        thread.join()
    assert users.value("SELECT bool_and(email = keysmith.digest('user' || id)) FROM users")


def test_a_column_that_is_protected_meanwhile(cluster, dbname, users):
    users.call("protect", "users", "email")
    users.rows("UPDATE users SET phone = keysmith.digest('x') WHERE id = 5")
    caught = []
    with cluster.connect(dbname, autocommit=False) as holder, cluster.connect(dbname) as caller, \
            cluster.connect(dbname) as changer:
        holder.execute("SELECT FROM users WHERE id = 1 FOR UPDATE")

        def call():
            try:
                migrate(Database(caller), pages=1)
            except psycopg.Error as error:
                caught.append(error)

        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND pid = %s"
        thread = threading.Thread(target=call)
        thread.start()
        wait_until(lambda: users.value(waits, caller.info.backend_pid))
        changing = threading.Thread(target=changer.execute, args=("SELECT keysmith.protect('users', 'phone')",))
        changing.start()
        wait_until(lambda: users.value(waits, changer.info.backend_pid))
        holder.rollback()
        changing.join()
        thread.join()
    (error,) = caught
    assert error.sqlstate == "KS409" and "column phone of public.users was protected meanwhile" in str(error)
    with pytest.raises(psycopg.Error, match="looked like digests"):
        migrate(users)
    migrate(users, trust_digests="true")
    check_all_but_phone_5 = "SELECT bool_and(keysmith.matches('+' || id, phone)) FROM users WHERE id <> 5 AND phone IS NOT NULL"
    assert users.value(check_all_but_phone_5)
