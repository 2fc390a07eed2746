-- Making, changing and revoking keys.

-- The result type of functions that make keys. No other value ever has api_key.
CREATE TYPE keysmith_private.minted AS (
    key_id      uuid,
    api_key     text,
    key_prefix  text,
    key_snippet text,
    label       text,
    environment text,
    kind        text,
    scopes      text[],
    expires_at  timestamptz,
    created_at  timestamptz,
    display_id  text
);
CREATE DOMAIN keysmith.minted AS keysmith_private.minted;
COMMENT ON DOMAIN keysmith.minted IS 'A new key, as mint returns it: for variables';
COMMENT ON TYPE keysmith_private.minted IS 'A new key; api_key is returned only this once';
COMMENT ON COLUMN keysmith_private.minted.key_id IS 'The id of the key; it is not secret';
COMMENT ON COLUMN keysmith_private.minted.api_key IS 'The key itself, returned only this once; null if it was imported, or made by an earlier call';
COMMENT ON COLUMN keysmith_private.minted.key_prefix IS 'The beginning of the key, by which people recognize it';
COMMENT ON COLUMN keysmith_private.minted.key_snippet IS 'The prefix and the end of the key, by which people recognize it';
COMMENT ON COLUMN keysmith_private.minted.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith_private.minted.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith_private.minted.kind IS 'secret, or publishable for a key that may be public';
COMMENT ON COLUMN keysmith_private.minted.scopes IS 'The scopes of the key; if it has no scopes, its keyspace says which apply';
COMMENT ON COLUMN keysmith_private.minted.expires_at IS 'The time when the key expires, by the earliest of its bounds; null for never';
COMMENT ON COLUMN keysmith_private.minted.created_at IS 'The time when the key was made';
COMMENT ON COLUMN keysmith_private.minted.display_id IS 'The id that the product shows for the key, if its keyspace has a template for one';

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
    keyspace text DEFAULT 'default',
    refill jsonb DEFAULT NULL,
    disabled boolean DEFAULT false,
    idempotency_key text DEFAULT NULL
) RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_mint';
COMMENT ON FUNCTION keysmith.mint(text, text, text, text, text[], text, text, cidr[], timestamptz, jsonb, bigint, jsonb, text, jsonb, boolean, text) IS
'Makes a key; its api_key is returned only this once, and is not stored';

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
    key_snippet text DEFAULT NULL,
    refill jsonb DEFAULT NULL,
    disabled boolean DEFAULT false,
    idempotency_key text DEFAULT NULL
) RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_import_key';
COMMENT ON FUNCTION keysmith.import_key(text, bytea, text, text, text, text, text[], text, text, cidr[], timestamptz, jsonb, bigint, jsonb, text, text, text, jsonb, boolean, text) IS
'Imports a key of another system by its SHA-256; the key itself is not needed';

CREATE FUNCTION keysmith.alter_key(key_id uuid, changes jsonb) RETURNS keysmith_private.listed_key
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_alter_key';
COMMENT ON FUNCTION keysmith.alter_key(uuid, jsonb) IS
'Changes a key, and returns it; a JSON object names the fields, the others stay';

CREATE FUNCTION keysmith.add_scopes(key_id uuid, scopes text[]) RETURNS keysmith_private.listed_key
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_add_scopes';
COMMENT ON FUNCTION keysmith.add_scopes(uuid, text[]) IS
'Gives a key more scopes, and returns it; those that it has stay';

CREATE FUNCTION keysmith.remove_scopes(key_id uuid, scopes text[]) RETURNS keysmith_private.listed_key
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_scopes';
COMMENT ON FUNCTION keysmith.remove_scopes(uuid, text[]) IS
'Takes scopes from a key, and returns it; its other scopes stay';

CREATE FUNCTION keysmith.rotate(key_id uuid, grace interval DEFAULT '0') RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_rotate';
COMMENT ON FUNCTION keysmith.rotate(uuid, interval) IS
'Makes a successor that inherits everything; the old key expires after the grace period';

CREATE FUNCTION keysmith.regenerate(
    tenant text,
    label text DEFAULT NULL,
    environment text DEFAULT NULL,
    kind text DEFAULT 'secret',
    keyspace text DEFAULT 'default'
) RETURNS keysmith_private.minted
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_regenerate';
COMMENT ON FUNCTION keysmith.regenerate(text, text, text, text, text) IS
'Replaces a tenant''s only key; for products with a single key per account';

CREATE FUNCTION keysmith.disable(key_id uuid) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_disable';
COMMENT ON FUNCTION keysmith.disable(uuid) IS
'Disables a key; it is refused until it is enabled';

CREATE FUNCTION keysmith.enable(key_id uuid) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_enable';
COMMENT ON FUNCTION keysmith.enable(uuid) IS
'Enables a key that was disabled';

CREATE FUNCTION keysmith.revoke(key_id uuid, reason text DEFAULT NULL) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_revoke';
COMMENT ON FUNCTION keysmith.revoke(uuid, text) IS
'Revokes a key for good; it is refused from this commit on';

CREATE FUNCTION keysmith.report_leak(api_key text, source text) RETURNS SETOF uuid
LANGUAGE c ROWS 1 AS 'MODULE_PATHNAME', 'keysmith_report_leak';
COMMENT ON FUNCTION keysmith.report_leak(text, text) IS
'Revokes a secret key that leaked, and returns its ids; in every keyspace that has it';

CREATE FUNCTION keysmith.purge_keys(older_than interval) RETURNS bigint
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_purge_keys';
COMMENT ON FUNCTION keysmith.purge_keys(interval) IS
'Deletes the keys that ended longer ago; by revocation or expiry; returns their number';
