-- Laravel Sanctum's personal access tokens: `token` is the SHA-256, in hex, of the part
-- behind the bar of `17|plain-text`. A copy of its table is in the schema `laravel` here:
--
--   personal_access_tokens   id, tokenable_type, tokenable_id, name, token, abilities (JSON),
--                            expires_at
--
-- A tenant for each model that has tokens, such as `user-42`. The ability * is the scope *.
-- Expired tokens are not imported: they would be refused anyway.

\set ON_ERROR_STOP on
BEGIN;

-- A token without abilities may do nothing; with the default, no scopes would mean all.
SELECT keysmith.create_keyspace('laravel', empty_scopes => 'none', managed_by => 'nobody');

SELECT count(keysmith.create_tenant(owner, keyspace => 'laravel')) AS tenants
FROM (SELECT DISTINCT lower(regexp_replace(tokenable_type, '^.*\\', '')) || '-' || tokenable_id AS owner
      FROM laravel.personal_access_tokens) AS owners;

SELECT count(*) AS keys
FROM laravel.personal_access_tokens t
CROSS JOIN LATERAL keysmith.import_key(
    lower(regexp_replace(t.tokenable_type, '^.*\\', '')) || '-' || t.tokenable_id,
    decode(t.token, 'hex'),
    algorithm => 'sha256-behind-bar',
    label => t.name,
    scopes => ARRAY(SELECT jsonb_array_elements_text(t.abilities::jsonb)),
    expires_at => t.expires_at AT TIME ZONE 'UTC',
    metadata => jsonb_build_object('sanctum_id', t.id),
    keyspace => 'laravel',
    key_prefix => t.id || '|') AS imported
WHERE t.expires_at IS NULL OR t.expires_at AT TIME ZONE 'UTC' > now();

COMMIT;
