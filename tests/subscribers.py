"""A publisher and a subscriber: a database each, of two clusters."""

from contextlib import contextmanager

from cluster import running
from conftest import session, wait_until

# What decides about keys, and the heartbeat. Everything else is the publisher's own.
TABLES = ["keyspace", "keyspace_prefix", "answer", "plan_feature", "scope", "role", "route", "endpoint",
          "tenant", "member", "key", "heartbeat"]
PUBLISHED = "FOR TABLE " + ", ".join(f"keysmith_private.{table}" for table in TABLES)
FAST = {"wal_level": "logical", "wal_retrieve_retry_interval": "100ms", "max_worker_processes": 20,
        "max_logical_replication_workers": 12, "keysmith__usage_flush_interval": "100ms"}


def is_ready(there):
    """Whether the first copy of every table is over."""
    return not there.rows("SELECT FROM pg_subscription_rel WHERE srsubstate <> 'r'")


def subscribe(publisher, there, dbname="postgres", name="keys", **options):
    there.rows(f"CREATE SUBSCRIPTION {name} CONNECTION '{publisher.dsn(dbname)}' PUBLICATION keys")
    wait_until(lambda: is_ready(there))


@contextmanager
def pair(published=PUBLISHED, dbname="postgres", publisher={}, subscriber={}):
    """A publisher with a tenant, and a subscriber that has its rows."""
    with running("publisher", **(FAST | {"max_wal_senders": 10} | publisher)) as here, \
            running("subscriber", **(FAST | subscriber)) as over_there:
        if dbname != "postgres":
            here.execute(f"CREATE DATABASE {dbname}")
        db, there = session(here, dbname), session(over_there)
        for one in (db, there):
            one.rows("CREATE EXTENSION keysmith")
        db.tenant()
        db.rows(f"CREATE PUBLICATION keys {published}")
        subscribe(here, there, dbname)
        try:
            yield here, over_there, db, there
        finally:
            db.session.close()
            there.session.close()
