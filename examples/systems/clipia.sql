-- The keys of clipia, an API for media: live and sandbox keys, three headers, and two
-- scopes that a key has unless it is given fewer.

BEGIN;

SELECT keysmith.create_keyspace('clipia',
    prefixes => '{"secret": {"live": "clipia_live_", "test": "clipia_test_"}}',
    empty_scopes => 'defaults',
    default_scopes => '{generate,read}',
    -- A key may have only these two scopes.
    wildcards => false,
    schemes => '{bearer,key,x_api_key}',
    -- Other scopes do not exist.
    unlisted_routes => 'refuse',
    -- Live keys charge the `spend` of a request to the account's balance, the credits of its
    -- tenant. Test keys charge nothing, whatever the server passes as `spend`.
    charges => '{live}',
    -- Keys are made and revoked in the dashboard, not by requests with a key.
    managed_by => 'nobody',
    -- A missing key gets the same answer as a wrong one.
    codes => '{"missing_authorization": {"code": "invalid_api_key",
                                         "message": "The API key is not valid."},
               "invalid_authorization": {"code": "invalid_api_key",
                                         "message": "The API key is not valid."}}');

SELECT keysmith.define_scope('clipia', 'generate', 'Make something');
SELECT keysmith.define_scope('clipia', 'read', 'Reserved for keys that only read');

SELECT keysmith.define_route('clipia', 'POST', '/v1/models/{model}', 'generate');
SELECT keysmith.define_route('clipia', 'GET', '/v1/models', '');
SELECT keysmith.define_route('clipia', 'GET', '/v1/account', '');
-- Status and result, whose paths the page does not name: reading needs no scope. The server must
-- check that they belong to the key's own account: the verdict has the tenant.
SELECT keysmith.define_route('clipia', 'GET', '/v1/*', '');

-- The account has its credits. The page does not say how it shows them. Models and generations are
-- answered by the server.
SELECT keysmith.define_endpoint('clipia', 'GET', '/v1/account', 'whoami',
    response => '{"id": "{tenant_id}", "balance": "{credits}"}');

COMMIT;
