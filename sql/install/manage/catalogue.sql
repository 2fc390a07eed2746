-- The scopes, roles and routes of a keyspace.

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
'Defines a role as a set of scopes, or changes it; keys with the role follow';

CREATE FUNCTION keysmith.remove_scope(
    keyspace text,
    scope text,
    cascade boolean DEFAULT false
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_scope';
COMMENT ON FUNCTION keysmith.remove_scope(text, text, boolean) IS
'Removes a scope that is not in use; by cascade also from what uses it';

CREATE FUNCTION keysmith.remove_role(
    keyspace text,
    role text,
    cascade boolean DEFAULT false
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_role';
COMMENT ON FUNCTION keysmith.remove_role(text, text, boolean) IS
'Removes a role that is not in use; by cascade it revokes keys and removes members that have it';

-- OFFSET, so that no row is changed through the view: the functions keep the audit.
CREATE VIEW keysmith.scopes WITH (security_barrier) AS
SELECT keyspace, scope, description, implies
FROM keysmith_private.scope OFFSET 0;
COMMENT ON VIEW keysmith.scopes IS 'The scopes that each keyspace defines';
COMMENT ON COLUMN keysmith.scopes.keyspace IS 'The keyspace of the scope';
COMMENT ON COLUMN keysmith.scopes.scope IS 'The name of the scope';
COMMENT ON COLUMN keysmith.scopes.description IS 'What it permits, for people; null for no description';
COMMENT ON COLUMN keysmith.scopes.implies IS 'The scopes that it includes';

-- OFFSET as above.
CREATE VIEW keysmith.roles WITH (security_barrier) AS
SELECT keyspace, role, scopes
FROM keysmith_private.role OFFSET 0;
COMMENT ON VIEW keysmith.roles IS 'The roles of each keyspace, with their scopes';
COMMENT ON COLUMN keysmith.roles.keyspace IS 'The keyspace of the role';
COMMENT ON COLUMN keysmith.roles.role IS 'The name of the role';
COMMENT ON COLUMN keysmith.roles.scopes IS 'The scopes that keys and members with the role may have; wildcards too';

CREATE FUNCTION keysmith_private.same_paths(pattern text, other text) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT regexp_replace(pattern, '{[^}]*}', '{}', 'g') = regexp_replace(other, '{[^}]*}', '{}', 'g')
$$;
COMMENT ON FUNCTION keysmith_private.same_paths(text, text) IS
'Whether two patterns match the same paths: those that differ in the names of their parameters do';

CREATE FUNCTION keysmith.define_route(
    keyspace text,
    method text,
    pattern text,
    scopes text[],
    variant text DEFAULT NULL,
    kind text DEFAULT NULL,
    weight integer DEFAULT 1,
    limits jsonb DEFAULT NULL,
    public boolean DEFAULT false
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_define_route';
COMMENT ON FUNCTION keysmith.define_route(text, text, text, text[], text, text, integer, jsonb, boolean) IS
'Defines the scopes that a method and a path require; all of a list, each may be an expression';

CREATE FUNCTION keysmith.define_route(
    keyspace text,
    method text,
    pattern text,
    scopes text,
    variant text DEFAULT NULL,
    kind text DEFAULT NULL,
    weight integer DEFAULT 1,
    limits jsonb DEFAULT NULL,
    public boolean DEFAULT false
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_define_route_by_text';
COMMENT ON FUNCTION keysmith.define_route(text, text, text, text, text, text, integer, jsonb, boolean) IS
'Defines the scopes that a method and a path require; one expression such as a | (b & c)';

CREATE FUNCTION keysmith.remove_route(
    keyspace text,
    method text,
    pattern text,
    variant text DEFAULT NULL
) RETURNS void
LANGUAGE c AS 'MODULE_PATHNAME', 'keysmith_remove_route';
COMMENT ON FUNCTION keysmith.remove_route(text, text, text, text) IS
'Removes a route; unlisted_routes applies to it from then on';

CREATE VIEW keysmith.routes WITH (security_barrier) AS
SELECT keyspace, method, pattern, nullif(variant, '') AS variant, scopes, kind, weight,
       (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
               'name', l.part[6], 'limit', CASE WHEN l.part[4] <> 'transaction' THEN l.part[1]::bigint END,
               'window', nullif(l.part[4], 'transaction'), 'burst', CASE WHEN l.part[4] <> 'transaction' THEN l.part[5]::bigint END,
               'concurrent', CASE WHEN l.part[4] = 'transaction' THEN l.part[1]::bigint END,
               'unit', nullif(l.part[2], 'calls'), 'per', l.part[3]))
               ORDER BY l.n)
        FROM pg_catalog.regexp_matches(r.limits, '^(\d+)(?: (\S+))?(?: (\S+))?/([^/]+)/(\d+)/(.*)$', 'gn')
             WITH ORDINALITY AS l (part, n)) AS limits,
       is_public AS public
FROM keysmith_private.route r;
COMMENT ON VIEW keysmith.routes IS 'The routes of each keyspace, with their requirements';
COMMENT ON COLUMN keysmith.routes.keyspace IS 'The keyspace of the route';
COMMENT ON COLUMN keysmith.routes.method IS 'The HTTP method; * for any';
COMMENT ON COLUMN keysmith.routes.pattern IS 'The paths that match, such as /v1/images/{id}';
COMMENT ON COLUMN keysmith.routes.variant IS 'The variant of the route; null for the one without a name';
COMMENT ON COLUMN keysmith.routes.scopes IS 'The scopes that the key must have, as an expression; empty if any valid key may use the route';
COMMENT ON COLUMN keysmith.routes.kind IS 'The kind that the key must be of; null for any kind';
COMMENT ON COLUMN keysmith.routes.weight IS 'The number of calls that a request counts for in rate limits';
COMMENT ON COLUMN keysmith.routes.limits IS 'The rate limits of each key on the route; they replace limits of the same name';
COMMENT ON COLUMN keysmith.routes.public IS 'Whether requests without a key are let through';
