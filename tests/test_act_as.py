"""Persons whom the application has signed in: what they may do, what ends that, and what says so."""

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import session as session_on, wait_until
from majors import FORCE_PARALLEL
from test_identity import nobody, over
from test_standby import pair

TENANT = "SELECT keysmith.current_tenant()"


@pytest.fixture
def host(cluster, dbname, db):
    """A role with the level host alone, and a maker of more such roles."""
    made = []

    def make(name="backend", **binding):
        if name not in made:
            cluster.execute(f"CREATE ROLE {name} LOGIN")
            made.append(name)
        db.call("grant_access", name, "host", **binding)
        return name

    yield make
    for name in made:
        cluster.execute(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{name}'")
        cluster.execute(f"DROP OWNED BY {name}", dbname)
        cluster.execute(f"DROP ROLE {name}")


@pytest.fixture
def as_role(cluster, dbname, database):
    sessions = []

    def open_session(role):
        session = cluster.connect(dbname, user=role, row_factory=psycopg.rows.namedtuple_row)
        session.prepare_threshold = None
        sessions.append(session)
        return database(session)

    yield open_session
    for session in sessions:
        session.close()


@pytest.fixture
def acme(db):
    """A tenant with an administrator and a viewer, and another tenant."""
    db.call("define_role", "default", "owner", ["*"])
    db.call("define_role", "default", "viewer", ["images:read"])
    db.tenant(plan="pro", metadata=Jsonb({"region": "eu"}))
    db.tenant("globex")
    db.call("set_member", "acme", "ann", "owner")
    db.call("set_member", "acme", "vic", "viewer")
    return db


@pytest.fixture
def app(acme, host, as_role):
    return as_role(host())


def error_of(db, statement, *parameters):
    with pytest.raises(psycopg.Error) as error, db.session.transaction():
        db.rows(statement, *parameters)
    return error.value


def refused(db, sqlstate, function, *positional, **named):
    """Like `db.refused`, inside a transaction that goes on."""
    with pytest.raises(psycopg.Error) as error, db.session.transaction():
        db.call(function, *positional, **named)
    assert error.value.sqlstate == sqlstate, error.value
    return error.value.diag.message_primary


# What an identity of a person is

def test_all_that_there_is_to_know_of_a_member(acme, app):
    tenant_id = acme.value("SELECT tenant_id FROM keysmith.tenants WHERE tenant = 'acme'")
    with app.session.transaction():
        app.call("act_as", "acme", "vic")
        assert app.row("SELECT keysmith.current_tenant(), keysmith.current_tenant_id(), keysmith.current_keyspace(),"
                       " keysmith.current_key(), keysmith.current_environment(), keysmith.current_owner()") == (
            "acme", tenant_id, "default", None, None, "vic")
        assert app.row("SELECT keysmith.has_scope('images:read') AS r, keysmith.has_scope('images:write') AS w") == (True, False)
        assert app.value("SELECT keysmith.whoami()") == {
            "key_id": None, "kind": "person", "keyspace": "default", "owner": "vic", "role": "viewer",
            "scopes": ["images:read"], "tenant": "acme", "tenant_id": str(tenant_id), "plan": "pro",
            "metadata": {"region": "eu"}, "credits": None, "refill": None}
    assert nobody(app)


def test_the_tenant_as_a_whole_holds_every_scope(acme, app):
    acme.call("alter_tenant", "acme", Jsonb({"credits": {"balance": 7}}))
    with app.session.transaction():
        app.call("act_as", "acme")
        assert app.row("SELECT keysmith.current_owner(), keysmith.has_scope('anything:else')") == (None, True)
        whoami = app.value("SELECT keysmith.whoami()")
        assert (whoami["owner"], whoami["role"], whoami["scopes"], whoami["credits"]) == (None, None, ["*"], 7)


@pytest.mark.parametrize("sqlstate, arguments, message", [
    ("KS404", {"tenant": "nobody"}, 'tenant "nobody" does not exist in keyspace "default"'),
    ("KS404", {"tenant": "acme", "keyspace": "none"}, 'keyspace "none" does not exist'),
    ("KS404", {"tenant": "acme", "member": "eve"}, 'member "eve" is not a member of the tenant'),
    # A member of another tenant is not a member of this one.
    ("KS404", {"tenant": "globex", "member": "ann"}, 'member "ann" is not a member of the tenant'),
    ("KS404", {"tenant": "acme", "member": ""}, 'member "" is not a member of the tenant'),
    ("KS400", {"tenant": None}, "tenant must not be null"),
    ("KS400", {"tenant": "acme", "keyspace": None}, "keyspace must not be null"),
])
def test_who_does_not_exist_is_not_signed_in(app, sqlstate, arguments, message):
    with app.session.transaction():
        app.call("act_as", "acme", "ann")
        assert refused(app, sqlstate, "act_as", **arguments) == message
        # The error ended its savepoint, and the identity from before is in force.
        assert app.value("SELECT keysmith.current_owner()") == "ann"


def test_a_suspended_tenant_acts_no_more(acme, app):
    acme.call("suspend_tenant", "acme")
    assert app.refused("KS403", "act_as", "acme") == 'tenant "acme" is suspended'
    acme.call("resume_tenant", "acme")
    app.call("act_as", "acme")


def test_a_member_of_a_tenant_of_the_same_name_elsewhere_is_another(acme, app):
    acme.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "other_"}}))
    acme.tenant(keyspace="other")
    assert "eve" in app.refused("KS404", "act_as", "acme", "eve", keyspace="other")
    assert "ann" in app.refused("KS404", "act_as", "acme", "ann", keyspace="other")
    with app.session.transaction():
        app.call("act_as", "acme", keyspace="other")
        assert app.value("SELECT keysmith.current_keyspace()") == "other"
        refused(app, "KS404", "mint", "acme")
        assert app.mint(keyspace="other").api_key.startswith("other_")


# Row security

def test_isolated_tables_show_a_person_the_rows_of_all_environments(acme, app):
    acme.rows("CREATE TABLE images (tenant text, environment text, n int)")
    acme.rows("INSERT INTO images VALUES ('acme', 'live', 1), ('acme', 'test', 2), ('globex', 'live', 3)")
    acme.rows("CREATE ROLE owns_images; ALTER TABLE images OWNER TO owns_images")
    try:
        acme.call("isolate", "images", "tenant", "default", environment_column="environment")
        acme.rows("GRANT SELECT, INSERT ON images TO backend")
        numbers = "SELECT array_agg(n ORDER BY n) FROM images"
        assert app.value(numbers) is None
        with app.session.transaction():
            app.call("act_as", "acme", "vic")
            assert app.value(numbers) == [1, 2]
            app.rows("INSERT INTO images VALUES ('acme', 'test', 4)")
            assert error_of(app, "INSERT INTO images VALUES ('globex', 'test', 5)").sqlstate == "42501"
            app.call("sign_out")
            assert app.value(numbers) is None
            app.call("act_as", "globex")
            assert app.value(numbers) == [3]
        key = acme.mint(environment="test")
        acme.call("grant_access", "backend", "verifier")
        with app.session.transaction():
            assert app.verify(key.api_key, sign_in=True).ok
            assert app.value(numbers) == [2, 4]
        assert acme.value("SELECT ok FROM keysmith.isolation")
    finally:
        acme.rows("DROP TABLE images; DROP OWNED BY owns_images; DROP ROLE owns_images")


# Managing keys

def test_the_first_key_of_a_new_tenant_takes_only_the_level_host(app):
    with app.session.transaction():
        app.call("create_tenant", "initech", plan="free", credits=Jsonb({"balance": 100}),
                 limits=Jsonb([{"name": "calls", "limit": 10, "window": "1 minute"}]))
        app.call("set_member", "initech", "bill", "owner")
        app.call("act_as", "initech", "bill")
        key = app.mint("initech")
        assert [row.owner for row in app.call("list_keys", "initech")] == ["bill"]
    assert key.api_key.startswith("ks_live_")
    assert app.refused("KS403", "list_keys", "initech").startswith("no tenant is signed in")


def test_a_member_gives_no_more_than_its_role(acme, app):
    with app.session.transaction():
        app.call("act_as", "acme", "vic")
        key = app.mint()
        assert refused(app, "KS403", "mint", "acme", scopes=["images:write"]) == \
            'scopes must be scopes that the person who acts has, which "images:write" is not'
        assert refused(app, "KS403", "mint", "acme", scopes=["images:read"], owner="ann") == \
            'owner must be "vic", the person who acts'
        assert refused(app, "KS403", "mint", "acme", credits=5) == "credits can be given by administrators alone"
        app.mint(scopes=["images:read"])
        # A key of someone who may do more can't be changed, and a key that is disabled not enabled.
        whole = acme.mint(owner="ann")
        refused(app, "KS403", "alter_key", key.key_id, Jsonb({"scopes": ["images:write"]}))
        refused(app, "KS403", "alter_key", whole.key_id, Jsonb({"label": "mine"}))
        refused(app, "KS403", "alter_key", key.key_id, Jsonb({"owner": None}))
        refused(app, "KS403", "rotate", whole.key_id)
        assert app.one("alter_key", key.key_id, Jsonb({"label": "mine"})).label == "mine"
    verdict = acme.verify(key.api_key)
    assert (verdict.ok, verdict.owner, verdict.scopes) == (True, "vic", ["images:read"])
    # The key follows its owner's role.
    acme.call("set_member", "acme", "vic", "owner")
    assert acme.verify(key.api_key).scopes == ["*"]
    acme.call("remove_member", "acme", "vic")
    assert acme.reason(key.api_key) == "owner_gone"


def test_the_tenant_as_a_whole_gives_anything_of_the_tenant(acme, app):
    theirs = acme.mint("globex")
    with app.session.transaction():
        app.call("act_as", "acme")
        key = app.mint(owner="ann", environment="test")
        other = app.mint(scopes=["images:write"])
        assert app.one("alter_key", other.key_id, Jsonb({"limits": [{"name": "calls", "limit": 1, "window": "1 minute"}]})).limits
        app.call("disable", key.key_id)
        app.call("enable", key.key_id)
        app.call("revoke", other.key_id)
        for function, arguments in [("mint", ("globex",)), ("list_keys", ("globex",)), ("revoke", (theirs.key_id,)),
                                    ("usage_logs", ("globex",)), ("blast_radius", (theirs.key_id,))]:
            refused(app, "KS404", function, *arguments)
        assert app.rows("SELECT tenant FROM keysmith.tenants") == [("acme",)]
        assert app.rows("SELECT DISTINCT tenant FROM keysmith.keys") == [("acme",)]
    assert acme.verify(key.api_key).ok
    assert app.rows("SELECT * FROM keysmith.keys") == []


@pytest.mark.parametrize("managed_by, may", [("nobody", {"ann", "vic", None}), ("any_secret", {"ann", "vic", None}),
                                             ("keys:manage", {"ann", None})])
def test_managed_by_is_about_scopes_of_persons(acme, app, managed_by, may):
    acme.call("alter_keyspace", "default", Jsonb({"managed_by": managed_by}))
    for member in ("ann", "vic", None):
        with app.session.transaction():
            app.call("act_as", "acme", member)
            if member in may:
                app.mint()
                app.call("list_keys", "acme")
            else:
                refused(app, "KS403", "mint", "acme")
                refused(app, "KS403", "list_keys", "acme")
    # A key follows the option as before.
    key = acme.mint()
    with acme.session.transaction():
        acme.verify(key.api_key, sign_in=True)
        if managed_by == "nobody":
            assert refused(acme, "KS403", "mint", "acme") == "the keys of this keyspace do not manage keys"
        else:
            acme.mint()


@pytest.mark.parametrize("function, arguments", [
    ("create_tenant", ("initech",)), ("set_member", ("acme", "vic", "owner")), ("remove_member", ("acme", "ann")),
])
def test_a_person_does_not_do_what_the_host_does(app, function, arguments):
    with app.session.transaction():
        app.call("act_as", "acme", "vic")
        assert refused(app, "KS403", function, *arguments) == \
            "a transaction that acts for a person can't do what hosts do"
        app.call("sign_out")
        app.call(function, *arguments)


def test_an_administrator_who_acts_as_a_person_is_one(acme):
    with acme.session.transaction():
        acme.call("act_as", "acme", "vic")
        refused(acme, "KS403", "create_keyspace", "more")
        refused(acme, "KS403", "status")
        refused(acme, "KS404", "mint", "globex")
        refused(acme, "KS403", "mint", "acme", scopes=["images:write"])
        assert acme.rows("SELECT tenant FROM keysmith.tenants") == [("acme",)]


def test_an_issuer_works_for_a_person_too(acme, host, as_role, cluster, dbname):
    role = host()
    acme.call("grant_access", role, "issuer", tenant="globex")
    app = as_role(role)
    with app.session.transaction():
        app.call("act_as", "acme", "vic")
        assert app.mint().key_id
        refused(app, "KS404", "mint", "globex")
    assert app.mint("globex").key_id


# What a host can't do

@pytest.mark.parametrize("function, arguments", [
    ("create_keyspace", ("more",)), ("alter_keyspace", ("default", Jsonb({}))), ("suspend_tenant", ("acme",)),
    ("alter_tenant", ("acme", Jsonb({"plan": "free"}))), ("add_credits", (5,)), ("grant_access", ("backend", "admin")),
    ("define_role", ("default", "viewer", ["*"])), ("verify", ("ks_live_x",)), ("status", ()), ("doctor", ()),
    ("explain_verify", ("ks_live_x",)), ("audit_heads", ()), ("revocations_since", ("2020-01-01",)),
])
def test_it_takes_other_levels_for_everything_else(app, function, arguments):
    with app.session.transaction():
        assert refused(app, "42501", function, *arguments).startswith("permission denied")
        app.call("act_as", "acme")
        refused(app, "42501", function, *arguments)


def test_without_the_level_nobody_acts(cluster, dbname, acme, as_role, host):
    cluster.execute("CREATE ROLE plain LOGIN")
    try:
        cluster.execute("GRANT USAGE ON SCHEMA keysmith TO plain", dbname)
        plain = as_role("plain")
        assert "permission denied" in plain.refused("42501", "act_as", "acme")
        # EXECUTE alone is not enough.
        cluster.execute("GRANT EXECUTE ON FUNCTION keysmith.act_as TO plain", dbname)
        assert plain.refused("KS403", "act_as", "acme") == 'role "plain" has no access that allows this'
        acme.call("grant_access", "plain", "verifier")
        acme.call("grant_access", "plain", "issuer")
        plain.refused("KS403", "act_as", "acme")
    finally:
        cluster.execute("DROP OWNED BY plain", dbname)
        cluster.execute("DROP ROLE plain")


def test_what_began_with_a_key_does_not_go_on_as_a_person(acme, host, as_role):
    """Whoever sends a key gets no more than the key."""
    app = as_role(host())
    acme.call("grant_access", "backend", "verifier")
    key = acme.mint(scopes=["images:read"])
    with app.session.transaction():
        assert app.verify(key.api_key, sign_in=True).ok
        assert refused(app, "KS403", "act_as", "acme") == "a transaction that acts for a key can't act as a person"
        assert app.value("SELECT keysmith.current_key()") == key.key_id
        # The level host lets persons manage keys, and no keys.
        assert refused(app, "KS403", "mint", "acme") == 'role "backend" has no access that allows this'
        app.call("sign_out")
        app.call("act_as", "acme", "vic")
        assert app.value("SELECT keysmith.current_owner()") == "vic"
        # A decision replaces the person, also if it refuses.
        assert app.verify(key.api_key, sign_in=True).ok
        assert app.row("SELECT keysmith.current_key(), keysmith.current_owner()") == (key.key_id, None)
        app.call("sign_out")
        app.call("act_as", "acme", "vic")
        assert not app.verify("nonsense", sign_in=True).ok
        assert nobody(app)


# Bound hosts

def test_a_host_of_one_tenant_reaches_no_other(acme, host, as_role):
    app = as_role(host(tenant="acme"))
    theirs = app.refused("KS404", "act_as", "globex")
    assert theirs.replace("globex", "nobody") == app.refused("KS404", "act_as", "nobody")
    assert app.refused("KS403", "create_tenant", "initech") == \
        'role "backend" does not reach all tenants of keyspace "default"'
    there = app.refused("KS404", "set_member", "globex", "eve", "viewer")
    assert there.replace("globex", "nobody") == app.refused("KS404", "set_member", "nobody", "eve", "viewer")
    app.call("set_member", "acme", "eve", "viewer")
    with app.session.transaction():
        app.call("act_as", "acme", "eve")
        app.mint()
        refused(app, "KS404", "act_as", "globex")
    app.call("remove_member", "acme", "eve")


def test_a_host_of_one_keyspace_reaches_no_other(acme, host, as_role):
    acme.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "other_"}}))
    app = as_role(host(keyspace="other"))
    for function, arguments in [("act_as", ("acme",)), ("set_member", ("acme", "vic", "owner")),
                                ("remove_member", ("acme", "vic"))]:
        assert app.refused("KS403", function, *arguments) == \
            'role "backend" does not reach tenants of keyspace "default"'
    app.refused("KS403", "create_tenant", "initech")
    app.refused("KS403", "act_as", "acme", keyspace="none")
    app.call("create_tenant", "acme", keyspace="other")
    with app.session.transaction():
        app.call("act_as", "acme", keyspace="other")
        app.mint(keyspace="other")
        refused(app, "KS404", "mint", "acme")
        refused(app, "KS403", "act_as", "acme")
        assert app.value("SELECT keysmith.current_keyspace()") == "other"


@pytest.mark.parametrize("how", ["SET ROLE narrow", "SET SESSION AUTHORIZATION narrow"])
def test_the_role_that_calls_must_reach_the_person(cluster, acme, host, how):
    """A person whom one role signed in is not managed with the rights of another."""
    host("narrow", tenant="globex")
    acme.rows(f"BEGIN; SELECT keysmith.act_as('acme', 'ann'); {how}")
    assert acme.value(TENANT) == "acme"
    assert acme.rows("SELECT * FROM keysmith.keys") == []
    for function, arguments in [("mint", ("acme",)), ("list_keys", ("acme",)), ("mint", ("globex",))]:
        refused(acme, "KS403", function, *arguments)
    refused(acme, "KS404", "act_as", "acme")
    acme.call("act_as", "globex")
    assert acme.mint("globex").key_id
    acme.rows("ROLLBACK; RESET SESSION AUTHORIZATION")


def test_a_function_of_the_owner_signs_in_for_its_caller(cluster, dbname, acme, host, as_role):
    """SECURITY DEFINER acts with the rights of its owner, and the identity is the transaction's."""
    app = as_role(host(tenant="globex"))
    acme.rows("""CREATE FUNCTION enter(tenant text) RETURNS void LANGUAGE sql SECURITY DEFINER AS
                 $$ SELECT keysmith.act_as(tenant) $$""")
    with app.session.transaction():
        app.rows("SELECT enter('acme')")
        assert app.value(TENANT) == "acme"
        refused(app, "KS403", "mint", "acme")


def test_a_plan_that_is_kept_asks_again_who_calls(acme, host, as_role):
    app = as_role(host())
    app.rows("PREPARE enter AS SELECT keysmith.act_as('acme')")
    for _ in range(7):
        app.rows("EXECUTE enter")
    acme.call("revoke_access", "backend", "host")
    acme.call("grant_access", "backend", "host", tenant="globex")
    assert error_of(app, "EXECUTE enter").sqlstate == "KS404"
    acme.call("revoke_access", "backend")
    assert error_of(app, "EXECUTE enter").sqlstate == "42501"


# What ends it

@pytest.mark.parametrize("end, message", [
    (("suspend_tenant", "acme"), "the tenant that this transaction acts for was suspended"),
    (("remove_member", "acme", "ann"), "the member that this transaction acts for was removed"),
])
def test_it_ends_when_the_tenant_or_the_member_does(acme, app, end, message):
    app.rows("CREATE TEMP TABLE seen AS SELECT 1 AS n")
    app.rows("BEGIN ISOLATION LEVEL REPEATABLE READ")
    app.call("act_as", "acme", "ann")
    assert app.value(TENANT) == "acme"
    acme.call(*end)
    assert over(app, TENANT) == message
    app.rows("ROLLBACK")
    app.rows("BEGIN")
    if end[0] == "remove_member":
        app.call("act_as", "acme")
        assert app.value(TENANT) == "acme"
    else:
        app.refused("KS403", "act_as", "acme")
    app.rows("ROLLBACK")


def test_it_follows_the_role_of_the_member(acme, app):
    app.rows("BEGIN")
    app.call("act_as", "acme", "vic")
    may = "SELECT keysmith.has_scope('images:write') AS i, keysmith.has_scope('videos:read') AS v"
    assert app.row(may) == (False, False)
    acme.call("set_member", "acme", "vic", "owner")
    assert app.row(may) == (True, True)
    acme.call("define_role", "default", "owner", ["images:*"])
    assert app.row(may) == (True, False)
    app.rows("COMMIT")


def test_a_transaction_that_ends_its_own_member_is_over(acme):
    acme.rows("BEGIN")
    acme.call("act_as", "acme", "ann")
    acme.rows("DELETE FROM keysmith_private.member WHERE member = 'ann'")
    acme.rows("SAVEPOINT s")
    acme.call("act_as", "acme", "vic")
    acme.mint()
    acme.rows("DELETE FROM keysmith_private.key; DELETE FROM keysmith_private.member WHERE member = 'vic'")
    acme.rows("SELECT keysmith.sign_out()")
    acme.rows("ROLLBACK TO s")
    acme.rows("ROLLBACK")
    assert nobody(acme)


@pytest.mark.parametrize("ending", ["COMMIT", "ROLLBACK", "COMMIT AND CHAIN", "PREPARE TRANSACTION 'held'"])
def test_it_ends_with_the_transaction(app, ending):
    app.rows("BEGIN")
    app.call("act_as", "acme", "ann")
    app.rows(ending)
    assert nobody(app)
    app.rows("ROLLBACK PREPARED 'held'" if "PREPARE" in ending else "ROLLBACK")


def test_a_savepoint_restores_the_person_before(acme, app):
    owner = "SELECT keysmith.current_owner()"
    app.rows("BEGIN")
    app.call("act_as", "acme", "ann")
    app.rows("SAVEPOINT a")
    app.call("act_as", "acme", "vic")
    app.rows("SAVEPOINT b")
    app.call("sign_out")
    assert nobody(app)
    app.rows("ROLLBACK TO b")
    assert app.value(owner) == "vic"
    app.call("act_as", "globex")
    app.rows("RELEASE b")
    assert app.value(TENANT) == "globex"
    app.rows("ROLLBACK TO a")
    assert app.value(owner) == "ann"
    app.rows("COMMIT")


@pytest.fixture
def analyzed(acme, host):
    """Analyzes a table in the test's transaction. That runs a statement of the table's owner, a host."""
    role = host()

    def run(statement):
        acme.rows(f"""
            DROP SCHEMA IF EXISTS theirs CASCADE;
            CREATE SCHEMA theirs; GRANT ALL ON SCHEMA theirs TO {role}; SET LOCAL ROLE {role};
            CREATE FUNCTION theirs.same(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN n; END';
            CREATE TABLE theirs.t AS SELECT 1 AS n;
            CREATE INDEX ON theirs.t (theirs.same(n));
            CREATE OR REPLACE FUNCTION theirs.same(n int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
                $f$ BEGIN PERFORM {statement}; RETURN n; END $f$;
            RESET ROLE""")
        return error_of(acme, "ANALYZE theirs.t")

    return run


def test_code_of_another_role_signs_nobody_in(acme, analyzed):
    with acme.session.transaction():
        acme.call("act_as", "acme")
        assert analyzed("keysmith.act_as('globex')").sqlstate == "KS403"
        assert acme.value(TENANT) == "acme"


@pytest.mark.parametrize("who", ["person", "key"])
def test_code_of_another_role_acts_for_nobody(acme, analyzed, who):
    """Otherwise the owner of a table would get keys of whoever analyzes it."""
    acme.call("grant_access", "backend", "issuer")
    key = acme.mint()
    for statement in ("keysmith.mint('acme')", f"keysmith.revoke('{key.key_id}')"):
        with acme.session.transaction():
            if who == "key":
                assert acme.verify(key.api_key, sign_in=True).ok
            else:
                acme.call("act_as", "acme", "ann")
            error = analyzed(statement)
        assert (error.sqlstate, error.diag.message_primary) == (
            "KS403", "a security-restricted operation can't act for the key or person that is signed in")
    assert acme.reason(key.api_key) == "ok"


def test_a_parallel_worker_signs_nobody_in(acme):
    acme.rows("CREATE FUNCTION enter(n int) RETURNS int LANGUAGE plpgsql PARALLEL SAFE AS "
              "$$ BEGIN PERFORM keysmith.act_as('acme'); RETURN n; END $$")
    acme.rows("CREATE TABLE many AS SELECT generate_series(1, 10000) AS n; ANALYZE many")
    acme.rows(f"SET {FORCE_PARALLEL} = on; SET parallel_leader_participation = off")
    error = error_of(acme, "SELECT count(enter(n)) FROM many")
    assert (error.sqlstate, error.diag.message_primary) == ("KS409", "a parallel worker can't sign in or out")


# What is recorded

def test_the_audit_says_who_acted(acme, app):
    with app.session.transaction():
        app.call("act_as", "acme", "vic")
        app.mint(label="by vic")
    with app.session.transaction():
        app.call("act_as", "acme")
        app.mint(label="by acme")
    acme.mint(label="by an administrator")
    found = acme.rows("""SELECT after ->> 'label' AS label, acting_member, acting_key, role, session_role
                         FROM keysmith.audit WHERE action = 'mint' ORDER BY entry""")
    assert found == [("by vic", "vic", None, "backend", "backend"), ("by acme", "", None, "backend", "backend"),
                     ("by an administrator", None, None, "postgres", "postgres")]
    assert [row.ok for row in acme.call("audit_verify")] == [True, True]
    # Who acted is sealed.
    acme.rows("UPDATE keysmith_private.audit_content SET acting_member = 'ann' WHERE acting_member = 'vic'")
    assert [row.ok for row in acme.call("audit_verify")] == [True, False]


def test_sign_up_is_in_the_audit(acme, app):
    app.call("create_tenant", "initech", credits=Jsonb({"balance": 5}))
    assert acme.row("SELECT role, after -> 'credits' FROM keysmith.audit WHERE action = 'create_tenant'"
                    " AND tenant = 'initech'") == ("backend", 5)


def usage(db, count):
    wait_until(lambda: db.value("SELECT count(*) FROM keysmith_private.usage_event") == count)
    return db.rows("SELECT member, signed_in_by, endpoint, method, status, outcome, key_id, environment, tenant "
                   "FROM keysmith.usage ORDER BY at")


def test_each_sign_in_is_a_record_of_usage(acme, app):
    app.call("act_as", "acme", "ann")
    with app.session.transaction():
        app.call("act_as", "acme")
        assert app.value("SELECT keysmith.log_request(503, '5 ms', '/dashboard', 'GET')")
        assert app.value("SELECT pg_current_xact_id_if_assigned() IS NULL"), "it writes no row"
    # It happened, whatever becomes of the transaction.
    app.rows("BEGIN")
    app.call("act_as", "globex")
    app.rows("ROLLBACK")
    key = acme.mint()
    acme.verify(key.api_key)
    rows = usage(acme, 4)
    assert rows == [
        ("ann", "backend", "act_as", None, 200, "ok", None, None, "acme"),
        ("", "backend", "/dashboard", "GET", 503, "ok", None, None, "acme"),
        ("", "backend", "act_as", None, 200, "ok", None, None, "globex"),
        (None, None, None, None, 200, "ok", key.key_id, "live", "acme")]
    page = acme.value("SELECT keysmith.usage_logs('acme')")
    assert page["meta"]["total"] == 3
    assert [(row["member"], row["key_id"]) for row in page["data"]] == \
        [(None, str(key.key_id)), ("", None), ("ann", None)]
    # Totals are of keys.
    for view in ("usage_hourly", "usage_daily", "top_keys"):
        assert acme.value(f"SELECT sum(requests) FROM keysmith.{view}") == 1, view
    acme.call("usage_fold")
    for view in ("usage_hourly", "usage_daily", "top_keys"):
        assert acme.value(f"SELECT sum(requests) FROM keysmith.{view}") == 1, view
    assert acme.value("SELECT last_used_at IS NULL FROM keysmith.tenants WHERE tenant = 'globex'")


def test_a_sign_in_is_recorded_whatever_usage_log_says(acme, app):
    acme.call("alter_keyspace", "default", Jsonb({"usage_log": "nothing"}))
    app.call("act_as", "acme", "ann")
    assert [row.member for row in usage(acme, 1)] == ["ann"]


def test_a_long_name_is_cut_in_usage_and_whole_in_the_audit(acme, app):
    name = "é" * 200
    acme.call("set_member", "acme", name, "owner")
    with app.session.transaction():
        app.call("act_as", "acme", name)
        app.mint()
    assert acme.value("SELECT acting_member FROM keysmith.audit WHERE action = 'mint'") == name
    (row,) = usage(acme, 1)
    assert row.member == "é" * 29 + "…"


def test_tracked_tables_say_who_changed_them(acme, app):
    acme.rows("CREATE TABLE images (n int); GRANT INSERT, UPDATE, SELECT ON images TO backend")
    acme.call("track", "images")
    for member, n in (("ann", 2), ("vic", 1), (None, 3), ("ann", 4)):
        with app.session.transaction():
            app.call("act_as", "acme", member)
            app.rows("INSERT INTO images SELECT generate_series(1, %s)", n)
    key = acme.mint()
    with acme.session.transaction():
        acme.verify(key.api_key, sign_in=True)
        acme.rows("INSERT INTO images VALUES (1)")
    rows = "SELECT member, key_id, sum(rows)::int, count(*) FROM keysmith.touches GROUP BY 1, 2 ORDER BY 1"
    assert acme.rows(rows) == [("", None, 3, 1), ("ann", None, 6, 2), ("vic", None, 1, 1), (None, key.key_id, 1, 1)]
    # Old records of each person are summed up.
    assert acme.value("SELECT keysmith_private.sum_up_touches('infinity')") == 1
    assert acme.rows(rows) == [("", None, 3, 1), ("ann", None, 6, 1), ("vic", None, 1, 1), (None, key.key_id, 1, 1)]
    with app.session.transaction():
        app.call("act_as", "globex")
        assert app.rows("SELECT * FROM keysmith.touches") == []


def test_nothing_is_written_before_an_act(acme, app):
    app.rows("BEGIN READ ONLY")
    app.call("act_as", "acme", "ann")
    assert app.value(TENANT) == "acme"
    app.rows("COMMIT")
    assert [row.member for row in usage(acme, 1)] == ["ann"]


# Standbys

def test_a_standby_signs_in_and_its_record_reaches_the_primary():
    with pair() as (primary, standby, db):
        db.call("define_role", "default", "viewer", ["images:read"])
        db.call("set_member", "acme", "vic", "viewer")
        db.rows("CREATE ROLE backend LOGIN")
        db.call("grant_access", "backend", "host")
        assert db.one("wait_for_replay")[0] == 1
        there = session_on(standby, user="backend")
        with there.session.transaction():
            there.call("act_as", "acme", "vic")
            assert there.row("SELECT keysmith.current_owner(), keysmith.has_scope('images:read')") == ("vic", True)
            refused(there, "25006", "mint", "acme")
            db.call("remove_member", "acme", "vic")
            assert db.one("wait_for_replay")[0] == 1
            with pytest.raises(psycopg.Error) as error, there.session.transaction():
                there.value(TENANT)
            assert error.value.sqlstate == "KS401"
        there.refused("KS404", "act_as", "acme", "vic")
        there.session.close()
        assert [(row.member, row.signed_in_by) for row in usage(db, 1)] == [("vic", "backend")]
