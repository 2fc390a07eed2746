"""doctor(): each fault is named, with a remedy that works, and fits a terminal. A sound installation has
one row, which says so."""

import os
import re
import socket

import psycopg
import pytest

from cluster import Cluster, running
from conftest import needs, session, wait_until

SOUND = [("ok", "keysmith", "no problem found; preloaded, version 0.1.0", None)]
# A remedy that is a statement begins with one of these; others are for people, and begin with a small letter.
STATEMENT = re.compile(r"(ALTER|CREATE|DELETE|REINDEX|REVOKE|SELECT)\s")


def printed(cluster, dbname, statements=""):
    """What psql prints of doctor(), in its default format, after statements that it rolls back."""
    script = f"BEGIN;\n{statements};\n\\echo DOCTOR\nSELECT * FROM keysmith.doctor();\nROLLBACK;\n"
    lines = cluster.program("psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", dbname=dbname, input=script).stdout.splitlines()
    return lines[lines.index("DOCTOR") + 1:]


def check_width(cluster, dbname="postgres", statements=""):
    lines = printed(cluster, dbname, statements)
    assert lines[0].split("|")[0].strip() == "level" and "row" in lines[-2]
    assert [line for line in lines if len(line) > 100] == []


@pytest.fixture(scope="module")
def sound():
    """A safe cluster without findings; the other clusters are quick and unsafe."""
    with running("sound", fsync="on", synchronous_commit="off") as cluster:
        cluster.execute("CREATE EXTENSION keysmith")
        yield cluster


@pytest.fixture(scope="module")
def patient(sound):
    """A database of the sound cluster, with an isolated table and a role that verifies."""
    sound.execute("CREATE DATABASE patient")
    sound.execute("CREATE EXTENSION keysmith", dbname="patient")
    db = session(sound, "patient")
    db.rows("""
        CREATE ROLE keeper; CREATE ROLE app LOGIN;
        CREATE TABLE photo (tenant_id uuid PRIMARY KEY, name text);
        ALTER TABLE photo OWNER TO keeper;
        GRANT SELECT ON photo TO app;
        SELECT keysmith.isolate('photo', 'tenant_id');
        SELECT keysmith.grant_access('app', 'verifier')""")
    for name in ("one", "two", "three"):
        db.tenant(name)
    assert db.findings() == []
    yield db
    db.session.close()


@pytest.fixture
def spoilt(patient):
    """Undoes the faults that the test made."""
    with patient.session.transaction(force_rollback=True):
        yield patient


def test_a_default_prefix_in_real_use(spoilt):
    spoilt.tenant()
    for _ in range(9):
        spoilt.mint()
    assert spoilt.findings() == []
    spoilt.mint()
    (found,) = spoilt.findings()
    assert (found.level, found.subject) == ("warning", "keyspace")
    assert "start with ks_live_" in found.finding
    # The remedy is a working call, and later keys have the new prefix.
    spoilt.rows(found.remedy)
    assert spoilt.findings() == []
    assert spoilt.mint().api_key.startswith("yours_live_")


def test_a_sound_installation_is_ok_in_use(patient):
    db = patient
    db.tenant()
    key = db.mint(scopes=["a"], limits=psycopg.types.json.Jsonb([{"name": "x", "limit": 5, "window": "1 min"}]))
    assert db.verify(key.api_key).ok
    db.call("revoke", key.key_id)
    db.call("flush_usage")
    assert db.call("doctor") == SOUND


def amiss(db, level, subject, *words):
    """Checks that there is one finding, of that level and subject, with these words."""
    found = db.findings()
    assert [(row.level, row.subject) for row in found] == [(level, subject)], found
    (row,) = found
    assert all(word in row.finding for word in words), row
    assert row.remedy
    assert STATEMENT.match(row.remedy) or row.remedy[0].islower(), row
    return row


# Statements that each cause a fault; the level and subject of the finding, and words in its text.
SPOILT = {
    "row security off": ("ALTER TABLE photo DISABLE ROW LEVEL SECURITY", "error", "isolation", "every reader sees all"),
    "not forced": ("ALTER TABLE photo NO FORCE ROW LEVEL SECURITY", "error", "isolation", "its owner keeper"),
    "a lost policy": ("DROP POLICY keysmith_tenant ON photo", "error", "isolation", "policy keysmith_tenant is gone"),
    "a table made again": ("DROP TABLE photo; CREATE TABLE photo (tenant_id uuid); "
                           "ALTER TABLE photo OWNER TO keeper", "error", "isolation",
                           "no longer is"),
    "a register without the table": ("DELETE FROM keysmith_private.isolated_table", "warning", "isolation",
                                     "does not know it"),
    "an owner that sees all": ("ALTER TABLE photo OWNER TO postgres", "error", "isolation", "owner postgres"),
    "owned by a verifier": ("ALTER TABLE photo OWNER TO app", "warning", "isolation", "owner app may verify"),
    "an index of values": ("CREATE INDEX ON photo (name, tenant_id)", "warning", "isolation", "indexes on name"),
    "a verifier bypasses": ("ALTER ROLE app BYPASSRLS", "error", "isolation", "BYPASSRLS"),
    "a member of a verifier bypasses": ("CREATE ROLE pool BYPASSRLS; GRANT app TO pool", "error", "isolation",
                                        "role pool"),
    "a verifying superuser": ("ALTER ROLE app SUPERUSER", "error", "isolation", "is a superuser"),
    "a table like it": ("CREATE TABLE album (tenant_id uuid)", "warning", "isolation", "album"),
    "a default": ("CREATE TABLE album (owner_id uuid DEFAULT keysmith.current_tenant_id())", "warning",
                  "isolation", "fills in"),
    "no policy": ("CREATE TABLE album (id int); ALTER TABLE album ENABLE ROW LEVEL SECURITY", "warning",
                  "isolation", "no policy"),
    "a part": ("CREATE TABLE part () INHERITS (photo); GRANT SELECT ON part TO app", "error", "isolation",
               "past it"),
    "a view": ("CREATE VIEW all_photos AS SELECT * FROM photo", "warning", "isolation", "view public.all_photos"),
    "a view of a view": ("CREATE VIEW mine WITH (security_invoker) AS SELECT * FROM photo; "
                         "CREATE VIEW all_photos AS SELECT * FROM mine", "warning", "isolation", "all_photos"),
    "a materialized view": ("CREATE MATERIALIZED VIEW kept AS SELECT * FROM photo", "warning", "isolation",
                            "materialized view public.kept"),
    "a bare call": ("CREATE POLICY mine ON photo USING (tenant_id = keysmith.current_tenant_id())", "warning",
                    "policies", "policy mine"),
    "a bare call in a check": ("CREATE POLICY mine ON photo FOR INSERT WITH CHECK (keysmith.has_scope('a'))",
                               "warning", "policies", "policy mine"),
    "a bare call beside one that is not": (
        "CREATE POLICY mine ON photo USING (tenant_id = (SELECT keysmith.current_tenant_id()) "
        "OR keysmith.has_scope('a'))", "warning", "policies", "policy mine"),
    "no index": ("ALTER TABLE photo DROP CONSTRAINT photo_pkey; INSERT INTO photo "
                 "SELECT gen_random_uuid() FROM generate_series(1, 10000); ANALYZE photo", "warning",
                 "policies", "no index"),
    "a dropped role": ("CREATE ROLE leaver; SELECT keysmith.grant_access('leaver', 'auditor'); "
                       "DROP OWNED BY leaver; DROP ROLE leaver", "error", "access", "auditor"),
    "a right on a table": ("GRANT SELECT ON keysmith_private.key TO app", "error", "access", "keysmith_private.key"),
    "a right on a column": ("GRANT SELECT (digest) ON keysmith_private.key TO app", "error", "access", "keysmith_private.key"),
    "a right on a sequence": ("GRANT USAGE ON SEQUENCE keysmith_private.usage_sequence TO PUBLIC", "error", "access",
                              "PUBLIC"),
    "a function for all": ("GRANT EXECUTE ON FUNCTION keysmith.maintain() TO PUBLIC", "error", "access",
                           "maintain"),
    "a schema for all": ("GRANT CREATE ON SCHEMA keysmith TO app", "error", "access", "make objects"),
    "a library of one's own": ("GRANT SET ON PARAMETER dynamic_library_path TO app", "warning", "access",
                               "replace the library"),
    "a reader of all": ("GRANT pg_read_all_data TO app", "warning", "access", "pg_read_all_data"),
    "no level": ("SELECT keysmith.create_tenant('t'); SELECT keysmith.alter_keyspace('default', "
                 "'{\"prefixes\": {\"secret\": {\"live\": \"mine_\"}}}'); SELECT keysmith.mint('t') "
                 "FROM generate_series(1, 10); SELECT keysmith.revoke_access('app')", "warning", "access", "no role has"),
    "another version": ("UPDATE pg_extension SET extversion = '0.0.1' WHERE extname = 'keysmith'", "error",
                        "library", "0.0.1"),
    "triggers for subscriptions": ("ALTER TABLE keysmith_private.usage_partition ENABLE TRIGGER ALL", "error", "library",
                                   "usage_partition"),
    "a trigger that is off": ("ALTER TABLE keysmith_private.role DISABLE TRIGGER policy_changed", "error", "library", "keysmith_private.role"),
    "a clock that was set back": ("SELECT keysmith.create_tenant('t'); UPDATE keysmith_private.audit_entry "
                                  "SET at = clock_timestamp() + '1 hour'", "warning", "server", "00:59:59 behind"),
    "an invalid index": ("UPDATE pg_index SET indisvalid = false WHERE indexrelid = "
                         "'keysmith_private.key_of_tenant'::regclass", "error", "library", "key_of_tenant"),
    "an imported key": ("SELECT keysmith.create_tenant('t'); SELECT keysmith.import_key('t', sha256('x'))",
                        "warning", "pepper", "imported"),
    "a view of an old day": ("SELECT keysmith_private.usage_prepare('2020-01-01', '2020-01-01'); "
                             "CREATE VIEW own AS SELECT * FROM keysmith_private.usage_20200101", "warning",
                             "usage", "usage_20200101 can't be dropped: rule _RETURN on view public.own"),
    "days that stay": ("SELECT keysmith_private.usage_prepare('2020-01-01', '2020-01-02')", "warning", "usage",
                       "2 days are kept"),
    "tomorrow": ("SELECT keysmith_private.usage_prepare(); INSERT INTO keysmith_private.usage_event SELECT now(), 0, 1, u, u, u, "
                 "'default', 'live', NULL, NULL, 200, 'ok' FROM gen_random_uuid() u; "
                 "DO $$ DECLARE t regclass; BEGIN FOR t IN SELECT partition FROM keysmith_private.usage_partitions() "
                 "WHERE starts > now() LOOP EXECUTE 'DROP TABLE ' || t; END LOOP; END $$", "warning", "usage",
                 "tomorrow"),
    "deltas": ("INSERT INTO keysmith_private.usage_delta (period, tenant_id, environment, requests, refused, timed, latency) "
               "SELECT now(), '00000000-0000-0000-0000-000000000000', 'live', 1, 0, 0, '0' "
               "FROM generate_series(1, 100001)", "warning", "usage", "changes of totals"),
    "a loss": ("INSERT INTO keysmith_private.usage_incarnation (incarnation, database, server, started_at, most_waiting, "
               "lost_at_most, lost_from, lost_until) VALUES (7, 0, 0, now(), 9, 9, now(), now())", "warning",
               "usage", "cost 9 records"),
    "what could not be stored": ("INSERT INTO keysmith_private.usage_set_aside (incarnation, sequence, request_id, error) "
                                 "VALUES (1, 1, gen_random_uuid(), 'why')", "warning", "usage", "1 records"),
    "a gap": ("DELETE FROM keysmith_private.audit_entry WHERE keyspace = 'default' AND entry = 2", "error", "audit",
              "entry 3"),
    "a cut beginning": ("DELETE FROM keysmith_private.audit_entry WHERE keyspace = 'default' AND entry < 2", "error",
                        "audit", "entry 2"),
    "no audit": ("DELETE FROM keysmith_private.audit_entry "
                 "WHERE keyspace = 'default'", "error", "audit", "no audit"),
}


def test_a_loss_is_told_with_its_own_time(spoilt):
    """Not with that of losses long ago, which are not counted either."""
    spoilt.rows("INSERT INTO keysmith_private.usage_incarnation (incarnation, database, server, started_at, most_waiting, "
                "lost_at_most, lost_from, lost_until) VALUES (7, 0, 0, '2001-01-01', 5, 5, '2001-01-02', '2001-01-03'), "
                "(8, 0, 0, now(), 9, 9, now(), now())")
    (finding,) = [row.finding for row in spoilt.findings() if row.subject == "usage"]
    assert "cost 9 records" in finding and "2001" not in finding


@pytest.mark.parametrize("entries", [1, 999, 1000, 1001, 1500, 1998, 1999, 2000])
def test_a_chain_of_any_length_has_no_gap(spoilt, entries):
    spoilt.rows("DELETE FROM keysmith_private.audit_entry")
    spoilt.rows("INSERT INTO keysmith_private.audit_entry SELECT 'default', n, now(), 'x', 0, '', '' "
               "FROM generate_series(1, %s) n", entries)
    assert [row for row in spoilt.findings() if row.subject == "audit"] == []


@pytest.mark.parametrize("entries, gone, before", [
    (1500, "entry = 1400", 1401), (1500, "entry = 501", 502), (1500, "entry = 500", 501),
    (1500, "entry <= 500", 501), (1000, "entry = 1", 2), (1001, "entry = 1", 2), (1001, "entry <= 3", 4),
    (2000, "entry BETWEEN 1200 AND 1300", 1301), (900, "entry IN (5, 700)", 6)])
def test_a_gap_is_named(spoilt, entries, gone, before):
    spoilt.rows("DELETE FROM keysmith_private.audit_entry")
    spoilt.rows("INSERT INTO keysmith_private.audit_entry SELECT 'default', n, now(), 'x', 0, '', '' "
               "FROM generate_series(1, %s) n", entries)
    spoilt.rows(f"DELETE FROM keysmith_private.audit_entry WHERE {gone}")
    assert [row.finding for row in spoilt.findings() if row.subject == "audit"] \
        == [f"the chain of keyspace default has a gap before entry {before}"]


@pytest.mark.parametrize("statements, level, subject, word", SPOILT.values(), ids=SPOILT)
def test_what_is_spoilt_is_named_and_its_remedy_works(sound, spoilt, statements, level, subject, word):
    check_width(sound, "patient", statements)
    spoilt.rows(statements)
    found = amiss(spoilt, level, subject, word)
    if STATEMENT.match(found.remedy):
        spoilt.rows(found.remedy)
        # Some statements only tell more, and totals are added up only after their commit.
        told = re.search("audit_verify|SELECT error", found.remedy) or "changes of totals" in found.finding
        assert told or found.finding not in [row.finding for row in spoilt.findings()]


@pytest.mark.parametrize("text, lines", [
    ("one two three", ["one two", "three"]),
    ("incomprehensibly long", ["incomprehensibly", "long"]),
    ("a 'b c d e f g' h", ["a", "'b c d e f g'", "h"]),
    ("a \"b c 'd e f\" g 'h'", ["a", "\"b c 'd e f\"", "g 'h'"]),
    ("f('it''s one', 2)", ["f('it''s one',", "2)"]),
    ("it can't be so", ["it can't", "be so"]),
    ("a\nb c", ["a", "b c"]),
    ("", [""]),
])
def test_lines_break_only_at_spaces_outside_of_quotes(db, text, lines):
    assert db.value("SELECT keysmith_private.wrapped(%s, 8)", text).split("\n") == lines


def test_a_sound_installation_has_one_line(sound, patient):
    assert printed(sound, "patient") == [
        " level | subject  |                  finding                   | remedy ",
        "-------+----------+--------------------------------------------+--------",
        " ok    | keysmith | no problem found; preloaded, version 0.1.0 | ",
        "(1 row)",
        ""]


@pytest.mark.parametrize("statements", [
    "CREATE POLICY mine ON photo USING (tenant_id = (SELECT keysmith.current_tenant_id()))",
    "CREATE POLICY mine ON photo USING (name = (SELECT keysmith.current_tenant() || '{')) ",
    "CREATE POLICY mine ON photo USING (EXISTS (SELECT FROM photo p WHERE keysmith.has_scope('a')))",
    "CREATE VIEW mine WITH (security_invoker) AS SELECT * FROM photo",
    "CREATE TABLE part () INHERITS (photo)",
    "CREATE INDEX ON photo (tenant_id, name); CREATE INDEX ON photo (lower(name))",
    "ALTER TABLE photo ADD COLUMN id bigint UNIQUE, ADD COLUMN album bigint REFERENCES photo (id), "
    "ADD COLUMN other uuid UNIQUE; CREATE INDEX ON photo (album)",
    "CREATE TABLE album (tenant_id text)",
    "CREATE TEMPORARY TABLE album (tenant_id uuid)",
    "SELECT keysmith.create_tenant('a'); SELECT keysmith.create_keyspace('b')",
    "SELECT keysmith_private.usage_prepare()",
])
def test_what_is_right_is_left_alone(spoilt, statements):
    spoilt.rows(statements)
    assert spoilt.findings() == []


LOGGING = [
    ({"log_statement": "all"}, "log_statement = all"),
    ({"log_min_duration_statement": "0"}, "log_min_duration_statement = 0"),
    ({"log_min_duration_sample": "5"}, "log_min_duration_sample = 5"),
    ({"log_transaction_sample_rate": "0.5"}, "log_transaction_sample_rate = 0.5"),
    ({"log_parameter_max_length_on_error": "-1"}, "log_parameter_max_length_on_error = -1"),
]


@pytest.mark.parametrize("settings, word", LOGGING, ids=[word for _, word in LOGGING])
def test_logging_of_parameters_is_named_wherever_it_is_set(sound, patient, settings, word):
    ((name, value),) = settings.items()
    for place, whose in [("SYSTEM", ""), ("ROLE app", " of role app"), ("DATABASE patient", " of this database"),
                         ("ROLE app IN DATABASE patient", " of role app")]:
        patient.rows(f"ALTER {place} SET {name} = '{value}'")
        patient.rows("SELECT pg_reload_conf()")
        try:
            wait_until(lambda: patient.findings())
            assert amiss(patient, "warning", "logging", word + whose).remedy.startswith("ALTER ")
            check_width(sound, "patient")
            if name != "log_parameter_max_length_on_error" and place != "ROLE app IN DATABASE patient":
                # If no value is logged, there is no finding.
                patient.rows(f"ALTER {place} SET log_parameter_max_length = 0")
                patient.rows("SELECT pg_reload_conf()")
                wait_until(lambda: not patient.findings())
        finally:
            patient.rows(f"ALTER {place} RESET {name}")
            patient.rows(f"ALTER {place} RESET log_parameter_max_length")
            patient.rows("SELECT pg_reload_conf()")
        wait_until(lambda: not patient.findings())


def test_a_policy_that_is_too_large_for_a_look(spoilt):
    """The text of its tree is four times as long, and an array of its characters exceeds
    memory."""
    spoilt.rows(f"CREATE POLICY mine ON photo USING (keysmith.has_scope('a') OR name = '{'x' * 70_000_000}')")
    assert spoilt.findings() == []


def test_an_audit_log_with_parameters_is_named(spoilt):
    spoilt.rows("ALTER ROLE app SET pgaudit.log_parameter = 'on'")
    row = amiss(spoilt, "warning", "logging", "pgaudit.log_parameter = on of role app")
    spoilt.rows(row.remedy)
    assert spoilt.findings() == []


def test_the_log_has_what_the_warning_says(sound, patient):
    """With the setting a bound key is in the log, and with the remedy it is not."""
    patient.tenant("reader")
    key = patient.mint("reader")
    for longest, expected in [("-1", True), ("0", False)]:
        size = sound.log.stat().st_size
        patient.rows(f"SET log_statement = 'all'; SET log_parameter_max_length = {longest}")
        # Prepared statements keep values apart from their text.
        patient.session.execute("SELECT ok FROM keysmith.verify(%s)", (key.api_key,), prepare=True)
        patient.rows("RESET ALL")
        assert (key.api_key in sound.log.read_text()[size:]) == expected


def test_a_server_that_forgets_and_tells(cluster, dbname, db):
    """The quick clusters of the tests write without flushing."""
    (row,) = db.findings()
    assert (row.level, row.subject) == ("error", "server") and "fsync" in row.finding
    check_width(cluster, dbname)


@needs("auto_explain")
def test_a_server_without_preload():
    cluster = Cluster("bare", port=free_port())
    try:
        cluster.init(preload=False, fsync="on", session_preload_libraries="auto_explain",
                     auto_explain__log_min_duration="0", auto_explain__log_verbose="on",
                     listen_addresses="127.0.0.1,*").start()
        cluster.execute("CREATE EXTENSION keysmith")
        db = session(cluster)
        # From 16 on auto_explain logs parameters too, which is another finding.
        found = {(row.level, row.subject) for row in db.findings()}
        assert found == {("warning", "library"), ("warning", "logging"), ("warning", "server")}
        db.tenant()
        db.rows("UPDATE keysmith_private.tenant SET limits = '5/1 min/5/x'")
        assert db.findings()[0][:2] == ("error", "library")
        check_width(cluster)
    finally:
        cluster.remove()


@needs("pg_stat_statements")
def test_texts_of_utility_statements_that_are_kept():
    """pg_stat_statements removes constants only from the texts of other statements."""
    with running("kept", fsync="on", shared_preload_libraries="keysmith,pg_stat_statements") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith; CREATE EXTENSION pg_stat_statements")
        db.tenant()
        key = db.mint().api_key
        kept = "SELECT count(*) FROM pg_stat_statements WHERE strpos(query, %s) > 0"
        row = amiss(db, "warning", "logging", "pg_stat_statements.track_utility = on")
        check_width(cluster)
        db.rows(f"SELECT keysmith.verify('{key}')")
        assert db.value(kept, key) == 0
        db.rows(f"DO $$ BEGIN PERFORM keysmith.verify('{key}'); END $$")
        assert db.value(kept, key) == 1
        db.rows(row.remedy)
        db.rows("SELECT pg_reload_conf()")
        wait_until(lambda: db.findings() == [])
        db.rows("SELECT pg_stat_statements_reset()")
        db.rows(f"DO $$ BEGIN PERFORM keysmith.verify('{key}'); END $$")
        assert db.value(kept, key) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_peppers():
    cluster = Cluster("pepper")
    file = cluster.dir / "peppers"

    def write(*lines, mode=0o600):
        file.write_text("\n".join(lines) + "\n")
        os.chmod(file, mode)
        owner = cluster.dir.stat()
        os.chown(file, owner.st_uid, owner.st_gid)

    one, two = "1:" + "11" * 32, "2:" + "22" * 32
    try:
        write(one)
        cluster.init(fsync="on", keysmith__pepper_file=file).start()
        cluster.execute("CREATE EXTENSION keysmith")
        db = session(cluster)
        db.tenant()
        key = db.mint()
        assert db.findings() == []
        write(one, mode=0o644)
        amiss(db, "error", "pepper", "no one but the server's user")
        check_width(cluster)
        write(one, two)
        amiss(db, "error", "pepper", "was changed since it was read: reload")
        check_width(cluster)
        cluster.restart()
        db = session(cluster)
        amiss(db, "warning", "pepper", "1 active keys", "older pepper than 2")
        check_width(cluster)
        db.call("rotate", key.key_id)
        assert db.findings() == []
        kept = db.mint()
        write(one)
        cluster.restart()
        db = session(cluster)
        amiss(db, "error", "pepper", "keys of pepper 2 are refused")
        check_width(cluster)
        assert not db.verify(kept.api_key).ok
    finally:
        cluster.remove()


def test_a_worker_that_can_not_start_and_a_buffer_that_fills():
    with running("starved", fsync="on", max_worker_processes="0", keysmith__usage_buffer="64kB",
                 keysmith__max_buckets="16", keysmith__usage_overflow="drop") as cluster:
        cluster.execute("CREATE EXTENSION keysmith")
        db = session(cluster)
        db.tenant()
        key = db.mint()
        for _ in range(300):
            db.verify(key.api_key)
        found = {(row.level, row.subject): row.finding for row in db.findings()}
        text = "\n".join(row.finding for row in db.findings())
        assert ("error", "usage") in found and "could not be started" in text
        assert "the buffer is filling" in text and "records were dropped" in text
        limits = psycopg.types.json.Jsonb([{"name": "x", "limit": 1, "window": "1 hour"}])
        for n in range(40):
            # One tenant takes only a part of the table.
            db.tenant(f"tenant {n}")
            db.verify(db.mint(f"tenant {n}", limits=limits).api_key)
        text = "\n".join(row.finding for row in db.findings() if row.subject == "limits")
        assert "for want of room" in text and "nearly full" in text
        check_width(cluster)


def test_on_a_standby(sound):
    standby = sound.backup("second", 5433)
    try:
        standby.start()
        sound.execute("CREATE ROLE watcher LOGIN")
        sound.execute("SELECT keysmith.grant_access('watcher', 'auditor')")
        sound.execute("SELECT keysmith.wait_for_replay()")
        rows = session(standby, user="watcher").call("doctor")
        assert rows == SOUND
    finally:
        standby.remove()
        sound.execute("SELECT keysmith.revoke_access('watcher'); DROP OWNED BY watcher; DROP ROLE watcher")
