-- Keyspaces.

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
    usage_details boolean DEFAULT NULL,
    error_body text DEFAULT NULL,
    default_lifetime interval DEFAULT NULL,
    max_lifetime interval DEFAULT NULL,
    require_label boolean DEFAULT NULL,
    unique_labels boolean DEFAULT NULL,
    max_idle interval DEFAULT NULL,
    allowlist cidr[] DEFAULT NULL,
    key_limits jsonb DEFAULT NULL,
    key_credits bigint DEFAULT NULL,
    issuer text DEFAULT NULL,
    expiring_notice interval DEFAULT NULL,
    failure_limit jsonb DEFAULT NULL,
    usage_tags text[] DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_create_keyspace';
COMMENT ON FUNCTION keysmith.create_keyspace(text, jsonb, text, text[], integer, text, integer, text[], text, jsonb, jsonb, jsonb, boolean, jsonb, text[], text, text, boolean, text, interval, interval, boolean, boolean, interval, cidr[], jsonb, bigint, text, interval, jsonb, text[]) IS
'Makes a keyspace; the keys of one product, with their formats, defaults and bounds';

CREATE FUNCTION keysmith.alter_keyspace(name text, changes jsonb) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_alter_keyspace';
COMMENT ON FUNCTION keysmith.alter_keyspace(text, jsonb) IS
'Changes the options of a keyspace; a JSON object names them, the others stay';

CREATE FUNCTION keysmith.event_channel(keyspace text DEFAULT 'default') RETURNS text
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_event_channel';
COMMENT ON FUNCTION keysmith.event_channel(text) IS
'The channel on which LISTEN receives a keyspace''s events';
