"""Management at every isolation level, with changes that were committed after its snapshot.
An act uses committed rows, or ends with 40001, as PostgreSQL's own updates do at REPEATABLE READ.
Running it again then gives the right result.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import psycopg
import pytest
from psycopg.types.json import Jsonb

from cluster import running
from conftest import session

MANAGEMENT = Path(__file__).parents[1] / "sql/install/manage"
FILES = ["keyspace", "catalogue", "tenant", "key", "listing", "credits", "access"]
LEVELS = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"]
DIGEST = hashlib.sha256(b"elsewhere").digest()
LIMITS = [{"name": "d", "limit": 5, "window": "1 day"}]


@dataclass
class Case:
    """The initial state, another session's commit, the act, and the condition that must hold
    afterwards."""
    function: str
    act: Callable
    check: Callable
    before: Callable = lambda db: None
    meanwhile: Callable = lambda db, there: None
    # How the act is refused, if a committed row conflicts with it.
    refused: str | None = None

    def __str__(self):
        return self.function


CASES = []


def case(function, act, check, **more):
    CASES.append(Case(function, act, check, **more))


def patch(function, name, changes):
    return lambda db, there: db.call(function, name, Jsonb(changes))


def listed(db, key, column="status"):
    return db.value(f"SELECT {column} FROM keysmith.keys WHERE key_id = %s", key.key_id)


def live(db, *keys):
    return [key for key in keys if db.verify(key.api_key).ok]


# Keyspaces, and what they define

case("create_keyspace", lambda db, there: db.call("create_keyspace", "new"),
     lambda db, there, did: None, refused="KS409",
     meanwhile=lambda db, there: db.call("create_keyspace", "new"))
case("alter_keyspace", patch("alter_keyspace", "default", {"label_length": 7}),
     lambda db, there, did: db.row("SELECT label_length, wildcards FROM keysmith_private.keyspace")
     == (7, False),
     meanwhile=patch("alter_keyspace", "default", {"wildcards": False}))
case("alter_keyspace", patch("alter_keyspace", "default", {"codes": {"invalid_api_key": "gone"}, "plan_features": {
         "limits": ["pro"]}, "prefixes": {"secret": {"live": "mine_"}}}),
     lambda db, there, did: db.rows(
         "SELECT code FROM keysmith_private.answer UNION ALL SELECT feature FROM keysmith_private.plan_feature"
         " UNION ALL SELECT prefix FROM keysmith_private.keyspace_prefix")
     == [("gone",), ("limits",), ("mine_",)],
     meanwhile=patch("alter_keyspace", "default", {"codes": {"invalid_api_key": "over"}, "plan_features": {
         "grace": ["pro"]}, "prefixes": {"secret": {"live": "theirs_"}}}))
case("alter_keyspace", patch("alter_keyspace", "new", {"label_length": 7}),
     lambda db, there, did: db.value("SELECT label_length FROM keysmith_private.keyspace WHERE keyspace = 'new'")
     == 7,
     meanwhile=lambda db, there: db.call("create_keyspace", "new"))
case("event_channel", lambda db, there: db.one("event_channel", "new")[0],
     lambda db, there, did: did == db.one("event_channel", "new")[0],
     meanwhile=lambda db, there: db.call("create_keyspace", "new"))
case("define_scope", lambda db, there: db.call("define_scope", "default", "a", implies=["b"]),
     lambda db, there, did: db.rows("SELECT scope, implies FROM keysmith_private.scope") == [("a", ["b"])],
     before=lambda db: db.call("define_scope", "default", "a"),
     meanwhile=lambda db, there: db.call("define_scope", "default", "a", implies=["c"]))
case("define_role", lambda db, there: db.call("define_role", "default", "r", ["a"]),
     lambda db, there, did: db.rows("SELECT role, scopes FROM keysmith_private.role") == [("r", ["a"])],
     before=lambda db: db.call("define_role", "default", "r", ["*"]),
     meanwhile=lambda db, there: db.call("define_role", "default", "r", ["b"]))
case("define_role", lambda db, there: db.call("define_role", "default", "r", ["a"]),
     lambda db, there, did: db.rows("SELECT role, scopes FROM keysmith_private.role") == [("r", ["a"])],
     meanwhile=lambda db, there: db.call("define_role", "default", "r", ["b"]))
case("remove_scope", lambda db, there: db.call("remove_scope", "default", "a"),
     lambda db, there, did: None, refused="KS409",
     before=lambda db: db.call("define_scope", "default", "a"),
     meanwhile=lambda db, there: db.mint(scopes=["a"]))
case("remove_scope", lambda db, there: db.call("remove_scope", "default", "a", True),
     lambda db, there, did: db.rows("SELECT scopes FROM keysmith.roles") == [([],)],
     before=lambda db: db.call("define_scope", "default", "a"),
     meanwhile=lambda db, there: db.call("define_role", "default", "r", ["a"]))
case("remove_role", lambda db, there: db.call("remove_role", "default", "r"),
     lambda db, there, did: None, refused="KS409",
     before=lambda db: db.call("define_role", "default", "r", ["a"]),
     meanwhile=lambda db, there: db.mint(role="r"))
case("remove_role", lambda db, there: db.call("remove_role", "default", "r", True),
     lambda db, there, did: db.rows("SELECT status, role FROM keysmith.keys") == [("revoked", None)],
     before=lambda db: db.call("define_role", "default", "r", ["a"]),
     meanwhile=lambda db, there: db.mint(role="r"))
case("define_route", lambda db, there: db.rows("SELECT keysmith.define_route('default', 'GET', '/{a}', 'x')"),
     lambda db, there, did: None, refused="KS409",
     meanwhile=lambda db, there: db.rows("SELECT keysmith.define_route('default', 'GET', '/{b}', 'y')"))
case("remove_route", lambda db, there: db.call("remove_route", "default", "GET", "/a"),
     lambda db, there, did: db.rows("SELECT * FROM keysmith.routes") == [],
     before=lambda db: db.rows("SELECT keysmith.define_route('default', 'GET', '/a', 'x')"),
     meanwhile=lambda db, there: db.rows("SELECT keysmith.define_route('default', 'GET', '/a', 'y')"))
case("remove_route", lambda db, there: db.call("remove_route", "default", "GET", "/a"),
     lambda db, there, did: db.rows("SELECT * FROM keysmith.routes") == [],
     meanwhile=lambda db, there: db.rows("SELECT keysmith.define_route('default', 'GET', '/a', 'y')"))

# Tenants and members

case("create_tenant", lambda db, there: db.call("create_tenant", "new"),
     lambda db, there, did: None, refused="KS409",
     meanwhile=lambda db, there: db.call("create_tenant", "new"))
case("create_tenant", lambda db, there: db.call("create_tenant", "x", "new", credits=Jsonb(5)),
     lambda db, there, did: db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'x'") == 5,
     meanwhile=lambda db, there: db.call("create_keyspace", "new"))
case("alter_tenant", patch("alter_tenant", "acme", {"plan": "pro", "credits": 9}),
     lambda db, there, did: db.row(
         "SELECT t.plan, t.metadata, c.balance FROM keysmith_private.tenant t"
         " JOIN keysmith_private.credit c USING (tenant_id)") == ("pro", {"x": 1}, 9),
     meanwhile=patch("alter_tenant", "acme", {"metadata": {"x": 1}, "credits": 3}))
case("rename_tenant", lambda db, there: db.call("rename_tenant", "acme", "new"),
     lambda db, there, did: db.row("SELECT name, plan FROM keysmith_private.tenant") == ("new", "pro"),
     meanwhile=patch("alter_tenant", "acme", {"plan": "pro"}))
case("suspend_tenant", lambda db, there: db.call("suspend_tenant", "acme"),
     lambda db, there, did: not live(db, there),
     before=lambda db: db.mint(),
     meanwhile=patch("alter_tenant", "acme", {"plan": "pro"}))
case("suspend_tenant", lambda db, there: db.call("suspend_tenant", "new"),
     lambda db, there, did: db.value("SELECT suspended_at IS NOT NULL FROM keysmith_private.tenant"
                                     " WHERE name = 'new'"),
     meanwhile=lambda db, there: db.call("create_tenant", "new"))
case("resume_tenant", lambda db, there: db.call("resume_tenant", "acme"),
     lambda db, there, did: live(db, there),
     before=lambda db: db.mint(),
     meanwhile=lambda db, there: db.call("suspend_tenant", "acme"))


def roles(db):
    for role in ("r", "s"):
        db.call("define_role", "default", role, [role])


def member(db):
    roles(db)
    db.call("set_member", "acme", "ann", "r")


case("set_member", lambda db, there: db.call("set_member", "acme", "ann", "s"),
     lambda db, there, did: db.rows("SELECT member, role FROM keysmith_private.member") == [("ann", "s")],
     before=member, meanwhile=lambda db, there: db.call("remove_member", "acme", "ann"))
case("set_member", lambda db, there: db.call("set_member", "acme", "ann", "s"),
     lambda db, there, did: db.rows("SELECT member, role FROM keysmith_private.member") == [("ann", "s")],
     before=roles, meanwhile=lambda db, there: db.call("set_member", "acme", "ann", "r"))
case("set_member", lambda db, there: db.call("set_member", "new", "ann", "t"),
     lambda db, there, did: db.rows("SELECT member, role FROM keysmith_private.member") == [("ann", "t")],
     meanwhile=lambda db, there: (db.call("create_tenant", "new"), db.call("define_role", "default", "t", [])))
case("remove_member", lambda db, there: db.call("remove_member", "acme", "ann"),
     lambda db, there, did: db.rows("SELECT FROM keysmith_private.member") == [],
     before=roles, meanwhile=lambda db, there: db.call("set_member", "acme", "ann", "r"))
case("remove_member", lambda db, there: db.call("remove_member", "acme", "ann"),
     lambda db, there, did: None, refused="KS404",
     before=member, meanwhile=lambda db, there: db.call("remove_member", "acme", "ann"))

# New keys


def one_key(**more):
    return lambda db: db.call("alter_keyspace", "default", Jsonb({"max_active_keys": 1} | more))


case("mint", lambda db, there: db.mint("new"), lambda db, there, did: live(db, did),
     meanwhile=lambda db, there: db.call("create_tenant", "new"))
case("mint", lambda db, there: db.mint("x", keyspace="new"),
     lambda db, there, did: db.verify(did.api_key, keyspace="new").ok,
     meanwhile=lambda db, there: (db.call("create_keyspace", "new"), db.call("create_tenant", "x", "new")))
case("mint", lambda db, there: db.mint(role="t"), lambda db, there, did: listed(db, did, "role") == "t",
     meanwhile=lambda db, there: db.call("define_role", "default", "t", ["*"]))
case("mint", lambda db, there: db.mint(owner="ann"), lambda db, there, did: None, refused="KS404",
     before=member, meanwhile=lambda db, there: db.call("remove_member", "acme", "ann"))
case("mint", lambda db, there: db.mint(owner="ann"), lambda db, there, did: live(db, did),
     before=roles, meanwhile=lambda db, there: db.call("set_member", "acme", "ann", "r"))
case("mint", lambda db, there: db.mint(), lambda db, there, did: None, refused="KS409",
     before=one_key(), meanwhile=lambda db, there: db.mint())
case("mint", lambda db, there: db.mint(), lambda db, there, did: None, refused="KS409",
     before=lambda db: db.mint(), meanwhile=lambda db, there: one_key()(db))
case("mint", lambda db, there: db.mint(),
     lambda db, there, did: live(db, did) and len(db.call("list_keys", "acme")) == 1,
     before=one_key(at_max="replace"), meanwhile=lambda db, there: db.mint())
case("mint", lambda db, there: db.mint(allowlist=["10.0.0.0/8"]), lambda db, there, did: None, refused="KS403",
     meanwhile=patch("alter_keyspace", "default", {"plan_features": {"allowlist": ["pro"]}}))
case("import_key", lambda db, there: db.one("import_key", "acme", DIGEST),
     lambda db, there, did: None, refused="KS409",
     meanwhile=lambda db, there: db.one("import_key", "acme", DIGEST))
case("import_key", lambda db, there: db.one("import_key", "new", DIGEST, algorithm="sha256-behind-bar"),
     lambda db, there, did: db.verify("x|elsewhere").ok,
     meanwhile=lambda db, there: (db.call("create_tenant", "new"),
                                  patch("alter_keyspace", "default", {"label_length": 7})(db, there)))

# Existing keys


def key(**options):
    return lambda db: db.mint(**options)


def narrowed(db, there):
    db.call("alter_key", there.key_id, Jsonb({"scopes": ["a"], "expires_at": "2040-01-01T00:00:00Z"}))


def on_key(function, *arguments):
    return lambda db, there: db.call(function, there.key_id, *arguments)


case("alter_key", on_key("alter_key", Jsonb({"label": "x", "credits": 7})),
     lambda db, there, did: (listed(db, there, "label"), listed(db, there, "scopes"), listed(db, there, "credits"))
     == ("x", ["a"], 7),
     before=key(), meanwhile=narrowed)
case("alter_key", on_key("alter_key", Jsonb({"credits": 7})),
     lambda db, there, did: listed(db, there, "credits") == 7,
     before=key(credits=1), meanwhile=on_key("alter_key", Jsonb({"credits": 3})))
case("alter_key", on_key("alter_key", Jsonb({"label": "x"})), lambda db, there, did: None, refused="KS404",
     before=key(), meanwhile=on_key("revoke"))
case("alter_key", on_key("alter_key", Jsonb({"expires_at": None})), lambda db, there, did: None, refused="KS400",
     before=key(), meanwhile=on_key("rotate", "1 hour"))
case("add_scopes", on_key("add_scopes", ["b"]),
     lambda db, there, did: listed(db, there, "scopes") == ["a", "b"],
     before=key(), meanwhile=narrowed)
case("remove_scopes", on_key("remove_scopes", ["b"]),
     lambda db, there, did: listed(db, there, "scopes") == ["a"],
     before=key(scopes=["a", "b"]), meanwhile=narrowed)
case("remove_scopes", on_key("remove_scopes", ["b"]), lambda db, there, did: None, refused="KS404",
     before=key(scopes=["a", "b"]), meanwhile=on_key("revoke"))
case("rotate", lambda db, there: db.one("rotate", there.key_id),
     lambda db, there, did: live(db, there, did) == [did] and listed(db, did, "scopes") == ["a"]
     and listed(db, did, "expires_at").year == 2040,
     before=key(), meanwhile=narrowed)
case("rotate", lambda db, there: db.one("rotate", there.key_id, "1 day"), lambda db, there, did: None,
     refused="KS409", before=key(), meanwhile=on_key("rotate", "1 hour"))
case("rotate", lambda db, there: db.one("rotate", there.key_id), lambda db, there, did: None,
     refused="KS409", before=key(), meanwhile=on_key("disable"))
case("rotate", lambda db, there: db.one("rotate", there[-1].key_id),
     lambda db, there, did: live(db, *there, did) == [did],
     before=lambda db: [], meanwhile=lambda db, there: there.append(db.mint()))


case("purge_keys", lambda db, there: db.one("purge_keys", "1 day")[0],
     lambda db, there, did: did == 1,
     before=key(), meanwhile=lambda db, there: db.rows("UPDATE keysmith_private.key SET revoked_at = '2020-01-01', revoked_reason = 'x'"))


def regenerated(db, there):
    there.append(db.one("regenerate", "acme"))


case("regenerate", lambda db, there: db.one("regenerate", "acme"),
     lambda db, there, did: live(db, *there, did) == [did] and len(db.call("list_keys", "acme")) == 1,
     before=lambda db: [], meanwhile=regenerated)
case("regenerate", lambda db, there: db.one("regenerate", "acme"),
     lambda db, there, did: live(db, *there, did) == [did] and len(db.call("list_keys", "acme")) == 1,
     before=lambda db: [db.one("regenerate", "acme")], meanwhile=regenerated)
case("regenerate", lambda db, there: db.one("regenerate", "acme"),
     lambda db, there, did: live(db, *there, did) == [did],
     before=lambda db: [], meanwhile=lambda db, there: there.append(db.mint()))
for function, is_live in [("disable", False), ("revoke", False), ("enable", True)]:
    def check(db, there, did, is_live=is_live):
        return bool(live(db, there)) == is_live and listed(db, there, "scopes") == ["a"]
    case(function, on_key(function), check, before=key(), meanwhile=narrowed)
    case(function, on_key(function), lambda db, there, did: None, refused="KS404", before=key(),
         meanwhile=on_key("revoke"))
case("enable", on_key("enable"), lambda db, there, did: live(db, there),
     before=key(), meanwhile=on_key("disable"))
case("revoke", lambda db, there: db.call("revoke", there[-1].key_id),
     lambda db, there, did: not live(db, *there),
     before=lambda db: [], meanwhile=lambda db, there: there.append(db.mint()))
case("report_leak", lambda db, there: db.call("report_leak", there.api_key, "the web"),
     lambda db, there, did: not live(db, there), before=key(), meanwhile=narrowed)
case("report_leak", lambda db, there: db.call("report_leak", there[-1].api_key, "the web"),
     lambda db, there, did: not live(db, *there),
     before=lambda db: [], meanwhile=lambda db, there: there.append(db.mint()))
case("add_credits", lambda db, there: db.one("add_credits", 5, key_id=there.key_id)[0],
     lambda db, there, did: (did, listed(db, there, "credits")) == (15, 15),
     before=key(credits=1), meanwhile=on_key("alter_key", Jsonb({"credits": 10})))
case("add_credits", lambda db, there: db.one("add_credits", 5, tenant="acme")[0],
     lambda db, there, did: (did, db.value("SELECT credits FROM keysmith.tenants WHERE tenant = 'acme'"))
     == (15, 15),
     meanwhile=patch("alter_tenant", "acme", {"credits": 10}))
case("replay_revocations", lambda db, there: db.call("replay_revocations", Jsonb([
         {"action": "alter", "keyspace": "default", "tenant": "acme", "key_id": str(there.key_id),
          "changes": {"role": "t"}}])),
     lambda db, there, did: (listed(db, there, "role"), listed(db, there, "scopes")) == ("t", ["a"]),
     before=key(),
     meanwhile=lambda db, there: (narrowed(db, there), db.call("define_role", "default", "t", [])))

# Access

ROLE = "isolation_level_role"


def access(db, there, did=None):
    return (sorted(row.level for row in db.rows(
                "SELECT level FROM keysmith_private.access WHERE role = %s::regrole", ROLE)),
            db.value("SELECT has_function_privilege(%s, 'keysmith.suspend_tenant(text, text, text)', 'EXECUTE')",
                     ROLE))


def grant(*arguments):
    return lambda db, there=None: db.call("grant_access", ROLE, *arguments)


case("grant_access", grant("issuer"),
     lambda db, there, did: access(db, there) == (["admin", "issuer"], True), meanwhile=grant("admin"))
case("grant_access", grant("admin"),
     lambda db, there, did: access(db, there) == (["admin"], True), before=grant("issuer"),
     meanwhile=lambda db, there: db.call("revoke_access", ROLE))
case("grant_access", grant("issuer", "new"),
     lambda db, there, did: access(db, there) == (["issuer"], False),
     meanwhile=lambda db, there: db.call("create_tenant", "new"))
case("revoke_access", lambda db, there: db.call("revoke_access", ROLE),
     lambda db, there, did: access(db, there) == ([], False), before=grant("issuer"), meanwhile=grant("admin"))
case("revoke_access", lambda db, there: db.call("revoke_access", ROLE, "issuer"),
     lambda db, there, did: access(db, there) == (["admin"], True), before=grant("issuer"),
     meanwhile=grant("admin"))

# Functions that only read also show committed rows

case("list_keys", lambda db, there: db.call("list_keys", "new"), lambda db, there, did: len(did) == 1,
     meanwhile=lambda db, there: (db.call("create_tenant", "new"), db.mint("new")))
case("usage_logs", lambda db, there: db.one("usage_logs", "new")[0],
     lambda db, there, did: did["meta"]["total"] == 0,
     meanwhile=lambda db, there: db.call("create_tenant", "new"))
case("blast_radius", lambda db, there: db.call("blast_radius", there[-1].key_id),
     lambda db, there, did: did == [], before=lambda db: [],
     meanwhile=lambda db, there: there.append(db.mint()))

@pytest.fixture
def app(connect, database):
    return database(connect())


@pytest.fixture
def role(cluster, dbname):
    cluster.execute(f"CREATE ROLE {ROLE}")
    yield
    cluster.execute(f"DROP OWNED BY {ROLE}", dbname)
    cluster.execute(f"DROP ROLE {ROLE}")


def attempt(app, act, there, level):
    """The act's answer or its SQLSTATE, in a transaction whose snapshot is older than
    `meanwhile`."""
    app.rows(f"BEGIN ISOLATION LEVEL {level}")
    try:
        did = act(app, there)
        app.rows("COMMIT")
        return did, None
    except psycopg.Error as error:
        app.rows("ROLLBACK")
        return None, error.sqlstate


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_it_acts_on_what_is_committed(db, app, role, case, level):
    db.tenant()
    there = case.before(db)

    def act_late(app, there):
        # After the transaction's snapshot is taken, others go on.
        app.rows("SELECT count(*) FROM keysmith.keys")
        case.meanwhile(db, there)
        return case.act(app, there)

    did, sqlstate = attempt(app, act_late, there, level)
    if sqlstate == "40001":
        assert level != "READ COMMITTED"
        did, sqlstate = attempt(app, case.act, there, level)
    assert sqlstate == case.refused
    if case.refused is None:
        assert case.check(db, there, did)


def test_what_is_told_of_a_request_reaches_a_row_that_was_stored_since():
    """With transactions that store usage themselves."""
    with running("isolation", preload=False) as cluster:
        db, app = session(cluster), session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint()
        for level in LEVELS:
            app.rows(f"BEGIN ISOLATION LEVEL {level}")
            app.rows("SELECT count(*) FROM keysmith.keys")
            request_id = db.verify(key.api_key).request_id
            assert app.verify(key.api_key).ok
            assert app.one("log_request", 418, request_id=request_id)[0]
            app.rows("COMMIT")
            told = db.rows("SELECT request_id, status FROM keysmith.usage ORDER BY at DESC LIMIT 2")
            assert [row.status for row in told] == [200, 418] and told[1].request_id == request_id


def test_every_function_of_management_is_tried():
    for name in FILES:
        declared = re.findall(r"CREATE FUNCTION keysmith\.(\w+)\(", (MANAGEMENT / f"{name}.sql").read_text())
        assert declared and set(declared) <= {case.function for case in CASES}
