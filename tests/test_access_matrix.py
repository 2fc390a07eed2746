"""The levels that may use each object of the schema."""

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import wait_until

NOBODY, VERIFIER, HOST, ISSUER, AUDITOR, ADMIN = "nobody", "verifier", "host", "issuer", "auditor", "admin"
LEVELS = [NOBODY, VERIFIER, HOST, ISSUER, "identity_issuer", AUDITOR, ADMIN]
ALL = {NOBODY, VERIFIER, HOST, ISSUER, AUDITOR, ADMIN}

# Both kinds of issuers may call the functions listed for issuers.
FUNCTIONS = {
    **dict.fromkeys(["current_tenant", "current_tenant_id", "current_keyspace", "current_key",
                     "current_environment", "current_owner", "has_scope", "require_identity", "whoami"], ALL),
    # Isolation and tracking functions act with their caller's rights, on its tables.
    **dict.fromkeys(["verify", "verify_digest", "verify_many", "authenticate", "verify_json", "authenticate_json",
                     "derive_token", "jwks",
                     "response_headers", "problem", "serve", "openapi", "pre_request", "log_request", "settle",
                     "isolate", "release", "track", "untrack", "log_usage",
                     "protect", "unprotect", "protect_existing", "hash_columns", "digest", "digests",
                     "matches", "is_digest", "seal_rows", "unseal_rows", "verify_rows", "seal_row",
                     "ledger", "unledger", "ledger_head", "verify_ledger", "ledger_changes"],
                    {VERIFIER, ADMIN}),
    **dict.fromkeys(["mint", "import_key", "alter_key", "add_scopes", "remove_scopes", "rotate", "regenerate", "disable", "enable",
                     "revoke"], {HOST, ISSUER, ADMIN}),
    **dict.fromkeys(["report_leak", "wait_for_replay"], {ISSUER, ADMIN}),
    **dict.fromkeys(["act_as", "create_tenant", "set_member", "remove_member"], {HOST, ADMIN}),
    **dict.fromkeys(["list_keys", "usage_logs", "usage_chart", "blast_radius",
                     "shows_everything"], {HOST, ISSUER, AUDITOR, ADMIN}),
    # Functions that views call with the rights of their reader.
    **dict.fromkeys(["own_keys", "own_usage", "own_usage_hourly", "own_usage_daily", "own_usage_units", "own_usage_tags", "own_usage_endpoints",
                     "own_top_keys", "own_top_refusals", "own_touches", "own_tenants", "own_members", "own_stale_keys",
                     "own_recent_refusals", "own_audit", "own_events", "own_overprivileged_keys", "credits_at", "next_refill", "key_status", "to_bigint"],
                    {HOST, ISSUER, AUDITOR, ADMIN}),
    **dict.fromkeys(["isolation_states", "shown_metrics", "shown_alarms", "shown_nodes"], {AUDITOR, ADMIN}),
    # Storing queued records changes nothing visible, and shows them.
    **dict.fromkeys(["explain_verify", "audit_verify", "audit_heads", "events_after", "revocations_since", "status", "limit_status",
                     "usage_status", "flush_usage", "doctor", "scanner_patterns", "scopes_used"], {AUDITOR, ADMIN}),
    **dict.fromkeys(["client_ip", "event_channel", "hashing_state", "ledger_state"], {VERIFIER, AUDITOR, ADMIN}),
    "log_request": {VERIFIER, HOST, ADMIN},
    "sign_out": {VERIFIER, HOST, ISSUER, ADMIN},
    "help": {VERIFIER, HOST, ISSUER, AUDITOR, ADMIN},
    **dict.fromkeys(["create_keyspace", "alter_keyspace", "drop_keyspace", "purge_keys", "alter_tenant", "rename_tenant", "erase_tenant",
                     "suspend_tenant", "resume_tenant",
                     "define_scope", "define_role", "remove_scope", "remove_role", "define_route", "remove_route", "define_endpoint", "remove_endpoint",
                     "grant_access", "revoke_access", "add_credits", "maintain",
                     "replay_revocations"], {ADMIN}),
    # Parts of these functions, and trigger functions.
    **dict.fromkeys(["policy_changed", "access_changed", "usage_counted", "units", "counted_tags", "merged_units", "usage_page", "usage_prepare", "usage_make", "is_subscribed", "refuse_on_subscriber",
                     "keep_on_publisher", "usage_incarnation_arrives", "usage_partition_arrives", "usage_fold",
                     "lock_holder", "privileges_changed_by", "usage_partitions", "usage_has_partition", "usage_fold_lock",
                     "usage_kept_from", "disable_idle_keys", "disable_all_idle_keys", "note_key_ends", "note_all_key_ends", "note_credit_events",
                     "usage_mark_gone", "usage_dependents", "usage_drop_old", "sum_up_touches",
                     "doctor_findings", "doctor_library", "doctor_logging", "doctor_isolation",
                     "doctor_access", "doctor_usage", "doctor_replication", "doctor_ledgers", "close_ledgers", "ledger_forms", "wrapped",
                     "help_functions", "help_arguments", "help_names", "help_lines", "help_table", "help_paragraph", "help_overview",
                     "help_of_function", "help_of_relation", "help_of_setting", "nearest_names",
                     "has_bare_call", "matches_support", "usage_collect", "erase", "drop_all", "drop_usage",
                     "base_type", "isolation_condition", "columns_meant", "policy_fault", "printed", "is_too_long", "distributed_tables",
                     "is_reachable", "isolation_problems", "views_above_isolated", "before_isolation", "forget_isolated",
                     "note_isolated", "tell_of_isolation", "shows_everything_support", "own_rows_support",
                     "usage_bars", "usage_totals", "same_paths", "profile", "profile_of_person", "ended_since", "doctor_events",
                     "library", "decisions", "installation", "subscriptions", "nodes", "metrics", "alarms",
                     "alarm_thresholds", "measurements", "recent_losses", "audit_gaps", "relation_size", "relation_sizes", "locked_relations",
                     "routines_of_level", "heartbeat_arrives", "objects_granted_to"],
                    set()),
}
# Read, but never written.
RELATIONS = {
    **dict.fromkeys(["keys", "usage", "usage_hourly", "usage_daily", "usage_units", "usage_tags", "usage_endpoints", "top_keys",
                     "top_refusals", "touches", "tenants", "members", "expiring_soon", "stale_keys",
                     "recent_refusals"], {HOST, ISSUER, AUDITOR, ADMIN}),
    **dict.fromkeys(["scopes", "roles", "routes", "endpoints", "audit", "events", "overprivileged_keys", "isolation", "metrics", "alarms", "usage_nodes"],
                    {AUDITOR, ADMIN}),
    **dict.fromkeys(["hashing_progress", "ledgers"], {VERIFIER, AUDITOR, ADMIN}),
    **dict.fromkeys(["key_listing", "keyspace", "keyspace_prefix", "answer", "plan_feature", "scope",
                     "role", "route", "endpoint", "tenant", "member", "key", "credit", "charge", "credit_event", "access", "audit_entry", "audit_content",
                     "touch", "usage_event", "usage_unknown", "usage_unknown_sample",
                     "usage_incarnation", "usage_set_aside", "usage_hour", "usage_day",
                     "usage_endpoint_day", "usage_last", "key_notice", "usage_mark",
                     "ledger", "ledger_difference", "ledger_block", "ledger_range", "known_ledger",
                     "usage_delta", "usage_unit", "usage_unit_delta", "usage_tag", "usage_tag_delta", "usage_sum", "usage_partition", "heartbeat", "isolated_table", "isolated",
                     "isolated_by", "known_isolated",
                     "verifying_role", "idle_key", "due_key_notice", "all_keys", "all_audit", "all_events", "all_usage", "all_usage_hourly",
                     "all_usage_daily", "all_usage_units", "all_usage_tags", "all_usage_endpoints", "all_top_keys", "all_top_refusals",
                     "all_touches", "all_tenants", "all_members", "all_stale_keys", "all_recent_refusals",
                     "all_overprivileged_keys", "metric_help"], set()),
}
SEQUENCES = {"usage_sequence": set(), "credit_event_id_seq": set()}
# A role with USAGE on a type can make objects depend on it.
TYPES = dict.fromkeys(["verdict", "response", "minted", "explanation", "listed_key"], set())


@pytest.fixture
def roles(cluster, dbname, db):
    for role in LEVELS:
        cluster.execute(f"CREATE ROLE {role} LOGIN")
    db.tenant()
    db.tenant("globex")
    for level in (VERIFIER, HOST, AUDITOR, ADMIN):
        db.call("grant_access", level, level)
    db.call("grant_access", ISSUER, ISSUER, tenant="acme")
    db.call("grant_access", "identity_issuer", ISSUER)
    yield
    for role in LEVELS:
        cluster.execute(f"DROP OWNED BY {role}", dbname)
        cluster.execute(f"DROP ROLE {role}")


@pytest.fixture
def as_role(cluster, dbname, roles, database):
    sessions = []

    def open_session(role):
        session = cluster.connect(dbname, user=role, row_factory=psycopg.rows.namedtuple_row)
        session.prepare_threshold = None
        sessions.append(session)
        return database(session)

    yield open_session
    for session in sessions:
        session.close()


def expected_of(table):
    return {(name, level) for name, levels in table.items() for level in LEVELS
            if level in levels or level == "identity_issuer" and ISSUER in levels}


def check(found, table, names):
    assert set(names) == set(table), "an object is not listed, or is there no more"
    assert set(found) == expected_of(table)


def test_functions(db, roles):
    rows = db.rows("""
        SELECT p.proname, r, has_function_privilege(r, p.oid, 'EXECUTE')
        FROM pg_proc p, unnest(%s::text[]) r WHERE pronamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)""", LEVELS)
    check([row[:2] for row in rows if row[2]], FUNCTIONS, [row[0] for row in rows])
    # All functions of one name are for the same roles.
    assert not {row[:2] for row in rows if row[2]} & {row[:2] for row in rows if not row[2]}


def relations(db, kinds, privileges):
    return db.rows("""
        SELECT c.relname, r, has_table_privilege(r, c.oid, %s)
        FROM pg_class c, unnest(%s::text[]) r
        WHERE relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND relkind = ANY (%s)""",
        privileges, LEVELS, kinds)


def test_tables_and_views(db, roles):
    kinds = list("rvmfp")
    rows = relations(db, kinds, "SELECT")
    check([row[:2] for row in rows if row[2]], RELATIONS, [row[0] for row in rows])
    for privilege in ("INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"):
        assert not [row for row in relations(db, kinds, privilege) if row[2]]
    columns = db.rows("""
        SELECT c.relname, a.attname, r FROM pg_class c, pg_attribute a, unnest(%s::text[]) r
        WHERE relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND a.attrelid = c.oid AND a.attnum > 0
          AND relkind IN ('r', 'p') AND has_column_privilege(r, c.oid, a.attnum, 'SELECT, INSERT, UPDATE')""",
        LEVELS)
    assert columns == []


def test_sequences(db, roles):
    rows = db.rows("""
        SELECT c.relname, r, has_sequence_privilege(r, c.oid, 'USAGE, SELECT, UPDATE')
        FROM pg_class c, unnest(%s::text[]) r
        WHERE relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND relkind = 'S'""", LEVELS)
    check([row[:2] for row in rows if row[2]], SEQUENCES, [row[0] for row in rows])


def test_types(db, roles):
    rows = db.rows("""
        SELECT t.typname, r, has_type_privilege(r, t.oid, 'USAGE')
        FROM pg_type t LEFT JOIN pg_class c ON c.oid = t.typrelid, unnest(%s::text[]) r
        WHERE typnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace)
          AND (t.typtype <> 'c' OR c.relkind = 'c') AND t.typcategory <> 'A'""", LEVELS)
    check([row[:2] for row in rows if row[2]], TYPES, [row[0] for row in rows])


def test_the_schema_can_be_used_and_not_added_to(db, roles):
    for role in LEVELS:
        can = "SELECT has_schema_privilege(%s, %s, %s)"
        assert db.value(can, role, "keysmith", "USAGE") == (role != NOBODY)
        assert not db.value(can, role, "keysmith", "CREATE")
        assert not db.value(can, role, "keysmith_private", "USAGE, CREATE")


def test_nothing_shows_a_digest(db):
    shown = db.rows("""
        SELECT c.relname, a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE (relnamespace = 'keysmith'::regnamespace AND relkind = 'v'
               OR relnamespace = 'keysmith_private'::regnamespace AND relkind = 'c') AND attnum > 0
          AND (attname ~ 'digest' OR atttypid = 'bytea'::regtype)""")
    assert shown == []


# Reach of the levels

def until(db, statement):
    wait_until(lambda: db.value(statement))


def error_of(db, statement, *parameters):
    with pytest.raises(psycopg.Error) as error, db.session.transaction():
        db.rows(statement, *parameters)
    return error.value


def test_an_issuer_reaches_its_tenant_alone(db, as_role):
    app = as_role(ISSUER)
    ours, theirs = app.mint(), db.mint("globex")
    assert [row.key_id for row in app.call("list_keys", "acme")] == [ours.key_id]
    assert app.rows("SELECT tenant FROM keysmith.keys") == [("acme",)]
    assert app.value("SELECT count(*) FROM keysmith.keys WHERE key_id = %s", theirs.key_id) == 0
    for function, more in [("list_keys", ()), ("mint", ()), ("regenerate", ()),
                           ("import_key", (b"x" * 32,))]:
        there = app.refused("KS404", function, "globex", *more)
        assert there.replace("globex", "nobody") == app.refused("KS404", function, "nobody", *more)
    unknown = db.value("SELECT gen_random_uuid()")
    for function, more in [("rotate", ()), ("disable", ()), ("enable", ()), ("revoke", ()),
                           ("alter_key", (Jsonb({"label": "x"}),))]:
        there = app.refused("KS404", function, theirs.key_id, *more)
        missing = app.refused("KS404", function, unknown, *more)
        assert there.replace(str(theirs.key_id), str(unknown)) == missing
    assert db.verify(theirs.api_key).ok
    app.call("revoke", ours.key_id)


def test_a_cheap_filter_of_ones_own_sees_no_more(db, as_role):
    """The view filters rows before a caller's function sees them."""
    db.mint("globex", label="secret label")
    app = as_role(ISSUER)
    app.mint(label="ours")
    app.rows("""CREATE FUNCTION pg_temp.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS
                $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$""")
    notices = []
    app.session.add_notice_handler(lambda diag: notices.append(diag.message_primary))
    app.rows("SELECT label FROM keysmith.keys WHERE pg_temp.peek(label)")
    assert notices == ["saw ours"]


def test_an_issuer_for_the_identity_needs_one(db, as_role):
    app, key = as_role("identity_issuer"), db.mint()
    db.call("grant_access", "identity_issuer", VERIFIER)
    for function in ("mint", "list_keys", "usage_logs"):
        with pytest.raises(psycopg.Error) as error:
            app.call(function, "acme")
        assert error.value.sqlstate == "KS403"
        assert "no tenant is signed in" in error.value.diag.message_primary
        assert "sign_in" in error.value.diag.message_hint
        assert "admin" not in str(error.value)
    assert app.rows("SELECT * FROM keysmith.keys") == []
    with app.session.transaction():
        assert app.verify(key.api_key, sign_in=True).ok
        app.mint()
        assert app.rows("SELECT DISTINCT tenant FROM keysmith.keys") == [("acme",)]
        assert error_of(app, "SELECT keysmith.mint('globex')").sqlstate == "KS404"


USAGE = ["usage", "usage_hourly", "usage_daily", "usage_units", "usage_tags", "usage_endpoints", "top_keys", "top_refusals",
         "touches"]


@pytest.fixture
def used(db):
    """A key of each of two tenants, both accepted and refused, with work on a tracked table."""
    db.rows("CREATE TABLE orders (id int)")
    db.call("track", "orders")
    db.call("alter_keyspace", "default", Jsonb({"usage_tags": ["model"]}))
    keys = {}
    for tenant in ("acme", "globex"):
        keys[tenant] = key = db.mint(tenant, scopes=["a"])
        headers = Jsonb({"authorization": f"Bearer {key.api_key}"})
        with db.session.transaction():
            assert db.one("authenticate", headers, "GET", "/orders", None, weights=Jsonb({"tokens": 7})).ok
            db.rows("INSERT INTO orders VALUES (1)")
            db.one("log_request", tags=Jsonb({"model": "small"}))
        assert db.reason(key.api_key, scopes=["b"]) == "insufficient_scope"
    db.call("flush_usage")
    return keys


def test_an_issuer_sees_the_usage_of_its_tenant_alone(db, roles, used, as_role):
    app, ours, theirs = as_role(ISSUER), used["acme"], used["globex"]
    for view in USAGE:
        everything = db.rows(f"SELECT * FROM keysmith.{view}")
        assert {row.tenant for row in everything} == {"acme", "globex"}, view
        seen = app.rows(f"SELECT * FROM keysmith.{view}")
        assert sorted(map(str, seen)) == sorted(str(r) for r in everything if r.tenant == "acme")
    assert app.one("usage_logs", "acme")[0]["meta"]["total"] == 2
    unknown = db.value("SELECT gen_random_uuid()")
    there = app.refused("KS404", "usage_logs", "globex")
    assert there.replace("globex", "nobody") == app.refused("KS404", "usage_logs", "nobody")
    assert app.refused("KS404", "usage_logs", "acme", key_id=theirs.key_id) \
        == app.refused("KS404", "usage_logs", "acme", key_id=unknown)
    assert app.one("blast_radius", ours.key_id).rows == 1
    assert app.refused("KS404", "blast_radius", theirs.key_id) \
        == app.refused("KS404", "blast_radius", unknown)
    drawn = {name: app.call("usage_chart", **named) for name, named in {
        "all": {}, "ours": {"key_id": ours.key_id}, "theirs": {"key_id": theirs.key_id}}.items()}
    assert drawn["all"][1:] == drawn["ours"][1:]
    assert drawn["theirs"][-1] == ("no requests in this time",)
    there = app.refused("KS404", "usage_chart", tenant="globex")
    assert there.replace("globex", "nobody") == app.refused("KS404", "usage_chart", tenant="nobody")


def test_an_issuer_for_the_identity_sees_that_tenants_usage(db, roles, used, as_role):
    db.call("grant_access", "identity_issuer", VERIFIER)
    app = as_role("identity_issuer")
    for view in USAGE:
        assert app.rows(f"SELECT * FROM keysmith.{view}") == []
    app.refused("KS403", "usage_logs", "globex")
    with app.session.transaction():
        assert app.verify(used["globex"].api_key, sign_in=True).ok
        for view in USAGE:
            assert {row.tenant for row in app.rows(f"SELECT * FROM keysmith.{view}")} == {"globex"}
        assert app.one("usage_logs", "globex")[0]["meta"]["total"] >= 2
        assert error_of(app, "SELECT keysmith.usage_logs('acme')").sqlstate == "KS404"


def test_a_verifier_sees_no_usage(db, roles, used, as_role):
    app = as_role(VERIFIER)
    calls = ["usage_logs('acme')", "usage_chart()", f"blast_radius('{used['acme'].key_id}')",
             "usage_status()", "flush_usage()", "limit_status()", "status()", "maintain()"]
    for statement in [*(f"SELECT keysmith.{call}" for call in calls),
                      *(f"SELECT FROM keysmith.{view}" for view in USAGE)]:
        assert error_of(app, statement).sqlstate == "42501", statement
        with app.session.transaction():
            assert app.verify(used["acme"].api_key, sign_in=True).ok
            assert error_of(app, statement).sqlstate == "42501", statement


def test_an_auditor_and_an_admin_see_the_usage_of_all(db, roles, used, as_role):
    for role in (AUDITOR, ADMIN):
        app = as_role(role)
        for view in USAGE:
            assert {row.tenant for row in app.rows(f"SELECT * FROM keysmith.{view}")} \
                == {"acme", "globex"}
        for tenant, key in used.items():
            assert app.one("usage_logs", tenant)[0]["meta"]["total"] == 2
            assert app.one("blast_radius", key.key_id).rows == 1
        app.call("flush_usage")
        assert app.one("usage_status").mode == "shared memory"
        assert app.one("limit_status").available


def test_partitions_that_are_made_later_are_nobodys(db, roles):
    db.rows("ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO PUBLIC, nobody, auditor")
    assert db.value("SELECT keysmith_private.usage_prepare()") > 0
    given = db.rows("""
        SELECT c.relname, r, privilege
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid, unnest(%s::text[]) r,
             unnest('{SELECT,INSERT,UPDATE,DELETE,TRUNCATE,REFERENCES,TRIGGER}'::text[]) privilege
        WHERE i.inhparent = 'keysmith_private.usage_event'::regclass
          AND has_table_privilege(r, c.oid, privilege)""", LEVELS)
    assert given == []


def test_access_is_given_and_taken_while_partitions_are_made(db, roles, connect, database):
    other = database(connect())
    other.rows("SET lock_timeout = '60s'")
    with db.session.transaction():
        assert db.value("SELECT keysmith_private.usage_prepare()") > 0
        other.call("grant_access", "nobody", AUDITOR)
        other.call("revoke_access", "nobody")
    assert not db.value("SELECT has_table_privilege('nobody', 'keysmith.usage', 'SELECT')")


def test_access_that_several_give_at_once_is_given(db, roles, connect, database):
    def give(role):
        database(connect()).call("grant_access", role, ADMIN)

    watcher = database(connect())
    with ThreadPoolExecutor() as pool:
        with db.session.transaction():
            db.call("revoke_access", VERIFIER)
            others = [pool.submit(give, role) for role in ("nobody", ISSUER)]
            until(watcher, "SELECT count(*) = 2 FROM pg_stat_activity WHERE wait_event_type = 'Lock' "
                           "AND datname = current_database()")
        for other in others:
            other.result(30)
    for role in ("nobody", ISSUER):
        assert db.value("SELECT has_function_privilege(%s, 'keysmith.maintain()', 'EXECUTE')", role)


def test_what_was_given_by_hand_is_taken_as_well(db, roles):
    db.call("grant_access", "nobody", VERIFIER)
    db.rows("GRANT SELECT (label) ON keysmith_private.key TO nobody; GRANT ALL ON keysmith_private.tenant TO nobody; "
            "GRANT ALL ON SEQUENCE keysmith_private.usage_sequence TO nobody; "
            "GRANT EXECUTE ON FUNCTION keysmith.maintain() TO nobody")
    db.call("revoke_access", "nobody")
    assert not db.row("""
        SELECT has_column_privilege('nobody', 'keysmith_private.key', 'label', 'SELECT')
            OR has_table_privilege('nobody', 'keysmith_private.tenant', 'SELECT')
            OR has_sequence_privilege('nobody', 'keysmith_private.usage_sequence', 'USAGE')
            OR has_function_privilege('nobody', 'keysmith.maintain()', 'EXECUTE')""")[0]


def test_an_auditor_sees_all_and_changes_nothing(db, as_role):
    db.mint()
    db.mint("globex")
    app = as_role(AUDITOR)
    assert len(app.rows("SELECT * FROM keysmith.keys")) == 2
    assert app.value("SELECT count(*) FROM keysmith.audit") > 4
    assert {row.ok for row in app.call("audit_verify")} == {True}
    assert app.one("status").keys_active == 2
    assert "default" in {head.keyspace for head in app.call("audit_heads")}
    for statement in ("mint('acme')", "revoke(gen_random_uuid())", "create_tenant('x')",
                      "grant_access('auditor', 'admin')", "revoke_access('admin')"):
        assert error_of(app, f"SELECT keysmith.{statement}").sqlstate == "42501"
    # Nor with EXECUTE.
    db.rows("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA keysmith TO auditor, issuer")
    for role in (AUDITOR, ISSUER):
        session = as_role(role)
        for statement in (f"grant_access('{role}', 'admin')", "create_tenant('x')",
                          "revoke_access('admin')"):
            assert error_of(session, f"SELECT keysmith.{statement}").sqlstate == "KS403"
    assert error_of(app, "SELECT keysmith.mint('acme')").sqlstate == "KS403"
    for statement in ("audit_verify()", "audit_heads()", "status()"):
        assert error_of(as_role(ISSUER), f"SELECT keysmith.{statement}").sqlstate == "KS403"


def test_the_right_to_call_is_not_enough_to_manage(db, as_role):
    db.rows("GRANT USAGE ON SCHEMA keysmith TO nobody")
    db.rows("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA keysmith, keysmith_private TO nobody")
    db.rows("GRANT SELECT ON keysmith.keys, keysmith.audit TO nobody")
    db.mint()
    app = as_role(NOBODY)
    assert app.rows("SELECT * FROM keysmith.keys") == app.rows("SELECT * FROM keysmith.audit") == []
    for statement in ("mint('acme')", "list_keys('acme')", "create_tenant('x')", "audit_verify()",
                      "grant_access('nobody', 'admin')", "audit_heads()", "status()", "doctor()", "scanner_patterns()"):
        error = error_of(app, f"SELECT keysmith.{statement}")
        assert error.sqlstate == "KS403" and "grant_access" in error.diag.message_hint


def test_an_admin_administers_by_functions_alone(db, as_role):
    app = as_role(ADMIN)
    app.tenant("new")
    key = app.mint("new")
    assert app.status_of(key.key_id) == "active"
    for table in ("key", "tenant", "access", "audit_entry", "audit_content", "keyspace"):
        for statement in (f"SELECT FROM keysmith_private.{table}", f"DELETE FROM keysmith_private.{table}"):
            assert error_of(app, statement).sqlstate == "42501"
    assert error_of(app, "SELECT FROM keysmith_private.key_listing").sqlstate == "42501"
    assert db.row("SELECT created_by FROM keysmith.keys WHERE key_id = %s", key.key_id) == (ADMIN,)
    # An administrator may grant every level, even to itself, but nothing else.
    app.call("grant_access", "nobody", "verifier")
    assert as_role(NOBODY).verify(key.api_key).ok


def test_membership(cluster, dbname, db, as_role):
    app = as_role(NOBODY)
    db.rows("GRANT issuer TO nobody")
    assert app.mint().key_id
    assert app.value("SELECT created_by FROM keysmith.keys") == NOBODY
    # Without INHERIT the session must SET ROLE. From 16 on, a membership keeps the option from
    # when it was granted.
    db.rows("REVOKE issuer FROM nobody; ALTER ROLE nobody NOINHERIT; GRANT issuer TO nobody")
    assert error_of(app, "SELECT keysmith.mint('acme')").sqlstate == "42501"
    app.rows("SET ROLE issuer")
    assert app.mint().key_id
    app.rows("RESET ROLE")
    db.rows("REVOKE issuer FROM nobody")
    assert error_of(app, "SELECT keysmith.mint('acme')").sqlstate == "42501"
    assert db.row("SELECT role, session_role FROM keysmith.audit WHERE keyspace = 'default' "
                  "ORDER BY entry DESC LIMIT 1") \
        == (ISSUER, NOBODY)


def test_membership_through_others_is_found_beside_everyones_access(cluster, dbname, db, as_role):
    db.rows("CREATE ROLE between_roles NOLOGIN; GRANT issuer TO between_roles; GRANT between_roles TO nobody")
    # Of dropped roles, and in random order: reading all of them takes a page each.
    db.rows("""INSERT INTO keysmith_private.access (role, level)
               SELECT (3000000000 + n)::oid::regrole, 'admin' FROM generate_series(1, 5000) AS n
               ORDER BY md5(n::text)""")
    db.rows("ANALYZE keysmith_private.access")
    app = as_role(NOBODY)
    try:
        assert app.mint().key_id
        for _ in range(2):
            (plan,) = app.value("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT keysmith.list_keys('acme')")
        assert 0 < plan["Plan"]["Shared Hit Blocks"] < 2000
        assert error_of(app, "SELECT keysmith.mint('globex')").sqlstate == "KS404"
        assert [row.tenant for row in app.rows("SELECT tenant FROM keysmith.keys")] == ["acme"]
    finally:
        db.rows("DROP ROLE between_roles")


def test_the_owner_of_the_database_has_what_pg_database_owner_has(cluster, dbname, db, as_role):
    db.call("grant_access", "pg_database_owner", ISSUER, tenant="acme")
    app = as_role(NOBODY)
    assert error_of(app, "SELECT keysmith.mint('acme')").sqlstate == "42501"
    db.rows(f"ALTER DATABASE {dbname} OWNER TO nobody")
    assert app.mint().key_id
    db.rows(f"ALTER DATABASE {dbname} OWNER TO postgres")
    db.call("revoke_access", "pg_database_owner")


def test_revoked_access_is_gone_at_once(db, as_role):
    app = as_role(VERIFIER)
    key = db.mint()
    db.call("grant_access", VERIFIER, ISSUER, tenant="acme")
    db.call("grant_access", VERIFIER, ISSUER, tenant="globex")
    db.call("grant_access", VERIFIER, ISSUER, tenant="globex")
    assert app.mint() and app.mint("globex") and app.verify(key.api_key).ok
    db.call("revoke_access", VERIFIER, ISSUER, tenant="globex")
    app.refused("KS404", "mint", "globex")
    assert app.mint().key_id
    db.call("revoke_access", VERIFIER, ISSUER)
    assert error_of(app, "SELECT keysmith.mint('acme')").sqlstate == "42501"
    assert app.verify(key.api_key).ok
    for named in ({"level": ISSUER}, {"level": ADMIN}, {"level": ISSUER, "tenant": "acme"}):
        db.refused("KS404", "revoke_access", VERIFIER, **named)
    db.call("revoke_access", VERIFIER)
    assert error_of(app, "SELECT keysmith.verify('x')").sqlstate == "42501"
    assert error_of(app, "SELECT keysmith.current_tenant()").sqlstate == "42501"
    db.refused("KS404", "revoke_access", VERIFIER)


@pytest.mark.parametrize("positional, named, sqlstate", [
    ((None, "admin"), {}, "KS400"), (("nobody", None), {}, "KS400"),
    (("nobody", "root"), {}, "KS400"), (("nobody", "Admin"), {}, "KS400"), (("-", "admin"), {}, "KS400"),
    (("nobody", "verifier"), {"tenant": "acme"}, "KS400"),
    (("nobody", "issuer"), {"tenant": "none"}, "KS404"),
    (("nobody", "issuer"), {"tenant": "acme", "keyspace": "none"}, "KS404"),
    (("nobody", "issuer"), {"keyspace": "default"}, "KS400"),
    (("none", "issuer"), {}, "42704"), (("4294967295", "admin"), {}, "KS400"),
])
def test_access_is_given_as_it_is_asked_for_or_not(db, roles, positional, named, sqlstate):
    before = db.rows("SELECT * FROM keysmith_private.access ORDER BY 1, 2, 3")
    db.refused(sqlstate, "grant_access", *positional, **named)
    assert db.rows("SELECT * FROM keysmith_private.access ORDER BY 1, 2, 3") == before


def test_roles_of_any_name(cluster, dbname, db):
    name = 'a "b"; DROP TABLE keysmith_private.key; -- %s\\'
    quoted = db.value("SELECT quote_ident(%s)", name)
    cluster.execute(f"CREATE ROLE {quoted}")
    try:
        db.call("grant_access", quoted, "verifier")
        assert db.value("SELECT has_function_privilege(%s, 'keysmith.sign_out()', 'EXECUTE')", name)
        assert name in db.value("SELECT after::text FROM keysmith.audit WHERE keyspace = '*'") \
            .replace('\\"', '"').replace('""', '"').replace("\\\\", "\\")
        db.call("revoke_access", quoted)
    finally:
        cluster.execute(f"DROP OWNED BY {quoted}", dbname)
        cluster.execute(f"DROP ROLE {quoted}")


def test_roles_that_are_renamed_or_dropped(cluster, dbname, db):
    cluster.execute("CREATE ROLE first LOGIN")
    db.tenant()
    db.call("grant_access", "first", "issuer", tenant="acme")
    cluster.execute("ALTER ROLE first RENAME TO second")
    with cluster.connect(dbname, user="second") as session:
        session.execute("SELECT keysmith.mint('acme')")
    cluster.execute("DROP OWNED BY second", dbname)
    cluster.execute("DROP ROLE second")
    # The entry names no existing role, and a dump omits it, since its number may be another
    # role's there.
    assert db.value("SELECT count(*) FROM keysmith_private.access") == 1
    dumped = cluster.program("pg_dump", dbname=dbname).stdout
    assert "issuer" not in dumped.split("COPY keysmith_private.access")[1].split("\\.")[0]


def test_access_outlives_a_dump(cluster, dbname, db, as_role):
    text = cluster.program("pg_dump", dbname=dbname).stdout
    cluster.execute("CREATE DATABASE restored")
    try:
        cluster.psql(text, dbname="restored")
        for role in LEVELS:
            given = "SELECT proname FROM pg_proc p WHERE pronamespace = 'keysmith'::regnamespace " \
                "AND has_function_privilege(%s, oid, 'EXECUTE') ORDER BY 1"
            with cluster.connect("restored") as session:
                assert session.execute(given, (role,)).fetchall() == db.rows(given, role)
        with cluster.connect("restored", user=ISSUER) as session:
            session.execute("SELECT keysmith.mint('acme')")
            with pytest.raises(psycopg.Error) as error:
                session.execute("SELECT keysmith.mint('globex')")
            assert error.value.sqlstate == "KS404"
    finally:
        cluster.execute("DROP DATABASE restored WITH (FORCE)")
