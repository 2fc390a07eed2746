"""The audit: who did what, in chains that show tampering."""

import hashlib
import json
import os
import re
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from psycopg.types.json import Jsonb

import cluster as clusters
from cluster import running
from conftest import Database
from subkeys import mac

ENTRY = ["keyspace", "entry", "at", "action", "generation", "content", "hash"]
CONTENT = ["salt", "role", "session_role", "acting_key", "acting_member", "client", "tenant", "key_id", "before", "after"]


def entries(db, keyspace="default", what="action"):
    return [row[0] for row in db.rows(
        f"SELECT {what} FROM keysmith.audit WHERE keyspace = %s ORDER BY entry", keyspace)]


def faults(db, heads=None):
    """The faulty chains, and their faults."""
    rows = db.call("audit_verify", heads)
    assert all(row.ok == (row.problem is None) == (row.first_bad is None) for row in rows)
    return {row.keyspace: (row.first_bad, row.problem) for row in rows if not row.ok}


def private_memory(db):
    """The private memory of its server process, in MB."""
    status = Path(f"/proc/{db.session.info.backend_pid}/status").read_text()
    return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) // 1024


def heads(db):
    return Jsonb(db.value("SELECT jsonb_agg(h) FROM keysmith.audit_heads() h"))


# Entries

def test_every_act_leaves_an_entry(db):
    """The entries of each function, with the state before and after."""
    db.call("create_keyspace", "other")
    db.call("alter_keyspace", "default", Jsonb({"label_length": 50}))
    db.tenant()
    db.call("define_scope", "default", "read", "Reads")
    db.call("define_role", "default", "dev", ["read"])
    db.rows("SELECT keysmith.define_route('default', 'GET', '/a', 'read')")
    db.rows("SELECT keysmith.define_route('default', 'GET', '/a', '{read}'::text[])")
    db.call("remove_route", "default", "GET", "/a")
    db.call("set_member", "acme", "ann", "dev")
    db.call("alter_tenant", "acme", Jsonb({"plan": "pro"}))
    key = db.mint(owner="ann")
    db.call("alter_key", key.key_id, Jsonb({"label": "new"}))
    db.call("disable", key.key_id)
    db.call("enable", key.key_id)
    successor = db.one("rotate", key.key_id)
    db.one("regenerate", "acme")
    regenerated = db.one("regenerate", "acme", label="legacy")
    imported = db.one("import_key", "acme", b"x" * 32)
    db.call("revoke", imported.key_id, "why not")
    db.call("report_leak", regenerated.api_key, "a page")
    db.call("remove_member", "acme", "ann")
    db.call("suspend_tenant", "acme", reason="unpaid")
    db.call("resume_tenant", "acme")
    db.call("grant_access", "pg_monitor", "auditor")
    db.call("revoke_access", "pg_monitor")
    assert entries(db, "other") == ["create_keyspace"]
    assert entries(db, "*") == ["grant_access", "revoke_access"]
    assert entries(db) == [
        "create_keyspace", "alter_keyspace", "create_tenant", "define_scope", "define_role",
        "define_route", "define_route", "remove_route", "set_member", "alter_tenant",
        "mint", "alter", "disable", "enable", "mint", "rotate", "mint", "mint", "revoke", "import", "revoke",
        "revoke", "remove_member", "suspend", "resume"]
    of_key = db.rows("SELECT action, before, after FROM keysmith.audit WHERE key_id = %s ORDER BY entry",
                     key.key_id)
    assert [row.action for row in of_key] == ["mint", "alter", "disable", "enable", "rotate"]
    assert of_key[0].before is None and of_key[0].after["owner"] == "ann"
    for one, next in zip(of_key, of_key[1:]):
        assert one.after == next.before
    assert (of_key[1].before["label"], of_key[1].after["label"]) == (None, "new")
    assert of_key[4].after["rotated_to"] == str(successor.key_id)
    # The label that was given to regenerate is in its entry.
    assert db.value("SELECT after ->> 'label' FROM keysmith.audit WHERE key_id = %s AND action = 'mint'",
                    regenerated.key_id) == "legacy"
    assert db.row("SELECT before, after FROM keysmith.audit WHERE action = 'remove_route'").after is None
    member = db.row("SELECT tenant, before, after FROM keysmith.audit WHERE action = 'remove_member'")
    assert (member.tenant, member.before["role"], member.after) == ("acme", "dev", None)
    granted = db.rows("SELECT before, after FROM keysmith.audit WHERE keyspace = '*' ORDER BY entry")
    assert granted[0].before is None and granted[1].after is None
    assert granted[0].after == granted[1].before
    assert granted[0].after[0]["level"] == "auditor" and granted[0].after[0]["role"] == "pg_monitor"
    assert faults(db) == {}


@pytest.mark.parametrize("holder", ["tenant", "key"])
def test_all_that_changes_of_credits_is_noted(db, holder):
    db.tenant()
    key = db.mint()

    def changed(credits):
        if holder == "tenant":
            db.call("alter_tenant", "acme", Jsonb({"credits": credits}))
        else:
            db.call("alter_key", key.key_id, Jsonb({"credits": credits}))
        before, after = db.row("SELECT before, after FROM keysmith.audit WHERE keyspace = 'default'"
                               " ORDER BY entry DESC LIMIT 1")
        fields = ("credits", "refill", "every")
        assert (before["refilled_at"] == after["refilled_at"]) == (credits is None and before["credits"] is None)
        return [tuple(state[field] for field in fields) for state in (before, after)]

    assert changed({"balance": 3, "refill": 10, "every": "day"}) == [(None,) * 3, (3, 10, "day")]
    assert changed({"refill": 1_000_000}) == [(3, 10, "day"), (3, 1_000_000, "day")]
    assert changed({"every": "month"}) == [(3, 1_000_000, "day"), (3, 1_000_000, "month")]
    # The present credits, with a due refill.
    db.rows("UPDATE keysmith_private.credit SET refilled_at = '2020-01-01'")
    assert changed({"refill": None}) == [(1_000_000, 1_000_000, "month"), (1_000_000, None, None)]
    assert changed(None) == [(1_000_000, None, None), (None,) * 3]
    assert changed(None) == [(None,) * 3] * 2


def test_no_secret_is_in_it(db):
    db.tenant()
    keys = [db.mint() for _ in range(3)]
    keys.append(db.one("rotate", keys[0].key_id))
    keys.append(db.one("regenerate", "acme"))
    db.call("report_leak", keys[1].api_key, "a page")
    foreign = hashlib.sha256(b"foreign").digest()
    db.one("import_key", "acme", foreign)
    text = db.value("SELECT string_agg(c::text, '') FROM keysmith_private.audit_content c")
    assert "acme" in text
    for key in keys:
        # Except the characters that are displayed: the first five, the last four.
        secret = key.api_key[-49:]
        assert not any(secret[at:at + 6] in text for at in range(len(secret) - 5))
        assert hashlib.sha256(key.api_key.encode()).hexdigest() not in text
    assert foreign.hex() not in text
    for digest, in db.rows("SELECT digest FROM keysmith_private.key"):
        assert digest.hex() not in text
    assert "digest" not in text
    channel = db.one("event_channel")[0]
    assert channel not in text


@pytest.fixture
def roles(cluster, dbname):
    for role in ("clerk", "officer"):
        cluster.execute(f"CREATE ROLE {role} LOGIN")
    yield
    for role in ("clerk", "officer"):
        cluster.execute(f"DROP OWNED BY {role}", dbname)
        cluster.execute(f"DROP ROLE {role}")


def test_who_did_it(cluster, dbname, db, roles):
    db.tenant()
    db.rows("GRANT officer TO clerk")
    db.call("grant_access", "officer", "issuer")
    db.call("grant_access", "officer", "verifier")
    giver = db.mint()
    db.rows("""
        CREATE FUNCTION public.mint_as_officer() RETURNS void LANGUAGE sql SECURITY DEFINER
        AS $$ SELECT keysmith.mint('acme') $$;
        ALTER FUNCTION public.mint_as_officer() OWNER TO officer""")
    db.call("grant_access", "officer", "issuer", tenant="acme")
    with cluster.connect(dbname, user="clerk", row_factory=psycopg.rows.namedtuple_row) as session:
        app = Database(session)
        app.rows("SELECT public.mint_as_officer()")
        app.rows("SET ROLE officer")
        app.mint()
        with session.transaction():
            assert app.verify(giver.api_key, sign_in=True).ok
            app.mint()
        app.rows("RESET ROLE")
    minted = db.rows("SELECT role, session_role, acting_key, client FROM keysmith.audit "
                     "WHERE action = 'mint' ORDER BY entry")
    assert minted == [("postgres", "postgres", None, None), ("officer", "clerk", None, None),
                      ("officer", "clerk", None, None), ("officer", "clerk", giver.key_id, None)]
    assert faults(db) == {}


def test_from_where():
    cluster = clusters.Cluster("remote", port=54329)
    try:
        cluster.init(listen_addresses="127.0.0.1").start()
        cluster.execute("CREATE EXTENSION keysmith")
        with psycopg.connect(f"host=127.0.0.1 port={cluster.port} dbname=postgres user=postgres",
                             autocommit=True, row_factory=psycopg.rows.namedtuple_row) as session:
            db = Database(session)
            db.tenant()
            assert str(db.value("SELECT client FROM keysmith.audit WHERE action = 'create_tenant'")) \
                == "127.0.0.1"
            assert faults(db) == {}
            with db.session.transaction(force_rollback=True):
                db.rows("UPDATE keysmith_private.audit_content SET client = '127.0.0.1/8' WHERE tenant = 'acme'")
                assert faults(db)["default"][0] == 2
            seals = db.rows("SELECT hash FROM keysmith_private.audit_entry ORDER BY keyspace, entry")
            forge(db)
            assert db.rows("SELECT hash FROM keysmith_private.audit_entry ORDER BY keyspace, entry") == seals
    finally:
        cluster.remove()


def test_what_was_not_done_is_not_in_it(db, connect, database):
    db.tenant()
    before = entries(db)
    session = database(connect(autocommit=False))
    session.mint()
    session.session.rollback()
    assert entries(db) == before
    db.refused("KS404", "revoke", "00000000-0000-0000-0000-000000000000")
    session.mint(label="kept")
    session.rows("SAVEPOINT a")
    session.mint(label="lost")
    session.rows("SAVEPOINT b")
    session.mint(label="lost too")
    session.rows("RELEASE b")
    session.rows("ROLLBACK TO a")
    session.mint(label="kept too")
    session.rows("SAVEPOINT c")
    session.mint(label="kept as well")
    session.rows("RELEASE c")
    session.session.commit()
    db.rows("""DO $$ BEGIN
        PERFORM keysmith.mint('acme', label => 'one');
        BEGIN
            PERFORM keysmith.mint('acme', label => 'undone');
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            PERFORM keysmith.mint('acme', label => 'two');
        END;
        BEGIN
            PERFORM keysmith.mint('acme', label => 'three');
        EXCEPTION WHEN division_by_zero THEN NULL;
        END;
    END $$""")
    assert entries(db)[:len(before)] == before
    labels = "SELECT after ->> 'label' FROM keysmith.audit WHERE action = 'mint' ORDER BY entry"
    assert [label for label, in db.rows(labels)] \
        == ["kept", "kept too", "kept as well", "one", "two", "three"]
    assert faults(db) == {}


def test_a_procedure_that_commits(db):
    db.tenant()
    db.rows("""DO $$ BEGIN
        FOR n IN 1..3 LOOP PERFORM keysmith.mint('acme'); COMMIT; END LOOP;
        PERFORM keysmith.mint('acme'); ROLLBACK;
    END $$""")
    assert entries(db).count("mint") == 3 and faults(db) == {}


def test_a_deferred_trigger_is_still_in_time(db):
    db.tenant()
    db.rows("""
        CREATE TABLE orders (n int);
        CREATE FUNCTION mint_one() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN PERFORM keysmith.mint('acme'); RETURN NULL; END $$;
        CREATE CONSTRAINT TRIGGER late AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
            FOR EACH ROW EXECUTE FUNCTION mint_one();
        INSERT INTO orders VALUES (1), (2)""")
    assert entries(db).count("mint") == 2 and faults(db) == {}


def test_a_transaction_that_manages_is_not_prepared(db, connect, database):
    db.tenant()
    session = database(connect(autocommit=False))
    session.mint()
    with pytest.raises(psycopg.Error, match="can't be prepared") as error:
        session.rows("PREPARE TRANSACTION 'x'")
    assert error.value.sqlstate == "KS409" and "one phase" in error.value.diag.message_hint
    session.session.rollback()
    assert db.rows("SELECT * FROM pg_prepared_xacts") == []
    assert entries(db).count("mint") == 0


def test_the_extension_is_dropped_by_who_managed(db, connect, database):
    db.tenant()
    session = database(connect(autocommit=False))
    session.mint()
    session.rows("DROP EXTENSION keysmith")
    session.session.commit()
    session.rows("CREATE EXTENSION keysmith")
    session.tenant()
    session.session.commit()
    assert entries(db) == ["create_keyspace", "create_tenant"] and faults(db) == {}


def test_the_extension_is_made_anew_by_who_managed(db, connect, database):
    """The old entries were dropped with the tables."""
    session = database(connect(autocommit=False))
    session.tenant()
    session.rows("DROP EXTENSION keysmith")
    session.rows("CREATE EXTENSION keysmith")
    session.tenant("another")
    session.session.commit()
    assert entries(db) == ["create_keyspace", "create_tenant"] and faults(db) == {}


def test_what_was_done_is_written_before_the_commit(db, connect, database):
    """The commit, for which others wait, only numbers and seals. And it takes no memory."""
    db.tenant()
    key = db.mint(metadata=Jsonb({"x": "y" * 60_000}))
    noted = len(entries(db))
    session = database(connect(autocommit=False))
    turn = """DO $$ BEGIN
        FOR n IN 1..%s LOOP
            PERFORM keysmith.disable(key_id), keysmith.enable(key_id) FROM keysmith_private.key;
        END LOOP;
    END $$"""
    session.rows(turn % 10)
    before = private_memory(session)
    session.rows(turn % 250)
    # The state before and after: 60 MB.
    assert private_memory(session) - before < 20
    assert session.value("SELECT count(*) FROM keysmith_private.audit_content") == noted + 520
    assert session.value("SELECT count(*) FROM keysmith_private.audit_entry") == noted
    session.session.commit()
    assert len(entries(db)) == noted + 520 and faults(db) == {}
    assert db.verify(key.api_key).ok


def test_a_transaction_has_a_bound(db, connect, database):
    db.tenant()
    session = database(connect(autocommit=False))
    session.rows("SET keysmith.max_acts = 5")
    for n in range(5):
        session.mint(label=str(n))
    session.rows("SAVEPOINT a")
    message = session.refused("KS409", "mint", "acme")
    assert message == "one transaction can't make more than 5 changes to keys and the like"
    session.rows("ROLLBACK TO a")
    assert session.value("SELECT count(*) FROM keysmith_private.key") == 5
    session.rows("""DO $$ BEGIN PERFORM keysmith.mint('acme');
                    EXCEPTION WHEN SQLSTATE 'KS409' THEN NULL; END $$""")
    session.session.commit()
    # The next transaction may have as many; acts that were rolled back take no room.
    for n in range(5):
        session.rows("SAVEPOINT b")
        session.mint(label="undone")
        session.rows("ROLLBACK TO b")
        session.mint(label=str(n))
    session.session.commit()
    assert entries(db).count("mint") == 10 and faults(db) == {}
    db.rows("CREATE ROLE someone")
    try:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            session.rows("SET ROLE someone; SET keysmith.max_acts = 1000000")
    finally:
        session.session.rollback()
        db.rows("DROP ROLE someone")


def test_many_acts_of_one_transaction(db):
    db.tenant()
    db.rows("SELECT count(keysmith.mint('acme')) FROM generate_series(1, 2000)")
    (row,) = db.call("audit_verify")
    assert (row.ok, row.entries) == (True, 2002)


# Tampering

@pytest.fixture
def written(db):
    """A chain of nine entries."""
    db.tenant()
    key = db.mint()
    for label in "abcdef":
        db.call("alter_key", key.key_id, Jsonb({"label": label}))
    assert faults(db) == {} and len(entries(db)) == 9
    return db


CHANGES = {
    "at": "at + interval '1 microsecond'", "action": "'revoke'", "salt": "sha256('x')", "role": "'someone'",
    "session_role": "'someone'", "acting_key": "gen_random_uuid()", "acting_member": "'ann'", "client": "'10.0.0.1'",
    "tenant": "'globex'", "key_id": "gen_random_uuid()", "before": "before || '{\"label\": \"z\"}'",
    "after": "after || '{\"label\": \"z\"}'", "generation": "1", "content": "sha256('x')",
    "hash": "sha256('x')",
}


def change_content(db, entry, change):
    db.rows(f"UPDATE keysmith_private.audit_content SET {change} FROM keysmith_private.audit_entry "
            "WHERE digest = content AND keyspace = 'default' AND entry = %s", entry)


@pytest.mark.parametrize("column", ENTRY[2:])
@pytest.mark.parametrize("entry", [4, 9])
def test_a_changed_column_is_named(written, column, entry):
    written.rows(f"UPDATE keysmith_private.audit_entry SET {column} = {CHANGES[column]} WHERE entry = %s", entry)
    assert faults(written)["default"][0] == entry


@pytest.mark.parametrize("column", CONTENT)
@pytest.mark.parametrize("entry", [4, 9])
def test_a_changed_column_of_its_content_is_named(written, column, entry):
    change_content(written, entry, f"{column} = {CHANGES[column]}")
    assert faults(written) == {"default": (entry, f"entry {entry} was changed: it has another content")}


@pytest.mark.parametrize("column", ["tenant", "key_id", "before", "after"])
def test_a_value_that_is_taken_out_is_named(written, column):
    change_content(written, 4, f"{column} = NULL")
    assert faults(written)["default"][0] == 4


@pytest.mark.parametrize("change", ["salt = ''", "salt = substr(salt, 1, 31)", "salt = salt || '\\x00'"])
def test_a_salt_that_is_none_is_named(written, change):
    change_content(written, 4, change)
    assert faults(written)["default"][0] == 4


def test_content_that_is_removed_is_missed(written):
    """The entry stays, and is visible without its content."""
    written.rows("DELETE FROM keysmith_private.audit_content USING keysmith_private.audit_entry "
                 "WHERE digest = content AND entry = 5")
    assert faults(written) == {"default": (5, "entry 5 has no content any more")}
    assert written.row("SELECT action, role, tenant, before FROM keysmith.audit WHERE entry = 5") \
        == ("alter", None, None, None)
    assert len(entries(written)) == 9


def test_contents_that_are_swapped_are_named(written):
    digests = [digest for digest, in written.rows(
        "SELECT content FROM keysmith_private.audit_entry WHERE entry IN (4, 5) ORDER BY entry")]
    for before, after in ((digests[0], b"aside"), (digests[1], digests[0]), (b"aside", digests[1])):
        written.rows("UPDATE keysmith_private.audit_content SET digest = %s WHERE digest = %s", after, before)
    assert faults(written)["default"][0] == 4


@pytest.mark.parametrize("entry", [1, 5])
def test_a_removed_row_is_named(written, entry):
    written.rows("DELETE FROM keysmith_private.audit_entry WHERE entry = %s", entry)
    assert faults(written) == {"default": (entry, f"entry {entry} is missing")}


def test_what_is_cut_off_is_missed_by_who_kept_the_head(written):
    kept = heads(written)
    written.rows("DELETE FROM keysmith_private.audit_entry WHERE entry > 7")
    assert faults(written) == {}
    assert faults(written, kept) == {"default": (8, "entries 8 to 9 are missing")}
    written.rows("DELETE FROM keysmith_private.audit_entry")
    assert faults(written) == {"default": (1, "entry 1 is missing")}
    assert faults(written, kept) == {"default": (1, "entries 1 to 9 are missing")}


def test_reordered_rows_are_named(written):
    written.rows("""UPDATE keysmith_private.audit_entry SET entry = -entry WHERE entry IN (4, 5);
                    UPDATE keysmith_private.audit_entry SET entry = 9 + entry WHERE entry < 0""")
    assert faults(written)["default"][0] == 4


@pytest.mark.parametrize("entry, named", [(0, 0), (-5, -5), (10, 10), (12, 10)])
def test_an_inserted_row_is_named(written, entry, named):
    columns = ", ".join(ENTRY[2:])
    written.rows(f"""INSERT INTO keysmith_private.audit_entry (keyspace, entry, {columns})
                     SELECT keyspace, %s, {columns} FROM keysmith_private.audit_entry WHERE entry = 9""", entry)
    assert faults(written)["default"][0] == named


def test_a_row_between_two_is_named(written):
    columns = ", ".join(ENTRY[2:])
    written.rows(f"""
        UPDATE keysmith_private.audit_entry SET entry = entry + 100 WHERE entry > 5;
        UPDATE keysmith_private.audit_entry SET entry = entry - 99 WHERE entry > 100;
        INSERT INTO keysmith_private.audit_entry (keyspace, entry, {columns})
        SELECT keyspace, 6, {columns} FROM keysmith_private.audit_entry WHERE entry = 5""")
    assert faults(written)["default"][0] == 6


def test_a_chain_of_another_keyspace_is_not_this_one(written):
    written.call("create_keyspace", "other")
    written.rows("""DELETE FROM keysmith_private.audit_entry WHERE keyspace = 'other';
                    UPDATE keysmith_private.audit_entry SET keyspace = 'other' WHERE keyspace = 'default'""")
    found = faults(written)
    assert found["other"][0] == 1 and found["default"] == (1, "entry 1 is missing")


def with_lengths(*parts):
    """Each part follows its length; a null's length is all ones."""
    parts = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(b"\xff" * 8 if part is None else struct.pack(">Q", len(part)) + part for part in parts)


def content_digest(row):
    """The digest of an entry's content, as the documents describe it."""
    return hashlib.sha256(b"keysmith.content.v1\0" + row.salt + with_lengths(
        row.role, row.session_role, row.acting_key and row.acting_key.bytes, row.acting_member, row.client,
        row.tenant, row.tenant_id and row.tenant_id.bytes,
        row.key_id and row.key_id.bytes, row.before, row.after)).digest()


def seal(row, previous, pepper=None):
    """A seal, as the documents describe it."""
    content = previous + struct.pack(">qhq", row.entry, row.generation if pepper else 0, row.at) \
        + with_lengths(row.content, row.keyspace, row.action)
    return mac(pepper, "chain", content) if pepper else hashlib.sha256(b"keysmith.chain.v1\0" + content).digest()


READ = """
    SELECT a.keyspace, a.entry, a.action, a.generation, a.content, a.hash, c.digest, c.salt, c.role,
           c.session_role, c.acting_key, c.acting_member, textin(inet_out(c.client)) AS client, c.tenant, c.tenant_id, c.key_id,
           c.before::text, c.after::text,
           (extract(epoch FROM a.at - '2000-01-01 00:00:00+00') * 1000000)::bigint AS at
    FROM keysmith_private.audit_entry a JOIN keysmith_private.audit_content c ON c.digest = a.content
    WHERE keyspace = %s ORDER BY entry"""


def forge(db, entry=1, keyspace="default"):
    """Computes new seals of a chain from an entry on, as anyone who writes to the tables can."""
    previous = bytes(32)
    for row in db.rows(READ, keyspace):
        if row.entry >= entry:
            digest = content_digest(row)
            previous = seal(row._replace(content=digest), previous)
            db.rows("UPDATE keysmith_private.audit_content SET digest = %s WHERE digest = %s",
                    digest, row.digest)
            db.rows("UPDATE keysmith_private.audit_entry SET content = %s, hash = %s, generation = 0 "
                    "WHERE keyspace = %s AND entry = %s", digest, previous, keyspace, row.entry)
        else:
            previous = row.hash


def test_a_forged_chain_is_found_by_its_head(written):
    kept = heads(written)
    seals = written.rows("SELECT hash FROM keysmith_private.audit_entry ORDER BY entry")
    forge(written)
    assert written.rows("SELECT hash FROM keysmith_private.audit_entry ORDER BY entry") == seals
    change_content(written, 3, "role = 'someone else'")
    assert faults(written)["default"][0] == 3
    forge(written, 3)
    assert faults(written) == {}
    first_bad, problem = faults(written, kept)["default"]
    assert first_bad == 9 and "kept" in problem


def test_a_long_chain_is_checked_in_little_memory(db):
    """Entries are freed during the read: memory after 20,000 entries equals that after 10,000."""
    db.tenant()
    (first, *_) = db.rows(READ, "default")
    body = json.dumps({"label": "x" * 1000})
    at = db.value("SELECT at FROM keysmith_private.audit_entry WHERE entry = 1")
    previous = bytes(32)
    with db.session.cursor() as cursor:
        cursor.execute("DELETE FROM keysmith_private.audit_entry")
        rows = []
        for n in range(1, 20_001):
            row = first._replace(entry=n, salt=hashlib.sha256(str(n).encode()).digest(), before=body, after=body)
            row = row._replace(content=content_digest(row))
            previous = seal(row, previous)
            rows.append((row, previous))
        with cursor.copy("COPY keysmith_private.audit_entry (keyspace, entry, at, action, generation, content, "
                         "hash) FROM STDIN") as copy:
            for row, sealed in rows:
                copy.write_row((row.keyspace, row.entry, at, row.action, 0, row.content, sealed))
        with cursor.copy("COPY keysmith_private.audit_content (digest, salt, role, session_role, tenant, tenant_id, "
                         "before, after) FROM STDIN") as copy:
            for row, _ in rows:
                copy.write_row((row.content, row.salt, row.role, row.session_role, row.tenant, row.tenant_id,
                                row.before, row.after))
    found = []
    db.session.add_notice_handler(lambda _: found.append(private_memory(db)))
    (checked,) = db.call("audit_verify")
    assert (checked.ok, checked.entries, checked.problem) == (True, 20_000, None)
    assert len(found) == 2 and found[1] - found[0] < 5, found


# Heads

def test_heads_are_kept_and_checked_later(written):
    written.call("grant_access", "pg_monitor", "verifier")
    kept = heads(written)
    assert {head["keyspace"] for head in kept.obj} == {"default", "*"}
    for _ in range(3):
        written.mint()
    assert faults(written, kept) == {}
    both = Jsonb(kept.obj + heads(written).obj)
    assert faults(written, both) == {}
    unknown = kept.obj[0] | {"keyspace": "gone", "entry": 3}
    assert faults(written, Jsonb([unknown])) == {"gone": (1, "entries 1 to 3 are missing")}
    assert faults(written, Jsonb([])) == faults(written, None) == {}


HASH = "00" * 32


@pytest.mark.parametrize("heads", [
    None, 1, "x", {}, [1], [None], [[]], [{}], ["x"],
    [{"keyspace": "default", "entry": 1}], [{"keyspace": "default", "hash": HASH}],
    [{"entry": 1, "hash": HASH}], [{"keyspace": 1, "entry": 1, "hash": HASH}],
    [{"keyspace": "default", "entry": "1", "hash": HASH}],
    [{"keyspace": "default", "entry": 1.5, "hash": HASH}],
    [{"keyspace": "default", "entry": 0, "hash": HASH}],
    [{"keyspace": "default", "entry": -1, "hash": HASH}],
    [{"keyspace": "default", "entry": 10**30, "hash": HASH}],
    [{"keyspace": "default", "entry": 1, "hash": ""}],
    [{"keyspace": "default", "entry": 1, "hash": HASH[1:]}],
    [{"keyspace": "default", "entry": 1, "hash": HASH + "00"}],
    [{"keyspace": "default", "entry": 1, "hash": "zz" * 32}],
    [{"keyspace": "default", "entry": 1, "hash": "é" * 32}],
])
def test_heads_that_are_none(db, heads):
    assert "heads" in db.refused("KS400", "audit_verify", Jsonb(heads))


# With peppers

def write_peppers(cluster, text):
    file = cluster.dir / "peppers"
    file.write_text(text)
    file.chmod(0o600)
    if clusters._SERVER_USER:
        os.chown(file, clusters._SERVER_USER.pw_uid, clusters._SERVER_USER.pw_gid)
    cluster.restart()
    session = cluster.connect(row_factory=psycopg.rows.namedtuple_row)
    session.prepare_threshold = None
    return Database(session)


PEPPERS = {0: None, 1: b"\x11" * 32, 2: b"\x22" * 32}
ONE, TWO = f"1:{PEPPERS[1].hex()}\n", f"2:{PEPPERS[2].hex()}\n"


def test_peppers(tmp_path):
    with running("audited") as cluster:
        cluster.execute("CREATE EXTENSION keysmith")
        cluster.psql("SELECT keysmith.create_tenant('acme'); SELECT keysmith.mint('acme')")
        cluster.configure(keysmith__pepper_file=cluster.dir / "peppers")
        db = write_peppers(cluster, "0:unpeppered\n" + ONE)
        assert faults(db) == {}
        db.mint()
        db = write_peppers(cluster, "0:unpeppered\n" + ONE + TWO)
        db.mint()
        assert faults(db) == {}
        generations = "SELECT generation FROM keysmith_private.audit_entry ORDER BY entry"
        assert db.rows(generations) == [(0,), (0,), (0,), (1,), (2,)]
        previous = bytes(32)
        for row in db.rows(READ, "default"):
            assert row.content == content_digest(row)
            previous = seal(row, previous, PEPPERS[row.generation])
            assert row.hash == previous
        # Entries from before the first pepper are covered by later seals.
        with db.session.transaction(force_rollback=True):
            change_content(db, 2, "role = 'x'")
            forge(db, 2)
            assert faults(db)["default"][0] in (3, 4, 5)
        # All entries sealed again, without the pepper: the keys are newer than that.
        with db.session.transaction(force_rollback=True):
            change_content(db, 2, "role = 'x'")
            forge(db)
            db.rows("UPDATE keysmith_private.keyspace SET generation = 0")
            first_bad, problem = faults(db)["default"]
            assert first_bad == 5 and "older pepper" in problem
        # Added to without it.
        with db.session.transaction(force_rollback=True):
            db.rows("""INSERT INTO keysmith_private.audit_entry
                       SELECT keyspace, 6, at, action, 0, content, hash
                       FROM keysmith_private.audit_entry WHERE entry = 5""")
            forge(db, 6)
            first_bad, problem = faults(db)["default"]
            assert first_bad == 6 and "older pepper" in problem
        # The dump verifies on a server with the peppers, and reports a fault without them.
        text = cluster.program("pg_dump", "--create").stdout.replace("DATABASE postgres", "DATABASE copy") \
            .replace("connect postgres", "connect copy")
        cluster.psql(text, dbname="template1")
        with cluster.connect("copy", row_factory=psycopg.rows.namedtuple_row) as copied:
            assert faults(Database(copied)) == {}
        with running("elsewhere") as other:
            other.psql(text, dbname="template1")
            with other.connect("copy", row_factory=psycopg.rows.namedtuple_row) as copied:
                first_bad, problem = faults(Database(copied))["default"]
                assert first_bad == 4 and "pepper 1" in problem and "not configured" in problem
        # Without the newest pepper nothing is added: not even by acts that store no key.
        db = write_peppers(cluster, "0:unpeppered\n" + ONE)
        message = db.refused("KS510", "suspend_tenant", "acme")
        assert "pepper 2" in message
        assert not db.value("SELECT suspended_at IS NOT NULL FROM keysmith_private.tenant")
        # With another secret of that number, all its seals are wrong.
        db = write_peppers(cluster, "0:unpeppered\n" + ONE + f"2:{'33' * 32}\n")
        assert faults(db)["default"][0] == 5


def test_a_dump_restores_chains_that_go_on(cluster, dbname, written):
    kept = heads(written)
    text = cluster.program("pg_dump", dbname=dbname).stdout
    cluster.execute("CREATE DATABASE restored")
    try:
        cluster.psql(text, dbname="restored")
        with cluster.connect("restored", row_factory=psycopg.rows.namedtuple_row) as session:
            restored = Database(session)
            assert faults(restored, kept) == {}
            restored.mint()
            assert faults(restored, kept) == {} and len(entries(restored)) == 10
    finally:
        cluster.execute("DROP DATABASE restored WITH (FORCE)")


# Many at once

@pytest.mark.parametrize("isolation", ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"])
def test_two_hundred_at_once_neither_fork_nor_deadlock(isolation):
    """In two keyspaces, half of them in one order and half in the other."""
    with running("many", max_connections=250, deadlock_timeout="100ms") as cluster:
        cluster.psql("""CREATE EXTENSION keysmith;
            SELECT keysmith.create_keyspace('one', prefixes => '{"secret": {"live": "one_"}}');
            SELECT keysmith.create_keyspace('two', prefixes => '{"secret": {"live": "two_"}}');
            SELECT keysmith.create_tenant('acme', keyspace => 'one');
            SELECT keysmith.create_tenant('acme', keyspace => 'two');""")

        def manage(n):
            order = ["one", "two"] if n % 2 else ["two", "one"]
            failed = 0
            with cluster.connect(autocommit=False) as session:
                session.prepare_threshold = None
                while True:
                    try:
                        session.execute(f"SET TRANSACTION ISOLATION LEVEL {isolation}")
                        for keyspace in order:
                            session.execute("SELECT keysmith.mint('acme', keyspace => %s)", (keyspace,))
                        session.commit()
                        return failed
                    # So many that touch so much may leave no room for another conflict.
                    except (psycopg.errors.SerializationFailure, psycopg.errors.OutOfMemory):
                        assert isolation == "SERIALIZABLE"
                        session.rollback()
                        failed += 1

        with ThreadPoolExecutor(200) as pool:
            list(pool.map(manage, range(200)))
        with cluster.connect(row_factory=psycopg.rows.namedtuple_row) as session:
            db = Database(session)
            assert {row.keyspace: (row.ok, row.entries) for row in db.call("audit_verify")} \
                == {"one": (True, 202), "two": (True, 202)}
            assert db.value("SELECT count(*) FROM keysmith_private.key") == 400


def test_an_old_snapshot_chains_to_what_is_there_now(db, connect, database):
    db.tenant()
    old = database(connect(autocommit=False))
    old.rows("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
    old.rows("SELECT 1")
    db.mint()
    old.mint()
    db.mint()
    old.session.commit()
    assert len(entries(db)) == 5 and faults(db) == {}


def test_who_waits_to_commit_holds_up_nobody_else(db, connect, database):
    """The commit locks the end of a chain, not the act."""
    db.tenant()
    open_one = database(connect(autocommit=False))
    open_one.mint()
    db.rows("SET lock_timeout = '60s'")
    db.mint()
    open_one.session.commit()
    assert len(entries(db)) == 4 and faults(db) == {}


def test_usage_is_stored_before_the_chain_is_locked(db, connect, database):
    """It may have to wait for others, but they need not wait for it."""
    db.tenant()
    key = db.mint()
    db.rows("""
        CREATE TABLE seen (locks bigint);
        CREATE FUNCTION look() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$ BEGIN
            INSERT INTO public.seen SELECT count(*) FROM pg_catalog.pg_locks
            WHERE pid = pg_backend_pid() AND classid = 'keysmith_private.audit_entry'::regclass;
            RETURN NULL;
        END $$;
        CREATE TRIGGER look AFTER INSERT ON keysmith_private.usage_event
            FOR EACH STATEMENT EXECUTE FUNCTION look()""")
    session = database(connect(autocommit=False))
    session.rows("SET keysmith.usage_durability = 'commit'")
    assert session.verify(key.api_key).ok
    session.mint()
    session.session.commit()
    assert db.rows("SELECT locks FROM seen") == [(0,)]
    assert len(entries(db)) == 4 and faults(db) == {}


def test_a_transaction_that_may_not_write_any_more_does_not_commit(db, connect, database):
    db.tenant()
    session = database(connect(autocommit=False))
    session.mint()
    session.rows("SET TRANSACTION READ ONLY")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        session.session.commit()
    assert db.value("SELECT count(*) FROM keysmith_private.key") == 0
    assert len(entries(db)) == 2 and faults(db) == {}


def test_a_killed_server_keeps_what_it_acknowledged():
    with running("killed", fsync="on") as cluster:
        cluster.psql("CREATE EXTENSION keysmith; SELECT keysmith.create_tenant('acme')")
        session = cluster.connect()
        session.execute("SET synchronous_commit = off")
        for _ in range(20):
            session.execute("SELECT keysmith.mint('acme')")
        kept = json.dumps(session.execute(
            "SELECT jsonb_agg(h) FROM keysmith.audit_heads() h").fetchone()[0])
        session.execute("BEGIN; SELECT keysmith.mint('acme')")
        cluster.kill()
        session.close()
        cluster.start_after_kill()
        with cluster.connect(row_factory=psycopg.rows.namedtuple_row) as session:
            db = Database(session)
            assert faults(db, kept) == {}
            assert len(entries(db)) == 22
