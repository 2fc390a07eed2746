-- Erasing a tenant.

CREATE FUNCTION keysmith.erase_tenant(tenant text, keyspace text DEFAULT 'default') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_erase_tenant';
COMMENT ON FUNCTION keysmith.erase_tenant(text, text) IS
'Deletes what identifies the people of a tenant; its keys are revoked';

-- The order matters. The first statement waits for transactions that make keys, the second for those
-- that change them, and the lock for those that record usage. Each statement then sees what they
-- did. A new name keeps others from going on.
CREATE FUNCTION keysmith_private.erase(tenant_id uuid, keyspace text) RETURNS jsonb
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    erased  constant uuid := tenant_id;
    within  constant text := keyspace;
    entries bigint[];
    ranges  jsonb;
BEGIN
    UPDATE keysmith_private.tenant
    SET name = tenant_id::text, metadata = '{}', allowlist = NULL, erased_at = clock_timestamp(),
        suspended_at = coalesce(suspended_at, clock_timestamp()), suspended_reason = 'erased'
    WHERE tenant_id = erased;
    UPDATE keysmith_private.key
    SET label = NULL, owner = NULL, allowlist = NULL, metadata = '{}', revoked_reason = 'erased',
        revoked_at = coalesce(revoked_at, clock_timestamp())
    WHERE tenant_id = erased;
    DELETE FROM keysmith_private.member WHERE tenant_id = erased;

    LOCK TABLE keysmith_private.usage_event, keysmith_private.touch IN SHARE ROW EXCLUSIVE MODE;
    UPDATE keysmith_private.usage_event
    SET ip = NULL, member = CASE WHEN member IS NOT NULL THEN '' END
    WHERE tenant_id = erased AND (ip IS NOT NULL OR member <> '');
    UPDATE keysmith_private.touch SET member = '' WHERE tenant_id = erased AND member <> '';
    -- The error of a record that could not be stored may quote its row.
    DELETE FROM keysmith_private.usage_set_aside q
    WHERE NOT EXISTS (SELECT FROM keysmith_private.key k WHERE k.key_id = q.key_id AND k.tenant_id <> erased);

    -- Entries of erasures stay: they name the entries that have no content.
    SELECT array_agg(a.entry) INTO entries
    FROM keysmith_private.audit_entry a JOIN keysmith_private.audit_content c ON c.digest = a.content
    WHERE a.keyspace = within AND c.tenant_id = erased AND a.action <> 'erase_tenant';
    DELETE FROM keysmith_private.audit_content c
    USING keysmith_private.audit_entry a
    WHERE a.content = c.digest AND a.keyspace = within AND a.entry = ANY (entries);
    SELECT coalesce(jsonb_agg(jsonb_build_array(g.first, g.last) ORDER BY g.first), '[]') INTO ranges
    FROM (SELECT min(n.entry) AS first, max(n.entry) AS last
          FROM (SELECT e.entry, e.entry - row_number() OVER (ORDER BY e.entry) AS island
                FROM unnest(entries) AS e (entry)) n
          GROUP BY n.island) g;
    RETURN ranges;
END $$;
COMMENT ON FUNCTION keysmith_private.erase(uuid, text) IS
'Deletes what may identify the people of a tenant, and returns the ranges of entries that lose their content';
