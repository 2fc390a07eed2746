-- Erasing a tenant.

CREATE FUNCTION keysmith.erase_tenant(tenant text, keyspace text DEFAULT 'default') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_erase_tenant';
COMMENT ON FUNCTION keysmith.erase_tenant(text, text) IS
'Deletes what identifies the people of a tenant; its keys are revoked';

-- The order matters. The first statement waits for transactions that change keys. If they make keys from
-- them, they need the tenant then. The second waits for those that make keys, and the lock for those
-- that record usage. Each statement then sees what they did. A new name keeps others from going on.
CREATE FUNCTION keysmith_private.erase(tenant_id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    erased constant uuid := tenant_id;
BEGIN
    PERFORM FROM keysmith_private.key WHERE tenant_id = erased ORDER BY key_id FOR NO KEY UPDATE;
    UPDATE keysmith_private.tenant
    SET name = tenant_id::text, metadata = '{}', allowlist = NULL, erased_at = clock_timestamp(),
        suspended_at = coalesce(suspended_at, clock_timestamp()), suspended_reason = 'erased'
    WHERE tenant_id = erased;
    UPDATE keysmith_private.key
    SET label = NULL, owner = NULL, allowlist = NULL, metadata = '{}', revoked_reason = 'erased',
        revoked_at = coalesce(revoked_at, clock_timestamp()),
        -- A guess of the arguments could be compared with these digests.
        idempotency_digest = NULL, arguments_digest = NULL
    WHERE tenant_id = erased;
    DELETE FROM keysmith_private.member WHERE tenant_id = erased;

    -- Values of tags may name people. So a fold that has begun ends first, and no other begins.
    PERFORM keysmith_private.usage_fold_lock(true);
    LOCK TABLE keysmith_private.usage_event, keysmith_private.touch IN SHARE ROW EXCLUSIVE MODE;
    UPDATE keysmith_private.usage_event
    SET ip = NULL, member = CASE WHEN member IS NOT NULL THEN '' END, subject = NULL, tags = NULL,
        counted_tags = NULL
    WHERE tenant_id = erased
      AND (ip IS NOT NULL OR member <> '' OR subject IS NOT NULL OR tags IS NOT NULL);
    -- The update has written deltas, too.
    DELETE FROM keysmith_private.usage_tag_delta WHERE tenant_id = erased;
    DELETE FROM keysmith_private.usage_tag WHERE tenant_id = erased;
    UPDATE keysmith_private.touch SET member = '' WHERE tenant_id = erased AND member <> '';
    -- The error of a record that could not be stored may quote its row.
    DELETE FROM keysmith_private.usage_set_aside q
    WHERE NOT EXISTS (SELECT FROM keysmith_private.key k WHERE k.key_id = q.key_id AND k.tenant_id <> erased);
END $$;
COMMENT ON FUNCTION keysmith_private.erase(uuid) IS
'Deletes what may identify the people of a tenant, except from the audit';
