"""Thousands of combinations of keys and requests, each compared with a naive model."""

import json
import random
from collections import Counter

import pytest

import model

KEYS_PER_KEYSPACE = 150
QUESTIONS = 10_000
BATCH = 500

IMPLIED = {
    "images:write": ["images:read"], "videos:write": ["generations:read"],
    "admin": ["images:write", "videos:write"], "loop:a": ["loop:b"], "loop:b": [],
    "users:write": [], "generations:read": [], "images:read": [], "usage": [],
}
ROLES = {"all": ["*"], "nothing": [], "reader": ["images:read", "generations:read"],
         "writer": ["images:*", "videos:write", "loop:b"], "boss": ["admin", "users:write"]}
ROUTES = [
    ("GET", "/", "", "images:read"),
    ("GET", "/v1/images", "", "images:read"),
    ("POST", "/v1/images", "", "images:write"),
    ("POST", "/v1/images", "bulk", "images:write & usage"),
    ("GET", "/v1/images/{id}", "", "images:read"),
    ("*", "/v1/images/{id}", "", "images:write"),
    ("GET", "/v1/images/latest", "", ""),
    ("POST", "/v1/{kind}/latest", "", "admin"),
    ("*", "/v1/{kind}/{id}/parts", "", "generations:read | users:write"),
    ("GET", "/v1/images/{id}/parts/*", "", "loop:a"),
    ("*", "/v1/*", "", "(images:write | videos:write) & generations:read"),
    ("POST", "/v1/completions", "", "images:write | (videos:write & generations:read)"),
    ("POST", "/v1/completions", "image", "images:write"),
    ("POST", "/v1/completions", "video", "videos:write"),
    ("GET", "/v1/variants-only", "x", "usage"),
    ("DELETE", "/v2/{a}/{b}/{c}", "", "users:write"),
    ("*", "/v2/users/*", "", "users:write"),
    ("GET", "/v2/users/me", "", ""),
    ("GET", "/v2/café", "", "usage"),
    ("GET", "/v2/{a}/me", "", "images:read"),
    ("*", "/v2/videos/{b}", "", "videos:write"),
    ("GET", "/v2/videos/*", "", "generations:read"),
    ("GET", "/v2/*", "", "loop:b"),
]
KEYSPACES = [
    {"name": "default", "implied": IMPLIED, "roles": ROLES, "routes": ROUTES},
    {"name": "strict", "implied": IMPLIED, "roles": ROLES, "routes": ROUTES[1:],
     "schemes": ["bearer"], "unlisted_routes": "refuse", "empty_scopes": "none",
     "codes": {"insufficient_scope": "insufficient_role",
               "invalid_api_key": {"code": "unauthorized", "status": 403, "message": "No."},
               "missing_authorization": {"status": 400}, "ip_not_allowed": {"code": "blocked"},
               "insufficient_kind": "secret_needed", "invalid_authorization": {"status": 422}}},
    {"name": "filled", "implied": IMPLIED, "roles": ROLES, "routes": ROUTES[::2],
     "schemes": ["key", "x_api_key"], "empty_scopes": "defaults",
     "default_scopes": ["images:read", "loop:a"], "codes": {"insufficient_scope": "denied"}},
    {"name": "open", "implied": {}, "roles": ROLES, "routes": [], "has_imports": True,
     "schemes": ["x_api_key"]},
    {"name": "nowhere"},
]
OWN_SCOPES = [[], ["images:read"], ["images:write"], ["images:*"], ["*"], ["admin"], ["loop:b"],
              ["videos:write"], ["users:write"], ["images:read", "loop:a"],
              ["generations:read", "images:read"], ["usage", "images:write"]]
ALLOWLISTS = [["10.0.0.0/8"], ["203.0.113.7/32", "2001:db8::/32"], ["0.0.0.0/0"],
              ["::ffff:10.1.0.0/112"], ["::/0"]]
ADDRESSES = ["10.1.2.3", "11.0.0.1", "203.0.113.7", "2001:db8::1", "::ffff:10.1.2.3", "::1"]
STATES = ["revoked", "expired", "disabled", "tenant_suspended", "owner_gone"]
WANTED = ["images:read", "images:write", "admin", "loop:a", "loop:b", "usage",
          "images", "generations:read", "images:write | usage", "(images:read&loop:b)",
          "images:write | (videos:write & generations:read)", None]
SEGMENTS = ["v1", "v1", "v1", "v2", "images", "images", "images", "videos", "latest", "7", "parts",
            "completions", "users", "me", "caf%C3%A9", "café", "im%61ges", "variants-only"]
ODD = ["", ".", "..", "%2e", "%2E%2e", "a%2fb", "a%5Cb", "a\\b", "%", "%2", "%zz", "%00", "%7f",
       "a\nb", "\u007f", "...", "a%3Fb", "a%3f"]


class World:
    """The keyspaces and keys of this test, in the database and in the model."""

    def __init__(self, session, dice):
        self.session = session
        self.dice = dice
        self.keys = {}
        for keyspace in KEYSPACES[:-1]:
            self.set_up(keyspace)
        self.texts = list(self.keys)

    def call(self, function, **arguments):
        named = ", ".join(f"{name} => %s" for name in arguments)
        statement = f"SELECT keysmith.{function}({named})"
        self.session.execute(statement, list(arguments.values()))

    def set_up(self, keyspace):
        name = keyspace["name"]
        if name != "default":
            self.call("create_keyspace", name=name, schemes=keyspace.get("schemes"),
                      unlisted_routes=keyspace.get("unlisted_routes"),
                      empty_scopes=keyspace.get("empty_scopes"),
                      default_scopes=keyspace.get("default_scopes", []),
                      codes=json.dumps(keyspace.get("codes", {})))
        # By hand: definitions can't form a cycle, and a decision must not hang in one.
        for scope, implied in keyspace["implied"].items():
            self.call("define_scope", keyspace=name, scope=scope)
            self.session.execute("UPDATE keysmith_private.scope SET implies = %s"
                                 " WHERE keyspace = %s AND scope = %s", (implied, name, scope))
        for role, scopes in ROLES.items():
            self.call("define_role", keyspace=name, role=role, scopes=scopes)
        for method, pattern, variant, expression in keyspace["routes"]:
            self.call("define_route", keyspace=name, method=method, pattern=pattern,
                      variant=variant or None, scopes=expression)
        for tenant in ("acme", "late"):
            self.call("create_tenant", name=tenant, keyspace=name)
            for role in ROLES:
                self.call("set_member", tenant=tenant, member=role, role=role, keyspace=name)
                self.call("set_member", tenant=tenant, member=f"no {role}", role=role,
                          keyspace=name)
        for number in range(KEYS_PER_KEYSPACE):
            self.add_key(name, number)
        self.call("suspend_tenant", tenant="late", keyspace=name)
        self.session.execute("DELETE FROM keysmith_private.member WHERE keyspace = %s "
                             "AND member LIKE 'no %%'", (name,))

    def add_key(self, keyspace, number):
        dice = self.dice
        states = set(dice.sample(STATES, dice.choice([0, 0, 0, 0, 0, 1, 1, 2])))
        owners_role = dice.choice([None] * 5 + list(ROLES))
        if "owner_gone" in states:
            owners_role = owners_role or "all"
        key = {
            "keyspace": keyspace, "states": states, "owners_role": owners_role,
            "kind": dice.choice(["secret", "secret", "publishable"]),
            "environment": dice.choice(["live", "live", "test"]),
            "scopes": dice.choice(OWN_SCOPES),
            "role": dice.choice([None] * 5 + list(ROLES)),
            "allowlist": dice.choice([None] * 5 + ALLOWLISTS),
        }
        owner = "no " * ("owner_gone" in states) + owners_role if owners_role else None
        arguments = [
            "late" if "tenant_suspended" in states else "acme", keyspace, key["kind"],
            key["environment"], key["scopes"], key["role"], owner,
            "{" + ",".join(key["allowlist"]) + "}" if key["allowlist"] else None]
        named = """keyspace => %s, kind => %s, environment => %s, scopes => %s, role => %s,
                   owner => %s, allowlist => %s"""
        if keyspace == "open" and number % 3 == 0:
            # A key of another form, which nobody can tell from a typo.
            text = f"elsewhere-{number}"
            (key_id,) = self.session.execute(
                f"SELECT key_id FROM keysmith.import_key(%s, sha256(%s::bytea), {named})",
                [arguments[0], text.encode(), *arguments[1:]]).fetchone()
        else:
            key_id, text = self.session.execute(
                f"SELECT key_id, api_key FROM keysmith.mint(%s, {named})", arguments).fetchone()
        self.session.execute(
            """UPDATE keysmith_private.key SET
                   revoked_at = CASE WHEN %(revoked)s THEN now() END,
                   revoked_reason = CASE WHEN %(revoked)s THEN 'test' END,
                   expires_at = now() + %(expires)s::interval,
                   disabled_at = CASE WHEN %(disabled)s THEN now() END
               WHERE key_id = %(key_id)s""",
            {"key_id": key_id, "revoked": "revoked" in states, "disabled": "disabled" in states,
             "expires": "-1 s" if "expired" in states else dice.choice([None, "1 day"])})
        self.keys[text] = key

    # Requests

    def question(self):
        dice = self.dice
        keyspace = dice.choices(KEYSPACES, [40, 25, 20, 12, 3])[0]
        mine = [text for text in self.texts if self.keys[text]["keyspace"] == keyspace["name"]]
        text = self.text(dice.choice(mine if mine and dice.random() < 0.97 else self.texts))
        question = {"keyspace": keyspace["name"], "ip": dice.choice([None, "10.1.2.3", *ADDRESSES])}
        if dice.random() < 0.4:
            return question | {
                "api_key": text,
                "scopes": dice.choice([None, [], *(dice.sample(WANTED, dice.choice([1, 1, 2]))
                                                   for _ in range(4))]),
                "kind": dice.choice([None, None, "secret", "publishable", "Secret"]),
                "environment": dice.choice([None, None, None, "live", "test"])}
        return question | {
            "headers": self.headers(text, keyspace.get("schemes", model.SCHEMES)),
            "method": dice.choice(["GET", "POST"] * 5 + ["PUT", "DELETE", "get", "BREW", None]),
            "path": self.path(),
            "variant": dice.choice([None] * 5 + ["", "bulk", "image", "video", "x", "X"])}

    def text(self, text):
        """The key itself, mostly."""
        dice = self.dice
        at = dice.randrange(len(text))
        other = "a" if text[at] != "a" else "b"
        return dice.choices([
            text, None, text[:at] + other + text[at + 1:], text[:-1], "", "x" * 1025,
            model.with_checksum("ks_live_" + "".join(dice.choices(model.DIGITS, k=43))),
        ], [90, 1, 1, 1, 1, 1, 4])[0]

    def headers(self, text, schemes):
        dice = self.dice
        other = dice.choice(self.texts)
        if text is None:
            return dice.choice([None, {}, {"authorization": None}, {"accept": text}, [], "x", 7])
        bearer = dice.choice(["Bearer ", "bearer ", " BEARER \t"]) + text
        key = dice.choice(["Key ", "key\t"]) + text
        usual = {"bearer": {"Authorization": bearer}, "key": {"authorization": [key]},
                 "x_api_key": {"X-API-Key": f"{text} "}}
        odd = [*usual.values(), {"authorization": bearer, "x-api-key": other},
               {"authorization": bearer, "x-api-key": text}, {"Authorization": [key, bearer]},
               {"authorization": text}, {"authorization": f"Basic {text}"},
               {"x-api-key": [text, 1]}, {"authorization": f"{bearer}, {key}"},
               {"x-api-key": f"{text}\n"}, {"x-api-key": ""}, {"cookie": text},
               {"authorization": {"value": bearer}}, [bearer]]
        noise = {"accept": "*/*", "x-list": [1, None], "x-nested": {"authorization": "x"}}
        if dice.random() < 0.85:
            return usual[dice.choice(schemes)] | dice.choice([{}, noise])
        return dice.choice(odd)

    def path(self):
        dice = self.dice
        if dice.random() < 0.35:
            pattern = dice.choice(ROUTES)[1]
            segments = [dice.choice(["7", "videos", "latest"]) if segment[:1] in "{*" else segment
                        for segment in pattern[1:].split("/")]
            path = "/".join(["", *segments])
        else:
            path = "".join(f"/{dice.choice(SEGMENTS)}" for _ in range(dice.randrange(1, 6)))
        if dice.random() < 0.08:
            cut = dice.randrange(len(path) + 1)
            path = path[:cut] + "/" + dice.choice(ODD) + dice.choice(["", "/x"]) + path[cut:]
        if dice.random() < 0.02:
            return dice.choice([None, "", "v1/images", "?", "*", "/" + "a" * 8192, "/a" * 65])
        return path + dice.choice(["", "", "", "/", "?a=../b", "/?a=%"])

    def expected(self, question):
        (keyspace,) = [one for one in KEYSPACES if one["name"] == question["keyspace"]]
        return model.decide(keyspace, self.keys, question)

    def answers(self, questions):
        """The extension's answer to each, and its explanation."""
        for start in range(0, len(questions), BATCH):
            batch = questions[start:start + BATCH]
            numbered = json.dumps([question | {"n": n} for n, question in enumerate(batch)])
            answers = {}
            for function, arguments in ASKED.items():
                is_headers = function == "authenticate"
                answers |= {row[0]: row[1:] for row in self.session.execute(
                    STATEMENT.format(function=function, arguments=arguments, explain=EXPLAIN),
                    (numbered, is_headers))}
            yield from (answers[n] for n in range(len(batch)))


ASKED = {
    "verify": "q.api_key, q.scopes, q.ip, q.keyspace, kind => q.kind, environment => q.environment",
    "authenticate": "q.headers, q.method, q.path, q.ip, q.keyspace, q.variant",
}
EXPLAIN = ("q.api_key, q.scopes, q.ip, q.keyspace, kind => q.kind, environment => q.environment, "
           "headers => q.headers, method => q.method, path => q.path, variant => q.variant")
STATEMENT = """
    SELECT q.n, v.ok, v.reason, v.status, v.code, v.key_id IS NOT NULL, e.rules, e.steps, e.refusal
    FROM jsonb_array_elements(%s::jsonb) AS each,
         LATERAL jsonb_to_record(each) AS q(
             n int, keyspace text, ip inet, api_key text, scopes text[], kind text,
             environment text, headers jsonb, method text, path text, variant text),
         LATERAL keysmith.{function}({arguments}) v,
         LATERAL (
             SELECT array_agg(rule ORDER BY step) AS rules, array_agg(step ORDER BY step) AS steps,
                    (array_agg(reason ORDER BY step)
                         FILTER (WHERE outcome = 'refuse'))[1] AS refusal
             FROM keysmith.explain_verify({explain})) e
    WHERE each ? 'headers' = %s"""


@pytest.fixture(scope="module")
def matrix(cluster):
    """All requests with the expected and the actual answer."""
    cluster.execute("CREATE DATABASE matrix TEMPLATE with_keysmith")
    session = cluster.connect("matrix")
    session.prepare_threshold = None
    world = World(session, random.Random(20240229))
    questions = [world.question() for _ in range(QUESTIONS)]
    answers = list(world.answers(questions))
    session.close()
    cluster.execute("DROP DATABASE matrix WITH (FORCE)")
    return [(question, world.expected(question), answer, world.keys)
            for question, answer in zip(questions, answers)]


def told(disagreements):
    """The first few, to read."""
    return f"{len(disagreements)} disagree:\n" + "\n".join(map(str, disagreements[:5]))


def test_every_reason_is_met_often_enough_to_mean_something(matrix):
    for asked in ("headers", "api_key"):
        counts = Counter(expected[0] for question, expected, _, _ in matrix if asked in question)
        assert counts["ok"] >= 200 and counts["insufficient_scope"] >= 200
    counts = Counter(expected[0] for _, expected, _, _ in matrix)
    assert len(matrix) >= 5000
    assert {reason: counts[reason] for reason in model.REASONS if counts[reason] < 20} == {}


def test_decisions_agree_with_the_model(matrix):
    wrong = [{"asked": question, "expected": expected, "got": tuple(answer[1:4]),
              "key": keys.get(question.get("api_key"))}
             for question, expected, answer, keys in matrix if tuple(answer[1:4]) != expected]
    assert not wrong, told(wrong)


def test_only_the_reason_ok_is_ok(matrix):
    wrong = [question for question, _, answer, _ in matrix if answer[0] != (answer[1] == "ok")]
    assert not wrong, told(wrong)


def test_refusals_before_a_key_is_found_tell_of_none(matrix):
    before = ["missing", "malformed_header", "malformed_key", "not_found", "wrong_keyspace"]
    wrong = [question for question, _, answer, _ in matrix
             if answer[4] != (answer[1] not in before)]
    assert not wrong, told(wrong)


def test_explanations_have_the_same_rules_in_order(matrix):
    wrong = [(question, answer[5:7]) for question, _, answer, _ in matrix
             if answer[5] != model.RULES or answer[6] != list(range(1, 15))]
    assert not wrong, told(wrong)


def test_the_first_refusal_of_an_explanation_is_the_reason(matrix):
    wrong = [(question, answer[1], answer[7]) for question, _, answer, _ in matrix
             if answer[7] != (None if answer[1] == "ok" else answer[1])]
    assert not wrong, told(wrong)
