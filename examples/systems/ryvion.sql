-- The keys of ryvion, an API for inference: two equivalent headers, and three scopes for three
-- kinds of use.

BEGIN;

SELECT keysmith.create_keyspace('ryvion',
    -- The page shows no key. One prefix is enough: keys for development and production are
    -- separate keys with different labels.
    prefixes => '{"secret": {"live": "ryvion_"}}',
    -- A key without scopes may do everything.
    empty_scopes => 'all',
    schemes => '{bearer,x_api_key}',
    -- The last route matches all requests that are not listed before it, except "/", which is
    -- refused.
    unlisted_routes => 'refuse',
    -- An existing key makes and lists keys, if it may do everything, as below.
    managed_by => 'buyer & read-only & write-only');

SELECT keysmith.define_scope('ryvion', 'buyer',
    'Full access to inference, knowledge bases, agents and billing');
SELECT keysmith.define_scope('ryvion', 'read-only',
    'Read models, knowledge bases, memories and billing');
SELECT keysmith.define_scope('ryvion', 'write-only',
    'Run inference, and upload to knowledge bases');

-- A new account has a free tier; the page says no more about it. Refilled credits are one:
-- keysmith.create_tenant('acme', keyspace => 'ryvion', plan => 'free', credits => '{"refill":
-- 1000, "every": "month"}').

-- The page names /v1/models, /api/v1/auth and /mcp. The other paths are stand-ins.
--
-- Inference, which we take to include listing models. The page mentions rate limits but no
-- numbers: these are examples, for each key on a route. create_tenant and mint can give a
-- customer or a key more limits.
SELECT keysmith.define_route('ryvion', 'POST', '/v1/chat/completions', 'buyer | write-only',
    limits => '[{"name": "inference", "limit": 600, "window": "1 hour", "burst": 60}]');
SELECT keysmith.define_route('ryvion', 'POST', '/v1/embeddings', 'buyer | write-only',
    limits => '[{"name": "inference", "limit": 1200, "window": "1 hour", "burst": 120}]');
SELECT keysmith.define_route('ryvion', 'GET', '/v1/models', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/v1/models/{model}', 'buyer | read-only');

-- Knowledge bases: a writer uploads, but neither reads nor removes.
SELECT keysmith.define_route('ryvion', 'POST', '/api/v1/knowledge-bases/{id}/documents',
    'buyer | write-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/knowledge-bases', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/knowledge-bases/*', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/knowledge-bases', 'buyer');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/knowledge-bases/*', 'buyer');

SELECT keysmith.define_route('ryvion', '*', '/api/v1/agents', 'buyer');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/agents/*', 'buyer');

-- Memories are only in the scope read-only.
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/memories', 'read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/memories/*', 'read-only');

SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/billing', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/billing/*', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/billing', 'buyer');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/billing/*', 'buyer');

-- Any key may request its own data. MCP accepts any key; when a tool is called, verify checks the
-- scopes that the tool needs.
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/auth/me', '');
SELECT keysmith.define_route('ryvion', '*', '/mcp', '');

-- Acts outside the scopes, such as managing keys, need a key that may do everything: a scoped key
-- must not make itself an unscoped one.
SELECT keysmith.define_route('ryvion', 'POST', '/api/v1/auth/api-keys',
    'buyer & read-only & write-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/auth/api-keys',
    'buyer & read-only & write-only');
SELECT keysmith.define_route('ryvion', '*', '/*', 'buyer & read-only & write-only');

-- The page shows these requests without their answers. Keys with scopes are made in the dashboard.
SELECT keysmith.define_endpoint('ryvion', 'POST', '/api/v1/auth/api-keys', 'mint',
    request => '{"label": "name"}',
    response => '{"id": "{key_id}", "name": "{label}", "key": "{api_key}", "scopes": "{scopes}",
                  "created_at": "{created_at}"}');
SELECT keysmith.define_endpoint('ryvion', 'GET', '/api/v1/auth/api-keys', 'list_keys',
    request => '{}',
    response => '{"keys": [{"id": "{key_id}", "name": "{label}", "prefix": "{key_prefix}",
                            "scopes": "{scopes}", "created_at": "{created_at}",
                            "last_used_at": "{last_used_at}"}]}');
SELECT keysmith.define_endpoint('ryvion', 'GET', '/api/v1/auth/me', 'whoami',
    response => '{"id": "{tenant_id}", "plan": "{plan}", "credits": "{credits}",
                  "key": {"id": "{key_id}", "name": "{label}", "scopes": "{scopes}"}}');

COMMIT;
