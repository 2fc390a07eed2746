"""Stored data, and what happens to it: peppers, dumps, crashes, standbys."""

import hashlib
import hmac
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

import cluster as clusters
from cluster import Cluster, running
from conftest import needs, session, wait_until
from subkeys import mac

PEPPER = {1: "11" * 32, 2: "22" * 48}


# Plaintext

def test_no_plaintext_is_left_anywhere(tmp_path):
    """Searches the data directory, WAL and log included, for keys of every origin."""
    with running("plaintext", log_statement="none", log_min_messages="debug1",
                 log_error_verbosity="verbose") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        keys = [db.mint().api_key for _ in range(20)]
        first = db.call("list_keys", "acme")[0].key_id
        keys.append(db.one("rotate", first).api_key)
        keys.append(db.one("regenerate", "acme").api_key)
        for key in keys:
            db.verify(key)
            db.verify(key + "x")
            db.call("verify_many", [key])
        db.call("report_leak", keys[5], "a page")
        db.refused("KS404", "report_leak", keys[5], "a page")
        db.rows("ANALYZE; CHECKPOINT")
        db.session.close()
        cluster.stop()
        haystack = b"".join(
            path.read_bytes() for path in [*cluster.data.rglob("*"), cluster.log] if path.is_file())
        assert b"acme" in haystack
        for key in keys:
            assert key.encode() not in haystack
            assert key[-40:].encode() not in haystack


@needs("auto_explain")
def test_nested_statement_logging_sees_no_key():
    """A logger of nested statements and their parameters finds no key among them."""
    with running("nested", shared_preload_libraries="auto_explain,keysmith",
                 auto_explain__log_min_duration="0", auto_explain__log_nested_statements="on",
                 auto_explain__log_verbose="on") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint().api_key
        assert key not in cluster.log.read_text()
        db.verify(key)
        nested = cluster.log.read_text()
        assert "INSERT INTO keysmith_private.key" in nested
        assert db.one("rotate", db.call("list_keys", "acme")[0].key_id).api_key \
            not in cluster.log.read_text()


# Peppers

@pytest.fixture
def peppered():
    cluster = Cluster("pepper")
    file = cluster.dir / "peppers"

    def write(text, mode=0o600):
        file.write_text(text)
        file.chmod(mode)
        if clusters._SERVER_USER:
            os.chown(file, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)

    cluster.write_peppers = write
    cluster.init()
    yield cluster
    cluster.remove()


def test_pepper_generations_side_by_side(peppered):
    peppered.start()
    db = session(peppered)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    keys = [db.mint()]
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    for text in (f"0:unpeppered\n1:{PEPPER[1]}\n",
                 f"# newest first or last\n2:{PEPPER[2]}\n1:{PEPPER[1]}\n0:unpeppered\n"):
        peppered.write_peppers(text)
        peppered.restart()
        db = session(peppered)
        assert all(db.verify(key.api_key).ok for key in keys)
        keys.append(db.mint())
    assert db.rows("SELECT generation FROM keysmith_private.key ORDER BY created_at") == [(0,), (1,), (2,)]
    for key, generation in zip(keys[1:], (1, 2)):
        digest = hashlib.sha256(key.api_key.encode()).digest()
        pepper = bytes.fromhex(PEPPER[generation])
        stored = db.value("SELECT digest FROM keysmith_private.key WHERE key_id = %s", key.key_id)
        assert stored == mac(pepper, "key", digest)
        assert db.one("verify_digest", digest).ok
    # A key moves to the newest generation when it is rotated.
    rotated = db.one("rotate", keys[0].key_id)
    assert db.value("SELECT generation FROM keysmith_private.key WHERE key_id = %s", rotated.key_id) == 2
    assert db.call("report_leak", keys[1].api_key, "x") == [(keys[1].key_id,)]
    # Without the pepper no key of the table is accepted.
    peppered.write_peppers(f"3:{'33' * 32}\n")
    peppered.restart()
    db = session(peppered)
    assert [db.reason(key.api_key) for key in keys[1:]] == ["not_found"] * 2
    # A key that was stored before the first pepper needs the line 0:unpeppered.
    unpeppered = db.value("SELECT count(*) FROM keysmith_private.key WHERE generation = 0")
    assert unpeppered == 1 and db.reason(keys[0].api_key) == "not_found"
    # Only a superuser sees the path of the file.
    db.rows("CREATE ROLE someone LOGIN")
    with peppered.connect(user="someone") as other, pytest.raises(psycopg.Error, match="superuser|permission"):
        other.execute("SHOW keysmith.pepper_file")
    with pytest.raises(psycopg.Error, match="cannot be changed"):
        db.rows("SET keysmith.pepper_file = ''")


def test_with_a_pepper_a_row_that_a_thief_adds_opens_nothing(peppered):
    peppered.write_peppers(f"1:{PEPPER[1]}\n")
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    peppered.start()
    db = session(peppered)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    db.mint()
    known = "ks_live_0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg32jhdj"
    plain = hashlib.sha256(known.encode()).digest()
    for generation in (0, 1, 2):
        db.rows("INSERT INTO keysmith_private.key (tenant_id, generation, digest, keyspace, environment, "
                "kind, created_by) SELECT tenant_id, %s, %s, keyspace, 'live', 'secret', 'thief' "
                "FROM keysmith_private.tenant", generation,
                hashlib.sha256(b"keysmith.key.v1\0" + plain).digest() if generation == 0
                else hmac.digest(b"guess", plain + bytes([generation]), "sha256"))
    assert db.reason(known) == "not_found"


def test_a_reload_adds_peppers(peppered):
    """Sessions that are open and new ones take them. A file that can't be used, or that lacks what
    is in force, changes nothing."""
    one, two, three = (f"{n}:{str(n) * 64}\n" for n in (1, 2, 3))
    peppered.write_peppers(one)
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    peppered.start()
    db = session(peppered)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    keys = [db.mint()]
    others = [session(peppered)]
    assert others[0].verify(keys[0].api_key).ok

    def reload(text, logged, mode=0o600):
        start, mark = peppered.log.stat().st_size, str(len(others))
        peppered.write_peppers(text, mode)
        peppered.configure(test__mark=mark)
        db.rows("SELECT pg_reload_conf()")
        wait_until(lambda: logged in peppered.log.read_bytes()[start:].decode())
        for each in (db, *others):
            wait_until(lambda each=each: each.value("SELECT current_setting('test.mark', true)") == mark)
        others.append(session(peppered))

    def newest():
        return [each.one("status").newest_pepper for each in [db, *others]]

    problem = "SELECT value FROM keysmith.metrics WHERE name = 'keysmith_pepper_file_problem'"
    reload(one + two, "keysmith.pepper_file was read again: its newest pepper is 2")
    assert set(newest()) == {2} and db.value(problem) == 0
    keys.append(others[-1].mint())
    generation = "SELECT generation FROM keysmith_private.key WHERE key_id = %s"
    assert db.value(generation, keys[1].key_id) == 2
    for text, mode, why in [
        ("2:nonsense\n", 0o600, "line 1: the pepper must be hex"),
        ("", 0o600, "no line of the form"),
        (one + two + three, 0o644, "must be a file that no one but the server's user"),
        (two + three, 0o600, "lacks a pepper that is in force"),
        (one + f"2:{'33' * 32}\n" + three, 0o600, "lacks a pepper that is in force"),
    ]:
        reload(text, "the peppers that were read before stay in force", mode)
        assert f"keysmith.pepper_file {why}" in peppered.log.read_text()
        assert any(why in str(finding) for finding in db.findings())
        assert set(newest()) == {2} and db.value(problem) == 1
        keys.append(others[-1].mint())
        assert all(each.verify(key.api_key).ok for each in [db, *others] for key in keys)
    peppered.write_peppers(one + two)
    assert not [each for each in db.findings() if (each.level, each.subject) == ("error", "pepper")]
    assert str(1) * 64 not in peppered.log.read_text()


def test_a_session_that_meets_a_new_pepper_reads_the_file(peppered):
    one, two = (f"{n}:{str(n) * 64}\n" for n in (1, 2))
    peppered.write_peppers(one)
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    peppered.start()
    db, other, manager = (session(peppered) for _ in range(3))
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    old = db.mint()
    assert other.verify(old.api_key).ok and manager.verify(old.api_key).ok
    peppered.write_peppers(one + two)
    # Only this session is told.
    os.kill(db.value("SELECT pg_backend_pid()"), signal.SIGHUP)
    wait_until(lambda: db.one("status").newest_pepper == 2)
    key = db.mint()
    assert other.verify(key.api_key).ok and other.verify(old.api_key).ok
    # The audit's chain is sealed with the new pepper, and so goes on.
    manager.call("disable", old.key_id)
    assert manager.one("status").newest_pepper == 2


def test_no_session_steps_around_the_pepper(peppered):
    """Without preload there is no pepper, whatever a session sets: peppered keys are refused, and
    no key that a dump would reveal is stored beside them."""
    peppered.write_peppers(f"1:{PEPPER[1]}\n")
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    peppered.start()
    db = session(peppered)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    key = db.mint()
    with pytest.raises(psycopg.Error, match="cannot be changed"):
        peppered.connect(options="-c keysmith.pepper_file=")
    peppered.configure(shared_preload_libraries="")
    peppered.restart()
    for options in ("", f"-c keysmith.pepper_file={peppered.dir / 'peppers'}"):
        db = session(peppered, options=options)
        assert db.reason(key.api_key) == "not_found"
        db.refused("KS510", "mint", "acme")
        db.refused("KS510", "rotate", key.key_id)
        db.refused("KS510", "import_key", "acme", b"x" * 32)


def test_a_key_is_imported_once_under_any_pepper(peppered):
    peppered.start()
    db = session(peppered)
    db.rows("CREATE EXTENSION keysmith")
    db.tenant()
    db.call("import_key", "acme", b"x" * 32)
    peppered.write_peppers(f"0:unpeppered\n1:{PEPPER[1]}\n")
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    peppered.restart()
    db = session(peppered)
    db.refused("KS409", "import_key", "acme", b"x" * 32)


@pytest.mark.parametrize("text, mode, complaint", [
    (None, 0o600, "can't be opened"),
    ("", 0o600, "no line"),
    ("1:abc", 0o600, "line 1"),
    ("1:" + "zz" * 32, 0o600, "line 1"),
    (f"1:{PEPPER[1]}", 0o644, "must be a file that no one but the server's user"),
    (f"1:{PEPPER[1]}", 0o620, "no one but the server's user"),
])
def test_a_pepper_file_that_cannot_be_used_stops_the_start(peppered, text, mode, complaint):
    peppered.configure(keysmith__pepper_file=peppered.dir / "peppers")
    if text is not None:
        peppered.write_peppers(text, mode)
    assert peppered.start(check=False).returncode != 0
    log = peppered.log.read_text()
    assert complaint in log and "keysmith.pepper_file" in log
    assert PEPPER[1] not in log


def test_a_pepper_file_in_the_data_directory_is_refused(peppered):
    peppered.write_peppers(f"1:{PEPPER[1]}")
    (peppered.dir / "peppers").rename(peppered.data / "peppers")
    peppered.configure(keysmith__pepper_file=peppered.data / "peppers")
    assert peppered.start(check=False).returncode != 0
    assert "outside the data directory" in peppered.log.read_text()


# Dumps

def fill(db):
    db.call("create_keyspace", "other", prefixes=psycopg.types.json.Jsonb({"secret": {"live": "o_"}}))
    db.call("define_scope", "default", "read", "See things")
    db.call("define_scope", "default", "write", "Change things", ["read"])
    db.call("define_role", "default", "editor", ["write"])
    for keyspace in ("default", "other"):
        db.tenant("acme", keyspace=keyspace, plan="pro")
    db.call("set_member", "acme", "ann", "editor")
    keys = [db.mint(owner="ann", label="it's \\ a \t; label".replace("\t", " ")), db.mint(role="editor")]
    keys += [db.one("rotate", keys[1].key_id, "1 day"), db.mint(keyspace="other")]
    db.call("revoke", db.mint().key_id, "over")
    db.row("SELECT keysmith.import_key('acme', sha256('legacy'))")
    return keys


def dump(cluster, dbname, *options):
    text = cluster.program("pg_dump", *options, dbname=dbname).stdout
    # Newer versions of pg_dump protect each dump with a random word.
    return "\n".join(line for line in text.splitlines() if not line.startswith(("\\restrict", "\\unrestrict")))


@pytest.mark.parametrize("format", ["plain", "inserts", "custom"])
def test_a_dump_restores_whole(cluster, dbname, db, format, tmp_path):
    keys = fill(db)
    # The worker makes partitions before it leaves.
    db.call("maintain")
    first = dump(cluster, dbname)
    restored = f"{dbname}_{format}"
    cluster.execute(f"CREATE DATABASE {restored}")
    try:
        if format != "custom":
            options = ["--inserts"] if format == "inserts" else []
            script = cluster.program("pg_dump", *options, dbname=dbname).stdout
            cluster.psql(script, dbname=restored)
        else:
            archive = tmp_path / "dump"
            archive.write_bytes(cluster.program(
                "pg_dump", "-Fc", dbname=dbname, text=False, stderr=subprocess.PIPE).stdout)
            cluster.program("pg_restore", "--exit-on-error", archive, dbname=restored)
        assert dump(cluster, restored) == first
        there = session(cluster, restored)
        for key in keys[:3]:
            assert there.verify(key.api_key).ok
        assert there.verify(keys[3].api_key, keyspace="other").ok
        assert there.verify("legacy").ok
        assert there.verify(keys[0].api_key, scopes=["read"]).scopes == ["write"]
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")


def test_every_table_and_sequence_is_in_the_dump_list(db):
    """Partitioned tables hold no rows; their partitions, made at run time, are no members of
    the extension, and are dumped whole. The row of `heartbeat` is made with the extension, and its
    time is of no use elsewhere."""
    missing = db.rows("""
        SELECT c.oid::regclass FROM pg_class c
        WHERE relnamespace = 'keysmith_private'::regnamespace AND relkind IN ('r', 'S')
        EXCEPT
        SELECT unnest(extconfig)::regclass FROM pg_extension WHERE extname = 'keysmith'""")
    assert [name for name, in missing] == ["keysmith_private.heartbeat"]
    db.rows("SELECT keysmith_private.usage_prepare()")
    assert db.rows("""
        SELECT objid::regclass FROM pg_depend d JOIN pg_inherits i ON i.inhrelid = d.objid
        WHERE d.classid = 'pg_class'::regclass AND deptype = 'e'
          AND refclassid = 'pg_extension'::regclass""") == []


# Crashes

@pytest.mark.parametrize("act", ["mint", "revoke", "disable", "suspend", "alter", "remove_member"])
def test_what_was_acknowledged_outlives_a_crash(act):
    """Even if synchronous_commit is off, and the WAL writer does not run."""
    with running("crash", fsync="on", synchronous_commit="off", wal_writer_delay="10s",
                 autovacuum="off") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.call("define_role", "default", "r", ["*"])
        db.tenant()
        db.call("set_member", "acme", "ann", "r")
        key = db.mint(owner="ann", scopes=["a"])
        db.rows("CREATE TABLE lost (n int); CHECKPOINT")
        {
            "mint": lambda: None,
            "revoke": lambda: db.call("revoke", key.key_id),
            "disable": lambda: db.call("disable", key.key_id),
            "suspend": lambda: db.call("suspend_tenant", "acme"),
            "alter": lambda: db.call("alter_key", key.key_id, '{"scopes": ["b"]}'),
            "remove_member": lambda: db.call("remove_member", "acme", "ann"),
        }[act]()
        if act == "mint":
            key = db.mint()
        # Other processes flush the WAL now and then.
        others = [pid for pid, in db.rows("SELECT pid FROM pg_stat_activity WHERE backend_type <> 'client backend'")]
        for pid in others:
            os.kill(pid, signal.SIGSTOP)
        db.rows("INSERT INTO lost VALUES (1)")
        cluster.kill()
        for pid in others:
            os.kill(pid, signal.SIGKILL)
        cluster.start_after_kill()
        db = session(cluster)
        assert db.verify(key.api_key, scopes=["a"]).ok == (act == "mint")
        # The control: an ordinary commit after it was lost.
        assert db.value("SELECT count(*) FROM lost") == 0


# Standbys

@pytest.fixture(scope="module")
def primary_and_standby():
    with running("primary", wal_level="replica", max_wal_senders=4) as primary:
        standby = primary.backup("standby", port=5433)
        try:
            standby.start()
            yield primary, standby
        finally:
            standby.remove()


def test_a_standby_decides_as_the_primary_does(primary_and_standby):
    primary, standby = primary_and_standby
    db = session(primary)
    db.rows("DROP EXTENSION IF EXISTS keysmith CASCADE; CREATE EXTENSION keysmith")
    db.call("define_role", "default", "r", ["read"])
    db.tenant()
    key = db.mint(role="r")
    assert db.one("wait_for_replay")[0] == 1
    there = session(standby)
    assert there.value("SELECT pg_is_in_recovery()")
    assert there.verify(key.api_key, scopes=["read"]).ok
    assert there.reason(key.api_key, scopes=["write"]) == "insufficient_scope"
    assert there.call("verify_many", [key.api_key, "x"])[1].reason == "malformed_key"
    # Replay drops the policy that the standby had cached.
    db.call("define_role", "default", "r", ["write"])
    db.call("wait_for_replay")
    assert there.verify(key.api_key, scopes=["write"]).ok
    db.call("revoke", key.key_id)
    db.call("wait_for_replay")
    assert there.reason(key.api_key) == "revoked"
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        there.mint()
    there.refused("KS409", "wait_for_replay")


def paused_with_a_key(primary, standby):
    """A key that the standby knows, and a standby that receives no more."""
    db, there = session(primary), session(standby)
    db.rows("DROP EXTENSION IF EXISTS keysmith CASCADE; CREATE EXTENSION keysmith")
    db.tenant()
    key = db.mint()
    db.call("wait_for_replay")
    there.rows("SELECT pg_wal_replay_pause()")
    return db, there, key


def test_waiting_names_the_standby_that_lags(primary_and_standby):
    primary, standby = primary_and_standby
    db, there, key = paused_with_a_key(primary, standby)
    try:
        db.call("revoke", key.key_id)
        with pytest.raises(psycopg.Error) as error:
            db.call("wait_for_replay", "300 milliseconds")
        assert error.value.sqlstate == "KS504"
        assert "1 of 1" in error.value.diag.message_primary
        assert "bytes behind" in error.value.diag.message_detail
        assert there.verify(key.api_key).ok
    finally:
        there.rows("SELECT pg_wal_replay_resume()")
    assert db.one("wait_for_replay", "60 seconds")[0] == 1
    assert there.reason(key.api_key) == "revoked"


def waits_for_replay(primary, db):
    wait_until(lambda: primary.execute(
        "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%wait_for_replay%' "
        f"AND pid = {db.session.info.backend_pid}"))


def test_a_standby_that_detaches_is_not_taken_for_one_that_knows(primary_and_standby):
    primary, standby = primary_and_standby
    db, there, key = paused_with_a_key(primary, standby)
    detach = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_replication"
    try:
        db.call("revoke", key.key_id)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(db.refused, "KS504", "wait_for_replay", "2 seconds")
            waits_for_replay(primary, db)
            primary.execute(detach)
            assert "1 of 1" in waiting.result(60)
        assert there.verify(key.api_key).ok
    finally:
        there.rows("SELECT pg_wal_replay_resume()")
    wait_until(lambda: primary.execute("SELECT 1 FROM pg_stat_replication WHERE state = 'streaming'"))
    # A standby that comes back while a session waits for it is noticed.
    other = db.mint()
    assert db.one("wait_for_replay", "60 seconds")[0] == 1
    there.rows("SELECT pg_wal_replay_pause()")
    try:
        db.call("revoke", other.key_id)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(db.one, "wait_for_replay", "120 seconds")
            waits_for_replay(primary, db)
            primary.execute(detach)
            assert there.verify(other.api_key).ok and not waiting.done()
            there.rows("SELECT pg_wal_replay_resume()")
            assert waiting.result(120)[0] == 1
        assert there.reason(other.api_key) == "revoked"
    finally:
        there.rows("SELECT pg_wal_replay_resume()")


def test_waiting_in_the_transaction_that_revokes_is_an_error(primary_and_standby):
    primary, _ = primary_and_standby
    db = session(primary, autocommit=False)
    db.rows("CREATE TABLE anything ()")
    assert "after the commit" in db.refused("KS409", "wait_for_replay")
    db.session.rollback()


def test_without_standbys_there_is_nothing_to_wait_for(db):
    assert db.one("wait_for_replay")[0] == 0
