-- Lists of keys: without digests and without secrets.

CREATE VIEW keysmith_private.all_keys AS
SELECT k.key_id,
       t.name AS tenant,
       k.keyspace,
       k.label,
       keysmith_private.key_status(k.revoked_at, e.expires_at, k.disabled_at, k.disabled_reason,
                                   pg_catalog.clock_timestamp())
           AS status,
       k.kind,
       k.environment,
       k.key_prefix,
       k.key_snippet,
       k.scopes,
       k.role,
       k.owner,
       k.allowlist,
       -- The limits of the key come first, then those that it shares, with the key that has them. Most
       -- keys have no limits.
       CASE WHEN k.limits IS NOT NULL OR k.shared_limits IS NOT NULL THEN
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'name', l.part[7], 'limit', CASE WHEN l.part[5] <> 'transaction' THEN l.part[2]::bigint END,
               'window', nullif(l.part[5], 'transaction'), 'burst', CASE WHEN l.part[5] <> 'transaction' THEN l.part[6]::bigint END,
               'concurrent', CASE WHEN l.part[5] = 'transaction' THEN l.part[2]::bigint END,
               'unit', nullif(l.part[3], 'calls'), 'per', l.part[4],
               'shared_with', l.part[1])) ORDER BY l.n)
        FROM pg_catalog.regexp_matches(
                 pg_catalog.concat_ws(E'\n', k.limits, k.shared_limits),
                 '^(?:([-0-9a-f]{36})/)?(\d+)(?: (\S+))?(?: (\S+))?/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) END AS limits,
       keysmith_private.credits_at(c.balance, c.refill, c.every, c.anchor, c.refilled_at, pg_catalog.clock_timestamp())
           AS credits,
       e.expires_at,
       k.created_at,
       k.created_by,
       -- Of totals and of deltas that are not folded yet. A query without the column skips this.
       greatest((SELECT l.used_at FROM keysmith_private.usage_last l WHERE l.key_id = k.key_id),
                (SELECT pg_catalog.max(d.used_at) FROM keysmith_private.usage_delta d
                 WHERE d.tenant_id = k.tenant_id AND d.key_id = k.key_id)) AS last_used_at,
       k.revoked_at,
       k.revoked_reason,
       k.rotated_to,
       k.metadata,
       k.display_id,
       nullif(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
           'amount', c.refill, 'every', c.every, 'anchor', c.anchor, 'low', c.low, 'next',
           keysmith_private.next_refill(c.every, c.anchor, pg_catalog.clock_timestamp()))), '{}') AS refill,
       k.tenant_id
FROM keysmith_private.key k
JOIN keysmith_private.tenant t USING (tenant_id)
JOIN keysmith_private.keyspace s ON s.keyspace = k.keyspace
CROSS JOIN LATERAL (SELECT least(k.expires_at, k.created_at + t.max_lifetime, k.created_at + s.max_lifetime) AS expires_at) AS e
LEFT JOIN keysmith_private.credit c ON c.key_id = coalesce(k.purse, k.origin, k.key_id);

CREATE VIEW keysmith_private.key_listing AS
SELECT key_id, tenant, keyspace, label, status, kind, environment, key_prefix, key_snippet, scopes, role,
       owner, allowlist, limits, credits, expires_at, created_at, created_by, last_used_at, revoked_at,
       revoked_reason, rotated_to, metadata, display_id, refill
FROM keysmith_private.all_keys;
COMMENT ON VIEW keysmith_private.key_listing IS 'All keys, for the functions of this extension';
SELECT keysmith_private.publish('keys', '{tenant_id}');
COMMENT ON VIEW keysmith.keys IS 'All keys, without secrets';
COMMENT ON COLUMN keysmith.keys.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith.keys.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.keys.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.keys.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.keys.status IS 'The state of the key now: active, disabled, idle, expired or revoked';
COMMENT ON COLUMN keysmith.keys.kind IS 'secret, or publishable for a key that may be public';
COMMENT ON COLUMN keysmith.keys.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.keys.key_prefix IS 'The beginning of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.keys.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.keys.scopes IS 'The scopes of the key; if it has no scopes, its keyspace says which apply';
COMMENT ON COLUMN keysmith.keys.role IS 'The role of the key, which bounds its scopes';
COMMENT ON COLUMN keysmith.keys.owner IS 'The member of the tenant that owns the key; null if no member does';
COMMENT ON COLUMN keysmith.keys.allowlist IS 'The networks that the key may be used from; null for any';
COMMENT ON COLUMN keysmith.keys.limits IS 'The rate limits of the key, and those of the key that made it; other limits apply as well';
COMMENT ON COLUMN keysmith.keys.credits IS 'The balance of its credits, or of those of the key that made it; null if it spends its tenant''s';
COMMENT ON COLUMN keysmith.keys.expires_at IS 'The time when the key expires, by the earliest of its bounds; null for never';
COMMENT ON COLUMN keysmith.keys.created_at IS 'The time when the key was made';
COMMENT ON COLUMN keysmith.keys.created_by IS 'The database role that made the key';
COMMENT ON COLUMN keysmith.keys.last_used_at IS 'The time of its last accepted request; refused requests do not count';
COMMENT ON COLUMN keysmith.keys.revoked_at IS 'The time when the key was revoked; null if it was not';
COMMENT ON COLUMN keysmith.keys.revoked_reason IS 'The reason that revoke was given, or that of another act, such as rotated or leaked: SOURCE';
COMMENT ON COLUMN keysmith.keys.rotated_to IS 'The id of the key that replaced it';
COMMENT ON COLUMN keysmith.keys.metadata IS 'The JSON object that the application stored with the key; every verdict has it';
COMMENT ON COLUMN keysmith.keys.display_id IS 'The id that the product shows for the key, if its keyspace has a template for one';
COMMENT ON COLUMN keysmith.keys.refill IS 'How these credits are refilled, when next, and the threshold low; null if they are not';

-- The result type of list_keys and alter_key, with the columns of the view. The row type of the
-- view itself would do, but then the view could not be changed without these functions.
CREATE TYPE keysmith_private.listed_key AS (
    key_id         uuid,
    tenant         text,
    keyspace       text,
    label          text,
    status         text,
    kind           text,
    environment    text,
    key_prefix     text,
    key_snippet    text,
    scopes         text[],
    role           text,
    owner          text,
    allowlist      cidr[],
    limits         jsonb,
    credits        bigint,
    expires_at     timestamptz,
    created_at     timestamptz,
    created_by     text,
    last_used_at   timestamptz,
    revoked_at     timestamptz,
    revoked_reason text,
    rotated_to     uuid,
    metadata       jsonb,
    display_id     text,
    refill         jsonb
);
CREATE DOMAIN keysmith.listed_key AS keysmith_private.listed_key;
COMMENT ON DOMAIN keysmith.listed_key IS 'A key, as list_keys and alter_key return it: for variables';
COMMENT ON TYPE keysmith_private.listed_key IS 'A key without secrets; the columns are those of the view keys';

DO $$
DECLARE
    about record;
BEGIN
    FOR about IN
        SELECT a.attname, pg_catalog.col_description(a.attrelid, a.attnum) AS comment
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = 'keysmith.keys'::pg_catalog.regclass AND a.attnum > 0
    LOOP
        EXECUTE pg_catalog.format('COMMENT ON COLUMN keysmith_private.key_listing.%I IS %L', about.attname, about.comment);
        EXECUTE pg_catalog.format('COMMENT ON COLUMN keysmith_private.listed_key.%I IS %L', about.attname, about.comment);
    END LOOP;
END $$;

CREATE FUNCTION keysmith.list_keys(
    tenant text,
    keyspace text DEFAULT 'default',
    include_revoked boolean DEFAULT false
) RETURNS SETOF keysmith_private.listed_key
LANGUAGE c ROWS 10 AS 'MODULE_PATHNAME', 'keysmith_list_keys';
COMMENT ON FUNCTION keysmith.list_keys(text, text, boolean) IS
'The keys of a tenant, the oldest first';

CREATE VIEW keysmith.expiring_soon WITH (security_barrier) AS
SELECT k.tenant, k.keyspace, k.label, k.key_snippet, k.environment, k.kind, k.owner,
       k.expires_at, pg_catalog.date_trunc('second', k.expires_at - pg_catalog.clock_timestamp()) AS ends_in,
       k.last_used_at, k.rotated_to, k.key_id
FROM keysmith.keys k
WHERE k.status = 'active' AND k.expires_at < pg_catalog.clock_timestamp() + interval '30 days'
ORDER BY k.expires_at, k.key_id;
COMMENT ON VIEW keysmith.expiring_soon IS 'Active keys that expire within 30 days, the first to expire first';
COMMENT ON COLUMN keysmith.expiring_soon.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.expiring_soon.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.expiring_soon.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.expiring_soon.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.expiring_soon.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.expiring_soon.kind IS 'secret, or publishable for a key that may be public';
COMMENT ON COLUMN keysmith.expiring_soon.owner IS 'The member of the tenant that owns the key; null if no member does';
COMMENT ON COLUMN keysmith.expiring_soon.expires_at IS 'The time when the key expires';
COMMENT ON COLUMN keysmith.expiring_soon.ends_in IS 'The time that is left until then';
COMMENT ON COLUMN keysmith.expiring_soon.last_used_at IS 'The time of its last accepted request; refused requests do not count';
COMMENT ON COLUMN keysmith.expiring_soon.rotated_to IS 'The id of its successor; null if it has no successor yet';
COMMENT ON COLUMN keysmith.expiring_soon.key_id IS 'The id of the key; it is not secret';

CREATE VIEW keysmith_private.all_stale_keys AS
SELECT k.tenant, k.keyspace, k.label, k.key_snippet, k.environment, k.kind, k.owner,
       k.created_at, k.last_used_at,
       pg_catalog.date_trunc('second',
           pg_catalog.clock_timestamp() - coalesce(k.last_used_at, k.created_at)) AS unused_for,
       k.key_id, k.tenant_id
FROM keysmith_private.all_keys k
JOIN keysmith_private.keyspace s USING (keyspace)
WHERE k.status = 'active' AND s.usage_log IN ('everything', 'totals')
  AND coalesce(k.last_used_at < pg_catalog.clock_timestamp() - interval '90 days', true);
SELECT keysmith_private.publish('stale_keys', '{tenant_id}', 'ORDER BY unused_for DESC, key_id');
COMMENT ON VIEW keysmith.stale_keys IS 'Active keys without an accepted request in the last 90 days';
COMMENT ON COLUMN keysmith.stale_keys.tenant IS 'The name of the tenant that the key belongs to';
COMMENT ON COLUMN keysmith.stale_keys.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.stale_keys.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.stale_keys.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith.stale_keys.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.stale_keys.kind IS 'secret, or publishable for a key that may be public';
COMMENT ON COLUMN keysmith.stale_keys.owner IS 'The member of the tenant that owns the key; null if no member does';
COMMENT ON COLUMN keysmith.stale_keys.created_at IS 'The time when the key was made';
COMMENT ON COLUMN keysmith.stale_keys.last_used_at IS 'The time of its last accepted request; null if there was no such request';
COMMENT ON COLUMN keysmith.stale_keys.unused_for IS 'The time since its last accepted request, or else since it was made';
COMMENT ON COLUMN keysmith.stale_keys.key_id IS 'The id of the key; it is not secret';
