-- Events about the ends of keys, which no act makes.

CREATE VIEW keysmith_private.due_key_notice AS
SELECT k.key_id, k.keyspace, e.ends_at, e.event
FROM keysmith_private.key k
JOIN keysmith_private.tenant t USING (tenant_id)
JOIN keysmith_private.keyspace s ON s.keyspace = k.keyspace
CROSS JOIN LATERAL (
    SELECT b.ends_at, CASE WHEN b.ends_at <= pg_catalog.clock_timestamp() THEN 'key.expired' ELSE 'key.expiring' END AS event
    FROM (SELECT least(k.expires_at, k.created_at + t.max_lifetime, k.created_at + s.max_lifetime) AS ends_at
          OFFSET 0) AS b
) AS e
WHERE k.revoked_at IS NULL
  AND (e.event = 'key.expired'
       -- The end of a key with a successor was asked for.
       OR k.rotated_to IS NULL AND s.expiring_notice > '0' AND e.ends_at - s.expiring_notice <= pg_catalog.clock_timestamp())
  AND NOT EXISTS (SELECT FROM keysmith_private.key_notice n
                  WHERE n.key_id = k.key_id AND n.event = e.event
                    -- It had ended when that was noted, so it was not usable until this end either.
                    AND (n.ends_at = e.ends_at OR n.event = 'key.expired' AND e.ends_at <= n.at));
COMMENT ON VIEW keysmith_private.due_key_notice IS
'Keys that have ended or will end soon, as a verdict has it, and whose event is not in the audit yet';

CREATE FUNCTION keysmith_private.note_key_ends(
    after uuid, OUT next_after uuid, OUT noted bigint, OUT is_expected boolean
) RETURNS SETOF record
LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_note_key_ends';
COMMENT ON FUNCTION keysmith_private.note_key_ends(uuid) IS
'Adds the events about the ends of a portion of the keys to the audit, and says whether more are to come';

CREATE FUNCTION keysmith_private.note_all_key_ends() RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    portion record;
    next    uuid := '00000000-0000-0000-0000-000000000000';
    noted   bigint := 0;
BEGIN
    -- The first portion that has some: its keys stay locked until the caller commits. The others wait
    -- for the next call, or for the worker, which commits after each.
    WHILE next IS NOT NULL AND noted = 0 LOOP
        SELECT * INTO portion FROM keysmith_private.note_key_ends(next);
        EXIT WHEN NOT FOUND;
        next := portion.next_after;
        noted := portion.noted;
    END LOOP;
    RETURN noted || ' noted';
END $$;
COMMENT ON FUNCTION keysmith_private.note_all_key_ends() IS
'Adds events about the ends of at most one portion of keys to the audit, for maintain(), and says how many';
