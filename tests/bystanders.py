"""Work that no role may stop: a server with every kind of data, and sessions that decide, spend,
revoke, manage and store usage."""

from contextlib import contextmanager
from datetime import date, timedelta

import psycopg
import pytest
from psycopg.types.json import Jsonb

import hostile
from cluster import running
from conftest import session

STRANGER, LEVELS = "stranger", ("verifier", "host", "issuer", "auditor", "admin")
ROLES = (STRANGER, *LEVELS)
# A session that waits this long waits for a lock that is not released.
BOUND = "30s"
DAY = "2001-02-03"


class World:
    """A server with every kind of data, and the sessions that nobody may stop."""

    def __init__(self, cluster):
        self.cluster = cluster
        self.made = []
        self.db = self.session("postgres")
        self.db.rows("CREATE EXTENSION keysmith")
        self.db.rows("CREATE ROLE other; CREATE ROLE app LOGIN; GRANT CREATE ON SCHEMA public TO PUBLIC")
        for role in ROLES:
            self.db.rows(f"CREATE ROLE {role} LOGIN")
        self.db.call("define_role", "default", "reader", ["a"])
        self.db.tenant(credits=Jsonb(1_000_000))
        self.db.tenant("globex")
        for level in LEVELS:
            self.db.call("grant_access", level, level, **({"tenant": "acme"} if level == "issuer" else {}))
        self.db.call("grant_access", "app", "verifier")
        self.db.rows("CREATE TABLE docs (tenant text, body text); GRANT ALL ON docs TO PUBLIC; "
                     "INSERT INTO docs VALUES ('acme', 'ours'), ('globex', 'theirs')")
        self.db.call("isolate", "docs", "tenant", "default")
        self.db.call("track", "docs")
        self.db.call("flush_usage")
        self.key = self.db.mint(scopes=["a"])
        self.app = self.session("app")

    def session(self, role, **settings):
        opened = session(self.cluster, user=role)
        opened.rows(f"SET statement_timeout = '{BOUND}'")
        return opened

    def is_blamed(self, role, problem):
        """Whether a message names the session or the prepared transaction to end."""
        return f" of role {role} " in problem or f"prepared transaction 'prepared by {role}'" in problem

    def expired_partition(self):
        """A day that maintain() must drop."""
        while self.made:
            self.db.rows(f"DROP TABLE IF EXISTS keysmith_private.usage_{self.made.pop():%Y%m%d}")
        self.db.rows("SELECT keysmith_private.usage_prepare(%s, %s)", DAY, DAY)

    # Work that goes on whatever a role does. Each method fails if it waits, or if the work is not
    # done.

    def decides(self):
        assert self.app.verify(self.key.api_key, scopes=["a"]).ok
        # A new session has no cached policy.
        new = self.session("app")
        try:
            assert new.verify(self.key.api_key, scopes=["a"]).ok
        finally:
            new.session.close()
        assert self.app.reason("garbage") == "malformed_key"
        assert self.app.value("SELECT count(*) FROM keysmith.verify_many(%s) v WHERE v.ok", [self.key.api_key] * 3) == 3

    def spends(self):
        assert self.app.verify(self.key.api_key, spend=1).ok

    def signs_in_and_reads(self):
        with self.app.session.transaction():
            headers = Jsonb({"authorization": f"Bearer {self.key.api_key}"})
            assert self.app.one("authenticate", headers, "GET", "/docs", None).ok
            assert self.app.rows("SELECT body FROM docs WHERE body IN ('ours', 'theirs')") == [("ours",)]
            self.app.rows("INSERT INTO docs VALUES ('acme', 'more')")

    def mints_and_revokes(self):
        key = self.db.mint()
        assert self.app.verify(key.api_key).ok
        self.db.call("revoke", key.key_id)
        assert self.app.reason(key.api_key) == "revoked"

    def manages(self):
        self.db.call("define_role", "default", "reader", ["a", "b"])
        self.db.call("set_member", "acme", "ann", "reader")
        self.db.call("remove_member", "acme", "ann")
        self.db.call("alter_tenant", "globex", Jsonb({"plan": "pro"}))
        self.db.call("suspend_tenant", "globex")
        self.db.call("resume_tenant", "globex")
        self.db.call("alter_keyspace", "default", Jsonb({"label_length": 90}))

    def gives_and_takes_access(self):
        self.db.call("grant_access", "other", "issuer", tenant="acme")
        self.db.call("revoke_access", "other")

    def stores_usage(self):
        request_id = self.app.verify(self.key.api_key).request_id
        self.db.call("flush_usage", BOUND)
        stored = "SELECT count(*) FROM keysmith_private.usage_event WHERE request_id = %s"
        assert self.db.value(stored, request_id) == 1

    def adds_up_usage(self):
        with self.folding():
            assert self.db.value("SELECT keysmith_private.usage_fold()") is not None

    @contextmanager
    def folding(self):
        """A transaction that waits until the worker folds no totals, and keeps it from that."""
        with self.db.session.transaction():
            self.db.rows("SELECT keysmith_private.usage_fold_lock(waits => true)")
            yield

    def maintained(self):
        with self.folding():
            return dict(self.db.call("maintain"))

    def maintains(self):
        outcome = self.maintained()
        assert "folded" in outcome["totals"] and "made" in outcome["partitions"], outcome

    def audits(self):
        assert {row.ok for row in self.db.call("audit_verify")} == {True}
        self.db.call("doctor")

    PROBES = (decides, spends, signs_in_and_reads, mints_and_revokes, manages, gives_and_takes_access,
              stores_usage, adds_up_usage, maintains, audits)

    # A role that may name a view can block or keep the rows that it shows.

    def makes_partitions(self):
        day = date(2099, 1, 1) + timedelta(days=len(self.made))
        self.made.append(day)
        assert self.db.value("SELECT keysmith_private.usage_prepare(%s, %s)", day, day) == 1

    def drops_what_is_old(self):
        name = f"usage_{DAY.replace('-', '')}"
        outcome = self.maintained()
        assert self.db.value("SELECT to_regclass(%s)", f"keysmith_private.{name}") is None, (
            outcome, [row.finding for row in self.db.findings() if name in row.finding])

    def reads_views(self):
        for relation in self.objects().relations:
            if relation.kind == "v":
                self.db.rows(f"SELECT * FROM {relation.name} LIMIT 1")

    FOR_STRANGERS = (makes_partitions, drops_what_is_old, reads_views)

    def stopped(self, role, but=()):
        """The work that stopped, and why."""
        failed = {}
        for probe in self.PROBES + self.FOR_STRANGERS * (role == STRANGER):
            if probe.__name__ in but:
                continue
            try:
                probe(self)
            except (psycopg.Error, AssertionError) as error:
                failed[probe.__name__] = str(error)
                self.app.rows("ROLLBACK")
                self.db.rows("ROLLBACK")
        return failed

    def objects(self):
        return hostile.Objects.of(self.db)


@pytest.fixture(scope="module")
def world():
    with running("strangers", keysmith__usage_flush_interval="100ms", max_prepared_transactions="20") as cluster:
        world = World(cluster)
        assert world.stopped(STRANGER) == {}, "the control: with nobody in the way"
        yield world
