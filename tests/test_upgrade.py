"""A filled database that is upgraded equals a fresh installation, object by object and row by
row: from each released version, and tests of the comparison itself."""

from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest

import cluster as clusters
import filled
import made_up
import objects
from cluster import Cluster
from conftest import session, wait_until
from made_up import CURRENT, SCRIPTS
from mirror import Mirror


def versions(folder):
    """The versions that can be installed: those with full scripts in a folder."""
    names = [path.name.split("--")[1:] for path in folder.glob("keysmith--*.sql")]
    return sorted(name[0].removesuffix(".sql") for name in names if len(name) == 1)


def steps(folder):
    """The upgrades that a folder has scripts for: (from, to)."""
    names = [path.name.removesuffix(".sql").split("--")[1:] for path in folder.glob("keysmith--*.sql")]
    return {tuple(name) for name in names if len(name) == 2}


# The rows

def columns(db):
    """The rows of each of our tables, and of each partition that was made at run time."""
    return {table: names for table, names in db.rows("""
        SELECT c.oid::regclass::text, array_agg(quote_ident(attname) ORDER BY attname)
        FROM pg_class c JOIN pg_attribute a ON attrelid = c.oid AND attnum > 0 AND NOT attisdropped
        WHERE relnamespace = 'keysmith_private'::regnamespace AND relkind IN ('r', 'S') GROUP BY 1""")}


def contents(db, of):
    """All rows, with the given columns."""
    return {table: sorted(text for text, in db.rows(f"SELECT ROW({', '.join(names)})::text FROM {table}"))
            for table, names in of.items()}


# The upgrade

def upgraded(cluster, start, end, check=lambda db: None):
    """Upgrades a filled database, checks its rows, and returns how it differs from a fresh one."""
    names = ("upgraded", "fresh")
    try:
        for name, version in zip(names, (start, end)):
            cluster.execute(f"CREATE DATABASE {name}")
            cluster.execute(f"CREATE EXTENSION keysmith VERSION '{version}'", name)
        db = session(cluster, "upgraded")
        kept = filled.fill(db)
        read = columns(db)
        before = contents(db, read)
        assert not {"keysmith_private.key", "keysmith_private.audit_entry", "keysmith_private.audit_content"} & {name for name in before if not before[name]}
        db.rows(f"ALTER EXTENSION keysmith UPDATE TO '{end}'")
        assert contents(db, read) == before, "rows were lost or changed"
        db.session.close()
        # A new session: the old one has loaded the old version.
        db = session(cluster, "upgraded")
        filled.check(db, kept)
        filled.drop_roles(db)
        check(db)
        with cluster.connect("fresh") as fresh:
            found = objects.differences(objects.describe(db.session), objects.describe(fresh))
        db.session.close()
        return found
    finally:
        for name in names:
            cluster.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
        for role in filled.ROLES.split(", "):
            cluster.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.mark.parametrize("version", [name for name in versions(SCRIPTS) if name != CURRENT])
def test_an_upgraded_database_equals_a_fresh_one(version):
    with clusters.running("upgrade") as cluster:
        assert upgraded(cluster, version, CURRENT) == []


def test_every_released_version_has_an_upgrade():
    reachable, edges = {CURRENT}, steps(SCRIPTS)
    while more := {start for start, end in edges if end in reachable} - reachable:
        reachable |= more
    assert set(versions(SCRIPTS)) == reachable


# A made-up version, so that the above is tested before there is a second one

BAD = {
    # Forgets a grant.
    "99.1": made_up.script(but="GRANT SELECT ON keysmith_made_up.things TO PUBLIC"),
    # Loses rows on the way.
    "99.2": made_up.script() + "DELETE FROM keysmith_private.scope;\n",
}
FORGETFUL = {f"99.{100 + number}": made_up.script(but=statement) for number, (statement, _) in enumerate(made_up.FORGETTABLE)}


@pytest.fixture(scope="module")
def server():
    """A server that has the made-up versions."""
    cluster = Cluster("made-up")
    try:
        cluster.init()
        mirror = Mirror(cluster.dir / "server")
        made_up.install(mirror.extensions)
        made_up.install(mirror.extensions, BAD | FORGETFUL)
        cluster.start(program=mirror.server)
        yield cluster, mirror
    finally:
        cluster.remove()


def test_a_good_upgrade_leaves_no_difference(server):
    def took_data_along(db):
        assert db.rows("SELECT name, n, twice FROM keysmith_made_up.thing ORDER BY n") == [
            (name, n, 2 * n) for name, n in zip(["acme", "closed", "umbrella", "walled"], (7, 10, 13, 16))]

    assert upgraded(server[0], CURRENT, made_up.VERSION, took_data_along) == []


def test_a_bad_upgrade_is_found_out(server):
    (difference, *more) = upgraded(server[0], CURRENT, "99.1")
    assert "view keysmith_made_up.things" in difference and "privileges" in difference
    assert all("privileges" in line for line in more), more
    with pytest.raises(AssertionError, match="rows were lost"):
        upgraded(server[0], CURRENT, "99.2")


def test_whatever_an_upgrade_forgets_is_named(server):
    cluster, _ = server
    for name in ("whole", "forgetful"):
        cluster.execute(f"CREATE DATABASE {name}")
    cluster.execute(f"CREATE EXTENSION keysmith VERSION '{made_up.VERSION}'", "whole")
    cluster.execute("CREATE EXTENSION keysmith", "forgetful")
    with cluster.connect("whole") as whole:
        expected = objects.describe(whole)
    with cluster.connect("forgetful", autocommit=False) as connection:
        for version, (statement, name) in zip(FORGETFUL, made_up.FORGETTABLE):
            connection.execute(f"ALTER EXTENSION keysmith UPDATE TO '{version}'")
            found = [line for line in objects.differences(objects.describe(connection), expected)
                     if not line.startswith("extension: its version")]
            connection.rollback()
            assert [line for line in found if name in line], (statement, found)


def test_servers_decide_while_the_extension_is_updated(server):
    cluster, mirror = server
    cluster.execute("CREATE DATABASE product")
    db = session(cluster, "product")
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    good, bad = db.mint().api_key, db.mint()
    db.call("revoke", bad.key_id)
    standby = cluster.backup("standby", 5433)
    over = Event()

    def decide(replica, counted):
        """Until the end: what each decision said of both keys."""
        client = session(replica, "product")
        while not over.is_set():
            counted.append((client.reason(good), client.reason(bad.api_key)))
        client.session.close()

    try:
        standby.start(program=mirror.server)
        replica = session(standby, "product")
        counts = {cluster: [], standby: []}
        with ThreadPoolExecutor() as threads:
            try:
                deciding = [threads.submit(decide, *which) for which in counts.items()]
                wait_until(lambda: all(counts.values()))
                db.rows(f"ALTER EXTENSION keysmith UPDATE TO '{made_up.VERSION}'")
                wait_until(lambda: replica.value("SELECT extversion FROM pg_extension WHERE extname = 'keysmith'") == made_up.VERSION)
                # Two more of each: the second began after the update.
                before = {which: len(decided) for which, decided in counts.items()}
                wait_until(lambda: all(len(decided) > before[which] + 1 for which, decided in counts.items()) or any(done.done() for done in deciding))
            finally:
                over.set()
            for done in deciding:
                done.result()
        assert {said for decided in counts.values() for said in decided} == {("ok", "revoked")}
        # The standby has what the primary has, and follows what comes later.
        assert objects.differences(objects.describe(replica.session), objects.describe(db.session)) == []
        db.call("revoke", db.verify(good).key_id)
        wait_until(lambda: replica.reason(good) == "revoked")
        replica.session.close()
    finally:
        db.session.close()
        standby.remove()


# The comparison

ALTERED = [
    ("CREATE OR REPLACE FUNCTION keysmith.untrack(relation regclass) RETURNS void LANGUAGE sql AS 'SELECT'",
     "function keysmith.untrack(pg_catalog.regclass): its definition"),
    ("ALTER FUNCTION keysmith.untrack(regclass) COST 7", "function keysmith.untrack(pg_catalog.regclass): its definition"),
    ("ALTER FUNCTION keysmith.maintain() RESET search_path", "maintain(): its definition"),
    ("GRANT EXECUTE ON FUNCTION keysmith.untrack(regclass) TO PUBLIC", "untrack(pg_catalog.regclass): its privileges"),
    ("COMMENT ON FUNCTION keysmith.untrack(regclass) IS 'x'", "untrack(pg_catalog.regclass): its comment"),
    ("ALTER EXTENSION keysmith DROP FUNCTION keysmith.untrack(regclass)", "untrack(pg_catalog.regclass) is missing"),
    ("CREATE FUNCTION keysmith.more() RETURNS int LANGUAGE sql AS 'SELECT 1'; "
     "ALTER EXTENSION keysmith ADD FUNCTION keysmith.more()", "function keysmith.more() should not be there"),
    ("ALTER TABLE keysmith_private.key ALTER label SET DEFAULT 'x'", "keysmith_private.key column label: its default"),
    ("ALTER TABLE keysmith_private.key ADD more int", "keysmith_private.key column more should not be there"),
    ("ALTER TABLE keysmith_private.key ALTER metadata SET STORAGE EXTERNAL", "column metadata: its storage"),
    ("ALTER TABLE keysmith_private.key ALTER metadata SET STATISTICS 7", "column metadata: its statistics"),
    ("GRANT SELECT (label) ON keysmith_private.key TO PUBLIC", "keysmith_private.key column label: its privileges"),
    ("COMMENT ON COLUMN keysmith.keys.label IS 'x'", "view keysmith.keys column label: its comment"),
    ("GRANT SELECT ON keysmith_private.key TO PUBLIC", "table keysmith_private.key: its privileges"),
    ("ALTER TABLE keysmith_private.key SET (fillfactor = 33)", "table keysmith_private.key: its options"),
    ("ALTER TABLE keysmith_private.key ENABLE ROW LEVEL SECURITY", "table keysmith_private.key: its row security"),
    ("CREATE POLICY p ON keysmith_private.key USING (true)", "table keysmith_private.key policy p should not be there"),
    ("ALTER TABLE keysmith_private.key ADD CONSTRAINT c CHECK (true)", "keysmith_private.key constraint c should not be there"),
    ("CREATE INDEX more ON keysmith_private.key (label)", "index keysmith_private.more should not be there"),
    ("ALTER TABLE keysmith_private.scope DISABLE TRIGGER policy_changed", "trigger policy_changed: its enabled"),
    ("CREATE RULE r AS ON DELETE TO keysmith_private.key DO ALSO NOTHING", "key rule r should not be there"),
    ("ALTER VIEW keysmith.keys RESET (security_barrier)", "view keysmith.keys: its options"),
    ("ALTER TYPE keysmith_private.verdict ADD ATTRIBUTE more int", "keysmith_private.verdict column more should not be there"),
    ("COMMENT ON SCHEMA keysmith IS 'x'", "schema keysmith: its comment"),
    ("GRANT CREATE ON SCHEMA keysmith TO PUBLIC", "schema keysmith: its privileges"),
    ("ALTER DEFAULT PRIVILEGES IN SCHEMA keysmith GRANT SELECT ON TABLES TO PUBLIC", "its default privileges"),
    ("UPDATE pg_extension SET extconfig = NULL, extcondition = NULL WHERE extname = 'keysmith'",
     "extension: its dump list: keysmith_private.key is None"),
    ("UPDATE pg_extension SET extversion = '0' WHERE extname = 'keysmith'", "extension: its version"),
    ("DELETE FROM pg_init_privs WHERE objoid = 'keysmith.untrack(regclass)'::regprocedure",
     "keysmith.untrack(pg_catalog.regclass): its initial privileges"),
    ("CREATE DOMAIN keysmith.more AS int CHECK (value > 1); ALTER EXTENSION keysmith ADD DOMAIN keysmith.more",
     "type keysmith.more should not be there"),
]


@pytest.fixture(scope="module")
def expected(cluster):
    with cluster.connect("with_keysmith") as connection:
        return objects.describe(connection)


def test_an_installation_equals_itself(dbname, db, expected):
    assert objects.differences(objects.describe(db.session), expected) == []


def test_any_change_of_an_object_is_named(connect, expected):
    session = connect(autocommit=False)
    for statement, difference in ALTERED:
        session.execute("SET allow_system_table_mods = on")
        session.execute(statement)
        found = objects.differences(objects.describe(session), expected)
        assert [line for line in found if difference in line], (statement, found)
        # Unchanged objects are not named.
        assert all(line.startswith("extension") for line in found[3:]), (statement, found)
        session.rollback()


def test_an_object_that_cannot_be_compared_is_an_error(connect):
    session = connect(autocommit=False)
    session.execute("CREATE COLLATION keysmith.c FROM \"C\"; ALTER EXTENSION keysmith ADD COLLATION keysmith.c")
    with pytest.raises(AssertionError, match="collation keysmith.c"):
        objects.describe(session)
