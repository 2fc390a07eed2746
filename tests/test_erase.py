"""Erasing a tenant: nothing that may identify its people is left, and the audit is still proven."""

import base64
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

from conftest import session, wait_until
from cluster import running

# In names, members, labels, metadata, addresses, reasons: each is in one place or several.
MARKS = ["Zaphod-tenant", "Zaphod-member", "Zaphod-label", "Zaphod-metadata", "Zaphod-reason", "Zaphod-suspended", "Zaphod-notes"]
ADDRESS, NETWORK = "203.0.113.77", "203.0.113.76/30"


def lively(db, tenant=MARKS[0]):
    """A tenant with a mark of its people in every place that has one."""
    db.call("define_role", "default", "dev", ["*"])
    # Long enough to be stored apart, and nothing that could be compressed.
    notes = base64.b64encode(random.Random(1).randbytes(9000)).decode() + MARKS[6]
    db.tenant(tenant, metadata=Jsonb({"contact": MARKS[3], "notes": notes}))
    db.call("set_member", tenant, MARKS[1], "dev")
    key = db.mint(tenant, label=MARKS[2], owner=MARKS[1], metadata=Jsonb({"of": MARKS[3]}), allowlist=[NETWORK])
    revoked = db.mint(tenant, label=MARKS[2])
    db.call("revoke", revoked.key_id, MARKS[4])
    db.rows("CREATE TABLE IF NOT EXISTS docs (body text)")
    db.call("track", "docs")
    with db.session.transaction():
        assert db.verify(key.api_key, ip=ADDRESS, sign_in=True).ok
        db.rows("INSERT INTO docs VALUES ('x')")
    with db.session.transaction():
        db.call("act_as", tenant, MARKS[1])
        db.rows("INSERT INTO docs VALUES ('x')")
    db.call("suspend_tenant", tenant, reason=MARKS[5])
    db.call("resume_tenant", tenant)
    db.call("flush_usage")
    return key


def text_of(db):
    """All rows of all our tables, as text."""
    tables = [name for name, in db.rows(
        "SELECT c.oid::regclass::text FROM pg_class c WHERE c.relkind = 'r' "
        "AND c.relnamespace = 'keysmith_private'::regnamespace")]
    return "\n".join(db.value(f"SELECT coalesce(string_agg(t::text, E'\\n'), '') FROM {name} t") for name in tables)


def problems(db):
    return {row.keyspace: row.problem for row in db.call("audit_verify") if not row.ok}


@pytest.fixture
def others(connect, database):
    session = database(connect(autocommit=False))
    yield session
    session.session.rollback()


def test_nothing_of_its_people_is_left(db):
    db.tenant("globex")
    theirs = db.mint("globex", label="theirs")
    key = lively(db)
    before = text_of(db)
    assert all(mark in before for mark in [*MARKS, ADDRESS])
    id = db.value("SELECT tenant_id FROM keysmith.tenants WHERE tenant = %s", MARKS[0])
    db.call("erase_tenant", MARKS[0])
    left = text_of(db)
    assert [mark for mark in [*MARKS, ADDRESS, NETWORK] if mark in left] == []
    assert problems(db) == {}
    # Counts, times and the revoked keys stay, under the id.
    assert db.reason(key.api_key, ip=ADDRESS) == "revoked"
    assert db.value("SELECT count(*) FROM keysmith.usage WHERE tenant = %s", str(id)) >= 2
    assert db.value("SELECT count(*) FROM keysmith.touches WHERE tenant = %s", str(id)) == 2
    assert db.row("SELECT status, suspended_reason, active_keys, members FROM keysmith.tenants WHERE tenant_id = %s", id) \
        == ("suspended", "erased", 0, 0)
    assert db.verify(theirs.api_key).ok
    assert db.value("SELECT label FROM keysmith.keys WHERE key_id = %s", theirs.key_id) == "theirs"
    assert db.value("SELECT count(*) FROM keysmith.audit WHERE tenant = 'globex'") == 2
    assert "Zaphod" in db.refused("KS404", "mint", MARKS[0])


def erasure(db):
    return db.row("SELECT entry, tenant, before, after FROM keysmith.audit WHERE action = 'erase_tenant'"
                  " ORDER BY entry DESC LIMIT 1")


def test_the_entry_names_the_entries_that_lost_their_content(db):
    id = db.tenant()
    db.tenant("globex")
    db.mint()
    db.mint()
    db.call("erase_tenant", "acme")
    entry = erasure(db)
    first = db.value("SELECT min(entry) FROM keysmith.audit WHERE action = 'create_tenant'")
    assert (entry.tenant, entry.before, entry.after) \
        == (str(id), None, {"entries": [[first, first], [first + 2, first + 3]]})
    assert problems(db) == {}
    # A second erasure deletes what came later, and not what the first says.
    db.call("resume_tenant", str(id))
    db.call("erase_tenant", str(id))
    assert erasure(db).after == {"entries": [[entry.entry + 1, entry.entry + 1]]}
    assert problems(db) == {}


@pytest.mark.parametrize("change, problem", [
    # No entry names it.
    ("DELETE FROM keysmith_private.audit_content c USING keysmith_private.audit_entry a "
     "WHERE c.digest = a.content AND a.entry = {globex}", "entry {globex} has no content any more"),
    # The entry is changed to name it.
    ("UPDATE keysmith_private.audit_content SET after = '{{\"entries\": [[1, 100]]}}' WHERE after ? 'entries'; "
     "DELETE FROM keysmith_private.audit_content c USING keysmith_private.audit_entry a "
     "WHERE c.digest = a.content AND a.entry = {globex}", "entry {by} was changed: it has another content"),
    # An erasure names only entries before it, and not itself.
    ("DELETE FROM keysmith_private.audit_content WHERE after ? 'entries'", "entry {erased} has no content any more"),
    ("DELETE FROM keysmith_private.audit_content c USING keysmith_private.audit_entry a "
     "WHERE c.digest = a.content AND a.entry = {by} + 1", "entry {after} has no content any more"),
])
def test_other_content_is_still_missed(db, change, problem):
    db.tenant()
    db.tenant("globex")
    db.call("erase_tenant", "acme")
    db.tenant("initech")
    by = erasure(db).entry
    places = {"globex": by - 1, "erased": by - 2, "by": by, "after": by + 1}
    assert problems(db) == {}
    db.rows(change.format(**places))
    assert problems(db) == {"default": problem.format(**places)}


def test_an_erasure_hides_no_change(db):
    """Content that was changed so that it would be erased with that of a tenant stays, and so does the fault."""
    id = db.tenant()
    db.tenant("globex")
    key = db.mint("globex")
    by = db.value("SELECT max(entry) FROM keysmith.audit")
    db.rows("UPDATE keysmith_private.audit_content SET tenant_id = %s WHERE key_id = %s", id, key.key_id)
    fault = {"default": f"entry {by} was changed: it has another content"}
    assert problems(db) == fault
    notices = []
    db.session.add_notice_handler(lambda notice: notices.append(notice.message_primary))
    db.call("erase_tenant", "acme")
    assert problems(db) == fault
    assert notices == [f'entries of the audit of keyspace "default" were changed by hand, and keep their content: [[{by}, {by}]]']
    assert erasure(db).after == {"entries": [[by - 2, by - 2]]}


def test_what_a_call_was_given_can_no_longer_be_guessed(db):
    db.tenant()
    key = db.mint(idempotency_key=f"{MARKS[1]}@example.org")
    digests = "SELECT idempotency_digest, arguments_digest FROM keysmith_private.key WHERE key_id = %s"
    assert None not in db.row(digests, key.key_id)
    db.call("erase_tenant", "acme")
    assert db.row(digests, key.key_id) == (None, None)


def test_a_check_during_erasures_finds_no_fault(db, others):
    """The check reads a long chain in parts: an erasure that commits meanwhile deletes content before its
    entry is there."""
    others.session.autocommit = True
    for n in range(300):
        db.tenant(f"t{n}")
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(lambda: [others.call("erase_tenant", f"t{n}") for n in reversed(range(300))])
        found = []
        while not done.done():
            found.append(problems(db))
        done.result()
    assert found and found == [{}] * len(found)
    assert problems(db) == {}


def test_records_that_arrive_later_bring_nothing_back(db, others):
    """Records of requests wait in memory, or in a transaction, when the tenant is erased."""
    db.tenant()
    db.call("define_role", "default", "dev", ["*"])
    db.call("set_member", "acme", MARKS[1], "dev")
    key = db.mint()
    assert others.verify(key.api_key, ip=ADDRESS).ok
    others.call("act_as", "acme", MARKS[1])
    db.call("erase_tenant", "acme")
    others.session.commit()
    assert db.reason(key.api_key, ip=ADDRESS) == "revoked"
    db.call("flush_usage")
    assert db.rows("SELECT outcome, ip, member FROM keysmith_private.usage_event ORDER BY 1, 3") == [
        ("ok", None, ""), ("ok", None, None), ("revoked", None, None)]


@pytest.mark.parametrize("act", [
    lambda db, key: db.mint(label=MARKS[2]),
    lambda db, key: db.call("alter_key", key.key_id, Jsonb({"label": MARKS[2]})),
    lambda db, key: db.call("set_member", "acme", MARKS[1], "dev"),
    lambda db, key: db.one("rotate", key.key_id),
])
@pytest.mark.parametrize("goes_first", ["the act", "the erasure"])
def test_an_act_at_the_same_time_leaves_nothing(connect, database, db, others, act, goes_first):
    """Whichever goes first: the erasure waits and sees what was done, or the act finds no tenant."""
    db.tenant()
    db.call("define_role", "default", "dev", ["*"])
    key = db.mint()
    waiting = database(connect())
    pid = waiting.session.info.backend_pid
    erase = lambda by: by.call("erase_tenant", "acme")
    first, second = (erase, lambda by: act(by, key))
    if goes_first == "the act":
        first, second = second, first
    first(others)

    def run():
        try:
            second(waiting)
        except psycopg.Error as error:
            return error.sqlstate

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(run)
        wait_until(lambda: db.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))
        others.session.commit()
        assert done.result() == (None if goes_first == "the act" else "KS404")
    left = text_of(db)
    assert MARKS[1] not in left and MARKS[2] not in left
    assert db.value("SELECT count(*) FROM keysmith.keys WHERE status <> 'revoked'") == 0
    assert problems(db) == {}


def test_a_rotation_at_the_same_time_waits_in_no_circle(connect, database, db, others):
    """A rotation locks its key, and its new key then needs the tenant."""
    db.tenant()
    keys = sorted((db.mint() for _ in range(2)), key=lambda key: key.key_id)
    others.call("alter_key", keys[0].key_id, Jsonb({"label": "x"}))
    erasing, rotating = database(connect()), database(connect())

    def blocked(by):
        pid = by.session.info.backend_pid
        wait_until(lambda: db.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", pid))

    with ThreadPoolExecutor(2) as pool:
        erased = pool.submit(erasing.call, "erase_tenant", "acme")
        blocked(erasing)
        rotated = pool.submit(rotating.one, "rotate", keys[1].key_id)
        wait_until(lambda: rotated.done() or db.value(
            "SELECT cardinality(pg_blocking_pids(%s)) > 0", rotating.session.info.backend_pid))
        others.session.commit()
        erased.result()
        assert rotated.exception() is None
    assert db.value("SELECT array_agg(DISTINCT status) FROM keysmith.keys") == ["revoked"]
    assert problems(db) == {}


def test_a_touch_at_the_same_time_leaves_nothing(connect, database, db, others):
    db.tenant()
    db.call("define_role", "default", "dev", ["*"])
    db.call("set_member", "acme", MARKS[1], "dev")
    db.rows("CREATE TABLE docs (body text)")
    db.call("track", "docs")
    person = database(connect(autocommit=False))
    person.call("act_as", "acme", MARKS[1])
    others.call("erase_tenant", "acme")
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(person.rows, "INSERT INTO docs VALUES ('x')")
        wait_until(lambda: db.value("SELECT cardinality(pg_blocking_pids(%s)) > 0", person.session.info.backend_pid))
        others.session.commit()
        assert done.exception().sqlstate == "KS401"
    person.session.rollback()
    assert MARKS[1] not in text_of(db)


def test_what_is_refused_changes_nothing(db, others):
    db.tenant()
    db.mint(label=MARKS[2])
    before = text_of(db)
    assert "globex" in db.refused("KS404", "erase_tenant", "globex")
    assert "nowhere" in db.refused("KS404", "erase_tenant", "acme", "nowhere")
    assert "tenant" in db.refused("KS400", "erase_tenant", None)
    others.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    assert "READ COMMITTED" in others.refused("KS409", "erase_tenant", "acme")
    others.session.rollback()
    # The numbers of its entries are not known before the commit.
    others.mint()
    assert "same transaction" in others.refused("KS409", "erase_tenant", "acme")
    others.session.rollback()
    # Somebody gave the id as a name to another tenant.
    id = db.value("SELECT tenant_id FROM keysmith.tenants")
    assert text_of(db) == before
    db.tenant(str(id))
    assert str(id) in db.refused("KS409", "erase_tenant", "acme")
    assert db.value("SELECT label FROM keysmith.keys") == MARKS[2]


def test_whoever_is_signed_in_notices(db, others, connect, database):
    db.tenant()
    key = db.mint()
    signed_in, person = (database(connect(autocommit=False)) for _ in range(2))
    assert signed_in.verify(key.api_key, sign_in=True).ok
    person.call("act_as", "acme")
    # Decisions do not wait for it.
    others.call("erase_tenant", "acme")
    assert db.verify(key.api_key).ok
    for session in (signed_in, person):
        assert session.value("SELECT keysmith.current_tenant()") == "acme"
    others.session.commit()
    for session in (signed_in, person):
        session.refused("KS401", "current_tenant")
        session.session.rollback()
    assert db.reason(key.api_key) == "revoked"


def files_with(directory, marks):
    """The files with each mark, and how often they have it."""
    found = {}
    for file in Path(directory).rglob("*"):
        content = file.read_bytes() if file.is_file() else b""
        for mark in marks:
            if count := content.count(mark):
                found.setdefault(mark, {})[str(file.relative_to(directory))] = count
    return found


def test_a_file_of_waiting_records_goes_when_they_are_stored():
    """Records that no worker could store wait in a file while the server is down."""
    # An address as a record has it: the version, and its bytes.
    marks = [MARKS[1].encode(), bytes([4, *map(int, ADDRESS.split("."))])]
    with running("erased_waiting", max_worker_processes=1) as server:
        db = session(server)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        db.call("define_role", "default", "dev", ["*"])
        db.call("set_member", "acme", MARKS[1], "dev")
        assert db.verify(db.mint().api_key, ip=ADDRESS).ok
        with db.session.transaction():
            db.call("act_as", "acme", MARKS[1])
        db.session.close()
        server.restart()
        files = Path(server.data) / "pg_stat"
        assert set(files_with(files, marks)) == set(marks)
        db = session(server)
        db.call("erase_tenant", "acme")
        db.session.close()
        server.configure(max_worker_processes=8)
        server.restart()
        db = session(server)
        db.call("flush_usage", "60 s")
        assert files_with(files, marks) == {}
        assert db.rows("SELECT ip, member FROM keysmith_private.usage_event ORDER BY 2") == [(None, ""), (None, None)]
        db.session.close()


def test_the_data_directory_has_no_trace_of_it():
    """VACUUM FULL writes the tables and their indexes without what was deleted, and ANALYZE the
    statistics. Checkpoints remove the old segments of the log, where it keeps none for others."""
    # An address as it is stored: IPv4, 32 bits, and its bytes.
    marks = [*(mark.encode() for mark in MARKS), bytes([2, 32, *map(int, ADDRESS.split("."))])]
    with running("erased", wal_level="minimal", max_wal_senders=0, max_wal_size="32MB", min_wal_size="32MB",
                 wal_recycle="off") as server:
        db = session(server)
        db.rows("CREATE EXTENSION keysmith")
        lively(db)
        db.rows("ANALYZE; CHECKPOINT")
        # The label of two keys is among the most common values.
        in_statistics = "SELECT count(*) FROM pg_stats WHERE most_common_vals::text LIKE %s OR histogram_bounds::text LIKE %s"
        assert db.value(in_statistics, f"%{MARKS[2]}%", f"%{MARKS[2]}%") > 0
        assert db.value("SELECT pg_relation_size(reltoastrelid) FROM pg_class WHERE oid = 'keysmith_private.tenant'::regclass") > 0
        data = db.value("SHOW data_directory")
        assert set(files_with(data, marks)) == set(marks)
        db.call("erase_tenant", MARKS[0])
        db.rows("ANALYZE")
        db.rows("VACUUM FULL")
        for _ in range(3):
            db.rows("SELECT pg_switch_wal()")
            db.rows("CHECKPOINT")
        assert files_with(data, marks) == {}
