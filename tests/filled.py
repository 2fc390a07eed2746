"""A database with every kind of data, and a check that all of it still works.
Only plain data passes from one to the other, so that a server of another version can run in
between.
"""

from psycopg.types.json import Jsonb

ROLES = "app_user, key_issuer"


def fill(db):
    """Fills a database and returns the data that `check` needs."""
    db.rows("CREATE ROLE app_user; CREATE ROLE key_issuer")
    db.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_"}}), allowlist=["0.0.0.0/0"], key_credits=9,
            failure_limit=Jsonb({"limit": 1, "window": "365 days"}), usage_tags=["model"])
    db.call("define_scope", "default", "docs:read", "See documents")
    db.call("define_scope", "default", "docs:write", "Change documents", ["docs:read"])
    db.call("define_role", "default", "editor", ["docs:write"])
    db.call("define_route", "default", "POST", "/docs/{id}", "docs:write")
    for keyspace in ("default", "other"):
        db.tenant("acme", keyspace=keyspace, plan="pro")
    db.tenant("umbrella", credits=Jsonb({"balance": 7, "refill": 1, "every": "week", "anchor": "2026-01-01 06:00Z", "low": 1}))
    db.tenant("closed")
    db.tenant("walled", allowlist=["203.0.113.0/24"], scopes=["docs:read"])
    db.call("set_member", "acme", "ann", "editor")
    db.call("grant_access", "key_issuer", "issuer", tenant="acme")

    keys = {
        "of a member": db.mint(owner="ann", label="it's \\ a label"),
        "of a role": db.mint(role="editor"),
        "limited": db.mint(limits=Jsonb([{"name": "slow", "limit": 20, "window": "365 days"}])),
        "rich": db.mint(credits=10),
        "of a rich tenant": db.mint("umbrella"),
        "fenced": db.mint(allowlist=["203.0.113.0/24"]),
        "revoked": db.mint(),
        "disabled": db.mint(),
        "idle": db.mint(),
        "rotated": db.mint(metadata=Jsonb({"é": ["ü"]})),
        "suspended": db.mint("closed"),
        "walled": db.mint("walled"),
        "ending": db.mint(expires_at=db.value("SELECT now() + interval '6 days'")),
    }
    for giver in ("limited", "rich"):
        with db.session.transaction():
            assert db.verify(keys[giver].api_key, sign_in=True, weight=0).ok
            keys[f"of the {giver}"] = db.mint()
    keys["successor"] = db.one("rotate", keys["rotated"].key_id, "30 days")
    db.call("revoke", keys["revoked"].key_id, "over")
    db.call("disable", keys["disabled"].key_id)
    db.rows("UPDATE keysmith_private.key SET disabled_at = now(), disabled_reason = 'idle' WHERE key_id = %s",
            keys["idle"].key_id)
    db.call("suspend_tenant", "closed")
    db.row("SELECT keysmith.import_key('acme', sha256('legacy'))")
    elsewhere = db.mint(keyspace="other")

    db.rows("""CREATE TABLE docs (id int, tenant text NOT NULL, body text);
               GRANT SELECT, INSERT ON docs TO app_user""")
    db.call("isolate", "docs", "tenant", keyspace="default")
    db.call("track", "docs")
    db.call("grant_access", "app_user", "verifier")
    db.rows("INSERT INTO docs VALUES (1, 'acme', 'a'), (2, 'umbrella', 'b')")

    db.rows("CREATE TABLE notes (id int PRIMARY KEY, body text)")
    db.call("ledger", "notes")
    db.rows("INSERT INTO notes VALUES (1, 'a'), (2, 'b')")

    # Some of the logged rows are summed up, and some are not yet.
    for _ in range(2):
        for key in keys.values():
            db.verify(key.api_key, ip="203.0.113.9")
        _request(db, keys["of a role"].api_key)
        with db.session.transaction():
            db.verify(elsewhere.api_key, ip="203.0.113.9", keyspace="other", weights=Jsonb({"tokens": 3}))
            db.one("log_request", tags=Jsonb({"model": "small", "trace": "x"}))
        db.verify("ks_live_unknown")
        db.call("flush_usage")
    spent = db.verify(keys["rich"].api_key, spend=4).request_id
    db.call("maintain")
    db.call("flush_usage")
    # It closes a block, so that the worker won't.
    head = db.value("SELECT to_jsonb(h) FROM keysmith.ledger_head('notes') h")
    return {"keys": {name: key.api_key for name, key in keys.items()}, "elsewhere": elsewhere.api_key, "spent": str(spent),
            "head": head}


def drop_roles(db):
    """Drops the roles with all their privileges, so that the privileges are those of a fresh
    database."""
    db.rows(f"DROP OWNED BY {ROLES}; DROP ROLE {ROLES}")


def _request(db, api_key):
    """An accepted request that writes to an isolated and tracked table."""
    with db.session.transaction():
        db.rows("SET LOCAL ROLE app_user")
        headers = Jsonb({"authorization": f"Bearer {api_key}"})
        assert db.one("authenticate", headers, "POST", "/docs/5", "203.0.113.9").ok
        db.rows("INSERT INTO docs VALUES (3, 'acme', 'c')")
        assert {row.tenant for row in db.rows("SELECT tenant FROM docs")} == {"acme"}


REASONS = {"of a member": "ok", "of a role": "ok", "limited": "ok", "rich": "ok",
           "of a rich tenant": "ok", "fenced": "ip_not_allowed", "revoked": "revoked",
           "disabled": "disabled", "idle": "idle", "rotated": "ok", "suspended": "tenant_suspended", "walled": "ip_not_allowed",
           "successor": "ok", "ending": "ok",
           "of the limited": "ok", "of the rich": "ok"}


def check(db, kept):
    """Checks that the data works as before, and that new data can be added."""
    keys = kept["keys"]
    assert {name: db.reason(key, ip="192.0.2.1") for name, key in keys.items()} == REASONS
    assert db.verify(keys["fenced"], ip="203.0.113.9").ok
    assert db.verify("legacy").ok
    assert db.verify(keys["walled"], ip="203.0.113.9").scopes == ["docs:read"]
    assert db.reason(kept["elsewhere"], keyspace="other") == "ip_unknown"
    assert db.verify(kept["elsewhere"], ip="203.0.113.9", keyspace="other", spend=9).ok
    assert db.verify(db.mint(keyspace="other").api_key, ip="203.0.113.9", keyspace="other", spend=9).ok
    assert db.reason(kept["elsewhere"]) != "ok"
    assert db.verify(keys["of a member"], scopes=["docs:read"]).owner == "ann"
    assert db.reason(keys["of a member"], scopes=["admin"]) == "insufficient_scope"
    # Buckets are in memory: a restart resets them.
    assert db.verify(keys["limited"]).limit_name == "slow"
    assert "rate_limited" in {db.reason(keys["limited"]) for _ in range(20)}
    assert db.reason(keys["of the limited"]) == "rate_limited"
    assert [db.value("SELECT keysmith.settle(%s, spend => 5)", kept["spent"]) for _ in range(2)] == [True, False]
    assert "too_many_failures" in {db.reason("o_guess", ip="192.0.2.9", keyspace="other") for _ in range(2)}
    assert db.verify(keys["rich"], spend=5).credits_remaining == 0
    assert db.reason(keys["of the rich"], spend=1) == "credits_exhausted"
    assert db.verify(keys["of a rich tenant"], spend=2).credits_remaining == 5

    assert db.value("SELECT to_jsonb(h) FROM keysmith.ledger_head('notes') h") == kept["head"]
    db.rows("DELETE FROM notes WHERE id = 2")
    db.rows("INSERT INTO notes VALUES (3, 'c')")
    for _ in range(2):
        assert db.call("verify_ledger", "notes", Jsonb(kept["head"])) == []
        assert db.one("ledger_head", "notes").rows == 2

    # It was told before.
    db.call("maintain")
    assert [row.event for row in db.call("events_after") if row.event.startswith("key.")] == ["key.expiring"]
    assert all(chain.ok for chain in db.call("audit_verify"))
    before = db.value("SELECT sum(requests) FROM keysmith.usage_daily")
    key_id = db.verify(keys["of a role"]).key_id
    reached = db.call("blast_radius", key_id)
    assert [row.rows for row in reached] == [2]
    _request(db, keys["of a role"])
    minted = db.mint()
    assert db.verify(minted.api_key).ok
    db.call("revoke", minted.key_id)
    assert db.reason(minted.api_key) == "revoked"
    db.call("flush_usage")
    assert db.value("SELECT sum(requests) FROM keysmith.usage_daily") > before
    assert all(chain.ok for chain in db.call("audit_verify"))
