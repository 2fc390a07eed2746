-- Keys as they are shown: never a digest, never a secret.

-- How much the caller may see.
CREATE FUNCTION keysmith.sees_everything() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_sees_everything';
COMMENT ON FUNCTION keysmith.sees_everything() IS
'Whether the caller sees all tenants: administrators and auditors who act for no key';

CREATE FUNCTION keysmith.own_tenants() RETURNS uuid[]
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'keysmith_own_tenants';
COMMENT ON FUNCTION keysmith.own_tenants() IS
'The tenants that the caller sees, if it does not see all';

-- Views that show some readers only a part have two halves. A private view has the rows of
-- all tenants. Readers who see everything read that one: it is planned with their query,
-- so that their conditions are looked up in indexes. To others EXPLAIN would tell how
-- many rows their conditions met, of other tenants as well. So when such a reader's query is
-- planned, shows_everything() becomes false, and the first half is not there. The second half
-- is a function, which reads their rows out of EXPLAIN's sight.
CREATE FUNCTION keysmith_private.shows_everything_support(internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_shows_everything_support';
COMMENT ON FUNCTION keysmith_private.shows_everything_support(internal) IS
'Has the planner leave out what the caller does not see';

CREATE FUNCTION keysmith_private.shows_everything() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED SUPPORT keysmith_private.shows_everything_support
AS 'MODULE_PATHNAME', 'keysmith_sees_everything';
COMMENT ON FUNCTION keysmith_private.shows_everything() IS
'The result of sees_everything(); where it is false, the planner knows it';

CREATE FUNCTION keysmith_private.own_rows_support(internal) RETURNS internal
LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'keysmith_own_rows_support';
COMMENT ON FUNCTION keysmith_private.own_rows_support(internal) IS
'Hands on the bounds that a query sets to ids and times, so that own rows are looked up by them';

-- Makes a view of its private half all_VIEW, without the hidden columns. That half has the
-- columns tenant_id and, where rows are of one environment, environment; the first column is
-- never null. The condition on it is always met: it keeps the planner from dissolving the
-- query about own rows, so that it puts the reader's conditions there, where
-- own_rows_support() finds them. Dropped at the end of the installation.
CREATE FUNCTION keysmith_private.publish(view text, hidden text[] DEFAULT '{}', ending text DEFAULT '')
RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    whole constant text := 'keysmith_private.all_' || view;
    own   constant text := 'keysmith_private.own_' || view;
    shown text;
    first text;
BEGIN
    SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum), min(a.attname) FILTER (WHERE a.attnum = 1)
    INTO shown, first
    FROM pg_attribute a
    WHERE a.attrelid = whole::regclass AND a.attnum > 0 AND a.attname <> ALL (hidden);
    EXECUTE format(
        'COMMENT ON VIEW %1$s IS ''The rows of all tenants, for the view %3$s'';
         CREATE FUNCTION %2$s(
             is_shown boolean, bounds smallint[] DEFAULT NULL, ids uuid[] DEFAULT NULL,
             times timestamptz[] DEFAULT NULL, days date[] DEFAULT NULL
         ) RETURNS SETOF %1$s
         LANGUAGE c STABLE PARALLEL RESTRICTED SUPPORT keysmith_private.own_rows_support
         AS ''MODULE_PATHNAME'', ''keysmith_own_rows'';
         COMMENT ON FUNCTION %2$s(boolean, smallint[], uuid[], timestamptz[], date[]) IS
         ''The rows that the reader of the view %3$s sees, unless all are shown'';
         CREATE VIEW keysmith.%3$s WITH (security_barrier) AS
         SELECT %4$s FROM %1$s WHERE keysmith_private.shows_everything()
         UNION ALL
         SELECT %4$s FROM %2$s(keysmith_private.shows_everything()) WHERE %5$s IS NOT NULL %6$s',
        whole, own, view, shown, first, ending);
END $$;

CREATE VIEW keysmith_private.all_keys AS
SELECT k.key_id,
       t.name AS tenant,
       k.keyspace,
       k.label,
       CASE
           WHEN k.revoked_at IS NOT NULL THEN 'revoked'
           WHEN k.expires_at <= pg_catalog.clock_timestamp() THEN 'expired'
           WHEN k.disabled_at IS NOT NULL THEN 'disabled'
           ELSE 'active'
       END AS status,
       k.kind,
       k.environment,
       k.key_prefix,
       k.key_snippet,
       k.scopes,
       k.role,
       k.owner,
       k.allowlist,
       -- Its own come first, then those that it shares, with the key whose limits they are.
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'name', l.part[5], 'limit', l.part[2]::bigint, 'window', l.part[3],
               'burst', l.part[4]::bigint)
               || CASE WHEN l.part[1] IS NULL THEN '{}'
                      ELSE pg_catalog.jsonb_build_object('shared_with', l.part[1]) END ORDER BY l.n)
        FROM pg_catalog.regexp_matches(
                 pg_catalog.concat_ws(E'\n', k.limits, k.shared_limits),
                 '^(?:([-0-9a-f]{36})/)?(\d+)/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) AS limits,
       CASE
           WHEN c.refilled_at NOT BETWEEN
                    pg_catalog.date_trunc(c.every, pg_catalog.clock_timestamp(), 'UTC')
                    AND pg_catalog.clock_timestamp() + '24 hours'
           THEN greatest(c.balance, c.refill)
           ELSE c.balance
       END AS credits,
       k.expires_at,
       k.created_at,
       k.created_by,
       -- Folded or not. Who does not ask for the column does not pay for it.
       greatest((SELECT l.used_at FROM keysmith_private.usage_last l WHERE l.key_id = k.key_id),
                (SELECT pg_catalog.max(d.used_at) FROM keysmith_private.usage_delta d
                 WHERE d.tenant_id = k.tenant_id AND d.key_id = k.key_id)) AS last_used_at,
       k.revoked_at,
       k.revoked_reason,
       k.rotated_to,
       k.metadata,
       k.display_id,
       k.tenant_id
FROM keysmith_private.key k
JOIN keysmith_private.tenant t USING (tenant_id)
LEFT JOIN keysmith_private.credit c ON c.key_id = coalesce(k.purse, k.origin, k.key_id);

CREATE VIEW keysmith_private.key_listing AS
SELECT key_id, tenant, keyspace, label, status, kind, environment, key_prefix, key_snippet, scopes, role,
       owner, allowlist, limits, credits, expires_at, created_at, created_by, last_used_at, revoked_at,
       revoked_reason, rotated_to, metadata, display_id
FROM keysmith_private.all_keys;
COMMENT ON VIEW keysmith_private.key_listing IS 'All keys, for the functions of this extension';
SELECT keysmith_private.publish('keys', '{tenant_id}');
COMMENT ON VIEW keysmith.keys IS 'Every key, as it may be shown';
COMMENT ON COLUMN keysmith.keys.key_id IS 'The id of the key; no secret';
COMMENT ON COLUMN keysmith.keys.tenant IS 'The name of the tenant whose key it is';
COMMENT ON COLUMN keysmith.keys.keyspace IS 'The keyspace of the key';
COMMENT ON COLUMN keysmith.keys.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith.keys.status IS 'active, disabled, expired or revoked, as of now';
COMMENT ON COLUMN keysmith.keys.kind IS 'secret, or publishable for keys that may be seen';
COMMENT ON COLUMN keysmith.keys.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith.keys.key_prefix IS 'The beginning of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.keys.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith.keys.scopes IS 'Its own scopes; what a key with none may do is for its keyspace to say';
COMMENT ON COLUMN keysmith.keys.role IS 'Its own role, which it never exceeds';
COMMENT ON COLUMN keysmith.keys.owner IS 'The member of the tenant whose key it is, if it is someone''s';
COMMENT ON COLUMN keysmith.keys.allowlist IS 'The networks that it may be used from; null for anywhere';
COMMENT ON COLUMN keysmith.keys.limits IS 'Its rate limits, with those that it shares with the key that made it; others hold besides';
COMMENT ON COLUMN keysmith.keys.credits IS 'What is left of its credits, or of those of the key that made it; null where its tenant pays';
COMMENT ON COLUMN keysmith.keys.expires_at IS 'When the key ends; null for never';
COMMENT ON COLUMN keysmith.keys.created_at IS 'When the key was made';
COMMENT ON COLUMN keysmith.keys.created_by IS 'The database role that made it';
COMMENT ON COLUMN keysmith.keys.last_used_at IS 'When the key was last let in; refused requests are no use of it';
COMMENT ON COLUMN keysmith.keys.revoked_at IS 'When it was revoked; null if it was not';
COMMENT ON COLUMN keysmith.keys.revoked_reason IS 'What revoke was given; else revoked, rotated, regenerated, replaced or leaked: SOURCE';
COMMENT ON COLUMN keysmith.keys.rotated_to IS 'The key that took its place';
COMMENT ON COLUMN keysmith.keys.metadata IS 'A JSON object of yours, which every verdict carries';
COMMENT ON COLUMN keysmith.keys.display_id IS 'The id that the product shows for the key, where its keyspace has a template for one';

-- What list_keys and alter_key return: the same columns. A view's own row type must not be a
-- function's, or the view could not be changed without the function.
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
    display_id     text
);
CREATE DOMAIN keysmith.listed_key AS keysmith_private.listed_key;
COMMENT ON DOMAIN keysmith.listed_key IS 'A key, as list_keys and alter_key return it: for variables';
COMMENT ON TYPE keysmith_private.listed_key IS 'A key, as it may be shown; the columns are those of the view keys';

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

CREATE VIEW keysmith.routes WITH (security_barrier) AS
SELECT keyspace, method, pattern, nullif(variant, '') AS variant, scopes, kind, weight,
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
               'name', l.part[4], 'limit', l.part[1]::bigint, 'window', l.part[2],
               'burst', l.part[3]::bigint) ORDER BY l.n)
        FROM pg_catalog.regexp_matches(r.limits, '^(\d+)/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) AS limits
FROM keysmith_private.route r;
COMMENT ON VIEW keysmith.routes IS 'What each route of a keyspace requires';
COMMENT ON COLUMN keysmith.routes.keyspace IS 'The keyspace of the route';
COMMENT ON COLUMN keysmith.routes.method IS 'The HTTP method; * for any';
COMMENT ON COLUMN keysmith.routes.pattern IS 'Which paths fit, such as /v1/images/{id}';
COMMENT ON COLUMN keysmith.routes.variant IS 'The variant of the route; null for the one without a name';
COMMENT ON COLUMN keysmith.routes.scopes IS 'What the key must hold, an expression; empty where any good key will do';
COMMENT ON COLUMN keysmith.routes.kind IS 'What the key must be; null for any';
COMMENT ON COLUMN keysmith.routes.weight IS 'How many calls a request counts for in rate limits';
COMMENT ON COLUMN keysmith.routes.limits IS 'Rate limits of each key on the route, in place of others of the same name';

-- What a new key is returned as. No other value ever holds api_key.
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
COMMENT ON TYPE keysmith_private.minted IS 'A new key; api_key is shown this once';
COMMENT ON COLUMN keysmith_private.minted.key_id IS 'The id of the key; no secret';
COMMENT ON COLUMN keysmith_private.minted.api_key IS 'The key itself, shown this once; null for one that was imported';
COMMENT ON COLUMN keysmith_private.minted.key_prefix IS 'The beginning of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith_private.minted.key_snippet IS 'The prefix and the end of the key, to tell it from its siblings';
COMMENT ON COLUMN keysmith_private.minted.label IS 'The name of the key, for people';
COMMENT ON COLUMN keysmith_private.minted.environment IS 'The environment of the key, such as live or test';
COMMENT ON COLUMN keysmith_private.minted.kind IS 'secret, or publishable for keys that may be seen';
COMMENT ON COLUMN keysmith_private.minted.scopes IS 'Its own scopes; what a key with none may do is for its keyspace to say';
COMMENT ON COLUMN keysmith_private.minted.expires_at IS 'When the key ends; null for never';
COMMENT ON COLUMN keysmith_private.minted.created_at IS 'When the key was made';
COMMENT ON COLUMN keysmith_private.minted.display_id IS 'The id that the product shows for the key, where its keyspace has a template for one';
