"""Views of which a reader sees only a part: the rest is invisible in results, in plans and in
their counts."""

from contextlib import ExitStack

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import session

# Views that issuers may read.
VIEWS = ["keys", "usage", "usage_hourly", "usage_daily", "usage_endpoints", "top_keys", "top_refusals", "touches",
         "tenants", "members", "expiring_soon", "stale_keys", "recent_refusals"]
# Views that auditors read for one tenant when they act for its key.
ALL_VIEWS = VIEWS + ["audit", "overprivileged_keys"]

# Each of them makes the planner look at other indexes and statistics.
SETTINGS = ["RESET ALL",
            "SET enable_seqscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off; SET enable_bitmapscan = off",
            "SET enable_indexscan = off; SET enable_indexonlyscan = off; SET enable_bitmapscan = off"]


@pytest.fixture(scope="module")
def roles(cluster):
    cluster.execute("CREATE ROLE issuing LOGIN; CREATE ROLE auditing LOGIN")
    yield
    cluster.execute("DROP ROLE issuing, auditing")


@pytest.fixture(scope="module")
def owner(cluster, roles):
    """A session that sees everything, in a database where two tenants have rows in all views."""
    cluster.execute("CREATE DATABASE partial TEMPLATE with_keysmith")
    db = session(cluster, "partial")
    db.keys = {}
    db.rows("CREATE TABLE orders (id int)")
    db.call("track", "orders")
    for method, scope in (("GET", "pages:read"), ("POST", "pages:write")):
        db.call("define_route", "default", method, "/v1/{page}", scope)
    for tenant in ("acme", "globex"):
        db.call("create_tenant", tenant, plan=f"plan of {tenant}", metadata=Jsonb({"of": tenant}))
        db.call("define_role", "default", f"role-{tenant}", ["pages:read"])
        db.call("set_member", tenant, f"ann@{tenant}.org", f"role-{tenant}")
        for environment in ("live", "test"):
            db.keys[tenant, environment] = key = db.mint(
                tenant, label=f"{environment} of {tenant}", environment=environment, owner=f"ann@{tenant}.org",
                scopes=["pages:read", "users:read"], expires_at=db.value("SELECT now() + interval '9 days'"))
            db.mint(tenant, label=f"unused of {tenant}", environment=environment)
            headers = Jsonb({"authorization": f"Bearer {key.api_key}"})
            for page in range(3):
                with db.session.transaction():
                    assert db.one("authenticate", headers, "GET", f"/v1/{tenant}{page}", None).ok
                    db.rows(f"INSERT INTO orders VALUES ({page})")
            assert not db.one("authenticate", headers, "POST", f"/v1/{tenant}", None).ok
        db.rows(f"CREATE TABLE {tenant}_table (id int)")
        db.call("track", f"{tenant}_table")
        with db.session.transaction():
            assert db.verify(key.api_key, sign_in=True, environment="test").ok
            db.rows(f"INSERT INTO {tenant}_table VALUES (1)")
    db.call("alter_tenant", "globex", Jsonb({"metadata": {"of": "others"}}))
    db.call("flush_usage")
    db.call("maintain")
    db.rows("ANALYZE")
    db.call("grant_access", "issuing", "issuer", tenant="acme")
    db.call("grant_access", "auditing", "auditor")
    db.rows("GRANT EXECUTE ON FUNCTION keysmith.verify TO auditing")
    for view in ALL_VIEWS:
        assert {row.tenant for row in db.rows(f"SELECT tenant FROM keysmith.{view}")} >= {"acme", "globex"}, view
    yield db
    db.session.close()
    cluster.execute("DROP DATABASE partial WITH (FORCE)")


@pytest.fixture
def issuer(cluster, owner):
    # Stores the records of other tests: nothing may change between two queries.
    owner.call("flush_usage")
    db = session(cluster, "partial", "issuing")
    yield db
    db.session.close()


@pytest.fixture
def acting(cluster, owner):
    """An auditor that acts for a key of one tenant."""
    owner.call("flush_usage")
    db = session(cluster, "partial", "auditing")
    with db.session.transaction(force_rollback=True):
        assert db.verify(owner.keys["acme", "live"].api_key, sign_in=True).ok
        yield db
    db.session.close()


def columns(db, view, types):
    return db.rows("""
        SELECT attname AS name, format_type(atttypid, NULL) AS type FROM pg_attribute
        WHERE attrelid = format('keysmith.%%I', %s::text)::regclass AND attnum > 0
          AND format_type(atttypid, NULL) = ANY (%s)""", view, types)


def unlike(value):
    """The next value of the same length, which no tenant has."""
    last = chr(ord(value[-1]) + 1) if value[-1] not in "9fz~" else "0"
    return value[:-1] + last


def plan(db, condition, view, options):
    lines = db.rows(f"EXPLAIN ({options}) SELECT * FROM keysmith.{view} WHERE {condition}")
    return "\n".join(line for line, in lines)


OPTIONS = ["ANALYZE, TIMING OFF, SUMMARY OFF, BUFFERS OFF", "VERBOSE"]


def differences(db, owner, view):
    """Columns for which a plan tells another tenant's value from a value that no tenant has."""
    told = set()
    for column, type in columns(owner, view, ["text", "uuid"]):
        theirs = owner.value(f"""
            SELECT max({column}::text COLLATE "C") FROM keysmith.{view} v
            WHERE tenant = 'globex' AND {column} IS NOT NULL AND {column} NOT IN (
                SELECT {column} FROM keysmith.{view} WHERE tenant = 'acme' AND {column} IS NOT NULL)""")
        if theirs is None:
            continue
        nobodys = unlike(theirs)
        assert owner.value(f"SELECT count(*) FROM keysmith.{view} WHERE {column} = %s", nobodys) == 0
        conditions = ["{0} = '{1}'", "{0} <> '{1}'", "{0} >= '{1}' AND {0} <= '{1}'", "{0} < '{1}'"]
        if type == "text":
            conditions += ["{0} COLLATE \"C\" BETWEEN '{1}' AND '{1}~'", "{0} LIKE '{1}%'"]
        for condition in conditions:
            for options in OPTIONS:
                plans = {plan(db, condition.format(column, value), view, options).replace(value, "")
                         for value in (theirs, nobodys)}
                if len(plans) > 1:
                    told.add(column)
    return told


@pytest.mark.parametrize("settings", SETTINGS, ids=["as it is", "by indexes", "by scans"])
def test_plans_tell_an_issuer_nothing_of_others(issuer, owner, settings):
    issuer.rows(settings)
    for view in VIEWS:
        assert differences(issuer, owner, view) == set(), view


@pytest.mark.parametrize("settings", SETTINGS, ids=["as it is", "by indexes", "by scans"])
def test_plans_tell_a_key_nothing_of_others(acting, owner, settings):
    acting.rows(settings)
    for view in ALL_VIEWS:
        assert differences(acting, owner, view) == set(), view


def test_what_plans_would_tell(owner):
    """A reader who sees everything sees the difference: it exists."""
    assert "tenant" in differences(owner, owner, "tenants")
    assert "label" in differences(owner, owner, "keys")


def test_names_cannot_be_extracted(issuer):
    """By counts of rows that a filter removed, letter by letter."""
    issuer.rows(SETTINGS[1])
    counts = {}
    for letter in "abcdefghijklmnopqrstuvwxyz":
        lines = plan(issuer, f"keyspace = 'default' AND tenant COLLATE \"C\" BETWEEN '{letter}' AND '{letter}~'",
                     "tenants", OPTIONS[0])
        counts[letter] = lines.replace(f"'{letter}'", "''").replace(f"'{letter}~'", "'~'")
    ours = counts.pop("a")
    assert len(set(counts.values())) == 1 and ours not in counts.values()


# Visible rows

@pytest.mark.parametrize("view", ALL_VIEWS)
def test_own_rows_are_those_of_the_tenant(acting, issuer, owner, view):
    theirs = owner.rows(f"SELECT v FROM keysmith.{view} v WHERE tenant = 'acme'")
    if view in VIEWS:
        # Values as of now differ from one query to the next.
        shown = issuer.rows(f"SELECT v FROM keysmith.{view} v")
        assert len(shown) == len(theirs) > 0
        if view not in ("expiring_soon", "stale_keys"):
            assert sorted(map(str, shown)) == sorted(map(str, theirs))
    assert {row.tenant for row in acting.rows(f"SELECT tenant FROM keysmith.{view}")} == {"acme"}


BOUNDS = {
    "usage": ["at > now() - interval '1 day'", "at < now() - interval '1 day'", "at <= 'infinity' AND '-infinity' <= at",
              "at > (SELECT min(at) FROM keysmith.usage)", "at = NULL", "key_id = (SELECT min(key_id::text)::uuid FROM keysmith.usage)",
              "tenant_id >= '80000000-0000-0000-0000-000000000000'", "NOT (at > now())", "at > now() OR status = 200",
              "at > now() - (1 + random()) * interval '1 day' AND status = 200",
              "(at, key_id) > (now() - interval '1 day', '00000000-0000-0000-0000-000000000000')",
              "at::date = current_date", "at > now() - interval '1 day' AND request_id <> key_id"],
    "usage_daily": ["day = (now() AT TIME ZONE 'UTC')::date", "day > '2020-01-01' AND day < '2099-01-01'", "day < '2020-01-01'",
                    "day >= '2020-01-01'::timestamptz", "key_id = ANY (ARRAY(SELECT key_id FROM keysmith.keys))"],
    "usage_hourly": ["hour BETWEEN now() - interval '2 hours' AND now()", "hour > now()"],
    "keys": ["key_id = (SELECT key_id FROM keysmith.keys WHERE label = 'live of acme')", "created_at <= now()",
             "expires_at > created_at", "revoked_at IS NULL", "expires_at > now() AND label LIKE 'live%'"],
    "touches": ["key_id = (SELECT min(key_id::text)::uuid FROM keysmith.touches WHERE rows IS NOT NULL)", "last_at >= first_at"],
}


@pytest.mark.parametrize("view, condition", [(view, one) for view, all in BOUNDS.items() for one in all])
def test_bounds_change_nothing(issuer, owner, view, condition):
    """They reach own rows by a separate path."""
    keys = [f"{column}" for column, _ in columns(owner, view, ["uuid", "text", "timestamp with time zone", "date"])]
    query = f"SELECT {', '.join(keys)} FROM keysmith.{view}"
    # The sub-select sees its reader's rows, so those of the owner have the same tenant.
    narrowed = condition.replace(" FROM keysmith.", " FROM own.")
    owner.rows("BEGIN; CREATE SCHEMA own")
    for name in ("usage", "keys", "touches"):
        owner.rows(f"CREATE VIEW own.{name} AS SELECT * FROM keysmith.{name} WHERE tenant = 'acme'")
    expected = owner.rows(f"{query} WHERE tenant = 'acme' AND ({narrowed})")
    owner.rows("ROLLBACK")
    for mode in ("force_custom_plan", "force_generic_plan"):
        issuer.rows(f"SET plan_cache_mode = {mode}")
        assert sorted(map(str, issuer.rows(f"{query} WHERE {condition}"))) == sorted(map(str, expected))


def test_bounds_are_handed_on(issuer):
    """So that only the rows of an hour are read."""
    shown = plan(issuer, "at > now() - interval '1 hour' AND key_id = gen_random_uuid() AND '2020-01-01' < at "
                 "AND tenant_id = '00000000-0000-0000-0000-000000000000' AND status = 200", "usage", "VERBOSE, COSTS OFF")
    call = next(line for line in shown.splitlines() if "Function Call" in line)
    assert call.count("now() - '01:00:00'::interval") == call.count("'2020-01-01 00:00:00+00'") == 1
    assert call.count("'00000000-0000-0000-0000-000000000000'::uuid") == 1 and "gen_random_uuid" not in call


def test_plans_that_were_made_for_another_reader(cluster, owner):
    """A plan is cached, and then run by a reader who sees more or less."""
    db = session(cluster, "partial")
    db.rows("SET plan_cache_mode = force_generic_plan")
    query = "EXECUTE {}(now() - interval '1 day')"
    everything = {"acme", "globex"}
    prepare = "PREPARE {} (timestamptz) AS SELECT DISTINCT tenant FROM keysmith.usage WHERE at > $1"

    def shown(name):
        return {tenant for tenant, in db.rows(query.format(name))}

    db.rows(prepare.format("wide"))
    assert shown("wide") == everything
    db.rows("SET ROLE issuing")
    assert shown("wide") == {"acme"}
    db.rows(prepare.format("narrow"))
    assert shown("narrow") == {"acme"}
    db.rows("RESET ROLE")
    assert shown("narrow") == shown("wide") == everything
    with db.session.transaction():
        assert db.verify(owner.keys["globex", "live"].api_key, sign_in=True).ok
        assert shown("narrow") == shown("wide") == {"globex"}
    assert shown("narrow") == shown("wide") == everything
    db.session.close()


def test_a_cheap_function_of_the_readers_sees_own_rows_alone(issuer):
    issuer.rows("CREATE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS "
                "$$ BEGIN RAISE NOTICE '%', $1; RETURN true; END $$")
    seen = set()
    issuer.session.add_notice_handler(lambda diag: seen.add(diag.message_primary))
    for view in VIEWS:
        issuer.rows(f"SELECT FROM keysmith.{view} WHERE pg_temp.peek(tenant)")
    assert seen == {"acme"}


# Environments

@pytest.mark.parametrize("environment", ["live", "test"])
def test_a_key_sees_its_own_environment(cluster, owner, environment):
    db = session(cluster, "partial", "auditing")
    with db.session.transaction(force_rollback=True):
        assert db.verify(owner.keys["acme", environment].api_key, sign_in=True, environment=environment).ok
        own = {key_id for key_id, in owner.rows(
            "SELECT key_id FROM keysmith.keys WHERE tenant = 'acme' AND environment = %s", environment)}
        assert len(own) == 2
        for view in ALL_VIEWS:
            names = [name for name, _ in columns(owner, view, ["uuid", "text"])]
            if "environment" in names:
                assert db.rows(f"SELECT DISTINCT environment FROM keysmith.{view}") == [(environment,)], view
            if "key_id" in names:
                shown = {row.key_id for row in db.rows(f"SELECT key_id FROM keysmith.{view}")}
                assert shown - {None} <= own and shown, view
        tenant = db.row("SELECT keys, active_keys FROM keysmith.tenants")
        assert tenant == (2, 2)
        assert owner.row("SELECT keys, active_keys FROM keysmith.tenants WHERE tenant = 'acme'") == (4, 4)
        # Rows without a key belong to the tenant.
        assert "create_tenant" in {row.action for row in db.rows("SELECT action FROM keysmith.audit")}
    db.session.close()


def test_a_chart_of_a_key_is_of_its_environment(cluster, owner):
    owner.call("flush_usage")
    bars = {}
    # The requests by which they sign in are stored after their transactions.
    with ExitStack() as opened:
        for environment in ("live", "test"):
            db = session(cluster, "partial", "auditing")
            opened.callback(db.session.close)
            opened.enter_context(db.session.transaction(force_rollback=True))
            assert db.verify(owner.keys["acme", environment].api_key, sign_in=True, environment=environment).ok
            bars[environment] = [int(line.split()[1]) for line, in db.call("usage_chart", per="day", bars=1)[2:3]]
            assert db.rows("SELECT sum(requests)::int FROM keysmith.usage_daily") == [tuple(bars[environment])]
            assert db.call("usage_chart", tenant="acme", per="day", bars=1)[2:] \
                == db.call("usage_chart", per="day", bars=1)[2:]
        everything = int(owner.call("usage_chart", tenant="acme", per="day", bars=1)[2][0].split()[1])
        assert bars["live"][0] + bars["test"][0] == everything


def test_a_chart_of_nobody(issuer, owner):
    for db in (issuer, owner):
        there = db.refused("KS404", "usage_chart", tenant="acmee")
        assert there == 'tenant "acmee" does not exist in keyspace "default"'
    assert issuer.refused("KS404", "usage_chart", tenant="globex") == there.replace("acmee", "globex")


@pytest.mark.parametrize("options", [{"bars": -2**31}, {"bars": 2**31 - 1}, {"width": -2**31}, {"width": 2**31 - 1},
                                     {"until": "294276-12-31"}, {"until": "4713-01-01 BC"}, {"until": "-infinity"}])
def test_a_chart_of_extremes(owner, options):
    assert owner.refused("KS400", "usage_chart", **options).startswith(next(iter(options)))


def test_what_stands_behind_views_is_out_of_reach(issuer):
    for statement in ("TABLE keysmith_private.all_keys", "SELECT FROM keysmith_private.own_keys(false)",
                      "SELECT keysmith_private.shows_everything()"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            issuer.rows(statement)
