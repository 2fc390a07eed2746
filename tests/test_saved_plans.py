"""Statements that run often are planned once in a session."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import needs

OURS = "ident LIKE '%keysmith_private.%' AND name LIKE 'CachedPlan%'"


@pytest.fixture
def statements(db):
    """Runs something, and returns the statements of ours that it ran, nested ones too."""
    db.rows("""LOAD 'auto_explain'; SET auto_explain.log_min_duration = 0; SET auto_explain.log_level = 'notice';
               SET auto_explain.log_nested_statements = on; SET auto_explain.log_analyze = off""")
    seen = []
    db.session.add_notice_handler(lambda notice: seen.append(notice.message_primary))

    def ran(something):
        seen.clear()
        something()
        texts = [message.split("Query Text: ")[1] for message in seen if "Query Text: " in message]
        # The test's own statement, and how PostgreSQL checks foreign keys.
        return [text for text in texts if "keysmith_private" in text and "FROM ONLY" not in text]

    return ran


@needs("auto_explain")
def test_a_key_takes_four_statements(db, statements):
    """The key, its state for the audit, what was done with its event, and the entry of the chain. A role is locked first, so
    that it is not removed meanwhile."""
    db.call("create_keyspace", "shop", display=Jsonb({"id": "key_{random:8}"}))
    db.call("define_role", "shop", "admin", ["*"])
    db.tenant(keyspace="shop")
    db.call("set_member", "acme", "ann", "admin", keyspace="shop")
    minted = {"keyspace": "shop", "label": "x", "owner": "ann", "role": "admin", "scopes": ["a:b"],
              "allowlist": ["192.0.2.0/24"], "expires_at": "2999-01-01", "credits": 5}
    # The first key notes the newest pepper.
    db.mint(**minted)
    for _ in range(2):
        assert len(statements(lambda: db.mint(**minted))) == 5
        assert len(statements(lambda: db.mint(**minted | {"role": None}))) == 4
    imported = minted | {"digest": b"x" * 32, "algorithm": "sha256"}
    db.call("import_key", "acme", **imported)
    assert len(statements(lambda: db.call("import_key", "acme", **imported | {"digest": b"y" * 32, "role": None}))) == 4
    with db.session.transaction():
        key = db.mint(keyspace="shop", scopes=["a:b"])
        db.verify(key.api_key, keyspace="shop", sign_in=True)
        # The fourth comes at the commit.
        assert len(statements(lambda: db.mint(keyspace="shop"))) == 3


@needs("auto_explain")
@pytest.mark.parametrize(("function", "most"), [("disable", 6), ("revoke", 6), ("rotate", 9)])
def test_acts_on_keys_take_few_statements(db, statements, function, most):
    db.tenant()
    key = db.mint()
    assert len(statements(lambda: db.call(function, key.key_id))) <= most


def plans(db):
    return db.value(f"SELECT count(*) FROM pg_backend_memory_contexts WHERE {OURS}")


def all_acts(db, tenant="acme"):
    """What runs saved statements."""
    key = db.mint(tenant, label="x")
    db.mint(tenant, credits=5)
    db.call("alter_key", key.key_id, '{"label": "y"}')
    db.call("disable", key.key_id)
    db.call("enable", key.key_id)
    db.call("revoke", db.one("rotate", key.key_id).key_id)
    db.one("regenerate", tenant)
    db.call("define_role", "default", "member", ["*"])
    db.call("set_member", tenant, "ann", "member")
    db.call("remove_member", tenant, "ann")
    db.call("suspend_tenant", tenant)
    db.call("resume_tenant", tenant)
    db.call("add_credits", 5, tenant=tenant)


def faults(db):
    return [row for row in db.call("audit_verify") if not row.ok]


def test_no_plan_is_made_twice(db):
    db.tenant()
    all_acts(db)
    made = plans(db)
    assert 20 < made < 60
    for _ in range(3):
        all_acts(db)
    assert plans(db) == made and not faults(db)


def test_the_extension_is_created_again(db):
    """The plans are made for tables of the same names, which are others."""
    for _ in range(3):
        db.tenant()
        all_acts(db)
        assert not faults(db)
        db.rows("DROP EXTENSION keysmith")
        db.refused("3F000", "mint", "acme")
        db.rows("CREATE EXTENSION keysmith")


def test_a_rollback_takes_back_what_plans_were_made_for(db):
    db.rows("DROP EXTENSION keysmith")
    for end in ("ROLLBACK", "ROLLBACK TO before_it", "COMMIT"):
        db.rows("BEGIN; SAVEPOINT before_it; CREATE EXTENSION keysmith")
        db.tenant()
        all_acts(db)
        db.rows(end)
        if end.endswith("before_it"):
            db.rows("COMMIT")
    all_acts(db)
    assert not faults(db)


@pytest.mark.parametrize("first", [True, False])
def test_an_error_of_the_planner_leaves_nothing_behind(db, first):
    """In the first use of the statement, or in a later one."""
    db.tenant()
    if not first:
        db.mint()
    for _ in range(2):
        db.rows("ALTER TABLE keysmith_private.audit_content RENAME COLUMN client TO address")
        for _ in range(2):
            db.refused("42703", "mint", "acme")
        with pytest.raises(psycopg.errors.UndefinedColumn), db.session.transaction():
            db.mint()
        db.rows("ALTER TABLE keysmith_private.audit_content RENAME COLUMN address TO client")
        assert db.verify(db.mint().api_key).ok


def test_what_a_session_sets_and_discards(db):
    db.tenant()
    for setting in ("plan_cache_mode = force_custom_plan", "plan_cache_mode = force_generic_plan",
                    "transform_null_equals = on", "enable_indexscan = off", "TimeZone = 'Asia/Kathmandu'",
                    "IntervalStyle = 'sql_standard'", "array_nulls = off", "row_security = off",
                    "standard_conforming_strings = off", "search_path = pg_temp, public"):
        db.rows(f"SET {setting}")
        all_acts(db)
        db.rows("DISCARD PLANS")
        all_acts(db)
        db.rows("RESET ALL")
        all_acts(db)
    db.rows("DISCARD ALL")
    all_acts(db)
    assert not faults(db)


SHADOWS = """
    CREATE FUNCTION pg_temp.trap() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
    CREATE FUNCTION pg_temp.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
    CREATE TEMPORARY TABLE key (key_id uuid, tenant_id uuid);
    CREATE TRIGGER trap BEFORE INSERT ON key EXECUTE FUNCTION pg_temp.trap();
    CREATE DOMAIN pg_temp.inet AS pg_catalog.inet CHECK (false);
    CREATE DOMAIN pg_temp.jsonb AS pg_catalog.jsonb CHECK (false);
    CREATE DOMAIN pg_temp.cidr AS pg_catalog.cidr CHECK (false);
    CREATE DOMAIN pg_temp.text AS pg_catalog.text CHECK (false);
    CREATE DOMAIN pg_temp.bigint AS pg_catalog.int8 CHECK (false);
    CREATE DOMAIN pg_temp.int8 AS pg_catalog.int8 CHECK (false);
    CREATE DOMAIN pg_temp.float8 AS pg_catalog.float8 CHECK (false);
    CREATE SCHEMA IF NOT EXISTS lures;
    CREATE FUNCTION lures.equals(uuid, uuid) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'trapped as %', current_user; END $$;
    CREATE OPERATOR lures.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = lures.equals);
    SET search_path = pg_temp, lures, pg_catalog, public"""


@pytest.mark.parametrize("shadows_first", [True, False])
def test_roles_that_share_a_session(cluster, dbname, db, shadows_first):
    """One role's plans are no way to what another may do, and hold nothing of its own."""
    db.tenant()
    db.tenant("globex")
    for role in ("plans_first", "plans_later", "plans_nothing"):
        cluster.execute(f"CREATE ROLE {role}")
        db.rows(f"GRANT CREATE ON DATABASE {dbname} TO {role}")
    db.call("grant_access", "plans_first", "issuer", tenant="acme")
    db.call("grant_access", "plans_later", "issuer", tenant="globex")
    globex = db.mint("globex")
    try:
        db.rows("SET ROLE plans_first")
        if not shadows_first:
            db.mint("acme")
        db.rows(SHADOWS)
        key = db.mint("acme")
        db.refused("KS404", "revoke", globex.key_id)
        db.call("revoke", key.key_id)
        db.rows("SET ROLE plans_later")
        db.refused("KS404", "mint", "acme")
        db.refused("KS404", "revoke", key.key_id)
        minted = db.mint("globex")
        db.call("revoke", globex.key_id)
        db.rows("RESET search_path; SET ROLE plans_later")
        db.mint("globex")
        db.rows("SET ROLE plans_nothing")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.mint("globex")
        db.rows("RESET ROLE")
        assert db.value("SELECT created_by FROM keysmith.keys WHERE key_id = %s", minted.key_id) == "plans_later"
        all_acts(db)
        assert not faults(db)
    finally:
        db.rows("RESET ROLE")
        for role in ("plans_first", "plans_later", "plans_nothing"):
            db.rows(f"DROP OWNED BY {role} CASCADE")
            cluster.execute(f"DROP ROLE {role}")


@pytest.mark.parametrize("level", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_every_isolation_level(db, level):
    db.tenant()
    for _ in range(2):
        db.rows(f"BEGIN ISOLATION LEVEL {level}")
        all_acts(db)
        db.rows("COMMIT")
    assert not faults(db)
