"""Identity: what makes it, what ends it, and that nothing else does."""

import json
import random
import re

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import needs, session as session_on, wait_until
from majors import FORCE_PARALLEL

GARBAGE = "ks_live_garbage"
FUNCTIONS = ["current_tenant", "current_tenant_id", "current_keyspace", "current_key",
             "current_environment", "current_owner", "whoami"]


@pytest.fixture
def keys(db):
    """A key of each of two tenants."""
    return {name: tenant_with_key(db, name) for name in ("acme", "globex")}


def tenant_with_key(db, name, **options):
    db.tenant(name)
    return db.mint(name, **options)


def sign_in(db, key, **options):
    verdict = db.verify(key.api_key, sign_in=True, **options)
    assert verdict.ok, verdict.reason
    return verdict


def tenant_of(db):
    return db.value("SELECT keysmith.current_tenant()")


def nobody(db):
    """Whether no function returns an identity."""
    calls = ", ".join(f"keysmith.{name}()" for name in FUNCTIONS)
    *known, has = db.row(f"SELECT {calls}, keysmith.has_scope('a')")
    return known == [None] * len(FUNCTIONS) and has is False


def over(db, statement="SELECT keysmith.current_tenant()"):
    """Checks that the identity has ended, and returns the message."""
    with pytest.raises(psycopg.Error) as error:
        db.rows(statement)
    assert error.value.sqlstate == "KS401", error.value
    assert "authenticate again" in error.value.diag.message_hint
    return error.value.diag.message_primary


@pytest.fixture
def role(cluster, dbname):
    """A role that may name our functions, but call only those granted to PUBLIC."""
    cluster.execute("CREATE ROLE someone LOGIN")
    cluster.execute("GRANT USAGE ON SCHEMA keysmith TO someone", dbname)
    yield "someone"
    # A failed test may have left a transaction with locks.
    cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{dbname}'")
    cluster.execute("DROP OWNED BY someone", dbname)
    cluster.execute("DROP ROLE someone")


# Making an identity

def test_without_a_decision_there_is_nobody(db, keys):
    assert nobody(db)
    db.rows("BEGIN")
    assert nobody(db)
    assert db.verify(keys["acme"].api_key).ok
    db.call("verify_many", [keys["acme"].api_key])
    db.call("explain_verify", keys["acme"].api_key)
    assert nobody(db), "none of these signs in"
    db.rows("COMMIT")


def test_all_that_there_is_to_know(db):
    db.call("define_role", "default", "editor", ["read", "write"])
    tenant_id = db.tenant(plan="pro", metadata=Jsonb({"region": "eu"}))
    db.call("set_member", "acme", "ann", "editor")
    key = db.mint(owner="ann", environment="test", label="CI", metadata=Jsonb({"a": 1}))
    db.rows("BEGIN")
    sign_in(db, key)
    assert db.row("SELECT keysmith.current_tenant(), keysmith.current_tenant_id(), "
                  "keysmith.current_keyspace(), keysmith.current_key(), "
                  "keysmith.current_environment(), keysmith.current_owner()") == (
        "acme", tenant_id, "default", key.key_id, "test", "ann")
    profile = db.value("SELECT keysmith.whoami()")
    assert profile.pop("created_at") and profile.pop("key_snippet")
    assert profile == {
        "key_id": str(key.key_id), "display_id": None, "label": "CI",
        "key_prefix": key.key_prefix, "kind": "secret", "environment": "test",
        "keyspace": "default", "owner": "ann", "role": "editor", "scopes": ["read", "write"],
        "expires_at": None, "key_metadata": {"a": 1}, "tenant": "acme",
        "tenant_id": str(tenant_id), "plan": "pro", "metadata": {"region": "eu"},
        "credits": None, "refill": None}
    assert key.api_key not in json.dumps(profile)
    db.rows("COMMIT")


def test_the_profile_has_the_credits_of_who_pays(db):
    db.tenant(credits=Jsonb({"balance": 10, "refill": 50, "every": "day"}))
    shared, own = db.mint(), db.mint(credits=3)
    successor = db.one("rotate", own.key_id, "1 hour")

    def credits(key, spend=0):
        db.rows("BEGIN")
        assert sign_in(db, key, spend=spend).ok
        held = db.value("SELECT keysmith.whoami() -> 'credits'")
        db.rows("COMMIT")
        return held

    assert [credits(key) for key in (shared, own, successor)] == [10, 3, 3]
    assert (credits(shared, spend=4), credits(own, spend=1)) == (6, 2)
    assert [credits(key) for key in (shared, own, successor)] == [6, 2, 2]
    db.rows("UPDATE keysmith_private.credit SET refilled_at = refilled_at - interval '1 day'")
    assert [credits(key) for key in (shared, own)] == [50, 2]


def test_authenticate_signs_in(db, keys):
    db.rows("BEGIN")
    headers = Jsonb({"Authorization": f"Bearer {keys['acme'].api_key}"})
    assert db.one("authenticate", headers, "GET", "/").ok
    assert tenant_of(db) == "acme"
    db.rows("COMMIT")


def test_a_digest_signs_in(db, keys):
    db.rows("BEGIN")
    db.row("SELECT * FROM keysmith.verify_digest(sha256(%s), sign_in => true)",
           keys["globex"].api_key.encode())
    assert tenant_of(db) == "globex"
    db.rows("COMMIT")


@pytest.mark.parametrize("refused", [
    ("verify", {"api_key": GARBAGE, "sign_in": True}),
    ("verify", {"api_key": None, "sign_in": True}),
    ("verify", {"api_key": "KEY", "sign_in": True, "scopes": None}),
    ("verify", {"api_key": "KEY", "sign_in": True, "keyspace": "none"}),
    ("verify", {"api_key": "KEY", "sign_in": True, "environment": "test"}),
    ("verify_digest", {"digest": b"short", "sign_in": True}),
    ("authenticate", {"headers": None, "method": "GET", "path": "/"}),
    ("authenticate", {"headers": Jsonb([]), "method": "GET", "path": "/"}),
    ("authenticate", {"headers": Jsonb({"Authorization": "Bearer KEY"}), "method": None, "path": "/"}),
    ("authenticate", {"headers": Jsonb({"Authorization": f"Bearer {GARBAGE}"}), "method": "GET", "path": "/"}),
], ids=str)
def test_a_refused_decision_clears_it(db, keys, refused):
    function, arguments = refused
    arguments = {name: keys["acme"].api_key if value == "KEY" else value
                 for name, value in arguments.items()}
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    db.rows("SAVEPOINT before")
    assert not db.one(function, **arguments).ok
    assert nobody(db)
    db.rows("ROLLBACK TO before")
    assert tenant_of(db) == "acme"
    assert not db.one(function, **arguments).ok
    db.rows("RELEASE before")
    assert nobody(db)
    db.rows("COMMIT")


def test_a_refusal_that_does_not_sign_in_leaves_it(db, keys):
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    assert not db.verify(GARBAGE).ok
    assert tenant_of(db) == "acme"
    db.rows("COMMIT")


def test_the_last_one_is_in_force(db, keys):
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    sign_in(db, keys["globex"])
    assert tenant_of(db) == "globex"
    db.call("sign_out")
    assert nobody(db)
    sign_in(db, keys["acme"])
    assert tenant_of(db) == "acme"
    db.rows("COMMIT")


def test_sign_in_must_be_said(db, keys):
    db.refused("KS400", "verify", keys["acme"].api_key, sign_in=None)


@pytest.mark.parametrize("statement", ["ANALYZE theirs.t", "REINDEX TABLE theirs.t",
                                       "REFRESH MATERIALIZED VIEW theirs.v"])
@pytest.mark.parametrize("call", ["verify('{key}', sign_in => true)", "verify('nonsense', sign_in => true)",
                                  "authenticate('{{\"x-api-key\": \"{key}\"}}', 'GET', '/')", "sign_out()"])
def test_what_an_owner_leaves_in_a_table_changes_nobody(cluster, dbname, db, keys, role, call, statement):
    """A role that analyzes a table runs code of the owner, which must not have lasting effects:
    the rest of the transaction would act for a tenant of the owner's choice."""
    db.call("grant_access", role, "verifier")
    call = call.format(key=keys["acme"].api_key)
    db.rows(f"""
        CREATE SCHEMA theirs; GRANT ALL ON SCHEMA theirs TO {role};
        SET ROLE {role};
        CREATE FUNCTION theirs.same(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN n; END';
        CREATE TABLE theirs.t AS SELECT 1 AS n;
        CREATE INDEX ON theirs.t (theirs.same(n));
        CREATE MATERIALIZED VIEW theirs.v AS SELECT theirs.same(n) FROM theirs.t;
        CREATE OR REPLACE FUNCTION theirs.same(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$ BEGIN
            PERFORM keysmith.{call}; RETURN n; END $f$;
        RESET ROLE""")
    with db.session.transaction():
        sign_in(db, keys["globex"])
        with pytest.raises(psycopg.Error) as error, db.session.transaction():
            db.rows(statement)
        assert error.value.sqlstate == "KS403", error.value
        assert tenant_of(db) == "globex"


# Ending an identity

@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "ROLLBACK AND CHAIN",
                                    "SELECT 1/0; -- and then ROLLBACK"])
def test_it_ends_with_the_transaction(db, keys, ending):
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    try:
        db.rows(ending)
    except psycopg.errors.DivisionByZero:
        db.rows("ROLLBACK")
    assert nobody(db)
    db.rows("BEGIN")
    assert nobody(db)
    db.rows("ROLLBACK")


def test_a_statement_of_its_own_is_a_transaction_of_its_own(db, keys):
    sign_in(db, keys["acme"])
    assert nobody(db)
    # A failed one too.
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.rows("SELECT 1 / (CASE WHEN (keysmith.verify(%s, sign_in => true)).ok THEN 0 END)",
                keys["acme"].api_key)
    assert nobody(db)


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK"])
def test_procedures_that_end_transactions_end_it(db, keys, ending):
    key = keys["acme"].api_key
    body = f"""
        DECLARE seen text[];
        BEGIN
            PERFORM keysmith.verify('{key}', sign_in => true);
            seen := ARRAY[keysmith.current_tenant()];
            {ending};
            seen := seen || coalesce(keysmith.current_tenant(), 'nobody');
            PERFORM keysmith.verify('{key}', sign_in => true);
            seen := seen || keysmith.current_tenant();
            RAISE NOTICE '%', seen;
        END"""
    said = []
    db.session.add_notice_handler(lambda notice: said.append(notice.message_primary))
    db.rows(f"DO $${body}$$")
    db.rows(f"CREATE PROCEDURE p() LANGUAGE plpgsql AS $${body}$$")
    db.rows("CALL p()")
    assert said == ["{acme,nobody,acme}"] * 2
    assert nobody(db)


def test_a_loop_that_commits_reads_on_as_nobody(db, keys):
    """Its query began under an identity; the cursor kept its rows, but not the identity."""
    said = []
    db.session.add_notice_handler(lambda notice: said.append(notice.message_primary))
    db.rows(f"""
        DO $$
        DECLARE n int;
        BEGIN
            PERFORM keysmith.verify('{keys["acme"].api_key}', sign_in => true);
            FOR n IN SELECT generate_series(1, 3) LOOP
                RAISE NOTICE '%', coalesce(keysmith.current_tenant(), 'nobody');
                COMMIT;
            END LOOP;
        END $$""")
    assert said == ["acme", "nobody", "nobody"]


@pytest.mark.parametrize("manages", [False, True])
def test_a_prepared_transaction_takes_it_along_nowhere(db, connect, database, keys, manages):
    db.rows("CREATE TABLE work (tenant text)")
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    db.rows("INSERT INTO work VALUES (keysmith.current_tenant())")
    if manages:
        # A transaction that sends events can't be prepared; then no transaction is left.
        db.call("sign_out")
        db.call("disable", keys["globex"].key_id)
        sign_in(db, keys["acme"])
        with pytest.raises(psycopg.Error, match="can't be prepared"):
            db.rows("PREPARE TRANSACTION 'held'")
        assert nobody(db)
        return
    db.rows("PREPARE TRANSACTION 'held'")
    assert nobody(db)
    db.rows("BEGIN")
    assert nobody(db)
    db.rows("COMMIT")
    other = database(connect())
    other.rows("COMMIT PREPARED 'held'")
    assert nobody(other) and nobody(db)
    assert other.rows("SELECT * FROM work") == [("acme",)]


def test_the_rest_of_a_transaction_still_knows(db, keys):
    """Deferred triggers run before the end."""
    db.rows("CREATE TABLE t (n int); CREATE TABLE seen (tenant text)")
    db.rows("""CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
               $$ BEGIN INSERT INTO seen VALUES (keysmith.current_tenant()); RETURN NULL; END $$;
               CREATE CONSTRAINT TRIGGER late AFTER INSERT ON t DEFERRABLE INITIALLY DEFERRED
               FOR EACH ROW EXECUTE FUNCTION note()""")
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    db.rows("INSERT INTO t VALUES (1)")
    db.rows("COMMIT")
    assert db.rows("SELECT * FROM seen") == [("acme",)]


# Savepoints

def test_rolling_back_a_savepoint_restores_the_one_before(db, keys):
    db.rows("BEGIN; SAVEPOINT a")
    sign_in(db, keys["acme"])
    db.rows("SAVEPOINT b")
    sign_in(db, keys["globex"])
    db.rows("SAVEPOINT c")
    db.call("sign_out")
    assert nobody(db)
    db.rows("ROLLBACK TO c")
    assert tenant_of(db) == "globex"
    db.rows("ROLLBACK TO b")
    assert tenant_of(db) == "acme"
    db.rows("ROLLBACK TO a")
    assert nobody(db)
    db.rows("COMMIT")


def test_releasing_a_savepoint_keeps_what_it_did(db, keys):
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    db.rows("SAVEPOINT a; SAVEPOINT b")
    sign_in(db, keys["globex"])
    db.rows("RELEASE b")
    assert tenant_of(db) == "globex"
    db.rows("ROLLBACK TO a")
    assert tenant_of(db) == "acme"
    db.rows("SAVEPOINT b")
    db.call("sign_out")
    db.rows("RELEASE a")
    assert nobody(db)
    db.rows("COMMIT")


def test_many_levels(db, keys):
    depth = 200
    names = ["acme", "globex"]
    db.rows("BEGIN")
    for level in range(depth):
        db.rows(f"SAVEPOINT s{level}")
        sign_in(db, keys[names[level % 2]])
    for level in reversed(range(1, depth)):
        db.rows(f"ROLLBACK TO s{level}")
        assert tenant_of(db) == names[(level - 1) % 2]
    db.rows("ROLLBACK TO s0")
    assert nobody(db)
    db.rows("COMMIT")


def test_an_error_within_a_savepoint(db, keys):
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    db.rows("SAVEPOINT a")
    sign_in(db, keys["globex"])
    with pytest.raises(psycopg.errors.DivisionByZero):
        db.rows("SELECT 1/0")
    db.rows("ROLLBACK TO a")
    assert tenant_of(db) == "acme"
    db.rows("COMMIT")


def test_functions_that_catch_errors(db, keys):
    db.rows("""CREATE FUNCTION attempt(key text, fails boolean) RETURNS text LANGUAGE plpgsql AS $$
        DECLARE within text;
        BEGIN
            BEGIN
                PERFORM keysmith.verify(key, sign_in => true);
                within := keysmith.current_tenant();
                IF fails THEN RAISE 'no'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
            RETURN format('%s, then %s', within, coalesce(keysmith.current_tenant(), 'nobody'));
        END $$""")
    attempt = "SELECT attempt(%s, %s)"
    db.rows("BEGIN")
    assert db.value(attempt, keys["globex"].api_key, True) == "globex, then nobody"
    sign_in(db, keys["acme"])
    assert db.value(attempt, keys["globex"].api_key, True) == "globex, then acme"
    assert tenant_of(db) == "acme"
    assert db.value(attempt, keys["globex"].api_key, False) == "globex, then globex"
    assert tenant_of(db) == "globex"
    db.rows("COMMIT")
    assert nobody(db)


@pytest.mark.parametrize("seed", range(8))
def test_any_course_of_a_transaction(db, connect, database, keys, seed):
    """Random sequences, compared with a model: a list of the identities at each level."""
    chance = random.Random(seed)
    other = database(connect())
    db.rows("""CREATE FUNCTION in_block(key text, fails boolean) RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN PERFORM keysmith.verify(key, sign_in => true);
                 IF fails THEN RAISE 'no'; END IF;
           EXCEPTION WHEN raise_exception THEN NULL; END $$""")

    def step(levels):
        act = chance.choice(["in", "in", "out", "refused", "savepoint", "savepoint", "savepoint",
                             "rollback", "rollback", "release", "error", "block", "elsewhere"])
        name = chance.choice(list(keys))
        deeper = len(levels) > 1 and chance.randrange(1, len(levels))
        if act == "in":
            sign_in(db, keys[name])
            levels[-1] = name
        elif act == "out":
            db.call("sign_out")
            levels[-1] = None
        elif act == "refused":
            db.verify(GARBAGE, sign_in=True)
            levels[-1] = None
        elif act == "savepoint":
            db.rows(f"SAVEPOINT s{len(levels)}")
            levels.append(levels[-1])
        elif act in ("rollback", "error") and deeper:
            if act == "error":
                with pytest.raises(psycopg.errors.DivisionByZero):
                    db.rows("SELECT 1/0")
            db.rows(f"ROLLBACK TO s{deeper}")
            levels[deeper:] = [levels[deeper - 1]]
        elif act == "release" and deeper:
            db.rows(f"RELEASE s{deeper}")
            levels[deeper - 1:] = [levels[-1]]
        elif act == "block":
            fails = chance.random() < 0.5
            db.rows("SELECT in_block(%s, %s)", keys[name].api_key, fails)
            levels[-1] = levels[-1] if fails else name
        elif act == "elsewhere":
            # Another session's commit makes the identity be checked again.
            other.rows("SELECT pg_current_xact_id()")
        return act

    for _ in range(50):
        levels, course = [None], []
        db.rows("BEGIN")
        for _ in range(chance.randrange(1, 30)):
            course.append(step(levels))
            if chance.random() < 0.8:
                assert tenant_of(db) == levels[-1], (course, levels)
        assert tenant_of(db) == levels[-1], (course, levels)
        db.rows(chance.choice(["COMMIT", "ROLLBACK"]))
        assert nobody(db)


# Statements that neither make nor end an identity

@pytest.mark.parametrize("statement", [
    "SET keysmith.tenant = 'acme'",
    "SET LOCAL keysmith.current_tenant = 'acme'",
    "SELECT set_config('keysmith.tenant_id', gen_random_uuid()::text, true)",
    "ALTER ROLE postgres SET keysmith.tenant = 'acme'",
])
def test_settings_are_refused(db, keys, statement):
    for signed_in in (False, True):
        db.rows("BEGIN")
        if signed_in:
            sign_in(db, keys["globex"])
        db.rows("SAVEPOINT a")
        with pytest.raises(psycopg.Error, match="keysmith"):
            db.rows(statement)
        db.rows("ROLLBACK TO a")
        assert tenant_of(db) == ("globex" if signed_in else None)
        db.rows("COMMIT")


@pytest.mark.parametrize("statement", [
    "SELECT set_config('request.jwt.claims', '{\"tenant\": \"acme\"}', false)",
    "SET ROLE someone",
    "SET LOCAL SESSION AUTHORIZATION someone",
    "RESET ALL",
    "DISCARD TEMP",
    "SET search_path = pg_temp, public",
])
def test_no_setting_or_role_changes_it(db, keys, role, statement):
    db.rows("BEGIN")
    db.rows(statement)
    assert nobody(db)
    db.rows("ROLLBACK; BEGIN")
    sign_in(db, keys["globex"])
    db.rows(statement)
    assert tenant_of(db) == "globex"
    db.rows("ROLLBACK")
    assert nobody(db)


def test_discard_all_finds_nothing_to_keep(db, keys):
    sign_in(db, keys["acme"])
    db.rows("DISCARD ALL")
    assert nobody(db)


def test_a_connection_brings_none(cluster, dbname, database, keys):
    for options in ("-c keysmith.tenant=acme", "-c request.tenant=acme"):
        try:
            session = cluster.connect(dbname, options=options, row_factory=psycopg.rows.namedtuple_row)
        except psycopg.OperationalError:
            continue
        assert nobody(database(session))
        session.close()


def test_the_next_transaction_on_a_connection_has_none(db, keys):
    """After a pooler: the same session, another client's transaction."""
    for name in ("acme", "globex", "acme"):
        db.rows("BEGIN")
        assert nobody(db)
        sign_in(db, keys[name])
        assert tenant_of(db) == name
        db.rows("COMMIT")


def test_everyone_may_ask_and_no_one_may_make(cluster, dbname, db, database, keys, role):
    db.rows("""CREATE FUNCTION asks() RETURNS text LANGUAGE sql SECURITY DEFINER AS
               'SELECT keysmith.current_tenant()';
               CREATE FUNCTION lets_in(key text) RETURNS boolean LANGUAGE sql SECURITY DEFINER AS
               'SELECT ok FROM keysmith.verify(key, sign_in => true)';
               CREATE FUNCTION forges() RETURNS text LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
               PERFORM set_config('keysmith.tenant', 'acme', true); RETURN 'done';
               EXCEPTION WHEN OTHERS THEN RETURN 'refused'; END $$""")
    with cluster.connect(dbname, user=role, row_factory=psycopg.rows.namedtuple_row) as connection:
        someone = database(connection)
        assert nobody(someone)
        someone.refused("42501", "verify", keys["acme"].api_key, sign_in=True)
        someone.refused("42501", "sign_out")
        someone.value("SELECT forges()")
        assert nobody(someone)
        # An identity from a definer's function stays after it, and another role sees it.
        someone.rows("BEGIN")
        assert not someone.value("SELECT lets_in(%s)", GARBAGE)
        assert nobody(someone)
        assert someone.value("SELECT lets_in(%s)", keys["acme"].api_key)
        assert someone.value("SELECT asks()") == tenant_of(someone) == "acme"
        assert someone.value("SELECT keysmith.whoami() ->> 'tenant'") == "acme"
        someone.rows("ROLLBACK")


# Plans, cursors, workers

@pytest.fixture
def docs(db, keys, role):
    """A table of both tenants, and a role that is subject to row security."""
    db.rows("CREATE TABLE docs (tenant_id uuid NOT NULL, n int NOT NULL, body text)")
    db.rows("""INSERT INTO docs SELECT t.tenant_id, n, 'of ' || t.name
               FROM keysmith_private.tenant t, generate_series(1, CASE t.name WHEN 'acme' THEN 20 ELSE 30 END) n""")
    db.rows("CREATE INDEX ON docs (tenant_id); ANALYZE docs")
    db.call("isolate", "docs", "tenant_id")
    db.rows("GRANT SELECT, INSERT, UPDATE, DELETE ON docs TO someone")
    return "docs"


def test_plans_that_are_kept_ask_each_time(db, keys, docs):
    db.rows("SET plan_cache_mode = force_generic_plan; SET ROLE someone")
    db.rows("PREPARE who AS SELECT keysmith.current_tenant()")
    db.rows("PREPARE how_many AS SELECT count(*) FROM docs")
    db.rows("""CREATE TEMP TABLE t ();
               CREATE FUNCTION pg_temp.how_many() RETURNS bigint LANGUAGE plpgsql AS
               'BEGIN RETURN (SELECT count(*) FROM docs); END'""")
    db.rows("RESET ROLE")
    for name, count in [("acme", 20), ("globex", 30), (None, 0), ("acme", 20)]:
        db.rows("BEGIN")
        if name:
            sign_in(db, keys[name])
        db.rows("SET LOCAL ROLE someone")
        for _ in range(2):
            assert db.value("EXECUTE who") == name
            assert db.value("EXECUTE how_many") == count
            assert db.value("SELECT pg_temp.how_many()") == count
        db.rows("COMMIT")


def test_one_plan_in_one_transaction_of_two_tenants(db, keys, docs):
    db.rows("PREPARE how_many AS SELECT count(*), min(body), max(body) FROM docs")
    db.rows("BEGIN")
    for name, count in [("acme", 20), ("globex", 30)] * 4:
        db.rows("RESET ROLE")
        sign_in(db, keys[name])
        db.rows("SET ROLE someone")
        assert db.row("EXECUTE how_many") == (count, f"of {name}", f"of {name}")
    db.rows("ROLLBACK")


def test_a_cursor_is_asked_when_it_is_first_read(db, keys, docs):
    db.rows("BEGIN; SET LOCAL ROLE someone")
    db.rows("DECLARE before CURSOR FOR SELECT body FROM docs")
    db.rows("DECLARE who CURSOR FOR SELECT keysmith.current_tenant() FROM generate_series(1, 9)")
    db.rows("RESET ROLE")
    sign_in(db, keys["acme"])
    assert set(db.rows("FETCH 3 before")) == {("of acme",)}
    assert db.rows("FETCH 1 who") == [("acme",)]
    # A bare call is made for each row, and returns the identity of that moment.
    db.rows("SAVEPOINT a")
    sign_in(db, keys["globex"])
    assert db.rows("FETCH 1 who") == [("globex",)]
    db.rows("ROLLBACK TO a")
    assert db.rows("FETCH 1 who") == [("acme",)]
    db.call("sign_out")
    assert db.rows("FETCH 1 who") == [(None,)]
    # A query that has begun goes on with the tenant that it began with.
    assert set(db.rows("FETCH ALL before")) == {("of acme",)}
    db.rows("COMMIT")


def test_a_cursor_begun_within_a_savepoint_goes_with_it(db, keys, docs):
    db.rows("BEGIN; SAVEPOINT a")
    sign_in(db, keys["acme"])
    db.rows("DECLARE within CURSOR FOR SELECT body FROM docs")
    db.rows("FETCH 1 within")
    db.rows("ROLLBACK TO a; SAVEPOINT b")
    with pytest.raises(psycopg.errors.InvalidCursorName):
        db.rows("FETCH 1 within")
    db.rows("ROLLBACK")


def test_a_cursor_held_over_the_commit_holds_rows_and_no_identity(db, keys, docs):
    db.rows("BEGIN; SET LOCAL ROLE someone")
    db.rows("DECLARE nobodys CURSOR WITH HOLD FOR SELECT body FROM docs")
    db.rows("COMMIT")
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    assert db.rows("FETCH ALL nobodys") == [], "it was read when it was held, by nobody"
    db.rows("SET LOCAL ROLE someone")
    db.rows("DECLARE held CURSOR WITH HOLD FOR SELECT keysmith.current_tenant() FROM docs")
    db.rows("COMMIT")
    assert nobody(db)
    # Rows that were read for acme before the commit; nothing is read after it.
    assert db.rows("FETCH ALL held") == [("acme",)] * 20
    assert nobody(db)
    db.rows("BEGIN")
    sign_in(db, keys["globex"])
    db.rows("FETCH BACKWARD ALL held")
    assert db.rows("FETCH 2 held") == [("acme",)] * 2
    db.rows("COMMIT")


PARALLEL = """SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0;
              SET min_parallel_table_scan_size = 0; SET min_parallel_index_scan_size = 0;
              SET max_parallel_workers_per_gather = 2; SET parallel_leader_participation = off"""


def test_parallel_plans_return_the_right_rows(db, keys, docs):
    db.rows("INSERT INTO docs SELECT d.tenant_id, d.n, d.body FROM docs d, generate_series(1, 400)")
    db.rows("ANALYZE docs")
    db.rows(PARALLEL)
    query = "SELECT count(*), min(body), max(body) FROM docs"
    for name, count in [("acme", 20 * 401), ("globex", 30 * 401)]:
        for index in ("on", "off"):
            db.rows("BEGIN")
            sign_in(db, keys[name])
            db.rows(f"SET LOCAL ROLE someone; SET LOCAL enable_bitmapscan = {index}; "
                    f"SET LOCAL enable_indexscan = {index}; SET LOCAL enable_indexonlyscan = {index}")
            plan = "\n".join(line for line, in db.rows(f"EXPLAIN (ANALYZE, COSTS OFF) {query}"))
            assert "Workers Launched: 2" in plan or "Workers Launched: 1" in plan, plan
            assert db.row(query) == (count, f"of {name}", f"of {name}")
            db.rows("ROLLBACK")
    db.rows("BEGIN; SET LOCAL ROLE someone")
    assert db.value("SELECT count(*) FROM docs") == 0
    db.rows("ROLLBACK")


def test_the_leader_asks_while_workers_run(db, connect, database, keys, docs):
    """Also for every function, and if it must check again."""
    db.rows(PARALLEL)
    db.rows(f"SET {FORCE_PARALLEL} = on")
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    database(connect()).rows("SELECT pg_current_xact_id()")
    rows = db.rows("SELECT DISTINCT keysmith.whoami() ->> 'tenant', keysmith.has_scope('a'), "
                   "keysmith.current_tenant() FROM docs WHERE n > 0")
    assert rows == [("acme", True, "acme")]
    db.rows("ROLLBACK")


def test_a_worker_is_nobody(db, keys, docs):
    """A function with a wrong PARALLEL marking gets nothing, and leaves nothing."""
    db.rows(PARALLEL)
    db.rows(f"SET {FORCE_PARALLEL} = on")
    db.rows("""CREATE FUNCTION lies() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS
               $$ BEGIN RETURN format('%s %s', pg_backend_pid(), keysmith.current_tenant()); END $$""")
    leader = db.session.info.backend_pid
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    answers = {tuple(answer.split(" ")) for answer, in db.rows("SELECT DISTINCT lies() FROM docs")}
    assert answers and all(int(pid) != leader and tenant == "" for pid, tenant in answers)
    assert tenant_of(db) == "acme"
    db.rows("COMMIT")
    assert nobody(db)


# Scopes

@pytest.mark.parametrize("scope, held", [
    ("images:write", True), ("images:read", False), ("images", False),
    ("docs:read", True), ("docs:anything", True),
    ("images:write & docs:read", True), ("images:read | docs:read", True),
    ("images:read & docs:read", False), (None, False),
])
def test_has_scope(db, scope, held):
    key = tenant_with_key(db, "acme", scopes=["images:write", "docs:*"])
    assert db.value("SELECT keysmith.has_scope(%s)", scope) is False
    db.rows("BEGIN")
    sign_in(db, key)
    assert db.value("SELECT keysmith.has_scope(%s)", scope) is held
    db.call("sign_out")
    assert db.value("SELECT keysmith.has_scope(%s)", scope) is False
    db.rows("COMMIT")


@pytest.mark.parametrize("scope", [
    "", " ", "*", "docs:*", "&", "images:write &", "images:write docs:read", "%s%n", "'; DROP TABLE x; --", "ü",
    "x" * 129, "x" * 5000,
])
def test_has_scope_of_what_cannot_be_read(db, keys, scope):
    assert "scope" in db.refused("KS400", "has_scope", scope)
    db.rows("BEGIN")
    sign_in(db, keys["acme"])
    assert "scope" in db.refused("KS400", "has_scope", scope)
    db.rows("ROLLBACK")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_changed_scopes_count_at_once(db, connect, database, isolation):
    db.call("define_role", "default", "editor", ["read", "write"])
    db.call("define_role", "default", "reader", ["read"])
    db.tenant()
    db.call("set_member", "acme", "ann", "editor")
    key = db.mint(owner="ann", scopes=["read", "write", "admin"])
    asking = database(connect())
    asking.rows(f"BEGIN ISOLATION LEVEL {isolation}")
    sign_in(asking, key)

    def holds():
        return [scope for scope in ("read", "write", "extra")
                if asking.value("SELECT keysmith.has_scope(%s)", scope)]

    assert holds() == ["read", "write"]
    db.call("define_role", "default", "editor", ["read", "write", "extra"])
    assert holds() == ["read", "write"]
    db.call("alter_key", key.key_id, Jsonb({"scopes": ["*"]}))
    assert holds() == ["read", "write", "extra"]
    db.call("define_role", "default", "editor", ["extra"])
    assert holds() == ["extra"]
    db.call("set_member", "acme", "ann", "reader")
    assert holds() == ["read"]
    assert asking.value("SELECT keysmith.whoami() -> 'scopes'") == ["read"]
    assert asking.value("SELECT keysmith.whoami() ->> 'role'") == "reader"
    db.call("remove_member", "acme", "ann")
    over(asking, "SELECT keysmith.has_scope('read')")
    asking.rows("ROLLBACK")


def test_scopes_that_were_rolled_back_do_not_count(db):
    """Also if they were asked for in between, and so cached."""
    key = tenant_with_key(db, "acme", scopes=["read"])
    db.rows("BEGIN")
    sign_in(db, key)
    db.rows("SAVEPOINT a")
    # By hand, since a key can't give itself more.
    db.rows("UPDATE keysmith_private.key SET scopes = '{*}'")
    database_wide = "SELECT keysmith.has_scope('write')"
    db.rows("SAVEPOINT b")
    sign_in(db, key)
    assert db.value(database_wide)
    db.rows("RELEASE b; ROLLBACK TO a")
    assert not db.value(database_wide)
    db.rows("COMMIT")


# Checking again

ENDINGS = {
    "revoked": ("SELECT keysmith.revoke(%(key_id)s)", "was revoked"),
    "leaked": ("SELECT keysmith.report_leak(%(api_key)s, 'a page')", "was revoked"),
    "rotated": ("SELECT keysmith.rotate(%(key_id)s)", "was revoked"),
    "disabled": ("SELECT keysmith.disable(%(key_id)s)", "was disabled"),
    "suspended": ("SELECT keysmith.suspend_tenant('acme')", "tenant .* was suspended"),
    "owner removed": ("SELECT keysmith.remove_member('acme', 'ann')", "owner .* was removed"),
    "allowlist": ("""SELECT keysmith.alter_key(%(key_id)s, '{"allowlist": ["10.9.0.0/16"]}')""",
                  "no longer be used from its address"),
    "expiry": ("UPDATE keysmith_private.key SET expires_at = now() WHERE key_id = %(key_id)s", "has expired"),
    "by hand": ("DELETE FROM keysmith_private.key WHERE key_id = %(key_id)s", "is gone"),
}


@pytest.fixture
def anns(db):
    db.call("define_role", "default", "any", ["*"])
    db.tenant()
    db.call("set_member", "acme", "ann", "any")
    return db.mint(owner="ann")


@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_key_that_ends_ends_the_identity(db, connect, database, anns, isolation, ending):
    statement, message = ENDINGS[ending]
    acting = database(connect())
    acting.rows(f"BEGIN ISOLATION LEVEL {isolation}")
    sign_in(acting, anns, ip="10.0.0.1")
    assert tenant_of(acting) == "acme"
    acting.rows("CREATE TABLE half (n int)")
    db.session.execute(statement, {"key_id": anns.key_id, "api_key": anns.api_key})
    # Never a null, however often it is called, in every function.
    for name in [*FUNCTIONS, "has_scope"]:
        acting.rows("SAVEPOINT a")
        argument = "'a'" if name == "has_scope" else ""
        assert re.search(message, over(acting, f"SELECT keysmith.{name}({argument})"))
        acting.rows("ROLLBACK TO a")
    over(acting)
    acting.rows("ROLLBACK")
    assert nobody(acting)
    assert db.value("SELECT to_regclass('half')") is None


def test_before_the_commit_nothing_has_ended(db, connect, database, anns):
    acting, ending = database(connect()), database(connect())
    acting.rows("BEGIN")
    sign_in(acting, anns)
    ending.rows("BEGIN")
    ending.call("revoke", anns.key_id)
    db.rows("SELECT pg_current_xact_id()")
    assert tenant_of(acting) == "acme"
    ending.rows("ROLLBACK")
    assert tenant_of(acting) == "acme"
    ending.call("revoke", anns.key_id)
    over(acting)
    acting.rows("ROLLBACK")


def test_a_change_that_is_committed_in_two_phases(db, connect, database, anns):
    acting = database(connect())
    acting.rows("BEGIN")
    sign_in(acting, anns)
    db.rows("BEGIN; UPDATE keysmith_private.key SET disabled_at = now(); PREPARE TRANSACTION 'two'")
    assert tenant_of(acting) == "acme"
    db.rows("COMMIT PREPARED 'two'")
    assert "disabled" in over(acting)
    acting.rows("ROLLBACK")


def test_an_end_that_is_taken_back(db, connect, database, anns):
    acting = database(connect())
    acting.rows("BEGIN")
    sign_in(acting, anns)
    for end, mend in (("SELECT keysmith.disable(%s)", "SELECT keysmith.enable(%s)"),
                      ("SELECT keysmith.suspend_tenant('acme') WHERE %s IS NOT NULL",
                       "SELECT keysmith.resume_tenant('acme') WHERE %s IS NOT NULL")):
        db.rows(end, anns.key_id)
        acting.rows("SAVEPOINT a")
        over(acting)
        acting.rows("ROLLBACK TO a")
        db.rows(mend, anns.key_id)
        assert tenant_of(acting) == "acme"
    acting.rows("COMMIT")


def test_after_its_end_another_may_sign_in(db, connect, database, anns):
    another = db.mint()
    acting = database(connect())
    acting.rows("BEGIN")
    sign_in(acting, anns)
    db.call("revoke", anns.key_id)
    acting.rows("SAVEPOINT a")
    over(acting)
    acting.rows("ROLLBACK TO a")
    assert acting.verify(anns.api_key, sign_in=True).reason == "revoked"
    assert nobody(acting)
    sign_in(acting, another)
    assert acting.value("SELECT keysmith.current_key()") == another.key_id
    acting.rows("COMMIT")


def test_a_savepoint_does_not_bring_back_a_key_that_ended(db, connect, database, anns):
    another = db.mint()
    acting = database(connect())
    acting.rows("BEGIN")
    sign_in(acting, anns)
    acting.rows("SAVEPOINT a")
    sign_in(acting, another)
    db.call("revoke", anns.key_id)
    assert tenant_of(acting) == "acme"
    acting.rows("ROLLBACK TO a")
    over(acting)
    acting.rows("ROLLBACK")


def test_expiry_passes(db, connect, database):
    db.tenant()
    end = db.value("SELECT clock_timestamp() + '3 s'")
    key = db.one("mint", "acme", expires_at=end)
    acting = database(connect())
    acting.rows("BEGIN")
    sign_in(acting, key)
    assert tenant_of(acting) == "acme"
    acting.rows("SELECT pg_sleep(extract(epoch FROM %s - clock_timestamp()))", end)
    assert "expired" in over(acting)
    acting.rows("ROLLBACK")


@pytest.mark.parametrize("act", ["revoke", "disable", "rotate"])
def test_a_transaction_that_ends_its_own_key(db, anns, act):
    db.call("set_member", "acme", "ann", "any")
    db.rows("BEGIN")
    sign_in(db, anns)
    db.rows("SAVEPOINT a")
    db.call(act, anns.key_id)
    over(db)
    db.rows("ROLLBACK TO a")
    assert tenant_of(db) == "acme"
    db.call(act, anns.key_id)
    over(db)
    db.rows("ROLLBACK")
    assert db.verify(anns.api_key).ok


@needs("dblink")
def test_within_a_block_that_someone_else_commits_in(cluster, dbname, db, anns):
    """Between two statements of a DO block, whose snapshot may be as old as the block."""
    db.rows("CREATE EXTENSION dblink; CREATE TABLE seen (who text)")
    for isolation in ("READ COMMITTED", "REPEATABLE READ"):
        key = db.mint()
        db.rows(f"BEGIN ISOLATION LEVEL {isolation}")
        block = f"""DO $$ BEGIN
            PERFORM keysmith.verify('{key.api_key}', sign_in => true);
            INSERT INTO seen SELECT keysmith.current_tenant();
            PERFORM FROM dblink('{cluster.dsn(dbname)}', 'SELECT 1 FROM keysmith.revoke(''{key.key_id}'')')
                AS t (n int);
            INSERT INTO seen SELECT keysmith.current_tenant();
        END $$"""
        assert "revoked" in over(db, block)
        db.rows("ROLLBACK")
    assert db.rows("SELECT * FROM seen") == []


def test_work_does_not_go_on_over_an_isolated_table(db, connect, database, keys, docs):
    acting = database(connect())
    acting.rows("BEGIN")
    sign_in(acting, keys["acme"])
    acting.rows("SET LOCAL ROLE someone")
    assert acting.value("SELECT count(*) FROM docs") == 20
    db.call("revoke", keys["acme"].key_id)
    over(acting, "DELETE FROM docs WHERE n > 10")
    acting.rows("ROLLBACK")
    assert db.value("SELECT count(*) FROM docs") == 50


@pytest.mark.parametrize("isolation", ["REPEATABLE READ", "SERIALIZABLE"])
def test_a_key_that_is_younger_than_the_snapshot(db, connect, database, isolation):
    """All functions return the present state, not that of the snapshot."""
    acting = database(connect())
    acting.rows(f"BEGIN ISOLATION LEVEL {isolation}")
    acting.rows("SELECT count(*) FROM keysmith.keys")
    key = tenant_with_key(db, "acme", label="young")
    sign_in(acting, key)
    assert tenant_of(acting) == "acme"
    assert acting.value("SELECT keysmith.whoami() ->> 'label'") == "young"
    db.call("alter_key", key.key_id, Jsonb({"label": "younger"}))
    assert acting.value("SELECT keysmith.whoami() ->> 'label'") == "younger"
    acting.rows("COMMIT")


# Standbys

def test_on_a_standby():
    with running("primary", wal_level="replica", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        # The rows that the standby's snapshot sees stay, so that replay does not wait for the
        # snapshot.
        standby.configure(hot_standby_feedback="on", wal_receiver_status_interval="1s")
        try:
            standby.start()
            db = session_on(primary)
            db.rows("CREATE EXTENSION keysmith; CREATE ROLE someone; GRANT USAGE ON SCHEMA keysmith TO someone")
            acme, globex = (tenant_with_key(db, name) for name in ("acme", "globex"))
            db.rows("CREATE TABLE docs AS SELECT tenant_id, name FROM keysmith_private.tenant, "
                    "generate_series(1, 5)")
            db.call("isolate", "docs", "tenant_id")
            db.rows("GRANT SELECT ON docs TO someone")
            db.call("wait_for_replay")
            there = session_on(standby)
            assert there.value("SELECT pg_is_in_recovery()")
            assert nobody(there)
            for isolation in ("READ COMMITTED", "REPEATABLE READ"):
                there.rows(f"BEGIN ISOLATION LEVEL {isolation}")
                sign_in(there, acme)
                there.rows("SAVEPOINT a")
                sign_in(there, globex)
                there.rows("SET LOCAL ROLE someone")
                assert there.rows("SELECT name FROM docs") == [("globex",)] * 5
                there.rows("ROLLBACK TO a")
                there.rows("SET LOCAL ROLE someone")
                assert there.rows("SELECT name FROM docs") == [("acme",)] * 5
                assert there.value("SELECT keysmith.whoami() ->> 'tenant'") == "acme"
                there.rows("RESET ROLE")
                if isolation == "REPEATABLE READ":
                    seen = there.value("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
                    wait_until(lambda seen=seen: db.rows(
                        "SELECT pid FROM pg_stat_replication WHERE backend_xmin::text = %s", seen))
                db.call("disable", acme.key_id)
                db.call("wait_for_replay")
                over(there)
                there.rows("ROLLBACK")
                assert nobody(there)
                db.call("enable", acme.key_id)
                db.call("wait_for_replay")
        finally:
            standby.remove()


def test_without_preload():
    """The first call loads the library, in the middle of a transaction."""
    with running("lazy", preload=False) as cluster:
        db = session_on(cluster)
        db.rows("CREATE EXTENSION keysmith")
        key = tenant_with_key(db, "acme")
        there = session_on(cluster)
        there.rows("BEGIN; SAVEPOINT a; SAVEPOINT b")
        sign_in(there, key)
        there.rows("ROLLBACK TO b")
        assert nobody(there)
        sign_in(there, key)
        there.rows("RELEASE b")
        assert tenant_of(there) == "acme"
        there.rows("COMMIT")
        assert nobody(there)
