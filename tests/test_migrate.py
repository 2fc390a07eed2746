"""Keys of other systems, from tables like theirs: examples/migrate."""

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb

import cluster as clusters
import examples

GUIDE = Path(__file__).resolve().parent.parent / "docs/migrating.md"
EXAMPLES = Path(__file__).resolve().parent.parent / "examples/migrate"


def sha(text):
    return hashlib.sha256(text.encode()).digest()


@pytest.fixture
def migrate(cluster, dbname, db):
    """Runs an example and returns its last output."""
    def run(name):
        printed = cluster.psql((EXAMPLES / f"{name}.sql").read_text(), dbname)
        assert "ERROR" not in printed
        return printed
    return run


def bearer(db, key, keyspace, path="/v1/things"):
    return db.one("authenticate", Jsonb({"Authorization": f"Bearer {key}"}), "GET", path, None,
                  keyspace=keyspace)


def listed(db, keyspace):
    return {row.label: row for row in db.rows("SELECT * FROM keysmith.keys WHERE keyspace = %s", keyspace)}


UNKEY = """
CREATE SCHEMA unkey;
CREATE TABLE unkey.keys (
    id text PRIMARY KEY, key_auth_id text NOT NULL, hash text NOT NULL UNIQUE, start text NOT NULL,
    workspace_id text NOT NULL, for_workspace_id text, name text, owner_id text, identity_id text, meta text,
    expires timestamp(3), created_at_m bigint NOT NULL DEFAULT 0, updated_at_m bigint, deleted_at_m bigint,
    refill_day smallint, refill_amount int, last_refill_at timestamp(3), enabled boolean NOT NULL DEFAULT true,
    remaining_requests int, environment text);
CREATE TABLE unkey.identities (id text PRIMARY KEY, external_id text NOT NULL, workspace_id text NOT NULL);
CREATE TABLE unkey.ratelimits (id text PRIMARY KEY, name text NOT NULL, key_id text, identity_id text,
    "limit" int NOT NULL, duration bigint NOT NULL);
CREATE TABLE unkey.permissions (id text PRIMARY KEY, workspace_id text, name text, slug text);
CREATE TABLE unkey.keys_permissions (key_id text, permission_id text, workspace_id text);
CREATE TABLE unkey.keys_roles (key_id text, role_id text, workspace_id text);
CREATE TABLE unkey.roles_permissions (role_id text, permission_id text, workspace_id text);
INSERT INTO unkey.identities VALUES ('id_1', 'acme', 'ws_1');
INSERT INTO unkey.permissions VALUES ('p_r', 'ws_1', 'Read', 'documents.read'), ('p_w', 'ws_1', 'Write', 'documents.write');
INSERT INTO unkey.roles_permissions VALUES ('r_1', 'p_w', 'ws_1')"""


def test_unkey(db, migrate):
    db.rows(UNKEY)

    def old(name, **columns):
        key = f"prod_{hashlib.md5(name.encode()).hexdigest()[:22]}"
        columns = {"id": f"key_{name}", "key_auth_id": "ks_1", "workspace_id": "ws_1", "start": key[:9],
                   "hash": base64.b64encode(sha(key)).decode(), "name": name} | columns
        db.rows(f"INSERT INTO unkey.keys ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))})",
                *columns.values())
        return key

    keys = {
        "plain": old("plain", identity_id="id_1", meta='{"plan": "pro"}'),
        "nobodys": old("nobodys"),
        "owned": old("owned", owner_id="globex", meta=""),
        "disabled": old("disabled", owner_id="globex", enabled=False),
        "expired": old("expired", owner_id="globex", expires="2020-01-01"),
        "ending": old("ending", owner_id="globex", expires="2999-01-01"),
        "deleted": old("deleted", owner_id="globex", deleted_at_m=1700000000000),
        "limited": old("limited", identity_id="id_1"),
        "counted": old("counted", identity_id="id_1", remaining_requests=2),
        "refilled": old("refilled", identity_id="id_1", remaining_requests=3, refill_amount=10),
        "monthly": old("monthly", identity_id="id_1", remaining_requests=3, refill_amount=10, refill_day=1),
        "permitted": old("permitted", identity_id="id_1"),
        "shared": old("shared", identity_id="id_2"),
        "sharing": old("sharing", identity_id="id_2"),
        "over": old("over", owner_id="initech", deleted_at_m=1700000000000),
        "mixed": old("mixed", identity_id="id_3"),
        "mixed too": old("mixed too", identity_id="id_3"),
        "with its own": old("with its own", identity_id="id_3"),
        "beside": old("beside", owner_id="umbrella"),
    }
    # Limits of an identity: of the tenant if it has no other keys, of each key otherwise.
    db.rows("INSERT INTO unkey.identities VALUES ('id_2', 'initech', 'ws_1'), ('id_3', 'umbrella', 'ws_1')")
    db.rows("INSERT INTO unkey.ratelimits VALUES ('rl_2', 'together', NULL, 'id_2', 4, 3600000), "
            "('rl_3', 'apart', NULL, 'id_3', 2, 3600000), ('rl_4', 'apart', 'key_with its own', NULL, 3, 3600000)")
    db.rows("INSERT INTO unkey.ratelimits VALUES ('rl_1', 'requests', 'key_limited', NULL, 2, 3600000)")
    db.rows("INSERT INTO unkey.keys_permissions VALUES ('key_permitted', 'p_r', 'ws_1')")
    db.rows("INSERT INTO unkey.keys_roles VALUES ('key_permitted', 'r_1', 'ws_1')")
    migrate("unkey")

    reasons = {name: db.reason(key, keyspace="unkey") for name, key in keys.items()}
    refused = {"disabled": "disabled", "expired": "not_found", "deleted": "not_found", "over": "not_found"}
    assert reasons == {name: refused.get(name, "ok") for name in keys}
    assert bearer(db, keys["plain"], "unkey").ok
    assert not db.verify(keys["plain"][:-1] + "!", keyspace="unkey").ok
    assert db.verify(keys["plain"], keyspace="unkey").tenant == "acme"
    assert db.verify(keys["nobodys"], keyspace="unkey").tenant == "unkey"
    found = listed(db, "unkey")
    assert found["plain"].metadata == {"plan": "pro", "unkey_id": "key_plain"}
    assert found["plain"].key_prefix == keys["plain"][:9]
    assert found["ending"].expires_at.year == 2999
    assert found["permitted"].scopes == ["documents.read", "documents.write"]
    assert db.verify(keys["permitted"], keyspace="unkey", scopes=["documents.write"]).ok
    assert db.reason(keys["plain"], keyspace="unkey", scopes=["documents.read"]) == "insufficient_scope"
    # One of the two calls was used above.
    assert [db.reason(keys["limited"], keyspace="unkey") for _ in range(2)] == ["ok", "rate_limited"]
    # Of four calls for both keys together, two.
    assert [(v.reason, v.limit_name) for v in (db.verify(keys[name], keyspace="unkey") for name in
            ("shared", "sharing", "shared", "sharing"))] == [
        ("ok", "together")] * 2 + [("rate_limited", "together")] * 2
    assert [db.reason(keys[name], keyspace="unkey") for name in ("mixed", "mixed", "mixed too", "mixed too")] \
        == ["ok", "rate_limited"] * 2
    assert [db.reason(keys["with its own"], keyspace="unkey") for _ in range(3)] == ["ok", "ok", "rate_limited"]
    assert db.verify(keys["beside"], keyspace="unkey").limit_name is None
    assert db.rows("SELECT name FROM keysmith_private.tenant WHERE limits IS NOT NULL") == [("initech",)]
    assert [db.reason(keys["counted"], keyspace="unkey", spend=1) for _ in range(3)] \
        == ["ok", "ok", "credits_exhausted"]
    refills = db.rows("SELECT k.label, c.balance, c.refill, c.every FROM keysmith_private.credit c "
                      "JOIN keysmith_private.key k USING (key_id) WHERE refill IS NOT NULL ORDER BY 1")
    assert refills == [("monthly", 3, 10, "month"), ("refilled", 3, 10, "day")]


SANCTUM = """
CREATE SCHEMA laravel;
CREATE TABLE laravel.personal_access_tokens (
    id bigserial PRIMARY KEY, tokenable_type varchar(255) NOT NULL, tokenable_id bigint NOT NULL,
    name text NOT NULL, token varchar(64) NOT NULL UNIQUE, abilities text, last_used_at timestamp(0),
    expires_at timestamp(0), created_at timestamp(0), updated_at timestamp(0))"""


def test_sanctum(db, migrate):
    db.rows(SANCTUM)

    def old(name, abilities='["*"]', secret=None, expires_at=None):
        secret = secret or hashlib.sha1(name.encode()).hexdigest() + "a1b2c3d4"
        number = db.value(
            "INSERT INTO laravel.personal_access_tokens (tokenable_type, tokenable_id, name, token, abilities, "
            "expires_at) VALUES (%s, 42, %s, %s, %s, %s) RETURNING id",
            "App\\Models\\User", name, sha(secret).hex(), abilities, expires_at)
        return number, secret

    keys = {
        "everything": old("everything"),
        "some": old("some", '["server:update","images:*"]'),
        "nothing": old("nothing", "[]"),
        "null": old("null", None),
        "prefixed": old("prefixed", secret="myapp_" + "x" * 40 + "deadbeef"),
        "barred": old("barred", secret="left|right"),
        "expired": old("expired", expires_at="2020-01-01"),
        "ending": old("ending", expires_at="2999-01-01"),
    }
    migrate("sanctum")

    for name, (number, secret) in keys.items():
        ok = name != "expired"
        # The header that clients send, with the number; the part alone worked as well.
        assert bearer(db, f"{number}|{secret}", "laravel").ok == ok, name
        assert db.verify(f"{number}|{secret}", keyspace="laravel").ok == ok, name
        assert not db.verify(f"{number}|{secret[:-1]}", keyspace="laravel").ok
        if "|" not in secret:
            assert db.verify(secret, keyspace="laravel").ok == ok, name
        digest = sha(secret)
        assert db.one("verify_digest", digest, keyspace="laravel").ok == ok
        # The stored digest, in any form, is not accepted.
        assert not db.verify(digest.hex(), keyspace="laravel").ok
        assert not db.verify(f"{number}|{digest.hex()}", keyspace="laravel").ok
    assert [row.ok for row in db.rows(
        "SELECT ok FROM keysmith.verify_many(%s, keyspace => 'laravel')",
        [f"{number}|{secret}" for number, secret in keys.values()])] == [True] * 6 + [False, True]

    def verdict(name, *scopes):
        number, secret = keys[name]
        return db.verify(f"{number}|{secret}", keyspace="laravel", scopes=list(scopes))

    assert verdict("everything", "anything:at-all").ok and verdict("everything").tenant == "user-42"
    assert verdict("some", "server:update", "images:write").ok
    assert verdict("some", "server:delete").reason == "insufficient_scope"
    for name in ("nothing", "null"):
        assert verdict(name, "server:update").reason == "insufficient_scope"
    found = listed(db, "laravel")
    assert found["some"].metadata == {"sanctum_id": keys["some"][0]}
    assert found["ending"].expires_at.year == 2999
    # In other keyspaces a bar has no meaning.
    db.tenant()
    key = db.mint().api_key
    assert not db.verify(f"17|{key}").ok and not bearer(db, f"17|{key}", "default").ok


def test_a_leaked_token_is_revoked_in_the_form_that_was_found(db, migrate):
    db.rows(SANCTUM)
    secret = "s" * 48
    db.rows("INSERT INTO laravel.personal_access_tokens (id, tokenable_type, tokenable_id, name, token, abilities) "
            "VALUES (17, 'App\\Models\\User', 1, 'x', %s, '[\"*\"]')", sha(secret).hex())
    migrate("sanctum")
    assert db.verify(f"17|{secret}", keyspace="laravel").ok
    (leaked,) = db.rows("SELECT * FROM keysmith.report_leak(%s, 'a public repository')", f"17|{secret}")
    row = db.row("SELECT key_id, status, revoked_reason FROM keysmith.keys")
    assert row == (leaked[0], "revoked", "leaked: a public repository")
    assert db.reason(f"17|{secret}", keyspace="laravel") == "revoked"
    assert db.row("SELECT action, key_id FROM keysmith.audit WHERE keyspace = 'laravel' "
                  "ORDER BY entry DESC LIMIT 1") == ("revoke", leaked[0])


BETTER_AUTH = """
CREATE SCHEMA auth;
CREATE TABLE auth.apikey (
    id text PRIMARY KEY, name text, start text, prefix text, key text NOT NULL, "userId" text NOT NULL,
    "refillInterval" integer, "refillAmount" integer, "lastRefillAt" timestamptz, enabled boolean,
    "rateLimitEnabled" boolean, "rateLimitTimeWindow" integer, "rateLimitMax" integer, "requestCount" integer,
    remaining integer, "lastRequest" timestamptz, "expiresAt" timestamptz, "createdAt" timestamptz NOT NULL,
    "updatedAt" timestamptz NOT NULL, permissions text, metadata text)"""


def test_better_auth(db, migrate):
    db.rows(BETTER_AUTH)

    def old(name, **columns):
        # 64 letters, like the plugin's keys.
        key = "proj_" + (hashlib.sha512(name.encode()).hexdigest().translate(str.maketrans("0123456789", "ABCDEFGHIJ"))
                         )[:64]
        columns = {"id": f"id{name}", "name": name, "start": key[:6], "prefix": "proj_",
                   "key": base64.urlsafe_b64encode(sha(key)).decode().rstrip("="), "userId": "user_1",
                   "enabled": True, "rateLimitEnabled": False, "createdAt": "2026-01-01",
                   "updatedAt": "2026-01-01"} | columns
        names = ", ".join(f'"{name}"' for name in columns)
        db.rows(f"INSERT INTO auth.apikey ({names}) VALUES ({', '.join(['%s'] * len(columns))})", *columns.values())
        return key

    keys = {
        "plain": old("plain", metadata='{"team": "core"}'),
        "twice": old("twice", metadata='"{\\"team\\": \\"core\\"}"'),
        "null": old("null", metadata="null", permissions="null"),
        "permitted": old("permitted", permissions='{"files":["read","write"],"users":["read"]}', userId="user_2"),
        "disabled": old("disabled", enabled=False),
        "expired": old("expired", expiresAt="2020-01-01"),
        "ending": old("ending", expiresAt="2999-01-01"),
        "limited": old("limited", rateLimitEnabled=True, rateLimitTimeWindow=86400000, rateLimitMax=2),
        "counted": old("counted", remaining=1),
        "refilled": old("refilled", remaining=1, refillAmount=5, refillInterval=86400000),
        "monthly": old("monthly", remaining=1, refillAmount=5, refillInterval=30 * 86400000 % 2**31),
    }
    # Some digests contain each letter in which base64 and base64url differ.
    encoded = "".join(key for key, in db.rows("SELECT key FROM auth.apikey"))
    assert "-" in encoded and "_" in encoded
    migrate("better_auth")

    reasons = {name: db.reason(key, keyspace="auth") for name, key in keys.items()}
    assert reasons == {name: {"disabled": "disabled", "expired": "not_found"}.get(name, "ok") for name in keys}
    header = Jsonb({"x-api-key": keys["plain"]})
    assert db.one("authenticate", header, "GET", "/", None, keyspace="auth").ok
    found = listed(db, "auth")
    assert found["plain"].metadata == {"team": "core", "better_auth_id": "idplain"}
    assert found["twice"].metadata == {"team": "core", "better_auth_id": "idtwice"}
    assert found["null"].metadata == {"better_auth_id": "idnull"} and found["null"].scopes == []
    assert sorted(found["permitted"].scopes) == ["files:read", "files:write", "users:read"]
    assert found["permitted"].tenant == "user_2"
    assert db.reason(keys["plain"], keyspace="auth", scopes=["files:read"]) == "insufficient_scope"
    assert [db.reason(keys["limited"], keyspace="auth") for _ in range(2)] == ["ok", "rate_limited"]
    assert [db.reason(keys["counted"], keyspace="auth", spend=1) for _ in range(2)] == ["ok", "credits_exhausted"]
    refills = db.rows("SELECT k.label, c.balance, c.refill, c.every FROM keysmith_private.credit c "
                      "JOIN keysmith_private.key k USING (key_id) WHERE refill IS NOT NULL ORDER BY 1")
    assert refills == [("monthly", 1, 5, "month"), ("refilled", 1, 5, "day")]


@pytest.mark.parametrize("algorithm", ["sha-256", "", "md5", None])
def test_other_algorithms_are_refused(db, algorithm):
    db.tenant()
    assert "algorithm" in db.refused("KS400", "import_key", "acme", b"x" * 32, algorithm=algorithm)


def test_whole_keys_are_looked_for_in_a_keyspace_of_barred_ones(db):
    db.tenant()
    minted = db.mint().api_key
    db.one("import_key", "acme", sha("plain"))
    assert db.verify("plain").ok
    db.one("import_key", "acme", sha("behind"), algorithm="sha256-behind-bar")
    for key in ("plain", "1|behind", "behind", minted):
        assert db.verify(key).ok, key
    for key in ("1|", "|", "behind|1", "1|2|behind"):
        assert not db.verify(key).ok, key
    # The typo is looked up, since keys of any form may exist.
    assert db.reason(minted[:-1]) == "not_found"


# Made by the npm package prefixed-api-key 1.1.1, which stores longTokenHash.
PREFIXED = {
    "mycompany_cUDua7gH_B67d8ikkwizThhY4D5A6gnXV": "dbb9bf50ce4f8968e09de7009e69b820c6d5aa2af97ad97918256c21d893db32",
    "my_company_VHXaBEya_GfLvVa7pEqbJgMiMXCgyqkAn": "293928dfa97d39398f6029434500a62c407e8fb8e4fbe1f986d9f9f3bcbe2263",
}
# Made by the Python package djangorestframework-api-key 3.1.0, which stores hashed_key.
DJANGO = {
    "Jo0rVeYm.BZmPfMG6URZIvRzFJY41oplZ2wTb8kCG":
        "sha512$$53915922fb0bb425ea1d8d914a2c313494fd87d4a8aa950c002d221ad675e4a9"
        "0753730224becd4875ce9239494d16cdbe38f340f88c9b6f53ea878a94fd5636",
}


@pytest.mark.parametrize("given, algorithm", [(PREFIXED, "sha256-last-part"), (DJANGO, "sha512")])
def test_keys_that_packages_made(db, given, algorithm):
    db.tenant()
    db.call("create_keyspace", "elsewhere")
    minted = db.mint().api_key
    keys = {}
    for key, stored in given.items():
        digest = bytes.fromhex(stored.removeprefix("sha512$$"))
        keys[key] = db.one("import_key", "acme", digest, algorithm=algorithm).key_id
        assert "digest" in db.refused("KS400", "import_key", "acme", digest[:-1], algorithm=algorithm)
        db.refused("KS409", "import_key", "acme", digest, algorithm=algorithm)
    for key, key_id in keys.items():
        # The second time it is in the directory.
        for _ in range(2):
            assert db.verify(key).key_id == key_id
        assert db.one("authenticate", Jsonb({"authorization": f"Bearer {key}"}), "GET", "/").ok
        assert [row.outcome for row in db.call("explain_verify", key) if row.rule == "found"] == ["pass"]
        for near in (key[:-1], key + "x", key.swapcase()):
            assert db.reason(near) == "not_found"
        assert not db.verify(key, keyspace="elsewhere").ok
    assert db.verify(minted).ok and db.reason(minted[:-1]) == "not_found"
    for key in keys:
        assert db.call("report_leak", key, "a public repository")[0][0] == keys[key]
        assert db.reason(key) == "revoked"


def made_by(*command, **environment):
    """What a package says about the keys that it makes."""
    done = subprocess.run([*command], env=clusters.environment() | environment, text=True, check=True,
                          stdout=subprocess.PIPE)
    return json.loads(done.stdout)


def statements_of(section):
    """The statements that the guide gives for a package."""
    text = GUIDE.read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    return "\n".join(re.findall(r"```sql\n(.*?)```", text, re.DOTALL))


def test_keys_of_djangos_package(cluster, dbname, db):
    """In the tables that the package makes, by the statements of the guide."""
    place = examples.require("key-makers")
    keys = made_by(place / "venv/bin/python", Path(__file__).parent / "makers/django_keys.py",
                   PGHOST=str(cluster.dir), PGPORT=str(cluster.port), PGUSER="postgres", PGDATABASE=dbname)
    valid = {name for name, told in keys.items() if told["is_valid"]}
    assert valid == {"plain", "another", "ending"} and keys.keys() == valid | {"revoked", "expired"}
    statements = [one for one in statements_of("djangorestframework-api-key").split(";\n")
                  if not one.startswith(("CREATE TABLE", "INSERT")) and "authenticate" not in one]
    db.rows(";".join(statements))
    for name, told in keys.items():
        ok = name in valid
        header = Jsonb({"Authorization": f"Api-Key {told['key']}"})
        verdict = db.one("authenticate", header, "GET", "/", keyspace="django")
        assert (verdict.ok, verdict.label) == (ok, name if ok else None), name
        assert db.verify(told["key"], keyspace="django").ok == ok
        for near in (told["key"][:-1], told["key"] + "x", told["key"].split(".")[1]):
            assert not db.verify(near, keyspace="django").ok
    assert db.rows("SELECT label, key_prefix, expires_at FROM keysmith.keys ORDER BY 1") == db.rows(
        "SELECT name, prefix, expiry_date FROM rest_framework_api_key_apikey "
        "WHERE name IN ('another', 'ending', 'plain') ORDER BY 1")


def test_keys_of_prefixed_api_key(db):
    place = examples.require("key-makers-node")
    keys = made_by("node", Path(__file__).parent / "makers/prefixed_keys.js", NODE_PATH=str(place / "node_modules"))
    assert len(keys) == 4 and all(key["isValid"] for key in keys)
    db.call("create_keyspace", "prefixed")
    db.tenant(keyspace="prefixed")
    for key in keys:
        db.one("import_key", "acme", bytes.fromhex(key["longTokenHash"]), algorithm="sha256-last-part", keyspace="prefixed")
    for key in keys:
        token = key["token"]
        assert db.verify(token, keyspace="prefixed").ok and bearer(db, token, "prefixed").ok
        for near in (token[:-1], token + "x", token.rsplit("_", 1)[0], token.swapcase()):
            assert db.reason(near, keyspace="prefixed") == "not_found"


def test_the_first_key_of_a_part_is_an_administrators(db, sees_only):
    db.tenant()
    with sees_only("acme"):
        db.refused("KS403", "import_key", "acme", sha("secret"), algorithm="sha256-last-part")
    db.call("import_key", "acme", sha("secret"), algorithm="sha256-last-part")
    with sees_only("acme"):
        db.call("import_key", "acme", sha("other"), algorithm="sha256-last-part")
    for key in ("a_secret", "a.b_secret", "a_b.secret", "secret", "x_other"):
        assert db.verify(key).ok, key
    for key in ("secret_", "secret_a", "a-secret", "_", "."):
        assert not db.verify(key).ok, key


def test_many_imports_tell_how_far_they_are(db):
    db.tenant()
    notices = []
    db.session.add_notice_handler(lambda diag: notices.append(diag.message_primary))
    db.rows("SELECT count(keysmith.import_key('acme', sha256(n::text::bytea))) FROM generate_series(1, 1050) n")
    assert notices == ["imported 1000 keys"]
    notices.clear()
    # Another transaction counts from zero again.
    db.rows("SELECT count(keysmith.import_key('acme', sha256(n::text::bytea))) FROM generate_series(2000, 2050) n")
    assert notices == []
