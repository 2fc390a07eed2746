-- What the examples of frameworks share: a table of photos that is isolated by tenant,
-- the routes of the applications, and the role that they connect as.

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
-- In GraphQL all is one path, so what is asked is a variant of it.
SELECT keysmith.define_route('default', 'POST', '/graphql', 'photos:read', variant => 'query');
SELECT keysmith.define_route('default', 'POST', '/graphql', 'photos:write', variant => 'mutation');
-- What isn't listed here is refused, whatever handler an application has for it.
SELECT keysmith.alter_keyspace('default', '{"unlisted_routes": "refuse"}');
