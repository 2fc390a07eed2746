"""The cost of folding grows with the number of deltas, not with the number of a tenant's keys."""

from cluster import running

KEYS = 2000


def test_a_tenant_of_many_keys_is_added_up_once():
    with running("fold", preload=False) as cluster:
        cluster.execute("CREATE EXTENSION keysmith")
        with cluster.connect() as connection:
            tenant, = connection.execute("SELECT keysmith.create_tenant('acme')").fetchone()
            connection.execute("SELECT keysmith_private.usage_prepare()")
            connection.execute(
                "INSERT INTO keysmith_private.usage_event (at, incarnation, sequence, request_id, key_id, tenant_id,"
                " keyspace, environment, status, outcome)"
                " SELECT now(), 1, g, gen_random_uuid(), gen_random_uuid(), %s, 'default', 'live', 200, 'ok'"
                " FROM generate_series(1, %s) AS g", [tenant, KEYS])
            before = _read(connection)
            connection.execute("SELECT keysmith_private.usage_fold()")
            assert connection.execute("SELECT sum(requests) FROM keysmith_private.usage_hour").fetchone() == (KEYS,)
            # Each key's total is read a few times, for itself and for its tenant, but not for
            # each of the other keys.
            assert _read(connection) - before < 50 * KEYS


def _read(connection):
    """Entries of the totals' indexes that were read so far."""
    connection.execute("SELECT pg_stat_force_next_flush()")
    return connection.execute("SELECT sum(idx_tup_read) FROM pg_stat_all_indexes"
                              " WHERE relname IN ('usage_hour', 'usage_day', 'usage_mark')").fetchone()[0]
