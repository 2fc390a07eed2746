-- The description of the key that the transaction acts for.

CREATE FUNCTION keysmith.whoami() RETURNS jsonb
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_whoami';
COMMENT ON FUNCTION keysmith.whoami() IS
'The key or person that the transaction acts for; with its tenant, as JSON';

CREATE FUNCTION keysmith_private.profile(key_id uuid, scopes text[], expires_at timestamptz)
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'key_id', k.key_id, 'display_id', k.display_id, 'label', k.label,
        'key_prefix', k.key_prefix, 'key_snippet', k.key_snippet,
        'kind', k.kind, 'environment', k.environment, 'keyspace', k.keyspace,
        'owner', k.owner, 'role', coalesce(k.role, m.role), 'scopes', profile.scopes,
        'created_at', k.created_at, 'expires_at', profile.expires_at,
        'key_metadata', k.metadata, 'tenant', t.name, 'tenant_id', t.tenant_id,
        'plan', t.plan, 'metadata', t.metadata, 'credits', keysmith_private.credits_at(
            c.balance, c.refill, c.every, c.anchor, c.refilled_at, clock_timestamp()),
        'refill', nullif(jsonb_strip_nulls(jsonb_build_object(
            'amount', c.refill, 'every', c.every, 'anchor', c.anchor, 'low', c.low, 'next',
            keysmith_private.next_refill(c.every, c.anchor, clock_timestamp()))), '{}'))
    FROM keysmith_private.key k
    JOIN keysmith_private.tenant t ON t.tenant_id = k.tenant_id
    -- The credits that it spends: those of the key that made it, or its own, or else its tenant's.
    LEFT JOIN keysmith_private.credit c ON c.credit_id = coalesce(
        (SELECT own.credit_id FROM keysmith_private.credit own
         WHERE own.key_id = coalesce(k.purse, k.origin, k.key_id)),
        (SELECT shared.credit_id FROM keysmith_private.credit shared
         WHERE shared.tenant_id = t.tenant_id AND k.purse IS NULL))
    LEFT JOIN keysmith_private.member m ON m.tenant_id = k.tenant_id AND m.member = k.owner
    WHERE k.key_id = profile.key_id
$$;
COMMENT ON FUNCTION keysmith_private.profile(uuid, text[], timestamptz) IS
'The result of whoami() for a key that may do what these scopes allow, until then';

CREATE FUNCTION keysmith_private.profile_of_person(tenant_id uuid, member text, role text, scopes text[])
RETURNS jsonb
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT jsonb_build_object(
        'key_id', NULL, 'kind', 'person', 'keyspace', t.keyspace,
        'owner', profile_of_person.member, 'role', profile_of_person.role,
        'scopes', profile_of_person.scopes, 'tenant', t.name, 'tenant_id', t.tenant_id,
        'plan', t.plan, 'metadata', t.metadata, 'credits', keysmith_private.credits_at(
            c.balance, c.refill, c.every, c.anchor, c.refilled_at, clock_timestamp()),
        'refill', nullif(jsonb_strip_nulls(jsonb_build_object(
            'amount', c.refill, 'every', c.every, 'anchor', c.anchor, 'low', c.low, 'next',
            keysmith_private.next_refill(c.every, c.anchor, clock_timestamp()))), '{}'))
    FROM keysmith_private.tenant t
    LEFT JOIN keysmith_private.credit c ON c.tenant_id = t.tenant_id
    WHERE t.tenant_id = profile_of_person.tenant_id
$$;
COMMENT ON FUNCTION keysmith_private.profile_of_person(uuid, text, text, text[]) IS
'The result of whoami() for a person: a member, or the tenant as a whole';
