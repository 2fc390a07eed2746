-- The keys of clipia, an API for media: live and sandbox keys, three headers, and two
-- scopes that a key has unless it is given fewer.

BEGIN;

SELECT keysmith.create_keyspace('clipia',
    prefixes => '{"secret": {"live": "clipia_live_", "test": "clipia_test_"}}',
    empty_scopes => 'defaults',
    default_scopes => '{generate,read}',
    -- These two are all that a key may have.
    wildcards => false,
    schemes => '{bearer,key,x_api_key}',
    -- Whatever is not listed below does not exist.
    unlisted_routes => 'refuse',
    -- Live keys charge what a request spends to the account's balance, the credits of its
    -- tenant. Test keys charge nothing, whatever the server says that a request costs.
    charges => '{live}',
    -- Keys are made and revoked in the dashboard, by no request with a key.
    managed_by => 'nobody',
    -- A key that is missing is told like one that is wrong.
    codes => '{"missing_authorization": {"code": "invalid_api_key",
                                         "message": "The API key is not valid."},
               "invalid_authorization": {"code": "invalid_api_key",
                                         "message": "The API key is not valid."}}');

SELECT keysmith.define_scope('clipia', 'generate', 'Make something');
SELECT keysmith.define_scope('clipia', 'read', 'Reserved for keys that only read');

SELECT keysmith.define_route('clipia', 'POST', '/v1/models/{model}', 'generate');
SELECT keysmith.define_route('clipia', 'GET', '/v1/models', '');
SELECT keysmith.define_route('clipia', 'GET', '/v1/account', '');
-- Status and result, whose paths the page does not name: reading needs no scope. That
-- they are of the key's own account is for the server to see to: the verdict has the tenant.
SELECT keysmith.define_route('clipia', 'GET', '/v1/*', '');

COMMIT;
