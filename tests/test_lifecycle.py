"""A key's life: minted, altered, rotated, disabled, revoked."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from psycopg.types.json import Jsonb

UNKNOWN = "00000000-0000-0000-0000-000000000000"
KEY = re.compile(r"ks_live_[0-9A-Za-z]{49}")


def test_mint_returns_the_key_once(db):
    db.tenant()
    minted = db.mint(label="Production", scopes=["images:write"])
    assert minted._fields == (
        "key_id", "api_key", "key_prefix", "key_snippet", "label", "environment", "kind",
        "scopes", "expires_at", "created_at", "display_id",
    )
    assert KEY.fullmatch(minted.api_key)
    assert minted.key_prefix == minted.api_key[:13]
    assert minted.key_snippet == f"ks_live_...{minted.api_key[-4:]}"
    assert (minted.label, minted.environment, minted.kind) == ("Production", "live", "secret")
    assert minted.scopes == ["images:write"]
    assert minted.expires_at is None
    assert db.verify(minted.api_key).ok


@pytest.mark.parametrize("kind, environment, prefix", [
    ("secret", "live", "ks_live_"), ("secret", "test", "ks_test_"),
    ("publishable", "live", "kp_live_"), ("publishable", "test", "kp_test_"),
])
def test_default_prefixes(db, kind, environment, prefix):
    db.tenant()
    assert db.mint(kind=kind, environment=environment).api_key.startswith(prefix)


def test_list_shows_no_secret(db):
    db.tenant()
    minted = db.mint(label="one", metadata=Jsonb({"team": "a"}))
    (listed,) = db.call("list_keys", "acme")
    assert listed._fields == (
        "key_id", "tenant", "keyspace", "label", "status", "kind", "environment", "key_prefix",
        "key_snippet", "scopes", "role", "owner", "allowlist", "limits", "credits", "expires_at",
        "created_at", "created_by", "last_used_at", "revoked_at", "revoked_reason", "rotated_to",
        "metadata", "display_id", "refill",
    )
    assert (listed.key_id, listed.tenant, listed.status) == (minted.key_id, "acme", "active")
    assert listed.metadata == {"team": "a"}
    assert listed.created_by == "postgres"
    assert minted.api_key not in str(listed)


def test_revoked_keys_are_listed_on_demand(db):
    db.tenant()
    keys = [db.mint(label=label) for label in "abc"]
    db.call("revoke", keys[1].key_id, "no longer needed")
    assert [key.label for key in db.call("list_keys", "acme")] == ["a", "c"]
    listed = db.call("list_keys", "acme", include_revoked=True)
    assert [key.status for key in listed] == ["active", "revoked", "active"]
    assert listed[1].revoked_reason == "no longer needed"
    assert listed[1].revoked_at is not None


def test_revoking_twice_or_nothing_is_not_found(db):
    db.tenant()
    key = db.mint()
    db.call("revoke", key.key_id)
    assert db.reason(key.api_key) == "revoked"
    assert str(key.key_id) in db.refused("KS404", "revoke", key.key_id)
    assert UNKNOWN in db.refused("KS404", "revoke", UNKNOWN)


@pytest.mark.parametrize("act", ["enable", "disable", "rotate"])
def test_acts_on_revoked_and_unknown_keys_are_not_found(db, act):
    db.tenant()
    key = db.mint()
    db.call("revoke", key.key_id)
    db.refused("KS404", act, key.key_id)
    db.refused("KS404", act, UNKNOWN)


def test_disable_and_enable(db):
    db.tenant()
    key = db.mint()
    for _ in range(2):
        db.call("disable", key.key_id)
        assert db.reason(key.api_key) == "disabled"
        assert db.status_of(key.key_id) == "disabled"
    for _ in range(2):
        db.call("enable", key.key_id)
        assert db.verify(key.api_key).ok


def test_suspended_tenants(db):
    db.tenant()
    db.tenant("other")
    key, others = db.mint(), db.mint("other")
    db.call("suspend_tenant", "acme", reason="unpaid")
    assert db.reason(key.api_key) == "tenant_suspended"
    assert db.verify(others.api_key).ok
    db.call("resume_tenant", "acme")
    assert db.verify(key.api_key).ok
    db.refused("KS404", "suspend_tenant", "nobody")


def good_until(db, key, end):
    """Waits, and checks that a key is accepted until then and no longer."""
    now = "SELECT clock_timestamp()"
    while True:
        before, verdict, after = db.value(now), db.verify(key.api_key), db.value(now)
        if not verdict.ok:
            assert verdict.reason == "expired" and after >= end
            return
        assert before < end


def test_expiry(db):
    db.tenant()
    soon = db.value("SELECT clock_timestamp() + interval '2 s'")
    key = db.mint(expires_at=soon)
    assert db.verify(key.api_key).expires_at == soon
    good_until(db, key, soon)
    assert db.status_of(key.key_id) == "expired"
    db.refused("KS409", "rotate", key.key_id)


def test_a_moment_in_the_past_is_refused(db):
    db.tenant()
    past = datetime.now(timezone.utc) - timedelta(seconds=1)
    assert "expires_at" in db.refused("KS400", "mint", "acme", expires_at=past)
    assert db.value("SELECT expires_at FROM keysmith.mint('acme', expires_at => 'infinity')") is None


# Alteration

def test_alter_changes_what_it_names_and_nothing_else(db):
    db.tenant()
    key = db.mint(label="old", scopes=["a"], metadata=Jsonb({"x": 1}))
    altered = db.one("alter_key", key.key_id, Jsonb({"label": "new"}))
    assert (altered.label, altered.scopes, altered.metadata) == ("new", ["a"], {"x": 1})
    altered = db.one("alter_key", key.key_id, '{"scopes": ["b"], "metadata": {"y": 1.10}}')
    assert (altered.label, altered.scopes) == ("new", ["b"])
    assert db.value("SELECT metadata ->> 'y' FROM keysmith.keys") == "1.10"
    altered = db.one("alter_key", key.key_id,
                     Jsonb({"label": None, "scopes": [], "metadata": None, "allowlist": None}))
    assert (altered.label, altered.scopes, altered.metadata) == (None, [], {})


def test_alter_allowlist_takes_effect_at_once(db):
    db.tenant()
    key = db.mint()
    db.call("alter_key", key.key_id, Jsonb({"allowlist": ["203.0.113.0/24", "2001:db8::/32"]}))
    assert db.reason(key.api_key) == "ip_unknown"
    assert db.reason(key.api_key, ip="203.0.114.1") == "ip_not_allowed"
    assert db.verify(key.api_key, ip="203.0.113.1").ok
    assert db.verify(key.api_key, ip="::ffff:203.0.113.1").ok
    assert db.verify(key.api_key, ip="2001:db8:1::1").ok
    db.call("alter_key", key.key_id, Jsonb({"allowlist": []}))
    assert db.verify(key.api_key).ok


def test_alter_expiry(db):
    db.tenant()
    key = db.mint()
    altered = db.one("alter_key", key.key_id, Jsonb({"expires_at": "2100-01-31T12:00:00Z"}))
    assert altered.expires_at == datetime(2100, 1, 31, 12, tzinfo=timezone.utc)
    assert db.one("alter_key", key.key_id, Jsonb({"expires_at": None})).expires_at is None


@pytest.mark.parametrize("changes, named", [
    ({"lable": "x"}, "lable"),
    ({"label": 5}, "label"),
    ({"label": "x" * 101}, "label"),
    ({"label": "a\nb"}, "label"),
    ({"scopes": "images:write"}, "scopes"),
    ({"scopes": [1]}, "scopes"),
    ({"scopes": ["a b"]}, "scopes"),
    ({"role": "nobody"}, "role"),
    ({"owner": "nobody"}, "nobody"),
    ({"allowlist": ["203.0.113.7/24"]}, "203.0.113.0/24"),
    ({"allowlist": ["nonsense"]}, "allowlist"),
    ({"allowlist": "203.0.113.0/24"}, "allowlist"),
    ({"expires_at": "whenever"}, "expires_at"),
    ({"expires_at": 5}, "expires_at"),
    ({"expires_at": "2001-01-01"}, "expires_at"),
    ({"expires_at": "-infinity"}, "expires_at"),
    ({"metadata": [1]}, "metadata"),
    ({"metadata": "x"}, "metadata"),
    ({"environment": "test"}, "environment"),
    ({"key_id": UNKNOWN}, "key_id"),
    ({"limits": [{"name": "x", "limit": 0, "window": "1 s"}]}, "limits"),
    ({"limits": "x"}, "limits"), ({"credits": -1}, "credits"), ({"credits": "x"}, "credits"),
    ([], "changes"), ("x", "changes"), (None, "changes"), (5, "changes"),
])
def test_a_bad_patch_changes_nothing(db, changes, named):
    db.tenant()
    key = db.mint(label="kept")
    before = db.call("list_keys", "acme")
    patch = Jsonb({"label": "changed"} | changes if isinstance(changes, dict) else changes)
    unknown = isinstance(changes, dict) and "nobody" in changes.values()
    message = db.refused("KS404" if unknown else "KS400", "alter_key", key.key_id, patch)
    assert named in message
    assert db.call("list_keys", "acme") == before


# Rotation

def test_rotate_at_once(db):
    db.tenant()
    db.call("define_role", "default", "admin", ["*"])
    db.call("set_member", "acme", "ann", "admin")
    expires = datetime(2100, 1, 1, tzinfo=timezone.utc)
    old = db.row("""SELECT * FROM keysmith.mint('acme', label => 'P', environment => 'test',
                    scopes => '{a}', role => 'admin', owner => 'ann', allowlist => '{10.0.0.0/8}',
                    expires_at => %s, metadata => '{"x": 1}')""", expires)
    new = db.one("rotate", old.key_id)
    assert new.api_key != old.api_key and new.api_key.startswith("ks_test_")
    assert db.reason(old.api_key, ip="10.1.1.1") == "revoked"
    assert db.verify(new.api_key, ip="10.1.1.1").ok
    before, after = db.call("list_keys", "acme", include_revoked=True)
    assert (before.rotated_to, before.revoked_reason) == (new.key_id, "rotated")
    inherited = ("label", "environment", "kind", "scopes", "role", "owner", "allowlist",
                 "expires_at", "metadata")
    for field in inherited:
        assert getattr(after, field) == getattr(before, field), field


def test_rotate_with_grace(db):
    db.tenant()
    old = db.mint()
    new = db.one("rotate", old.key_id, timedelta(hours=1))
    assert db.verify(old.api_key).ok and db.verify(new.api_key).ok
    assert db.verify(old.api_key).expires_at is not None
    assert new.expires_at is None
    db.refused("KS409", "rotate", old.key_id)
    far = Jsonb({"expires_at": "2100-01-01"})
    assert "expires_at" in db.refused("KS400", "alter_key", old.key_id, far)
    newest = db.one("rotate", new.key_id, timedelta(milliseconds=500))
    good_until(db, new, db.verify(new.api_key).expires_at)
    assert db.verify(newest.api_key).ok


def test_grace_never_prolongs(db):
    db.tenant()
    soon = datetime.now(timezone.utc) + timedelta(hours=1)
    old = db.mint(expires_at=soon)
    db.one("rotate", old.key_id, timedelta(days=1))
    assert db.verify(old.api_key).expires_at == soon


def test_a_key_in_grace_can_be_revoked(db):
    db.tenant()
    old = db.mint()
    db.one("rotate", old.key_id, timedelta(days=1))
    db.call("revoke", old.key_id)
    assert db.reason(old.api_key) == "revoked"


@pytest.mark.parametrize("grace", ["-1 second", "-1 day", "1 month -1 day", "367 days",
                                   "300000 years", "-300000 years"])
def test_bad_grace(db, grace):
    db.tenant()
    key = db.mint()
    assert "grace" in db.refused("KS400", "rotate", key.key_id, grace)
    assert db.verify(key.api_key).ok
    assert len(db.call("list_keys", "acme")) == 1


def test_a_disabled_key_is_not_rotated(db):
    db.tenant()
    key = db.mint()
    db.call("disable", key.key_id)
    db.refused("KS409", "rotate", key.key_id)


# Regeneration

def test_regenerate_replaces_the_key_without_a_label(db):
    db.tenant()
    old = db.mint(scopes=["a"])
    new = db.one("regenerate", "acme")
    assert db.reason(old.api_key) == "revoked"
    assert db.verify(new.api_key).ok
    assert new.scopes == ["a"]
    newer = db.one("regenerate", "acme", label="Other")
    assert db.reason(new.api_key) == "revoked"
    assert newer.label == "Other"


def test_regenerate_replaces_the_one_key_where_there_can_be_one_only(db):
    db.call("create_keyspace", "one", max_active_keys=1)
    db.tenant(keyspace="one")
    old = db.mint(keyspace="one", label="Production")
    new = db.one("regenerate", "acme", keyspace="one")
    assert db.reason(old.api_key, keyspace="one") == "revoked"
    assert new.label == "Production"
    assert db.verify(new.api_key, keyspace="one").ok


def test_regenerate_leaves_labelled_keys_alone(db):
    db.tenant()
    labelled = [db.mint(label=label) for label in ("Production", "Staging")]
    legacy = db.one("regenerate", "acme")
    again = db.one("regenerate", "acme")
    assert db.reason(legacy.api_key) == "revoked"
    assert all(db.verify(key.api_key).ok for key in [*labelled, again])


def test_a_rotated_legacy_key_is_still_the_legacy_key(db):
    db.tenant()
    labelled = db.mint(label="Production")
    db.mint(label="Staging")
    rotated = db.one("rotate", db.one("regenerate", "acme").key_id)
    db.one("regenerate", "acme")
    assert db.reason(rotated.api_key) == "revoked"
    assert db.verify(labelled.api_key).ok
    assert len(db.call("list_keys", "acme")) == 3


def test_regenerate_does_not_get_around_a_disablement(db):
    db.tenant()
    key = db.mint()
    db.call("disable", key.key_id)
    db.refused("KS409", "regenerate", "acme")


def test_regenerate_without_a_key_makes_one(db):
    db.tenant()
    assert db.verify(db.one("regenerate", "acme").api_key).ok
    db.refused("KS404", "regenerate", "nobody")


# Bounds on the number of keys

def test_a_mint_beyond_the_bound_errors(db):
    db.call("create_keyspace", "one", max_active_keys=1)
    db.tenant(keyspace="one")
    first = db.mint(keyspace="one")
    db.refused("KS409", "mint", "acme", keyspace="one")
    db.call("disable", first.key_id)
    db.refused("KS409", "mint", "acme", keyspace="one")
    db.call("enable", first.key_id)
    rotated = db.one("rotate", first.key_id, timedelta(days=1))
    db.refused("KS409", "mint", "acme", keyspace="one")
    assert db.verify(first.api_key, keyspace="one").ok
    db.call("revoke", rotated.key_id)
    db.mint(keyspace="one")


def test_a_mint_beyond_the_bound_replaces(db):
    db.call("create_keyspace", "two", max_active_keys=2, at_max="replace")
    db.tenant(keyspace="two")
    keys = [db.mint(keyspace="two") for _ in range(3)]
    assert [db.verify(key.api_key, keyspace="two").ok for key in keys] == [False, True, True]
    assert db.value("SELECT revoked_reason FROM keysmith.keys WHERE key_id = %s",
                    keys[0].key_id) == "replaced"


def test_an_expired_key_takes_no_place_until_it_is_revived(db):
    db.call("create_keyspace", "one", max_active_keys=1)
    db.tenant(keyspace="one")
    first = db.mint(keyspace="one", expires_at=datetime.now(timezone.utc) + timedelta(hours=1))
    db.rows("UPDATE keysmith_private.key SET expires_at = clock_timestamp()")
    db.mint(keyspace="one")
    db.refused("KS409", "alter_key", first.key_id, Jsonb({"expires_at": None}))


# Members and roles

def test_a_key_follows_its_owners_role(db):
    db.call("define_role", "default", "writer", ["images:read", "images:write"])
    db.call("define_role", "default", "reader", ["images:read"])
    db.tenant()
    db.call("set_member", "acme", "ann", "writer")
    key = db.mint(owner="ann")
    narrowed = db.mint(owner="ann", scopes=["images:write", "videos:write"])
    assert db.verify(key.api_key, scopes=["images:write"]).ok
    assert db.verify(key.api_key).role == "writer"
    assert db.verify(narrowed.api_key).scopes == ["images:write"]
    assert db.reason(narrowed.api_key, scopes=["images:read"]) == "insufficient_scope"
    assert db.reason(narrowed.api_key, scopes=["videos:write"]) == "insufficient_scope"
    db.call("set_member", "acme", "ann", "reader")
    assert db.reason(key.api_key, scopes=["images:write"]) == "insufficient_scope"
    assert db.verify(key.api_key, scopes=["images:read"]).ok
    assert db.verify(narrowed.api_key).scopes == []
    db.call("remove_member", "acme", "ann")
    assert db.reason(key.api_key) == "owner_gone"
    db.refused("KS404", "remove_member", "acme", "ann")


def test_a_role_of_the_key_stays_below_its_owners(db):
    db.call("define_role", "default", "writer", ["images:read", "images:write"])
    db.call("define_role", "default", "reader", ["images:read"])
    db.tenant()
    db.call("set_member", "acme", "ann", "writer")
    key = db.mint(owner="ann", role="writer")
    assert db.verify(key.api_key, scopes=["images:write"]).ok
    db.call("set_member", "acme", "ann", "reader")
    assert db.reason(key.api_key, scopes=["images:write"]) == "insufficient_scope"


def test_a_role_that_changes_changes_its_keys(db):
    db.call("define_role", "default", "reader", ["images:read"])
    db.tenant()
    key = db.mint(role="reader")
    assert db.reason(key.api_key, scopes=["images:write"]) == "insufficient_scope"
    db.call("define_role", "default", "reader", ["images:*"])
    assert db.verify(key.api_key, scopes=["images:write"]).ok


# Scopes

def test_unknown_scopes_are_refused_where_there_is_a_catalogue(db):
    db.tenant()
    db.mint(scopes=["anything:at:all"])
    db.call("define_scope", "default", "images:write", "Make images")
    assert "images:wirte" in db.refused("KS400", "mint", "acme", scopes=["images:wirte"])
    for scopes in (["images:write"], ["images:*"], ["*"], []):
        db.mint(scopes=scopes)


def test_implied_scopes(db):
    db.call("define_scope", "default", "read")
    db.call("define_scope", "default", "write", implies=["read"])
    db.call("define_scope", "default", "admin", implies=["write"])
    db.tenant()
    key = db.mint(scopes=["admin"])
    assert db.verify(key.api_key, scopes=["read", "write"]).ok
    assert db.reason(db.mint(scopes=["read"]).api_key, scopes=["write"]) == "insufficient_scope"


@pytest.mark.parametrize("meaning, effective, passes", [
    ("all", ["*"], True), ("defaults", ["read"], False), ("none", [], False),
])
def test_what_empty_scopes_mean(db, meaning, effective, passes):
    db.call("create_keyspace", "k", empty_scopes=meaning, default_scopes=["read"])
    db.tenant(keyspace="k")
    key = db.mint(keyspace="k")
    verdict = db.verify(key.api_key, keyspace="k", scopes=["write"])
    assert (verdict.ok, verdict.scopes) == (passes, effective)
    assert key.scopes == (["read"] if meaning == "defaults" else [])


# Keyspaces

def test_a_keyspace_of_ones_own(db):
    db.call("create_keyspace", "rymi", prefixes=Jsonb({"secret": {"live": "rymi_"}}),
            label_length=10)
    db.tenant(keyspace="rymi")
    key = db.mint(keyspace="rymi", label="x" * 10)
    assert key.api_key.startswith("rymi_") and key.key_prefix == key.api_key[:10]
    assert db.verify(key.api_key, keyspace="rymi").keyspace == "rymi"
    assert db.reason(key.api_key) == "wrong_keyspace"
    assert "label" in db.refused("KS400", "mint", "acme", keyspace="rymi", label="x" * 11)
    db.refused("KS400", "mint", "acme", keyspace="rymi", environment="test")
    db.refused("KS400", "mint", "acme", keyspace="rymi", kind="publishable")
    db.refused("KS409", "create_keyspace", "rymi")


def test_a_tenants_name_is_unique_in_its_keyspace_only(db):
    db.call("create_keyspace", "other")
    ids = {db.tenant("acme"), db.tenant("acme", keyspace="other")}
    assert len(ids) == 2
    db.refused("KS409", "create_tenant", "acme")
    key = db.mint()
    assert db.reason(key.api_key, keyspace="other") == "wrong_keyspace"
    assert db.reason(key.api_key, keyspace="nowhere") == "wrong_keyspace"


def test_alter_keyspace(db):
    db.tenant()
    db.call("alter_keyspace", "default", Jsonb({
        "prefixes": {"secret": {"live": "new_", "eu": "new_eu_"}}, "label_length": 5,
        "empty_scopes": "none", "max_active_keys": 2,
    }))
    assert db.mint(environment="eu").api_key.startswith("new_eu_")
    key = db.mint()
    assert key.api_key.startswith("new_")
    assert db.reason(key.api_key, scopes=["a"]) == "insufficient_scope"
    db.refused("KS409", "mint", "acme")
    db.call("alter_keyspace", "default", Jsonb({"max_active_keys": None}))
    db.mint()
    for bad in ({"max_active_keys": 0}, {"at_max": "explode"}, {"empty_scopes": "some"}, {"x": 1},
                {"label_length": "5"}, {"prefixes": {"secret": {"live": "NO"}}},
                {"prefixes": {"master": {"live": "m_"}}}, {"prefixes": {}}, {"prefixes": 5}):
        message = db.refused("KS400", "alter_keyspace", "default", Jsonb(bad))
        assert next(iter(bad)) in message
    db.refused("KS404", "alter_keyspace", "nowhere", Jsonb({}))


# Imports

def test_import_by_digest(db):
    db.tenant()
    digest = "sha256('legacy-key-1'::bytea)"
    assert db.reason("legacy-key-1") == "malformed_key"
    row = db.row(f"""SELECT * FROM keysmith.import_key('acme', {digest}, label => 'old',
                     scopes => '{{a}}', key_prefix => 'legacy-', key_snippet => '...-1')""")
    assert (row.api_key, row.key_prefix, row.key_snippet) == (None, "legacy-", "...-1")
    assert db.verify("legacy-key-1", scopes=["a"]).ok
    assert db.reason("legacy-key-2") == "not_found"
    assert db.value(f"SELECT ok FROM keysmith.verify_digest({digest})")
    assert db.refused("KS409", "import_key", "acme", digest=bytes.fromhex(
        db.value(f"SELECT encode({digest}, 'hex')")))


def test_whose_a_digest_is_stays_unknown(db, sees_only):
    """It reveals no more about another tenant's key than about one's own."""
    db.tenant()
    db.tenant("globex")
    digests = {tenant: bytes([n]) * 32 for n, tenant in enumerate(("acme", "globex"))}
    for tenant, digest in digests.items():
        db.call("import_key", tenant, digest, label=f"of {tenant}")
    with sees_only("acme"):
        said = {db.refused("KS409", "import_key", "acme", digest) for digest in digests.values()}
    assert said == {'a key with this digest already exists in keyspace "default"'}


@pytest.mark.parametrize("digest", [b"", b"x", b"x" * 31, b"x" * 33, b"x" * 1_000_000, None])
def test_only_32_bytes_are_imported(db, digest):
    db.tenant()
    assert "digest" in db.refused("KS400", "import_key", "acme", digest)


def test_what_is_shown_of_an_imported_key_is_one_line(db):
    db.tenant()
    for field in ("key_prefix", "key_snippet"):
        for bad in ("a\nb", "x" * 65):
            assert field in db.refused("KS400", "import_key", "acme", b"x" * 32, **{field: bad})


def test_only_sha256_is_imported(db):
    db.tenant()
    assert "algorithm" in db.refused("KS400", "import_key", "acme", b"x" * 32, "md5")


# Leaks

def test_report_leak(db):
    db.tenant()
    key = db.mint()
    assert db.call("report_leak", key.api_key, "a public repository") == [(key.key_id,)]
    assert db.reason(key.api_key) == "revoked"
    (listed,) = db.call("list_keys", "acme", include_revoked=True)
    assert listed.revoked_reason == "leaked: a public repository"
    message = db.refused("KS404", "report_leak", key.api_key, "again")
    assert key.api_key not in message
    public = db.mint(kind="publishable")
    db.refused("KS409", "report_leak", public.api_key, "a page")
    assert db.verify(public.api_key).ok


def test_a_leaked_key_ends_in_every_keyspace(db):
    db.call("create_keyspace", "other")
    db.tenant()
    db.tenant(keyspace="other")
    for keyspace in ("default", "other"):
        db.row("SELECT keysmith.import_key('acme', sha256('shared'::bytea), keyspace => %s)",
               keyspace)
    assert len(db.call("report_leak", "shared", "a log")) == 2
    assert db.reason("shared") == db.reason("shared", keyspace="other") == "revoked"
