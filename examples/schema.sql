-- Shared by the examples of frameworks: a table of photos that is isolated by tenant, the routes
-- of the applications, and the role that they connect as.

CREATE EXTENSION keysmith;

CREATE ROLE app LOGIN;
SELECT keysmith.grant_access('app', 'verifier');

CREATE TABLE photo (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL DEFAULT keysmith.current_tenant_id(),
    name      text NOT NULL
);
CREATE INDEX ON photo (tenant_id);
GRANT SELECT, INSERT ON photo TO app;
SELECT keysmith.isolate('photo', 'tenant_id');

SELECT keysmith.define_route('default', 'GET', '/photos', 'photos:read');
SELECT keysmith.define_route('default', 'POST', '/photos', 'photos:write');
-- In GraphQL all operations have one path, so each kind of operation is a variant of it.
SELECT keysmith.define_route('default', 'POST', '/graphql', 'photos:read', variant => 'query');
SELECT keysmith.define_route('default', 'POST', '/graphql', 'photos:write', variant => 'mutation');
-- A request that is not listed here is refused, even if an application has a handler for it.
SELECT keysmith.alter_keyspace('default', '{"unlisted_routes": "refuse"}');
