-- The keys of ryvion, an API for inference: two headers that are worth the same, and
-- three scopes for three kinds of use.

BEGIN;

SELECT keysmith.create_keyspace('ryvion',
    -- The page shows no key. One prefix will do: keys for development and production
    -- are separate keys, told apart by their labels.
    prefixes => '{"secret": {"live": "ryvion_"}}',
    -- A key that was not scoped does everything.
    empty_scopes => 'all',
    schemes => '{bearer,x_api_key}',
    -- What is not listed below is the last route's; only "/" is left to refuse.
    unlisted_routes => 'refuse',
    -- An existing key makes and lists keys: one that may do everything, as below.
    managed_by => 'buyer & read-only & write-only');

SELECT keysmith.define_scope('ryvion', 'buyer',
    'Full access to inference, knowledge bases, agents and billing');
SELECT keysmith.define_scope('ryvion', 'read-only',
    'Read models, knowledge bases, memories and billing');
SELECT keysmith.define_scope('ryvion', 'write-only',
    'Run inference, and upload to knowledge bases');

-- A new account has a free tier, of which the page says no more. Credits that come back
-- are one: keysmith.create_tenant('acme', keyspace => 'ryvion', plan => 'free',
-- credits => '{"refill": 1000, "every": "month"}').

-- The page names /v1/models, /api/v1/auth and /mcp. The other paths are stand-ins.
--
-- Inference. That a buyer may list models is taken to be part of it. There are rate
-- limits, says the page, and has no numbers: these are examples, for each key on a route.
-- A customer or a key may have more of them, given with create_tenant or mint.
SELECT keysmith.define_route('ryvion', 'POST', '/v1/chat/completions', 'buyer | write-only',
    limits => '[{"name": "inference", "limit": 600, "window": "1 hour", "burst": 60}]');
SELECT keysmith.define_route('ryvion', 'POST', '/v1/embeddings', 'buyer | write-only',
    limits => '[{"name": "inference", "limit": 1200, "window": "1 hour", "burst": 120}]');
SELECT keysmith.define_route('ryvion', 'GET', '/v1/models', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/v1/models/{model}', 'buyer | read-only');

-- Knowledge bases: a writer uploads, and neither reads nor removes.
SELECT keysmith.define_route('ryvion', 'POST', '/api/v1/knowledge-bases/{id}/documents',
    'buyer | write-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/knowledge-bases', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/knowledge-bases/*', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/knowledge-bases', 'buyer');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/knowledge-bases/*', 'buyer');

SELECT keysmith.define_route('ryvion', '*', '/api/v1/agents', 'buyer');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/agents/*', 'buyer');

-- Memories are in no scope but read-only.
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/memories', 'read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/memories/*', 'read-only');

SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/billing', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/billing/*', 'buyer | read-only');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/billing', 'buyer');
SELECT keysmith.define_route('ryvion', '*', '/api/v1/billing/*', 'buyer');

-- Anyone may ask who they are. MCP takes any key at its door; what a tool needs is asked
-- when it is called, with verify and its scopes.
SELECT keysmith.define_route('ryvion', 'GET', '/api/v1/auth/me', '');
SELECT keysmith.define_route('ryvion', '*', '/mcp', '');

-- What no scope gives, such as managing keys, takes a key that may do everything: a
-- scoped key must not make itself one that is not.
SELECT keysmith.define_route('ryvion', '*', '/*', 'buyer & read-only & write-only');

COMMIT;
