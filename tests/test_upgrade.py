"""A filled database that is upgraded equals a fresh installation, object by object and row by
row: from each released version, and tests of the comparison itself."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import cluster as clusters
import filled
import objects
from cluster import Cluster
from conftest import session

ROOT = Path(__file__).parent.parent
SCRIPTS = ROOT / "sql"
CURRENT = re.search(r"default_version = '(.*)'", (ROOT / "keysmith.control").read_text())[1]


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

def upgraded(cluster, start, end):
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

NEW_TABLE = """
CREATE TABLE keysmith.made_up (n int DEFAULT 7 PRIMARY KEY);
COMMENT ON TABLE keysmith.made_up IS 'Made up';
SELECT pg_catalog.pg_extension_config_dump('keysmith.made_up', '');
"""
GRANT = "GRANT SELECT ON keysmith.made_up TO PUBLIC;\n"
MADE_UP = {
    "99.0": NEW_TABLE + GRANT,
    # Forgets an object that the fresh one has.
    "99.1": NEW_TABLE,
    # Loses rows on the way.
    "99.2": NEW_TABLE + GRANT + "DELETE FROM keysmith_private.scope;\n",
}


def mirrored(folder):
    """A server whose extensions are in a private folder: PostgreSQL finds them relative to its
    program. All its other files are links."""
    bin, share, library = (Path(clusters.pg_config(what)) for what in ("bindir", "sharedir", "pkglibdir"))
    common = Path(os.path.commonpath([bin, share, library]))
    theirs = folder / share.relative_to(common)
    (theirs / "extension").mkdir(parents=True)
    for entry in share.iterdir():
        if entry.name != "extension":
            (theirs / entry.name).symlink_to(entry)
    for entry in (share / "extension").iterdir():
        (theirs / "extension" / entry.name).symlink_to(entry)
    for kept in (bin, library):
        (folder / kept.relative_to(common)).parent.mkdir(parents=True, exist_ok=True)
    (folder / library.relative_to(common)).symlink_to(library)
    server = folder / bin.relative_to(common) / "postgres"
    server.parent.mkdir()
    shutil.copy2(bin / "postgres", server)
    return server, theirs / "extension"


@pytest.fixture(scope="module")
def made_up():
    cluster = Cluster("made-up")
    try:
        cluster.init()
        server, extensions = mirrored(cluster.dir / "server")
        script = (SCRIPTS / f"keysmith--{CURRENT}.sql").read_text()
        for version, change in MADE_UP.items():
            (extensions / f"keysmith--{version}.sql").write_text(script + MADE_UP["99.0"])
            (extensions / f"keysmith--{CURRENT}--{version}.sql").write_text(change)
        clusters.run("pg_ctl", "-D", cluster.data, "-l", cluster.log, "-w", "-p", server, "start",
                     as_server=True, stdout=subprocess.DEVNULL)
        yield cluster
    finally:
        cluster.remove()


def test_a_good_upgrade_leaves_no_difference(made_up):
    assert upgraded(made_up, CURRENT, "99.0") == []


def test_a_bad_upgrade_is_found_out(made_up):
    (difference, *more) = upgraded(made_up, CURRENT, "99.1")
    assert "table keysmith.made_up" in difference and "privileges" in difference
    assert all("privileges" in line for line in more)
    with pytest.raises(AssertionError, match="rows were lost"):
        upgraded(made_up, CURRENT, "99.2")


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
