-- Tenants and their members.

CREATE FUNCTION keysmith.create_tenant(
    name text,
    keyspace text DEFAULT 'default',
    plan text DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    limits jsonb DEFAULT NULL,
    credits jsonb DEFAULT NULL,
    tenant_id uuid DEFAULT NULL,
    if_not_exists boolean DEFAULT false,
    max_lifetime interval DEFAULT NULL,
    allowlist cidr[] DEFAULT NULL,
    scopes text[] DEFAULT NULL
) RETURNS uuid
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_create_tenant';
COMMENT ON FUNCTION keysmith.create_tenant(text, text, text, jsonb, jsonb, jsonb, uuid, boolean, interval, cidr[], text[]) IS
'Makes a tenant and returns its id';

CREATE FUNCTION keysmith.alter_tenant(
    tenant text,
    changes jsonb,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_alter_tenant';
COMMENT ON FUNCTION keysmith.alter_tenant(text, jsonb, text) IS
'Changes a tenant: its plan, limits, credits, bounds and others; a JSON object names the fields';

CREATE FUNCTION keysmith.rename_tenant(
    tenant text,
    new_name text,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_rename_tenant';
COMMENT ON FUNCTION keysmith.rename_tenant(text, text, text) IS
'Gives a tenant another name; its id, its keys and its history stay';

CREATE FUNCTION keysmith.suspend_tenant(
    tenant text,
    keyspace text DEFAULT 'default',
    reason text DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_suspend_tenant';
COMMENT ON FUNCTION keysmith.suspend_tenant(text, text, text) IS
'Suspends a tenant; all its keys are refused until it is resumed';

CREATE FUNCTION keysmith.resume_tenant(tenant text, keyspace text DEFAULT 'default') RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_resume_tenant';
COMMENT ON FUNCTION keysmith.resume_tenant(text, text) IS
'Ends a suspension';

CREATE FUNCTION keysmith.set_member(
    tenant text,
    member text,
    role text,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_set_member';
COMMENT ON FUNCTION keysmith.set_member(text, text, text, text) IS
'Adds a member to a tenant, or changes the member''s role; the member''s keys follow';

CREATE FUNCTION keysmith.remove_member(
    tenant text,
    member text,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_member';
COMMENT ON FUNCTION keysmith.remove_member(text, text, text) IS
'Removes a member from a tenant; the member''s keys are refused from this commit on';

CREATE VIEW keysmith_private.all_tenants AS
SELECT t.name AS tenant,
       t.keyspace,
       t.plan,
       CASE WHEN t.suspended_at IS NULL THEN 'active' ELSE 'suspended' END AS status,
       (SELECT pg_catalog.count(*) FROM keysmith_private.key k
        WHERE k.tenant_id = t.tenant_id AND k.environment = coalesce(i.environment, k.environment)
          AND k.revoked_at IS NULL AND k.disabled_at IS NULL
          AND coalesce(least(k.expires_at, k.created_at + t.max_lifetime, k.created_at + s.max_lifetime)
                       > pg_catalog.clock_timestamp(), true)) AS active_keys,
       (SELECT pg_catalog.count(*) FROM keysmith_private.key k
        WHERE k.tenant_id = t.tenant_id
          AND k.environment = coalesce(i.environment, k.environment)) AS keys,
       (SELECT pg_catalog.count(*) FROM keysmith_private.member m WHERE m.tenant_id = t.tenant_id) AS members,
       keysmith_private.credits_at(c.balance, c.refill, c.every, c.anchor, c.refilled_at, pg_catalog.clock_timestamp())
           AS credits,
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'name', l.part[6], 'limit', CASE WHEN l.part[4] <> 'transaction' THEN l.part[1]::bigint END,
               'window', nullif(l.part[4], 'transaction'), 'burst', CASE WHEN l.part[4] <> 'transaction' THEN l.part[5]::bigint END,
               'concurrent', CASE WHEN l.part[4] = 'transaction' THEN l.part[1]::bigint END,
               'unit', nullif(l.part[2], 'calls'), 'per', l.part[3]))
               ORDER BY l.n)
        FROM pg_catalog.regexp_matches(t.limits, '^(\d+)(?: (\S+))?(?: (\S+))?/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) AS limits,
       greatest((SELECT pg_catalog.max(l.used_at) FROM keysmith_private.key k
                 JOIN keysmith_private.usage_last l USING (key_id)
                 WHERE k.tenant_id = t.tenant_id AND k.environment = coalesce(i.environment, k.environment)),
                (SELECT pg_catalog.max(d.used_at) FROM keysmith_private.usage_delta d
                 WHERE d.tenant_id = t.tenant_id AND d.key_id <> '00000000-0000-0000-0000-000000000000'
                   AND d.environment = coalesce(i.environment, d.environment))) AS last_used_at,
       t.created_at,
       t.suspended_at,
       t.suspended_reason,
       t.metadata,
       t.tenant_id,
       t.max_lifetime,
       t.allowlist,
       t.scopes,
       nullif(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
           'amount', c.refill, 'every', c.every, 'anchor', c.anchor, 'low', c.low, 'next',
           keysmith_private.next_refill(c.every, c.anchor, pg_catalog.clock_timestamp()))), '{}') AS refill
FROM keysmith_private.tenant t
JOIN keysmith_private.keyspace s ON s.keyspace = t.keyspace
LEFT JOIN keysmith_private.credit c ON c.tenant_id = t.tenant_id
-- A key sees the rows of its environment only.
CROSS JOIN (SELECT (SELECT keysmith.current_environment()) AS environment) AS i;
SELECT keysmith_private.publish('tenants');
COMMENT ON VIEW keysmith.tenants IS 'All tenants, with the number of their keys, their credits and the time of their last accepted request';
COMMENT ON COLUMN keysmith.tenants.tenant IS 'The name of the tenant';
COMMENT ON COLUMN keysmith.tenants.keyspace IS 'The keyspace of the tenant';
COMMENT ON COLUMN keysmith.tenants.plan IS 'The plan of the tenant; null for none';
COMMENT ON COLUMN keysmith.tenants.status IS 'active or suspended';
COMMENT ON COLUMN keysmith.tenants.active_keys IS 'The number of its keys that are not disabled, expired or revoked';
COMMENT ON COLUMN keysmith.tenants.keys IS 'The number of all its keys, revoked keys included';
COMMENT ON COLUMN keysmith.tenants.members IS 'The number of its members';
COMMENT ON COLUMN keysmith.tenants.credits IS 'The balance of its credits; null if it was given no credits';
COMMENT ON COLUMN keysmith.tenants.limits IS 'The rate limits that all its keys of an environment share';
COMMENT ON COLUMN keysmith.tenants.last_used_at IS 'The time of the last accepted request of one of its keys';
COMMENT ON COLUMN keysmith.tenants.created_at IS 'The time when the tenant was made';
COMMENT ON COLUMN keysmith.tenants.suspended_at IS 'The time when the tenant was suspended; null if it is active';
COMMENT ON COLUMN keysmith.tenants.suspended_reason IS 'The reason that suspend_tenant was given';
COMMENT ON COLUMN keysmith.tenants.metadata IS 'The JSON object that the application stored with the tenant';
COMMENT ON COLUMN keysmith.tenants.tenant_id IS 'The id of the tenant';
COMMENT ON COLUMN keysmith.tenants.max_lifetime IS 'How long its keys live from their creation on, at most; null if only the keyspace says so';
COMMENT ON COLUMN keysmith.tenants.allowlist IS 'The networks that its keys may be used from; null for all';
COMMENT ON COLUMN keysmith.tenants.scopes IS 'The scopes that none of its keys goes beyond; null for all';
COMMENT ON COLUMN keysmith.tenants.refill IS 'How its credits are refilled, when next, and the threshold low; null if they are not';

CREATE VIEW keysmith_private.all_members AS
SELECT t.name AS tenant, m.keyspace, m.member, m.role, m.tenant_id
FROM keysmith_private.member m
JOIN keysmith_private.tenant t ON t.tenant_id = m.tenant_id;
SELECT keysmith_private.publish('members');
COMMENT ON VIEW keysmith.members IS 'The members of all tenants, with their roles';
COMMENT ON COLUMN keysmith.members.tenant IS 'The name of the tenant';
COMMENT ON COLUMN keysmith.members.keyspace IS 'The keyspace of the tenant';
COMMENT ON COLUMN keysmith.members.member IS 'The name of the person or service account';
COMMENT ON COLUMN keysmith.members.role IS 'The role of the member, which bounds the keys that the member owns';
COMMENT ON COLUMN keysmith.members.tenant_id IS 'The id of the tenant';
