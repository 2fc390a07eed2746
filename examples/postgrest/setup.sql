-- PostgREST over keysmith: once, in the database that it serves, as a superuser. See
-- docs/frameworks.md. PostgREST reads its settings from the role that it logs in as.

CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE web_anon NOLOGIN;
GRANT web_anon TO authenticator;

CREATE SCHEMA IF NOT EXISTS api;
CREATE SCHEMA app;
GRANT USAGE ON SCHEMA api, app, keysmith TO web_anon;
GRANT EXECUTE ON FUNCTION keysmith.pre_request TO web_anon;

-- The key service: these functions do what endpoints do, and answer as endpoints do.

CREATE ROLE key_service NOLOGIN;
SELECT keysmith.grant_access('key_service', 'verifier');
SELECT keysmith.grant_access('key_service', 'issuer');

SELECT keysmith.define_endpoint('default', 'POST', '/keys', 'mint');
SELECT keysmith.define_endpoint('default', 'GET', '/keys', 'list_keys');
SELECT keysmith.define_endpoint('default', 'DELETE', '/keys/{id}', 'revoke');

-- Passes a request to the key service, and sets the response. It runs as key_service, so that the
-- role of clients needs no level. The key in the headers says for which tenant.
CREATE FUNCTION app.answer(method text, path text, body jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    answer record;
BEGIN
    SELECT * INTO answer
    FROM keysmith.serve(current_setting('request.headers')::jsonb, method, path, body);
    IF NOT answer.handled THEN
        RAISE SQLSTATE 'PT404' USING MESSAGE = 'The key service has no such endpoint.';
    END IF;
    PERFORM set_config('response.status', answer.status::text, true),
            set_config('response.headers', headers::text, true)
    FROM (SELECT coalesce(jsonb_agg(jsonb_build_object(name, value)), '[]') AS headers
          FROM jsonb_each(answer.headers) AS h (name, value)) h;
    RETURN answer.body;
END $$;
ALTER FUNCTION app.answer OWNER TO key_service;

-- POST /rpc/mint_key with the arguments as JSON; PostgREST passes a body whole to a parameter
-- without a name.
CREATE FUNCTION api.mint_key(jsonb) RETURNS jsonb
LANGUAGE sql AS $$ SELECT app.answer('POST', '/keys', $1) $$;

-- GET /rpc/list_keys?page=2
CREATE FUNCTION api.list_keys(page integer DEFAULT 1) RETURNS jsonb
LANGUAGE sql AS $$ SELECT app.answer('GET', '/keys?page=' || page) $$;

-- POST /rpc/revoke_key with {"id": "…"}. An id of another type could name another path.
CREATE FUNCTION api.revoke_key(id uuid) RETURNS jsonb
LANGUAGE sql AS $$ SELECT app.answer('DELETE', '/keys/' || id) $$;

-- Before each request. The functions above authenticate themselves: with pre_request, their
-- requests would count twice in rate limits. A function that is listed here must do that.
CREATE FUNCTION app.before_request() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('request.path', true) IN ('/rpc/mint_key', '/rpc/list_keys', '/rpc/revoke_key') THEN
        RETURN;
    END IF;
    PERFORM keysmith.pre_request();
END $$;

-- PostgREST's configuration. ALTER DATABASE would have no effect: it reads those of its role.
ALTER ROLE authenticator SET pgrst.db_schemas = 'api';
ALTER ROLE authenticator SET pgrst.db_anon_role = 'web_anon';
ALTER ROLE authenticator SET pgrst.db_pre_request = 'app.before_request';

-- keysmith's settings for PostgREST, which clients can't change.
ALTER ROLE authenticator SET keysmith.request_keyspace = 'default';
ALTER ROLE authenticator SET keysmith.request_error_headers = on;
-- Only where nothing but these proxies can reach PostgREST:
--   ALTER ROLE authenticator SET keysmith.trusted_proxies = '10.0.0.0/8';

NOTIFY pgrst, 'reload config';
NOTIFY pgrst, 'reload schema';
