"""Backups: dumps in every format restore everything, and recovery to an earlier time does not
revive revoked keys."""

import os
import shutil
import subprocess
import time
from datetime import timedelta

import pytest
from psycopg.types.json import Jsonb

import cluster as clusters
from cluster import Cluster, run, running
from conftest import session, wait_until
from test_storage import dump
from test_usage_sql import assert_totals


# Dumps

TENANT_LIMITS = Jsonb([{"name": "minute", "limit": 100, "window": "1 minute"}])


@pytest.fixture
def filled(cluster, dbname, db):
    """A database with every kind of data."""
    cluster.execute("CREATE ROLE restored_issuer")
    db.rows("CREATE TABLE orders (tenant_id uuid DEFAULT keysmith.current_tenant_id(), n int)")
    db.call("define_scope", "default", "read")
    db.call("define_role", "default", "editor", ["read"])
    db.call("define_route", "default", "GET", "/orders/{id}", ["read"])
    db.call("create_keyspace", "other", prefixes=Jsonb({"secret": {"live": "o_live_"}}))
    db.tenant("acme", plan="pro", limits=TENANT_LIMITS, credits=Jsonb({"balance": 1000}))
    db.tenant("acme", keyspace="other")
    db.call("set_member", "acme", "ann", "editor")
    db.call("grant_access", "restored_issuer", "issuer", tenant="acme")
    db.call("grant_access", "restored_issuer", "auditor")
    db.call("isolate", "orders", "tenant_id")
    db.call("track", "orders")
    keys = [db.mint(owner="ann", allowlist=["203.0.113.0/24"]), db.mint(credits=50, limits=TENANT_LIMITS)]
    keys.append(db.mint(keyspace="other"))
    db.call("revoke", db.mint().key_id, "over")
    headers = Jsonb({"authorization": f"Bearer {keys[0].api_key}"})
    for n in range(5):
        with db.session.transaction():
            assert db.one("authenticate", headers, "GET", f"/orders/{n}", "203.0.113.9").ok
            db.rows("INSERT INTO orders (n) VALUES (%s)", n)
            db.value("SELECT keysmith.log_request(200 + %s, '3 ms')", n)
    assert db.verify(keys[1].api_key, spend=7).ok
    db.verify(keys[0].api_key, ip="198.51.100.1")
    db.verify("ks_live_nobody")
    # Requests of another day, so that there are several partitions.
    db.rows("""
        DO $$ BEGIN PERFORM keysmith_private.usage_prepare(); END $$;
        INSERT INTO keysmith_private.usage_event (at, incarnation, sequence, request_id, key_id, tenant_id,
            keyspace, environment, status, outcome)
        SELECT now() + interval '1 day', 0, nextval('keysmith_private.usage_sequence'), gen_random_uuid(),
               key_id, tenant_id, keyspace, environment, 200, 'ok' FROM keysmith_private.key, generate_series(1, 20)""")
    db.call("flush_usage")
    assert db.value("SELECT count(DISTINCT tableoid) FROM keysmith_private.usage_event") == 2
    yield db, keys
    cluster.execute("DROP OWNED BY restored_issuer", dbname)


@pytest.fixture
def issuer_is_dropped(cluster):
    yield
    cluster.execute("DROP ROLE IF EXISTS restored_issuer")


def contents(db):
    """The restored data that users see."""
    return {what: db.rows(f"SELECT {what} ORDER BY 1, 2, 3, 4, 5") for what in (
        "* FROM keysmith.keys", "* FROM keysmith.usage", "* FROM keysmith.usage_daily",
        "* FROM keysmith.usage_hourly", "* FROM keysmith.usage_endpoints", "* FROM keysmith.audit",
        "credit_id, key_id, tenant_id, balance, refill FROM keysmith_private.credit",
        "role::text, level, tenant_id, granted_at, 1 FROM keysmith_private.access",
        "keyspace, name, plan, limits, metadata FROM keysmith_private.tenant",
        "keyspace, reason, hour, requests, 1 FROM keysmith_private.usage_unknown",
        "relation::text, key_id, rows, first_at, last_at FROM keysmith.touches",
    )}


RESTORES = {
    # name: (pg_dump's options, pg_restore's; None for psql)
    "plain": ([], None),
    "custom": (["-Fc"], ["--exit-on-error"]),
    "custom in parallel": (["-Fc"], ["--exit-on-error", "-j", "3"]),
    "custom at once": (["-Fc"], ["--exit-on-error", "--single-transaction"]),
    "directory in parallel": (["-Fd", "-j", "3"], ["--exit-on-error", "-j", "3"]),
}
# An extension's tables have foreign keys before they have rows, and parallel jobs don't wait for
# each other's rows: see docs/operations.md.
IN_PARALLEL = "options='-c session_replication_role=replica'"


@pytest.mark.parametrize("template, formats", [
    ("template0", list(RESTORES)), ("with_keysmith", ["plain", "directory in parallel"])])
def test_all_that_there_is_restores_in_every_format(
        cluster, dbname, issuer_is_dropped, filled, template, formats, tmp_path):
    """Into an empty database, and into one with only the extension."""
    db, keys = filled
    # All dumps have the same state: the worker may add up totals in between.
    with cluster.connect(dbname, autocommit=False) as moment:
        moment.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        (snapshot,) = moment.execute("SELECT pg_export_snapshot()").fetchone()
        first = dump(cluster, dbname, f"--snapshot={snapshot}")
        for number, name in enumerate(formats):
            options, _ = RESTORES[name]
            archive = tmp_path / str(number)
            cluster.program("pg_dump", f"--snapshot={snapshot}", *options, "-f", archive, dbname=dbname)
    seen = contents(db)
    for number, name in enumerate(formats):
        _, how = RESTORES[name]
        archive = tmp_path / str(number)
        restored = f"{dbname}_restored"
        cluster.execute(f"CREATE DATABASE {restored} TEMPLATE {template}")
        try:
            if how is None:
                cluster.psql(archive.read_text(), dbname=restored)
            else:
                where = f"dbname={restored} {IN_PARALLEL}" if "-j" in how else restored
                cluster.program("pg_restore", *how, archive, dbname=where)
            # The triggers of a restore update keyspaces, so their order may differ.
            assert sorted(dump(cluster, restored).splitlines()) == sorted(first.splitlines()), name
            there = session(cluster, restored)
            for what, rows in contents(there).items():
                assert rows == seen[what], f"{name}: {what}"
            assert_totals(there)
            assert {row.ok for row in there.call("audit_verify")} == {True}
            assert there.verify(keys[0].api_key, ip="203.0.113.1", scopes=["read"]).ok
            assert there.reason(keys[0].api_key, ip="198.51.100.1") == "ip_not_allowed"
            assert there.verify(keys[1].api_key, spend=1).credits_remaining == 42
            assert there.verify(keys[2].api_key, keyspace="other").ok
            there.call("flush_usage")
            assert_totals(there)
            there.session.close()
        finally:
            cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")


def test_events_of_credits_that_wait_are_restored(cluster, dbname, db):
    """And those of later spends have other numbers."""
    db.tenant()
    keys = [db.mint(credits=1) for _ in range(3)]
    # The worker can't move them to the audit.
    db.rows("UPDATE keysmith_private.audit_entry SET generation = 9")
    for key in keys[:2]:
        assert db.verify(key.api_key, spend=1).ok
    restored = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {restored}")
    try:
        cluster.psql(dump(cluster, dbname), dbname=restored)
        there = session(cluster, restored)
        assert there.verify(keys[2].api_key, spend=1).ok
        there.rows("UPDATE keysmith_private.audit_entry SET generation = 0")
        there.call("maintain")
        wait_until(lambda: not there.rows("SELECT FROM keysmith_private.credit_event"))
        events = [row.key_id for row in there.call("events_after") if row.event == "credits.exhausted"]
        assert events == [key.key_id for key in keys]
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")


def test_the_owner_of_a_table_restores_it_alone(cluster, dbname, db):
    """Its triggers, default and policies name our functions."""
    cluster.execute("CREATE ROLE table_owner LOGIN")
    restored = f"{dbname}_restored"
    cluster.execute(f"CREATE DATABASE {restored} TEMPLATE with_keysmith")
    try:
        for name in (dbname, restored):
            cluster.execute("SELECT keysmith.grant_access('table_owner', 'verifier'); "
                            "GRANT CREATE ON SCHEMA public TO table_owner", name)
        owner = session(cluster, dbname, user="table_owner")
        owner.rows("CREATE TABLE letters (id int PRIMARY KEY, email text, body text, "
                   "tenant_id uuid DEFAULT keysmith.current_tenant_id())")
        for function, *arguments in [("isolate", "tenant_id"), ("track",), ("protect", "email"), ("seal_rows",)]:
            owner.call(function, "letters", *arguments)
        as_owner = ["-U", "table_owner", "-t", "letters"]
        # The rows are sealed, and so the owner sees them whole.
        text = cluster.program("pg_dump", "--enable-row-security", *as_owner, dbname=dbname).stdout
        cluster.program("psql", "-X", "-v", "ON_ERROR_STOP=1", "-U", "table_owner", dbname=restored, input=text)
        made = """SELECT tgname::text, tgfoid::regprocedure::text, tgargs FROM pg_trigger
                  WHERE tgrelid = 'letters'::regclass AND NOT tgisinternal ORDER BY 1"""
        there = session(cluster, restored)
        assert len(db.rows(made)) >= 3 and there.rows(made) == db.rows(made)
        there.tenant("acme")
        with there.session.transaction():
            assert there.verify(there.mint().api_key, sign_in=True).ok
            there.rows("SET LOCAL ROLE table_owner; INSERT INTO letters VALUES (1, 'ann@example.org', 'x')")
        assert there.value("SELECT keysmith.matches('ann@example.org', email) FROM letters")
        assert there.call("verify_rows", "letters") == []
        there.session.close()
        owner.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")
        cluster.execute("DROP OWNED BY table_owner CASCADE", dbname)
        cluster.execute("DROP ROLE table_owner")


def test_a_restore_into_a_database_that_was_used_stops_and_changes_nothing(
        cluster, dbname, issuer_is_dropped, filled, tmp_path):
    db, _ = filled
    archive = tmp_path / "dump"
    cluster.program("pg_dump", "-Fc", "-f", archive, dbname=dbname)
    restored = f"{dbname}_used"
    cluster.execute(f"CREATE DATABASE {restored} TEMPLATE with_keysmith")
    try:
        there = session(cluster, restored)
        there.tenant("acme")
        key = there.mint()
        before = dump(cluster, restored)
        failed = cluster.program("pg_restore", "--exit-on-error", "--single-transaction", archive,
                                 dbname=restored, check=False)
        assert failed.returncode != 0 and "duplicate key" in failed.stdout
        assert dump(cluster, restored) == before
        assert there.verify(key.api_key).ok
        there.session.close()
    finally:
        cluster.execute(f"DROP DATABASE {restored} WITH (FORCE)")


# Recovery to a moment

@pytest.fixture(scope="module")
def past():
    """A server with keys, a time after which some of them were revoked, and a way back:
    `past(target)` is a server recovered to that time."""
    recovered = []
    with running("archiving", archive_mode="on", archive_command="true") as old:
        archive = old.dir / "archive"
        archive.mkdir()
        if clusters._SERVER_USER:
            os.chown(archive, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)
        old.configure(archive_command=f"cp %p {archive}/%f")
        old.execute("SELECT pg_reload_conf()")
        db = session(old)
        db.rows("CREATE EXTENSION keysmith")
        story = tell(db, old)

        def recover(**target):
            there = Cluster("recovered", port=5440 + len(recovered))
            recovered.append(there)
            shutil.copytree(old.dir / "backup", there.data)
            there.data.chmod(0o700)
            if clusters._SERVER_USER:
                subprocess.run(["chown", "-R", "postgres:postgres", there.data], check=True)
            there.configure(port=there.port, unix_socket_directories=str(there.dir),
                            restore_command=f"cp {archive}/%f %p", archive_mode="off",
                            recovery_target_action="promote", **target)
            (there.data / "recovery.signal").touch()
            there.start()
            db = session(there)
            deadline = time.monotonic() + 120
            while db.value("SELECT pg_is_in_recovery()"):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            return db

        yield old, db, story, recover
        for there in recovered:
            there.remove()


def tell(db, old):
    """Keys with every fate, named after it."""
    db.call("define_role", "default", "wide", ["read", "write"])
    db.call("define_role", "default", "narrowed", ["read", "write"])
    db.call("define_role", "default", "viewer", ["read"])
    for tenant in ("acme", "suspended"):
        db.tenant(tenant)
    for member in ("leaver", "demoted"):
        db.call("set_member", "acme", member, "wide")
    options = {
        "kept": {}, "revoked": {}, "disabled": {}, "leaked": {}, "rotated": {}, "in_grace": {},
        "regenerated": {"label": None}, "ends_sooner": {}, "narrowed": {"scopes": ["read", "write"]},
        "fenced": {}, "of_leaver": {"owner": "leaver"}, "of_demoted": {"owner": "demoted"},
        "of_role": {"role": "narrowed"}, "back_again": {},
    }
    keys = {fate: db.mint(**({"label": fate} | option)) for fate, option in options.items()}
    keys["of_suspended"] = db.mint("suspended")
    run("pg_basebackup", "-h", old.dir, "-p", old.port, "-U", "postgres", "-D", old.dir / "backup",
        "-c", "fast", "--no-sync", as_server=True)
    db.call("disable", keys["back_again"].key_id)
    time.sleep(0.05)  # not checked: the clock moves on
    moment = db.value("SELECT clock_timestamp()")
    time.sleep(0.05)  # not checked: the clock moves on

    def key_id(fate):
        return keys[fate].key_id

    db.call("enable", key_id("back_again"))
    db.call("revoke", key_id("revoked"), "it leaked")
    db.call("disable", key_id("disabled"))
    db.call("report_leak", keys["leaked"].api_key, "a page")
    keys["successor"] = db.one("rotate", key_id("rotated"))
    db.one("rotate", key_id("in_grace"), "1 second")
    db.one("regenerate", "acme")
    db.rows("SELECT keysmith.alter_key(%s, jsonb_build_object('expires_at', clock_timestamp() + interval '1 second'))",
            key_id("ends_sooner"))
    db.call("alter_key", key_id("narrowed"), Jsonb({"scopes": ["read"], "label": "only reads"}))
    db.call("alter_key", key_id("fenced"), Jsonb({"allowlist": ["203.0.113.0/24"]}))
    db.call("remove_member", "acme", "leaver")
    db.call("set_member", "acme", "demoted", "viewer")
    db.call("define_role", "default", "narrowed", ["read"])
    db.call("suspend_tenant", "suspended", reason="unpaid")
    keys["made_since"] = db.mint(label="made since")
    db.call("revoke", keys["made_since"].key_id)
    db.rows("SELECT pg_switch_wal()")
    (last,) = old.execute("SELECT pg_walfile_name(pg_switch_wal())")[0]
    deadline = time.monotonic() + 120
    while not list((old.dir / "archive").glob(last)):
        old.execute("CHECKPOINT; SELECT pg_switch_wal()")
        assert time.monotonic() < deadline, "the WAL is not archived"
        time.sleep(0.2)
    time.sleep(1)  # not checked: what ends in a second has ended
    return keys, moment


def admitted(db, keys):
    """The keys that may write, from anywhere."""
    return {fate for fate, key in keys.items()
            if db.verify(key.api_key, scopes=["write"], ip="198.51.100.1").ok}


OVER = {"revoked", "disabled", "leaked", "rotated", "in_grace", "regenerated", "ends_sooner",
        "narrowed", "fenced", "of_leaver", "of_demoted", "of_role", "of_suspended"}


def test_recovery_to_a_moment_raises_nobody_from_the_dead(past):
    old, db, (keys, moment), recover = past
    assert admitted(db, keys) == {"kept", "back_again", "successor"}
    # A margin does no harm: acts that happened already stay as they are.
    log = db.value("SELECT jsonb_agg(r) FROM keysmith.revocations_since(%s) r",
                   moment - timedelta(hours=1))
    back = recover(recovery_target_time=str(moment))
    # The control: all of them work again.
    assert admitted(back, keys) == OVER | {"kept"}
    # Without those that the worker makes when keys end.
    count = "SELECT count(*) FROM keysmith.audit WHERE action NOT LIKE 'key.%'"
    entries = back.value(count)
    with back.session.transaction():
        outcomes = {(row.action, row.key_id, row.name): row.outcome
                    for row in back.call("replay_revocations", Jsonb(log))}
    assert admitted(back, keys) == {"kept"}
    assert back.verify(keys["narrowed"].api_key, scopes=["read"]).ok
    assert back.verify(keys["fenced"].api_key, ip="203.0.113.5", scopes=["write"]).ok
    # Owners are bounded by their role.
    assert back.verify(keys["of_demoted"].api_key, scopes=["read"]).ok
    assert back.row("SELECT revoked_reason, revoked_at FROM keysmith.keys WHERE key_id = %s",
                    keys["revoked"].key_id) == \
        db.row("SELECT revoked_reason, revoked_at FROM keysmith.keys WHERE key_id = %s",
               keys["revoked"].key_id)
    assert outcomes["revoke", keys["made_since"].key_id, None] == "unknown"
    assert outcomes["alter", keys["narrowed"].key_id, None] == "done"
    assert outcomes["remove_member", None, "leaver"] == "done"
    # It is in the audit, and once is enough.
    noted = back.value(count) - entries
    assert noted == list(outcomes.values()).count("done") == len(OVER)
    assert {row.ok for row in back.call("audit_verify")} == {True}
    again = {row.outcome for row in back.call("replay_revocations", Jsonb(log))}
    assert again == {"already", "unknown"}
    assert back.value(count) == entries + noted
    back.session.close()


def test_with_the_old_server_gone_its_archive_tells(past):
    """If only backup and archive remain, a second server that is recovered to the end of the
    archive lists the acts that the first must repeat."""
    old, db, (keys, moment), recover = past
    last = recover()
    log = last.value("SELECT jsonb_agg(r) FROM keysmith.revocations_since(%s) r", moment)
    assert log == db.value("SELECT jsonb_agg(r) FROM keysmith.revocations_since(%s) r", moment)
    back = recover(recovery_target_time=str(moment))
    assert admitted(back, keys) == OVER | {"kept"}
    back.call("replay_revocations", Jsonb(log))
    assert admitted(back, keys) == {"kept"}
    for there in (last, back):
        there.session.close()


def test_a_log_that_is_kept_outside_tells(past):
    """Each line of a log that was exported in parts, including acts that were undone later."""
    old, db, (keys, moment), recover = past
    back = recover(recovery_target_time=str(moment))
    lines = [line for line, in db.rows("SELECT to_jsonb(r)::text FROM keysmith.revocations_since(%s) r",
                                       moment)]
    assert len(lines) >= len(OVER)
    outcomes = [row.outcome for row in back.call("replay_revocations", "[" + ",".join(lines * 2) + "]")]
    assert outcomes.count("done") == len(OVER)
    assert admitted(back, keys) == {"kept"}
    back.session.close()


# Bounds of revocations_since

def test_nothing_since_now(db):
    db.tenant()
    key = db.mint()
    db.call("revoke", key.key_id)
    assert db.call("revocations_since", "infinity") == []
    (row,) = db.call("revocations_since", "-infinity")
    assert (row.action, row.tenant, row.key_id, row.reason) == ("revoke", "acme", key.key_id, "revoked")


def test_a_key_lives_no_longer_for_a_replay(db):
    db.tenant()
    soon, late = "2030-01-01 00:00:00+00", "2031-01-01 00:00:00+00"
    key = db.mint(expires_at=late)
    entry = {"action": "alter", "keyspace": "default", "key_id": str(key.key_id)}

    def outcome(expires_at):
        (row,) = db.call("replay_revocations", Jsonb([entry | {"changes": {"expires_at": expires_at}}]))
        return row.outcome

    expiry = "SELECT expires_at FROM keysmith.keys WHERE key_id = %s"
    assert outcome(soon) == "done"
    assert outcome(late) == outcome(None) == outcome(soon) == "already"
    assert db.value(expiry, key.key_id) == db.value("SELECT %s::timestamptz", soon)


@pytest.mark.parametrize("given, complaint", [
    ({}, "must be an array"),
    ("revoke", "must be an array"),
    (["revoke"], "revocations[1] must be a JSON object"),
    ([{"action": "revoke"}], 'revocations[1] must have a field "keyspace"'),
    ([{"action": "revoke", "keyspace": "default"}], "revocations[1].key_id must not be null"),
    ([{"action": "revoke", "keyspace": "default", "key_id": "x"}], "revocations[1].key_id must be a uuid"),
    ([{"action": "revoke", "keyspace": "default", "key_id": 1}], "revocations[1].key_id must be a string"),
    ([{"action": "enable", "keyspace": "default", "key_id": None}], "revocations[1].action must be one of: revoke"),
    ([{"action": "revoke", "keyspace": "default", "more": 1}], 'unknown field "more"'),
    ([{"action": "alter", "keyspace": "default", "changes": {"label": "x"}}], 'unknown field "label"'),
    ([{"action": "alter", "keyspace": "default", "changes": {"allowlist": ["x"]}}], "allowlist[0] must be"),
    ([{"action": "alter", "keyspace": "default", "changes": {"scopes": ["no scope"]}}], "scopes[0] must have"),
    ([{"action": "alter", "keyspace": "default", "changes": {"expires_at": "soon"}}], "must be a timestamp"),
    ([{"action": "suspend", "keyspace": "default"}], "revocations[1].tenant must not be null"),
    ([{"action": "remove_member", "keyspace": "default", "tenant": "acme"}], "revocations[1].name must not be null"),
    ([{"action": "define_role", "keyspace": "default", "name": "r"}], "changes.scopes must not be null"),
])
def test_what_is_no_list_of_revocations_is_refused_whole(db, given, complaint):
    db.tenant()
    key = db.mint()
    good = {"action": "revoke", "keyspace": "default", "key_id": str(key.key_id)}
    given = [good, *given] if isinstance(given, list) else given
    message = db.refused("KS400", "replay_revocations", Jsonb(given))
    assert complaint in message
    assert db.verify(key.api_key).ok


def test_keys_of_a_keyspace_that_was_dropped_are_revoked(db):
    """Unless they are of a later one of that name."""
    def made():
        db.call("create_keyspace", "studio")
        db.tenant(keyspace="studio")
        return db.mint(keyspace="studio")

    def outcome():
        return db.one("replay_revocations", Jsonb(log)).outcome

    made()
    db.call("drop_keyspace", "studio", True)
    log = db.value("SELECT jsonb_agg(r) FROM keysmith.revocations_since('2020-01-01') r")
    assert [(row["action"], row["keyspace"]) for row in log] == [("drop_keyspace", "studio")]
    assert outcome() == "unknown"
    later = made()
    old = db.mint(keyspace="studio")
    assert outcome() == "unknown"
    # As in a database that was restored.
    db.rows("UPDATE keysmith_private.key SET created_at = '2020-01-01' WHERE key_id = %s", old.key_id)
    assert outcome() == "done"
    assert db.reason(old.api_key, keyspace="studio") == "revoked"
    assert db.verify(later.api_key, keyspace="studio").ok
    assert outcome() == "already"
    assert "at" in db.refused("KS400", "replay_revocations", Jsonb([{"action": "drop_keyspace", "keyspace": "studio"}]))
    assert all(row.ok for row in db.call("audit_verify"))


def test_a_role_that_is_gone_must_be_defined_first(db):
    db.tenant()
    key = db.mint()
    entry = {"action": "alter", "keyspace": "default", "key_id": str(key.key_id),
             "changes": {"role": "viewer"}}
    assert "viewer" in db.refused("KS404", "replay_revocations", Jsonb([entry]))
    db.call("define_role", "default", "viewer", ["read"])
    assert db.one("replay_revocations", Jsonb([entry])).outcome == "done"
    assert db.reason(key.api_key, scopes=["write"]) == "insufficient_scope"


def test_what_was_made_since_is_unknown(db):
    nobody = "00000000-0000-0000-0000-000000000000"
    entries = [
        {"action": "revoke", "keyspace": "gone", "key_id": nobody},
        {"action": "suspend", "keyspace": "gone", "tenant": "acme"},
        {"action": "remove_member", "keyspace": "default", "tenant": "nobody", "name": "ann"},
        {"action": "define_role", "keyspace": "gone", "name": "r", "changes": {"scopes": []}},
        {"action": "drop_keyspace", "keyspace": "gone", "at": "2020-01-01T00:00:00Z"},
    ]
    assert [row.outcome for row in db.call("replay_revocations", Jsonb(entries))] == ["unknown"] * 5
    assert db.call("replay_revocations", Jsonb([])) == []


def test_without_an_argument(db):
    assert "since" in db.refused("KS400", "revocations_since", None)
    assert "revocations" in db.refused("KS400", "replay_revocations", None)


def test_more_than_a_megabyte_is_replayed(db):
    db.tenant()
    key = db.mint()
    entry = {"action": "disable", "keyspace": "default", "key_id": str(key.key_id)}
    many = [entry | {"reason": "x" * 900, "key_id": f"{n:032x}"} for n in range(1500)]
    rows = db.call("replay_revocations", Jsonb([*many, entry]))
    assert len(rows) == 1501 and rows[-1].outcome == "done"
    assert db.reason(key.api_key) == "disabled"
