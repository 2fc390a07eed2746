-- Keys of an Unkey-style service: a row a key, `hash` the SHA-256 of the whole key in
-- base64. Copies of its tables are in the schema `unkey` here:
--
--   keys              id, hash, start, name, owner_id, identity_id, meta, expires, deleted_at_m,
--                     enabled, remaining_requests, refill_amount, refill_day
--   identities        id, external_id
--   ratelimits        key_id, name, limit, duration (milliseconds)
--   permissions (id, slug), keys_permissions, roles_permissions, keys_roles
--
-- A tenant for each owner; keys without one are the tenant `unkey`'s. What was deleted or
-- has expired stays behind: it is refused either way.

\set ON_ERROR_STOP on
BEGIN;

-- A key without permissions has none: here, no scopes would otherwise mean all.
SELECT keysmith.create_keyspace('unkey', empty_scopes => 'none', managed_by => 'nobody');

SELECT count(keysmith.create_tenant(owner, keyspace => 'unkey')) AS tenants
FROM (SELECT DISTINCT coalesce(i.external_id, k.owner_id, 'unkey') AS owner
      FROM unkey.keys k LEFT JOIN unkey.identities i ON i.id = k.identity_id) AS owners;

SELECT count(*) AS keys,
       count(keysmith.disable(imported.key_id)) FILTER (WHERE NOT k.enabled) AS disabled,
       count(keysmith.alter_key(imported.key_id, jsonb_build_object('credits', jsonb_build_object(
           'balance', coalesce(k.remaining_requests, 0), 'refill', k.refill_amount,
           'every', CASE WHEN k.refill_day IS NULL THEN 'day' ELSE 'month' END))))
           FILTER (WHERE k.refill_amount > 0) AS refilled
FROM unkey.keys k
LEFT JOIN unkey.identities i ON i.id = k.identity_id
CROSS JOIN LATERAL keysmith.import_key(
    coalesce(i.external_id, k.owner_id, 'unkey'),
    decode(k.hash, 'base64'),
    label => k.name,
    scopes => ARRAY(
        SELECT p.slug FROM unkey.keys_permissions h
        JOIN unkey.permissions p ON p.id = h.permission_id WHERE h.key_id = k.id
        UNION
        SELECT p.slug FROM unkey.keys_roles h
        JOIN unkey.roles_permissions r ON r.role_id = h.role_id
        JOIN unkey.permissions p ON p.id = r.permission_id WHERE h.key_id = k.id),
    expires_at => k.expires AT TIME ZONE 'UTC',
    limits => (
        SELECT jsonb_agg(jsonb_build_object('name', r.name, 'limit', r."limit",
                                            'window', r.duration || ' ms'))
        FROM unkey.ratelimits r WHERE r.key_id = k.id),
    credits => k.remaining_requests,
    metadata => coalesce(nullif(k.meta, '')::jsonb, '{}') || jsonb_build_object('unkey_id', k.id),
    keyspace => 'unkey',
    key_prefix => k.start) AS imported
WHERE k.deleted_at_m IS NULL AND (k.expires IS NULL OR k.expires AT TIME ZONE 'UTC' > now());

COMMIT;
