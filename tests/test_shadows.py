"""A role's settings, shadowing objects and reads: they change nothing of the extension."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from bystanders import ROLES, STRANGER, world  # noqa: F401
from conftest import session

def test_no_role_may_set_what_is_ours(world):
    """Only a superuser may, or the server's administrator in its files."""
    for role in ROLES:
        other = session(world.cluster, user=role)
        for name in world.objects().settings:
            with pytest.raises(psycopg.Error, match="permission denied|cannot be changed"):
                other.rows(f"SET {name} = DEFAULT")
        other.session.close()


# In the schema public: twins of all functions and operators of PostgreSQL that SQL can define,
# which come first for roles with that schema first in the search path.
TWINS = """
    CREATE FUNCTION public.hijack(name text) RETURNS boolean LANGUAGE plpgsql AS
        $f$ BEGIN RAISE EXCEPTION 'hijacked by %', name; END $f$;
    DO $$
    DECLARE twin record;
    BEGIN
        FOR twin IN
            SELECT p.oid, p.proname, p.proretset, p.prorettype::regtype AS returns,
                   (SELECT string_agg(t::regtype::text, ', ') FROM unnest(p.proargtypes) t) AS arguments
            FROM pg_proc p
            WHERE pronamespace = 'pg_catalog'::regnamespace AND prokind = 'f' AND provariadic = 0
              AND NOT EXISTS (SELECT FROM unnest(proargtypes || prorettype) a JOIN pg_type t ON t.oid = a
                              WHERE typtype = 'p')
        LOOP
            BEGIN
                EXECUTE format('CREATE FUNCTION public.%I(%s) RETURNS %s %s LANGUAGE plpgsql AS %L',
                    twin.proname, twin.arguments, CASE WHEN twin.proretset THEN 'SETOF' END, twin.returns,
                    format('BEGIN PERFORM public.hijack(%L::pg_catalog.text); END', twin.oid::regprocedure));
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END LOOP;
        FOR twin IN
            SELECT o.oprname, nullif(o.oprleft, 0)::regtype AS l, o.oprright::regtype AS r,
                   format('public.%I', p.proname) AS function
            FROM pg_operator o JOIN pg_proc p ON p.oid = o.oprcode WHERE o.oprnamespace = 'pg_catalog'::regnamespace
        LOOP
            BEGIN
                EXECUTE format('CREATE OPERATOR public.%s (%s rightarg = %s, function = %s)', twin.oprname,
                               'leftarg = ' || twin.l || ',', twin.r, twin.function);
            EXCEPTION WHEN OTHERS THEN NULL;
            END;
        END LOOP;
    END $$;
"""
TEMPORARY = """
    DO $$
    DECLARE name text;
    BEGIN
        FOR name IN SELECT relname FROM pg_catalog.pg_class
                    WHERE relnamespace IN (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname ~ '^keysmith')
                      AND relkind IN ('r', 'p', 'v', 'c') LOOP
            EXECUTE pg_catalog.format('CREATE TEMP TABLE %I (hijacked int)', name);
        END LOOP;
    END $$;
"""


def test_what_a_role_shadows_is_not_used(world):
    """By the caller's search path: functions, operators, tables and types."""
    stranger = session(world.cluster, user=STRANGER)
    stranger.rows(TWINS)
    made = world.db.row("SELECT (SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace) AS functions, "
                        "(SELECT count(*) FROM pg_operator WHERE oprnamespace = 'public'::regnamespace) AS operators")
    assert made.functions > 1500 and made.operators > 500
    victim = session(world.cluster)
    try:
        victim.rows("CREATE TABLE shadowed (tenant text PRIMARY KEY, body text); "
                    "INSERT INTO shadowed VALUES ('acme', 'x'), ('globex', 'y')")
        victim.rows(TEMPORARY)
        victim.rows("SET search_path = pg_temp, public, pg_catalog")
        with pytest.raises(psycopg.Error, match="hijacked"):
            victim.rows("SELECT lower('X'::pg_catalog.text)")
        with pytest.raises(psycopg.Error, match="hijacked"):
            victim.rows("SELECT 1 = 1")
        key, other = victim.mint(scopes=["a"]), victim.mint()
        assert victim.verify(key.api_key, scopes=["a"]).ok and victim.reason("x") == "malformed_key"
        calls = [
            ("verify", key.api_key, ["a"]), ("verify_many", [key.api_key]), ("explain_verify", key.api_key),
            ("authenticate", Jsonb({"authorization": f"Bearer {key.api_key}"}), "GET", "/x", "192.0.2.1"),
            ("client_ip", Jsonb({"x-forwarded-for": "192.0.2.1"}), "192.0.2.1"), ("event_channel",),
            ("isolate", "public.shadowed", "tenant", "default"), ("release", "public.shadowed"),
            ("track", "public.shadowed"), ("untrack", "public.shadowed"),
            ("seal_rows", "public.shadowed"), ("verify_rows", "public.shadowed"), ("unseal_rows", "public.shadowed"),
            ("ledger", "public.shadowed"), ("verify_ledger", "public.shadowed"), ("ledger_head", "public.shadowed"),
            ("unledger", "public.shadowed"),
            ("protect", "public.shadowed", "body"), ("unprotect", "public.shadowed", "body"),
            ("list_keys", "acme"), ("usage_logs", "acme"), ("usage_chart",), ("blast_radius", key.key_id),
            ("flush_usage",), ("maintain",), ("doctor",), ("status",), ("usage_status",), ("limit_status",),
            ("audit_verify",), ("audit_heads",), ("scanner_patterns",),
            ("create_keyspace", "shadow"), ("create_tenant", "shadow"), ("define_scope", "shadow", "a"),
            ("define_role", "shadow", "reader", ["a"]), ("define_route", "shadow", "GET", "/x/{id}", ["a"]),
            ("remove_route", "shadow", "GET", "/x/{id}"), ("regenerate", "shadow"),
            ("alter_keyspace", "default", Jsonb({"label_length": 80})), ("alter_key", key.key_id, Jsonb({"label": "y"})),
            ("alter_tenant", "acme", Jsonb({"plan": "x"})), ("add_credits", 5, None, "acme"),
            ("set_member", "acme", "bob", "reader"), ("remove_member", "acme", "bob"),
            ("suspend_tenant", "globex"), ("resume_tenant", "globex"), ("disable", key.key_id), ("enable", key.key_id),
            ("grant_access", "other", "issuer", "acme"), ("revoke_access", "other"), ("revocations_since", "2020-01-01"),
            ("rotate", other.key_id), ("revoke", key.key_id),
        ]
        failed = {}
        for call in calls:
            try:
                victim.call(*call)
            except psycopg.Error as error:
                failed[call[0]] = str(error)
        for relation in world.objects().relations:
            if relation.kind == "v":
                try:
                    victim.rows(f"SELECT * FROM {relation.name}")
                except psycopg.Error as error:
                    failed[relation.name] = str(error)
        assert failed == {}
        assert victim.reason(key.api_key) == "revoked"
    finally:
        victim.session.close()
        world.db.rows(f"DROP OWNED BY {STRANGER}; DROP TABLE public.shadowed")


@pytest.mark.parametrize("role", ROLES)
def test_an_isolated_table_is_closed_to_strangers_and_open_to_who_signs_in(world, role):
    world.db.rows("CREATE TABLE IF NOT EXISTS letters (tenant text, body text); TRUNCATE letters; "
                  "GRANT ALL ON letters TO PUBLIC; INSERT INTO letters VALUES ('acme', 'ours'), ('globex', 'theirs')")
    world.db.call("isolate", "letters", "tenant", "default")
    other = session(world.cluster, user=role)
    assert other.rows("SELECT body FROM letters") == []
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        other.rows("INSERT INTO letters VALUES ('acme', 'x')")
    if role in ("verifier", "admin"):
        with other.session.transaction():
            assert other.verify(world.key.api_key, sign_in=True).ok
            assert other.rows("SELECT body FROM letters") == [("ours",)]
            other.rows("INSERT INTO letters VALUES ('acme', 'more')")
            with pytest.raises(psycopg.errors.InsufficientPrivilege), other.session.transaction():
                other.rows("INSERT INTO letters VALUES ('globex', 'x')")
        assert other.rows("SELECT body FROM letters") == []
    other.session.close()
