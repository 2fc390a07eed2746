"""Values that functions accept, as SQL: by argument, and by function and argument if an argument
means something else to a function. Random values are seldom accepted."""

import uuid

LIMITS = ["""'[{"name": "p", "concurrent": 3}]'""", """'[{"name": "a", "limit": 1000, "window": "1 minute"}]'""", "'[]'",
          """'[{"name": "a", "limit": 3, "window": "1 second"}, {"name": "b", "limit": 100000, "window": "1 month"}]'"""]
PREFIXES = """{"secret": {"live": "sk_", "eu": "sk_eu_"}, "publishable": {"live": "pk_"}}"""
DISPLAY = """{"id": "key_{random:12}", "prefix": "{prefix}{secret:2}", "snippet": "...{end:4}"}"""
CODES = """{"insufficient_scope": "no", "rate_limited": {"code": "slow", "message": "Wait.", "status": 503}}"""
FEATURES = """{"allowlist": ["pro"], "grace": ["pro", "free"], "publishable": []}"""

GOOD = {
    "amount": ["1", "100", "0", "-1"], "at_max": ["'error'", "'replace'"], "bars": ["1", "24", "1000"], "charges": ["'{live}'", "'{}'", "'{live,test}'"],
    "codes": [f"'{CODES}'", "'{}'"], "credits": ["5", "0", "1000000"], "description": ["'what it is'"], "display": [f"'{DISPLAY}'", "'{}'"],
    "empty_scopes": ["'all'", "'defaults'", "'none'"], "endpoint": ["'/v1/{id}'"], "expiring_notice": ["NULL", "'0'", "'1 day'"], "after": ["0", "1", "9223372036854775807"], "most": ["1", "100", "1000"], "expires_at": ["'2999-01-01'", "clock_timestamp() + '10 ms'", "NULL"],
    "grace": ["'0'", "'10 ms'", "'1 day'"], "implies": ["'{c}'", "'{}'", "'{a:c,c}'"], "include_revoked": ["true", "false"],
    "key_prefix": ["'k_'", "NULL"], "key_snippet": ["'k_...x'", "NULL"], "label": ["'label'", "NULL"],
    "label_length": ["10", "1000"], "limits": LIMITS, "key_limits": LIMITS, "failure_limit": ["""'{"limit": 2, "window": "1 second"}'""", "NULL"], "key_credits": ["5", "0", "NULL"], "managed_by": ["'any_secret'", "'nobody'", "'a:b'"], "max_active_keys": ["10", "1000000", "NULL"],
    "metadata": ["""'{"a": [1, null]}'""", "'{}'"], "more_columns": ["'{}'", "'{body}'"], "page": ["1", "2"], "pages": ["1", "100"],
    "per": ["'hour'", "'day'"], "per_page": ["1", "100"], "plan": ["'pro'", "'free'", "NULL"], "plan_features": [f"'{FEATURES}'", "'{}'"],
    "prefixes": [f"'{PREFIXES}'", "NULL"], "reason": ["'why'"], "schemes": ["'{bearer}'", "'{bearer,key,x_api_key}'"], "scope": ["'a:b'", "'c'", "'new:one'"],
    "since": ["'2020-01-01'", "now()", "'-infinity'"], "source": ["'a page'"], "spend": ["0", "1", "3"], "started_cleanly": ["true", "false"],
    "unlisted_routes": ["'any_key'", "'refuse'"], "until": ["NULL", "now()", "'2999-01-01'"], "usage_log": ["'everything'", "'totals'", "'refusals'", "'nothing'"], "usage_tags": ["NULL", "'{}'", "'{model}'", "'{model,team}'"],
    "tags": ["NULL", """'{"model": "small"}'""", """'{"model": "large", "team": "a"}'"""],
    "variant": ["NULL", "'v'"], "weight": ["1", "2", "NULL"], "weights": ["NULL", """'{"tokens": 12}'""", """'{"tokens": 0, "calls": 2}'"""], "subject": ["NULL", "'user-42'"], "width": ["50", "80", "500"],
    "cascade": ["true", "false"], "older_than": ["'1 second'", "'1 day'", "'10000 days'"], "disabled": ["true", "false"], "idempotency_key": ["NULL", "'one'"],
    "refill": ["NULL", """'{"amount": 10, "every": "day"}'""", """'{"amount": 5, "every": "week", "anchor": "2026-01-31 06:00Z", "low": 2}'"""], "scanner_patterns.format": ["'regex'", "'gitleaks'", "'trufflehog'"],
    "add_scopes.scopes": ["'{a:b}'", "'{c}'"], "remove_scopes.scopes": ["'{a:b}'", "'{c}'"], "remove_role.role": ["'reader'", "'writer'"],
    "alter_key.changes": ["""'{"label": "new"}'""", """'{"scopes": ["a:b"], "allowlist": ["10.0.0.0/8"]}'""", """'{"metadata": {"a": 1}, "expires_at": "2999-01-01"}'""",
                          """'{"limits": [{"name": "a", "limit": 9, "window": "1 hour"}]}'""", """'{"allowlist": null, "owner": null}'""", """'{"role": "reader"}'"""],
    "alter_tenant.changes": ["""'{"plan": "pro"}'""", """'{"credits": {"refill": 10, "every": "day"}}'""", """'{"limits": [], "metadata": {}}'""",
                             """'{"credits": {"balance": 5}}'""", """'{"credits": {"low": 3}}'""", """'{"allowlist": ["10.0.0.0/8"]}'""", """'{"allowlist": null, "scopes": ["a:b"]}'""",
                             """'{"scopes": null}'"""],
    "alter_keyspace.changes": ["""'{"label_length": 50}'""", f"""'{{"codes": {CODES}}}'""", f"""'{{"display": {DISPLAY}}}'""", """'{"usage_log": "refusals"}'""", """'{"usage_log": "totals"}'""", """'{"max_idle": "1 hour"}'""",
                               """'{"max_active_keys": 50, "at_max": "replace"}'""", f"""'{{"plan_features": {FEATURES}}}'""", """'{"schemes": ["bearer"]}'""", """'{"issuer": "https://api.example.com"}'""", """'{"expiring_notice": "1 hour"}'""", """'{"usage_tags": ["model"]}'"""],
    "method": ["'GET'", "'POST'", "'DELETE'", "'PATCH'", "'HEAD'"], "operation": ["'mint'", "'list_keys'", "'show_key'", "'revoke'", "'alter_key'", "'whoami'", "'rotate'", "'derive_token'", "'jwks'"],
    "define_endpoint.pattern": ["'/v1/keys'", "'/v1/keys/{id}'", "'/v1/me'"], "define_endpoint.status": ["NULL", "200", "204"],
    "define_endpoint.request": ["NULL", """'{"label": "name"}'""", """'{"*": "ignore"}'"""], "remove_endpoint.pattern": ["'/v1/keys'", "'/v1/me'"],
    "define_endpoint.response": ["NULL", """'{"id": "{key_id}"}'""", """'{"all": [{"id": "{key_id}"}], "n": "{total}"}'"""],
    "issuer": ["NULL", "'https://api.example.com'"],
    "serve.path": ["'/v1/keys'", "'/v1/me'", "'/v1/keys/' || gen_random_uuid()", "'/v1/keys?page=2&label=a'"],
    "serve.body": ["NULL", "'{}'", """'{"label": "new"}'""", """'{"name": "new", "scopes": ["a:b"]}'"""],
    "create_keyspace.name": ["'k' || (random() * 1e9)::int"], "alter_keyspace.name": ["'default'"], "help.name": ["NULL", "'mint'", "'keys'", "'usage_buffer'"], "create_tenant.name": ["'t' || (random() * 1e9)::int"],
    "create_tenant.scopes": ["NULL", "'{}'", "'{a:b,c}'"], "create_tenant.tenant_id": ["NULL", "gen_random_uuid()"], "if_not_exists": ["true", "false"],
    "new_name": ["'acme'", "'t' || (random() * 1e9)::int"],
    "derive_token.scopes": ["NULL", "'{}'", "'{a:b}'"], "ttl": ["'15 minutes'", "'1 second'", "'24 hours'"],
    "settle.request_id": ["(SELECT request_id FROM keysmith_private.charge ORDER BY random() LIMIT 1)"],
    "settle.weights": ["NULL", """'{"tokens": 40}'""", """'{"tokens": 1000000000}'"""],
    "derive_token.audience": ["NULL", "'default https://files.example.com'"], "derive_token.claims": ["NULL", """'{"a": [1, null]}'"""],
    "act_as.member": ["NULL", "'ann'"], "grant_access.keyspace": ["NULL", "'default'"], "revoke_access.keyspace": ["NULL", "'default'"],
    "create_tenant.credits": ["NULL", """'{"refill": 1000, "every": "month"}'""", """'{"balance": 5}'"""],
    "define_route.scopes text[]": ["'{a:b,c}'::text[]", "'{}'::text[]", "NULL"], "define_route.scopes text": ["'a:b and not c'", "'a:b or (c and a:c)'"],
    "define_role.role": ["'reader'", "'writer'"], "define_role.scopes": ["'{*}'", "'{a:b,c}'", "'{a:*}'"],
    "import_key.digest": ["sha256(convert_to(gen_random_uuid()::text, 'UTF8'))"], "import_key.algorithm": ["'sha256'", "'sha256-behind-bar'", "'sha256-last-part'"],
    "mint.scopes": ["'{}'", "'{a:b}'", "'{a:*,c}'"], "import_key.scopes": ["'{}'", "'{a:b}'"],  "protect.columns": ["'{body}'", "'{body,email}'", "'{email}'"], "protect.column_name": ["'body'", "'email'"], "unprotect.columns": ["'{body}'"],
    "unprotect.column_name": ["'body'"], "seal_rows.columns": ["'{body,id}'", "'{id}'"], "ledger.columns": ["NULL", "'{body}'"],
    "verify_ledger.heads": ["NULL", "'[]'", """'[{"position": 1, "head": "00"}]'"""], "seal_rows.column_name": ["'body'", "'id'"],
    "seal_rows.more_columns": ["'{id}'", "'{body}'"], "create_keyspace.default_scopes": ["'{}'", "'{a:b}'"],
    "usage_collect.standby": ["'one'", "'two'"], "usage_collect.incarnation": ["1", "(random() * 1e9)::bigint"], "usage_collect.most_waiting": ["0", "10"],
    "usage_collect.dropped": ["0", "1", "7"], "usage_collect.unknown_mark": ["0", "3", "100"], "wait_for_replay.timeout": ["'0'", "'1 ms'", "'100 ms'", "'2 s'"],
}


def of_keys(keys, told_at):
    """What a standby's worker hands over about these keys: bytes that can't be made in another
    way."""
    def parcel(*records):
        return "'\\x" + b"".join(n.to_bytes(8, "little") + len(r).to_bytes(2, "little") + r for n, r in enumerate(records, 1)).hex() + "'"

    def tally(*counts):
        return "'\\x" + b"".join(bytes([7]) + b"default" + bytes([len(reason)]) + reason + n.to_bytes(8, "little") for reason, n in counts).hex() + "'"

    def record(n, key, status=200, ahead=0, key_id=None):
        texts = b"".join(bytes([len(text)]) + text for text in (b"default", key.environment.encode(), b"ok"))
        at = told_at + ahead * 1_000_000
        return (b"\1" + uuid.UUID(int=(n << 64) + key.key_id.int % 2**60).bytes + bytes([9]) + status.to_bytes(4, "little", signed=True)
                + b"\6/v1/id" + at.to_bytes(8, "little", signed=True) + (key_id or key.key_id).bytes + key.tenant_id.bytes + texts + b"\0")

    some = [record(n, key) for n, key in enumerate(keys)]
    return {"usage_collect.records": ["''", parcel(*some), parcel(*some[:2], *some), parcel(record(99, keys[0], status=7), record(98, keys[0], ahead=-10**6)),
                                      parcel(record(97, keys[0], key_id=uuid.UUID(int=1))), parcel(*(record(n, keys[0]) for n in range(100, 600)))],
            "usage_collect.unknown": ["''", tally((b"not_found", 3), (b"nonsense", 9)), tally((b"malformed_key", 2**50))],
            "usage_collect.samples": ["''", parcel(some[0]), parcel(record(96, keys[0], status=5))]}
