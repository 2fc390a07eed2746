"""The views of an administrator in psql: tenants, and keys that need care."""

import subprocess

import pytest
from psycopg.types.json import Jsonb

import cluster as clusters


def request(db, key, method="GET", path="/v1/images/1", ip=None, **options):
    headers = Jsonb({"Authorization": f"Bearer {key.api_key}"})
    return db.one("authenticate", headers, method, path, ip, **options)


def labels(db, view, column="label"):
    return [value for value, in db.rows(f"SELECT {column} FROM keysmith.{view}")]


# tenants

def test_tenants(db):
    db.call("define_role", "default", "editor", ["a"])
    db.tenant("acme", plan="pro", metadata=Jsonb({"vat": "x"}), credits=Jsonb({"refill": 50, "every": "day"}),
              limits=Jsonb([{"name": "all", "limit": 10, "window": "1 minute"}]))
    db.tenant("quiet")
    db.call("set_member", "acme", "ann", "editor")
    key = db.mint()
    db.call("disable", db.mint().key_id)
    db.call("revoke", db.mint().key_id)
    assert db.verify(key.api_key).ok
    db.call("flush_usage")
    db.call("suspend_tenant", "quiet", reason="unpaid")
    acme, quiet = db.rows("SELECT * FROM keysmith.tenants ORDER BY tenant")
    assert (acme.tenant, acme.keyspace, acme.plan, acme.status) == ("acme", "default", "pro", "active")
    assert (acme.active_keys, acme.keys, acme.members, acme.credits) == (1, 3, 1, 50)
    assert acme.limits == [{"name": "all", "limit": 10, "window": "60 s", "burst": 10}] \
        or acme.limits[0]["limit"] == 10
    assert acme.last_used_at == db.value("SELECT last_used_at FROM keysmith.keys WHERE key_id = %s", key.key_id)
    assert acme.metadata == {"vat": "x"}
    assert (quiet.status, quiet.suspended_reason, quiet.keys, quiet.credits, quiet.last_used_at) \
        == ("suspended", "unpaid", 0, None, None)
    # Spent credits and use appear immediately, before totals are added up.
    db.call("mint", "acme")
    assert db.verify(key.api_key, spend=20).credits_remaining == 30
    assert db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 30
    db.rows("UPDATE keysmith_private.credit SET refilled_at = now() - interval '2 days'")
    assert db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'") == 50


# expiring_soon

def test_keys_that_end_soon(db):
    db.tenant()
    ends = {"now": "1 minute", "soon": "29 days", "later": "31 days"}
    keys = {label: db.mint(label=label, expires_at=db.value(f"SELECT now() + interval '{end}'"))
            for label, end in ends.items()}
    db.mint(label="never")
    stopped = db.mint(label="stopped", expires_at=db.value("SELECT now() + interval '1 day'"))
    db.call("disable", stopped.key_id)
    rotated = db.mint(label="rotated")
    successor = db.one("rotate", rotated.key_id, "7 days")
    rows = db.rows("SELECT * FROM keysmith.expiring_soon")
    assert [row.label for row in rows] == ["now", "rotated", "soon"]
    assert rows[0].key_id == keys["now"].key_id and rows[0].rotated_to is None
    assert rows[1].rotated_to == successor.key_id
    assert db.value("SELECT max(ends_in) < interval '30 days' AND min(ends_in) > '0' FROM keysmith.expiring_soon")
    db.rows("UPDATE keysmith_private.key SET expires_at = now() - interval '1 s' WHERE label = 'now'")
    assert labels(db, "expiring_soon") == ["rotated", "soon"]


# stale_keys

def test_keys_that_nobody_uses(db):
    db.tenant()
    keys = {label: db.mint(label=label) for label in ("used", "unused", "long ago", "refused", "revoked")}
    db.verify(keys["used"].api_key)
    assert not db.verify(keys["refused"].api_key, environment="test").ok
    db.call("revoke", keys["revoked"].key_id)
    db.call("flush_usage")
    db.rows("UPDATE keysmith_private.key SET created_at = now() - interval '200 days' WHERE label IN ('unused', 'long ago')")
    db.rows("INSERT INTO keysmith_private.usage_last SELECT key_id, now() - interval '91 days' FROM keysmith_private.key "
            "WHERE label = 'long ago'")
    rows = db.rows("SELECT label, last_used_at IS NULL AS never, extract(day FROM unused_for) AS days "
                   "FROM keysmith.stale_keys")
    assert [tuple(row) for row in rows] == [("unused", True, 200), ("long ago", False, 91), ("refused", True, 0)]
    db.rows("UPDATE keysmith_private.usage_last SET used_at = now() - interval '89 days'")
    assert "long ago" not in labels(db, "stale_keys")
    # Without records, nobody knows whether a key was used.
    db.call("alter_keyspace", "default", Jsonb({"usage_log": "refusals"}))
    assert labels(db, "stale_keys") == []


# recent_refusals

def test_what_was_refused_lately(db):
    db.tenant()
    key = db.mint(label="ours", scopes=["images:read"])
    db.call("define_route", "default", "GET", "/v1/images/{id}", "images:write")
    assert not request(db, key).ok
    assert db.verify(key.api_key).ok
    assert db.reason("ks_live_nonsense") == "malformed_key"
    db.call("flush_usage")
    known, unknown = db.rows("SELECT * FROM keysmith.recent_refusals ORDER BY key_id")
    assert (known.tenant, known.label, known.reason, known.status, known.method, known.endpoint) \
        == ("acme", "ours", "insufficient_scope", 403, "GET", "/v1/images/1")
    assert known.key_id == key.key_id and known.request_id
    assert (unknown.reason, unknown.key_id, unknown.tenant) == ("malformed_key", None, None)
    moments = [at for at, in db.rows("SELECT at FROM keysmith.recent_refusals")]
    assert moments == sorted(moments, reverse=True)
    # Shortly after midnight, that is the day before yesterday.
    db.rows("SELECT keysmith_private.usage_prepare(current_date - 2, current_date)")
    db.rows("UPDATE keysmith_private.usage_event SET at = at - interval '25 hours'")
    assert labels(db, "recent_refusals", "reason") == ["malformed_key"]


# overprivileged_keys

def overprivileged(db):
    return {row.label: row for row in db.rows("SELECT * FROM keysmith.overprivileged_keys")}


def test_scopes_that_no_request_needed(db):
    db.tenant()
    for method, pattern, scopes in [("GET", "/v1/images/{id}", "images:read | admin:all"),
                                    ("POST", "/v1/images", "images:write & billing:read"), ("GET", "/open", "")]:
        db.call("define_route", "default", method, pattern, scopes)
    db.call("define_route", "default", "DELETE", "/v1/images/{id}", "images:delete", variant="soft")
    keys = {label: db.mint(label=label, scopes=scopes) for label, scopes in {
        "exact": ["images:read"], "more": ["images:read", "images:write", "users:read"],
        "two": ["images:write", "billing:read", "admin:all"], "family": ["images:*", "users:*"],
        "unused": ["images:read"], "elsewhere": ["images:read", "users:read"], "open": ["images:read"],
        "variant": ["images:delete", "users:read"]}.items()}
    for label in ("exact", "more", "family"):
        assert request(db, keys[label]).ok
        assert request(db, keys[label], path="/v1/images/2?x=1").ok
    assert request(db, keys["two"], "POST", "/v1/images").ok
    assert request(db, keys["elsewhere"], path="/unlisted").ok and db.verify(keys["elsewhere"].api_key).ok
    assert request(db, keys["more"], path="/unlisted").ok
    assert request(db, keys["open"], path="/open").ok
    assert request(db, keys["variant"], "DELETE", variant="soft").ok
    # A refused request does not count as use of a scope.
    assert not request(db, keys["exact"], "POST", "/v1/images").ok
    db.call("flush_usage")
    found = overprivileged(db)
    assert set(found) == {"more", "two", "family", "open", "variant"}
    assert found["more"].unused_scopes == ["images:write", "users:read"]
    assert found["more"].used_scopes == ["images:read"]
    assert (found["more"].requests, found["more"].untold) == (3, 1)
    assert found["two"].unused_scopes == ["admin:all"]
    assert found["family"].unused_scopes == ["users:*"] and found["family"].used_scopes == ["images:*"]
    assert found["open"].unused_scopes == ["images:read"] and found["open"].used_scopes == []
    assert found["variant"].used_scopes == ["images:delete"]
    # The view omits keys that use their scopes, no longer have them, or have ended.
    db.call("alter_key", keys["more"].key_id, Jsonb({"scopes": ["images:read"]}))
    db.call("revoke", keys["two"].key_id)
    assert set(overprivileged(db)) == {"family", "open", "variant"}


def test_wildcards_are_as_good_as_the_catalogue(db):
    db.tenant()
    for scope, implies in [("images:read", []), ("images:write", ["images:read"]), ("users:read", [])]:
        db.call("define_scope", "default", scope, implies=implies)
    db.call("define_route", "default", "GET", "/v1/images/{id}", "images:read")
    keys = {label: db.mint(label=label, scopes=scopes) for label, scopes in {
        "all": ["*"], "none": [], "family": ["images:*"], "implying": ["images:write"]}.items()}
    for key in keys.values():
        assert request(db, key).ok
    db.call("flush_usage")
    found = overprivileged(db)
    # A scope that implies a needed scope counts as used.
    assert set(found) == {"all", "none"}
    for label in ("all", "none"):
        assert found[label].unused_scopes == ["users:read"]
        assert found[label].used_scopes == ["images:read", "images:write"]


# Readers and output

VIEWS = ["tenants", "expiring_soon", "stale_keys", "recent_refusals", "overprivileged_keys"]
# Columns with JSON of any length need the wrapped format.
WRAPPED = ["audit", "routes"]
# All views, and the result types of functions.
READ = ("(relnamespace = 'keysmith'::regnamespace AND relkind = 'v' "
        "OR relnamespace = 'keysmith_private'::regnamespace AND relkind = 'c')")


@pytest.fixture
def two_tenants(db):
    db.call("define_route", "default", "GET", "/v1/images/{id}", "images:read")
    for tenant in ("acme", "globex"):
        db.tenant(tenant)
        key = db.mint(tenant, scopes=["images:read", "x"], expires_at=db.value("SELECT now() + interval '1 day'"))
        db.mint(tenant)
        assert request(db, key).ok
        assert not db.verify(key.api_key, environment="test").ok
    db.verify("nonsense")
    db.call("flush_usage")


def test_each_sees_its_own(db, two_tenants, sees_only):
    for view in VIEWS:
        assert set(labels(db, view, "tenant")) - {None} == {"acme", "globex"}, view
    with sees_only("acme"):
        db.rows("RESET ROLE")
        db.rows("GRANT SELECT ON keysmith.overprivileged_keys TO sees_one_tenant; SET ROLE sees_one_tenant")
        for view in VIEWS:
            assert set(labels(db, view, "tenant")) == {"acme"}, view


def psql(cluster, dbname, script):
    done = clusters.run("psql", "-X", "-h", cluster.dir, "-p", cluster.port, "-U", "postgres", "-d", dbname,
                        input=script, stderr=subprocess.STDOUT)
    assert "ERROR" not in done.stdout, done.stdout
    return done.stdout


@pytest.fixture
def lived_in(db):
    """Names, scopes, paths and JSON of typical length."""
    keyspace = {"keyspace": "studio"}
    db.call("create_keyspace", "studio", prefixes=Jsonb({"secret": {"live": "studio_live_", "test": "studio_test_"}}))
    db.call("define_role", "studio", "editor", ["images:read", "images:write", "users:read"])
    db.call("define_route", "studio", "GET", "/v1/images/{id}", "images:read | images:write")
    limits = Jsonb([{"name": "burst", "limit": 100, "window": "1 second"},
                    {"name": "daily", "limit": 50000, "window": "1 day"}])
    db.call("define_route", "studio", "POST", "/v1/images/{id}/variations", "images:write & billing:read",
            variant="high-resolution", kind="secret", weight=10, limits=limits)
    db.tenant("Acme Corporation", plan="enterprise", metadata=Jsonb({"billing": "cus_N4BT8wzNqXZ2"}),
              credits=Jsonb(1_000_000), **keyspace)
    db.call("set_member", "Acme Corporation", "ann@example.org", "editor", **keyspace)
    key = db.mint("Acme Corporation", label="Production, image pipeline",
                  scopes=["images:read", "images:write", "users:read"], owner="ann@example.org",
                  allowlist=["203.0.113.0/24", "2001:db8::/32"], metadata=Jsonb({"team": "imaging"}),
                  limits=Jsonb([{"name": "burst", "limit": 100, "window": "1 second"}]),
                  expires_at=db.value("SELECT now() + interval '9 days'"), **keyspace)
    db.rows("""
        CREATE SCHEMA billing;
        CREATE TABLE billing.subscription_invoices (id bigint PRIMARY KEY, email text);
        CREATE TABLE customers (id bigint PRIMARY KEY, email text);
        INSERT INTO customers SELECT n, n || '@example.org' FROM generate_series(1, 2000) n;
        SELECT keysmith.track('billing.subscription_invoices'), keysmith.seal_rows('billing.subscription_invoices'),
               keysmith.protect('customers', 'email')""")
    for path in ("/v1/images/1", "/v1/images/bd3f3f6e-8d3c-4e0e-9a52-3c8f1f0a7f11"):
        with db.session.transaction():
            assert request(db, key, path=path, ip="203.0.113.77", **keyspace).ok
            db.call("log_request", 200, "12345 microseconds")
            db.rows("INSERT INTO billing.subscription_invoices VALUES (length(%s), 'ann@example.org')", path)
    assert not request(db, key, "POST", "/v1/images/7/variations", variant="high-resolution",
                       ip="203.0.113.77", **keyspace).ok
    db.verify("studio_live_nonsense", ip="2001:db8:1234:5678:9abc:def0:1234:5678", **keyspace)
    db.rows("CALL keysmith.protect_existing('customers')")
    db.rows("""
        ALTER TABLE billing.subscription_invoices DISABLE TRIGGER USER;
        UPDATE billing.subscription_invoices SET email = 'forged';
        ALTER TABLE billing.subscription_invoices ENABLE TRIGGER USER""")
    db.call("flush_usage")
    return key


def test_it_fits_a_terminal(cluster, dbname, two_tenants, lived_in):
    """With psql set up as in the documents, no output is wider than 100 columns."""
    explain = f"explain_verify('{lived_in.api_key}', keyspace => 'studio', "
    for rows in [
        *VIEWS, "keys", "usage", "usage_hourly", "usage_daily", "usage_endpoints", "top_keys", "top_refusals",
        "touches", "hashing_progress", *WRAPPED, "doctor()", "status()", "usage_status()", "limit_status()",
        "list_keys('Acme Corporation', 'studio')", "audit_verify()", "audit_heads()",
        explain + "scopes => '{images:read,billing:read}', ip => '198.51.100.1')",
        explain + "method => 'POST', path => '/v1/images/7/variations', variant => 'high-resolution')",
        f"blast_radius('{lived_in.key_id}')", "verify_rows('billing.subscription_invoices')", "scanner_patterns()",
        "usage_chart('Acme Corporation', keyspace => 'studio', width => 100)",
    ]:
        script = "\\pset columns 100\n\\x auto\n"
        if rows in WRAPPED:
            script += "\\pset format wrapped\n"
        printed = psql(cluster, dbname, script + f"SELECT * FROM keysmith.{rows};")
        assert "rows)" in printed or "(1 row)" in printed or "RECORD" in printed, rows
        assert "(0 rows)" not in printed, rows
        assert max(map(len, printed.splitlines())) <= 100, rows


def test_what_describes_a_view_fits_as_well(cluster, dbname, db):
    """psql never shows its columns one per line, so it needs the wrapped format."""
    for name, in db.rows(f"SELECT oid::regclass::text FROM pg_class WHERE {READ}"):
        printed = psql(cluster, dbname, f"\\pset columns 100\n\\pset format wrapped\n\\d+ {name}\n")
        columns = printed.partition("View definition:")[0].splitlines()
        assert "Description" in printed and max(map(len, columns)) <= 100, name


def test_comments_read_like_documentation(db):
    """In \\df+, \\dv+, \\dT+ and \\d+: each has a sentence of at most one line, and arguments
    have names."""
    comments = db.rows(f"""
        SELECT p.oid::regprocedure::text AS object, obj_description(p.oid, 'pg_proc') AS comment, 130 AS most
        FROM pg_proc p WHERE pronamespace = 'keysmith'::regnamespace
        UNION ALL
        SELECT c.oid::regclass::text, obj_description(c.oid, 'pg_class'), 130 FROM pg_class c
        WHERE relnamespace IN ('keysmith'::regnamespace, 'keysmith_private'::regnamespace) AND relkind IN ('r', 'p', 'v', 'S')
        UNION ALL
        SELECT reltype::regtype::text, obj_description(reltype, 'pg_type'), 130 FROM pg_class
        WHERE {READ} AND relkind = 'c'
        UNION ALL
        SELECT c.oid::regclass || '.' || a.attname, col_description(c.oid, a.attnum), 130
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
        WHERE relnamespace = 'keysmith'::regnamespace AND col_description(c.oid, a.attnum) IS NOT NULL
        UNION ALL
        SELECT c.oid::regclass || '.' || a.attname, col_description(c.oid, a.attnum), 100
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        WHERE {READ}""")
    assert len(comments) > 300
    wrong = [row for row in comments if not row.comment or len(row.comment) > row.most
             or "\n" in row.comment or row.comment.endswith(".")]
    assert wrong == []
    unnamed = db.rows("""
        SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'keysmith'::regnamespace AND pronargs > 0
          AND (proargnames IS NULL OR '' = ANY (proargnames[1:pronargs]))""")
    assert unnamed == []


def test_long_work_tells_how_far_it_is(db):
    db.tenant()
    db.rows("INSERT INTO keysmith_private.audit_entry SELECT 'default', n, now(), 'x', 0, '', '' "
            "FROM generate_series(1000, 21500) n")
    notices = []
    db.session.add_notice_handler(lambda diag: notices.append(diag.message_primary))
    db.call("audit_verify")
    assert notices == ['checked 10000 entries of keyspace "default"', 'checked 20000 entries of keyspace "default"']
    notices.clear()
    db.rows("SELECT keysmith_private.usage_prepare('2020-01-01', '2020-01-02')")
    db.call("maintain")
    assert notices == ["dropped usage_20200101", "dropped usage_20200102"]
