-- What the applications of these tests work on.

CREATE TABLE photo (
    id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id uuid NOT NULL DEFAULT keysmith.current_tenant_id(),
    name      text NOT NULL UNIQUE
);
CREATE INDEX ON photo (tenant_id);
GRANT SELECT, INSERT ON photo TO web;
SELECT keysmith.isolate('photo', 'tenant_id');

CREATE FUNCTION late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.name = 'never' THEN RAISE 'it can''t be'; END IF;
    IF NEW.name LIKE 'slow%' THEN PERFORM pg_advisory_xact_lock_shared(7); END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON photo DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION late();

CREATE FUNCTION raise(state text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE 'raised %', state USING ERRCODE = state, DETAIL = 'a detail';
END $$;

SELECT keysmith.define_route('default', 'GET', '/photos', 'photos:read');
SELECT keysmith.define_route('default', 'POST', '/photos', 'photos:write');
SELECT keysmith.define_route('default', 'GET', '/public', '{}'::text[], public => true);
SELECT keysmith.define_route('default', 'GET', '/other/*', 'admins');
SELECT keysmith.define_endpoint('default', method, pattern, operation)
FROM (VALUES ('POST', '/v1/keys', 'mint'), ('GET', '/v1/keys', 'list_keys'),
             ('DELETE', '/v1/keys/{id}', 'revoke'), ('GET', '/v1/me', 'whoami')) AS e (method, pattern, operation);
