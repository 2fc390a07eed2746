"""Null never grants anything: for each argument of each function it is an error that names the
argument, or has the meaning that the reference gives."""

import re
from hashlib import sha256
from ipaddress import ip_address

import psycopg
import pytest
from psycopg.types.json import Jsonb

FORWARDED = Jsonb({"X-Forwarded-For": "192.0.2.7"})
NOTHING = {}
# A verdict without a value.
VERDICT = "(" + "," * 27 + ")"
# Arguments with which each function works. An argument and its type may follow a name, if several
# functions have the name. Words in capitals stand for values of a key of the tenant acme.
CALLS = {
    **dict.fromkeys([
        "audit_heads", "current_environment", "current_key", "current_keyspace", "current_owner", "current_tenant",
        "current_tenant_id", "doctor", "help", "limit_status", "maintain", "pre_request", "require_identity", "sign_out", "status", "usage_status", "whoami"], NOTHING),
    "act_as": {"tenant": "acme"},
    "add_credits": {"amount": 5, "tenant": "acme"},
    "alter_key": {"key_id": "KEY_ID", "changes": Jsonb({})},
    "alter_keyspace": {"name": "default", "changes": Jsonb({})},
    "alter_tenant": {"tenant": "acme", "changes": Jsonb({})},
    "audit_verify": NOTHING,
    "events_after": {"keyspace": "default", "after": 0, "most": 10},
    "authenticate": {"headers": "HEADERS", "method": "GET", "path": "/open"},
    "authenticate_json": {"headers": "HEADERS", "method": "GET", "path": "/open"},
    "add_scopes": {"key_id": "KEY_ID", "scopes": ["a"]},
    "blast_radius": {"key_id": "KEY_ID"},
    "client_ip": {"headers": FORWARDED, "peer": "10.0.0.1", "trusted_proxies": ["10.0.0.0/8"]},
    "create_keyspace": {"name": "other"},
    "create_tenant": {"name": "other"},
    "define_endpoint": {"keyspace": "default", "method": "POST", "pattern": "/keys", "operation": "mint"},
    "define_role": {"keyspace": "default", "role": "r", "scopes": ["a"]},
    "define_route scopes text": {"keyspace": "default", "method": "PUT", "pattern": "/", "scopes": "a"},
    "define_route scopes text[]": {"keyspace": "default", "method": "PUT", "pattern": "/", "scopes": ["a"]},
    "define_scope": {"keyspace": "default", "scope": "a"},
    "digest value text": {"value": "x"}, "digest value bytea": {"value": b"x"},
    "digests value text": {"value": "x"}, "digests value bytea": {"value": b"x"},
    "derive_token": {"api_key": "KEY"}, "jwks": NOTHING,
    "disable": {"key_id": "KEY_ID"}, "enable": {"key_id": "KEY_ID"},
    "drop_keyspace": {"keyspace": "dropped"},
    "erase_tenant": {"tenant": "acme"},
    "event_channel": NOTHING,
    "explain_verify": {"api_key": "KEY"},
    "explain_verify headers": {"headers": "HEADERS", "method": "GET", "path": "/open"},
    "flush_usage": NOTHING,
    "grant_access": {"role": "pg_monitor", "level": "issuer"},
    "has_scope": {"scope": "a"},
    "import_key": {"tenant": "acme", "digest": b"x" * 32},
    "is_digest stored text": {"stored": "x"}, "is_digest stored bytea": {"stored": b"x"},
    "isolate": {"relation": "tried", "tenant_column": "tenant_id"},
    "list_keys": {"tenant": "acme"},
    "log_request": NOTHING,
    "settle": {"request_id": "00000000-0000-0000-0000-000000000000", "spend": 1},
    "matches value text": {"value": "x", "stored": "x"}, "matches value bytea": {"value": b"x", "stored": b"x"},
    "mint": {"tenant": "acme"},
    "openapi": NOTHING,
    "problem": {"verdict": VERDICT}, "response_headers": {"verdict": VERDICT},
    "protect columns": {"relation": "tried", "columns": ["body"]},
    "protect column_name": {"relation": "tried", "column_name": "body", "more_columns": []},
    "protect_existing": {"relation": "tried"},
    "purge_keys": {"older_than": "1 day"},
    "regenerate": {"tenant": "acme"},
    "release": {"relation": "isolated"},
    "remove_endpoint": {"keyspace": "default", "method": "GET", "pattern": "/me"},
    "remove_role": {"keyspace": "default", "role": "unused"},
    "remove_scope": {"keyspace": "default", "scope": "unused"},
    "remove_member": {"tenant": "acme", "member": "ann"},
    "remove_route": {"keyspace": "default", "method": "GET", "pattern": "/open"},
    "rename_tenant": {"tenant": "acme", "new_name": "new"},
    "remove_scopes": {"key_id": "KEY_ID", "scopes": ["a"]},
    "replay_revocations": {"revocations": Jsonb([])},
    "report_leak": {"api_key": "KEY", "source": "x"},
    "resume_tenant": {"tenant": "acme"},
    "revocations_since": {"since": "2020-01-01"},
    "revoke": {"key_id": "KEY_ID"},
    "revoke_access": {"role": "pg_read_all_data"},
    "rotate": {"key_id": "KEY_ID"},
    "scanner_patterns": NOTHING,
    "seal_rows columns": {"relation": "tried"},
    "seal_rows column_name": {"relation": "tried", "column_name": "body", "more_columns": []},
    "serve": {"headers": "HEADERS", "method": "GET", "path": "/open"},
    "set_member": {"tenant": "acme", "member": "ann", "role": "r"},
    "suspend_tenant": {"tenant": "acme"},
    "track": {"relation": "tried"}, "untrack": {"relation": "tried"},
    "unprotect columns": {"relation": "tried"},
    "unprotect column_name": {"relation": "tried", "column_name": "body", "more_columns": []},
    "unseal_rows": {"relation": "tried"}, "verify_rows": {"relation": "tried"},
    "ledger": {"relation": "tried"}, "unledger": {"relation": "tried"}, "ledger_head": {"relation": "tried"},
    "verify_ledger": {"relation": "tried"},
    "usage_chart": NOTHING,
    "usage_collect": {"standby": "s", "incarnation": 1, "most_waiting": 0, "started_cleanly": True, "dropped": 0,
                      "records": b"", "unknown_mark": 0, "unknown": b"", "samples": b""},
    "usage_logs": {"tenant": "acme"},
    "verify": {"api_key": "KEY"},
    "verify_digest": {"digest": "DIGEST"},
    "verify_json": {"api_key": "KEY"},
    "verify_many": {"api_keys": ["KEY"]},
    "wait_for_replay": NOTHING,
}
# The meaning of a null that is neither an error nor an argument's default.
VERDICTS = {
    "keyspace": "wrong_keyspace", "scopes": "scopes_null", "api_key": "missing", "digest": "missing",
    "headers": "missing", "method": "insufficient_scope", "path": "insufficient_scope",
}
MEANINGS = {
    "client_ip headers": [ip_address("10.0.0.1")], "client_ip peer": [None],
    "client_ip trusted_proxies": [ip_address("10.0.0.1")],
    "digest value": [None], "digests value": [None], "is_digest stored": [None],
    "matches value": [None], "matches stored": [None], "has_scope scope": [False],
    "verify_many api_keys": [], "problem verdict": [None], "response_headers verdict": [None],
    # A refusal is handled.
    **dict.fromkeys(["serve headers", "serve method", "serve path", "serve keyspace"], [True]),
    # It is ignored without a tenant.
    "grant_access keyspace": [None], "revoke_access keyspace": [None],
}
DECISIONS = {"verify", "verify_digest", "verify_many", "verify_json", "authenticate", "authenticate_json", "explain_verify"}
FUNCTIONS = """
    SELECT p.oid, proname AS name, prokind = 'p' AS is_procedure, provariadic <> 0 AS is_variadic,
           coalesce(proargnames[:pronargs], '{}') AS arguments,
           ARRAY(SELECT t::regtype::text FROM unnest(proargtypes) WITH ORDINALITY AS u (t, n) ORDER BY n) AS types,
           ARRAY(SELECT coalesce(pg_get_function_arg_default(p.oid, n), '') FROM generate_series(1, pronargs) AS n) AS defaults
    FROM pg_proc p WHERE pronamespace = 'keysmith'::regnamespace AND prorettype <> 'trigger'::regtype"""


def is_meant(call, function):
    name, *marks = call.split(" ", 2)
    types = dict(zip(function.arguments, function.types))
    return name == function.name and (not marks or marks[0] in types and types[marks[0]] in (marks[1:] or types.values()))


@pytest.fixture
def key(db):
    db.tenant()
    return prepared(db)


def prepared(db):
    """A key of the tenant acme, and tables for our functions."""
    db.call("define_role", "default", "r", ["a"])
    db.call("set_member", "acme", "ann", "r")
    db.call("define_route", "default", "GET", "/open", ["a"])
    db.call("define_endpoint", "default", "GET", "/me", "whoami")
    db.call("grant_access", "pg_read_all_data", "auditor")
    for table in ("tried", "isolated"):
        db.rows(f"CREATE TABLE {table} (id int PRIMARY KEY, tenant_id uuid NOT NULL, body text)")
    db.call("isolate", "isolated", "tenant_id")
    for function, *arguments in [("protect", "body"), ("seal_rows",), ("track",), ("ledger",)]:
        db.call(function, "tried", *arguments)
    for scope in ("a", "b", "unused"):
        db.call("define_scope", "default", scope)
    db.call("define_role", "default", "unused", [])
    db.call("create_keyspace", "dropped")
    return db.mint(scopes=["a", "b"])


@pytest.fixture
def become(cluster, dbname, db, key):
    """Gives the session a level, and ownership of the tables."""
    roles = []

    def as_level(level):
        role = f"null_{level}"
        cluster.execute(f"CREATE ROLE {role}")
        roles.append(role)
        db.call("grant_access", role, level, **({"tenant": "acme"} if level == "issuer" else {}))
        db.rows(f"GRANT CREATE ON SCHEMA public TO {role}")
        for table in ("tried", "isolated"):
            db.rows(f"ALTER TABLE {table} OWNER TO {role}")
        db.rows(f"SET ROLE {role}")

    yield as_level
    db.rows("RESET ROLE")
    for role in roles:
        cluster.execute(f"DROP OWNED BY {role} CASCADE", dbname)
        cluster.execute(f"DROP ROLE {role}")


def test_every_function_is_listed(db):
    functions = db.rows(FUNCTIONS)
    assert not [call for call in CALLS if sum(is_meant(call, function) for function in functions) != 1]
    assert not [function.name for function in functions if not any(is_meant(call, function) for call in CALLS)]


@pytest.mark.parametrize("level", [None, "verifier", "issuer", "auditor", "admin"])
def test_null_is_an_error_or_what_is_said_of_it(db, key, become, level):
    functions = db.rows(FUNCTIONS)
    if level:
        become(level)
    given = {"KEY": key.api_key, "KEY_ID": key.key_id, "DIGEST": sha256(key.api_key.encode()).digest(),
             "HEADERS": Jsonb({"X-API-Key": key.api_key})}
    tried = 0
    for call, arguments in CALLS.items():
        (function,) = [function for function in functions if is_meant(call, function)]
        may = db.value("SELECT has_function_privilege(%s::oid, 'EXECUTE')", function.oid)
        if not may or not function.arguments:
            continue
        arguments = {name: given.get(value, value) if isinstance(value, str) else
                     [given.get(one, one) for one in value] if isinstance(value, list) else value
                     for name, value in arguments.items()}
        # It works, so the error is about the null.
        answered(db, function, arguments)
        for argument, default in zip(function.arguments, function.defaults):
            if default.startswith("NULL") and argument not in arguments:
                continue
            # A route names the needed scopes.
            if (call, argument) == ("explain_verify headers", "scopes"):
                continue
            tried += 1
            check(db, call, function, argument, arguments | {argument: None})
    assert tried > (100 if level in (None, "admin") else 30 if level in ("verifier", "issuer") else 15)


def check(db, call, function, argument, arguments):
    place = f"{function.name} {argument}"
    if place in MEANINGS:
        assert [row[0] for row in answered(db, function, arguments)] == MEANINGS[place], place
    elif function.name in DECISIONS and argument in VERDICTS:
        # A verdict is a row, or one JSON object.
        rows = answered(db, function, arguments)
        reasons = [row[0]["reason"] if isinstance(row[0], dict) else row.reason for row in rows]
        assert [reason for reason in reasons if reason not in (None, "ok")] == [VERDICTS[argument]], place
    else:
        error = None
        try:
            answered(db, function, arguments)
        except psycopg.Error as raised:
            error = raised
        if place == "derive_token api_key":
            # It stands for the key that the transaction acts for, which is not there.
            assert error.sqlstate == "KS401"
            return
        assert error and error.sqlstate == "KS400", (place, error)
        assert re.search(rf"\b{argument}\b", error.diag.message_primary), (place, error)


def answered(db, function, arguments):
    """The rows of a call, which is rolled back."""
    types = dict(zip(function.arguments, function.types))
    given = [f"%s::{types[name]}" for name in arguments]
    if function.is_variadic:
        assert list(arguments) == function.arguments
        given[-1] = f"VARIADIC {given[-1]}"
    else:
        given = [f"{name} => {value}" for name, value in zip(arguments, given)]
    statement = f"keysmith.{function.name}({', '.join(given)})"
    if function.is_procedure:
        return db.rows(f"CALL {statement}", *arguments.values())
    with db.session.transaction(force_rollback=True):
        return db.rows(f"SELECT * FROM {statement}", *arguments.values())
