"""The fuzzed server: roles of each level, tables to name, and keys to use."""

import good
from values import literal

ROLES = ["postgres", "admin", "verifier", "host", "issuer", "auditor", "stranger"]
# The weight of each role's calls.
WEIGHTS = [3, 3, 2, 2, 2, 2, 1]
OWNERS = ["postgres", "verifier", "admin", "stranger"]
SETTINGS = {
    "keysmith__usage_flush_interval": "100ms", "keysmith__usage_buffer": "1MB", "keysmith__max_buckets": "64",
    "max_prepared_transactions": "50", "log_line_prefix": "%m [%p] %e ", "log_error_verbosity": "terse",
    # A statement's text may contain a key; no other log message may.
    "log_min_error_statement": "panic", "log_parameter_max_length_on_error": "0", "log_min_messages": "warning",
    "max_wal_size": "2GB", "autovacuum_naptime": "5s", "work_mem": "4MB", "shared_buffers": "64MB",
}

TABLES = """
    DROP SCHEMA IF EXISTS fuzz CASCADE; DROP SCHEMA IF EXISTS fuzz_moved CASCADE; CREATE SCHEMA fuzz; GRANT ALL ON SCHEMA fuzz TO PUBLIC;
    CREATE TABLE fuzz.texts (n int PRIMARY KEY, v text);
    INSERT INTO fuzz.texts VALUES (1, 'short'), (2, repeat('compressed', 5000)), (4, '');
    ALTER TABLE fuzz.texts ALTER v SET STORAGE external;
    INSERT INTO fuzz.texts SELECT 3, string_agg(md5(n::text), '') FROM generate_series(1, 300) n;
    CREATE TABLE fuzz.many AS SELECT id FROM generate_series(1, 2000) id;
    CREATE FUNCTION fuzz.peek(text) RETURNS boolean LANGUAGE plpgsql COST 0.0001 AS $$ BEGIN RETURN length($1) >= 0; END $$;
    CREATE FUNCTION fuzz.in_the_way() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN IF random() < 0.3 THEN RAISE EXCEPTION 'in the way'; END IF; RETURN coalesce(NEW, OLD); END $$;
    DROP FOREIGN DATA WRAPPER IF EXISTS nowhere CASCADE;
    CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
    CREATE FOREIGN TABLE fuzz.elsewhere (id int, body text) SERVER nowhere;
    GRANT SELECT ON ALL TABLES IN SCHEMA fuzz TO PUBLIC;
"""
OF_OWNER = """
    CREATE TABLE fuzz.{o}_plain (id int, tenant text, tenant_id uuid, environment text, body text, "odd ""name" bytea, row_seal bytea);
    CREATE TABLE fuzz.{o}_keyed (id bigint PRIMARY KEY, tenant varchar(50) NOT NULL, body text, email text UNIQUE);
    CREATE TABLE fuzz.{o}_parts (id int, tenant text, body text) PARTITION BY RANGE (id);
    CREATE TABLE fuzz.{o}_part1 PARTITION OF fuzz.{o}_parts FOR VALUES FROM (0) TO (100);
    CREATE TABLE fuzz.{o}_part2 PARTITION OF fuzz.{o}_parts FOR VALUES FROM (100) TO (200);
    CREATE TABLE fuzz.{o}_child () INHERITS (fuzz.{o}_plain);
    CREATE UNLOGGED TABLE fuzz.{o}_unlogged (id int, body text);
    CREATE VIEW fuzz.{o}_view AS SELECT * FROM fuzz.{o}_plain;
    CREATE MATERIALIZED VIEW fuzz.{o}_matview AS SELECT * FROM fuzz.{o}_keyed;
    CREATE SEQUENCE fuzz.{o}_seq; CREATE TYPE fuzz.{o}_type AS (id int); CREATE DOMAIN fuzz.{o}_domain AS text CHECK (VALUE <> 'refused');
    CREATE TABLE fuzz.{o}_odd (id int GENERATED ALWAYS AS IDENTITY, twice int GENERATED ALWAYS AS (1) STORED, body fuzz.{o}_domain, list text[], j jsonb);
    CREATE INDEX {o}_index ON fuzz.{o}_plain (body);
    CREATE TRIGGER in_the_way BEFORE UPDATE ON fuzz.{o}_keyed FOR EACH ROW EXECUTE FUNCTION fuzz.in_the_way();
    CREATE TABLE fuzz.{o}_ready (id int, tenant text, body text, email text);
    INSERT INTO fuzz.{o}_ready SELECT n, 'acme', 'text ' || n, 'u' || n FROM generate_series(1, 300) n;
    CREATE TABLE fuzz.{o}_ready2 AS TABLE fuzz.{o}_ready; CREATE TABLE fuzz.{o}_ready3 AS TABLE fuzz.{o}_ready;
    CREATE TABLE fuzz.{o}_secured (id int, tenant text, body text); ALTER TABLE fuzz.{o}_secured FORCE ROW LEVEL SECURITY, ENABLE ROW LEVEL SECURITY;
    INSERT INTO fuzz.{o}_plain SELECT n, 'acme', NULL, 'live', 'text ' || n FROM generate_series(1, 50) n;
    INSERT INTO fuzz.{o}_keyed SELECT n, 'acme', repeat('x', n * 50), 'u' || n FROM generate_series(1, 50) n;
    INSERT INTO fuzz.{o}_parts SELECT n, 'acme', 'text' FROM generate_series(1, 150) n;
    GRANT ALL ON ALL TABLES IN SCHEMA fuzz TO PUBLIC;
"""
PREPARED = """
    SELECT keysmith.protect(t, 'body'), keysmith.seal_rows(t, 'id'), keysmith.track(t) FROM (VALUES
        ('fuzz.{o}_ready'::regclass), ('fuzz.{o}_ready2'), ('fuzz.{o}_parts')) AS v (t);
    SELECT keysmith.ledger(t) FROM (VALUES ('fuzz.{o}_keyed'::regclass)) AS v (t);
    SELECT keysmith.isolate('fuzz.{o}_ready3', 'tenant', 'default'), keysmith.track('fuzz.{o}_ready3'), keysmith.protect('fuzz.{o}_ready3', 'body');
"""
OPTIONS = """{"max_active_keys": null, "empty_scopes": "all", "default_scopes": [], "schemes": ["bearer", "key", "x_api_key"],
    "unlisted_routes": "any_key", "managed_by": null, "wildcards": true, "limits": [], "usage_log": null, "at_max": "error",
    "plan_features": null, "display": null, "codes": null, "charges": null, "label_length": null, "usage_details": null, "usage_tags": null,
    "error_body": null, "issuer": null}"""


def build(db):
    """Runs once per server."""
    db.rows("CREATE EXTENSION keysmith")
    for role in ROLES[1:]:
        db.rows(f"CREATE ROLE {role} LOGIN")
    db.rows("GRANT CREATE, TEMP ON DATABASE postgres TO PUBLIC; "
            "GRANT pg_write_server_files TO verifier, host, issuer, auditor, admin")
    types = "text, bigint, bigint, boolean, bigint, bytea, bigint, bytea, bytea"
    db.rows(f"GRANT EXECUTE ON FUNCTION keysmith.usage_collect({types}) TO auditor")


def renew(db):
    """Runs before each round: restores what a round removed. Returns the keys and tokens, and the
    existing objects, as SQL."""
    db.rows(TABLES)
    for owner in OWNERS:
        as_owner(db, owner, OF_OWNER)
    db.rows("CREATE TABLE fuzz.dropped (id int); CREATE ROLE dropped")
    gone = db.row("SELECT 'fuzz.dropped'::regclass::oid AS relation, 'dropped'::regrole::oid AS role")
    db.rows("DROP TABLE fuzz.dropped; DROP ROLE dropped")
    for tenant in ("acme", "globex"):
        if not db.value("SELECT count(*) FROM keysmith.tenants WHERE tenant = %s AND keyspace = 'default'", tenant):
            db.tenant(tenant)
        db.call("resume_tenant", tenant) if db.value(
            "SELECT suspended_at IS NOT NULL FROM keysmith_private.tenant WHERE name = %s AND keyspace = 'default'", tenant) else None
        db.call("alter_tenant", tenant, '{"limits": [], "credits": null, "plan": null}')
    db.rows("DELETE FROM keysmith_private.scope WHERE keyspace = 'default'")
    db.call("alter_keyspace", "default", OPTIONS)
    for role in ("verifier", "host", "issuer", "auditor", "admin"):
        db.call("grant_access", role, role)
        as_owner(db, role, PREPARED) if role in OWNERS else None
    as_owner(db, "postgres", PREPARED)
    db.call("grant_access", "verifier", "issuer", tenant="acme")
    db.call("define_role", "default", "reader", ["*"])
    db.call("set_member", "acme", "ann", "reader")
    for method, pattern in (("GET", "/v1/{id}"), ("POST", "/v1/*")):
        db.call("define_route", "default", method, pattern, ["a:b"])
    keys = [key for _ in range(5) for key in (
            db.mint("acme"), db.mint("acme", scopes=["a:b", "c"]), db.mint("acme", role="reader"), db.mint("acme", owner="ann"),
            db.mint("globex", environment="test", credits=1000, limits='[{"name": "l", "limit": 50, "window": "1 minute"}]'),
            db.mint("acme", kind="publishable"))]
    tokens = [db.one("derive_token", key.api_key, **{"ttl": "1 hour"} | options).token for key in keys[:6] for options in (
              {}, {"scopes": []}, {"allowlist": ["203.0.113.0/24"]}, {"ttl": "1 second"}, {"claims": '{"a": 1}'})]
    for _ in range(3):
        db.verify(keys[0].api_key, ip="203.0.113.9")
    db.call("flush_usage", "60 s")
    secrets = [*(key.api_key for key in keys), *tokens]
    return secrets, known(db, keys, secrets, gone)


def as_owner(db, owner, statements):
    db.rows(f"SET SESSION AUTHORIZATION {owner}")
    db.rows(statements.format(o=owner))
    db.rows("RESET SESSION AUTHORIZATION")


def known(db, keys, secrets, gone):
    def column(statement):
        return [literal(value) for value, in db.rows(statement) if value is not None]

    relations = column("SELECT c.oid FROM pg_class c WHERE relnamespace = 'fuzz'::regnamespace") * 3 \
        + column("SELECT oid FROM pg_class WHERE relnamespace::regnamespace::text IN ('keysmith', 'keysmith_private') ORDER BY oid") \
        + column("SELECT oid FROM pg_class WHERE relname IN ('pg_class', 'pg_authid', 'pg_class_oid_index', 'pg_tables') "
                 "OR relnamespace = 'pg_toast'::regnamespace AND oid > 16384 ORDER BY oid LIMIT 12") + [literal(gone.relation), "'0'", "'4294967295'"]
    tables = "SELECT c.oid::regclass FROM pg_class c WHERE relnamespace = 'fuzz'::regnamespace AND relkind IN ('r', 'p') AND pg_has_role("
    of_roles = {f"relation of {role}": column(f"{tables}'{role}', relowner, 'usage') ORDER BY c.oid") for role in ROLES}
    of_roles |= {f"prepared relation of {role}": [f"'fuzz.{role}_{table}'" for table in ("ready", "ready2", "ready3", "parts")] for role in OWNERS}
    minted = db.rows("SELECT key_id, tenant_id, environment FROM keysmith_private.key WHERE key_id = ANY (%s)", [key.key_id for key in keys])
    now = db.value("SELECT (extract(epoch FROM clock_timestamp() - '2000-01-01') * 1000000)::bigint")
    headers = [f"jsonb_build_object({name} {literal(secret)})" for secret in secrets for name in ("'authorization', 'Bearer ' ||", "'x-api-key',")]
    there = {
        "api_key": [literal(secret) for secret in secrets],
        "key_id": [literal(key.key_id) for key in keys] + column("SELECT key_id FROM keysmith_private.key ORDER BY key_id LIMIT 20"),
        "request_id": column("SELECT request_id FROM keysmith_private.usage_event ORDER BY 1 LIMIT 20") or ["gen_random_uuid()"],
        "tenant": ["'acme'"] * 5 + ["'globex'"] + column("SELECT name FROM keysmith_private.tenant WHERE name ~ '^[ -~]*$' ORDER BY 1 LIMIT 5"),
        "keyspace": ["'default'"] * 8 + column("SELECT keyspace FROM keysmith_private.keyspace WHERE keyspace ~ '^[ -~]*$' ORDER BY 1 LIMIT 5"),
        # The others are made by create_keyspace.
        "drop_keyspace.keyspace": column("SELECT keyspace FROM keysmith_private.keyspace WHERE keyspace ~ '^k[0-9]+$' ORDER BY 1 LIMIT 5"),
        "name": ["'default'", "'acme'", "'new'"], "environment": ["'live'", "'test'"], "kind": ["'secret'", "'publishable'"],
        "method": ["'GET'", "'POST'"], "path": ["'/v1/7'", "'/v1/a/b?c=d'"], "pattern": ["'/v1/{id}'", "'/v2/*'"],
        "member": ["'ann'", "'bob'"], "owner": ["'ann'"], "role": ["'reader'"], "level": ["'verifier'", "'host'", "'issuer'", "'auditor'", "'admin'"],
        "column_name": ["'id'", "'body'", "'tenant'", "'email'", "'row_seal'", "'odd \"name'"], "seal_column": ["'row_seal'"],
        "tenant_column": ["'tenant'", "'tenant_id'"], "environment_column": ["'environment'"], "algorithm": ["'sha256'", "'hmac'"],
        "relation": relations, "scopes_each": ["'a:b'", "'c'", "'*'", "'a:*'"], "trigger": ["'keysmith_hash'", "'in_the_way'"],
        "role_oid": column("SELECT oid FROM pg_roles ORDER BY oid") + [literal(gone.role), "'0'", "'10'"],
        "trigger_id": column("SELECT oid FROM pg_trigger ORDER BY oid LIMIT 30"), "standby": ["'one'"],
        "heads": [literal(db.value("SELECT jsonb_agg(h)::text FROM keysmith.audit_heads() h WHERE keyspace ~ '^[ -~]*$'"))],
        "revocations": [literal(db.value("SELECT coalesce(jsonb_agg(r), '[]')::text FROM keysmith.revocations_since('2020-01-01') r WHERE r::text ~ '^[ -~]*$'"))],
        "headers": headers, "timeout": ["'10 ms'", "'100 ms'"], "status_code": ["200", "404"], "latency": ["'5 ms'"],
        "digest": ["sha256('x')", *(f"sha256(convert_to({literal(key.api_key)}, 'UTF8'))" for key in keys)],
    }
    return {name: values for name, values in (good.GOOD | good.of_keys(minted, now) | of_roles | there).items() if values}
