-- Keys of better-auth's API key plugin: `key` is the SHA-256 of the whole key in base64url
-- without padding. A copy of its table is in the schema `auth` here:
--
--   apikey   id, name, start, key, "userId" ("referenceId" in newer versions), enabled,
--            "rateLimitEnabled", "rateLimitTimeWindow" (milliseconds), "rateLimitMax",
--            remaining, "refillAmount", "refillInterval" (milliseconds), "expiresAt",
--            permissions and metadata (JSON; metadata may be written as a JSON string)
--
-- A tenant for each user. Permissions, {"files": ["read"]}, become scopes, files:read. Refills
-- are by day or month here: an interval longer than a day becomes a month. Expired keys are not
-- imported: they would be refused anyway.

\set ON_ERROR_STOP on
BEGIN;

-- A key without permissions may do nothing; with the default, no scopes would mean all.
SELECT keysmith.create_keyspace('auth', empty_scopes => 'none', managed_by => 'nobody');

SELECT count(keysmith.create_tenant(owner, keyspace => 'auth')) AS tenants
FROM (SELECT DISTINCT "userId" AS owner FROM auth.apikey) AS owners;

SELECT count(*) AS keys,
       count(keysmith.disable(imported.key_id)) FILTER (WHERE NOT k.enabled) AS disabled,
       count(keysmith.alter_key(imported.key_id, jsonb_build_object('credits', jsonb_build_object(
           'balance', coalesce(k.remaining, 0), 'refill', k."refillAmount",
           'every', CASE WHEN k."refillInterval" <= 86400000 THEN 'day' ELSE 'month' END))))
           FILTER (WHERE k."refillAmount" > 0) AS refilled
FROM auth.apikey k
CROSS JOIN LATERAL keysmith.import_key(
    k."userId",
    decode(translate(k.key, '-_', '+/') || '=', 'base64'),
    label => k.name,
    scopes => ARRAY(
        SELECT p.key || ':' || action
        FROM jsonb_each(nullif(nullif(k.permissions, ''), 'null')::jsonb) AS p,
             jsonb_array_elements_text(p.value) AS action),
    expires_at => k."expiresAt",
    limits => CASE WHEN k."rateLimitEnabled" THEN jsonb_build_array(jsonb_build_object(
        'name', 'requests', 'limit', k."rateLimitMax",
        'window', k."rateLimitTimeWindow" || ' ms')) END,
    credits => k.remaining,
    metadata => CASE jsonb_typeof(nullif(k.metadata, '')::jsonb)
        WHEN 'object' THEN k.metadata::jsonb
        WHEN 'string' THEN (k.metadata::jsonb #>> '{}')::jsonb
        ELSE '{}' END || jsonb_build_object('better_auth_id', k.id),
    keyspace => 'auth',
    key_prefix => k.start) AS imported
WHERE k."expiresAt" IS NULL OR k."expiresAt" > now();

COMMIT;
