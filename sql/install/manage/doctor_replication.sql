-- The part of doctor() that looks at logical replication.

CREATE FUNCTION keysmith_private.doctor_replication(
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH subscribed AS (SELECT * FROM keysmith_private.subscriptions())
    SELECT 'error', 'replication', format('subscription %I is disabled: revocations do not arrive; after an error, the log of this server says why', name),
           format('ALTER SUBSCRIPTION %I ENABLE', name)
    FROM subscribed WHERE NOT is_enabled
    UNION ALL
    SELECT 'error', 'replication', format('subscription %I has stopped: revocations do not arrive', name),
           'remove the cause that the log of this server names, such as a row that is in the way'
    FROM subscribed WHERE is_enabled AND NOT is_applied
    UNION ALL
    SELECT 'warning', 'replication', format('subscription %I has failed %s times: the log of this server has the errors', name, errors),
           format('SELECT pg_stat_reset_subscription_stats(%s)', oid)
    FROM subscribed WHERE errors > 0
    UNION ALL
    SELECT 'warning', 'replication', format('subscription %I has not copied %s tables yet', name, not_copied),
           'wait; if it takes long, see the log of this server'
    FROM subscribed WHERE not_copied > 0
    UNION ALL
    SELECT 'warning', 'replication',
           format('publication %I leaves out updates or deletes of keys: revocations would not reach a subscriber', p.pubname),
           format('ALTER PUBLICATION %I SET (publish = ''insert, update, delete, truncate'')', p.pubname)
    FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
    WHERE t.schemaname = 'keysmith_private' AND t.tablename = 'key' AND NOT (p.pubupdate AND p.pubdelete)
$$;
COMMENT ON FUNCTION keysmith_private.doctor_replication() IS
'The part of doctor() that looks at the subscriptions that bring keys';
