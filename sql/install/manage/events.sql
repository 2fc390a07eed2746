-- Events: the entries of the audit that tell what happened, in their order.

-- A chain is locked from the number of an entry to its commit. So an entry becomes visible after all
-- entries before it, here and on standbys.
CREATE VIEW keysmith_private.all_events AS
SELECT a.keyspace, a.entry AS position, a.at, a.action AS event, c.key_id, c.tenant,
       CASE WHEN c.digest IS NOT NULL THEN
           pg_catalog.jsonb_build_object('before', c.before, 'after', c.after,
                                         'acting_key', c.acting_key, 'acting_member', c.acting_member)
       END AS detail,
       c.tenant_id,
       (SELECT k.environment FROM keysmith_private.key k WHERE k.key_id = c.key_id) AS environment
FROM keysmith_private.audit_entry a
LEFT JOIN keysmith_private.audit_content c ON c.digest = a.content
WHERE a.keyspace <> '*'
  AND a.action <> ALL ('{create_keyspace,create_tenant,grant_access,revoke_access}');
SELECT keysmith_private.publish('events', '{tenant_id,environment}');
COMMENT ON VIEW keysmith.events IS 'What happened to keys, tenants and keyspaces, as the audit has it';
COMMENT ON COLUMN keysmith.events.keyspace IS 'The keyspace of the event';
COMMENT ON COLUMN keysmith.events.position IS 'The number of its entry in the audit of the keyspace; later events have higher ones';
COMMENT ON COLUMN keysmith.events.at IS 'The time of the event';
COMMENT ON COLUMN keysmith.events.event IS 'The name of the event, such as revoke or key.expired';
COMMENT ON COLUMN keysmith.events.key_id IS 'The id of the key that the event is about';
COMMENT ON COLUMN keysmith.events.tenant IS 'The tenant that the event is about, by the name that it had';
COMMENT ON COLUMN keysmith.events.detail IS 'The state before and after, and the key or member that acted, without secrets; null if it was erased';

CREATE FUNCTION keysmith.events_after(
    keyspace text DEFAULT 'default',
    after bigint DEFAULT 0,
    most integer DEFAULT 100,
    OUT "position" bigint,
    OUT at timestamptz,
    OUT event text,
    OUT key_id uuid,
    OUT tenant text,
    OUT detail jsonb
) RETURNS SETOF record
LANGUAGE c STABLE ROWS 100 AS 'MODULE_PATHNAME', 'keysmith_events_after';
COMMENT ON FUNCTION keysmith.events_after(text, bigint, integer) IS
'The events of a keyspace after a position, the oldest first; a consumer that remembers the last position misses none';
