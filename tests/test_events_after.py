"""events_after: what a consumer that remembers its position reads, and the example that sends webhooks."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import pytest
from psycopg.types.json import Jsonb
from standardwebhooks import Webhook, WebhookVerificationError

from cluster import running
from conftest import session, wait_until
from test_idle import age
from test_idle import look as idle_keys

EXAMPLE = Path(__file__).parent.parent / "examples" / "events"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def after(db, position=0, keyspace="default", most=1000):
    return db.call("events_after", keyspace, position, most)


def names(db, position=0, **options):
    return [row.event for row in after(db, position, **options)]


def ends(db):
    return dict(db.call("maintain"))["key ends"]


def all_ends(db):
    """The worker, too, locks a key while it notes its end, and it may be first."""
    ends(db)
    wait_until(lambda: not db.rows("SELECT FROM keysmith_private.due_key_notice"))


# The projection

def test_events_are_the_entries_of_the_chain(db):
    db.tenant()
    key = db.mint(label="first")
    db.call("disable", key.key_id)
    db.call("grant_access", "postgres", "auditor")
    db.call("suspend_tenant", "acme")
    rows = after(db)
    assert [row.event for row in rows] == ["mint", "disable", "suspend"]
    entries = db.rows("SELECT entry, action FROM keysmith.audit WHERE keyspace = 'default' ORDER BY entry")
    assert [(row.position, row.event) for row in rows] == [e for e in entries if e.action in names(db)]
    assert [(row.key_id, row.tenant) for row in rows] == [(key.key_id, "acme")] * 2 + [(None, "acme")]
    assert rows[0].detail["before"] is None and rows[0].detail["after"]["label"] == "first"
    assert key.api_key not in str(rows)
    assert db.rows("SELECT position, at, event, key_id, tenant, detail FROM keysmith.events") == rows


def test_pages_have_no_gap_and_no_overlap(db):
    db.tenant()
    db.rows("SELECT count(*) FROM (SELECT keysmith.mint('acme') FROM generate_series(1, 25)) m")
    everything, position, read = after(db), 0, []
    while rows := after(db, position, most=10):
        read += rows
        position = rows[-1].position
    assert read == everything and len(read) == 25


@pytest.mark.parametrize("arguments, words", [
    (("default", -1), "after must be"), (("default", None), "after must be"), (("default", 0, 0), "most must be"),
    (("default", 0, 1001), "most must be"), (("default", 0, None), "most must be"), ((None,), "keyspace must"),
])
def test_bad_arguments(db, arguments, words):
    assert words in db.refused("KS400", "events_after", *arguments)


def test_an_unknown_keyspace_and_one_that_was_dropped(db):
    db.refused("KS404", "events_after", "nowhere")
    db.refused("KS404", "events_after", "*")
    assert after(db) == [] and after(db, 2**63 - 1) == []
    db.call("create_keyspace", "brief")
    db.call("drop_keyspace", "brief")
    assert names(db, keyspace="brief") == ["drop_keyspace"]


def test_an_erased_tenant_leaves_its_events_without_content(db):
    db.tenant()
    db.mint(label="private")
    before = [(row.position, row.event) for row in after(db)]
    db.call("erase_tenant", "acme")
    rows = after(db)
    assert [(row.position, row.event) for row in rows][:len(before)] == before
    assert [(row.key_id, row.tenant, row.detail) for row in rows[:-1]] == [(None, None, None)] * len(before)
    assert "private" not in str(rows)


def test_a_position_is_visible_after_all_before_it(db, connect, database):
    """A long transaction gets its numbers when it commits."""
    db.tenant()
    slow = database(connect(autocommit=False))
    slow.mint()
    key = db.mint()
    (seen,) = after(db)
    assert seen.key_id == key.key_id
    slow.session.commit()
    (late,) = after(db, seen.position)
    assert late.event == "mint" and late.position == seen.position + 1


def test_readers_beside_writers_see_a_prefix(db, connect, database):
    db.tenant()
    stop = threading.Event()

    def write(writer):
        while not stop.is_set():
            writer.mint()

    writers = [threading.Thread(target=write, args=[database(connect())]) for _ in range(4)]
    for writer in writers:
        writer.start()
    position, read = 0, []
    while len(read) < 300:
        rows = after(db, position)
        read += rows
        position = rows[-1].position if rows else position
    stop.set()
    for writer in writers:
        writer.join()
    everything = after(db)
    assert read == everything[:len(read)]
    assert [row.position for row in everything] == list(range(everything[0].position, everything[-1].position + 1))


def test_an_event_needs_no_function_that_can_be_taken_away(db, hear):
    """An administrator may have taken pg_notify from everybody, and no revocation may fail for that."""
    db.tenant()
    key = db.mint()
    received = hear(db.one("event_channel")[0])
    db.rows("ALTER FUNCTION pg_catalog.pg_notify(text, text) RENAME TO pg_notify_gone")
    try:
        db.call("revoke", key.key_id)
    finally:
        db.rows("ALTER FUNCTION pg_catalog.pg_notify_gone(text, text) RENAME TO pg_notify")
    assert [event["event"] for event in received()] == ["revoke"]


def test_a_commit_does_not_wait_for_others_who_send():
    """A commit that sends keeps other senders waiting until a synchronous standby has it."""
    with running("waiting", synchronous_standby_names="nobody") as cluster:
        db = session(cluster)
        db.rows("SET synchronous_commit = local")
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        holder = cluster.connect()
        is_over = threading.Event()

        def hold():
            # The checkpointer puts the setting into effect, so the first commits may not wait.
            while not is_over.is_set():
                holder.execute("NOTIFY something")

        waiting = threading.Thread(target=hold)
        waiting.start()
        wait_until(lambda: db.rows("SELECT FROM pg_stat_activity WHERE wait_event = 'SyncRep'"))
        key = db.mint()
        assert db.verify(key.api_key).ok and names(db) == ["mint"]
        assert db.one("status").events_unsent == 1
        is_over.set()
        holder.cancel()
        waiting.join()
        holder.close()


# The ends of keys

def move_end(db, key, by):
    db.rows("UPDATE keysmith_private.key SET expires_at = now() + %s::interval WHERE key_id = %s", by, key.key_id)


def of_key(db, key):
    return [row.event for row in after(db) if row.key_id == key.key_id]


def test_each_end_has_one_event(db):
    db.tenant()
    key, other = db.mint(), db.mint()
    move_end(db, key, "8 days")
    all_ends(db)
    assert of_key(db, key) == ["mint"]
    move_end(db, key, "6 days")
    for _ in range(3):
        all_ends(db)
    assert of_key(db, key) == ["mint", "key.expiring"]
    (event,) = [row for row in after(db) if row.event == "key.expiring"]
    assert event.tenant == "acme" and event.detail["after"]["expires_at"]
    move_end(db, key, "5 days")
    all_ends(db)
    move_end(db, key, "-1 second")
    for _ in range(3):
        all_ends(db)
    assert of_key(db, key) == ["mint", "key.expiring", "key.expiring", "key.expired"]
    assert of_key(db, other) == ["mint"]
    assert all(chain.ok for chain in db.call("audit_verify"))


def test_an_end_that_was_asked_for_is_not_announced(db):
    db.tenant()
    key = db.mint()
    db.call("rotate", key.key_id, "1 day")
    all_ends(db)
    assert of_key(db, key) == ["mint", "rotate"]
    move_end(db, key, "-1 second")
    all_ends(db)
    assert of_key(db, key) == ["mint", "rotate", "key.expired"]


def test_an_end_by_a_lifetime_of_tenant_or_keyspace(db):
    db.tenant()
    key = db.mint()
    db.call("alter_tenant", "acme", Jsonb({"max_lifetime": "6 days"}))
    all_ends(db)
    assert of_key(db, key) == ["mint", "key.expiring"]
    db.call("alter_keyspace", "default", Jsonb({"max_lifetime": "1 hour"}))
    all_ends(db)
    db.rows("UPDATE keysmith_private.key SET created_at = now() - interval '1 hour'")
    all_ends(db)
    assert of_key(db, key) == ["mint", "key.expiring", "key.expiring", "key.expired"]


def test_an_ended_key_ends_once_until_it_is_usable_again(db):
    db.tenant()
    key = db.mint()
    db.rows("UPDATE keysmith_private.key SET created_at = now() - interval '1 hour' RETURNING 1")
    for lifetime in ("1 minute", "2 minutes", "1 second", "1 minute"):
        db.call("alter_tenant", "acme", Jsonb({"max_lifetime": lifetime}))
        ends(db)
        wait_until(lambda: "key.expired" in of_key(db, key))
    assert of_key(db, key) == ["mint", "key.expired"]
    # It is usable, and ends again.
    db.call("alter_tenant", "acme", Jsonb({"max_lifetime": None}))
    assert db.verify(key.api_key).ok
    move_end(db, key, "0 seconds")
    ends(db)
    wait_until(lambda: of_key(db, key).count("key.expired") == 2)


def test_a_revoked_key_has_no_end_and_a_keyspace_may_have_no_notice(db):
    db.tenant()
    db.call("create_keyspace", "quiet", Jsonb({"secret": {"live": "q_"}}), expiring_notice="0")
    db.tenant(keyspace="quiet")
    revoked, quiet = db.mint(), db.mint(keyspace="quiet")
    db.call("revoke", revoked.key_id)
    move_end(db, revoked, "-1 second")
    move_end(db, quiet, "1 hour")
    ends(db)
    assert of_key(db, revoked) == ["mint", "revoke"] and names(db, keyspace="quiet") == ["mint"]
    db.call("alter_keyspace", "quiet", Jsonb({"expiring_notice": "2 hours"}))
    ends(db)
    assert names(db, keyspace="quiet") == ["mint", "alter_keyspace", "key.expiring"]
    db.refused("KS400", "alter_keyspace", "quiet", Jsonb({"expiring_notice": "1 month"}))
    db.call("alter_keyspace", "quiet", Jsonb({"expiring_notice": "0"}))
    assert db.value("SELECT expiring_notice = '0' FROM keysmith_private.keyspace WHERE keyspace = 'quiet'")
    db.call("alter_keyspace", "quiet", Jsonb({"expiring_notice": None}))
    assert db.value("SELECT expiring_notice = '7 days' FROM keysmith_private.keyspace WHERE keyspace = 'quiet'")


def test_many_ends(db):
    db.tenant()
    db.rows("SELECT count(*) FROM (SELECT keysmith.mint('acme') FROM generate_series(1, 450)) m")
    db.rows("UPDATE keysmith_private.key SET expires_at = now()")
    assert [ends(db) for _ in range(4)] == ["200 noted", "200 noted", "50 noted", "0 noted"]
    assert sorted(names(db)) == ["key.expired"] * 450 + ["mint"] * 450


def of_credits(db):
    """The events of credits, when all are in the audit."""
    db.call("maintain")
    wait_until(lambda: not db.rows("SELECT FROM keysmith_private.credit_event"))
    return db.rows("SELECT event, (detail -> 'after' ->> 'credits')::bigint FROM keysmith.events "
                   "WHERE event LIKE 'credits.%' ORDER BY position")


def test_each_fall_of_credits_has_one_event(db, hear):
    db.tenant(credits=Jsonb({"balance": 10, "low": 5}))
    own = db.mint(credits=3)
    shared = db.mint()
    received = hear(db.one("event_channel")[0])
    for spend in (4, 1, 5):
        assert db.verify(shared.api_key, spend=spend).ok
    assert db.verify(own.api_key, spend=3).ok
    assert not db.verify(own.api_key, spend=1).ok
    for _ in range(2):
        assert of_credits(db) == [("credits.low", 5), ("credits.exhausted", 0), ("credits.exhausted", 0)]
    rows = [row for row in after(db) if row.event.startswith("credits.")]
    assert [(row.tenant, row.key_id) for row in rows] == [("acme", None)] * 2 + [("acme", own.key_id)]
    assert len({row.position for row in rows}) == 3
    assert [event["event"] for event in received() if event["event"].startswith("credits.")] \
        == ["credits.low", "credits.exhausted", "credits.exhausted"]
    assert all(chain.ok for chain in db.call("audit_verify"))


def test_events_of_credits_beside_each_other(db, connect, database):
    """Sessions that note at the same time note each once."""
    db.tenant()
    keys = [db.mint(credits=1) for _ in range(30)]
    sessions = [database(connect()) for _ in range(4)]

    def spend(session, part):
        for key in part:
            assert session.verify(key.api_key, spend=1).ok
            session.rows("SELECT keysmith_private.note_credit_events()")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(spend, sessions, [keys[n::4] for n in range(4)]))
    assert of_credits(db) == [("credits.exhausted", 0)] * 30
    assert {row.key_id for row in after(db) if row.event == "credits.exhausted"} == {key.key_id for key in keys}


def test_events_of_credits_wait_for_a_chain_that_cannot_be_extended(db):
    db.call("create_keyspace", "broken", Jsonb({"secret": {"live": "b_"}}))
    for keyspace in ("broken", "default"):
        db.tenant(keyspace=keyspace)
        key = db.mint(keyspace=keyspace, credits=1)
        db.rows("UPDATE keysmith_private.audit_entry SET generation = 9 WHERE keyspace = 'broken'")
        assert db.verify(key.api_key, keyspace=keyspace, spend=1).ok
    db.call("maintain")
    wait_until(lambda: names(db)[-1] == "credits.exhausted")
    assert names(db, keyspace="broken") == ["mint"]
    db.rows("UPDATE keysmith_private.audit_entry SET generation = 0 WHERE keyspace = 'broken'")
    assert of_credits(db) == [("credits.exhausted", 0)] * 2


def test_a_chain_that_cannot_be_extended_stops_no_other(db):
    db.call("create_keyspace", "broken", Jsonb({"secret": {"live": "b_"}}))
    for keyspace in ("default", "broken"):
        db.tenant(keyspace=keyspace)
        db.mint(keyspace=keyspace)
    db.rows("UPDATE keysmith_private.key SET expires_at = now()")
    db.rows("UPDATE keysmith_private.audit_entry SET generation = 9 WHERE keyspace = 'broken'")
    assert ends(db) == "1 noted"
    assert names(db)[-1] == "key.expired" and names(db, keyspace="broken") == ["mint"]
    db.rows("UPDATE keysmith_private.audit_entry SET generation = 0 WHERE keyspace = 'broken'")
    assert ends(db) == "1 noted"


def test_the_worker_warns_once_of_a_chain_that_cannot_be_extended():
    """It looks at the chain again and again, and so do workers that come later."""
    with running("warned", keysmith__usage_flush_interval="10ms", track_functions="all") as cluster:
        db = session(cluster)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key, ended = db.mint(credits=1), db.mint()
        db.rows("UPDATE keysmith_private.audit_entry SET generation = 9")
        assert db.verify(key.api_key, spend=1).ok
        move_end(db, ended, "-1 second")

        def looks(function):
            assert db.verify(key.api_key).ok
            return db.value("SELECT coalesce(sum(calls), 0) FROM pg_stat_user_functions WHERE funcname = %s", function)

        for function in ("note_credit_events", "note_key_ends"):
            before = looks(function)
            wait_until(lambda before=before, function=function: looks(function) >= before + 10)
        assert cluster.log.read_text().count("is sealed with pepper 9") == 1
        db.rows("UPDATE keysmith_private.audit_entry SET generation = 0")
        wait_until(lambda: looks("note_key_ends") and {"credits.exhausted", "key.expired"} <= set(names(db)))
        db.session.close()


def test_the_proof_covers_the_events_that_no_act_makes(db):
    db.tenant()
    paying, ended, idle = db.mint(refill=Jsonb({"amount": 9, "every": "month", "low": 5})), db.mint(), db.mint()
    move_end(db, ended, "1 hour")
    ends(db)
    move_end(db, ended, "-1 second")
    ends(db)
    assert db.verify(paying.api_key, spend=4).ok and not db.verify(paying.api_key, spend=6).ok
    assert of_credits(db) == [("credits.low", 5), ("credits.exhausted", 5)]
    db.call("alter_keyspace", "default", Jsonb({"max_idle": "1 hour"}))
    # The worker notes from when on it records.
    db.call("flush_usage")
    age(db, "2 days")
    assert idle.key_id in idle_keys(db)
    made = [row for row in after(db) if "." in row.event]
    assert sorted({row.event for row in made}) == ["credits.exhausted", "credits.low", "key.expired", "key.expiring",
                                                   "key.idle"]
    assert all(chain.ok for chain in db.call("audit_verify"))
    (low,) = [row for row in made if row.event == "credits.low"]
    assert low.detail["after"] == {"credits": 5}
    # It fails if the content of one is changed.
    db.rows("""UPDATE keysmith_private.audit_content SET after = '{"credits": 6}' WHERE after = '{"credits": 5}'""")
    assert not all(chain.ok for chain in db.call("audit_verify"))


def test_the_worker_notes_ends_and_a_promoted_standby_goes_on():
    with running("primary", keysmith__usage_flush_interval="10ms") as primary:
        db = session(primary)
        db.rows("CREATE EXTENSION keysmith")
        db.tenant()
        key = db.mint(expires_at=db.value("SELECT now() + interval '1 hour'"))
        wait_until(lambda: of_key(db, key) == ["mint", "key.expiring"])
        standby = primary.backup("standby", 5433)
        try:
            standby.start()
            db.call("wait_for_replay")
            there = session(standby)
            assert after(there) == after(db)
            read = after(db)
            primary.kill()
            there.rows("SELECT pg_promote()")
            wait_until(lambda: not there.value("SELECT pg_is_in_recovery()"))
            move_end(there, key, "-1 second")
            there.verify(key.api_key)
            wait_until(lambda: names(there, read[-1].position) == ["key.expired"])
            assert after(there)[:len(read)] == read
        finally:
            standby.remove()


# The example

class Receiver:
    """An endpoint that checks signatures, refuses some requests, and keeps the others."""

    def __init__(self):
        self.came, self.is_down, receiver = [], False, self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                try:
                    event, status = Webhook(SECRET).verify(body, dict(self.headers)), 503 if receiver.is_down else 204
                except WebhookVerificationError:
                    status = 401
                if status == 204:
                    receiver.came.append((self.headers["webhook-id"], event))
                self.send_response(status)
                self.end_headers()

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/"


@contextmanager
def consumer(cluster, dbname, url, file):
    environment = os.environ | {"PGHOST": str(cluster.dir), "PGPORT": str(cluster.port), "PGUSER": "postgres",
                                "PGDATABASE": dbname, "WEBHOOK_SECRET": SECRET}
    process = subprocess.Popen([sys.executable, EXAMPLE / "webhooks.py", "default", url, file], env=environment)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_signatures_are_those_of_standard_webhooks(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLE)
    import webhooks
    moment = datetime.fromtimestamp(1614265330, timezone.utc)
    for secret in (SECRET, SECRET.removeprefix("whsec_")):
        for body in ("", "{}", '{"tenant": "Zoë"}'):
            assert webhooks.sign(secret, "default_1_2", 1614265330, body) == Webhook(SECRET).sign("default_1_2", moment, body)
    # One from the tests of its libraries.
    assert webhooks.sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, '{"test": 2432232314}') \
        == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_consumer_misses_nothing_when_it_is_killed(cluster, dbname, db, tmp_path):
    db.tenant()
    receiver, file = Receiver(), tmp_path / "position"
    for round in range(4):
        with consumer(cluster, dbname, receiver.url, file):
            receiver.is_down = round == 2
            for _ in range(10):
                db.mint()
            if receiver.is_down:
                continue
            wait_until(lambda: len({message_id for message_id, _ in receiver.came}) >= 10 * round + 5)
        if round == 1:
            # It was killed before it remembered what it had sent.
            file.write_text(str(int(file.read_text()) - 3))
    with consumer(cluster, dbname, receiver.url, file):
        wait_until(lambda: len({message_id for message_id, _ in receiver.came}) == 40)
    receiver.server.shutdown()
    first = list(dict.fromkeys(message_id for message_id, _ in receiver.came))
    positions = [int(message_id.split("_")[1]) for message_id in first]
    assert positions == [row.position for row in after(db)]
    assert len(receiver.came) > 40
    assert all(len({json.dumps(body) for same, body in receiver.came if same == message_id}) == 1 for message_id in first)
