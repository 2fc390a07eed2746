-- Revocations, and other changes, that a restore to the past would undo.

CREATE FUNCTION keysmith.revocations_since(
    since timestamptz,
    OUT at timestamptz,
    OUT action text,
    OUT keyspace text,
    OUT tenant text,
    OUT key_id uuid,
    OUT name text,
    OUT reason text,
    OUT changes jsonb,
    OUT tenant_id uuid
) RETURNS SETOF record
LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'keysmith_revocations_since';
COMMENT ON FUNCTION keysmith.revocations_since(timestamptz) IS
'What was revoked or changed since a time; to be repeated in a database restored to that time';

CREATE FUNCTION keysmith.replay_revocations(
    revocations jsonb,
    OUT action text,
    OUT keyspace text,
    OUT tenant text,
    OUT key_id uuid,
    OUT name text,
    OUT outcome text
) RETURNS SETOF record
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_replay_revocations';
COMMENT ON FUNCTION keysmith.replay_revocations(jsonb) IS
'Repeats in a restored database what revocations_since listed; it may be called more than once';

-- Revoked, disabled and suspended rows have the time in a column. Other changes are found in
-- the audit. Whether one narrowed a key also depends on roles, plans and defaults, so all
-- changed fields are listed.
CREATE FUNCTION keysmith_private.ended_since(
    since timestamptz, OUT at timestamptz, OUT action text, OUT keyspace text, OUT tenant text,
    OUT key_id uuid, OUT name text, OUT reason text, OUT changes jsonb,
    OUT tenant_id uuid
) RETURNS SETOF record
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT k.revoked_at AS at, 'revoke'::text AS action, k.keyspace::text, t.name::text AS tenant,
           k.key_id, NULL::text AS name, k.revoked_reason AS reason, NULL::jsonb AS changes,
           NULL::uuid AS tenant_id
    FROM keysmith_private.key k JOIN keysmith_private.tenant t USING (tenant_id)
    WHERE k.revoked_at >= since
    UNION ALL
    SELECT k.disabled_at, 'disable', k.keyspace, t.name, k.key_id, NULL, NULL, NULL, NULL
    FROM keysmith_private.key k JOIN keysmith_private.tenant t USING (tenant_id)
    WHERE k.disabled_at >= since AND k.revoked_at IS NULL
    UNION ALL
    SELECT max(a.at), 'alter', k.keyspace, k.tenant, k.key_id, NULL, NULL,
           jsonb_object_agg(field, to_jsonb(k) -> field), NULL
    FROM keysmith_private.audit_entry a
    JOIN keysmith_private.audit_content c ON c.digest = a.content
    JOIN keysmith_private.key_listing k USING (key_id),
         unnest('{scopes,role,owner,allowlist,expires_at}'::text[]) AS field
    WHERE a.at >= since AND a.action IN ('alter', 'rotate') AND k.revoked_at IS NULL
      AND c.before -> field IS DISTINCT FROM c.after -> field
    GROUP BY k.keyspace, k.tenant, k.key_id
    UNION ALL
    SELECT t.suspended_at, 'suspend', t.keyspace, t.name, NULL, NULL, t.suspended_reason, NULL, t.tenant_id
    FROM keysmith_private.tenant t
    WHERE t.suspended_at >= since
    UNION ALL
    SELECT a.at, CASE WHEN m.role IS NULL THEN 'remove_member' ELSE 'set_member' END,
           a.keyspace, t.name, NULL, a.member, NULL,
           CASE WHEN m.role IS NOT NULL THEN jsonb_build_object('role', m.role) END, t.tenant_id
    FROM (SELECT keyspace, tenant_id, before ->> 'member' AS member, max(at) AS at
          FROM keysmith_private.audit_entry
          JOIN keysmith_private.audit_content ON digest = content
          WHERE at >= since AND action IN ('set_member', 'remove_member') AND before IS NOT NULL
          GROUP BY 1, 2, 3) a
    JOIN keysmith_private.tenant t ON t.tenant_id = a.tenant_id
    LEFT JOIN keysmith_private.member m ON m.tenant_id = t.tenant_id AND m.member = a.member
    UNION ALL
    SELECT a.at, 'define_role', r.keyspace, NULL, NULL, r.role, NULL,
           jsonb_build_object('scopes', r.scopes), NULL
    FROM (SELECT keyspace, before ->> 'role' AS role, max(at) AS at
          FROM keysmith_private.audit_entry
          JOIN keysmith_private.audit_content ON digest = content
          WHERE at >= since AND action = 'define_role' AND before IS NOT NULL
          GROUP BY 1, 2) a
    JOIN keysmith_private.role r ON r.keyspace = a.keyspace AND r.role = a.role
    UNION ALL
    SELECT max(a.at), a.action, a.keyspace, NULL, NULL, NULL, NULL, NULL, NULL
    FROM keysmith_private.audit_entry a
    WHERE a.at >= since AND a.action = 'drop_keyspace'
    GROUP BY a.keyspace, a.action
    ORDER BY at, action, key_id, name
$$;
COMMENT ON FUNCTION keysmith_private.ended_since(timestamptz) IS
'The rows of revocations_since(), for callers who may see all tenants';
