-- Keys of an Unkey-style service: a row per key, with `hash`, the SHA-256 of the whole key in
-- base64. Copies of its tables are in the schema `unkey` here:
--
--   keys              id, hash, start, name, owner_id, identity_id, meta, expires, deleted_at_m,
--                     enabled, remaining_requests, refill_amount, refill_day
--   identities        id, external_id
--   ratelimits        key_id or identity_id, name, limit, duration (milliseconds)
--   permissions (id, slug), keys_permissions, roles_permissions, keys_roles
--
-- A tenant for each owner; keys without an owner belong to the tenant `unkey`. Deleted and
-- expired keys are not imported: they would be refused anyway.

\set ON_ERROR_STOP on
BEGIN;

-- A key without permissions may do nothing; with the default, no scopes would mean all.
SELECT keysmith.create_keyspace('unkey', empty_scopes => 'none', managed_by => 'nobody');

CREATE TEMPORARY VIEW old_keys AS
SELECT k.*, coalesce(i.external_id, k.owner_id, 'unkey') AS owner, i.id AS identity,
       k.deleted_at_m IS NULL AND (k.expires IS NULL OR k.expires AT TIME ZONE 'UTC' > now()) AS is_alive
FROM unkey.keys k LEFT JOIN unkey.identities i ON i.id = k.identity_id;

-- If all keys of a tenant belong to one identity, the identity's limits become the tenant's: they
-- count the calls of all its keys together.
CREATE TEMPORARY VIEW old_owners AS
SELECT owner, CASE WHEN count(DISTINCT identity) = 1 AND count(identity) = count(*) THEN min(identity) END
       AS identity
FROM (SELECT owner, identity FROM old_keys WHERE is_alive) AS alive
GROUP BY owner;

SELECT count(keysmith.create_tenant(owner, keyspace => 'unkey', limits => (
    SELECT jsonb_agg(jsonb_build_object('name', r.name, 'limit', r."limit",
                                        'window', r.duration || ' ms'))
    FROM unkey.ratelimits r WHERE r.identity_id = o.identity))) AS tenants
FROM (SELECT DISTINCT owner FROM old_keys) AS owners LEFT JOIN old_owners o USING (owner);

SELECT count(*) AS keys,
       count(keysmith.disable(imported.key_id)) FILTER (WHERE NOT k.enabled) AS disabled,
       count(keysmith.alter_key(imported.key_id, jsonb_build_object('credits', jsonb_build_object(
           'balance', coalesce(k.remaining_requests, 0), 'refill', k.refill_amount,
           'every', CASE WHEN k.refill_day IS NULL THEN 'day' ELSE 'month' END))))
           FILTER (WHERE k.refill_amount > 0) AS refilled
FROM old_keys k
JOIN old_owners o USING (owner)
CROSS JOIN LATERAL keysmith.import_key(
    k.owner,
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
    -- Limits of other identities go to each of their keys, unless the key has a limit of that
    -- name.
    limits => (
        SELECT jsonb_agg(jsonb_build_object('name', r.name, 'limit', r."limit",
                                            'window', r.duration || ' ms'))
        FROM (SELECT DISTINCT ON (name) * FROM unkey.ratelimits
              WHERE key_id = k.id OR (identity_id = k.identity AND o.identity IS NULL)
              ORDER BY name, key_id IS NULL) AS r),
    credits => k.remaining_requests,
    metadata => coalesce(nullif(k.meta, '')::jsonb, '{}') || jsonb_build_object('unkey_id', k.id),
    keyspace => 'unkey',
    key_prefix => k.start) AS imported
WHERE k.is_alive;

COMMIT;
