"""JSON arguments: an error names the place of what is wrong in them and what is accepted there,
and nothing changes. No value of the caller is in it, except a short excerpt of a name."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from test_bad_input import snapshot_of

LIMIT = {"name": "burst", "limit": 5, "window": "1 hour"}
LIMITS = [
    ({}, "", "must be an array"),
    ([LIMIT, "x"], "[1]", "must be an object such as"),
    ([LIMIT, {}], "[1]", 'must have a field "name"'),
    ([{"name": "a"}], "[0]", 'must have a field "limit"'),
    ([LIMIT | {"more": 1}], "[0]", 'has an unknown field "more"'),
    ([LIMIT | {"name": None}], "[0].name", "must be a string"),
    ([LIMIT | {"name": " a"}], "[0].name", "must have 1 to 63 characters"),
    ([LIMIT, LIMIT | {"name": "x", "limit": "5"}], "[1].limit", "must be an integer"),
    ([LIMIT | {"limit": 0}], "[0].limit", "must be from 1 to 1000000000, not 0"),
    ([LIMIT | {"limit": 1.5}], "[0].limit", "must be an integer"),
    ([LIMIT | {"window": 60}], "[0].window", "must be a string"),
    ([LIMIT | {"window": "1 month"}], "[0].window", "must be an interval such as"),
    ([LIMIT | {"window": "400 days"}], "[0].window", "must be from 1 millisecond to 366 days"),
    ([LIMIT | {"concurrent": 5}], "[0]", 'has a field "concurrent", which allows "name" and "per" besides'),
    ([{"name": "a", "concurrent": 1001}], "[0].concurrent", "must be from 1 to 1000, not 1001"),
    ([LIMIT | {"burst": -1}], "[0].burst", "must be from 1 to 1000000000, not -1"),
    ([LIMIT | {"burst": "x"}], "[0].burst", "must be an integer or null"),
    ([LIMIT | {"unit": "Tokens"}], "[0].unit", "must have 1 to 31 letters"),
    ([LIMIT | {"unit": 5}], "[0].unit", "must be a string or null"),
    ([LIMIT | {"per": "customer"}], "[0].per", "must be key, tenant, member, subject or address"),
    ([LIMIT | {"per": ["key"]}], "[0].per", "must be a string or null"),
    ([LIMIT, LIMIT], "", "must have different names"),
    ([LIMIT | {"name": str(n)} for n in range(17)], "", "must have at most 16 elements, not 17"),
]
CREDITS = [
    ("x", "", "must be a whole number, or an object"), (1.5, "", "must be a whole number, or an object"),
    ({}, "", "must be a whole number, or an object"), (-1, "", "must not be negative"),
    ({"more": 1}, "", 'has an unknown field "more"'), ({"balance": -1}, ".balance", "must be 0 or more, not -1"),
    ({"balance": None}, ".balance", "must be an integer"), ({"balance": "x"}, ".balance", "must be an integer"),
    ({"refill": 0}, ".refill", "must be 1 or more, not 0"), ({"refill": "x"}, ".refill", "must be an integer or null"),
    ({"every": "year"}, ".every", "must be one of: hour, day, week, month"), ({"every": 1}, ".every", "must be a string or null"),
    ({"low": -1}, ".low", "must be 0 or more, not -1"), ({"anchor": "infinity"}, ".anchor", "must be a moment, not infinity"),
]
REFILL = [
    ("x", "", "must be an object such as"), ([5, "day"], "", "must be an object such as"),
    ({"amount": 1, "every": "day", "more": 1}, "", 'has an unknown field "more"'),
    ({"amount": 0, "every": "day"}, ".amount", "must be 1 or more, not 0"),
    ({"amount": 1, "every": "year"}, ".every", "must be one of: hour, day, week, month"),
]
# The options of a keyspace that are jsonb by themselves.
OPTIONS = {
    "failure_limit": [(20, "", 'must be an object such as {"limit": 20, "window": "1 minute"}'), ({}, "", 'must have a field "limit"'),
                      ({"limit": 0, "window": "1 s"}, ".limit", "must be from 1 to 1000000000, not 0"),
                      ({"limit": 1, "window": "1 month"}, ".window", "must be an interval such as"),
                      ({"limit": 1, "window": "1 s", "burst": 2}, "", 'has an unknown field "burst"')],
    "prefixes": [
        ([], "", "must be an object such as"), ({}, "", "must name at least one prefix"),
        ({"other": {"live": "a_"}}, "", 'has an unknown field "other"'),
        ({"secret": "a_"}, ".secret", "must be a JSON object"),
        ({"secret": {"LIVE": "a_"}}, ".secret", 'has a field "LIVE" that must have 1 to 63 characters'),
        ({"secret": {"live": 1}}, ".secret.live", "must be a string"),
        ({"secret": {"live": "a b"}}, ".secret.live", "must have 2 to 32 characters"),
    ],
    "display": [
        (1, "", "must be a JSON object or null"), ([None, None, None], "", "must be a JSON object or null"),
        ({"more": 1}, "", 'has an unknown field "more"'), ({"id": 1}, ".id", "must be a string or null"),
        ({"id": "x"}, ".id", "must make at most 100 characters"),
        ({"prefix": "{nothing}"}, ".prefix", "must make at most 64 characters"),
        ({"snippet": []}, ".snippet", "must be a string or null"),
    ],
    "codes": [
        (1, "", "must be a JSON object or null"),
        ({"ok": "x"}, "", 'has a field "ok" that must be one of: missing_authorization'),
        ({"rate_limited": 1}, ".rate_limited", "must be a string, or an object"),
        ({"rate_limited": ""}, ".rate_limited", "must have 1 to 100 characters"),
        ({"rate_limited": {"more": 1}}, ".rate_limited", 'has an unknown field "more"'),
        ({"rate_limited": {"status": 200}}, ".rate_limited.status", "must be from 400 to 599, not 200"),
        ({"rate_limited": {"status": "429"}}, ".rate_limited.status", "must be an integer or null"),
        ({"rate_limited": {"code": "a\nb"}}, ".rate_limited.code", "must have 1 to 100 characters"),
        ({"rate_limited": {"message": ""}}, ".rate_limited.message", "must have 1 to 1000 characters"),
    ],
    "plan_features": [
        ([], "", "must be a JSON object or null"),
        ({"more": []}, "", 'has a field "more" that must be one of: allowlist, expires_at'),
        ({"grace": "pro"}, ".grace", "must be an array or null"),
        ({"grace": ["pro", 1]}, ".grace[1]", "must be a string"),
        ({"grace": ["pro", " "]}, ".grace[1]", "must have 1 to 200 characters"),
    ],
    "limits": LIMITS,
    "key_limits": LIMITS,
}
NETWORKS = [("10.0.0.0/8", "", "must be an array or null"), (["10.0.0.0/8", "x"], "[1]", "must be a network such as"),
            (["10.0.0.1/8"], "[0]", "must have no host bits set; write 10.0.0.0/8")]
LIFETIMES = [(90, "", "must be a string or null"), ("1 month", "", "must be"), ("-1 day", "", "must be"), ("x", "", "must be")]
# Those of other types.
PLAIN_OPTIONS = {
    "empty_scopes": [("some", "", "must be one of: all, defaults, none"), (1, "", "must be one of")],
    "default_scopes": [(["a", "b c"], "[1]", "must have 1 to 128 characters"), ({}, "", "must be an array or null")],
    "max_active_keys": [(0, "", "must be from 1 to 1000000, not 0"), ("x", "", "must be an integer or null"),
                        (1.5, "", "must be an integer or null"), (10**30, "", "must be an integer or null"),
                        (2**40, "", "must be from 1 to 1000000, not 1099511627776")],
    "at_max": [("stop", "", "must be one of: error, replace")],
    "label_length": [(1001, "", "must be from 1 to 1000, not 1001")],
    "schemes": [([], "", "must be one to 16 of bearer"), (["x"], "", "must be one to 16 of bearer"),
                ([1], "[0]", "must be a string")],
    "wildcards": [("true", "", "must be a boolean or null")],
    "unlisted_routes": [("all", "", "must be one of: any_key, refuse")],
    "managed_by": [("a b", "", "must be any_secret, nobody"), (1, "", "must be a string or null")],
    "charges": [(["live", "A"], "[1]", "must have 1 to 63 characters"),
                (["a"] * 101, "", "must have at most 100 elements, not 101")],
    "usage_log": [("all", "", "must be one of: everything, totals, refusals, nothing")],
    "usage_details": [(1, "", "must be a boolean or null")],
    "usage_tags": [("model", "", "must be an array or null"), (["model", "Team"], "[1]", "must have 1 to 31 letters a-z"), ([""], "[0]", "must have 1 to 31"),
                   (["a" * 32], "[0]", "must have 1 to 31"), (["a", "b", "a"], "", "must name each tag once"), ([None], "[0]", "must be a string"),
                   (["a", "b", "c", "d", "e"], "", "must have at most 4 elements, not 5")],
    "error_body": [("Problem", "", "must be plain, problem, or a template: a JSON object"),
                   ("[]", "", "must be plain, problem, or"), ([], "", "must be plain, problem, or"),
                   ({"a": ["{code}", "{key}"]}, "", 'has at a[1] the text "{key}": there is no {key} here, only code, message'),
                   ({"a": "{"}, "", 'has at a the text "{": write {{ or }} for a brace'),
                   ({"a": "x" * 10000}, "", "must have at most 10000 bytes")],
    "default_lifetime": LIFETIMES,
    "max_lifetime": LIFETIMES,
    "max_idle": LIFETIMES,
    "expiring_notice": LIFETIMES,
    "require_label": [("yes", "", "must be a boolean or null")],
    "unique_labels": [(0, "", "must be a boolean or null")],
    "allowlist": NETWORKS,
    "key_credits": [(-1, "", "must be 0 or more, not -1"), ("5", "", "must be an integer or null"), (0.5, "", "must be an integer")],
    "issuer": [("", "", "must have 1 to 255 characters"), ("a b", "", "must have 1 to 255 characters, no spaces"), ("x" * 256, "", "must have 1 to 255"),
               ("1a:b", "", "must have 1 to 255"), ("https://a b", "", "must have 1 to 255 characters, no spaces"), (1, "", "must be a string or null")],
}
KEY = {
    "label": [(1, "", "must be a string or null"), ("", "", "must not be empty"), ("a" * 101, "", "must have at most 100")],
    "scopes": [(None, "", "must be an array"), ("a", "", "must be an array"), (["a", 1], "[1]", "must be a string"),
               (["a", "b c"], "[1]", "must have 1 to 128 characters")],
    "role": [(1, "", "must be a string or null")],
    "owner": [([], "", "must be a string or null")],
    "allowlist": NETWORKS,
    "expires_at": [(1, "", "must be a string or null"), ("soon", "", "must be a timestamp such as"),
                   ("2001-01-01", "", "must be in the future")],
    "metadata": [([], "", "must be a JSON object or null"), ({"a": "x" * 70_000}, "", "must have at most 65536 bytes")],
    "limits": [(value, path, rule.replace("an array", "an array or null")) for value, path, rule in LIMITS],
    "credits": [(value, path, rule) for value, path, rule in CREDITS],
}
TENANT = {
    "plan": [(1, "", "must be a string or null"), (" ", "", "must have 1 to 200 characters")],
    "scopes": [("a", "", "must be an array or null"), (["a", 1], "[1]", "must be a string"),
               (["a", "b c"], "[1]", "must have 1 to 128 characters")],
    **{field: KEY[field] for field in ("metadata", "limits", "credits", "allowlist")},
}
HEADS = [
    ({}, "", "must be an array"), ([1], "[0]", "must be a JSON object"), ([{}], "[0]", 'must have a field "keyspace"'),
    ([{"keyspace": 1}], "[0].keyspace", "must be a string"), ([{"entry": 0}], "[0].entry", "must be 1 or more, not 0"),
    ([{"hash": "00"}], "[0].hash", "must be 64 hexadecimal digits"), ([{"more": 1}], "[0]", 'has an unknown field "more"'),
]
LEDGER_HEADS = [
    (1, "", "must be an array"), ([1], "[0]", "must be a JSON object"), ({}, "[0]", 'must have a field "position"'),
    ([{"position": 0}], "[0].position", "must be 1 or more, not 0"),
    ([{"position": 1, "head": "00"}], "[0].head", "must be 64 hexadecimal digits"),
    ([{"more": 1}], "[0]", 'has an unknown field "more"'),
]
REVOCATION = {"action": "revoke", "keyspace": "default", "key_id": "00000000-0000-0000-0000-000000000000"}
REVOCATIONS = [
    ({}, "", "must be an array"), ([REVOCATION, 1], "[1]", "must be a JSON object"),
    ([REVOCATION, {}], "[1]", 'must have a field "action"'), ([REVOCATION | {"at": "x"}], "[0].at", "must be a timestamp"),
    ([REVOCATION | {"action": "enable"}], "[0].action", "must be one of: revoke, disable, alter"),
    ([REVOCATION | {"key_id": "x"}], "[0].key_id", "must be a uuid"),
    ([REVOCATION | {"key_id": None}], "[0].key_id", "must not be null"),
    ([REVOCATION | {"action": "suspend"}], "[0].tenant", "must not be null"),
    ([REVOCATION | {"action": "define_role"}], "[0].name", "must not be null"),
    ([REVOCATION | {"reason": "x" * 1001}], "[0].reason", "must have at most 1000 characters"),
    ([REVOCATION | {"more": 1}], "[0]", 'has an unknown field "more"'),
    ([REVOCATION | {"changes": []}], "[0].changes", "must be a JSON object or null"),
    ([REVOCATION | {"changes": {"label": "x"}}], "[0].changes", 'has an unknown field "label"'),
    ([REVOCATION | {"changes": {"scopes": ["a b"]}}], "[0].changes.scopes[0]", "must have 1 to 128 characters"),
    ([REVOCATION | {"changes": {"allowlist": [1]}}], "[0].changes.allowlist[0]", "must be a string"),
    ([REVOCATION | {"changes": {"expires_at": "x"}}], "[0].changes.expires_at", "must be a timestamp"),
]


PATCH = [([], "", "must be a JSON object"), ("x", "", "must be a JSON object"), (None, "", "must be a JSON object"),
         ({"unknown": 1}, "", 'has an unknown field "unknown"')]


def fields(wrong):
    """What is wrong with the fields of a patch, and with a patch itself."""
    return PATCH + [({name: value}, f".{name}{path}", rule)
                    for name, values in wrong.items() for value, path, rule in values]

ENDPOINT = {"keyspace": "default", "method": "POST", "pattern": "/keys", "operation": "mint"}
MAPPINGS = [
    ([], "", "must be an object such as"),
    ({"labels": "name"}, "", 'names "labels"; mint has only label, '),
    ({"label": 1}, "", "must have for label the name of a field"),
    ({"label": "x", "owner": "x"}, "", 'takes two arguments from the field "x"'),
    ({"kind": {"is": 1}}, "", "fixes kind: the value must be a string"),
    ({"*": "take"}, "", 'may have under "*" the text "ignore" only'),
]
TEMPLATES = [
    ({"a": ["{labels}"]}, "", 'has at a[0] the text "{labels}": there is no {labels} here'),
    ({"a": "{label"}, "", 'has at a the text "{label": write {{ or }} for a brace'),
    ({"a": "{label:big}"}, "", 'has at a the text "{label:big}": write upper or lower'),
    ({"a": "{label.b}"}, "", 'has at a the text "{label.b}": {label} is no JSON value'),
    ("x" * 10_001, "", "must have at most 10000 bytes"),
]

CLAIMS = [([], "", "must be an object or null"), (1, "", "must be an object or null"), ("a", "", "must be an object or null")]

WEIGHTS = [([], "", "must be a JSON object"), (None, "", "must be a JSON object"), ({"T": 1}, "", "must have units of"),
           ({"t": 1.5}, "", "must have whole numbers"), ({"t": "1"}, "", "must have whole numbers")]
TAGS = [([], "", "must be a JSON object"), ("x", "", "must be a JSON object"), (None, "", "must be a JSON object"),
        ({"T": "x"}, "", "must have names of"), ({"t": 1}, "", "must have texts as values"),
        ({"t": ""}, "", "must have values of"), ({"t": None}, "", "must have texts as values")]
REQUEST = {"headers": Jsonb({}), "method": "GET", "path": "/"}

ARGUMENTS = [
    ("alter_keyspace", {"name": "default"}, "changes", fields(OPTIONS | PLAIN_OPTIONS)),
    ("alter_key", {"key_id": "KEY_ID"}, "changes", fields(KEY)),
    ("alter_tenant", {"tenant": "acme"}, "changes", fields(TENANT)),
    *[("create_keyspace", {"name": "other"}, name, wrong) for name, wrong in OPTIONS.items()],
    ("create_tenant", {"name": "other"}, "limits", LIMITS),
    ("create_tenant", {"name": "other"}, "credits", CREDITS),
    ("mint", {"tenant": "acme"}, "limits", LIMITS),
    ("import_key", {"tenant": "acme", "digest": b"x" * 32}, "limits", LIMITS),
    ("import_key", {"tenant": "acme", "digest": b"x" * 32}, "refill", REFILL),
    ("mint", {"tenant": "acme"}, "refill", REFILL),
    ("define_route", {"keyspace": "default", "method": "GET", "pattern": "/x", "scopes": ["a"]}, "limits", LIMITS),
    ("define_endpoint", ENDPOINT, "request", MAPPINGS),
    ("define_endpoint", ENDPOINT, "response", TEMPLATES),
    # The claims are read before the key.
    ("derive_token", {"api_key": "KEY"}, "claims", CLAIMS),
    ("log_request", {}, "tags", TAGS),
    ("audit_verify", {}, "heads", HEADS),
    # Heads are read before the table.
    ("verify_ledger", {"relation": "pg_class"}, "heads", LEDGER_HEADS),
    ("replay_revocations", {}, "revocations", REVOCATIONS),
    *[(function, {"api_key": "KEY"}, "weights", WEIGHTS) for function in ("verify", "verify_json", "explain_verify")],
    ("verify_digest", {"digest": b"x" * 32}, "weights", WEIGHTS), ("settle", {"request_id": "KEY_ID"}, "weights", WEIGHTS),
    *[(function, REQUEST, "weights", WEIGHTS) for function in ("authenticate", "authenticate_json", "serve")],
]


@pytest.mark.parametrize("function, given, name, wrong", ARGUMENTS, ids=[f"{call[0]}-{call[2]}" for call in ARGUMENTS])
def test_an_error_names_the_place(db, function, given, name, wrong):
    db.tenant()
    key = db.mint()
    given = {argument: key.key_id if value == "KEY_ID" else value for argument, value in given.items()}
    before = snapshot_of(db)
    for value, path, rule in wrong:
        message = db.refused("KS400", function, **given, **{name: Jsonb(value)})
        assert message.startswith(f"{name}{path} {rule}"), (value, message)
        assert len(message) < 500
    assert snapshot_of(db) == before


def test_every_json_argument_is_tried(db):
    arguments = db.rows("""
        SELECT proname, argument FROM pg_proc, unnest(proargnames, proargtypes::oid[]) AS a (argument, type)
        WHERE pronamespace = 'keysmith'::regnamespace AND type = 'jsonb'::regtype""")
    # Metadata may be any object. Headers and bodies are the client's: an answer says what is wrong with
    # them.
    others = ("metadata", "headers", "body")
    assert {(row.proname, row.argument) for row in arguments if row.argument not in others} \
        == {(function, name) for function, _, name, _ in ARGUMENTS}


def test_names_of_unknown_fields_are_cut(db):
    db.tenant()
    for function, given in [("alter_tenant", {"tenant": "acme"}), ("alter_keyspace", {"name": "default"})]:
        for patch in ({"x" * 10_000: 1}, {"codes": {"x" * 10_000: 1}}, {"limits": [{"x" * 10_000: 1}]}):
            message = db.refused("KS400", function, **given, changes=Jsonb(patch))
            assert "x" * 60 in message or "codes" in message
            assert "x" * 61 not in message and len(message) < 1000


def test_values_are_not_shown(db):
    db.tenant()
    value = "sk_live_" + "a" * 40
    for patch in ({"limits": value}, {"limits": [value]}, {"limits": [LIMIT | {"window": value}]}, {"credits": value},
                  {"credits": {"every": value}}, {"metadata": value}, {"plan": [value]}):
        with pytest.raises(psycopg.Error) as error:
            db.call("alter_tenant", "acme", Jsonb(patch))
        diag = error.value.diag
        assert value not in f"{diag.message_primary}{diag.message_detail}{diag.message_hint}"


@pytest.mark.parametrize("patch, complaint", [
    ('{"limits": ' + "[" * 5000 + "]" * 5000 + "}", "changes must be plain JSON"),
    ('{"credits": 1e400}', "changes must be plain JSON"), ('{"credits": 1.0}', "changes.credits must be a whole number"),
    ('{"credits": 9223372036854775808}', "changes.credits must be a whole number"),
    ('{"plan": "' + "x" * 2_000_000 + '"}', "changes must have at most 1 MB"),
    ('{"plan": "x", "plan": 1}', "changes.plan must be a string or null"),
    ('{"limits": [' + "{}," * 100_000 + "{}]}", 'changes.limits[0] must have a field "name"'),
])
def test_hostile_json(db, patch, complaint):
    db.tenant()
    assert db.refused("KS400", "alter_tenant", "acme", patch).startswith(complaint)


def test_numbers_in_exponent_form_are_integers(db):
    """A jsonb writes them without an exponent."""
    db.tenant()
    db.call("alter_tenant", "acme", '{"credits": 1e2}')
    assert db.value("SELECT balance FROM keysmith_private.credit") == 100


def test_a_null_sets_the_default(db):
    """Each option of a keyspace: a null undoes what was chosen."""
    db.call("create_keyspace", "usual")
    chosen = {
        "empty_scopes": "none", "default_scopes": ["a"], "max_active_keys": 5, "at_max": "replace", "label_length": 7,
        "schemes": ["key"], "wildcards": False, "unlisted_routes": "refuse", "managed_by": "nobody",
        "display": {"id": "k_{random:8}", "prefix": "x", "snippet": "y"}, "codes": {"rate_limited": "slow"},
        "plan_features": {"grace": ["pro"], "limits": None}, "limits": [LIMIT], "charges": [], "usage_log": "nothing",
        "usage_details": False, "error_body": '{"error": "{code}"}', "default_lifetime": "1 day", "max_lifetime": "2 days",
        "require_label": True, "unique_labels": True, "allowlist": ["10.0.0.0/8"], "key_limits": [LIMIT], "key_credits": 5,
        "issuer": "https://api.example.com", "expiring_notice": "3 days", "failure_limit": {"limit": 20, "window": "1 minute"},
        "usage_tags": ["model", "team"],
    }
    # All options, but the prefixes, which a keyspace must have, and max_idle, which needs another usage_log.
    assert chosen.keys() | {"prefixes", "max_idle"} == OPTIONS.keys() | PLAIN_OPTIONS.keys()

    def rows(keyspace):
        row = db.value("SELECT to_jsonb(k) - '{keyspace,event_channel,created_at}'::text[] "
                       "FROM keysmith_private.keyspace k WHERE keyspace = %s", keyspace)
        others = [db.value(f"SELECT coalesce(jsonb_agg(to_jsonb(t) - 'keyspace' ORDER BY t), '[]') "
                           f"FROM keysmith_private.{table} t WHERE keyspace = %s", keyspace)
                  for table in ("answer", "plan_feature")]
        return row, others

    usual = rows("usual")
    json = {"display", "codes", "plan_features", "limits", "key_limits", "failure_limit"}
    db.call("create_keyspace", "made", **{name: Jsonb(value) if name in json else value for name, value in chosen.items()})
    db.call("create_keyspace", "altered")
    db.call("alter_keyspace", "altered", Jsonb(chosen))
    assert rows("made") == rows("altered")
    assert all(rows("made")[0][column] != value for column, value in usual[0].items()
               if column not in ("max_idle", "max_idle_since", "generation", "has_imports", "has_bar_imports", "has_last_part_imports", "has_sha512_imports"))
    for name in chosen:
        db.call("alter_keyspace", "altered", Jsonb({name: None}))
    assert rows("altered") == usual
    db.call("alter_keyspace", "altered", Jsonb({"max_idle": "30 days"}))
    assert rows("altered") != usual
    db.call("alter_keyspace", "altered", Jsonb({"max_idle": None}))
    assert rows("altered") == usual


def test_what_display_leaves_out_is_as_usual(db):
    db.call("create_keyspace", "k", display=Jsonb({"id": "k_{random:8}", "prefix": "x"}))
    db.call("alter_keyspace", "k", Jsonb({"display": {"snippet": "y"}}))
    assert db.rows("SELECT display_id, display_prefix, display_snippet FROM keysmith_private.keyspace") \
        == [(None, "{prefix}{secret:5}", "y")]


def test_an_empty_patch_changes_nothing(db):
    db.tenant()
    key = db.mint(scopes=["a"], metadata=Jsonb({"a": 1}), limits=Jsonb([LIMIT]), expires_at="2040-01-01")
    before = snapshot_of(db)
    for function, name in [("alter_key", key.key_id), ("alter_tenant", "acme"), ("alter_keyspace", "default")]:
        db.call(function, name, Jsonb({}))
    assert snapshot_of(db) == before


def test_nulls_in_a_patch_of_a_key(db):
    db.tenant()
    db.call("define_role", "default", "r", ["a"])
    db.call("set_member", "acme", "ann", "r")
    plain = db.mint()
    changes = {"label": "l", "scopes": ["a"], "role": "r", "owner": "ann", "allowlist": ["10.0.0.0/8", "2001:db8::1"],
               "expires_at": "2040-01-31 12:00:00.123456+05:30", "metadata": {"a": 1.10}, "limits": [LIMIT]}
    columns = "label, scopes, role, owner, allowlist::text, expires_at AT TIME ZONE 'UTC', metadata::text, limits"
    stored = f"SELECT {columns} FROM keysmith_private.key WHERE key_id = %s"
    (usual,) = db.rows(stored, plain.key_id)
    for style in ("SQL, DMY", "German", "ISO, YMD"):
        db.rows(f"SET datestyle = '{style}'")
        db.rows("SELECT (keysmith.alter_key(%s, %s)).label", plain.key_id, Jsonb(changes))
        db.rows("SET datestyle = 'ISO, MDY'")
        (row,) = db.rows(stored, plain.key_id)
        assert row[:5] == ("l", ["a"], "r", "ann", "{10.0.0.0/8,2001:db8::1/128}")
        assert str(row[5]) == "2040-01-31 06:30:00.123456"
        assert row[6:] == ('{"a": 1.1}', "5/1 hour/5/burst")
        db.call("alter_key", plain.key_id, Jsonb({name: [] if name == "scopes" else None for name in changes}))
        assert db.rows(stored, plain.key_id) == [usual]
    db.call("alter_key", plain.key_id, Jsonb({"allowlist": [], "limits": [], "expires_at": "infinity"}))
    assert db.rows(stored, plain.key_id) == [usual]
