-- The part of doctor() that looks at logical replication.

CREATE FUNCTION keysmith_private.doctor_replication(
    OUT level text, OUT subject text, OUT finding text, OUT remedy text
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH subscribed AS (SELECT * FROM keysmith_private.subscriptions())
    SELECT 'error', 'replication', format('subscription %I is disabled: revocations don''t arrive', name),
           format('ALTER SUBSCRIPTION %I ENABLE; if an error has disabled it, the log of this server has the error', name)
    FROM subscribed WHERE NOT is_enabled
    UNION ALL
    SELECT 'error', 'replication', format('subscription %I has stopped: revocations don''t arrive', name),
           'remove the cause, which the log of this server has: such as a row of this database, or a role that is missing'
    FROM subscribed WHERE is_enabled AND NOT is_applied
    UNION ALL
    SELECT 'warning', 'replication', format('subscription %I has failed %s times', name, errors),
           format('the log of this server has the errors; SELECT pg_stat_reset_subscription_stats(%s) forgets them', oid)
    FROM subscribed WHERE errors > 0
    UNION ALL
    SELECT 'warning', 'replication', format('subscription %I has not copied %s tables yet', name, not_copied),
           'wait; if it takes long, see the log of this server'
    FROM subscribed WHERE not_copied > 0
    UNION ALL
    SELECT 'warning', 'replication',
           format('publication %I leaves out updates or deletes of keys: a subscriber would not hear of revocations', p.pubname),
           format('ALTER PUBLICATION %I SET (publish = ''insert, update, delete, truncate'')', p.pubname)
    FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
    WHERE t.schemaname = 'keysmith_private' AND t.tablename = 'key' AND NOT (p.pubupdate AND p.pubdelete)
$$;
COMMENT ON FUNCTION keysmith_private.doctor_replication() IS
'The part of doctor() that looks at the subscriptions that bring keys';
