-- Management. As whom these act, see src/manage/authority.rs.

-- Keyspaces, their scopes and roles.

CREATE FUNCTION keysmith.create_keyspace(
    name text,
    prefixes jsonb DEFAULT NULL,
    empty_scopes text DEFAULT NULL,
    default_scopes text[] DEFAULT '{}',
    max_active_keys integer DEFAULT NULL,
    at_max text DEFAULT NULL,
    label_length integer DEFAULT NULL,
    schemes text[] DEFAULT NULL,
    unlisted_routes text DEFAULT NULL,
    display jsonb DEFAULT NULL,
    codes jsonb DEFAULT NULL,
    plan_features jsonb DEFAULT NULL,
    wildcards boolean DEFAULT NULL,
    limits jsonb DEFAULT NULL,
    charges text[] DEFAULT NULL,
    managed_by text DEFAULT NULL,
    usage_log text DEFAULT NULL,
    usage_details boolean DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_create_keyspace';
COMMENT ON FUNCTION keysmith.create_keyspace(text, jsonb, text, text[], integer, text, integer, text[], text, jsonb, jsonb, jsonb, boolean, jsonb, text[], text, text, boolean) IS
'Makes a keyspace: one product''s keys, with formats, defaults and bounds of its own';

CREATE FUNCTION keysmith.alter_keyspace(name text, changes jsonb) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_alter_keyspace';
COMMENT ON FUNCTION keysmith.alter_keyspace(text, jsonb) IS
'Changes the options named in a JSON object, and leaves the others as they are';

CREATE FUNCTION keysmith.event_channel(keyspace text DEFAULT 'default') RETURNS text
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_event_channel';
COMMENT ON FUNCTION keysmith.event_channel(text) IS
'The channel on which LISTEN receives a keyspace''s events';

CREATE FUNCTION keysmith.define_scope(
    keyspace text,
    scope text,
    description text DEFAULT NULL,
    implies text[] DEFAULT '{}'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_define_scope';
COMMENT ON FUNCTION keysmith.define_scope(text, text, text, text[]) IS
'Adds a scope to a keyspace''s catalogue, or changes it';

CREATE FUNCTION keysmith.define_role(
    keyspace text,
    role text,
    scopes text[]
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_define_role';
COMMENT ON FUNCTION keysmith.define_role(text, text, text[]) IS
'Names a set of scopes, or changes what it holds; keys with the role follow at once';

CREATE FUNCTION keysmith.define_route(
    keyspace text,
    method text,
    pattern text,
    scopes text[],
    variant text DEFAULT NULL,
    kind text DEFAULT NULL,
    weight integer DEFAULT 1,
    limits jsonb DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_define_route';
COMMENT ON FUNCTION keysmith.define_route(text, text, text, text[], text, text, integer, jsonb) IS
'Says which scopes a method and path require, all of a list; each may be an expression';

CREATE FUNCTION keysmith.define_route(
    keyspace text,
    method text,
    pattern text,
    scopes text,
    variant text DEFAULT NULL,
    kind text DEFAULT NULL,
    weight integer DEFAULT 1,
    limits jsonb DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_define_route_by_text';
COMMENT ON FUNCTION keysmith.define_route(text, text, text, text, text, text, integer, jsonb) IS
'Says which scopes a method and path require, as one expression such as a | (b & c)';

CREATE FUNCTION keysmith.remove_route(
    keyspace text,
    method text,
    pattern text,
    variant text DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_route';
COMMENT ON FUNCTION keysmith.remove_route(text, text, text, text) IS
'Takes a route out of the list; it is then one that is not listed';

-- Tenants and their members.

CREATE FUNCTION keysmith.create_tenant(
    name text,
    keyspace text DEFAULT 'default',
    plan text DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    limits jsonb DEFAULT NULL,
    credits jsonb DEFAULT NULL
) RETURNS uuid
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_create_tenant';
COMMENT ON FUNCTION keysmith.create_tenant(text, text, text, jsonb, jsonb, jsonb) IS
'Makes a tenant and returns its id';

CREATE FUNCTION keysmith.alter_tenant(
    tenant text,
    changes jsonb,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_alter_tenant';
COMMENT ON FUNCTION keysmith.alter_tenant(text, jsonb, text) IS
'Changes a tenant''s plan, metadata, limits or credits, as a JSON object names them';

CREATE FUNCTION keysmith.suspend_tenant(
    tenant text,
    keyspace text DEFAULT 'default',
    reason text DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_suspend_tenant';
COMMENT ON FUNCTION keysmith.suspend_tenant(text, text, text) IS
'Has all keys of a tenant refused until it is resumed';

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
'Adds a member to a tenant, or changes the member''s role; their keys follow at once';

CREATE FUNCTION keysmith.remove_member(
    tenant text,
    member text,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_member';
COMMENT ON FUNCTION keysmith.remove_member(text, text, text) IS
'Removes a member from a tenant; their keys are refused from that commit on';

-- Keys.

CREATE FUNCTION keysmith.mint(
    tenant text,
    label text DEFAULT NULL,
    environment text DEFAULT NULL,
    kind text DEFAULT 'secret',
    scopes text[] DEFAULT '{}',
    role text DEFAULT NULL,
    owner text DEFAULT NULL,
    allowlist cidr[] DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL,
    limits jsonb DEFAULT NULL,
    credits bigint DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_mint';
COMMENT ON FUNCTION keysmith.mint(text, text, text, text, text[], text, text, cidr[], timestamptz, jsonb, bigint, jsonb, text) IS
'Makes a key; its api_key is returned this once and kept nowhere';

CREATE FUNCTION keysmith.import_key(
    tenant text,
    digest bytea,
    algorithm text DEFAULT 'sha256',
    label text DEFAULT NULL,
    environment text DEFAULT NULL,
    kind text DEFAULT 'secret',
    scopes text[] DEFAULT '{}',
    role text DEFAULT NULL,
    owner text DEFAULT NULL,
    allowlist cidr[] DEFAULT NULL,
    expires_at timestamptz DEFAULT NULL,
    limits jsonb DEFAULT NULL,
    credits bigint DEFAULT NULL,
    metadata jsonb DEFAULT NULL,
    keyspace text DEFAULT 'default',
    key_prefix text DEFAULT NULL,
    key_snippet text DEFAULT NULL
) RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_import_key';
COMMENT ON FUNCTION keysmith.import_key(text, bytea, text, text, text, text, text[], text, text, cidr[], timestamptz, jsonb, bigint, jsonb, text, text, text) IS
'Takes over a key from elsewhere by the SHA-256 of the whole key, without its plaintext';

CREATE FUNCTION keysmith.alter_key(key_id uuid, changes jsonb) RETURNS keysmith_private.listed_key
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_alter_key';
COMMENT ON FUNCTION keysmith.alter_key(uuid, jsonb) IS
'Changes the fields named in a JSON object, and returns the key as it is then';

CREATE FUNCTION keysmith.rotate(key_id uuid, grace interval DEFAULT '0') RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_rotate';
COMMENT ON FUNCTION keysmith.rotate(uuid, interval) IS
'Makes a successor that inherits everything; the old key ends with the grace';

CREATE FUNCTION keysmith.regenerate(
    tenant text,
    label text DEFAULT NULL,
    environment text DEFAULT NULL,
    kind text DEFAULT 'secret',
    keyspace text DEFAULT 'default'
) RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_regenerate';
COMMENT ON FUNCTION keysmith.regenerate(text, text, text, text, text) IS
'Replaces a tenant''s one key at once, as products with a single key per account do';

CREATE FUNCTION keysmith.disable(key_id uuid) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_disable';
COMMENT ON FUNCTION keysmith.disable(uuid) IS
'Has a key refused until it is enabled';

CREATE FUNCTION keysmith.enable(key_id uuid) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_enable';
COMMENT ON FUNCTION keysmith.enable(uuid) IS
'Ends a disablement';

CREATE FUNCTION keysmith.revoke(key_id uuid, reason text DEFAULT NULL) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_revoke';
COMMENT ON FUNCTION keysmith.revoke(uuid, text) IS
'Ends a key for good, from this commit on';

CREATE FUNCTION keysmith.report_leak(api_key text, source text) RETURNS SETOF uuid
LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_report_leak';
COMMENT ON FUNCTION keysmith.report_leak(text, text) IS
'Revokes a secret key that was found in the open, wherever it is used, and returns its ids';

CREATE FUNCTION keysmith.list_keys(
    tenant text,
    keyspace text DEFAULT 'default',
    include_revoked boolean DEFAULT false
) RETURNS SETOF keysmith_private.listed_key
LANGUAGE c ROWS 10 AS 'MODULE_PATHNAME', 'keysmith_list_keys';
COMMENT ON FUNCTION keysmith.list_keys(text, text, boolean) IS
'The keys of a tenant, the oldest first';

CREATE FUNCTION keysmith.add_credits(
    amount bigint,
    key_id uuid DEFAULT NULL,
    tenant text DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_add_credits';
COMMENT ON FUNCTION keysmith.add_credits(bigint, uuid, text, text) IS
'Adds to the credits of a key or a tenant, and returns how many it has then';

CREATE FUNCTION keysmith.wait_for_replay(timeout interval DEFAULT '10 seconds') RETURNS integer
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_wait_for_replay';
COMMENT ON FUNCTION keysmith.wait_for_replay(interval) IS
'Returns, with their number, when all attached standbys have replayed what is committed';

-- Access.

CREATE FUNCTION keysmith.grant_access(
    role regrole,
    level text,
    tenant text DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_grant_access';
COMMENT ON FUNCTION keysmith.grant_access(regrole, text, text, text) IS
'Lets a role verify, issue (for one tenant, or the one that is signed in), audit or administer';

CREATE FUNCTION keysmith_private.lock_holder(pid integer, virtualtransaction text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN pid IS NULL THEN
            format('prepared transaction %L', (SELECT x.gid FROM pg_locks l JOIN pg_prepared_xacts x
                                               ON l.locktype = 'transactionid' AND x.transaction = l.transactionid
                                               WHERE l.virtualtransaction = lock_holder.virtualtransaction))
        ELSE format('session %s of role %I', pid, (SELECT a.usename FROM pg_stat_activity a
                                                   WHERE a.pid = lock_holder.pid))
    END
$$;
COMMENT ON FUNCTION keysmith_private.lock_holder(integer, text) IS
'The session or prepared transaction that an administrator has to end';

CREATE FUNCTION keysmith_private.privileges_changed_by() RETURNS SETOF xid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    -- A role can name, and so grant, what is in the schema that it has USAGE on.
    SELECT xmax FROM pg_proc WHERE pronamespace = 'keysmith'::regnamespace
    UNION SELECT xmax FROM pg_class WHERE relnamespace = 'keysmith'::regnamespace
    UNION SELECT xmax FROM pg_namespace WHERE nspname = 'keysmith'
$$;
COMMENT ON FUNCTION keysmith_private.privileges_changed_by() IS
'Transactions that tried to change privileges of the extension''s objects: not committed yet, or rolled back';

CREATE FUNCTION keysmith.revoke_access(
    role regrole,
    level text DEFAULT NULL,
    tenant text DEFAULT NULL,
    keyspace text DEFAULT 'default'
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_revoke_access';
COMMENT ON FUNCTION keysmith.revoke_access(regrole, text, text, text) IS
'Takes away what grant_access gave: all of it, a level, or a tenant of an issuer';
